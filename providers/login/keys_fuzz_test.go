package login_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// FuzzKeySet has an OpenID Provider say anything as its keys. A token counts only if its signer's own key is in the set; one that a public key
// stands for as a shared secret, and one that nobody signed, never.
func FuzzKeySet(f *testing.F) {
	fixed := newForger(f)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	set := func(keys ...jose.JSONWebKey) []byte {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		if err != nil {
			f.Fatal(err)
		}
		return text
	}
	own := fixed.keys[0]
	f.Add(set(own), "k1")
	f.Add(set(jose.JSONWebKey{Key: &other.PublicKey, KeyID: "k1", Algorithm: "ES256"}, own), "k1")
	f.Add(set(jose.JSONWebKey{Key: other, KeyID: "k1"}), "")
	f.Add(set(jose.JSONWebKey{Key: []byte("shared secret"), KeyID: "k1", Algorithm: "HS256"}), "k1")
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AA","kid":"k1"},{"kty":"RSA","n":"AA","e":"AQAB","kid":"k1"},{"kty":"EC","crv":"P-256","x":"","y":"","kid":"k1"},7,null,{"kty":"??"}]}`), "k1")
	f.Add([]byte(`{"keys":null,"keys":[]}`), "k1")
	f.Add([]byte(`[]`), "k1")
	modulus := base64.RawURLEncoding.EncodeToString(fixed.key.N.Bytes())
	f.Fuzz(func(t *testing.T, keys []byte, kid string) {
		fixed.keySet = keys
		c := fixed.client(t, nil)
		for name, token := range map[string]string{
			"of its own": sign(t, fixed.key, jose.RS256, kid, nil, fixed.claims()), "of the modulus as a secret": sign(t, fixed.key.N.Bytes(), jose.HS256, kid, nil, fixed.claims()),
			"of another": sign(t, other, jose.ES256, kid, nil, fixed.claims()), "unsigned": "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"user-42"}`)) + ".",
		} {
			fixed.token = token
			who, err := redeem(t, c)
			switch {
			case err != nil && len(err.Error()) > 600:
				t.Fatalf("an error of %d bytes", len(err.Error()))
			case err != nil:
			case name == "of its own" && strings.Contains(string(keys), modulus[:40]):
			case name == "of another" && strings.Contains(string(keys), base64.RawURLEncoding.EncodeToString(other.X.FillBytes(make([]byte, 32)))[:20]):
			default:
				t.Fatalf("a token %s signed in %+v with the keys %s", name, who, keys)
			}
		}
		c.Close()
	})
}
