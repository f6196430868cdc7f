package login_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
)

// forger is an OpenID Provider that says whatever a test wants.
type forger struct {
	*httptest.Server
	key    *rsa.PrivateKey
	meta   map[string]any
	keys   []jose.JSONWebKey
	keySet []byte                    // in the place of keys
	token  string                    // the ID token that a code gives
	answer func(http.ResponseWriter) // of the token endpoint, in its place
	asked  map[string]int
	down   map[string]bool
	clock  time.Time
}

func newForger(t testing.TB) *forger {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	f := &forger{key: key, asked: map[string]int{}, down: map[string]bool{}, clock: time.Now()}
	f.keys = []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "RS256", Use: "sig"}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked[r.URL.Path]++
		w.Header().Set("Content-Type", "application/json")
		switch {
		case f.down[r.URL.Path]:
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(f.meta)
		case r.URL.Path == "/keys" && f.keySet != nil:
			_, _ = w.Write(f.keySet)
		case r.URL.Path == "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: f.keys})
		case r.URL.Path == "/token" && f.answer != nil:
			f.answer(w)
		case r.URL.Path == "/token":
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": f.token})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(f.Close)
	f.meta = map[string]any{"issuer": f.URL, "authorization_endpoint": f.URL + "/authorize", "token_endpoint": f.URL + "/token", "jwks_uri": f.URL + "/keys"}
	return f
}

// claims are those of a good token.
func (f *forger) claims() map[string]any {
	return map[string]any{
		"iss": f.URL, "sub": "user-42", "aud": "abc", "nonce": "the-nonce", "iat": f.clock.Unix(), "exp": f.clock.Add(5 * time.Minute).Unix(),
	}
}

// sign makes a token with the key, RS256 and the header's further fields.
func sign(t testing.TB, key any, alg jose.SignatureAlgorithm, kid string, head map[jose.HeaderKey]any, claims any) string {
	t.Helper()
	options := &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{}}
	maps.Copy(options.ExtraHeaders, head)
	if kid != "" {
		options.ExtraHeaders["kid"] = kid
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, ok := claims.(string)
	if !ok {
		raw, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		payload = string(raw)
	}
	signed, err := signer.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (f *forger) client(t testing.TB, change func(*login.ClientConfig)) *login.Clients {
	t.Helper()
	cfg := login.ClientConfig{ID: "chat", Issuer: f.URL, ClientID: "abc", ClientSecret: broker.NewSecret("canary-secret")}
	if change != nil {
		change(&cfg)
	}
	c, err := login.New(login.Config{Clients: []login.ClientConfig{cfg}, Now: func() time.Time { return f.clock }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func redeem(t testing.TB, c *login.Clients) (broker.Login, error) {
	t.Helper()
	auth, err := c.AuthorizationURL(t.Context(), "chat", request())
	if err != nil {
		t.Fatal(err)
	}
	return c.Redeem(t.Context(), "chat", response(auth, "canary-code"))
}

// Every step of OpenID Connect Core section 3.1.3.7: each of these tokens is one mistake away from a good one.
func TestForgedTokens(t *testing.T) {
	f := newForger(t)
	mallory, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	f.keys = append(f.keys, jose.JSONWebKey{Key: []byte("a shared secret that was put among the public keys"), KeyID: "shared"},
		jose.JSONWebKey{Key: &elliptical.PublicKey, KeyID: "enc", Use: "enc"})
	b64 := base64.RawURLEncoding.EncodeToString
	unsigned := func(head string, claims map[string]any) string {
		raw, _ := json.Marshal(claims)
		return b64([]byte(head)) + "." + b64(raw) + "."
	}
	with := func(name string, value any) string {
		claims := f.claims()
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
		return sign(t, f.key, jose.RS256, "k1", nil, claims)
	}
	good := sign(t, f.key, jose.RS256, "k1", nil, f.claims())
	at := func(d time.Duration) int64 { return f.clock.Add(d).Unix() }
	parts := strings.Split(good, ".")
	raw, _ := json.Marshal(f.claims())
	tokens := map[string]string{
		"nothing":                 "",
		"no token":                "x.y.z",
		"alg none":                unsigned(`{"alg":"none"}`, f.claims()),
		"alg None":                unsigned(`{"alg":"None","kid":"k1"}`, f.claims()),
		"signature cut off":       parts[0] + "." + parts[1] + ".",
		"other claims":            parts[0] + "." + b64([]byte(strings.Replace(string(raw), "user-42", "mallory", 1))) + "." + parts[2],
		"HS256 with public key":   sign(t, public, jose.HS256, "k1", nil, f.claims()),
		"HS256 with DER":          sign(t, der, jose.HS256, "k1", nil, f.claims()),
		"HS256 with a shared key": sign(t, []byte("a shared secret that was put among the public keys"), jose.HS256, "shared", nil, f.claims()),
		"another key":             sign(t, mallory, jose.RS256, "k1", nil, f.claims()),
		"another key, unknown":    sign(t, mallory, jose.RS256, "k9", nil, f.claims()),
		"another key, no id":      sign(t, mallory, jose.RS256, "", nil, f.claims()),
		"its own key in it":       sign(t, jose.JSONWebKey{Key: mallory, KeyID: "k1"}, jose.RS256, "", map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: &mallory.PublicKey}}, f.claims()),
		"a key for encryption":    sign(t, elliptical, jose.ES256, "enc", nil, f.claims()),
		"another algorithm":       sign(t, f.key, jose.PS256, "k1", nil, f.claims()),
		"an access token":         sign(t, f.key, jose.RS256, "k1", map[jose.HeaderKey]any{"typ": "at+jwt"}, f.claims()),
		"a logout token":          sign(t, f.key, jose.RS256, "k1", map[jose.HeaderKey]any{"typ": "logout+jwt"}, f.claims()),
		"wrong iss":               with("iss", "https://evil.example"),
		"iss with a slash":        with("iss", f.URL+"/"),
		"no iss":                  with("iss", nil),
		"no sub":                  with("sub", nil),
		"sub is a number":         with("sub", 42),
		"sub is too long":         with("sub", strings.Repeat("x", 257)),
		"wrong aud":               with("aud", "abd"),
		"no aud":                  with("aud", nil),
		"aud is empty":            with("aud", []string{}),
		"two auds, no azp":        with("aud", []string{"abc", "other"}),
		"aud holds a number":      with("aud", []any{"abc", 7}),
		"wrong azp":               with("azp", "other"),
		"azp is a number":         with("azp", 7),
		"expired":                 with("exp", at(-3*time.Minute)),
		"no exp":                  with("exp", nil),
		"exp is a text":           with("exp", "4000000000"),
		"no iat":                  with("iat", nil),
		"issued in future":        with("iat", at(3*time.Minute)),
		"issued long ago":         with("iat", at(-11*time.Minute)),
		"not good yet":            with("nbf", at(3*time.Minute)),
		"wrong nonce":             with("nonce", "another"),
		"no nonce":                with("nonce", nil),
		"nonce is empty":          with("nonce", ""),
		"a claim twice":           sign(t, f.key, jose.RS256, "k1", nil, strings.Replace(string(raw), `{`, `{"sub":"mallory",`, 1)),
		"SUB beside no sub":       sign(t, f.key, jose.RS256, "k1", nil, strings.Replace(string(raw), `"sub"`, `"SUB"`, 1)),
		"no object":               sign(t, f.key, jose.RS256, "k1", nil, `["user-42"]`),
		"huge":                    with("padding", strings.Repeat("x", 70<<10)),
	}
	c := f.client(t, nil)
	for name, token := range tokens {
		f.token = token
		who, err := redeem(t, c)
		if !errors.Is(err, broker.ErrLoginRefused) || who != (broker.Login{}) {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
		if err != nil && (strings.Contains(err.Error(), "user-42") || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "http")) {
			t.Errorf("%s: the error tells: %v", name, err)
		}
	}
	fine := map[string]string{
		"as it should be": good, "no key id": sign(t, f.key, jose.RS256, "", nil, f.claims()), "typ": sign(t, f.key, jose.RS256, "k1", map[jose.HeaderKey]any{"typ": "jwt"}, f.claims()),
		"skewed exp": with("exp", at(-time.Minute)), "skewed iat": with("iat", at(time.Minute)), "one aud in a list": with("aud", []string{"abc"}), "azp": with("azp", "abc"),
	}
	both := f.claims()
	both["aud"], both["azp"] = []string{"abc", "project"}, "abc"
	fine["two auds and azp"] = sign(t, f.key, jose.RS256, "k1", nil, both)
	for name, token := range fine {
		f.token = token
		if who, err := redeem(t, c); err != nil || who.Subject != "user-42" || who.Issuer != f.URL {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
	// What the provider says that it signs with narrows that down.
	f.meta["id_token_signing_alg_values_supported"] = []string{"ES256", "HS256", "none"}
	f.token = good
	if _, err := redeem(t, f.client(t, nil)); !errors.Is(err, broker.ErrLoginRefused) {
		t.Errorf("an algorithm that the provider does not use: %v", err)
	}
}

func TestOtherSubjectClaims(t *testing.T) {
	f := newForger(t)
	for name, tt := range map[string]struct {
		claim string
		add   map[string]any
		want  string
	}{
		"oid":              {"oid", map[string]any{"oid": "o-1"}, "o-1"},
		"none":             {"oid", nil, ""},
		"oid without sub":  {"oid", map[string]any{"oid": "o-1", "sub": nil}, ""},
		"a list":           {"oid", map[string]any{"oid": []string{"o-1"}}, ""},
		"email":            {"email", map[string]any{"email": "a@acme.example", "email_verified": true}, "a@acme.example"},
		"unverified email": {"email", map[string]any{"email": "a@acme.example", "email_verified": false}, ""},
		"email said so":    {"email", map[string]any{"email": "a@acme.example", "email_verified": "true"}, ""},
		"only an email":    {"email", map[string]any{"email": "a@acme.example"}, ""},
	} {
		claims := f.claims()
		maps.Copy(claims, tt.add)
		f.token = sign(t, f.key, jose.RS256, "k1", nil, claims)
		who, err := redeem(t, f.client(t, func(c *login.ClientConfig) { c.SubjectClaim = tt.claim }))
		if who.Subject != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
	}
}

// Keys are asked for when needed, and again for one that is not there, but not as often as somebody wants.
func TestKeysAreReplaced(t *testing.T) {
	f := newForger(t)
	c := f.client(t, nil)
	f.token = sign(t, f.key, jose.RS256, "k1", nil, f.claims())
	for range 3 {
		if _, err := redeem(t, c); err != nil {
			t.Fatal(err)
		}
	}
	if f.asked["/keys"] != 1 || f.asked["/.well-known/openid-configuration"] != 1 {
		t.Errorf("asked %v", f.asked)
	}
	next, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	f.keys = append(f.keys, jose.JSONWebKey{Key: &next.PublicKey, KeyID: "k2"})
	f.clock = f.clock.Add(time.Minute)
	f.token = sign(t, next, jose.RS256, "k2", nil, f.claims())
	if _, err := redeem(t, c); err != nil {
		t.Errorf("a new key: %v", err)
	}
	f.token = sign(t, next, jose.RS256, "k3", nil, f.claims())
	for range 5 {
		if _, err := redeem(t, c); !errors.Is(err, broker.ErrLoginRefused) {
			t.Errorf("an unknown key: %v", err)
		}
	}
	if f.asked["/keys"] != 2 {
		t.Errorf("keys were asked for %d times within a minute", f.asked["/keys"])
	}
	// Past its hour the set still serves while the provider is down; what is not in it is nobody's fault then.
	f.clock = f.clock.Add(2 * time.Hour)
	f.down["/keys"], f.down["/.well-known/openid-configuration"] = true, true
	f.token = sign(t, next, jose.RS256, "k2", nil, f.claims())
	if _, err := redeem(t, c); err != nil {
		t.Errorf("a known key in an outage: %v", err)
	}
	f.token = sign(t, next, jose.RS256, "k3", nil, f.claims())
	if _, err := redeem(t, c); broker.ClassOf(err) != broker.ClassUnsent {
		t.Errorf("an unknown key in an outage: %v", err)
	}
	f.clock = f.clock.Add(24 * time.Hour)
	if _, err := c.AuthorizationURL(t.Context(), "chat", request()); broker.ClassOf(err) != broker.ClassUnsent {
		t.Errorf("metadata of a day ago: %v", err)
	}
}

// Threats 53, 54 and 58: what the issuer says of itself is believed as far as the operator knows its hosts.
func TestMetadataThatMustNotBeBelieved(t *testing.T) {
	for name, spoil := range map[string]func(*forger){
		"another issuer":     func(f *forger) { f.meta["issuer"] = "https://evil.example" },
		"a slash more":       func(f *forger) { f.meta["issuer"] = f.URL + "/" },
		"another host":       func(f *forger) { f.meta["token_endpoint"] = "https://evil.example/token" },
		"keys of another":    func(f *forger) { f.meta["jwks_uri"] = "https://evil.example/keys" },
		"loopback of others": func(f *forger) { f.meta["token_endpoint"] = "http://localhost:1/token" },
		"a script":           func(f *forger) { f.meta["authorization_endpoint"] = "javascript:alert(1)" },
		"no keys":            func(f *forger) { delete(f.meta, "jwks_uri") },
		"no document":        func(f *forger) { f.meta = nil },
	} {
		f := newForger(t)
		spoil(f)
		if _, err := f.client(t, nil).AuthorizationURL(t.Context(), "chat", request()); broker.ClassOf(err) != broker.ClassClientRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newForger(t)
	f.meta["jwks_uri"] = "https://keys.example/keys"
	if _, err := f.client(t, func(c *login.ClientConfig) { c.EndpointHosts = []string{"keys.example"} }).AuthorizationURL(t.Context(), "chat", request()); err != nil {
		t.Errorf("a host that the operator listed: %v", err)
	}
}

func TestTokenEndpointErrors(t *testing.T) {
	f := newForger(t)
	c := f.client(t, nil)
	for name, tt := range map[string]struct {
		status int
		body   string
		want   broker.Class
	}{
		"spent code": {400, `{"error":"invalid_grant","error_description":"canary"}`, broker.ClassGrantDead},
		"our client": {401, `{"error":"invalid_client"}`, broker.ClassClientRefused},
		"no reason":  {400, `canary`, broker.ClassRefused},
		"a redirect": {307, ``, broker.ClassRefused},
		"down":       {503, `<html>`, broker.ClassInDoubt},
		"too often":  {429, ``, broker.ClassInDoubt},
	} {
		f.answer = func(w http.ResponseWriter) {
			w.Header().Set("Location", f.URL+"/elsewhere")
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}
		_, err := redeem(t, c)
		if broker.ClassOf(err) != tt.want || errors.Is(err, broker.ErrLoginRefused) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.asked["/elsewhere"] != 0 {
		t.Error("followed a redirect with the code and the secret")
	}
	for name, body := range map[string]string{"no JSON": `<html>`, "no token": `{"access_token":"x"}`, "two": `{"id_token":"a","id_token":"b"}`, "other case": `{"ID_TOKEN":"` + sign(t, f.key, jose.RS256, "k1", nil, f.claims()) + `"}`} {
		f.answer = func(w http.ResponseWriter) { _, _ = w.Write([]byte(body)) }
		if _, err := redeem(t, c); !errors.Is(err, broker.ErrLoginRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
