package vault

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"tokenbroker/broker"
)

// refreshPause is the least time between two attempts to load a newer keyset.
const refreshPause = time.Second

// sealer seals and opens values. Each seal names the place where its value lies (the associated data), so that a value
// copied elsewhere does not open.
type sealer struct {
	keyset  *Keyset
	refresh func() error // loads a newer keyset; nil: there is none
	now     func() time.Time

	mu   sync.Mutex
	last time.Time
}

// place is what a seal names: a domain (which kind of record), the tenant, the record, the field, its format, and what
// else must not change. Built by joined, so that it is unambiguous.
func place(domain, tenant, record, field, format string, pinned ...string) []byte {
	const prefix = "tokenbroker/"
	n := 5*4 + len(prefix) + len(domain) + len(tenant) + len(record) + len(field) + len(format)
	for _, p := range pinned {
		n += 4 + len(p)
	}
	b := binary.BigEndian.AppendUint32(make([]byte, 0, n), uint32(len(prefix)+len(domain)))
	b = append(append(b, prefix...), domain...)
	b = appendJoined(b, tenant, record, field, format)
	return appendJoined(b, pinned...)
}

func (s *sealer) seal(plain, place []byte) (string, error) {
	sealed, err := s.keyset.current.Load().seals.Encrypt(plain, place)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	return string(sealed), nil
}

// open returns ErrIntegrity when the value does not belong at the place or was changed.
func (s *sealer) open(sealed, place []byte) ([]byte, error) {
	keys := s.keyset.current.Load()
	if id, ok := keyID(sealed); ok && !keys.ids[id] {
		// Another replica may seal with a key that was added since this one read the keyset.
		fresh, err := s.newerKeys(keys)
		if err != nil {
			return nil, err
		}
		if keys = fresh; !keys.ids[id] {
			return nil, fmt.Errorf("open: no key of id %d in the keyset: %w", id, broker.ErrIntegrity)
		}
	}
	plain, err := keys.seals.Decrypt(sealed, place)
	if err != nil {
		return nil, fmt.Errorf("open: %w", broker.ErrIntegrity)
	}
	return plain, nil
}

// newerKeys asks for a newer keyset than had, at most once in a while, and returns what there is then.
func (s *sealer) newerKeys(had *primitives) (*primitives, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if current := s.keyset.current.Load(); current != had || s.refresh == nil || now.Sub(s.last).Abs() < refreshPause {
		return current, nil
	}
	s.last = now
	if err := s.refresh(); err != nil {
		return nil, fmt.Errorf("reload keyset: %w", err)
	}
	return s.keyset.current.Load(), nil
}

// keyID reads the key id that Tink puts before a ciphertext: a byte 1, then four bytes.
func keyID(sealed []byte) (uint32, bool) {
	if len(sealed) < 5 || sealed[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(sealed[1:5]), true
}

// hash is the keyed hash of the index key: n bytes, for the purpose and the parts.
func (s *sealer) hash(n int, purpose string, parts ...string) []byte {
	all := [8]string{purpose}
	return s.keyset.current.Load().index.sum(make([]byte, 0, n), n, append(all[:1], parts...)...)
}
