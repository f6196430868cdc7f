package sandbox

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// token is the token endpoint (RFC 6749 section 3.2): the library's, within the faults of the moment.
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	if !s.postedForm(w, r) {
		return
	}
	grantType := r.PostForm.Get("grant_type")
	targets := []Target{TargetToken}
	switch oidc.GrantType(grantType) {
	case oidc.GrantTypeCode:
		targets = append(targets, TargetCode)
	case oidc.GrantTypeRefreshToken:
		targets = append(targets, TargetRefresh)
	}
	s.stats.token(grantType)
	defer s.stats.begun()()
	s.record(r)
	strikes := s.faults.strike(targets...)
	if strikes.run(s, w, Before) {
		s.stats.answered(grantType, false)
		return
	}
	asserted := grantType == string(oidc.GrantTypeBearer) && !r.PostForm.Has("client_id") && r.Header.Get("Authorization") == ""
	if !asserted && !s.authenticated(w, r) { // an assertion says who sends it (RFC 7521 section 4.1)
		s.stats.answered(grantType, false)
		return
	}
	ctx := r.Context()
	if _, ok := strikes.of(KindOmitRefresh); ok {
		ctx = context.WithValue(ctx, keepRefreshKey{}, true)
	}
	if f, ok := strikes.of(KindReduceScopes); ok {
		ctx = context.WithValue(ctx, reducedScopesKey{}, f.Scopes)
	}
	answer := newBuffered()
	op.Exchange(answer, r.WithContext(ctx), assertingProvider{s.provider, s})
	good := answer.status == http.StatusOK
	s.stats.answered(grantType, good)
	if good {
		s.finish(answer, strikes)
	}
	answer.header.Set("Cache-Control", "no-store") // RFC 6749 section 5.1
	answer.header.Set("Pragma", "no-cache")
	if strikes.run(s, w, After) {
		return
	}
	answer.send(w)
}

// finish mends what the library adds unasked and spoils what a fault wants spoiled.
func (s *Server) finish(answer *buffered, strikes strikes) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(answer.body.Bytes(), &fields); err != nil {
		return
	}
	var scope string
	_ = json.Unmarshal(fields["scope"], &scope)
	if !slices.Contains(splitScopes(scope), oidc.ScopeOpenID) {
		delete(fields, "id_token") // without openid it is no OpenID Connect request (Core section 3.1.2.1)
	}
	delete(fields, "state")
	if f, ok := strikes.of(KindExpiresIn); ok {
		fields["expires_in"] = json.RawMessage(f.Value)
		if f.Value == "" {
			delete(fields, "expires_in")
		}
	}
	if _, ok := strikes.of(KindOmitScope); ok {
		delete(fields, "scope")
	}
	if _, ok := strikes.of(KindExtraError); ok {
		fields["error"] = json.RawMessage(`"temporarily_unavailable"`)
	}
	f, disguised := strikes.of(KindDisguise)
	if disguised && f.Status >= 400 {
		fields["error"] = json.RawMessage(`"invalid_grant"`)
	}
	if f.Value == "dpop" {
		fields["token_type"] = json.RawMessage(`"DPoP"`)
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return
	}
	if disguised {
		body = disguise(answer, f, body)
	}
	answer.body.Reset()
	answer.body.Write(body)
}

// revoke is the revocation endpoint (RFC 7009).
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	if !s.postedForm(w, r) {
		return
	}
	s.stats.add(func(c *Stats) { c.RevokeRequests++ })
	s.record(r)
	strikes := s.faults.strike(TargetRevoke)
	if strikes.run(s, w, Before) || !s.authenticated(w, r) {
		return
	}
	answer := newBuffered()
	op.Revoke(answer, r, s.provider)
	if !strikes.run(s, w, After) {
		answer.send(w)
	}
}

// postedForm checks the form of a request: parameters in the body, none of them twice (RFC 6749 section 3.2).
func (s *Server) postedForm(w http.ResponseWriter, r *http.Request) bool {
	refuse := func(why string) bool {
		writeJSON(w, http.StatusBadRequest, map[string]string{"error": "invalid_request", "error_description": why})
		return false
	}
	if r.URL.RawQuery != "" {
		return refuse("parameters belong in the body")
	}
	if err := r.ParseForm(); err != nil {
		return refuse("the body is not a form")
	}
	for _, values := range r.PostForm {
		if len(values) > 1 {
			return refuse("a parameter is repeated")
		}
	}
	return true
}

// authenticated checks the client's credentials and that they came by the method that it registered: a client that
// guesses is found out here (RFC 6749 section 2.3).
func (s *Server) authenticated(w http.ResponseWriter, r *http.Request) bool {
	id, secret, basic := r.BasicAuth()
	method := oidc.AuthMethodBasic
	if basic {
		var err1, err2 error
		id, err1 = url.QueryUnescape(id)
		secret, err2 = url.QueryUnescape(secret)
		if err1 != nil || err2 != nil || r.PostForm.Has("client_secret") {
			return s.refuseClient(w)
		}
	} else {
		id, secret, method = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret"), oidc.AuthMethodPost
		if secret == "" {
			method = oidc.AuthMethodNone
		}
	}
	c, ok := s.client(id)
	if !ok || oidc.AuthMethod(c.AuthMethod) != method || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		return s.refuseClient(w)
	}
	return true
}

func (s *Server) refuseClient(w http.ResponseWriter) bool {
	s.stats.add(func(c *Stats) { c.ClientsRefused++ })
	w.Header().Set("WWW-Authenticate", `Basic realm="sandbox"`) // RFC 6749 section 5.2
	writeJSON(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client", "error_description": "client authentication failed"})
	return false
}
