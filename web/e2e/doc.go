// Package e2e shows the pages to a real browser, Chromium: what it does with our headers, cookies and forms can't be
// known otherwise. The screenshots in shots/ show what it looked like: after a change to a
// page, make them again and look at them:
//
//	go test ./web/e2e -shots
//
// axe_test.go holds every page against axe-core (testdata/axe-core), in every language, light and dark.
//
// It has tests only, and they need the program, and fonts for Japanese to look at: apt-get install -y chromium fonts-ipafont-gothic
package e2e
