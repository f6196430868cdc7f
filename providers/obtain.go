package providers

import (
	"context"
	"crypto/rand"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"tokenbroker/broker"
)

// Values of grant_type (RFC 7523 section 2.1, RFC 8628 section 3.4).
const (
	typeJWTBearer  = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	typeDeviceCode = "urn:ietf:params:oauth:grant-type:device_code"
)

// Obtain implements broker.Upstream.
func (r *Registry) Obtain(ctx context.Context, connector string, req broker.ObtainRequest) (_ broker.Grant, err error) {
	s, err := r.server(connector)
	if err != nil {
		return broker.Grant{}, err
	}
	ctx, done := r.telemetry.start(ctx, s, "obtain")
	defer func() { done(err) }()
	if !s.view.Direct() {
		return broker.Grant{}, &broker.UpstreamError{Class: broker.ClassRefused, What: "the connector obtains its tokens by consents"}
	}
	e, err := r.resolve(ctx, s, forToken, nil)
	if err != nil {
		return broker.Grant{}, err
	}
	params := url.Values{}
	method := e.method
	if s.view.Grant == broker.GrantJWTBearer {
		j := s.def.JWTBearer
		assertion, err := s.assertion(e.token, req, r.now())
		if err != nil {
			return broker.Grant{}, err
		}
		params.Set("grant_type", typeJWTBearer)
		params.Set("assertion", assertion.Reveal())
		if j.Scope == "parameter" && !req.Scopes.Empty() {
			params.Set("scope", s.request(req.Scopes))
		}
		if j.ClientAuth == authNone {
			method = authAssertion
		}
	} else {
		c := s.def.ClientCredentials
		for name, value := range c.Params {
			params.Set(name, fill(value, s.vars))
		}
		params.Set("grant_type", c.GrantType)
		if c.Scope == "parameter" && !req.Scopes.Empty() {
			params.Set("scope", s.request(req.Scopes))
		}
	}
	a, err := r.askToken(ctx, s, e.token, method, params, broker.Secret{})
	if err != nil {
		return broker.Grant{}, err
	}
	grant, err := s.readGrant(a, s.def.TokenResponse, broker.Secret{})
	// There should be none (RFC 6749 section 4.4.3): who has the credentials needs no refresh token.
	grant.RefreshToken, grant.RefreshExpiry = broker.Secret{}, time.Time{}
	return grant, err
}

// assertion is a signed JWT that says who asks, and for whom (RFC 7523 section 3).
func (s *server) assertion(endpoint string, req broker.ObtainRequest, now time.Time) (broker.Secret, error) {
	j := s.def.JWTBearer
	claims := map[string]any{
		"iss": s.config.ClientID, "aud": endpoint, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(time.Duration(j.Lifetime) * time.Second).Unix(),
	}
	if j.Audience != "" {
		claims["aud"] = fill(j.Audience, s.vars)
	}
	switch {
	case req.Subject != "":
		claims["sub"] = req.Subject
	case s.config.Assertion.Subject != "":
		claims["sub"] = s.config.Assertion.Subject
	case j.Subject == "issuer":
		claims["sub"] = s.config.ClientID
	}
	if j.Scope == "claim" && !req.Scopes.Empty() {
		claims["scope"] = s.request(req.Scopes)
	}
	text, err := jwt.Signed(s.signer).Claims(claims).Serialize()
	if err != nil {
		return broker.Secret{}, &broker.UpstreamError{Class: broker.ClassClientRefused, What: "the assertion could not be signed with the connector's key"}
	}
	return broker.NewSecret(text), nil
}

// newSigner makes what signs assertions with the key.
func newSigner(key signingKey, id string) (jose.Signer, error) {
	options := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		options = options.WithHeader("kid", id)
	}
	return jose.NewSigner(jose.SigningKey{Algorithm: key.algorithm, Key: key.key}, options)
}

// authAssertion: the assertion alone says who the client is (RFC 7521 section 4.1).
const authAssertion = "assertion"
