package vault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/tink-crypto/tink-go/v2/tink"

	"tokenbroker/broker"
)

// sealer seals and opens values. Each seal names the place where its value lies (the associated data), so that a value
// copied elsewhere does not open.
type sealer struct {
	keyset  *Keyset
	refresh func() error // loads a newer keyset; nil: there is none
	now     func() time.Time
	looks   keyLooks
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

// seal seals with the installation's keys.
func (s *sealer) seal(plain, place []byte) (string, error) { return s.sealFor("", plain, place) }

// sealFor seals with the tenant's keys, which are the installation's where it has none of its own.
func (s *sealer) sealFor(tenant string, plain, place []byte) (string, error) {
	keys, err := s.keyset.current.Load().of(tenant)
	if err != nil {
		return "", err
	}
	return encrypt(keys.seals, plain, place)
}

// sealEntry seals what nobody can seal anew: an entry of the tenant's audit trail.
func (s *sealer) sealEntry(tenant string, plain, place []byte) (string, error) {
	all := s.keyset.current.Load()
	keys, err := all.of(tenant)
	if err != nil {
		keys = &all.ring // what is recorded of an erased tenant is not the tenant's any more
	}
	return encrypt(keys.trail, plain, place)
}

// openEntry opens what sealEntry sealed. Of an erased tenant that is what the installation's keys have sealed; ErrTenantErased for what
// the tenant's own had, and for nothing else.
func (s *sealer) openEntry(tenant string, sealed, place []byte) ([]byte, error) {
	plain, owner, err := s.openAny(sealed, place)
	id, _ := keyID(sealed)
	switch {
	case errors.Is(err, broker.ErrTenantErased) && !s.keyset.current.Load().erased[tenant][id]:
		return nil, fmt.Errorf("open: sealed with another tenant's key: %w", broker.ErrIntegrity)
	case err != nil:
		return nil, err
	case owner != "" && owner != tenant:
		return nil, fmt.Errorf("open: sealed with another tenant's key: %w", broker.ErrIntegrity)
	}
	return plain, nil
}

func encrypt(with tink.AEAD, plain, place []byte) (string, error) {
	sealed, err := with.Encrypt(plain, place)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	return string(sealed), nil
}

// of are the keys that seal what is the tenant's.
func (p *primitives) of(tenant string) (*ring, error) {
	if tenant == "" || len(p.tenants)+len(p.erased) == 0 {
		return &p.ring, nil
	}
	if own := p.tenants[tenant]; own != nil {
		return own, nil
	}
	if p.erased[tenant] != nil {
		return nil, fmt.Errorf("seal: %w", broker.ErrTenantErased)
	}
	return &p.ring, nil
}

// open opens what the installation's keys sealed.
func (s *sealer) open(sealed, place []byte) ([]byte, error) { return s.openFor("", sealed, place) }

// openFor opens what is the tenant's: another tenant's key has nothing to say there, whoever has it. ErrIntegrity: the value does
// not belong at the place or was changed. ErrTenantErased.
func (s *sealer) openFor(tenant string, sealed, place []byte) ([]byte, error) {
	if s.keyset.current.Load().isErased(tenant) {
		return nil, fmt.Errorf("open: %w", broker.ErrTenantErased)
	}
	plain, owner, err := s.openAny(sealed, place)
	switch {
	case errors.Is(err, broker.ErrTenantErased) && !s.keyset.current.Load().isErased(tenant):
		return nil, fmt.Errorf("open: sealed with the key of another tenant, which was erased: %w", broker.ErrIntegrity)
	case err != nil:
		return nil, err
	case owner != "" && owner != tenant:
		return nil, fmt.Errorf("open: sealed with another tenant's key: %w", broker.ErrIntegrity)
	}
	return plain, nil
}

// openAny opens what says inside whose it is; owner is the tenant whose key sealed it, "": the installation's. The caller compares.
func (s *sealer) openAny(sealed, place []byte) (plain []byte, owner string, err error) {
	keys := s.keyset.current.Load()
	id, ok := keyID(sealed)
	with := keys.openers[id]
	if ok && with == nil && len(sealed) >= leastSeal {
		if keys.erasedKey(id) {
			return nil, "", keys.lacks(id) // for good
		}
		// Another replica may seal with a key that was added since this one read the keyset.
		if keys, err = s.newerKeys(id); err != nil {
			return nil, "", err
		}
		if with = keys.openers[id]; with == nil {
			return nil, "", keys.lacks(id)
		}
	}
	if with == nil {
		with = &keys.ring // no seal of ours: it says so
	}
	if plain, err = with.seals.Decrypt(sealed, place); err != nil {
		return nil, "", fmt.Errorf("open: %w", broker.ErrIntegrity)
	}
	return plain, with.tenant, nil
}

// lacks is the error of a value whose key does not open.
func (p *primitives) lacks(id uint32) error {
	for tenant, ids := range p.erased {
		if ids[id] {
			return fmt.Errorf("open: key %d was destroyed with the keyset of tenant %s: %w", id, tenant, broker.ErrTenantErased)
		}
	}
	rings := []*ring{&p.ring}
	for _, own := range p.tenants {
		rings = append(rings, own)
	}
	for _, r := range rings {
		if info, ok := r.list.Find(id); ok {
			return fmt.Errorf("open: key %d is %s: %w", id, info.Status, broker.ErrIntegrity)
		}
	}
	return absentKey{id}
}

// isErased tells that the tenant's keyset was destroyed: nothing of the tenant is read any more, whatever key sealed it.
func (p *primitives) isErased(tenant string) bool {
	return len(p.erased) > 0 && p.erased[tenant] != nil
}

// erasedKey tells that the key was destroyed with a tenant's keyset.
func (p *primitives) erasedKey(id uint32) bool {
	for _, ids := range p.erased {
		if ids[id] {
			return true
		}
	}
	return false
}

// leastSeal is what a seal takes: Tink's prefix, nonce and tag of AES-GCM.
const leastSeal = 5 + 12 + 16

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
