// Package e2e shows the pages to a real browser, Chromium: what it does with our headers, cookies and forms can't be
// known otherwise. The screenshots in shots/ show what it looked like: after a change to a
// page, make them again and look at them:
//
//	go test ./web/e2e -shots
//
// It has tests only, and they need the program: apt-get install -y chromium
package e2e
