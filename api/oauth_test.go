package api

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func (f *fakeService) AuthenticateAssertion(_ context.Context, named string, assertion broker.Secret) (string, error) {
	if f.byAssertion == nil {
		return "", broker.Errorf(broker.CodeInvalidClient, "no client here authenticates by an assertion")
	}
	return f.byAssertion(named, assertion)
}

// post sends a form to the token endpoint.
func (b *bench) post(form url.Values, header ...string) reply {
	b.t.Helper()
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return b.send(http.MethodPost, "/oauth2/token", form.Encode(), h)
}

func basicOf(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
}

func exchangeForm(change ...string) url.Values {
	form := url.Values{"grant_type": {grantExchange}, "subject_token": {"CANARY-subject"}, "subject_token_type": {typeJWT}, "audience": {"files"}, "scope": {"files.read files.write"}}
	for i := 0; i < len(change); i += 2 {
		if form.Del(change[i]); change[i+1] != "" {
			form.Set(change[i], change[i+1])
		}
	}
	return form
}

// TestTokenExchange: the parameters of RFC 8693 section 2.1 become a token request, and its token the answer of section 2.2.1.
func TestTokenExchange(t *testing.T) {
	b := newBench(t)
	var got broker.TokenRequest
	b.service.issueToken = func(r broker.TokenRequest) (broker.Token, error) {
		got = r
		return broker.Token{AccessToken: broker.NewSecret("CANARY-access"), ExpiresIn: time.Hour, ExpiresAt: testTime, Scopes: broker.NewScopeSet("files.read"), Connector: "files", Connection: "c1"}, nil
	}
	form := exchangeForm("resource", "https://broker.example.com/connectors/files", "actor_token", "CANARY-actor", "actor_token_type", typeIDToken, "min_ttl", "300", "reason", "asked", "unknown", "ignored")
	r := b.post(form, "Authorization", basicOf("acme-chat", acmeKey))
	if r.status != 200 || r.object["access_token"] != "CANARY-access" || r.object["issued_token_type"] != typeAccessToken || r.object["token_type"] != "Bearer" || r.object["expires_in"] != 3600.0 || r.object["scope"] != "files.read" {
		t.Fatalf("%d %s", r.status, r.text)
	}
	if got.Connector != "files" || got.Subject != "" || got.Proofs.Subject.Reveal() != "CANARY-subject" || got.Proofs.Actor.Reveal() != "CANARY-actor" || *got.MinTTL != 5*time.Minute || got.Reason != "asked" ||
		!got.Scopes.Equal(broker.NewScopeSet("files.read", "files.write")) {
		t.Errorf("became %+v", got)
	}
	if c := b.service.lastCaller(); c.Client.ID != "acme-chat" || c.RequestID != r.header.Get("Request-Id") {
		t.Errorf("asked by %+v", c)
	}
	if r := b.post(exchangeForm("subject_token_type", typeAccessToken), "Authorization", "Bearer "+acmeKey); r.status != 200 {
		t.Errorf("by the API key as at /v1: %d %s", r.status, r.text)
	}
}

// TestTokenExchangeRefused: the errors are those of RFC 6749 section 5.2 and RFC 8693 section 2.2.2.
func TestTokenExchangeRefused(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		form url.Values
		err  string
	}{
		"no subject token":     {exchangeForm("subject_token", "", "subject_token_type", ""), "invalid_request"},
		"no type":              {exchangeForm("subject_token_type", ""), "invalid_request"},
		"a SAML assertion":     {exchangeForm("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"), "invalid_request"},
		"a refresh token":      {exchangeForm("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), "invalid_request"},
		"a type without actor": {exchangeForm("actor_token_type", typeJWT), "invalid_request"},
		"an actor, no type":    {exchangeForm("actor_token", "x"), "invalid_request"},
		"no audience":          {exchangeForm("audience", ""), "invalid_request"},
		"two targets":          {exchangeForm("resource", "https://broker.example.com/connectors/crm"), "invalid_target"},
		"foreign resource":     {exchangeForm("audience", "", "resource", "https://evil.example/connectors/files"), "invalid_target"},
		"bad scope":            {exchangeForm("scope", `a"b`), "invalid_scope"},
		"bad min_ttl":          {exchangeForm("min_ttl", "soon"), "invalid_request"},
		"no grant":             {exchangeForm("grant_type", ""), "invalid_request"},
		"another grant":        {exchangeForm("grant_type", "password"), "unsupported_grant_type"},
		"huge":                 {exchangeForm("subject_token", strings.Repeat("x", 17<<10)), "invalid_request"},
		"scoped credentials":   {url.Values{"grant_type": {grantClientCredentials}, "scope": {"files.read"}}, "invalid_scope"},
	} {
		if r := b.post(c.form, "Authorization", basicOf("acme-chat", acmeKey)); r.status != 400 || r.object["error"] != c.err {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	if r := b.send("POST", "/oauth2/token", exchangeForm().Encode()+"&audience=files&scope=files.read", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {basicOf("acme-chat", acmeKey)}}); r.status != 400 {
		t.Errorf("scope twice: %d", r.status)
	}
	if r := b.send("POST", "/oauth2/token?client_secret=CANARY", exchangeForm().Encode(), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}); r.status != 400 {
		t.Errorf("a secret in the URL: %d", r.status)
	}
	if r := b.send("POST", "/oauth2/token", `{"grant_type":"client_credentials"}`, http.Header{"Content-Type": {"application/json"}, "Authorization": {basicOf("acme-chat", acmeKey)}}); r.status != 415 {
		t.Errorf("JSON: %d", r.status)
	}
	if r := b.send("GET", "/oauth2/token", "", http.Header{}); r.status != 405 || r.header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", r.status, r.header.Get("Allow"))
	}
	// What the service says becomes what OAuth calls it.
	link := broker.ConsentLink{ID: "x", URL: broker.NewSecret("https://broker.example.com/connect/CANARY"), Binding: "code", ExpiresAt: testTime}
	required := broker.Errorf(broker.CodeConsentRequired, "show the link to the user")
	required.Consent = &broker.ConsentRequired{Reason: broker.ReasonNeverConnected, MissingScopes: broker.NewScopeSet("files.read"), Consent: link}
	for _, c := range []struct {
		err    error
		status int
		name   string
	}{
		{required, 400, "interaction_required"}, {broker.Errorf(broker.CodeNotFound, "there is no such connector"), 400, "invalid_target"},
		{broker.Errorf(broker.CodeInvalidSubjectToken, "subject_token: it has expired"), 400, "invalid_request"}, {broker.Errorf(broker.CodeSubjectMismatch, "not the subject's"), 400, "invalid_request"},
		{broker.Errorf(broker.CodeLongLivedToken, "use the proxy"), 400, "long_lived_token"}, {broker.Errorf(broker.CodeAccessDenied, "not this client's"), 403, "access_denied"},
		{broker.Errorf(broker.CodeTemporarilyUnavailable, "try again"), 503, "temporarily_unavailable"}, {errors.New("a cause"), 500, "server_error"},
	} {
		b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) { return broker.Token{}, c.err }
		r := b.post(exchangeForm(), "Authorization", basicOf("acme-chat", acmeKey))
		if r.status != c.status || r.object["error"] != c.name || r.header.Get("Www-Authenticate") != "" {
			t.Errorf("%v: %d %s", c.err, r.status, r.text)
		}
		if consent, _ := r.object["consent"].(map[string]any); c.name == "interaction_required" && (consent["url"] != link.URL.Reveal() || r.object["reason"] != "never_connected") {
			t.Errorf("the link is missing: %s", r.text)
		}
	}
}

// TestClientAuthentication: one way at a time, and each of them alone (RFC 6749 section 2.3).
func TestClientAuthentication(t *testing.T) {
	b := newBench(t)
	wrong := 0
	b.service.admitWrongKey = func(string) error { wrong++; return nil }
	b.service.byAssertion = func(named string, assertion broker.Secret) (string, error) {
		if assertion.Reveal() != "CANARY-good" || named != "" && named != "acme-chat" {
			return "", broker.Errorf(broker.CodeInvalidClient, "client_assertion does not count")
		}
		return "acme-chat", nil
	}
	grant := func(more ...string) url.Values {
		form := url.Values{"grant_type": {grantClientCredentials}}
		for i := 0; i < len(more); i += 2 {
			form.Set(more[i], more[i+1])
		}
		return form
	}
	for name, r := range map[string]reply{
		"basic":             b.post(grant(), "Authorization", basicOf("acme-chat", acmeKey)),
		"basic, client_id":  b.post(grant("client_id", "acme-chat"), "Authorization", basicOf("acme-chat", acmeNew)),
		"post":              b.post(grant("client_id", "acme-chat", "client_secret", acmeKey)),
		"assertion":         b.post(grant("client_assertion_type", assertionJWT, "client_assertion", "CANARY-good")),
		"assertion and id":  b.post(grant("client_id", "acme-chat", "client_assertion_type", assertionJWT, "client_assertion", "CANARY-good")),
		"bearer, as at /v1": b.post(grant(), "Authorization", "Bearer "+acmeKey),
	} {
		if r.status != 200 || r.object["token_type"] != "Bearer" || r.object["expires_in"] != 600.0 {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	if wrong != 0 {
		t.Errorf("%d good ones counted as wrong", wrong)
	}
	refused := map[string]reply{
		"another's key":       b.post(grant(), "Authorization", basicOf("other-chat", acmeKey)),
		"another's id":        b.post(grant("client_id", "other-chat"), "Authorization", basicOf("acme-chat", acmeKey)),
		"no such key":         b.post(grant(), "Authorization", basicOf("acme-chat", "CANARY")),
		"no base64":           b.post(grant(), "Authorization", "Basic !"),
		"post, another's key": b.post(grant("client_id", "other-chat", "client_secret", acmeKey)),
		"post, no id":         b.post(grant("client_secret", acmeKey)),
		"assertion":           b.post(grant("client_assertion_type", assertionJWT, "client_assertion", "CANARY-bad")),
		"bearer, another id":  b.post(grant("client_id", "other-chat"), "Authorization", "Bearer "+acmeKey),
	}
	for name, r := range refused {
		if r.status != 401 || r.object["error"] != "invalid_client" || r.header.Get("Www-Authenticate") == "" {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	if wrong != len(refused) {
		t.Errorf("%d wrong keys counted, want %d", wrong, len(refused))
	}
	if r := b.post(grant("client_id", "acme-chat")); r.status != 401 {
		t.Errorf("nothing: %d %s", r.status, r.text)
	}
	for name, r := range map[string]reply{
		"two ways": b.post(grant("client_id", "acme-chat", "client_secret", acmeKey), "Authorization", basicOf("acme-chat", acmeKey)),
		"type":     b.post(grant("client_assertion_type", "urn:x", "client_assertion", "CANARY-good")),
	} {
		if r.status != 400 {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	wrong = 0
	b.service.admitWrongKey = func(string) error { return broker.Errorf(broker.CodeSlowDown, "too many wrong API keys") }
	if r := b.post(grant(), "Authorization", basicOf("acme-chat", "CANARY")); r.status != 429 {
		t.Errorf("too many wrong ones: %d %s", r.status, r.text)
	}
	b.service.admit = func(broker.Caller) error {
		return broker.Errorf(broker.CodeAccessDenied, "an operator disabled this client")
	}
	if r := b.post(grant(), "Authorization", basicOf("acme-chat", acmeKey)); r.status != 403 {
		t.Errorf("a disabled client: %d %s", r.status, r.text)
	}
}

// TestAccessTokens: one stands for its client at the API until it ends, and nothing that only looks like it does (RFC 9068 section 4).
func TestAccessTokens(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	b := newBench(t, func(c *Config) { c.Now = func() time.Time { return now } })
	b.service.listConnectors = func() []broker.Connector { return nil }
	form := url.Values{"grant_type": {grantClientCredentials}}
	r := b.post(form, "Authorization", basicOf("acme-chat", acmeKey))
	token, _ := r.object["access_token"].(string)
	use := func(token string) reply { return b.call("GET", "/v1/connectors", "", "Authorization", "Bearer "+token) }
	if r := use(token); r.status != 200 || b.service.lastCaller().Client.ID != "acme-chat" {
		t.Fatalf("%d %s", r.status, r.text)
	}
	parts := strings.Split(token, ".")
	swap := func(i int, part string) string {
		changed := append([]string{}, parts...)
		changed[i] = part
		return strings.Join(changed, ".")
	}
	b64 := base64.RawURLEncoding.EncodeToString
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	others := newAccessTokens("https://broker.example.com", func(int64) [32]byte { return [32]byte{1} }, b.api.cfg.Now)
	foreign, _ := others.issue("acme-chat", b.api.cfg.Random)
	elsewhere, _ := newAccessTokens("https://other.example.com", b.api.cfg.TokenSeed, b.api.cfg.Now).issue("acme-chat", b.api.cfg.Random)
	unknown, _ := b.api.tokens.issue("nobody", b.api.cfg.Random)
	for name, token := range map[string]string{
		"another client":   swap(1, b64([]byte(strings.ReplaceAll(string(claims), "acme-chat", "other-chat")))),
		"unsigned":         b64([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + ".",
		"another key":      foreign,
		"another broker":   elsewhere,
		"of nobody":        unknown,
		"another's header": swap(0, strings.Split(foreign, ".")[0]),
	} {
		if r := use(token); r.status != 401 || !strings.Contains(r.header.Get("Www-Authenticate"), "invalid_token") {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	if r := b.post(form, "Authorization", "Bearer "+token); r.status != 401 {
		t.Errorf("it renews itself: %d %s", r.status, r.text)
	}
	now = now.Add(accessTokenLife)
	if r := use(token); r.status != 401 {
		t.Errorf("after its end: %d", r.status)
	}
	// A new key signs, and what the one before has signed counts to its end.
	now = time.Unix((now.Unix()/int64(keyPeriod.Seconds())+1)*int64(keyPeriod.Seconds())-60, 0)
	r = b.post(form, "Authorization", basicOf("acme-chat", acmeKey))
	token, _ = r.object["access_token"].(string)
	before := b.send("GET", "/oauth2/jwks", "", http.Header{}).text
	now = now.Add(2 * time.Minute)
	if r := use(token); r.status != 200 {
		t.Errorf("signed by the key before: %d %s", r.status, r.text)
	}
	keys := b.send("GET", "/oauth2/jwks", "", http.Header{})
	list, _ := keys.object["keys"].([]any)
	first, _ := list[0].(map[string]any)
	if kid, _ := first["kid"].(string); len(list) != 3 || !strings.Contains(before, kid) {
		t.Errorf("the key that signs now was not published before: %s", keys.text)
	}
	if strings.Contains(keys.text, `"d"`) || len(list) > 0 && len(first["x"].(string)) != base64.RawURLEncoding.EncodedLen(ed25519.PublicKeySize) {
		t.Errorf("keys: %s", keys.text)
	}
}

// TestMetadata: RFC 8414 section 2.
func TestMetadata(t *testing.T) {
	b := newBench(t)
	r := b.send("GET", "/.well-known/oauth-authorization-server", "", http.Header{})
	if r.status != 200 || r.object["issuer"] != "https://broker.example.com" || r.object["token_endpoint"] != "https://broker.example.com/oauth2/token" || r.object["jwks_uri"] != "https://broker.example.com/oauth2/jwks" {
		t.Errorf("%d %s", r.status, r.text)
	}
	for _, path := range []string{"/oauth2/token/", "/oauth2/Token", "//oauth2/token", "/oauth2/%74oken", "/.well-known/oauth-authorization-server/"} {
		if r := b.raw("POST " + path + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"); r.text != pageBody {
			t.Errorf("%s is the API's: %d %s", path, r.status, r.text)
		}
	}
}

// TestThreat40BareSubject: a client that must prove who its users are names none by its word alone; everything that is about a user takes a
// token instead.
func TestThreat40BareSubject(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.Clients[0].Client.SubjectTokens = true
	})
	var got broker.Proofs
	refusal := broker.Errorf(broker.CodeInvalidSubjectToken, "subject_token is missing")
	b.service.issueToken = func(r broker.TokenRequest) (broker.Token, error) { got = r.Proofs; return broker.Token{}, refusal }
	b.service.createConsent = func(r broker.ConsentRequest) (broker.ConsentView, broker.ConsentLink, error) {
		got = r.Proofs
		return broker.ConsentView{}, broker.ConsentLink{}, refusal
	}
	b.service.completeConsent = func(_ string, c broker.Completion) (broker.Connection, error) {
		got = c.Proofs
		return broker.Connection{}, refusal
	}
	b.service.createPortal = func(r broker.PortalRequest) (broker.PortalView, broker.PortalLink, error) {
		got = r.Proofs
		return broker.PortalView{}, broker.PortalLink{}, refusal
	}
	b.service.completePortal = func(_ string, c broker.Completion) (broker.PortalEntrance, error) {
		got = c.Proofs
		return broker.PortalEntrance{}, refusal
	}
	b.service.admitSubject = func(subject string) error {
		t.Errorf("%s is counted before anybody has proven to ask for them", subject)
		return nil
	}
	for path, body := range map[string]string{
		"/v1/tokens": `{"connector":"files"`, "/v1/consents": `{"connector":"files"`, "/v1/consents/c1/complete": `{"code":"x"`, "/v1/portal-sessions": `{"state":""`, "/v1/portal-sessions/p1/complete": `{"code":"x"`,
	} {
		for name, more := range map[string]string{"none": `}`, "bare": `,"subject":"ann"}`, "token": `,"subject_token":"CANARY-token"}`, "both": `,"subject":"ann","subject_token":"CANARY-token"}`} {
			got = broker.Proofs{}
			r := b.call("POST", path, body+more)
			r.refused(t, 401, broker.CodeInvalidSubjectToken)
			if r.header.Get("Www-Authenticate") == "" {
				t.Errorf("%s, %s: no challenge", path, name)
			}
			if want := strings.Contains(more, "CANARY"); want == got.Subject.IsZero() {
				t.Errorf("%s, %s: the token came through: %v", path, name, !want)
			}
		}
	}
}
