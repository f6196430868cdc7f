package providers

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"tokenbroker/broker"
)

// Identify implements broker.Upstream. It asks nothing where the grant names its account already, and where the provider
// has no place to ask the grant comes back as it is.
func (r *Registry) Identify(ctx context.Context, connector string, grant broker.Grant) (_ broker.Grant, err error) {
	s, err := r.server(connector)
	if err != nil {
		return grant, err
	}
	u := s.def.Userinfo
	named := grant.Account.ID != "" && (grant.Account.Name != "" || grant.Account.Email != "")
	// What a named account's look-up is for still.
	more := len(u.Extra) > 0 || u.Scope != "none" && !grant.ScopesReported
	if grant.AccessToken.IsZero() || named && !more && len(s.def.Lookups) == 0 {
		return grant, nil
	}
	ctx, done := r.telemetry.start(ctx, s, "identify")
	defer func() { done(err) }()
	e, err := r.resolve(ctx, s, forUserinfo, grant.Vars)
	if err != nil {
		return grant, err
	}
	if e.userinfo != "" && (!named || more) {
		if grant, err = r.userinfo(ctx, s, e, grant); err != nil {
			return grant, err
		}
	}
	for _, l := range s.def.Lookups {
		if grant, err = r.lookUp(ctx, s, l, grant); err != nil {
			return grant, err
		}
	}
	return grant, nil
}

// userinfo asks whose account it is.
func (r *Registry) userinfo(ctx context.Context, s *server, e endpoints, grant broker.Grant) (broker.Grant, error) {
	u := s.def.Userinfo
	token := grant.AccessToken.Reveal()
	params := url.Values{}
	for name, value := range u.Params {
		params.Set(name, strings.ReplaceAll(fill(value, s.vars), "{access_token}", token))
	}
	out := outgoing{what: "userinfo endpoint", method: u.Method, url: e.userinfo, header: http.Header{}}
	for name, value := range u.Headers {
		out.header.Set(name, strings.ReplaceAll(value, "{access_token}", token))
	}
	switch u.Auth {
	case "bearer": // RFC 6750 section 2.1
		out.header.Set("Authorization", "Bearer "+token)
	case "client":
		s.authenticate(e.method, out.header, params)
	}
	switch {
	case u.Body != "":
		out.body = []byte(u.Body)
		out.header.Set("Content-Type", "application/json")
	case len(params) > 0:
		out.setBody("form", params)
	}
	t, err := r.read(ctx, s, out)
	if err != nil {
		return grant, err
	}
	grant.Account = complete(grant.Account, t.account(u.Account))
	grant.Extra = t.extras(grant.Extra, u.Extra)
	if !grant.ScopesReported {
		grant.Scopes, grant.ScopesReported = s.reported(t.at(u.Scope), "")
	}
	return grant, nil
}

// lookUp asks for more of what callers need.
func (r *Registry) lookUp(ctx context.Context, s *server, l Lookup, grant broker.Grant) (broker.Grant, error) {
	endpoint := fill(l.Endpoint, s.known(grant.Vars))
	if _, err := parseEndpoint(endpoint); err != nil || len(placeholders(endpoint)) > 0 {
		return grant, &broker.UpstreamError{Class: broker.ClassClientRefused, What: "a look-up has a placeholder without a usable value"}
	}
	out := outgoing{what: "look-up", method: l.Method, url: endpoint, header: http.Header{}}
	for name, value := range l.Headers {
		out.header.Set(name, strings.ReplaceAll(value, "{access_token}", grant.AccessToken.Reveal()))
	}
	if s.def.API.Header == "Authorization" {
		scheme := s.def.API.Scheme + " "
		if scheme == "none " {
			scheme = ""
		}
		out.header.Set("Authorization", scheme+grant.AccessToken.Reveal())
	}
	if l.Body != "" {
		out.body = []byte(l.Body)
		out.header.Set("Content-Type", "application/json")
	}
	t, err := r.read(ctx, s, out)
	if err != nil {
		return grant, err
	}
	grant.Extra = t.extras(grant.Extra, l.Extra)
	return grant, nil
}

// read sends a look-up and returns its answer. What such an endpoint refuses is this look-up: neither the grant nor the client
// is judged here.
func (r *Registry) read(ctx context.Context, s *server, out outgoing) (tree, error) {
	a, err := r.do(ctx, s, out)
	if err != nil {
		return tree{}, err
	}
	t := listTree(a.body)
	if a.status >= 200 && a.status < 300 && !t.cut && !t.saysNotOK(s.def.Errors) {
		return t, nil
	}
	f := s.failure(out.what, a, t)
	if f.Class == broker.ClassGrantDead || f.Class == broker.ClassClientRefused {
		f.Class = broker.ClassRefused
	}
	return tree{}, f
}
