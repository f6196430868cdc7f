package sandbox

import (
	"bytes"
	"context"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

//go:embed login.html login.css
var assets embed.FS

var pages = template.Must(template.ParseFS(assets, "login.html"))

const (
	decisionAllow = "allow"
	decisionDeny  = "deny"
)

// authorize is the authorization endpoint (RFC 6749 section 3.1). The library checks the request and sends the browser to
// /login; a refusal goes back to the client.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	s.stats.add(func(c *Stats) { c.AuthorizeRequests++ })
	query := r.URL.Query()
	for _, values := range query {
		if len(values) > 1 {
			http.Error(w, "invalid_request: a parameter is repeated", http.StatusBadRequest)
			return
		}
	}
	// The library logs the state of a refused request: it never gets to see it, respond puts it back.
	state := query.Get("state")
	ctx := context.WithValue(r.Context(), stateKey{}, state)
	if decision := query.Get("auto"); decision != "" {
		knobs := &Auto{Decision: decision}
		if err := knobs.check(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if query.Has("auto_scopes") {
			knobs.Scopes = append([]string{}, splitScopes(query.Get("auto_scopes"))...)
		}
		ctx = context.WithValue(ctx, knobsKey{}, knobs)
	} else if login := s.signedInAs(r); login != "" && query.Get("prompt") != oidc.PromptLogin {
		ctx = context.WithValue(ctx, knobsKey{}, &Auto{User: login, Decision: decisionAllow})
	}
	query.Del("state")
	r = r.Clone(ctx)
	r.URL.RawQuery = query.Encode()
	answer := newBuffered()
	op.Authorize(answer, r, s.provider)
	s.respond(w, answer, state)
}

// loginPage asks who is there and what they allow, unless that was decided beforehand.
func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	request, ok := s.store.request(r.URL.Query().Get("request"))
	if !ok || request.decided {
		s.page(w, http.StatusNotFound, "gone", nil)
		return
	}
	if auto, ok := s.decidesItself(&request); ok {
		s.decided(w, r, request.id, auto.User, auto.Decision, auto.Scopes)
		return
	}
	asking, _ := s.client(request.clientID)
	type permission struct{ Name, Description string }
	view := struct {
		Request, Client, Hint string
		Users                 []User
		Permissions           []permission
		Offline, Identity     bool
	}{
		Request: request.id, Client: asking.Name, Hint: request.loginHint,
		Offline: slices.Contains(request.asked, oidc.ScopeOfflineAccess),
	}
	for _, u := range s.cfg.Users {
		if asking.admits(u.Login) {
			view.Users = append(view.Users, u)
		}
	}
	for _, name := range request.asked {
		switch {
		case !standing(name):
			view.Permissions = append(view.Permissions, permission{name, s.describe(name)})
		case name != oidc.ScopeOfflineAccess:
			view.Identity = true
		}
	}
	s.page(w, http.StatusOK, "login", view)
}

// login takes the form of the page.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	// The request's id is unguessable and the browser has it from its own redirect, so it is the form's proof as well.
	if err := r.ParseForm(); err != nil {
		s.page(w, http.StatusBadRequest, "gone", nil)
		return
	}
	scopes := r.PostForm["scope"]
	if scopes == nil {
		scopes = []string{} // everything unticked, which is not the same as nil
	}
	s.decided(w, r, r.PostForm.Get("request"), r.PostForm.Get("user"), r.PostForm.Get("decision"), scopes)
}

// decidesItself finds the decision of the request's parameters or of SetAuto.
func (s *Server) decidesItself(request *authRequest) (Auto, bool) {
	auto := request.auto
	s.mu.Lock()
	if auto == nil {
		auto = s.auto
	}
	s.mu.Unlock()
	if auto == nil {
		return Auto{}, false
	}
	out := *auto
	if _, known := s.user(request.loginHint); known {
		out.User = request.loginHint
	}
	if out.User == "" {
		out.User = s.cfg.Users[0].Login
	}
	return out, true
}

// decided ends an authorization request as the user wished and sends the browser back to the client. Scopes nil: all.
func (s *Server) decided(w http.ResponseWriter, r *http.Request, id, login, decision string, scopes []string) {
	request, ok := s.store.request(id)
	if !ok || request.decided {
		s.page(w, http.StatusNotFound, "gone", nil)
		return
	}
	u, known := s.user(login)
	if asking, ok := s.client(request.clientID); !ok || !asking.admits(login) {
		known = false
	}
	if (decision != decisionAllow || !known) && decision != decisionDeny { // one can say no without saying who one is
		s.page(w, http.StatusBadRequest, "gone", nil)
		return
	}
	var granted []string
	for _, name := range request.asked {
		if standing(name) || scopes == nil || slices.Contains(scopes, name) {
			granted = append(granted, name)
		}
	}
	asked := slices.ContainsFunc(request.asked, func(name string) bool { return !standing(name) })
	if asked && !slices.ContainsFunc(granted, func(name string) bool { return !standing(name) }) {
		decision = decisionDeny // who unticks everything has said no
	}
	final, first := s.store.decide(id, u.Sub, granted, decision == decisionAllow)
	if !first {
		s.page(w, http.StatusNotFound, "gone", nil)
		return
	}
	answer := newBuffered()
	if final.allowed {
		s.stats.add(func(c *Stats) { c.Allowed++ })
		s.staySignedIn(w, login)
		op.AuthResponse(final, s.provider, answer, r)
	} else {
		s.stats.add(func(c *Stats) { c.Denied++ })
		// Not by the library, which logs a warning: a user who says no is nothing to warn of (RFC 6749 section 4.1.2.1).
		answer.header.Set("Location", withQuery(final.redirectURI, url.Values{"error": {"access_denied"}, "error_description": {"the user said no"}}))
	}
	s.respond(w, answer, final.state)
}

// respond sends the library's answer. An authorization response gets state and iss (RFC 9207) and becomes 303, so that a POST to
// /login is never repeated at the client (RFC 9700 section 4.12).
func (s *Server) respond(w http.ResponseWriter, answer *buffered, state string) {
	answer.header.Set("Cache-Control", "no-store")
	answer.header.Set("Referrer-Policy", "no-referrer")
	answer.header.Set("X-Content-Type-Options", "nosniff")
	location := answer.header.Get("Location")
	if location == "" {
		answer.send(w)
		return
	}
	answer.status = http.StatusSeeOther
	answer.body.Reset()
	if !strings.HasPrefix(location, "/") {
		answer.header.Set("Location", s.withStateAndIss(location, state))
	}
	answer.send(w)
}

func (s *Server) withStateAndIss(location, state string) string {
	strikes := s.faults.strike(TargetAuthorize)
	iss := s.cfg.Issuer
	if f, ok := strikes.of(KindWrongIss); ok {
		iss = f.Value
	}
	add := url.Values{"iss": {iss}}
	if _, ok := strikes.of(KindNoIss); ok {
		add.Del("iss")
	}
	if state != "" {
		add.Set("state", state)
	}
	return withQuery(location, add)
}

func withQuery(address string, add url.Values) string {
	u, err := url.Parse(address)
	if err != nil {
		return address // not reached: it was compared with a registered one
	}
	query := u.Query()
	for name := range add {
		query.Set(name, add.Get(name))
	}
	u.RawQuery = query.Encode()
	return u.String()
}

// page writes one of the templates. There is no form-action in its policy: browsers apply it to the redirects after the
// form as well, and those lead to the client and on from there.
func (s *Server) page(w http.ResponseWriter, status int, name string, data any) {
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, data); err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

func (s *Server) loginStyle(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, assets, "login.css")
}

func (s *Server) describe(scope string) string {
	for _, known := range s.cfg.Scopes {
		if known.Name == scope {
			return known.Description
		}
	}
	return scope
}

// standing scopes are no permissions that one unticks.
func standing(scope string) bool {
	switch scope {
	case oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess:
		return true
	}
	return false
}

func splitScopes(s string) []string { return strings.Fields(s) }
