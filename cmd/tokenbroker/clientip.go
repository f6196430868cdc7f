package main

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// clientIP returns a function that tells the address that a request came from. X-Forwarded-For counts only as far as
// trusted proxies wrote it: it is read from the right, and the first address that is no trusted proxy's is the answer.
// What stands further left is whatever the sender liked (threats.md, 52).
func clientIP(trusted []netip.Prefix) func(*http.Request) string {
	isTrusted := func(a netip.Addr) bool {
		for _, p := range trusted {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	return func(r *http.Request) string {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = r.RemoteAddr
		}
		at, err := netip.ParseAddr(host)
		if err != nil {
			return host
		}
		at = at.Unmap().WithZone("")
		hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
		for i := len(hops) - 1; i >= 0 && isTrusted(at); i-- {
			next, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
			if err != nil {
				break // a proxy that writes no address is the last one known
			}
			at = next.Unmap().WithZone("")
		}
		return at.String()
	}
}
