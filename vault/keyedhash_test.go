package vault

import (
	"bytes"
	"sync"
	"testing"

	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
)

// The names of all keys in the store hang on it: it must come to what Tink's own PRF comes to, also when many ask at once.
func TestKeyedHashIsTinks(t *testing.T) {
	handle, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	set, err := prf.NewPRFSet(handle)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newKeyedHash(handle)
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 200 {
				parts := []string{"purpose", string(bytes.Repeat([]byte{byte(i)}, j)), "end"}[:1+j%3]
				for _, n := range []int{1, 16, 18, 32} {
					want, err := set.ComputePrimaryPRF(joined(parts...), uint32(n))
					if got := h.sum(nil, n, parts...); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%q, %d bytes: %x, want %x, %v", parts, n, got, want, err)
					}
				}
			}
		})
	}
	group.Wait()
	if allocs := testing.AllocsPerRun(100, func() { h.sum(make([]byte, 0, 18), 18, "subject", "acme", "user-1") }); allocs > 4 { // under the race detector a pool loses some
		t.Errorf("%v allocations", allocs)
	}
	other, err := keyset.NewHandle(prf.HMACSHA512PRFKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newKeyedHash(other); err == nil {
		t.Error("a key for another hash was taken")
	}
}
