package vault

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// Threats 35 and 78: a copy of the keyset file from before comes back under a process that has newer keys. It keeps those: what they
// sealed would not open any more, and an erased tenant would be there again.
func TestThreat35StaleKeysetFile(t *testing.T) {
	kek := testKEK(t, 1)
	must := func(file []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	first := must(CreateKeyset(kek, time.Now()))
	rotated := must(RotateKeyset(first, kek, time.Now()))
	with, _, err := CreateTenantKeyset(rotated, kek, "acme", time.Now())
	erased := must(DestroyTenantKeyset(must(with, err), kek, "acme", time.Now()))
	opened, err := OpenKeyset(first, kek)
	if err != nil {
		t.Fatal(err)
	}
	old := opened.Keys()[0].ID
	steps := []struct {
		name  string
		file  []byte
		stale map[string][]byte
	}{
		{"rotated", rotated, map[string][]byte{"lacks key": first}},
		{"a keyset for a tenant", with, map[string][]byte{"lacks key": rotated}},
		{"destroyed", erased, map[string][]byte{"of tenant acme was destroyed": with}},
	}
	for _, step := range steps {
		if err := opened.Reload(step.file); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		digest := opened.Digest()
		for says, stale := range step.stale {
			if err := opened.Reload(stale); err == nil || !strings.Contains(err.Error(), says) || opened.Digest() != digest {
				t.Errorf("%s, and the file from before comes back: %v", step.name, err)
			}
		}
		if err := opened.Reload(step.file); err != nil {
			t.Errorf("%s, once more: %v", step.name, err)
		}
	}
	// Deleting a key goes by way of disabling it.
	disabled, _, err := EditKeyset(erased, kek, KeysetEdit{Do: KeysetDisable, Key: old}, time.Now())
	deleted, _, err2 := EditKeyset(must(disabled, err), kek, KeysetEdit{Do: KeysetDelete, Key: old}, time.Now())
	if err := errors.Join(err2, opened.Reload(disabled), opened.Reload(deleted)); err != nil {
		t.Error(err)
	}
}
