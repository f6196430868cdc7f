package vault

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// What the KEK binds the two wrapped keysets to, so that they can't stand in for one another.
var (
	sealsAD = []byte("tokenbroker/keyset/seals/v1")
	indexAD = []byte("tokenbroker/keyset/index/v1")
)

// keysetFile is the file: the JSON form of a Tink encrypted keyset, for sealing, with a second one in the member "index",
// for the keyed hashes in key names. The index key is never rotated: a new one would lose every record.
type keysetFile struct {
	EncryptedKeyset json.RawMessage `json:"encryptedKeyset"`
	KeysetInfo      json.RawMessage `json:"keysetInfo,omitempty"`
	Index           json.RawMessage `json:"index,omitempty"`
	Keys            json.RawMessage `json:"key,omitempty"` // only in a clear keyset, which is refused
	// Created is when each key for sealing was made, by its id in decimal: for people to read, nothing depends on it. A file of an
	// earlier version has none, and one that such a version rotated loses it.
	Created map[string]time.Time `json:"created,omitempty"`
}

// KeyInfo describes a key of a keyset without its material.
type KeyInfo struct {
	ID      uint32 `json:"id"`
	Status  string `json:"status"` // enabled, disabled, destroyed
	Primary bool   `json:"primary"`
	// Created is when the key was made; zero: before this was kept.
	Created time.Time `json:"created,omitzero"`
}

// CreateKeyset makes a keyset with one key for sealing and the index key, wrapped by the KEK.
func CreateKeyset(kek KEK, now time.Time) ([]byte, error) {
	seals, index, err := newHandles()
	if err != nil {
		return nil, err
	}
	return wrapKeyset(seals, index, kek, createdAt{}.with(primaryID(seals), now))
}

// RotateKeyset adds a key and makes it primary. Old keys still open what they sealed.
func RotateKeyset(file []byte, kek KEK, now time.Time) ([]byte, error) {
	seals, index, err := unwrapKeyset(file, kek)
	if err != nil {
		return nil, err
	}
	manager := keyset.NewManagerFromHandle(seals)
	id, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("add key: %w", err)
	}
	if err := manager.SetPrimary(id); err != nil {
		return nil, fmt.Errorf("make key primary: %w", err)
	}
	if seals, err = manager.Handle(); err != nil {
		return nil, fmt.Errorf("add key: %w", err)
	}
	return wrapKeyset(seals, index, kek, readCreated(file).with(id, now))
}

// createdAt is keysetFile.Created.
type createdAt map[string]time.Time

// readCreated reads it from a file that was read before.
func readCreated(content []byte) createdAt {
	var file struct {
		Created createdAt `json:"created"`
	}
	if json.Unmarshal(content, &file) != nil || file.Created == nil {
		return createdAt{} // a date that can't be read must not keep the keys from being used
	}
	return file.Created
}

func (c createdAt) with(id uint32, at time.Time) createdAt {
	c[strconv.FormatUint(uint64(id), 10)] = at.UTC().Truncate(time.Second)
	return c
}

func primaryID(h *keyset.Handle) uint32 {
	entry, err := h.Primary()
	if err != nil {
		return 0
	}
	return entry.KeyID()
}

// ListKeyset describes the sealing keys, oldest first.
func ListKeyset(file []byte, kek KEK) ([]KeyInfo, error) {
	seals, _, err := unwrapKeyset(file, kek)
	if err != nil {
		return nil, err
	}
	return describe(seals, readCreated(file))
}

func describe(seals *keyset.Handle, created createdAt) ([]KeyInfo, error) {
	var keys []KeyInfo
	for i := range seals.Len() {
		entry, err := seals.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("read keyset: %w", err)
		}
		status := "disabled"
		switch entry.KeyStatus() {
		case keyset.Enabled:
			status = "enabled"
		case keyset.Destroyed:
			status = "destroyed"
		}
		keys = append(keys, KeyInfo{ID: entry.KeyID(), Status: status, Primary: entry.IsPrimary(), Created: created[strconv.FormatUint(uint64(entry.KeyID()), 10)]})
	}
	return keys, nil
}

// Keyset holds the opened keys. It is safe for concurrent use, and Reload may exchange the keys at any time.
type Keyset struct {
	kek     KEK // nil: ephemeral
	current atomic.Pointer[primitives]
}

type primitives struct {
	seals tink.AEAD
	ids   map[uint32]bool // keys that can open
	index *keyedHash
	// primary is the key that seals.
	primary uint32
	infos   []KeyInfo
}

// Keys describes the keys that are in use now, oldest first.
func (k *Keyset) Keys() []KeyInfo { return slices.Clone(k.current.Load().infos) }

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
	seals, index, err := newHandles()
	if err != nil {
		return nil, err
	}
	p, err := makePrimitives(seals, index, createdAt{})
	if err != nil {
		return nil, err
	}
	k := &Keyset{}
	k.current.Store(p)
	return k, nil
}

// Reload exchanges the keys for those of the file's new content. On an error the old ones stay.
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
	k.current.Store(fresh)
	return nil
}

func newHandles() (seals, index *keyset.Handle, err error) {
	if seals, err = keyset.NewHandle(aead.AES256GCMKeyTemplate()); err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	if index, err = keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate()); err != nil {
		return nil, nil, fmt.Errorf("make index key: %w", err)
	}
	return seals, index, nil
}

func wrapKeyset(seals, index *keyset.Handle, kek KEK, created createdAt) ([]byte, error) {
	wrapped, err := wrapHandle(seals, kek, sealsAD)
	if err != nil {
		return nil, err
	}
	var file keysetFile
	if err := json.Unmarshal(wrapped, &file); err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	if file.Index, err = wrapHandle(index, kek, indexAD); err != nil {
		return nil, err
	}
	file.Created = created
	out, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	return append(out, '\n'), nil
}

func wrapHandle(h *keyset.Handle, kek KEK, ad []byte) ([]byte, error) {
	var buf bytes.Buffer
	if err := h.WriteWithAssociatedData(keyset.NewJSONWriter(&buf), kek, ad); err != nil {
		return nil, fmt.Errorf("wrap keyset: %w", err)
	}
	return buf.Bytes(), nil
}

func unwrapKeyset(content []byte, kek KEK) (seals, index *keyset.Handle, err error) {
	var file struct {
		keysetFile
		Created json.RawMessage `json:"created"` // readCreated
	}
	if err := json.Unmarshal(content, &file); err != nil {
		return nil, nil, errors.New("keyset file is not JSON: make one with `tokenbroker keyset create`")
	}
	switch {
	case len(file.Keys) > 0:
		return nil, nil, errors.New("keyset file holds its keys in clear: make an encrypted one with `tokenbroker keyset create` and destroy this one")
	case len(file.EncryptedKeyset) == 0 || len(file.Index) == 0:
		return nil, nil, errors.New("keyset file lacks encryptedKeyset or index: make one with `tokenbroker keyset create`")
	}
	outer, err := json.Marshal(keysetFile{EncryptedKeyset: file.EncryptedKeyset, KeysetInfo: file.KeysetInfo})
	if err != nil {
		return nil, nil, fmt.Errorf("read keyset: %w", err)
	}
	if seals, err = unwrapHandle(outer, kek, sealsAD); err != nil {
		return nil, nil, err
	}
	if index, err = unwrapHandle(file.Index, kek, indexAD); err != nil {
		return nil, nil, err
	}
	return seals, index, nil
}

func unwrapHandle(wrapped []byte, kek KEK, ad []byte) (*keyset.Handle, error) {
	h, err := keyset.ReadWithAssociatedData(keyset.NewJSONReader(bytes.NewReader(wrapped)), kek, ad)
	if err != nil {
		return nil, fmt.Errorf("open keyset (is it the KEK that it was made with?): %w", err)
	}
	return h, nil
}

func openPrimitives(file []byte, kek KEK) (*primitives, error) {
	seals, index, err := unwrapKeyset(file, kek)
	if err != nil {
		return nil, err
	}
	return makePrimitives(seals, index, readCreated(file))
}

func makePrimitives(seals, index *keyset.Handle, created createdAt) (*primitives, error) {
	p := &primitives{ids: make(map[uint32]bool)}
	var err error
	if p.infos, err = describe(seals, created); err != nil {
		return nil, err
	}
	if p.seals, err = aead.New(seals); err != nil {
		return nil, fmt.Errorf("open keyset: %w", err)
	}
	if p.index, err = newKeyedHash(index); err != nil {
		return nil, err
	}
	for i := range seals.Len() {
		entry, err := seals.Entry(i)
		if err != nil {
			return nil, fmt.Errorf("open keyset: %w", err)
		}
		p.ids[entry.KeyID()] = entry.KeyStatus() == keyset.Enabled
		if entry.IsPrimary() {
			p.primary = entry.KeyID()
		}
	}
	return p, nil
}
