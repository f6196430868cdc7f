package providers

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/url"

	"tokenbroker/broker"
)

// AuthorizationURL implements broker.Upstream.
func (r *Registry) AuthorizationURL(ctx context.Context, connector string, req broker.AuthorizationRequest) (_ broker.Authorization, err error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.Authorization{}, err
	}
	ctx, done := r.telemetry.start(ctx, s, "authorize")
	defer func() { done(err) }()
	e, err := r.resolve(ctx, s, forFlow, nil)
	if err != nil {
		return broker.Authorization{}, err
	}
	u, perr := url.Parse(e.authorization)
	if perr != nil {
		return broker.Authorization{}, forged("authorization_endpoint has an unusable address")
	}
	q := u.Query() // RFC 6749 section 3.1: a query of the endpoint's own is kept
	for name, value := range s.def.AuthorizationParams {
		q.Set(name, fill(value, s.vars))
	}
	if req.LoginHint != "" && s.def.LoginHintParameter != "none" {
		q.Set(s.def.LoginHintParameter, req.LoginHint)
	}
	// After the provider's own, so that nothing can replace them.
	q.Set("response_type", "code")
	q.Set("client_id", s.config.ClientID)
	q.Set("redirect_uri", req.RedirectURI)
	q.Set("state", req.State.Reveal())
	if scopes := req.Scopes.Union(s.view.Implied); s.def.ScopeParameter != "none" && !scopes.Empty() {
		if name := s.def.OptionalScopeParameter; name != "" {
			optional := s.optional(scopes)
			if scopes = scopes.Minus(optional); !optional.Empty() {
				q.Set(name, s.request(optional))
			}
		}
		q.Set(s.def.ScopeParameter, s.request(scopes))
	}
	if s.def.PKCE == "S256" {
		if req.Verifier.IsZero() {
			return broker.Authorization{}, &broker.UpstreamError{Class: broker.ClassRefused, What: "the flow has no PKCE verifier"}
		}
		sum := sha256.Sum256([]byte(req.Verifier.Reveal())) // RFC 7636 section 4.2
		q.Set("code_challenge", base64.RawURLEncoding.EncodeToString(sum[:]))
		q.Set("code_challenge_method", "S256")
	}
	u.RawQuery = q.Encode()
	return broker.Authorization{
		URL:            broker.NewSecret(u.String()),
		Fingerprint:    s.fingerprint(e),
		Issuer:         e.issuer,
		IssuerRequired: e.issRequired,
	}, nil
}

// fingerprint names what a flow depends on: where it asks, where its code goes, and as which client. A code that was
// asked for under one must not be sent under another (mix-up, RFC 9700 section 4.4).
func (s *server) fingerprint(e endpoints) string {
	h := sha256.New()
	for _, part := range []string{s.id, s.def.ID, e.issuer, e.authorization, e.token, e.method, s.config.ClientID} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
