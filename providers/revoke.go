package providers

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"tokenbroker/broker"
)

// Revoke implements broker.Upstream: RFC 7009, or what the definition says. One request, and a second one with the
// access token only where the provider says that it does not revoke refresh tokens.
func (r *Registry) Revoke(ctx context.Context, connector string, req broker.RevokeRequest) (err error) {
	s, err := r.server(connector)
	if err != nil {
		return err
	}
	if s.view.Direct() && s.def.Revocation.Ends != "grant" {
		return broker.ErrRevokeUnsupported // it would take the app out of the account, and not this token alone
	}
	if s.def.Revocation.Unsupported || s.def.RevocationEndpoint == "" && !s.def.discovers() {
		return broker.ErrRevokeUnsupported
	}
	ctx, done := r.telemetry.start(ctx, s, "revoke")
	defer func() { done(err) }()
	e, err := r.resolve(ctx, s, forRevoke, req.Vars)
	if err != nil {
		return err
	}
	if e.revocation == "" {
		return broker.ErrRevokeUnsupported
	}
	token, hint := req.RefreshToken, "refresh_token"
	if token.IsZero() || s.def.Revocation.Token == "access" {
		token, hint = req.AccessToken, "access_token"
	}
	if token.IsZero() {
		return &broker.UpstreamError{Class: broker.ClassRefused, What: "there is no token that could be presented for revocation"}
	}
	err = r.revoke(ctx, s, e, token, hint)
	if p := r.predecessor(s); p != nil && refusesSecret(err) {
		s = p
		err = r.revoke(ctx, s, e, token, hint)
	}
	var u *broker.UpstreamError
	if errors.As(err, &u) && u.Code == "unsupported_token_type" && hint == "refresh_token" && !req.AccessToken.IsZero() {
		return r.revoke(ctx, s, e, req.AccessToken, "access_token")
	}
	return err
}

func (r *Registry) revoke(ctx context.Context, s *server, e endpoints, token broker.Secret, hint string) error {
	v := s.def.Revocation
	endpoint := strings.NewReplacer("{token}", url.PathEscape(token.Reveal()), "{token_type_hint}", hint, "{client_id}", url.PathEscape(s.config.ClientID)).Replace(e.revocation)
	values := []string{"{token}", token.Reveal(), "{token_type_hint}", hint, "{client_id}", s.config.ClientID}
	inHeader := strings.NewReplacer(values...)
	inBody := strings.NewReplacer(append(values, "{client_secret}", s.config.ClientSecret.Reveal())...)
	if _, err := parseEndpoint(endpoint); err != nil || len(placeholders(endpoint)) > 0 {
		return &broker.UpstreamError{Class: broker.ClassClientRefused, What: "revocation endpoint has an unusable address"}
	}
	params := url.Values{}
	for name, value := range v.Params {
		params.Set(name, inBody.Replace(value))
	}
	out := outgoing{what: "revocation endpoint", method: v.Method, url: endpoint, header: http.Header{}}
	for name, value := range v.Headers {
		out.header.Set(name, inHeader.Replace(value))
	}
	switch v.Auth {
	case "client": // RFC 7009 section 2.1
		s.authenticate(e.method, out.header, params)
	case "post":
		s.authenticate(authPost, out.header, params)
	case "basic":
		s.authenticate(authBasic, out.header, params)
	case "bearer":
		out.header.Set("Authorization", "Bearer "+token.Reveal())
	}
	if len(params) > 0 {
		out.setBody(v.Format, params)
	}
	a, err := r.do(ctx, s, out)
	if err != nil {
		return err
	}
	t := readTree(a)
	code, _, _ := s.code(t)
	switch {
	case code != "" && slices.Contains(v.Done, code):
		return nil
	case slices.Contains(v.DoneStatus, a.status):
		return nil
	case a.status >= 200 && a.status < 300 && !t.saysNotOK(s.def.Errors):
		return nil // RFC 7009 section 2.2: an unknown token is 200 too
	}
	f := s.failure(out.what, a, t)
	if f.Class == broker.ClassGrantDead {
		return nil // what is to be ended is over
	}
	return f
}
