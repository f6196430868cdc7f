package api

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
)

// This file holds the broker's own access tokens (RFC 9068): short-lived stand-ins for an API key, which any replica verifies by itself.
// Their keys follow from the keyset and the time, so that all replicas have the same ones and none is stored: a new one each period.

const (
	// accessTokenLife is how long one counts. Whoever is disabled meanwhile is refused at once all the same, as with an API key.
	accessTokenLife = 10 * time.Minute
	// keyPeriod is how long a key signs. Those of the period before and of the next are published beside it: clocks differ, and
	// verifiers keep what they have read.
	keyPeriod = 30 * 24 * time.Hour
	// tokenType is the header typ: nothing else that is signed counts (RFC 9068 section 4).
	tokenType = "at+jwt"
)

// accessTokens makes and verifies them. It is safe for concurrent use.
type accessTokens struct {
	issuer string
	seed   func(period int64) [32]byte
	now    func() time.Time

	mu   sync.Mutex
	keys map[int64]signingKey
}

type signingKey struct {
	id      string
	private ed25519.PrivateKey
}

func newAccessTokens(issuer string, seed func(int64) [32]byte, now func() time.Time) *accessTokens {
	return &accessTokens{issuer: issuer, seed: seed, now: now, keys: map[int64]signingKey{}}
}

// around are the keys of this period, the one before and the next, this one's first.
func (t *accessTokens) around() []signingKey {
	period := t.now().Unix() / int64(keyPeriod/time.Second)
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []signingKey
	for _, p := range []int64{period, period - 1, period + 1} {
		key, there := t.keys[p]
		if !there {
			seed := t.seed(p)
			key.private = ed25519.NewKeyFromSeed(seed[:])
			public, _ := key.private.Public().(ed25519.PublicKey)
			thumbprint, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256) // RFC 7638
			if err != nil {
				continue // of an Ed25519 key there is always one
			}
			key.id = base64.RawURLEncoding.EncodeToString(thumbprint)
			if len(t.keys) > 8 { // of periods long ago
				clear(t.keys)
			}
			t.keys[p] = key
		}
		out = append(out, key)
	}
	return out
}

// accessClaims are those of RFC 9068 section 2.2.
type accessClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Client   string `json:"client_id"`
	Audience string `json:"aud"`
	Issued   int64  `json:"iat"`
	Expires  int64  `json:"exp"`
	ID       string `json:"jti"`
}

// issue makes one for a client.
func (t *accessTokens) issue(client string, random io.Reader) (string, error) {
	keys := t.around()
	if len(keys) == 0 {
		return "", fmt.Errorf("sign access token: no key")
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(random, id); err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	now := t.now()
	payload, err := json.Marshal(accessClaims{
		Issuer: t.issuer, Subject: client, Client: client, Audience: t.issuer, Issued: now.Unix(), Expires: now.Add(accessTokenLife).Unix(),
		ID: base64.RawURLEncoding.EncodeToString(id),
	})
	if err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: keys[0].private, KeyID: keys[0].id}},
		(&jose.SignerOptions{}).WithType(tokenType))
	if err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign access token: %w", err)
	}
	return signed.CompactSerialize()
}

// verify returns the client that a token was issued to; false: it is none of ours that counts now (RFC 9068 section 4).
func (t *accessTokens) verify(raw string) (client string, ok bool) {
	if len(raw) > maxKeyBytes*2 {
		return "", false
	}
	token, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil || len(token.Signatures) != 1 {
		return "", false
	}
	head := token.Signatures[0].Header
	kind, _ := head.ExtraHeaders[jose.HeaderType].(string)
	if !strings.EqualFold(kind, tokenType) && !strings.EqualFold(kind, "application/"+tokenType) {
		return "", false
	}
	keys := t.around()
	i := slices.IndexFunc(keys, func(k signingKey) bool { return k.id == head.KeyID })
	if i < 0 {
		return "", false
	}
	payload, err := token.Verify(keys[i].private.Public())
	if err != nil {
		return "", false
	}
	var claims accessClaims
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "", false
	}
	good := claims.Issuer == t.issuer && claims.Audience == t.issuer && claims.Client == claims.Subject && t.now().Before(time.Unix(claims.Expires, 0))
	return claims.Client, good
}

// publicKey is a key as it is published (RFC 8037 section 2).
type publicKey struct {
	Type  string `json:"kty"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	ID    string `json:"kid"`
	Use   string `json:"use"`
	Alg   string `json:"alg"`
}

// public is the JWK set (RFC 7517 section 5).
func (t *accessTokens) public() []publicKey {
	var out []publicKey
	for _, key := range t.around() {
		x, _ := key.private.Public().(ed25519.PublicKey)
		out = append(out, publicKey{Type: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(x), ID: key.id, Use: "sig", Alg: string(jose.EdDSA)})
	}
	return out
}
