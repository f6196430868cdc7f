package vault

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tink-crypto/tink-go/v2/keyset"
)

// KeysetAction is a change of a keyset file.
type KeysetAction string

// The changes. A rotation in stages is add, promote, disable, delete, with time between them for replicas and for the records.
const (
	KeysetAdd     KeysetAction = "add"     // a key that seals nothing yet
	KeysetPromote KeysetAction = "promote" // a key seals from now on
	KeysetRotate  KeysetAction = "rotate"  // add and promote at once
	KeysetDisable KeysetAction = "disable" // a key opens nothing any more
	KeysetEnable  KeysetAction = "enable"  // it does again
	KeysetDelete  KeysetAction = "delete"  // its material is gone
	KeysetCreate  KeysetAction = "create"  // a tenant has a keyset of its own from now on
	KeysetDestroy KeysetAction = "destroy" // a tenant's keyset is gone
)

// Passive and Past are how messages say it: a key is not to be promoted, a key was promoted.
func (a KeysetAction) Passive() string { return "be " + a.participle() }

// Past is explained with Passive.
func (a KeysetAction) Past() string { return "was " + a.participle() }

func (a KeysetAction) participle() string {
	switch a {
	case KeysetAdd:
		return "added"
	case KeysetRotate:
		return "added and promoted"
	}
	return strings.TrimSuffix(string(a), "e") + "ed" // promoted, disabled, enabled, deleted
}

// KeysetEdit is one change.
type KeysetEdit struct {
	Do     KeysetAction
	Key    uint32 // of promote, disable, enable and delete
	Audit  bool   // of add and rotate: the key is for the audit trail
	Tenant string // whose keyset; "": the installation's, and never of create and destroy
}

// ErrNoKeyset: the tenant has no keyset of its own.
var ErrNoKeyset = errors.New("the tenant has no keyset of its own: its records are sealed with the installation's")

// ring returns the ring of the tenant, "": of the installation.
func (d *keysetDoc) ring(tenant string) (*keyRing, error) {
	if tenant == "" {
		return &d.keyRing, nil
	}
	if erased, ok := d.erased[tenant]; ok {
		return nil, fmt.Errorf("the keyset of tenant %s was destroyed at %s", tenant, erased.At.Format(time.RFC3339))
	}
	if ring := d.tenants[tenant]; ring != nil {
		return ring, nil
	}
	return nil, ErrNoKeyset
}

// RotateKeyset adds a key and makes it primary. Old keys still open what they sealed.
func RotateKeyset(file []byte, kek KEK, now time.Time) ([]byte, error) {
	out, _, err := EditKeyset(file, kek, KeysetEdit{Do: KeysetRotate}, now)
	return out, err
}

// EditKeyset makes the file's new content, and tells which key was changed or added, 0 of destroy.
func EditKeyset(file []byte, kek KEK, edit KeysetEdit, now time.Time) (out []byte, key uint32, err error) {
	switch edit.Do {
	case KeysetCreate:
		return CreateTenantKeyset(file, kek, edit.Tenant, now)
	case KeysetDestroy:
		out, err = DestroyTenantKeyset(file, kek, edit.Tenant, now)
		return out, 0, err
	}
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		return nil, 0, err
	}
	ring, err := doc.ring(edit.Tenant)
	if err != nil {
		return nil, 0, err
	}
	if key, err = doc.edit(ring, edit, now); err != nil {
		return nil, 0, err
	}
	out, err = doc.wrap(kek)
	return out, key, err
}

func (d *keysetDoc) edit(ring *keyRing, edit KeysetEdit, now time.Time) (key uint32, err error) {
	manager := keyset.NewManagerFromHandle(ring.keys)
	adds := edit.Do == KeysetAdd || edit.Do == KeysetRotate
	if key = edit.Key; !adds {
		err = ring.may(edit.Do, key)
	}
	if err != nil {
		return 0, err
	}
	switch edit.Do {
	case KeysetAdd, KeysetRotate:
		if key, err = d.addKey(manager, ring, edit.Audit, now); err == nil && edit.Do == KeysetRotate {
			err = ring.promote(manager, key)
		}
	case KeysetPromote:
		err = ring.promote(manager, key)
	case KeysetDisable:
		err = manager.Disable(key)
	case KeysetEnable:
		err = manager.Enable(key)
	case KeysetDelete:
		if err = manager.Delete(key); err == nil {
			ring.trail.Keys = slices.DeleteFunc(ring.trail.Keys, func(id uint32) bool { return id == key })
			delete(ring.created, strconv.FormatUint(uint64(key), 10))
		}
	default:
		err = errors.New("there is no such change")
	}
	if err != nil {
		return 0, fmt.Errorf("%s key: %w", edit.Do, err)
	}
	if ring.keys, err = manager.Handle(); err != nil {
		return 0, fmt.Errorf("%s key: %w", edit.Do, err)
	}
	return key, nil
}

// addKey adds a key, and the first one for the audit trail where there is none: a file of an earlier version.
func (d *keysetDoc) addKey(manager *keyset.Manager, ring *keyRing, audit bool, now time.Time) (uint32, error) {
	id, err := d.addTo(manager)
	if err != nil {
		return 0, err
	}
	ring.created.with(id, now)
	if audit {
		ring.trail.Keys = append(ring.trail.Keys, id)
		return id, nil
	}
	if len(ring.trail.Keys) == 0 {
		first, err := d.addTo(manager)
		if err != nil {
			return 0, err
		}
		ring.created.with(first, now)
		ring.trail.Keys = []uint32{first}
	}
	return id, nil
}

// promote makes a key seal, records or the audit trail, whatever it is for. With a key for records the first one for the trail
// begins too: the one before must seal no more entries, which nobody can seal anew.
func (r *keyRing) promote(manager *keyset.Manager, key uint32) error {
	if slices.Contains(r.trail.Keys, key) {
		r.trail.Primary = key
		return nil
	}
	if err := manager.SetPrimary(key); err != nil {
		return err
	}
	list, err := r.describe()
	if err != nil || r.trail.Primary != 0 {
		return err
	}
	if len(list.Audit) == 0 && len(r.trail.Keys) > 0 {
		r.trail.Primary = r.trail.Keys[0] // added with this one just now
	}
	for _, audit := range slices.Backward(list.Audit) {
		if audit.Status == "enabled" {
			r.trail.Primary = audit.ID // the oldest that can
		}
	}
	return nil
}

// may tells why the change of the key is refused, nil if it is not.
func (r *keyRing) may(do KeysetAction, key uint32) error {
	list, err := r.describe()
	if err != nil {
		return err
	}
	info, ok := list.Find(key)
	switch {
	case !ok:
		return fmt.Errorf("there is no key %d in the keyset: `tokenbroker keyset list` shows which there are", key)
	case info.Primary && do == KeysetPromote:
		return fmt.Errorf("key %d is primary already", key)
	case info.Primary && (do == KeysetDisable || do == KeysetDelete):
		return fmt.Errorf("key %d is primary, it seals what is written now: promote another one first", key)
	case info.Status != "enabled" && do == KeysetPromote:
		return fmt.Errorf("key %d is %s: enable it first", key, info.Status)
	case info.Status != "enabled" && do == KeysetDisable:
		return fmt.Errorf("key %d is %s already", key, info.Status)
	case info.Status == "enabled" && do == KeysetEnable:
		return fmt.Errorf("key %d is enabled already", key)
	case info.Status == "enabled" && do == KeysetDelete:
		return fmt.Errorf("key %d is enabled: disable it first, which can be taken back, and see that nothing misses it", key)
	case do == KeysetDisable && key == onlyAudit(list):
		return fmt.Errorf("key %d is the only one for the audit trail: promote it, or add another one, first", key)
	}
	return nil
}

// onlyAudit is the only key for the audit trail, while it does not seal yet; 0: there is no such key.
func onlyAudit(list KeyList) uint32 {
	if len(list.Audit) == 1 && !list.Audit[0].Primary {
		return list.Audit[0].ID
	}
	return 0
}
