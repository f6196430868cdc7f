package login

import (
	"context"
	"net/http"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// maxKeys bounds how many keys are tried for one token.
const maxKeys = 16

// algorithms are those that an ID token may be signed with: no "none", and none whose key the verifier could sign with too
// (HS256 with a public key, RFC 8725 section 2.1).
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// keyring is a provider's public keys (RFC 7517). The keys that can't be read are left out: a provider may have some of a kind
// that is not known here.
type keyring []jose.JSONWebKey

// fitting are those that may have made a signature with that key id and algorithm. Without an id all of the kind do.
func (k keyring) fitting(id string, alg string) []jose.JSONWebKey {
	var out []jose.JSONWebKey
	for _, key := range k {
		if (id == "" || key.KeyID == id) && (key.Algorithm == "" || key.Algorithm == alg) && (key.Use == "" || key.Use == "sig") && len(out) < maxKeys {
			out = append(out, key)
		}
	}
	return out
}

// keys returns the provider's keys for a signature. One whose key is not there may be of a new key: then they are asked for
// anew, which nobody can make us do more often than each minute.
func (c *client) keys(ctx context.Context, address, id, alg string) ([]jose.JSONWebKey, error) {
	ring, err := c.ring.get(ctx, func(k keyring) bool { return len(k.fitting(id, alg)) == 0 }, func(ctx context.Context) (keyring, error) {
		return c.fetchKeys(ctx, address)
	})
	if err != nil {
		return nil, err
	}
	return ring.fitting(id, alg), nil
}

func (c *client) fetchKeys(ctx context.Context, address string) (keyring, error) {
	got, err := c.fetch.Do(ctx, providers.Fetch{What: "key set", Method: http.MethodGet, URL: address, Timeout: metadataTimeout})
	if err != nil || got.Status != http.StatusOK {
		return nil, &broker.UpstreamError{Class: broker.ClassUnsent, Status: got.Status, What: "key set is not available", Cause: err}
	}
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(got.Body, &set); err != nil {
		return nil, &broker.UpstreamError{Class: broker.ClassUnsent, What: "key set can't be read"}
	}
	var ring keyring
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) == nil && key.Valid() && key.IsPublic() { // a shared secret is not public
			ring = append(ring, key)
		}
	}
	return ring, nil
}
