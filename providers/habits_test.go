package providers

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"testing"
	"time"

	"tokenbroker/broker"
)

// This file tests habits of real providers that no standard knows (providers/README.md has the keys for them).

// A provider that signs its callbacks with the client secret (Shopify), and names the account that they are about.
func TestVerifyCallback(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{
		yaml: f.plain("  vars: {shop: {pattern: '[a-z0-9-]+'}}", "  callback_expect: {shop: '{shop}.shop.example'}",
			"  callback_signature: {parameter: hmac, algorithm: hmac-sha256-hex}"),
		connector: ConnectorConfig{Vars: map[string]string{"shop": "my-shop"}},
	})
	sign := func(key string, params url.Values) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(params.Encode()))
		return hex.EncodeToString(mac.Sum(nil))
	}
	good := url.Values{"code": {canaryCode}, "state": {"st&te"}, "shop": {"my-shop.shop.example"}, "timestamp": {"1762077600"}}
	signed := sign(canarySecret, good)
	for name, c := range map[string]struct {
		change func(map[string]string)
		good   bool
	}{
		"as it came":         {func(map[string]string) {}, true},
		"no signature":       {func(p map[string]string) { delete(p, "hmac") }, false},
		"another key":        {func(p map[string]string) { p["hmac"] = sign("another", good) }, false},
		"no hex":             {func(p map[string]string) { p["hmac"] = "zz" }, false},
		"another code":       {func(p map[string]string) { p["code"] = "injected" }, false},
		"one more parameter": {func(p map[string]string) { p["host"] = "x" }, false},
		"another shop, signed": {func(p map[string]string) {
			p["shop"] = "evil.shop.example"
			p["hmac"] = sign(canarySecret, url.Values{"code": {canaryCode}, "state": {"st&te"}, "shop": {"evil.shop.example"}, "timestamp": {"1762077600"}})
		}, false},
	} {
		params := map[string]string{"hmac": signed}
		for key := range good {
			params[key] = good.Get(key)
		}
		c.change(params)
		secrets := map[string]broker.Secret{}
		for key, value := range params {
			secrets[key] = broker.NewSecret(value)
		}
		err := r.VerifyCallback("files", secrets)
		if c.good && err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !c.good {
			class(t, err, broker.ClassRefused)
		}
	}
	if err := connect(t, setup{yaml: f.plain()}).VerifyCallback("files", map[string]broker.Secret{}); err != nil {
		t.Errorf("a provider that signs nothing: %v", err)
	}
}

// How long a token lives may stand in the token itself (monday.com), or be stated as 0 (Mailchimp).
func TestLifetimesElsewhere(t *testing.T) {
	exp := start.Add(40 * time.Minute).Unix()
	jwt := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp)) + ".c2ln"
	for _, c := range []struct {
		habit, body string
		want        time.Duration
		never       bool
	}{
		{"  token_response: {expires_at: access_token@exp}", `{"access_token":"` + jwt + `"}`, 40 * time.Minute, false},
		{"  token_response: {expires_at: access_token@exp}", `{"access_token":"opaque","refresh_token":"r"}`, shortLife, false},
		{"  token_response: {expires_at: access_token@iat}", `{"access_token":"` + jwt + `","refresh_token":"r"}`, shortLife, false},
		{"  token_response: {zero_never_expires: true}", `{"access_token":"a","expires_in":0}`, 0, true},
		{"  token_response: {zero_never_expires: true}", `{"access_token":"a","expires_in":60}`, time.Minute, false},
		{"  token_response: {zero_never_expires: true}", `{"access_token":"a","expires_in":0,"refresh_token":"r"}`, shortLife, false},
		{"", `{"access_token":"a","expires_in":0}`, shortLife, false},
	} {
		f := newFake(t)
		f.answers("/token", 200, c.body)
		g, err := exchangeOnce(t, connect(t, setup{yaml: f.plain(c.habit)}))
		if err != nil || g.Lifetime != c.want || g.Never != c.never {
			t.Errorf("%s, %s: lifetime %v, never %v, error %v", c.habit, c.body, g.Lifetime, g.Never, err)
		}
	}
}

// A grant that ends some time after the consent, used or not (LinkedIn): a refresh does not move that.
func TestAbsoluteLifetime(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a","expires_in":60,"refresh_token":"r"}`)
	r := connect(t, setup{yaml: f.plain("  refresh_token_lifetime: 3600")})
	if g, err := exchangeOnce(t, r); err != nil || !g.RefreshExpiry.Equal(start.Add(time.Hour)) {
		t.Errorf("after the consent: until %v, %v", g.RefreshExpiry, err)
	}
	if g, err := refreshOnce(t, r); err != nil || !g.RefreshExpiry.IsZero() {
		t.Errorf("after a refresh: until %v, %v", g.RefreshExpiry, err)
	}
}

// Scopes that an account may not have go in a parameter of their own (HubSpot).
func TestOptionalScopes(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain("  optional_scope_parameter: optional_scope", "  scopes: {files.write: {description: Change files, access: change, optional: true}}")})
	a, err := r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{RedirectURI: "https://b.example/cb", State: broker.NewSecret("s"),
		Verifier: broker.NewSecret("v"), Scopes: broker.NewScopeSet("files.read", "files.write")})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(a.URL.Reveal())
	if err != nil || u.Query().Get("scope") != "files.read" || u.Query().Get("optional_scope") != "files.write" {
		t.Errorf("scope %q, optional_scope %q, %v", u.Query().Get("scope"), u.Query().Get("optional_scope"), err)
	}
}

// A provider that says nothing of PKCE gets none, until the operator has tried it.
func TestUnknownPKCE(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a","expires_in":60}`)
	for pkce, want := range map[string]bool{"": false, "S256": true} {
		r := connect(t, setup{yaml: f.plain("  pkce: unknown"), connector: ConnectorConfig{PKCE: pkce}})
		a, err := r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{RedirectURI: "https://b.example/cb", State: broker.NewSecret("s"),
			Verifier: broker.NewSecret("v"), Scopes: broker.NewScopeSet("files.read")})
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(a.URL.Reveal())
		if u.Query().Has("code_challenge") != want {
			t.Errorf("pkce %q: a challenge is sent: %v", pkce, !want)
		}
		if _, err := exchangeOnce(t, r); err != nil {
			t.Fatal(err)
		}
		if f.request("/token").Form.Has("code_verifier") != want {
			t.Errorf("pkce %q: a verifier is sent: %v", pkce, !want)
		}
	}
}

// Which sites a grant is for is known only by asking (Atlassian, Xero), and the answer may be an array.
func TestLookups(t *testing.T) {
	f := newFake(t)
	f.answers("/me", 200, `{"sub":"u-1","name":"Ana"}`)
	f.answers("/sites", 200, `[{"id":"c-1","url":"https://one.example"},{"id":"c-2","url":"https://two.example"}]`)
	r := connect(t, setup{yaml: f.plain("  lookups:", "    - endpoint: URL/sites", "      extra:", "        - {name: site_ids, path: items.*.id}", "        - {name: first_url, path: items.0.url}",
		"        - {name: third_url, path: items.2.url}", "        - {name: odd, path: items.x.url}")})
	for _, named := range []broker.Account{{}, {ID: "u-1", Name: "Ana"}} {
		g, err := r.Identify(t.Context(), "files", broker.Grant{AccessToken: broker.NewSecret("at"), Account: named})
		if err != nil || g.Account.ID != "u-1" || g.Extra["site_ids"] != "c-1,c-2" || g.Extra["first_url"] != "https://one.example" || len(g.Extra) != 2 {
			t.Errorf("account %+v, extra %v, %v", g.Account, g.Extra, err)
		}
	}
	if got := f.request("/sites").Header.Get("Authorization"); got != "Bearer at" {
		t.Errorf("Authorization is %q", got)
	}
	if f.count("/me") != 1 {
		t.Errorf("asked %d times whose account it is", f.count("/me"))
	}
}

// Revocation by deleting a grant of the client's, with the client's credentials whatever the token endpoint wants (GitHub).
func TestRevokeByDelete(t *testing.T) {
	f := newFake(t)
	f.answers("/applications/abc/grant", 204, "")
	r := connect(t, setup{yaml: f.plain("  revocation: {method: DELETE, auth: basic, format: json, token: access, params: {access_token: '{token}'}}")})
	r.servers["files"].def.RevocationEndpoint = f.URL + "/applications/{client_id}/grant"
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{AccessToken: broker.NewSecret("at")}); err != nil {
		t.Fatal(err)
	}
	req := f.request("/applications/abc/grant")
	if id, secret, ok := req.BasicAuth(); req.Method != "DELETE" || !ok || id != "abc" || secret != canarySecret {
		t.Errorf("%s as %s", req.Method, id)
	}
}
