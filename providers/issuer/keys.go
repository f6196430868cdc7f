package issuer

import (
	"context"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// fetchTimeout bounds asking for keys or metadata.
const fetchTimeout = 5 * time.Second

// maxKeys bounds how many keys are tried for one token.
const maxKeys = 16

// Algorithms are those that a token may be signed with: no "none", and none whose key the verifier could sign with too (HS256 with a
// public key, RFC 8725 section 2.1).
var Algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Keyring is public keys (RFC 7517).
type Keyring []jose.JSONWebKey

// ParseKeys reads a JWK set. Keys that can't be read are left out, as an issuer may have some of a kind that is not known here, and so are
// those that are not public.
func ParseKeys(text []byte) (Keyring, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, &broker.UpstreamError{Class: broker.ClassUnsent, What: "key set can't be read"}
	}
	var ring Keyring
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && key.Valid() && key.IsPublic() { // a shared secret is not public
			ring = append(ring, key)
		}
	}
	return ring, nil
}

// fitting are those that may have made a signature with that key id and algorithm. Without an id all of the kind do.
func (k Keyring) fitting(id string, alg string) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, key := range k {
		if (id == "" || key.KeyID == id) && (key.Algorithm == "" || key.Algorithm == alg) && (key.Use == "" || key.Use == "sig") && len(out) < maxKeys {
			out = append(out, key)
		}
	}
	return out
}

// Keys are the keys of an issuer: those that it publishes, or fixed ones. It is safe for concurrent use and does nothing in the background.
type Keys struct {
	fetch *providers.Fetcher
	ring  *Cached[Keyring]
	fixed Keyring
}

// NewKeys are those that an issuer publishes.
func NewKeys(fetch *providers.Fetcher, now func() time.Time) *Keys {
	return &Keys{fetch: fetch, ring: NewCached[Keyring](now)}
}

// FixedKeys are these, and no others.
func FixedKeys(ring Keyring) *Keys { return &Keys{fixed: ring} }

// find returns the keys for a signature, which the issuer publishes at that address. One whose key is not there may be of a new key: then
// they are asked for anew, which nobody can make us do more often than each minute.
func (k *Keys) find(ctx context.Context, address, id, alg string) ([]jose.JSONWebKey, error) {
	if k.ring == nil {
		return k.fixed.fitting(id, alg), nil
	}
	ring, err := k.ring.Get(ctx, func(r Keyring) bool { return len(r.fitting(id, alg)) == 0 }, func(ctx context.Context) (Keyring, error) {
		got, err := k.fetch.Do(ctx, providers.Fetch{What: "key set", Method: http.MethodGet, URL: address, Timeout: fetchTimeout})
		if err != nil || got.Status != http.StatusOK {
			return nil, &broker.UpstreamError{Class: broker.ClassUnsent, Status: got.Status, What: "key set is not available", Cause: err}
		}
		ring, err := ParseKeys(got.Body)
		if err == nil && len(ring) == 0 { // of an issuer that is being set up, or of what answers in its place
			err = &broker.UpstreamError{Class: broker.ClassUnsent, What: "key set has no usable key"}
		}
		return ring, err
	})
	if err != nil {
		return nil, err
	}
	return ring.fitting(id, alg), nil
}
