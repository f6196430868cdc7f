package sandbox_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"tokenbroker/providers/sandbox"
)

func TestCodeFlow(t *testing.T) {
	r := newRig(t, nil)
	verifier := oauth2.GenerateVerifier()
	got := r.authorize(verifier, "login_hint", "bob", "auto", "allow")
	equal(t, "state", got.Get("state"), "the-state")
	equal(t, "iss", got.Get("iss"), r.http.URL)

	token, err := r.oauth.Exchange(r.ctx(), got.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "scope", token.Extra("scope").(string), "files.read files.write offline_access")
	equal(t, "expires_in", token.ExpiresIn, 3600)
	if token.RefreshToken == "" || token.AccessToken == "" || token.TokenType != "Bearer" {
		t.Error("a token is missing or not of type Bearer")
	}
	if token.Extra("id_token") != nil {
		t.Error("an id_token without openid")
	}

	var me struct{ Sub, Name, Email string }
	if err := json.Unmarshal([]byte(r.call("GET", "/me", token.AccessToken, "").body), &me); err != nil {
		t.Fatal(err)
	}
	equal(t, "sub", me.Sub, "acct-bob-1002")
	equal(t, "email", me.Email, "bob@example.com")

	stats := r.server.Stats()
	equal(t, "authorize requests", stats.AuthorizeRequests, 1)
	equal(t, "code grants", stats.TokenRequests["authorization_code"], 1)
	equal(t, "userinfo calls", stats.UserinfoCalls, 1)
	equal(t, "grants", len(stats.Grants), 1)
	equal(t, "user", stats.Grants[0].User, "bob")
}

// Threat 8: a code without its verifier is worth nothing.
func TestVerifierIsChecked(t *testing.T) {
	r := newRig(t, nil)
	for name, options := range map[string][]oauth2.AuthCodeOption{
		"wrong":  {oauth2.VerifierOption(oauth2.GenerateVerifier())},
		"absent": nil,
	} {
		verifier := oauth2.GenerateVerifier()
		code := r.authorize(verifier, "auto", "allow").Get("code")
		if _, err := r.oauth.Exchange(r.ctx(), code, options...); err == nil {
			t.Errorf("%s verifier: the code was redeemed", name)
		}
	}
	equal(t, "grants", len(r.server.Stats().Grants), 0)
}

// Threat 9: no downgrade of PKCE.
func TestChallengeIsRequired(t *testing.T) {
	r := newRig(t, nil)
	for name, params := range map[string][]string{
		"absent": {"code_challenge", "", "code_challenge_method", ""},
		"plain":  {"code_challenge_method", "plain"},
		"empty":  {"code_challenge_method", ""},
	} {
		got := r.authorize(oauth2.GenerateVerifier(), append(params, "auto", "allow")...)
		if got.Get("error") != "invalid_request" || got.Get("state") != "the-state" || got.Get("iss") == "" {
			t.Errorf("%s: %v", name, got)
		}
	}
	optional := newRig(t, func(c *sandbox.Config) { c.PKCEOptional = true })
	got := optional.follow(optional.oauth.AuthCodeURL("s", oauth2.SetAuthURLParam("auto", "allow")))
	if _, err := optional.oauth.Exchange(optional.ctx(), got.Get("code")); err != nil {
		t.Errorf("without PKCE, where that is allowed: %v", err)
	}
}

func TestCodeIsGoodOnce(t *testing.T) {
	r := newRig(t, nil)
	verifier := oauth2.GenerateVerifier()
	code := r.authorize(verifier, "auto", "allow").Get("code")
	token, err := r.oauth.Exchange(r.ctx(), code, oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.oauth.Exchange(r.ctx(), code, oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was redeemed twice")
	}
	// RFC 6749 section 4.1.2: what it gave before is revoked.
	equal(t, "access token after code reuse", r.call("GET", "/me", token.AccessToken, "").status, 401)
	equal(t, "refresh after code reuse", r.refresh(token.RefreshToken).text("error"), "invalid_grant")
	equal(t, "code reuses", r.server.Stats().CodeReuses, 1)
}

func TestParallelRedemptionGivesOneGrant(t *testing.T) {
	r := newRig(t, nil)
	verifier := oauth2.GenerateVerifier()
	code := r.authorize(verifier, "auto", "allow").Get("code")
	form := url.Values{"grant_type": {"authorization_code"}, "code": {code}, "code_verifier": {verifier}, "redirect_uri": {callback}}
	var good sync.Map
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			if a, err := r.post("/token", form); err == nil && a.status == 200 {
				good.Store(i, true)
			}
		})
	}
	wait.Wait()
	n := 0
	good.Range(func(any, any) bool { n++; return true })
	equal(t, "successes", n, 1)
	equal(t, "grants", len(r.server.Stats().Grants), 1)
}

func TestCodeExpires(t *testing.T) {
	r := newRig(t, nil)
	verifier := oauth2.GenerateVerifier()
	code := r.authorize(verifier, "auto", "allow").Get("code")
	r.clock.offset = time.Minute + time.Second
	if _, err := r.oauth.Exchange(r.ctx(), code, oauth2.VerifierOption(verifier)); err == nil {
		t.Error("an expired code was redeemed")
	}
}

func TestRedirectURIIsComparedExactly(t *testing.T) {
	r := newRig(t, nil)
	for _, uri := range []string{callback + "/x", callback + "?a=b", strings.Replace(callback, "127.0.0.1", "localhost", 1), "javascript:alert(1)"} {
		res, err := r.client.Get(r.oauth.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier()),
			oauth2.SetAuthURLParam("redirect_uri", uri), oauth2.SetAuthURLParam("auto", "allow")))
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 400 || res.Header.Get("Location") != "" {
			t.Errorf("%s: status %d, Location %q", uri, res.StatusCode, res.Header.Get("Location"))
		}
	}
}

func TestDeny(t *testing.T) {
	r := newRig(t, nil)
	got := r.authorize(oauth2.GenerateVerifier(), "auto", "deny")
	equal(t, "error", got.Get("error"), "access_denied")
	equal(t, "state", got.Get("state"), "the-state")
	equal(t, "code", got.Get("code"), "")
	equal(t, "iss", got.Get("iss"), r.http.URL)
	equal(t, "denied", r.server.Stats().Denied, 1)
}

// A person in front of the page: the form is filled in as a browser would.
func TestLoginPage(t *testing.T) {
	r := newRig(t, nil)
	verifier := oauth2.GenerateVerifier()
	address := r.oauth.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("login_hint", "bob"))
	open := func() (string, string) {
		res, err := r.client.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		page, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		equal(t, "status", res.StatusCode, 200)
		if csp := res.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "frame-ancestors 'none'") || !strings.Contains(csp, "default-src 'none'") {
			t.Errorf("policy %q", csp)
		}
		id := regexp.MustCompile(`name="request" value="([^"]+)"`).FindStringSubmatch(string(page))
		if id == nil {
			t.Fatalf("no form in %s", page)
		}
		return string(page), id[1]
	}
	submit := func(form url.Values) *http.Response {
		res, err := r.client.PostForm(r.http.URL+"/login", form)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	page, id := open()
	for _, want := range []string{"Acme Broker", "Bob Baker", "bob@example.com", "See your files", "Create and change your files", `value="bob" required checked`, "stay connected"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	got := r.landed(submit(url.Values{"request": {id}, "user": {"mallory"}, "decision": {"allow"}, "scope": {"files.read"}}))
	token, err := r.oauth.Exchange(r.ctx(), got.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "scope", token.Extra("scope").(string), "files.read offline_access")

	again := submit(url.Values{"request": {id}, "user": {"alice"}, "decision": {"allow"}})
	_ = again.Body.Close()
	equal(t, "the same form again", again.StatusCode, 404)

	_, id = open()
	got = r.landed(submit(url.Values{"request": {id}, "user": {"bob"}, "decision": {"allow"}}))
	equal(t, "everything unticked", got.Get("error"), "access_denied")

	_, id = open()
	got = r.landed(submit(url.Values{"request": {id}, "decision": {"deny"}}))
	equal(t, "no, without a name", got.Get("error"), "access_denied")

	_, id = open()
	nameless := submit(url.Values{"request": {id}, "decision": {"allow"}, "scope": {"files.read"}})
	_ = nameless.Body.Close()
	equal(t, "yes, without a name", nameless.StatusCode, 400)

	// Without a hint, or with one that names nobody, the person says who they are.
	for _, hint := range []string{"", "nobody"} {
		address = r.oauth.AuthCodeURL("the-state", oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("login_hint", hint))
		if page, _ := open(); strings.Contains(page, `required checked`) || strings.Count(page, " required") != 3 {
			t.Errorf("hint %q: somebody is chosen beforehand, or nobody need be", hint)
		}
	}

	_, id = open()
	bad := submit(url.Values{"request": {id}, "user": {"nobody"}, "decision": {"allow"}})
	_ = bad.Body.Close()
	equal(t, "an unknown user", bad.StatusCode, 400)
}

func TestAuto(t *testing.T) {
	r := newRig(t, func(c *sandbox.Config) {
		c.Auto = &sandbox.Auto{User: "bob", Decision: "allow", Scopes: []string{"files.read"}}
	})
	got := r.authorize(oauth2.GenerateVerifier())
	if got.Get("code") == "" {
		t.Errorf("no code: %v", got)
	}
	if err := r.server.SetAuto(&sandbox.Auto{Decision: "deny"}); err != nil {
		t.Fatal(err)
	}
	equal(t, "deny", r.authorize(oauth2.GenerateVerifier()).Get("error"), "access_denied")
	// The request's own parameters win.
	if got := r.authorize(oauth2.GenerateVerifier(), "auto", "allow"); got.Get("code") == "" {
		t.Errorf("no code: %v", got)
	}
	if err := r.server.SetAuto(&sandbox.Auto{Decision: "perhaps"}); err == nil {
		t.Error("a decision that is none was taken")
	}
}

func TestIDToken(t *testing.T) {
	r := newRig(t, nil)
	r.oauth.Scopes = []string{"openid", "profile", "email", "files.read"}
	token := r.connect("alice", "nonce", "n-1")
	if token.RefreshToken != "" {
		t.Error("a refresh token without offline_access")
	}
	idToken, _ := token.Extra("id_token").(string)
	parts := strings.Split(idToken, ".")
	if len(parts) != 3 {
		t.Fatal("no id_token")
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Iss, Sub, Name, Email, Nonce string
		Aud                          []string
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	equal(t, "iss", claims.Iss, r.http.URL)
	equal(t, "sub", claims.Sub, "acct-alice-1001")
	equal(t, "name", claims.Name, "Alice Archer")
	equal(t, "email", claims.Email, "alice@example.com")
	equal(t, "nonce", claims.Nonce, "n-1")
	equal(t, "aud", strings.Join(claims.Aud, " "), "files")
}

func TestClientAuthentication(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		name, id, secret string
		style            oauth2.AuthStyle
		good             bool
	}{
		{"basic", "files", secret, oauth2.AuthStyleInHeader, true},
		{"basic, wrong secret", "files", "wrong", oauth2.AuthStyleInHeader, false},
		{"basic client by post", "files", secret, oauth2.AuthStyleInParams, false},
		{"post", "poster", secret, oauth2.AuthStyleInParams, true},
		{"post client by basic", "poster", secret, oauth2.AuthStyleInHeader, false},
		{"none", "public", "", oauth2.AuthStyleInParams, true},
		{"public client with a secret", "public", "x", oauth2.AuthStyleInParams, false},
		{"unknown", "nobody", "x", oauth2.AuthStyleInHeader, false},
	} {
		r.oauth.ClientID, r.oauth.ClientSecret, r.oauth.Endpoint.AuthStyle = c.id, c.secret, c.style
		asker := c.id
		if asker == "nobody" {
			asker = "files"
		}
		verifier := oauth2.GenerateVerifier()
		code := r.authorize(verifier, "client_id", asker, "auto", "allow").Get("code")
		before := r.server.Stats().TokenRequests["authorization_code"]
		_, err := r.oauth.Exchange(r.ctx(), code, oauth2.VerifierOption(verifier))
		equal(t, c.name, err == nil, c.good)
		equal(t, c.name+": requests", r.server.Stats().TokenRequests["authorization_code"]-before, 1)
	}
}

func TestMetadata(t *testing.T) {
	r := newRig(t, nil)
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		a := r.call("GET", path, "", "")
		equal(t, path, a.status, 200)
		equal(t, "issuer", a.text("issuer"), r.http.URL)
		equal(t, "token_endpoint", a.text("token_endpoint"), r.http.URL+"/token")
		equal(t, "iss parameter", a.fields["authorization_response_iss_parameter_supported"], any(true))
	}
	if keys := r.call("GET", "/keys", "", ""); !strings.Contains(keys.body, `"ES256"`) || strings.Contains(keys.body, `"d"`) {
		t.Errorf("keys: %s", keys.body)
	}
}

func TestTokensAreOpaqueAndDistinct(t *testing.T) {
	r := newRig(t, nil)
	var seen []string
	for range 20 {
		token := r.connect("alice")
		seen = append(seen, token.AccessToken, token.RefreshToken)
	}
	slices.Sort(seen)
	equal(t, "distinct tokens", len(slices.Compact(seen)), 40)
	for _, token := range seen {
		if len(token) != 47 || strings.Contains(token, "alice") {
			t.Errorf("a token of %d bytes", len(token))
		}
	}
}
