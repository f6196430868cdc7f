package assertion_test

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
	"tokenbroker/providers/assertion"
	"tokenbroker/providers/issuer"
)

// authority is an issuer with its metadata and keys on a real server.
type authority struct {
	*httptest.Server
	key     *ecdsa.PrivateKey
	asked   atomic.Int32
	claimed string // the issuer that its metadata names
	keysAt  string // where it says that its keys are; "": where they are
	empty   bool   // it has none
	clock   time.Time
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, clock: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"issuer": a.claimed, "jwks_uri": cmp.Or(a.keysAt, a.URL+"/keys")})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		a.asked.Add(1)
		if a.empty {
			_, _ = w.Write([]byte(`{"keys":[]}`))
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1", Algorithm: "ES256", Use: "sig"}}})
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	a.claimed = a.URL
	return a
}

func sign(t testing.TB, key any, alg jose.SignatureAlgorithm, kid, typ string, claims any) broker.Secret {
	t.Helper()
	options := &jose.SignerOptions{}
	if typ != "" {
		options.WithType(jose.ContentType(typ))
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, isText := claims.(string)
	if !isText {
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
	return broker.NewSecret(text)
}

func (a *authority) claims(change map[string]any) map[string]any {
	claims := map[string]any{
		"iss": a.URL, "sub": "user-42", "aud": "chat", "jti": "t1", "iat": a.clock.Unix(), "exp": a.clock.Add(5 * time.Minute).Unix(),
	}
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return claims
}

func (a *authority) token(t testing.TB, change map[string]any) broker.Secret {
	t.Helper()
	return sign(t, a.key, jose.ES256, "k1", "", a.claims(change))
}

func (a *authority) verifier(t testing.TB, clients ...assertion.ClientConfig) *assertion.Verifier {
	t.Helper()
	v, err := assertion.New(assertion.Config{
		Clients: clients, Issuer: "https://broker.example.com", TokenEndpoint: "https://broker.example.com/oauth2/token", Now: func() time.Time { return a.clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

// TestThreat40ForgedSubjectTokens: each of these is one mistake away from a good token (RFC 7519 section 4.1, RFC 8725).
func TestThreat40ForgedSubjectTokens(t *testing.T) {
	a := newAuthority(t)
	mallory, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v := a.verifier(t, assertion.ClientConfig{ID: "acme-chat", Subjects: []assertion.Source{{Issuer: a.URL, Audiences: []string{"chat"}}}})
	at := func(d time.Duration) int64 { return a.clock.Add(d).Unix() }
	raw, _ := json.Marshal(a.claims(nil))
	good := a.token(t, nil)
	parts := strings.Split(good.Reveal(), ".")
	b64 := base64.RawURLEncoding.EncodeToString
	tokens := map[string]broker.Secret{
		"nothing":            {},
		"no token":           broker.NewSecret("x.y.z"),
		"alg none":           broker.NewSecret(b64([]byte(`{"alg":"none"}`)) + "." + b64(raw) + "."),
		"signature cut off":  broker.NewSecret(parts[0] + "." + parts[1] + "."),
		"other claims":       broker.NewSecret(parts[0] + "." + b64([]byte(strings.Replace(string(raw), "user-42", "mallory", 1))) + "." + parts[2]),
		"a shared secret":    sign(t, elliptic.MarshalCompressed(elliptic.P256(), a.key.X, a.key.Y), jose.HS256, "k1", "", a.claims(nil)),
		"another key":        sign(t, mallory, jose.ES256, "k1", "", a.claims(nil)),
		"a logout token":     sign(t, a.key, jose.ES256, "k1", "logout+jwt", a.claims(nil)),
		"a proof":            sign(t, a.key, jose.ES256, "k1", "dpop+jwt", a.claims(nil)),
		"an event":           a.token(t, map[string]any{"events": map[string]any{}}),
		"another issuer":     a.token(t, map[string]any{"iss": "https://evil.example"}),
		"issuer and slash":   a.token(t, map[string]any{"iss": a.URL + "/"}),
		"for another":        a.token(t, map[string]any{"aud": "other"}),
		"for nobody":         a.token(t, map[string]any{"aud": nil}),
		"aud holds a number": a.token(t, map[string]any{"aud": []any{"chat", 7}}),
		"no sub":             a.token(t, map[string]any{"sub": nil}),
		"sub is a number":    a.token(t, map[string]any{"sub": 42}),
		"sub has a control":  a.token(t, map[string]any{"sub": "user\n42"}),
		"sub is too long":    a.token(t, map[string]any{"sub": strings.Repeat("x", 257)}),
		"expired":            a.token(t, map[string]any{"exp": at(-3 * time.Minute)}),
		"no exp":             a.token(t, map[string]any{"exp": nil}),
		"no iat":             a.token(t, map[string]any{"iat": nil}),
		"iat to come":        a.token(t, map[string]any{"iat": at(3 * time.Minute)}),
		"issued long ago":    a.token(t, map[string]any{"iat": at(-63 * time.Minute)}),
		"not good yet":       a.token(t, map[string]any{"nbf": at(3 * time.Minute)}),
		"a client's own":     sign(t, a.key, jose.ES256, "k1", "client-authentication+jwt", a.claims(nil)),
		"jti is too long":    a.token(t, map[string]any{"jti": strings.Repeat("x", 1025)}),
		"a claim twice":      sign(t, a.key, jose.ES256, "k1", "", strings.Replace(string(raw), `{`, `{"sub":"mallory",`, 1)),
		"huge":               a.token(t, map[string]any{"padding": strings.Repeat("x", 70<<10)}),
	}
	for name, token := range tokens {
		got, err := v.Subject(t.Context(), "acme-chat", token)
		if !errors.Is(err, broker.ErrAssertionRefused) || got != (broker.Assertion{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && (strings.Contains(err.Error(), "user-42") || strings.Contains(err.Error(), "http")) {
			t.Errorf("%s: the error tells: %v", name, err)
		}
	}
	want := broker.Assertion{Issuer: a.URL, Subject: "user-42", ID: "jti t1", Expires: time.Unix(at(5*time.Minute), 0), Once: true}
	for name, token := range map[string]broker.Secret{
		"good": good, "no key id": sign(t, a.key, jose.ES256, "", "", a.claims(nil)), "an access token": sign(t, a.key, jose.ES256, "k1", "at+JWT", a.claims(nil)),
		"several audiences": a.token(t, map[string]any{"aud": []string{"other", "chat"}}), "skewed": a.token(t, map[string]any{"iat": at(time.Minute)}),
	} {
		if got, err := v.Subject(t.Context(), "acme-chat", token); err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// Many ID tokens have no jti: what was signed tells them apart then, and not how it was signed.
	bare := a.claims(map[string]any{"jti": nil})
	first, err1 := v.Subject(t.Context(), "acme-chat", sign(t, a.key, jose.ES256, "k1", "", bare))
	again, err2 := v.Subject(t.Context(), "acme-chat", sign(t, a.key, jose.ES256, "k1", "", bare))
	other, err3 := v.Subject(t.Context(), "acme-chat", a.token(t, map[string]any{"jti": nil, "sub": "bob"}))
	if err := errors.Join(err1, err2, err3); err != nil || first.ID != again.ID || first.ID == other.ID || !strings.HasPrefix(first.ID, "sha256 ") {
		t.Errorf("without jti: %q, %q, %q, %v", first.ID, again.ID, other.ID, err)
	}
	if long, err := v.Subject(t.Context(), "acme-chat", a.token(t, map[string]any{"exp": at(1e6 * time.Second)})); err != nil || long.Expires.After(a.clock.Add(time.Hour)) {
		t.Errorf("one that lives for days counts until %v, %v", long.Expires, err)
	}
	if _, err := v.Subject(t.Context(), "other-chat", good); !errors.Is(err, broker.ErrAssertionRefused) {
		t.Errorf("a client without issuers: %v", err)
	}
	if _, err := v.Actor(t.Context(), "acme-chat", good); !errors.Is(err, broker.ErrAssertionRefused) {
		t.Errorf("a subject token as an actor token: %v", err)
	}
	if n := a.asked.Load(); n > 2 { // once, and once more for keys that nobody has
		t.Errorf("the issuer was asked for its keys %d times", n)
	}
}

// TestSubjectClaims: who it is may stand in another claim, and more may be demanded.
func TestSubjectClaims(t *testing.T) {
	a := newAuthority(t)
	source := assertion.Source{Issuer: a.URL, Audiences: []string{"chat"}, SubjectClaim: "email", Claims: map[string]string{"org": "acme"}, Replay: true}
	v := a.verifier(t, assertion.ClientConfig{ID: "c", Subjects: []assertion.Source{source}})
	fine := map[string]any{"email": "ann@acme.example", "email_verified": true, "org": "acme", "jti": nil, "may_act": map[string]any{"sub": "agent-7"}}
	got, err := v.Subject(t.Context(), "c", a.token(t, fine))
	if err != nil || got.Subject != "ann@acme.example" || got.Once || got.MayAct == nil || *got.MayAct != (broker.Party{Subject: "agent-7"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, value := range map[string]any{"email_verified": false, "org": "other"} {
		changed := map[string]any{name: value}
		for k, v := range fine {
			if k != name {
				changed[k] = v
			}
		}
		if _, err := v.Subject(t.Context(), "c", a.token(t, changed)); !errors.Is(err, broker.ErrAssertionRefused) {
			t.Errorf("%s is %v: %v", name, value, err)
		}
	}
}

// TestIssuerAway: that an issuer is away is not the token's fault, and metadata of another issuer is not believed (threat 58).
func TestIssuerAway(t *testing.T) {
	a := newAuthority(t)
	a.claimed = "https://evil.example"
	v := a.verifier(t, assertion.ClientConfig{ID: "c", Subjects: []assertion.Source{{Issuer: a.URL, Audiences: []string{"chat"}}}})
	if _, err := v.Subject(t.Context(), "c", a.token(t, nil)); err == nil || errors.Is(err, broker.ErrAssertionRefused) || broker.ClassOf(err) != broker.ClassClientRefused {
		t.Errorf("metadata of another issuer: %v", err)
	}
	a.claimed, a.keysAt = a.URL, "http://127.0.0.1:1/keys"
	v = a.verifier(t, assertion.ClientConfig{ID: "c", Subjects: []assertion.Source{{Issuer: a.URL, Audiences: []string{"chat"}}}})
	if _, err := v.Subject(t.Context(), "c", a.token(t, nil)); broker.ClassOf(err) != broker.ClassClientRefused || !strings.Contains(err.Error(), "another host") {
		t.Errorf("keys elsewhere (threat 58): %v", err)
	}
	a.keysAt, a.empty = "", true
	v = a.verifier(t, assertion.ClientConfig{ID: "c", Subjects: []assertion.Source{{Issuer: a.URL, Audiences: []string{"chat"}}}})
	if _, err := v.Subject(t.Context(), "c", a.token(t, nil)); err == nil || errors.Is(err, broker.ErrAssertionRefused) {
		t.Errorf("an empty key set: %v", err)
	}
	a.empty = false
	// Who asks and leaves has us ask once, however often.
	v = a.verifier(t, assertion.ClientConfig{ID: "c", Subjects: []assertion.Source{{Issuer: a.URL, Audiences: []string{"chat"}}}})
	a.asked.Store(0)
	for range 20 {
		gone, leave := context.WithCancel(t.Context())
		leave()
		_, _ = v.Subject(gone, "c", sign(t, a.key, jose.ES256, "nobody's", "", a.claims(nil)))
	}
	if _, err := v.Subject(t.Context(), "c", a.token(t, nil)); err != nil || a.asked.Load() > 2 {
		t.Errorf("the keys were asked for %d times, %v", a.asked.Load(), err)
	}
	token := a.token(t, nil)
	a.Close()
	v = a.verifier(t, assertion.ClientConfig{ID: "c", Subjects: []assertion.Source{{Issuer: a.URL, Audiences: []string{"chat"}}}})
	if _, err := v.Subject(t.Context(), "c", token); err == nil || errors.Is(err, broker.ErrAssertionRefused) {
		t.Errorf("away: %v", err)
	}
}

// TestClientAssertions: a client's own signature, and a workload's token that stands for it (RFC 7523 section 3).
func TestClientAssertions(t *testing.T) {
	a := newAuthority(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := issuer.Keyring{{Key: &key.PublicKey, KeyID: "own"}}
	v := a.verifier(t,
		assertion.ClientConfig{ID: "acme-chat", Keys: own},
		assertion.ClientConfig{ID: "job", Workloads: []assertion.Workload{{
			Source: assertion.Source{Issuer: a.URL, Audiences: []string{"https://broker.example.com"}, Claims: map[string]string{"repository": "acme/job"}}, Subject: "repo:acme/job",
		}}})
	signed := func(change map[string]any) broker.Secret {
		return sign(t, key, jose.ES256, "own", "", a.claims(merged(map[string]any{"iss": "acme-chat", "sub": "acme-chat", "aud": "https://broker.example.com"}, change)))
	}
	workload := func(change map[string]any) broker.Secret {
		return a.token(t, merged(map[string]any{"sub": "repo:acme/job", "aud": "https://broker.example.com", "repository": "acme/job"}, change))
	}
	for name, c := range map[string]struct {
		named  string
		token  broker.Secret
		client string
		once   bool
	}{
		"for the issuer": {"acme-chat", signed(nil), "acme-chat", true}, "for the endpoint": {"", signed(map[string]any{"aud": "https://broker.example.com/oauth2/token"}), "acme-chat", true},
		"for both": {"", signed(map[string]any{"aud": []string{"https://broker.example.com", "https://broker.example.com/oauth2/token"}}), "acme-chat", true}, "no iat": {"", signed(map[string]any{"iat": nil}), "acme-chat", true},
		"a workload": {"", workload(nil), "job", false}, "a named workload": {"job", workload(nil), "job", false},
	} {
		if id, got, err := v.Client(t.Context(), c.named, c.token); err != nil || id != c.client || got.Once != c.once {
			t.Errorf("%s: %q, %+v, %v", name, id, got, err)
		}
	}
	for name, c := range map[string]struct {
		named string
		token broker.Secret
	}{
		"of another client":      {"job", signed(nil)},
		"about another":          {"", signed(map[string]any{"sub": "job"})},
		"for another":            {"", signed(map[string]any{"aud": "https://other.example.com"})},
		"for others too":         {"", signed(map[string]any{"aud": []string{"https://broker.example.com", "https://other.example.com"}})},
		"for a day":              {"", signed(map[string]any{"exp": a.clock.Add(24 * time.Hour).Unix()})},
		"old":                    {"", signed(map[string]any{"iat": a.clock.Add(-13 * time.Minute).Unix()})},
		"without jti":            {"", signed(map[string]any{"jti": nil})},
		"by another key":         {"", sign(t, a.key, jose.ES256, "own", "", a.claims(map[string]any{"iss": "acme-chat", "sub": "acme-chat", "aud": "https://broker.example.com"}))},
		"of nobody":              {"", signed(map[string]any{"iss": "nobody", "sub": "nobody"})},
		"another workload":       {"", workload(map[string]any{"sub": "repo:evil/job"})},
		"another repository":     {"", workload(map[string]any{"repository": "evil/job"})},
		"a workload for others":  {"", workload(map[string]any{"aud": "sts.amazonaws.com"})},
		"a workload as a client": {"acme-chat", workload(nil)},
		"a client as a workload": {"", workload(map[string]any{"iss": "acme-chat", "sub": "acme-chat"})},
		"a client without a key": {"job", sign(t, key, jose.ES256, "own", "", a.claims(map[string]any{"iss": "job", "sub": "job", "aud": "https://broker.example.com"}))},
	} {
		if id, _, err := v.Client(t.Context(), c.named, c.token); !errors.Is(err, broker.ErrAssertionRefused) {
			t.Errorf("%s: %q, %v", name, id, err)
		}
	}
}

func merged(all ...map[string]any) map[string]any {
	out := map[string]any{}
	for _, one := range all {
		for k, v := range one {
			out[k] = v
		}
	}
	return out
}
