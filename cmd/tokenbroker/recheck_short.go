//go:build shortrecheck

package main

import "time"

// shortestRecheck is that of the program which the tests in e2e build: they wait for it in real time.
const shortestRecheck = time.Second
