package providers

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
)

// FuzzNoticeKeys (threat 66) has a provider say anything as the keys of its notices. One counts only if its signer's own key is in the set; one
// that a public key stands for as a shared secret never.
func FuzzNoticeKeys(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	var keys []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) }))
	f.Cleanup(server.Close)
	definition, problems := ParseDefinition(fmt.Appendf(nil, `
id: risc
authorization_endpoint: https://risc.example/auth
token_endpoint: https://risc.example/token
token_endpoint_auth_method: client_secret_post
notices:
  signature: {kind: set, issuer: "https://accounts.example", jwks: %q}
  events:
    - {when: {event: "https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked"}, accounts: [payload.subject.sub]}
`, server.URL))
	if len(problems) > 0 {
		f.Fatal(problems)
	}
	r := noticed(f, "risc", func(c *ConnectorConfig) { c.NoticeSecret = broker.Secret{} }, definition)
	s, err := r.server("it")
	if err != nil {
		f.Fatal(err)
	}
	claims, err := json.Marshal(map[string]any{
		"iss": "https://accounts.example", "aud": "client-1", "iat": noticeClock.Unix(),
		"events": map[string]any{"https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked": map[string]any{"subject": map[string]any{"sub": "u1"}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	sign := func(t *testing.T, alg jose.SignatureAlgorithm, with any, id string) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: with}, &jose.SignerOptions{ExtraHeaders: map[jose.HeaderKey]any{"kid": id}})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(claims)
		if err != nil {
			t.Fatal(err)
		}
		compact, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return compact
	}
	own := jose.JSONWebKey{Key: key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}
	for _, set := range [][]jose.JSONWebKey{{own}, {{Key: other.Public(), KeyID: "k1"}}, {{Key: other, KeyID: "k1"}, own}, {{Key: []byte("shared"), KeyID: "k1"}}} {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: set})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "k1")
	}
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"k1"},7]}`), "k1")
	f.Add([]byte(`{"keys":[null]}`), "")
	modulus := base64.RawURLEncoding.EncodeToString(key.N.Bytes())
	curve, err := json.Marshal(jose.JSONWebKey{Key: other.Public()})
	if err != nil {
		f.Fatal(err)
	}
	var point struct{ X string }
	if err := json.Unmarshal(curve, &point); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, id string) {
		keys = text
		for kind, token := range map[string]string{
			modulus[:40]: sign(t, jose.RS256, key, id), point.X[:20]: sign(t, jose.ES256, other, id), "never": sign(t, jose.HS256, key.N.Bytes(), id),
		} {
			s.jwks = &jwksCache{}
			got, err := r.ReadNotice(t.Context(), "it", noticeOf("POST", token, nil))
			switch {
			case err != nil && len(err.Error()) > 600:
				t.Fatalf("an error of %d bytes", len(err.Error()))
			case err == nil && (kind == "never" || !strings.Contains(string(text), kind) || !slices.Equal(got.Accounts, []string{"u1"})):
				t.Fatalf("%+v is believed by the keys %s", got, text)
			}
		}
	})
}
