package vault

import (
	"errors"
	"testing"
	"time"

	"tokenbroker/broker"
)

// Threats 35 and 37: a key that nobody here knows may be a newer one. That a value does not belong where it lies is said only once the
// file was read behind the moment at which the key was met; what was destroyed for good is known without.
func TestThreat37KeyMayBeNewer(t *testing.T) {
	kek := testKEK(t, 1)
	first, err := CreateKeyset(kek, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	rotated, err := RotateKeyset(first, kek, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealed := func(keyset *Keyset, tenant string) []byte {
		t.Helper()
		out, err := (&sealer{keyset: keyset, now: time.Now}).sealFor(tenant, []byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return []byte(out)
	}
	ahead, err := OpenKeyset(rotated, kek)
	if err != nil {
		t.Fatal(err)
	}
	forger, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	newer, forged := sealed(ahead, ""), sealed(forger, "")
	keyset, err := OpenKeyset(first, kek)
	if err != nil {
		t.Fatal(err)
	}
	now, asked, away := time.Unix(1000, 0), 0, errors.New("the service is away")
	var answer error
	seals := &sealer{keyset: keyset, now: func() time.Time { return now }, refresh: func() error { asked++; return answer }}
	opens := func(value []byte, want error, what string) {
		t.Helper()
		if _, err := seals.open(value, nil); !errors.Is(err, want) || want == nil && err != nil || errors.Is(want, broker.ErrKeyNotYet) && errors.Is(err, broker.ErrIntegrity) {
			t.Errorf("%s: %v", what, err)
		}
	}
	opens(forged, broker.ErrIntegrity, "a key that the file lacks")
	opens(newer, broker.ErrKeyNotYet, "a key that was met behind the last look")
	opens(forged, broker.ErrIntegrity, "a key that the file lacked a moment ago")
	now, answer = now.Add(refreshPause), away
	for range 3 {
		opens(newer, broker.ErrKeyNotYet, "the file can't be opened")
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	if err := keyset.Reload(rotated); err != nil {
		t.Fatal(err)
	}
	opens(newer, nil, "once it is loaded")
	now, answer = now.Add(refreshPause), nil
	opens(forged, broker.ErrIntegrity, "a key that the newer file lacks too")

	with, _, err := CreateTenantKeyset(rotated, kek, "acme", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tenants, err := OpenKeyset(with, kek)
	if err != nil {
		t.Fatal(err)
	}
	gone := sealed(tenants, "acme")
	erased, err := DestroyTenantKeyset(with, kek, "acme", time.Now())
	if err == nil {
		err = keyset.Reload(erased)
	}
	if err != nil {
		t.Fatal(err)
	}
	asked, now = 0, now.Add(refreshPause)
	if _, _, err := seals.openAny(gone, nil); !errors.Is(err, broker.ErrTenantErased) || asked != 0 {
		t.Errorf("a key that was destroyed: %v, asked %d times", err, asked)
	}
	// However many are made up, they are not remembered for good.
	for id := range uint32(3 * maxKeyLooks) {
		now = now.Add(refreshPause)
		if _, err := seals.newerKeys(id + 1); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(seals.looks.absent) + len(seals.looks.met); n > 2*maxKeyLooks {
		t.Errorf("%d ids are remembered", n)
	}
}
