package providers

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// reach is where requests may go (transport.go holds to it when an address is dialled).
type reach int

const (
	reachPublic  reach = iota // public addresses, and loopback where the URL names it
	reachPrivate              // those and private networks: what the operator configured
	reachGuarded              // public addresses alone: what a tenant had a say in
)

// reach is where a request with this definition to that URL may go. Of a connector that a tenant made, the values of
// {placeholders} are the tenant's, and so is what a server at such a place says of itself in its metadata: none of that leads
// into the operator's networks (threats.md 53). Loopback is left to a host that the definition itself states.
func (d *Definition) reach(rawURL string) reach {
	switch {
	case d.tenant && d.states(rawURL):
		return reachPublic
	case d.tenant:
		return reachGuarded
	case d.AllowPrivate:
		return reachPrivate
	}
	return reachPublic
}

// states tells whether the definition names the URL's host and port itself, without a placeholder.
func (d *Definition) states(rawURL string) bool {
	host := authority(rawURL)
	if host == "" {
		return false
	}
	for _, s := range d.addresses() {
		if authority(s) == host {
			return true
		}
	}
	return false
}

// addresses are all that the definition names, placeholders and all; some are empty.
func (d *Definition) addresses() []string {
	all := []string{d.Issuer, d.AuthorizationEndpoint, d.TokenEndpoint, d.RevocationEndpoint, d.UserinfoEndpoint, d.TokenRequest.RefreshEndpoint, d.DeviceAuthorizationEndpoint}
	for _, l := range d.Lookups {
		all = append(all, l.Endpoint)
	}
	return all
}

// sends tells whether requests carry values that the operator wrote into a definition of their own: an API key of theirs may be
// among them. What is filled in for each request is not, nor is what says in which form something is wanted.
func (d *Definition) sends() bool {
	values := []map[string]string{
		d.TokenRequest.Headers, d.TokenRequest.ExchangeParams, d.TokenRequest.RefreshParams,
		d.Userinfo.Headers, d.Userinfo.Params, d.Revocation.Headers, d.Revocation.Params,
	}
	bodies := map[string]string{"userinfo": d.Userinfo.Body}
	for _, l := range d.Lookups {
		values, bodies[l.Endpoint] = append(values, l.Headers), l.Body
	}
	for _, of := range append(values, bodies) {
		for name, value := range of {
			plain := strings.EqualFold(name, "Accept") || strings.EqualFold(name, "Content-Type")
			if filled := strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") && !strings.ContainsAny(value, ` "`); value != "" && !plain && !filled {
				return true
			}
		}
	}
	return false
}

// authority is the scheme, host and port of a URL as they are written; "" where a placeholder is among them.
func authority(raw string) string {
	scheme, rest, ok := strings.Cut(raw, "://")
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest = rest[:end]
	}
	if !ok || strings.ContainsAny(scheme+rest, "{}@") {
		return ""
	}
	return strings.ToLower(scheme + "://" + rest)
}

// reachesPort tells whether requests may go to that port of a host that a tenant had a say in: other services than web servers can be made
// to understand what a request has in it, at addresses that are public as well.
func (c Config) reachesPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil:
		return false
	case c.AllPorts:
		return true
	case len(c.OutboundPorts) == 0:
		return n == 443
	}
	return slices.Contains(c.OutboundPorts, uint16(n))
}

// checkReach refuses, of a tenant's connector, placeholders that make an address which can be seen to be none of the public
// internet. What a name resolves to is looked at when it is dialled.
func (s *server) checkReach(cfg Config, add func(key, format string, args ...any)) {
	if !s.def.tenant {
		return
	}
	for _, raw := range s.def.addresses() {
		if raw != "" && authority(raw) == "" && s.def.custom && s.def.sends() {
			add("provider", "is the operator's own, sends values of the operator, and lets vars say where to: only connectors of the configuration may use it")
			return
		}
		filled := fill(raw, s.vars)
		if filled == "" || len(placeholders(filled)) > 0 || s.def.reach(filled) != reachGuarded {
			continue
		}
		u, err := url.Parse(filled)
		if err != nil {
			continue // reported already
		}
		addr, err := netip.ParseAddr(u.Hostname())
		literal := err == nil && !(addressRule{}).allows(addr)
		if u.Scheme != "https" || isLoopback(u.Hostname()) || literal || !strings.Contains(u.Hostname(), ".") && !strings.Contains(u.Hostname(), ":") {
			add("vars", "must lead to https addresses of the public internet")
			return
		}
		if !cfg.reachesPort(cmp.Or(u.Port(), "443")) {
			add("vars", "must lead to a port that the operator allows (outbound_ports)")
			return
		}
	}
}
