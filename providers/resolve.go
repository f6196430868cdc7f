package providers

import (
	"context"
	"maps"

	"tokenbroker/broker"
)

// endpoints is where requests of one connector go, complete for the purpose it was resolved for.
type endpoints struct {
	issuer, authorization, token, refresh, revocation, userinfo, device string
	method                                                              string
	issRequired                                                         bool
}

// purpose is what endpoints are needed for.
type purpose int

const (
	forFlow    purpose = iota // authorization and exchange: the fingerprint covers both
	forRefresh                // token endpoint
	forToken                  // token endpoint, for a direct grant and for polls of a device code
	forDevice
	forRevoke
	forUserinfo
)

// needsToken tells that it is about getting a token, where nothing can be done without an endpoint and a way to authenticate.
func (p purpose) needsToken() bool {
	return p == forFlow || p == forRefresh || p == forToken || p == forDevice
}

func (e endpoints) suffices(p purpose) bool {
	switch p {
	case forFlow:
		return e.authorization != "" && e.token != "" && e.method != ""
	case forDevice:
		return e.device != "" && e.method != ""
	case forToken:
		return e.token != "" && e.method != ""
	case forRefresh:
		return e.refresh != "" && e.method != ""
	case forRevoke:
		return e.revocation != "" && e.method != ""
	default:
		return e.userinfo != "" && e.method != ""
	}
}

// resolve settles the endpoints: what the definition states, filled with placeholders, then what the metadata adds. A
// refresh does not look at metadata that it does not need, so that it works while only that is out of order.
func (r *Registry) resolve(ctx context.Context, s *server, p purpose, vars map[string]string) (endpoints, error) {
	e, err := s.stated(vars)
	if err != nil || !s.def.discovers() || p != forFlow && e.suffices(p) {
		return e, err
	}
	m, err := s.meta.get(ctx, r.client, s.def, e.issuer)
	if err != nil {
		if e.suffices(p) && broker.ClassOf(err) != broker.ClassClientRefused {
			// Nothing is missing but the word on iss (RFC 9207). The redirect URI of its own that every connector has stands
			// against mix-up too (RFC 9700 section 4.4.2).
			r.log.WarnContext(ctx, "provider metadata is not available; going on with what the configuration states", "connector", s.id, "err", err)
			return e, nil
		}
		return endpoints{}, err
	}
	if e.method == "" && (m.Issuer != "" || p.needsToken()) {
		if m.Issuer == "" {
			return endpoints{}, forged("the issuer publishes no metadata: set token_endpoint_auth_method")
		}
		if e.method, err = m.authMethod(!s.config.ClientSecret.IsZero()); err != nil {
			return endpoints{}, err
		}
	}
	def(&e.authorization, m.AuthorizationEndpoint)
	def(&e.token, m.TokenEndpoint)
	def(&e.refresh, e.token)
	if !s.def.Revocation.Unsupported {
		def(&e.revocation, m.RevocationEndpoint)
	}
	def(&e.userinfo, m.UserinfoEndpoint)
	def(&e.device, m.DeviceAuthorizationEndpoint)
	if s.def.AuthorizationResponseIss == "" {
		e.issRequired = m.IssParameter
	}
	if p.needsToken() && !e.suffices(p) {
		return endpoints{}, forged("neither configuration nor metadata has the endpoints that are needed: authorization_endpoint and token_endpoint, or device_authorization_endpoint")
	}
	return e, nil
}

// known are the values of the placeholders: from the configuration and, over it, from what the grant learned.
func (s *server) known(learned map[string]string) map[string]string {
	if len(learned) == 0 {
		return s.vars
	}
	vars := maps.Clone(s.vars)
	for name, value := range learned {
		// Only what the declaration lets a grant say, and only values that it allows: they came from a browser or an answer.
		if decl, ok := s.def.Vars[name]; ok && decl.From != "" && decl.From != "config" && decl.accepts(value) {
			vars[name] = value
		}
	}
	return vars
}

// stated is what the definition says, with the placeholders filled from the configuration and, over it, from what the
// grant learned.
func (s *server) stated(learned map[string]string) (endpoints, error) {
	vars := s.known(learned)
	d := s.def
	e := endpoints{method: d.TokenEndpointAuthMethod, issRequired: d.AuthorizationResponseIss == "required"}
	for _, f := range []struct {
		to  *string
		raw string
	}{
		{&e.issuer, d.Issuer}, {&e.authorization, d.AuthorizationEndpoint}, {&e.token, d.TokenEndpoint},
		{&e.refresh, d.TokenRequest.RefreshEndpoint}, {&e.userinfo, d.UserinfoEndpoint},
		{&e.device, d.DeviceAuthorizationEndpoint},
	} {
		url := fill(f.raw, vars)
		if url == "" {
			continue
		}
		if _, err := parseEndpoint(url); err != nil || len(placeholders(url)) > 0 {
			return endpoints{}, &broker.UpstreamError{Class: broker.ClassClientRefused, What: "an endpoint has a placeholder without a usable value"}
		}
		*f.to = url
	}
	// {token} in it is filled when it is used.
	e.revocation = fill(d.RevocationEndpoint, vars)
	def(&e.refresh, e.token)
	return e, nil
}
