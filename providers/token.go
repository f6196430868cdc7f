package providers

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tokenbroker/broker"
)

// Exchange implements broker.Upstream.
func (r *Registry) Exchange(ctx context.Context, connector string, req broker.ExchangeRequest) (_ broker.Grant, err error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.Grant{}, err
	}
	ctx, done := r.telemetry.start(ctx, s, "exchange")
	defer func() { done(err) }()
	// The fingerprint is of the flow as it began, before the callback told anything.
	e, err := r.resolve(ctx, s, forFlow, nil)
	if err != nil {
		return broker.Grant{}, err
	}
	if subtle.ConstantTimeCompare([]byte(s.fingerprint(e)), []byte(req.Fingerprint)) != 1 {
		return broker.Grant{}, &broker.UpstreamError{Class: broker.ClassRefused, What: "the provider's endpoints or client changed since the flow began"}
	}
	learned := s.fromCallback(req.CallbackParams)
	if len(learned) > 0 {
		if e, err = r.resolve(ctx, s, forFlow, learned); err != nil {
			return broker.Grant{}, err
		}
	}
	params := url.Values{}
	for name, value := range s.def.TokenRequest.ExchangeParams {
		params.Set(name, fill(value, s.vars))
	}
	params.Set("grant_type", "authorization_code")
	params.Set("code", req.Code.Reveal())
	params.Set("redirect_uri", req.RedirectURI)
	if s.def.PKCE == "S256" {
		params.Set("code_verifier", req.Verifier.Reveal())
	}
	a, err := r.askToken(ctx, s, e.token, e.method, params, broker.Secret{})
	if err != nil {
		return broker.Grant{}, err
	}
	grant, err := s.readGrant(a, s.def.TokenResponse, broker.Secret{})
	if err != nil {
		return broker.Grant{}, err
	}
	for name, value := range learned {
		grant.Vars = set(grant.Vars, name, value)
	}
	for _, x := range s.def.CallbackExtra {
		if value := req.CallbackParams[x.Path]; x.accepts(value) {
			grant.Extra = set(grant.Extra, x.Name, value)
		}
	}
	return grant, nil
}

// Refresh implements broker.Upstream.
func (r *Registry) Refresh(ctx context.Context, connector string, req broker.RefreshRequest) (_ broker.Grant, err error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.Grant{}, err
	}
	ctx, done := r.telemetry.start(ctx, s, "refresh")
	defer func() { done(err) }()
	if req.RefreshToken.IsZero() {
		return broker.Grant{}, &broker.UpstreamError{Class: broker.ClassRefused, What: "there is no refresh token"}
	}
	e, err := r.resolve(ctx, s, forRefresh, req.Vars)
	if err != nil {
		return broker.Grant{}, err
	}
	t, params := s.def.TokenRequest, url.Values{}
	for name, value := range t.RefreshParams {
		params.Set(name, fill(value, s.vars))
	}
	params.Set("grant_type", "refresh_token")
	var bearer broker.Secret
	if t.RefreshTokenIn == "bearer" {
		bearer = req.RefreshToken
	} else {
		params.Set("refresh_token", req.RefreshToken.Reveal())
	}
	switch offline := broker.NewScopeSet(s.def.OfflineScopes...); {
	case !req.Narrow.Empty() && s.def.Narrows:
		// Never a scope that was not granted (RFC 6749 section 6); offline access stays where it was.
		params.Set("scope", s.request(req.Narrow.Union(offline.Intersect(req.Scopes))))
	case t.RefreshScope && !req.Scopes.Empty():
		params.Set("scope", s.request(req.Scopes.Union(offline)))
	}
	if t.RefreshRedirectURI && req.RedirectURI != "" {
		params.Set("redirect_uri", req.RedirectURI)
	}
	a, err := r.askToken(ctx, s, e.refresh, e.method, params, bearer)
	if err != nil {
		return broker.Grant{}, err
	}
	grant, err := s.readGrant(a, s.def.RefreshResponse, req.RefreshToken)
	for name, value := range req.Vars {
		if _, renewed := grant.Vars[name]; err == nil && !renewed {
			grant.Vars = set(grant.Vars, name, value)
		}
	}
	return grant, err
}

// askTokenAs sends one request to the token endpoint, with s's client secret.
func (r *Registry) askTokenAs(ctx context.Context, s *server, endpoint, method string, params url.Values, bearer broker.Secret) (answer, error) {
	out := outgoing{what: "token endpoint", method: http.MethodPost, url: endpoint, header: http.Header{}}
	s.authenticate(method, out.header, params)
	for name, value := range s.def.TokenRequest.Headers {
		out.header.Set(name, value)
	}
	if !bearer.IsZero() {
		out.header.Set("Authorization", "Bearer "+bearer.Reveal())
	}
	out.setBody(s.def.TokenRequest.Format, params)
	return r.do(ctx, s, out)
}

// do sends with the definition's limits.
func (r *Registry) do(ctx context.Context, s *server, out outgoing) (answer, error) {
	out.timeout, out.reach = time.Duration(s.def.Timeout)*time.Second, s.def.reach(out.url)
	return r.client.send(ctx, out)
}

func (o *outgoing) setBody(format string, params url.Values) {
	if format == "json" {
		flat := make(map[string]string, len(params))
		for name := range params {
			flat[name] = params.Get(name)
		}
		o.body, _ = json.Marshal(flat) // strings always encode
		o.header.Set("Content-Type", "application/json")
		return
	}
	o.body = []byte(params.Encode())
	o.header.Set("Content-Type", "application/x-www-form-urlencoded")
}

// authenticate proves who the client is, in the one way that is configured (RFC 6749 section 2.3.1).
func (s *server) authenticate(method string, header http.Header, params url.Values) {
	id, secret := s.config.ClientID, s.config.ClientSecret.Reveal()
	switch method {
	case authBasic:
		// Both are form-encoded before they are joined, so that a colon or a percent sign in them survives.
		pair := url.QueryEscape(id) + ":" + url.QueryEscape(secret)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	case authPost:
		params.Set("client_id", id)
		params.Set("client_secret", secret)
	case authAssertion: // the assertion in params says it
	default: // none: a public client names itself (RFC 6749 section 3.2.1)
		params.Set("client_id", id)
	}
}

// fromCallback takes from the callback the placeholders that the definition lets it set, if their values are allowed.
func (s *server) fromCallback(params map[string]string) map[string]string {
	var learned map[string]string
	for name, decl := range s.def.Vars {
		if param, ok := strings.CutPrefix(decl.From, "callback."); ok {
			if value, ok := decl.learned(params[param]); ok {
				learned = set(learned, name, value)
			}
		}
	}
	return learned
}

func set(m map[string]string, name, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[name] = value
	return m
}
