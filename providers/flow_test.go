package providers

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// Nothing that a definition or a caller says can replace what belongs to the flow.
func TestAuthorizationURL(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain("  authorization_params: {prompt: consent, audience: api}", "  offline_scopes: [offline_access]", "  scope_separator: ','"),
		connector: ConnectorConfig{ClientID: "a b&c"}})
	a, err := r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{RedirectURI: "http://127.0.0.1:8080/oauth2/callback/files?x=1",
		State: broker.NewSecret("state&scope=admin"), Verifier: broker.NewSecret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
		Scopes: broker.NewScopeSet("files.read"), LoginHint: "ana@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(a.URL.Reveal())
	want := url.Values{"response_type": {"code"}, "client_id": {"a b&c"}, "redirect_uri": {"http://127.0.0.1:8080/oauth2/callback/files?x=1"},
		"state": {"state&scope=admin"}, "scope": {"files.read,offline_access"}, "prompt": {"consent"}, "audience": {"api"}, "login_hint": {"ana@example.com"},
		"code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"}} // RFC 7636 appendix B
	if u.Query().Encode() != want.Encode() {
		t.Errorf("got  %s\nwant %s", u.Query().Encode(), want.Encode())
	}
	if a.Issuer != "" || a.IssuerRequired || a.Fingerprint == "" {
		t.Errorf("authorization is %+v", a)
	}
	if _, err := r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{}); err == nil {
		t.Error("a flow without a PKCE verifier began")
	}
}

func TestAuthorizationEndpointKeepsItsQuery(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: strings.Replace(f.plain(), "/auth", "/auth?tenant=acme&state=fixed", 1)})
	a, err := f.authorize(t, r)
	u, _ := url.Parse(a.URL.Reveal())
	if err != nil || u.Query().Get("tenant") != "acme" || strings.Join(u.Query()["state"], ",") != "s" {
		t.Errorf("%s, %v", a.URL.Reveal(), err)
	}
}

// RFC 9700 section 4.4: a code goes only where its flow began. An absent fingerprint is a wrong one.
func TestExchangeRefusesAnotherFingerprint(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a"}`)
	r := connect(t, setup{yaml: f.plain()})
	a, err := f.authorize(t, r)
	if err != nil {
		t.Fatal(err)
	}
	other := connect(t, setup{yaml: strings.Replace(f.plain(), "/token", "/token2", 1)})
	for _, fingerprint := range []string{"", "x", a.Fingerprint + "x"} {
		_, err := r.Exchange(t.Context(), "files", broker.ExchangeRequest{Code: broker.NewSecret(canaryCode), Fingerprint: fingerprint})
		class(t, err, broker.ClassRefused)
	}
	_, err = other.Exchange(t.Context(), "files", broker.ExchangeRequest{Code: broker.NewSecret(canaryCode), Fingerprint: a.Fingerprint})
	class(t, err, broker.ClassRefused)
	if f.count("/token")+f.count("/token2") != 0 {
		t.Error("the code was sent")
	}
}

// RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined.
func TestClientAuthentication(t *testing.T) {
	for _, method := range []string{authBasic, authPost, authNone} {
		f := newFake(t)
		f.answers("/token", 200, `{"access_token":"a"}`)
		c := ConnectorConfig{ClientID: "a:b c", ClientSecret: broker.NewSecret("s%:+ü")}
		if method == authNone {
			c.ClientSecret = broker.Secret{}
		}
		r := connect(t, setup{yaml: strings.Replace(f.plain(), authBasic, method, 1), connector: c, public: method == authNone})
		if _, err := refreshOnce(t, r); err != nil {
			t.Fatal(err)
		}
		req := f.request("/token")
		user, pass, basic := req.BasicAuth()
		id, secret := req.PostForm.Get("client_id"), req.PostForm.Get("client_secret")
		ok := map[string]bool{
			authBasic: basic && user == "a%3Ab+c" && pass == "s%25%3A%2B%C3%BC" && id == "" && secret == "",
			authPost:  !basic && id == "a:b c" && secret == "s%:+ü",
			authNone:  !basic && id == "a:b c" && secret == "",
		}[method]
		if !ok {
			t.Errorf("%s: user %q, password %q, form %v", method, user, pass, req.PostForm)
		}
	}
}

// threats.md 42: fewer scopes are asked only where the provider can do that, and offline access stays.
func TestNarrowing(t *testing.T) {
	for more, want := range map[string]string{
		"  narrows: true":                        "files.read offline_access",
		"":                                       "",
		"  token_request: {refresh_scope: true}": "files.read files.write offline_access",
	} {
		f := newFake(t)
		f.answers("/token", 200, `{"access_token":"a","scope":"files.read"}`)
		r := connect(t, setup{yaml: f.plain("  offline_scopes: [offline_access]", more)})
		_, err := r.Refresh(t.Context(), "files", broker.RefreshRequest{RefreshToken: broker.NewSecret("r"),
			Scopes: broker.ParseScopes("files.read files.write offline_access"), Narrow: broker.NewScopeSet("files.read")})
		if got := f.request("/token").PostForm.Get("scope"); err != nil || got != want {
			t.Errorf("%q: scope %q, error %v", more, got, err)
		}
	}
}

// The rarer ways to ask: JSON, another endpoint, the token in the header, the redirect URI.
func TestOddRequests(t *testing.T) {
	f := newFake(t)
	f.answers("/refresh", 200, `{"access_token":"a","refresh_token":"new"}`)
	r := connect(t, setup{yaml: strings.Replace(f.plain(`  token_request:
    format: json
    refresh_endpoint: URL/refresh
    refresh_token_in: bearer
    refresh_redirect_uri: true
    refresh_params: {kind: web}
    headers: {X-Version: "2026-01-01"}`), authBasic, authPost, 1)})
	g, err := r.Refresh(t.Context(), "files", broker.RefreshRequest{RefreshToken: broker.NewSecret("old"), RedirectURI: "https://b/cb"})
	if err != nil || g.RefreshToken.Reveal() != "new" {
		t.Fatal(err)
	}
	req := f.request("/refresh")
	body := make([]byte, 500)
	n, _ := req.Body.Read(body)
	const want = `{"client_id":"abc","client_secret":"canary-client-secret","grant_type":"refresh_token","kind":"web","redirect_uri":"https://b/cb"}`
	if string(body[:n]) != want || req.Header.Get("Authorization") != "Bearer old" || req.Header.Get("X-Version") != "2026-01-01" ||
		req.Header.Get("Content-Type") != "application/json" {
		t.Errorf("body %s, headers %v", body[:n], req.Header)
	}
}

// What a callback or an answer teaches is used for that grant alone, and only if the declaration allows the value.
func TestLearnedVars(t *testing.T) {
	f := newFake(t)
	f.answers("/eu/token", 200, `{"access_token":"a","refresh_token":"r","region":"kept"}`)
	f.answers("/us/token", 200, `{"access_token":"a","refresh_token":"r"}`)
	yaml := strings.Replace(f.plain(`  vars:
    dc: {allowed: [us, eu], default: us, from: callback.location}
    region: {pattern: "[a-z]+", from: token_response.region}
  callback_extra: [{name: realm_id, path: realmId, pattern: "[0-9]+"}]`), f.URL+"/token", f.URL+"/{dc}/token", 1)
	r := connect(t, setup{yaml: yaml})
	a, err := f.authorize(t, r)
	if err != nil {
		t.Fatal(err)
	}
	exchange := func(params map[string]string) broker.Grant {
		g, err := r.Exchange(t.Context(), "files", broker.ExchangeRequest{Code: broker.NewSecret("c"), Verifier: broker.NewSecret("v"),
			Fingerprint: a.Fingerprint, CallbackParams: params})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	g := exchange(map[string]string{"location": "eu", "realmId": "123", "other": "x"})
	if g.Vars["dc"] != "eu" || g.Vars["region"] != "kept" || g.Extra["realm_id"] != "123" || len(g.Extra) != 1 {
		t.Errorf("vars %v, extra %v", g.Vars, g.Extra)
	}
	g2, err := r.Refresh(t.Context(), "files", broker.RefreshRequest{RefreshToken: broker.NewSecret("r"), Vars: g.Vars})
	if err != nil || g2.Vars["dc"] != "eu" || f.count("/eu/token") != 2 {
		t.Errorf("refresh went elsewhere: %v, %v", g2.Vars, err)
	}
	// Stored values are checked again: the definition may have become stricter.
	if _, err := r.Refresh(t.Context(), "files", broker.RefreshRequest{RefreshToken: broker.NewSecret("r"),
		Vars: map[string]string{"dc": "eu/../evil", "nobody": "x"}}); err != nil || f.count("/us/token") != 1 {
		t.Errorf("a value that is not allowed was used: %v", err)
	}
	g = exchange(map[string]string{"location": "evil", "realmId": "1;2"})
	if len(g.Vars) != 0 || len(g.Extra) != 0 || f.count("/us/token") != 2 {
		t.Errorf("vars %v, extra %v", g.Vars, g.Extra)
	}
}

func TestRevoke(t *testing.T) {
	f := newFake(t)
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.PostFormValue("token_type_hint") == "refresh_token" {
			w.WriteHeader(400)
			_, _ = w.Write([]byte(`{"error":"unsupported_token_type"}`))
		}
	})
	f.mux.Handle("/revoke", answer)
	r := connect(t, setup{yaml: f.plain()})
	both := broker.RevokeRequest{RefreshToken: broker.NewSecret("r"), AccessToken: broker.NewSecret("a")}
	if err := r.Revoke(t.Context(), "files", both); err != nil || f.count("/revoke") != 2 || f.request("/revoke").PostForm.Get("token") != "a" {
		t.Errorf("error %v after %d requests", err, f.count("/revoke"))
	}
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: broker.NewSecret("r")}); err == nil {
		t.Error("a refused revocation is success")
	}
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{}); err == nil {
		t.Error("a revocation of nothing is success")
	}
	// A provider that deletes what is named in the path.
	g := newFake(t)
	g.mux.HandleFunc("DELETE /tokens/{token}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	r = connect(t, setup{yaml: strings.Replace(g.plain("  revocation: {method: DELETE, params: {}}"), "/revoke", "/tokens/{token}", 1)})
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: broker.NewSecret("a/b?c")}); err != nil || g.count("/tokens/a/b?c") != 1 {
		t.Errorf("revoke: %v", err)
	}
	none := connect(t, setup{yaml: strings.Replace(f.plain(), "  revocation_endpoint: "+f.URL+"/revoke\n", "", 1)})
	if err := none.Revoke(t.Context(), "files", both); !errors.Is(err, broker.ErrRevokeUnsupported) {
		t.Errorf("error is %v", err)
	}
}

// Names are shown to people: what does not print, or turns the direction of text, is dropped. An id is taken whole.
func TestIdentify(t *testing.T) {
	f := newFake(t)
	f.answers("/me", 200, `{"sub":"u-1","name":"Ana\u202e\u0000 <b>\n","email":"ana@example.com"}`)
	r := connect(t, setup{yaml: f.plain()})
	g, err := r.Identify(t.Context(), "files", broker.Grant{AccessToken: broker.NewSecret("at"), RefreshToken: broker.NewSecret("rt")})
	if err != nil || g.Account != (broker.Account{ID: "u-1", Name: "Ana <b>", Email: "ana@example.com"}) || g.RefreshToken.Reveal() != "rt" {
		t.Errorf("account %+v, error %v", g.Account, err)
	}
	if got := f.request("/me").Header.Get("Authorization"); got != "Bearer at" {
		t.Errorf("Authorization is %q", got)
	}
	for _, status := range []int{401, 403, 404} {
		f := newFake(t)
		f.answers("/me", status, `{"error":"invalid_grant"}`)
		_, err := connect(t, setup{yaml: f.plain()}).Identify(t.Context(), "files", broker.Grant{AccessToken: broker.NewSecret("at")})
		class(t, err, broker.ClassRefused)
	}
}

// threats.md 53: addresses are judged after DNS.
func TestAddressRules(t *testing.T) {
	for _, tt := range []struct {
		addr                       string
		public, operator, loopback bool
	}{
		{"142.250.1.1", true, true, false},
		{"2a00:1450::1", true, true, false},
		{"10.0.0.1", false, true, false},
		{"192.168.1.1", false, true, false},
		{"100.64.0.1", false, true, false},
		{"fd12::1", false, true, false},
		{"127.0.0.1", false, false, true},
		{"127.1.2.3", false, false, true},
		{"::1", false, false, true},
		{"::ffff:127.0.0.1", false, false, true},
		{"::ffff:10.0.0.1", false, true, false},
		{"64:ff9b::7f00:1", false, false, false},
		{"64:ff9b::a00:1", false, true, false},
		{"2002:a00:1::", false, true, false},
		{"64:ff9b:1::a9fe:a9fe", false, false, false}, // translated in the operator's own network (RFC 8215)
		{"64:ff9b:1:0:a:0:7f00:1", false, false, false},
		{"::10.0.0.1", false, false, false},
		{"::142.250.1.1", false, false, false},
		{"::ffff:0:10.0.0.1", false, false, false},
		{"2001:0:1:2::a00:1", false, false, false}, // Teredo
		{"2001:4860:4860::8888", true, true, false},
		{"2620:fe::fe", true, true, false},
		{"3fff::1", false, false, false},
		{"5f00::1", false, false, false},
		{"4000::1", false, false, false},
		{"192.88.99.1", false, false, false},
		{"169.254.169.254", false, false, false},
		{"::ffff:169.254.169.254", false, false, false},
		{"64:ff9b::a9fe:a9fe", false, false, false},
		{"fd00:ec2::254", false, false, false},
		{"100.100.100.200", false, false, false},
		{"fe80::1", false, false, false},
		{"0.0.0.0", false, false, false},
		{"::", false, false, false},
		{"224.0.0.1", false, false, false},
		{"255.255.255.255", false, false, false},
	} {
		addr := netip.MustParseAddr(tt.addr)
		for rule, want := range map[addressRule]bool{{}: tt.public, {private: true}: tt.operator, {loopback: true}: tt.loopback, {loopback: true, private: true}: tt.loopback} {
			if got := rule.allows(addr); got != want {
				t.Errorf("%s under %+v: %v", tt.addr, rule, got)
			}
		}
	}
}

// A host name that is public by its looks and resolves to loopback reaches nothing there.
func TestNoLoopbackByDNS(t *testing.T) {
	f := newFake(t)
	rule := addressRule{private: true}
	if err := rule.control("tcp", strings.TrimPrefix(f.URL, "http://"), nil); !errors.Is(err, errAddress) {
		t.Errorf("error is %v", err)
	}
	d, problems := definitions(t, "- {id: rig, authorization_endpoint: https://169.254.169.254/a, token_endpoint: https://169.254.169.254/t, token_endpoint_auth_method: client_secret_post}")
	if len(problems) > 0 || !d[0].AllowPrivate {
		t.Fatal(problems)
	}
	r := connect(t, setup{yaml: "- {id: rig, authorization_endpoint: https://169.254.169.254/a, token_endpoint: https://169.254.169.254/t, token_endpoint_auth_method: client_secret_post}"})
	_, err := refreshOnce(t, r)
	if u := class(t, err, broker.ClassUnsent); !errors.Is(u, errAddress) {
		t.Errorf("cause is %v", u.Cause)
	}
}

func TestUnknownConnector(t *testing.T) {
	r := connect(t, setup{yaml: newFake(t).plain()})
	_, err := r.Refresh(t.Context(), "gone", broker.RefreshRequest{})
	class(t, err, broker.ClassClientRefused)
	if _, ok := r.Connector("gone"); ok {
		t.Error("it is there")
	}
}
