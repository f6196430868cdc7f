package login_test

import (
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
	"tokenbroker/providers/sandbox"
)

// The address of a sign-out works at a real provider: with the ID token as hint and without, it ends the browser's session there and
// leads back with the state.
func TestLogoutAtARealProvider(t *testing.T) {
	const back = "http://127.0.0.1:1/dashboard/login/out"
	p := newProviderWith(t, sandbox.Config{SingleSignOn: true, Clients: []sandbox.Client{{ID: "dash", Secret: secret, RedirectURIs: []string{redirect}, PostLogoutRedirectURIs: []string{back}}}})
	cfg := login.OperatorConfig{ClientConfig: login.ClientConfig{Issuer: p.url, ClientID: "dash", ClientSecret: broker.NewSecret(secret)}}
	o := newOperators(t, cfg, time.Now)
	auth, err := o.AuthorizationURL(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Timeout: 20 * time.Second, Jar: jar, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if req.URL.Port() == "1" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	get := func(location broker.Secret) url.Values {
		t.Helper()
		res, err := browser.Get(location.Reveal())
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		to, err := res.Location()
		if err != nil {
			t.Fatalf("%d: %v", res.StatusCode, err)
		}
		return to.Query()
	}
	who, err := o.Redeem(t.Context(), response(auth, get(auth.URL).Get("code")))
	if err != nil {
		t.Fatal(err)
	}
	silent := request()
	silent.Silent = true
	again, err := o.AuthorizationURL(t.Context(), silent)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.SetAuto(nil); err != nil {
		t.Fatal(err)
	}
	for i, hint := range []broker.Secret{who.IDToken, {}} {
		if got := get(again.URL); (got.Get("code") != "") != (i == 0) || (got.Get("error") == "login_required") != (i == 1) {
			t.Errorf("silently, time %d: %v", i, got)
		}
		out, err := o.LogoutURL(t.Context(), broker.OperatorLogout{RedirectURI: back, State: broker.NewSecret("the-state"), IDToken: hint})
		if err != nil || out.IsZero() {
			t.Fatalf("%v", err)
		}
		if got := get(out); got.Get("state") != "the-state" {
			t.Errorf("time %d: back with %v", i, got)
		}
	}
	if n := p.Stats().SignOuts; n != 2 {
		t.Errorf("%d sign-outs", n)
	}
	cfg.SignOutHere = true
	if out, err := newOperators(t, cfg, time.Now).LogoutURL(t.Context(), broker.OperatorLogout{RedirectURI: back}); err != nil || !out.IsZero() {
		t.Errorf("here alone: %v", err)
	}
}

// A provider without the endpoint, or with one where nobody may be told who signs out, has none.
func TestLogoutEndpoint(t *testing.T) {
	for name, test := range map[string]struct {
		endpoint any
		want     bool
	}{
		"none": {nil, false}, "its own": {"/end", true}, "another host": {"https://elsewhere.example/end", false}, "one that is listed": {"https://listed.example/end?x=1", true},
		"no address": {"end", false}, "a script": {"javascript:alert(1)", false},
	} {
		f := newForger(t)
		if path, ok := test.endpoint.(string); ok && path[0] == '/' {
			test.endpoint = f.URL + path
		}
		if test.endpoint != nil {
			f.meta["end_session_endpoint"] = test.endpoint
		}
		o := newOperators(t, login.OperatorConfig{ClientConfig: login.ClientConfig{Issuer: f.URL, ClientID: "abc", ClientSecret: broker.NewSecret("s"), EndpointHosts: []string{"listed.example"}}}, func() time.Time { return f.clock })
		out, err := o.LogoutURL(t.Context(), broker.OperatorLogout{RedirectURI: "https://us.example/out", State: broker.NewSecret("st"), IDToken: broker.NewSecret("a.b.c")})
		if err != nil || out.IsZero() == test.want {
			t.Errorf("%s: %v, %v", name, !out.IsZero(), err)
			continue
		}
		if u, err := url.Parse(out.Reveal()); test.want && (err != nil || u.Query().Get("client_id") != "abc" || u.Query().Get("id_token_hint") != "a.b.c" || u.Query().Get("state") != "st" || name == "one that is listed" && u.Query().Get("x") != "1") {
			t.Errorf("%s: %s", name, out.Reveal())
		}
	}
}
