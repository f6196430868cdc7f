package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"tokenbroker/broker"
)

// maxKeyBytes bounds what is hashed for somebody who is not known yet.
const maxKeyBytes = 1024

// bearerChallenge is what a 401 answers with (RFC 6750 section 3).
const bearerChallenge = `Bearer realm="tokenbroker"`

// keyring knows the digests of all API keys. It holds no key.
type keyring struct {
	digests [][sha256.Size]byte
	owners  []broker.Client // of the digest at the same index
	clients map[string]broker.Client
}

func newKeyring(clients []ClientKey) (keyring, error) {
	k := keyring{clients: map[string]broker.Client{}}
	var problems []error
	owner := map[[sha256.Size]byte]string{}
	// Digests of nothing: they would let a request without a real key in.
	owner[[sha256.Size]byte{}] = "nobody: it is all zeros"
	owner[sha256.Sum256(nil)] = "nobody: it is the digest of an empty key"
	ids := map[string]bool{}
	for _, c := range clients {
		if c.Client.ID == "" || c.Client.Tenant == "" {
			problems = append(problems, fmt.Errorf("client %q needs an id and a tenant", c.Client.ID))
		}
		if ids[c.Client.ID] {
			problems = append(problems, fmt.Errorf("client %q is there twice", c.Client.ID))
		}
		ids[c.Client.ID] = true
		k.clients[c.Client.ID] = c.Client
		if len(c.KeySHA256) == 0 && !c.Otherwise {
			problems = append(problems, fmt.Errorf("client %q has no key", c.Client.ID))
		}
		for i, digest := range c.KeySHA256 {
			if other, taken := owner[digest]; taken {
				problems = append(problems, fmt.Errorf("key %d of client %q belongs to %s", i+1, c.Client.ID, other))
				continue
			}
			owner[digest] = fmt.Sprintf("client %q already", c.Client.ID)
			k.digests = append(k.digests, digest)
			k.owners = append(k.owners, c.Client)
		}
	}
	return k, errors.Join(problems...)
}

// find returns the client whose key it is. It compares digests of fixed length in constant time, and always all of them,
// so that neither the closeness of a guess nor whose key it is shows in the time it takes (threat 39).
func (k keyring) find(key string) (broker.Client, bool) {
	digest := sha256.Sum256(append(make([]byte, 0, 128), key...)) // most keys fit, and cost no allocation
	found := -1
	for i := range k.digests {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], k.digests[i][:]), i, found)
	}
	if found < 0 {
		return broker.Client{}, false
	}
	return k.owners[found], true
}

// authenticate tells which client asks (RFC 6750 section 2.1). Only the Authorization header counts, and it must be
// there once: with two of them, a proxy and we could look at different ones.
func (k keyring) authenticate(header http.Header) (broker.Client, error) {
	if scheme, key := credentials(header); strings.EqualFold(scheme, "Bearer") && key != "" && len(key) <= maxKeyBytes {
		if client, known := k.find(key); known {
			return client, nil
		}
	}
	return broker.Client{}, errWrongKey()
}

// credentials are those of the one Authorization header (RFC 9110 section 11.6.2); "": there is none, or several.
func credentials(header http.Header) (scheme, rest string) {
	if values := header.Values("Authorization"); len(values) == 1 {
		scheme, rest, _ = strings.Cut(values[0], " ")
	}
	return scheme, strings.Trim(rest, " ")
}

func errWrongKey() error {
	return &refusal{
		status: http.StatusUnauthorized,
		header: http.Header{"Www-Authenticate": {bearerChallenge}},
		err: broker.Errorf(broker.CodeInvalidClient,
			"send one header \"Authorization: Bearer API_KEY\" with an API key of your client"),
	}
}
