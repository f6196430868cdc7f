//go:build !shortrecheck

package main

import "time"

// shortestRecheck is the least that dashboard.login.recheck may be: each time costs an operator's browser two redirects, and the provider a sign-in.
const shortestRecheck = time.Minute
