package providers

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

var (
	placeholder = regexp.MustCompile(`\{([a-z][a-z0-9_]*)\}`)
	// varValue is what any placeholder's value is made of, whatever its own pattern allows: nothing in it can end a host or
	// path element and begin another.
	varValue = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)
)

// parseEndpoint accepts https URLs, and http ones on loopback, without userinfo and fragment (RFC 6749 sections 3.1 and
// 3.2; RFC 8252 section 8.3 for loopback). It is the gate for every address, stated or discovered: javascript:, data: and
// file: end here.
func parseEndpoint(raw string) (*url.URL, error) {
	for _, r := range raw {
		if r <= ' ' || r == 0x7f || r > 0x7e {
			return nil, errors.New("must not contain spaces, control characters or anything but ASCII")
		}
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("is not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Opaque != "":
		return nil, errors.New("must be an https:// URL (http:// on loopback only)")
	case u.Hostname() == "":
		return nil, errors.New("has no host")
	case u.User != nil:
		return nil, errors.New("must not contain a user or password")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return nil, errors.New("must not contain a fragment")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, errors.New("must be https:// (http:// is for loopback only)")
	}
	return u, nil
}

// parseIssuer accepts an issuer identifier: an endpoint without a query (RFC 8414 section 2).
func parseIssuer(raw string) (*url.URL, error) {
	u, err := parseEndpoint(raw)
	if err == nil && (u.RawQuery != "" || u.ForceQuery) {
		return nil, errors.New("must not contain a query")
	}
	return u, err
}

// isLoopback tells whether the host of a URL is this machine by its very name, without asking DNS.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == "" && addr.Unmap().IsLoopback()
}

// placeholders lists the names of the {placeholders} in s.
func placeholders(s string) []string {
	var names []string
	for _, m := range placeholder.FindAllStringSubmatch(s, -1) {
		names = append(names, m[1])
	}
	return names
}

// fill replaces {placeholders}. Names that vars lacks stay, and no URL with braces passes parseEndpoint's users.
func fill(s string, vars map[string]string) string {
	return placeholder.ReplaceAllStringFunc(s, func(m string) string {
		if v, ok := vars[m[1:len(m)-1]]; ok {
			return v
		}
		return m
	})
}

// accepts tells whether the declaration allows the value.
func (v Var) accepts(value string) bool {
	if !varValue.MatchString(value) || strings.Contains(value, "..") {
		return false
	}
	for _, a := range v.Allowed {
		if a == value {
			return true
		}
	}
	return v.Pattern != "" && matchesWhole(v.Pattern, value)
}

// learned is what a value of the declaration's source means; false if the result is not allowed.
func (v Var) learned(said string) (string, bool) {
	value := said
	if meant, ok := v.Values[said]; ok {
		value = meant
	}
	return value, v.accepts(value)
}

// matchesWhole tells whether the pattern matches all of s. A pattern that does not compile matches nothing; validate
// reports it.
func matchesWhole(pattern, s string) bool {
	re, err := regexp.Compile(`^(?:` + pattern + `)$`)
	return err == nil && re.MatchString(s)
}
