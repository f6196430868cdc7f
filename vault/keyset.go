package vault

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// KeyInfo describes a key of a keyset without its material.
type KeyInfo struct {
	ID      uint32 `json:"id"`
	Status  string `json:"status"`  // enabled, disabled, destroyed
	Primary bool   `json:"primary"` // it seals: records, or entries of the audit trail
	// Created is when the key was made; zero: before this was kept.
	Created time.Time `json:"created,omitzero"`
}

// CreateKeyset makes a keyset with a key for records, one for the audit trail and the index key, wrapped by the KEK.
func CreateKeyset(kek KEK, now time.Time) ([]byte, error) {
	doc, err := newKeysetDoc(now)
	if err != nil {
		return nil, err
	}
	return doc.wrap(kek)
}

// KeyList are the keys of a keyset by what they seal, oldest first.
type KeyList struct {
	Records []KeyInfo
	// Audit are for entries of the audit trail; none: it is sealed with the others.
	Audit []KeyInfo
}

// All are both.
func (l KeyList) All() []KeyInfo { return slices.Concat(l.Records, l.Audit) }

// Find returns the key of that id.
func (l KeyList) Find(id uint32) (KeyInfo, bool) {
	all := l.All()
	if i := slices.IndexFunc(all, func(k KeyInfo) bool { return k.ID == id }); i >= 0 {
		return all[i], true
	}
	return KeyInfo{}, false
}

// ListKeyset describes the keys that seal records, oldest first.
func ListKeyset(file []byte, kek KEK) ([]KeyInfo, error) {
	list, err := ListKeys(file, kek, "")
	return list.Records, err
}

// ListKeys describes all keys: the installation's, or the tenant's own. ErrNoKeyset: it has none.
func ListKeys(file []byte, kek KEK, tenant string) (KeyList, error) {
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		return KeyList{}, err
	}
	ring, err := doc.ring(tenant)
	if err != nil {
		return KeyList{}, err
	}
	return ring.describe()
}

func (r *keyRing) describe() (list KeyList, err error) {
	for i := range r.keys.Len() {
		entry, err := r.keys.Entry(i)
		if err != nil {
			return list, fmt.Errorf("read keyset: %w", err)
		}
		id := entry.KeyID()
		info := KeyInfo{ID: id, Status: "disabled", Primary: entry.IsPrimary(), Created: r.created[strconv.FormatUint(uint64(id), 10)]}
		switch entry.KeyStatus() {
		case keyset.Enabled:
			info.Status = "enabled"
		case keyset.Destroyed:
			info.Status = "destroyed"
		}
		if slices.Contains(r.trail.Keys, id) {
			info.Primary = id == r.trail.Primary
			list.Audit = append(list.Audit, info)
			continue
		}
		list.Records = append(list.Records, info)
	}
	return list, nil
}

// Keyset holds the opened keys. It is safe for concurrent use, and Reload may exchange the keys at any time.
type Keyset struct {
	kek     KEK // nil: ephemeral
	current atomic.Pointer[primitives]
}

// primitives are the keys, ready for use.
type primitives struct {
	ring  // the installation's
	index *keyedHash
	// tenants have the rings of those that have one of their own; erased are those whose ring was destroyed.
	tenants map[string]*ring
	erased  map[string]map[uint32]bool
	// openers are the rings by the ids of their keys that can open.
	openers map[uint32]*ring
	digest  string
	kek     string
}

// ring is one set of keys for sealing.
type ring struct {
	tenant string // "": the installation's
	seals  tink.AEAD
	trail  tink.AEAD
	// primary seals records, audit entries of the audit trail.
	primary uint32
	audit   uint32
	list    KeyList
}

// Keys describes the keys for records that are in use now, oldest first.
func (k *Keyset) Keys() []KeyInfo { return slices.Clone(k.current.Load().list.Records) }

// AuditKeys describes those for the audit trail.
func (k *Keyset) AuditKeys() []KeyInfo { return slices.Clone(k.current.Load().list.Audit) }

// IsAudit tells that the key is one for the audit trail, the installation's or a tenant's.
func (k *Keyset) IsAudit(id uint32) bool {
	p := k.current.Load()
	is := func(r *ring) bool {
		return slices.ContainsFunc(r.list.Audit, func(k KeyInfo) bool { return k.ID == id })
	}
	for _, own := range p.tenants {
		if is(own) {
			return true
		}
	}
	return is(&p.ring)
}

// Digest names what keys there are, with their states, those of tenants too: two processes in which it is the same seal alike.
func (k *Keyset) Digest() string { return k.current.Load().digest }

// KEK names the KEK that opened the keyset: of a file which several open, as it is called there.
func (k *Keyset) KEK() string { return k.current.Load().kek }

// OpenKeyset opens a keyset file's content. It refuses one whose keys are in clear.
func OpenKeyset(file []byte, kek KEK) (*Keyset, error) {
	k := &Keyset{kek: kek}
	p, err := openPrimitives(file, kek)
	if err != nil {
		return nil, err
	}
	k.current.Store(p)
	return k, nil
}

// NewEphemeralKeyset makes a keyset that lives and ends with the process.
func NewEphemeralKeyset() (*Keyset, error) {
	doc, err := newKeysetDoc(time.Time{})
	if err != nil {
		return nil, err
	}
	p, err := doc.primitives()
	if err != nil {
		return nil, err
	}
	k := &Keyset{}
	k.current.Store(p)
	return k, nil
}

// Reload exchanges the keys for those of the file's new content. On an error the old ones stay; one is that the content is older than
// what is in use.
func (k *Keyset) Reload(file []byte) error {
	if k.kek == nil {
		return errors.New("reload keyset: it is ephemeral")
	}
	fresh, err := openPrimitives(file, k.kek)
	if err != nil {
		return err
	}
	const probe = "tokenbroker/keyset/probe"
	was, is := k.current.Load().index.sum(nil, 32, probe), fresh.index.sum(nil, 32, probe)
	if subtle.ConstantTimeCompare(was, is) != 1 {
		return errors.New("reload keyset: this is another keyset, its index key differs: no record would be found with it")
	}
	if err := k.current.Load().staleAgainst(fresh); err != nil {
		return fmt.Errorf("reload keyset: %w", err)
	}
	k.current.Store(fresh)
	return nil
}

// staleAgainst tells what the fresh keys lack of these, as a copy of the file from before does: a key that is in use, which `keyset
// delete` removes only once it is disabled, or that a tenant was erased. nil: nothing.
func (p *primitives) staleAgainst(fresh *primitives) error {
	for _, tenant := range slices.Sorted(maps.Keys(p.erased)) {
		if fresh.erased[tenant] == nil {
			return fmt.Errorf("the file is older than what is in use: the keyset of tenant %s was destroyed, and is not in it; put the newest copy of the file there", tenant)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(p.openers)) {
		tenant := p.openers[id].tenant
		if fresh.erased[tenant] == nil && !fresh.has(id) {
			return fmt.Errorf("the file is older than what is in use, or a key was removed from it that was not disabled first: it lacks key %d; put the newest copy of the file there, or restart if that key is to be gone", id)
		}
	}
	return nil
}

// has tells that there is a key of that id, in whatever state.
func (p *primitives) has(id uint32) bool {
	if _, ok := p.list.Find(id); ok {
		return true
	}
	for _, own := range p.tenants {
		if _, ok := own.list.Find(id); ok {
			return true
		}
	}
	return false
}

func openPrimitives(file []byte, kek KEK) (*primitives, error) {
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		return nil, err
	}
	return doc.primitives()
}

func (d *keysetDoc) primitives() (*primitives, error) {
	p := &primitives{kek: d.kek, tenants: make(map[string]*ring, len(d.tenants)), erased: make(map[string]map[uint32]bool, len(d.erased)), openers: make(map[uint32]*ring)}
	var err error
	if p.index, err = newKeyedHash(d.index); err != nil {
		return nil, err
	}
	own, err := d.keyRing.primitives("")
	if err != nil {
		return nil, err
	}
	p.ring = *own
	p.note(&p.ring)
	for tenant, keys := range d.tenants {
		if p.tenants[tenant], err = keys.primitives(tenant); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", tenant, err)
		}
		p.note(p.tenants[tenant])
	}
	for tenant, erased := range d.erased {
		p.erased[tenant] = make(map[uint32]bool, len(erased.Keys))
		for _, id := range erased.Keys {
			p.erased[tenant][id] = true
		}
	}
	p.digest = p.sum()
	return p, nil
}

// note makes the ring's keys known by their ids.
func (p *primitives) note(r *ring) {
	for _, k := range r.list.All() {
		if k.Status == "enabled" {
			p.openers[k.ID] = r
		}
	}
}

func (r *keyRing) primitives(tenant string) (*ring, error) {
	out := &ring{tenant: tenant}
	var err error
	if out.list, err = r.describe(); err != nil {
		return nil, err
	}
	if out.seals, err = aead.New(r.keys); err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	primary, err := r.keys.Primary()
	if err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	out.primary = primary.KeyID()
	if out.trail, out.audit = out.seals, out.primary; r.trail.Primary == 0 {
		return out, nil
	}
	manager := keyset.NewManagerFromHandle(r.keys)
	if err := manager.SetPrimary(r.trail.Primary); err != nil {
		return nil, fmt.Errorf("open keyset: the key for the audit trail: %w", err)
	}
	trail, err := manager.Handle()
	if err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	if out.trail, err = aead.New(trail); err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	out.audit = r.trail.Primary
	return out, nil
}

// sum makes the digest.
func (p *primitives) sum() string {
	var parts []string
	add := func(r *ring) {
		parts = append(parts, "ring", r.tenant)
		all := r.list.All()
		slices.SortFunc(all, func(a, b KeyInfo) int { return cmp.Compare(a.ID, b.ID) })
		for _, k := range all {
			parts = append(parts, strconv.FormatUint(uint64(k.ID), 10), k.Status, strconv.FormatBool(k.Primary))
		}
	}
	add(&p.ring)
	for _, tenant := range slices.Sorted(maps.Keys(p.tenants)) {
		add(p.tenants[tenant])
	}
	for _, tenant := range slices.Sorted(maps.Keys(p.erased)) {
		parts = append(parts, "erased", tenant)
	}
	sum := sha256.Sum256(joined(parts...))
	return base64.RawURLEncoding.EncodeToString(sum[:15])
}
