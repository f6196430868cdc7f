package providers

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
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
	r.present.Load().servers["files"].def.RevocationEndpoint = f.URL + "/applications/{client_id}/grant"
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{AccessToken: broker.NewSecret("at")}); err != nil {
		t.Fatal(err)
	}
	req := f.request("/applications/abc/grant")
	if id, secret, ok := req.BasicAuth(); req.Method != "DELETE" || !ok || id != "abc" || secret != canarySecret {
		t.Errorf("%s as %s", req.Method, id)
	}
}

// What a callback says may mean something else here; what it means must be allowed all the same.
func TestVarValues(t *testing.T) {
	v := Var{Allowed: []string{"com", "eu"}, From: "callback.location", Values: map[string]string{"us": "com"}}
	for said, want := range map[string]string{"us": "com", "eu": "eu", "com": "com", "au": "", "": "", "com/evil": ""} {
		if got, ok := v.learned(said); ok != (want != "") || ok && got != want {
			t.Errorf("%q means %q, %v", said, got, ok)
		}
	}
	_, problems := definitions(t, newFake(t).plain("  vars:", "    dc: {default: com, allowed: [com], from: callback.location, values: {us: com, au: com.au}}",
		"    dd: {default: com, allowed: [com], values: {us: com}}"))
	if err := problems.err(); err == nil || !strings.Contains(err.Error(), "vars.dc.values") || !strings.Contains(err.Error(), "vars.dd.values") {
		t.Errorf("problems: %v", err)
	}
}

// A name in two parts, of which one may be missing. Ids need all of theirs.
func TestNamesJoined(t *testing.T) {
	paths := AccountPaths{ID: "a+b", Name: "first+last|login", Email: "none"}
	for body, want := range map[string]broker.Account{
		`{"a":1,"b":2,"first":" Ana ","last":"Example","login":"x"}`: {ID: "1:2", Name: "Ana Example"},
		`{"a":1,"first":"Ana","last":"","login":"x"}`:                {Name: "Ana"},
		`{"b":2,"first":"  ","last":null,"login":"x"}`:               {Name: "x"},
	} {
		if got := jsonTree([]byte(body)).account(paths); got != want {
			t.Errorf("%s: %+v, want %+v", body, got, want)
		}
	}
}

// What tells an error that comes with HTTP 200.
func TestErrorsPresent(t *testing.T) {
	for body, want := range map[string]bool{`{"errors":[{"message":"no"}]}`: true, `{"errors":{"a":1}}`: true, `{"errors":"no"}`: true,
		`{"errors":[]}`: false, `{"errors":null}`: false, `{"errors":{}}`: false, `{"data":{}}`: false} {
		if got := jsonTree([]byte(body)).saysNotOK(Errors{Present: "errors"}); got != want {
			t.Errorf("%s: %v", body, got)
		}
	}
}

// A scope that includes another counts for both, as far as the connector may ask for it.
func TestScopeImplies(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a","scope":"write_files write_mail admin"}`)
	r := connect(t, setup{yaml: f.plain("  scope_implies: {'write_*': 'read_*', admin: audit}"),
		connector: ConnectorConfig{Scopes: []string{"write_files", "read_files", "write_mail", "admin", "audit"}}})
	g, err := refreshOnce(t, r)
	if want := "admin audit read_files write_files write_mail"; err != nil || g.Scopes.String() != want {
		t.Errorf("scopes %q, want %q, error %v", g.Scopes, want, err)
	}
}

// Revocation as some want it: the client in the body under other names, the token in a header, "not found" for what is over.
func TestRevocationHabits(t *testing.T) {
	f := newFake(t)
	f.answers("/revoke", 404, `{"message":"Not Found"}`)
	r := connect(t, setup{yaml: f.plain("  revocation:", "    auth: post", "    params: {id: '{client_id}', key: '{client_secret}', t: '{token}'}",
		"    headers: {X-Token: '{token}', X-App: '{client_id}'}", "    done_status: [404]")})
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: broker.NewSecret(canaryRefresh)}); err != nil {
		t.Fatal(err)
	}
	req := f.request("/revoke")
	want := url.Values{"id": {"abc"}, "key": {canarySecret}, "t": {canaryRefresh}, "client_id": {"abc"}, "client_secret": {canarySecret}}
	if got := req.Form; got.Encode() != want.Encode() {
		t.Errorf("form %v, want %v", got, want)
	}
	if req.Header.Get("X-Token") != canaryRefresh || req.Header.Get("X-App") != "abc" || req.Header.Get("Authorization") != "" {
		t.Error("the headers are not as they should be")
	}
	_, problems := definitions(t, f.plain("  revocation:", "    headers: {Authorization: x, X-Key: '{client_secret}'}", "    done_status: [200, 401]"))
	for _, key := range []string{"revocation.headers.Authorization", "revocation.headers.X-Key", "revocation.done_status"} {
		if err := problems.err(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("no problem with %s: %v", key, err)
		}
	}
}

// A server without scopes: one description of what the whole grant may do, and the scopes that its app has, looked up.
func TestWithoutScopes(t *testing.T) {
	f := newFake(t)
	f.answers("/me", 200, `{"sub":"u1","name":"Ana","permissions":["files.read","other"]}`)
	r := connect(t, setup{yaml: f.plain("  scope_parameter: none", "  whole_grant: {description: Do what you can, access: delete, sensitive: true}", "  userinfo: {scope: permissions}"),
		connector: ConnectorConfig{Scopes: []string{}}})
	c, _ := r.Connector("files")
	if want := (broker.ScopeInfo{Description: "Do what you can", Access: broker.AccessDelete, Sensitive: true}); c.Whole == nil || *c.Whole != want || len(c.Scopes) != 0 {
		t.Errorf("%+v, %d scopes", c.Whole, len(c.Scopes))
	}
	grant := broker.Grant{AccessToken: broker.NewSecret("a"), Account: broker.Account{ID: "u1", Name: "Ana"}}
	g, err := r.Identify(t.Context(), "files", grant)
	if err != nil || g.Scopes.String() != "files.read other" || !g.ScopesReported {
		t.Errorf("scopes %q, reported %v, error %v", g.Scopes, g.ScopesReported, err)
	}
	grant.Scopes, grant.ScopesReported = broker.NewScopeSet("told"), true
	if g, err = r.Identify(t.Context(), "files", grant); err != nil || g.Scopes.String() != "told" || f.count("/me") != 1 {
		t.Errorf("what the token response told: scopes %q, error %v, %d look-ups", g.Scopes, err, f.count("/me"))
	}
	_, problems := definitions(t, f.plain("  whole_grant: {access: fly, optional: true}"))
	for _, key := range []string{"whole_grant.access", "whole_grant.description", "whole_grant.optional"} {
		if err := problems.err(); err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("no problem with %s: %v", key, err)
		}
	}
}

// Where one revocation ends more than the grant, the broker must know whose: all connectors of one OAuth client at one provider.
func TestRevokesAll(t *testing.T) {
	for ends, want := range map[string]bool{"grant": false, "client": true, "app": true} {
		f := newFake(t)
		r := connect(t, setup{yaml: f.plain("  revocation: {ends: " + ends + "}")})
		c, ok := r.Connector("files")
		if !ok || (c.RevokesAll != "") != want {
			t.Errorf("ends: %s: %q", ends, c.RevokesAll)
		}
		if want && !strings.HasSuffix(c.RevokesAll, "/abc") {
			t.Errorf("ends: %s: %q does not name the OAuth client", ends, c.RevokesAll)
		}
	}
}
