package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// What wrapped keysets are bound to, so that they can't stand in for one another; a tenant's also to the tenant.
var (
	sealsAD = []byte("tokenbroker/keyset/seals/v1")
	indexAD = []byte("tokenbroker/keyset/index/v1")
)

// keysetFormat is the form of the file that is written, twoKEKsFormat that of one which two KEKs open.
const (
	keysetFormat  = 2
	twoKEKsFormat = 3
)

// fileAD is what the installation's keyset is bound to: of the present form to the tenants that are erased, so that whoever can write the
// file but not ask the KEK can't declare one erased that is not.
func fileAD(format int, erased map[string]erasedTenant) ([]byte, error) {
	switch format {
	case 0:
		return sealsAD, nil
	case keysetFormat, twoKEKsFormat:
	default:
		return nil, errors.New("keyset file is of a newer version than this program")
	}
	parts := []string{}
	for _, tenant := range slices.Sorted(maps.Keys(erased)) {
		parts = append(parts, tenant, erased[tenant].At.UTC().Format(time.RFC3339Nano))
		for _, id := range erased[tenant].Keys {
			parts = append(parts, strconv.FormatUint(uint64(id), 10))
		}
		parts = append(parts, "")
	}
	sum := sha256.Sum256(joined(parts...))
	return fmt.Appendf(nil, "tokenbroker/keyset/seals/v%d/%s", format, base64.RawURLEncoding.EncodeToString(sum[:])), nil
}

func tenantAD(tenant string) []byte { return joined("tokenbroker/keyset/tenant/v1", tenant) }

// keysetFile is the file: the JSON form of a Tink encrypted keyset, for sealing, with a second one in the member "index",
// for the keyed hashes in key names. The index key is never rotated: a new one would lose every record.
type keysetFile struct {
	// Format is what the encrypted keyset is bound to: 2, which tenants are erased; 3, that too, and it is encrypted with a key that each of
	// KEKs opens; none, as versions before wrote it, to nothing more. It can't be set back: what was bound to something does not open without it.
	Format int `json:"format,omitempty"`
	// KEK names the one KEK that the file is encrypted with, for people: nothing depends on it.
	KEK             string          `json:"kek,omitempty"`
	KEKs            []wrappedKey    `json:"keks,omitempty"`
	EncryptedKeyset json.RawMessage `json:"encryptedKeyset"`
	KeysetInfo      json.RawMessage `json:"keysetInfo,omitempty"`
	Index           json.RawMessage `json:"index,omitempty"`
	Keys            json.RawMessage `json:"key,omitempty"` // only in a clear keyset, which is refused
	// Created is when each key for sealing was made, by its id in decimal: for people to read, nothing depends on it. A file of an
	// earlier version has none, and one that such a version rotated loses it.
	Created map[string]time.Time `json:"created,omitempty"`
	// Trail says which of the keys are for entries of the audit trail (broker/decisions/0029-keys.md). A file of an earlier version
	// has none, and one that such a version rotated loses it: then its keys still open, and the trail gets new ones.
	Trail *trailKeys `json:"trail,omitempty"`
	// Tenants are the keysets of tenants that have their own, each sealed by this one: the file without its index. Erased are those
	// whose keyset was destroyed.
	Tenants map[string]json.RawMessage `json:"tenants,omitempty"`
	Erased  map[string]erasedTenant    `json:"erased,omitempty"`
}

// trailKeys are the keys for the audit trail among those of a keyset: all, and the one that seals new entries.
type trailKeys struct {
	Keys    []uint32 `json:"keys"`
	Primary uint32   `json:"primary,omitempty"` // 0: none yet; the keyset's own primary seals entries too
}

// erasedTenant is what is left of a tenant's keyset: the ids of its keys, so that what they sealed is told from what was forged.
type erasedTenant struct {
	At   time.Time `json:"at"`
	Keys []uint32  `json:"keys"`
}

// keysetDoc is a file, opened.
type keysetDoc struct {
	keyRing
	index   *keyset.Handle
	tenants map[string]*keyRing
	erased  map[string]erasedTenant
	shared  *sharedKey // nil: one KEK encrypts it
	kek     string     // the name of the KEK that opened it
}

// keyRing is one set of keys for sealing: the installation's or a tenant's.
type keyRing struct {
	keys    *keyset.Handle
	trail   trailKeys
	created createdAt
}

func newKeysetDoc(now time.Time) (*keysetDoc, error) {
	index, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("make index key: %w", err)
	}
	doc := &keysetDoc{index: index, tenants: map[string]*keyRing{}, erased: map[string]erasedTenant{}}
	ring, err := doc.newRing(now)
	if err != nil {
		return nil, err
	}
	doc.keyRing = *ring
	return doc, nil
}

// newRing makes a key for records and one for the audit trail, each at work at once: there is nobody yet who lacks it.
func (d *keysetDoc) newRing(now time.Time) (*keyRing, error) {
	ring := &keyRing{created: createdAt{}}
	manager := keyset.NewManager()
	records, err := d.addTo(manager)
	if err == nil {
		err = manager.SetPrimary(records)
	}
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	audit, err := d.addTo(manager)
	if err != nil {
		return nil, err
	}
	if ring.keys, err = manager.Handle(); err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	ring.trail = trailKeys{Keys: []uint32{audit}, Primary: audit}
	ring.created.with(records, now).with(audit, now)
	return ring, nil
}

// addTo adds a key whose id no other key of the file has or had: the id before a sealed value tells which one opens it.
func (d *keysetDoc) addTo(manager *keyset.Manager) (uint32, error) {
	for {
		id, err := manager.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return 0, fmt.Errorf("add key: %w", err)
		}
		if !d.knows(id) {
			return id, nil
		}
		if err := manager.Delete(id); err != nil {
			return 0, fmt.Errorf("add key: %w", err)
		}
	}
}

// knows tells that the file has a key of that id, or had it when it was erased.
func (d *keysetDoc) knows(id uint32) bool {
	if d.keys != nil && d.keyRing.has(id) {
		return true
	}
	for _, ring := range d.tenants {
		if ring.has(id) {
			return true
		}
	}
	for _, erased := range d.erased {
		if slices.Contains(erased.Keys, id) {
			return true
		}
	}
	return false
}

// ids lists the keys, oldest first.
func (r *keyRing) ids() []uint32 {
	var ids []uint32
	for i := range r.keys.Len() {
		if entry, err := r.keys.Entry(i); err == nil {
			ids = append(ids, entry.KeyID())
		}
	}
	return ids
}

func (r *keyRing) has(id uint32) bool { return slices.Contains(r.ids(), id) }

// createdAt is keysetFile.Created.
type createdAt map[string]time.Time

func (c createdAt) with(id uint32, at time.Time) createdAt {
	if !at.IsZero() {
		c[strconv.FormatUint(uint64(id), 10)] = at.UTC().Truncate(time.Second)
	}
	return c
}

// readBeside reads what only describes the keys. What can't be read must not keep them from being used.
func readBeside(content []byte) (created createdAt, trail trailKeys) {
	var dates struct {
		Created createdAt `json:"created"`
	}
	if json.Unmarshal(content, &dates) != nil || dates.Created == nil {
		dates.Created = createdAt{}
	}
	var keys struct {
		Trail trailKeys `json:"trail"`
	}
	if json.Unmarshal(content, &keys) != nil {
		keys.Trail = trailKeys{}
	}
	return dates.Created, keys.Trail
}

// wrap makes the content of the file. Tenants' keysets are sealed anew with it, so that no key of the installation is needed for
// them but the primary one. While two KEKs open the file neither is asked.
func (d *keysetDoc) wrap(kek KEK) ([]byte, error) {
	format, name := keysetFormat, KEKName(kek)
	if d.shared != nil {
		format, name, kek = twoKEKsFormat, "", d.shared
	}
	ad, err := fileAD(format, d.erased)
	if err != nil {
		return nil, err
	}
	file, err := d.keyRing.wrap(kek, ad)
	if err != nil {
		return nil, err
	}
	if file.Format, file.KEK = format, name; d.shared != nil {
		file.KEKs = d.shared.wrapped
	}
	if file.Index, err = wrapHandle(d.index, kek, indexAD); err != nil {
		return nil, err
	}
	file.Erased = d.erased
	if len(d.tenants) > 0 {
		seals, err := aead.New(d.keys)
		if err != nil {
			return nil, fmt.Errorf("seal tenants' keysets: %w", err)
		}
		file.Tenants = make(map[string]json.RawMessage, len(d.tenants))
		for tenant, ring := range d.tenants {
			wrapped, err := ring.wrap(seals, tenantAD(tenant))
			if err != nil {
				return nil, fmt.Errorf("tenant %s: %w", tenant, err)
			}
			if file.Tenants[tenant], err = json.Marshal(wrapped); err != nil {
				return nil, fmt.Errorf("write keyset: %w", err)
			}
		}
	}
	out, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	return append(out, '\n'), nil
}

func (r *keyRing) wrap(kek tink.AEAD, ad []byte) (*keysetFile, error) {
	wrapped, err := wrapHandle(r.keys, kek, ad)
	if err != nil {
		return nil, err
	}
	file := &keysetFile{}
	if err := json.Unmarshal(wrapped, file); err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	if file.Created = r.created; len(r.trail.Keys) > 0 {
		file.Trail = &r.trail
	}
	return file, nil
}

func wrapHandle(h *keyset.Handle, kek tink.AEAD, ad []byte) ([]byte, error) {
	var buf bytes.Buffer
	if err := h.WriteWithAssociatedData(keyset.NewJSONWriter(&buf), kek, ad); err != nil {
		return nil, fmt.Errorf("wrap keyset: %w", err)
	}
	return buf.Bytes(), nil
}

// openKeysetDoc opens the content of a file. It refuses one whose keys are in clear.
func openKeysetDoc(content []byte, kek KEK) (*keysetDoc, error) {
	var file struct {
		keysetFile
		Created json.RawMessage `json:"created"` // readBeside
		Trail   json.RawMessage `json:"trail"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, errors.New("keyset file is not JSON: make one with `tokenbroker keyset create`")
	}
	switch {
	case len(file.Keys) > 0:
		return nil, errors.New("keyset file holds its keys in clear: make an encrypted one with `tokenbroker keyset create` and destroy this one")
	case len(file.EncryptedKeyset) == 0 || len(file.Index) == 0:
		return nil, errors.New("keyset file lacks encryptedKeyset or index: make one with `tokenbroker keyset create`")
	}
	ad, err := fileAD(file.Format, file.Erased)
	if err != nil {
		return nil, err
	}
	doc := &keysetDoc{tenants: make(map[string]*keyRing, len(file.Tenants)), erased: maps.Clone(file.Erased), kek: KEKName(kek)}
	own := kek
	if file.Format == twoKEKsFormat {
		if doc.shared, err = openSharedKey(sharedKeyset, file.KEKs, kek); err != nil {
			return nil, fmt.Errorf("open keyset: %w", err)
		}
		kek, doc.kek = doc.shared, doc.shared.opened
	}
	ring, err := openRing(content, kek, ad)
	if err != nil && len(file.Erased) > 0 && file.Format > 0 {
		err = fmt.Errorf("%w; or is it that somebody has changed which tenants are erased?", err)
	}
	if err != nil {
		return nil, otherKEK(err, own, file.KEK)
	}
	doc.keyRing = *ring
	if doc.erased == nil {
		doc.erased = map[string]erasedTenant{}
	}
	if doc.index, err = unwrapHandle(file.Index, kek, indexAD); err != nil {
		return nil, err
	}
	if len(file.Tenants) == 0 {
		return doc, nil
	}
	seals, err := aead.New(doc.keys)
	if err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	for tenant, wrapped := range file.Tenants {
		if doc.tenants[tenant], err = openRing(wrapped, seals, tenantAD(tenant)); err != nil {
			return nil, fmt.Errorf("tenant %s: %w", tenant, err)
		}
	}
	return doc, nil
}

func openRing(content []byte, kek tink.AEAD, ad []byte) (*keyRing, error) {
	var file struct {
		EncryptedKeyset json.RawMessage `json:"encryptedKeyset"`
		KeysetInfo      json.RawMessage `json:"keysetInfo,omitempty"`
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, fmt.Errorf("read keyset: %w", err)
	}
	outer, err := json.Marshal(file)
	if err != nil {
		return nil, fmt.Errorf("read keyset: %w", err)
	}
	ring := &keyRing{}
	if ring.keys, err = unwrapHandle(outer, kek, ad); err != nil {
		return nil, err
	}
	ring.created, ring.trail = readBeside(content)
	ring.trail.Keys = slices.DeleteFunc(ring.trail.Keys, func(id uint32) bool { return !ring.has(id) })
	if !slices.Contains(ring.trail.Keys, ring.trail.Primary) {
		ring.trail.Primary = 0
	}
	return ring, nil
}

func unwrapHandle(wrapped []byte, kek tink.AEAD, ad []byte) (*keyset.Handle, error) {
	h, err := keyset.ReadWithAssociatedData(keyset.NewJSONReader(bytes.NewReader(wrapped)), kek, ad)
	if err != nil {
		return nil, fmt.Errorf("open keyset (is it the KEK that it was made with?): %w", err)
	}
	return h, nil
}
