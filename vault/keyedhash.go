package vault

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"sync"

	"github.com/tink-crypto/tink-go/v2/insecuresecretdataaccess"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf/hmacprf"
)

// keyedHash is HMAC-SHA256 with the index key, as Tink's PRF computes it. Tink sets the key up anew with each call, which is half of
// the work for a text as short as ours, and a token takes four of them; here that is done once for many.
type keyedHash struct {
	ready sync.Pool // of *hashing
}

// hashing is a hash with the key set up, and room for what goes in and comes out.
type hashing struct {
	mac hash.Hash
	in  []byte
	out [sha256.Size]byte
}

// newKeyedHash takes the key out of Tink's hands. It stays in the process's memory as long as Tink's own copy does, and leaves it no
// other way.
func newKeyedHash(index *keyset.Handle) (*keyedHash, error) {
	entry, err := index.Primary()
	if err != nil {
		return nil, fmt.Errorf("open index keyset: %w", err)
	}
	key, ok := entry.Key().(*hmacprf.Key)
	if !ok {
		return nil, errors.New("open index keyset: its key is not one for HMAC")
	}
	if p, ok := key.Parameters().(*hmacprf.Parameters); !ok || p.HashType() != hmacprf.SHA256 {
		return nil, errors.New("open index keyset: its key is not one for SHA-256")
	}
	raw := key.KeyBytes().Data(insecuresecretdataaccess.Token{})
	h := &keyedHash{}
	h.ready.New = func() any { return &hashing{mac: hmac.New(sha256.New, raw)} }
	return h, nil
}

// sum appends the first n bytes, 32 at most, of the hash over the parts.
func (h *keyedHash) sum(to []byte, n int, parts ...string) []byte {
	one := h.ready.Get().(*hashing)
	defer h.ready.Put(one)
	one.in = appendJoined(one.in[:0], parts...)
	one.mac.Reset()
	_, _ = one.mac.Write(one.in)
	to = append(to, one.mac.Sum(one.out[:0])[:n]...)
	clear(one.in)
	return to
}
