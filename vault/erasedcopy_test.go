package vault

import (
	"errors"
	"testing"
	"time"

	"tokenbroker/broker"
)

// Threats 31 and 78: what an erased tenant's key sealed does not belong in another tenant's record. There it is a fault, which is
// recorded, and no erasure, of which a caller would be told to try again.
func TestThreat31CopyOfAnErasedTenantsValue(t *testing.T) {
	kek := testKEK(t, 1)
	file, err := CreateKeyset(kek, time.Now())
	if err == nil {
		file, _, err = CreateTenantKeyset(file, kek, "acme", time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenKeyset(file, kek)
	if err != nil {
		t.Fatal(err)
	}
	seals := &sealer{keyset: opened, now: time.Now}
	value, err := seals.sealFor("acme", []byte("x"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	if file, err = DestroyTenantKeyset(file, kek, "acme", time.Now()); err == nil {
		err = opened.Reload(file)
	}
	if err != nil {
		t.Fatal(err)
	}
	for tenant, want := range map[string]error{"acme": broker.ErrTenantErased, "rival": broker.ErrIntegrity, "": broker.ErrIntegrity} {
		if _, err := seals.openFor(tenant, []byte(value), []byte("here")); !errors.Is(err, want) || want == broker.ErrIntegrity && errors.Is(err, broker.ErrTenantErased) {
			t.Errorf("tenant %q: %v, want %v", tenant, err, want)
		}
	}
}
