package vault

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Keysets of tenants (broker/decisions/0030-tenant-keysets.md): they lie in the keyset file alone, never in the store, so that a
// backup of the store is worth nothing once the file has them no more.

// TenantKeyset describes a tenant's keyset.
type TenantKeyset struct {
	Tenant string
	KeyList
	// Destroyed is when it was; zero: it was not.
	Destroyed time.Time
}

// CreateTenantKeyset makes the file's content with a keyset for the tenant, and tells its key for records.
func CreateTenantKeyset(file []byte, kek KEK, tenant string, now time.Time) (out []byte, key uint32, err error) {
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		return nil, 0, err
	}
	_, err = doc.ring(tenant)
	switch {
	case tenant == "":
		return nil, 0, errors.New("the tenant must have a name")
	case err == nil:
		return nil, 0, fmt.Errorf("tenant %s has a keyset already: `tokenbroker keyset tenant rotate` adds a key to it", tenant)
	case !errors.Is(err, ErrNoKeyset):
		return nil, 0, fmt.Errorf("%w: what it has left can't be told from another tenant of this name; choose a new name", err)
	}
	ring, err := doc.newRing(now)
	if err != nil {
		return nil, 0, err
	}
	doc.tenants[tenant] = ring
	primary, err := ring.keys.Primary()
	if err != nil {
		return nil, 0, fmt.Errorf("make key: %w", err)
	}
	out, err = doc.wrap(kek)
	return out, primary.KeyID(), err
}

// DestroyTenantKeyset makes the file's content without the tenant's keyset: what it sealed, wherever a copy of that is, opens no more.
// The ids of its keys stay, so that what they sealed is not taken for forged.
func DestroyTenantKeyset(file []byte, kek KEK, tenant string, now time.Time) ([]byte, error) {
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		return nil, err
	}
	if tenant == "" {
		return nil, errors.New("the tenant must have a name")
	}
	ring, err := doc.ring(tenant)
	if err != nil {
		return nil, err
	}
	doc.erased[tenant] = erasedTenant{At: now.UTC().Truncate(time.Second), Keys: ring.ids()}
	delete(doc.tenants, tenant)
	return doc.wrap(kek)
}

// TenantKeysets lists the tenants that have a keyset, or had one, by name.
func TenantKeysets(file []byte, kek KEK) ([]TenantKeyset, error) {
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		return nil, err
	}
	var all []TenantKeyset
	for _, tenant := range slices.Sorted(maps.Keys(doc.tenants)) {
		list, err := doc.tenants[tenant].describe()
		if err != nil {
			return nil, err
		}
		all = append(all, TenantKeyset{Tenant: tenant, KeyList: list})
	}
	for _, tenant := range slices.Sorted(maps.Keys(doc.erased)) {
		all = append(all, TenantKeyset{Tenant: tenant, Destroyed: doc.erased[tenant].At})
	}
	return all, nil
}

// Erased tells that the tenant's keyset was destroyed.
func (k *Keyset) Erased(tenant string) bool { return k.current.Load().isErased(tenant) }
