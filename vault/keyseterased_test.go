package vault

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// changedFile is the keyset file with some of its members exchanged, as somebody does who can write it and has no KEK; nil takes one out.
func changedFile(t *testing.T, file []byte, members map[string]any) []byte {
	t.Helper()
	var all map[string]json.RawMessage
	if err := json.Unmarshal(file, &all); err != nil {
		t.Fatal(err)
	}
	for name, value := range members {
		if delete(all, name); value == nil {
			continue
		}
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = text
	}
	out, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// formerFile is the file as a version wrote it that bound the keyset to nothing more than what it is for.
func formerFile(t *testing.T, file []byte, kek KEK) []byte {
	t.Helper()
	doc, err := openKeysetDoc(file, kek)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := doc.keyRing.wrap(kek, sealsAD)
	if err != nil {
		t.Fatal(err)
	}
	return changedFile(t, file, map[string]any{"encryptedKeyset": ring.EncryptedKeyset, "format": nil})
}

// Threat 80: which tenants are erased is the KEK's to say. Whoever can merely write the file declares nobody erased and nobody alive; a
// process that runs keeps what it has.
func TestThreat80ErasedByNobodyElse(t *testing.T) {
	kek := testKEK(t, 1)
	file, err := CreateKeyset(kek, time.Now())
	for _, tenant := range []string{"acme", "rival"} {
		if err == nil {
			file, _, err = CreateTenantKeyset(file, kek, tenant, time.Now())
		}
	}
	if err == nil {
		file, err = DestroyTenantKeyset(file, kek, "acme", time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	opened, err := OpenKeyset(file, kek)
	if err != nil || !opened.Erased("acme") || opened.Erased("rival") {
		t.Fatal(err)
	}
	var has struct{ Erased map[string]erasedTenant }
	if err := json.Unmarshal(file, &has); err != nil {
		t.Fatal(err)
	}
	acme := has.Erased["acme"]
	forged := erasedTenant{At: time.Now(), Keys: []uint32{1}}
	earlier := acme
	earlier.At = acme.At.Add(-time.Hour)
	fewer := acme
	fewer.Keys = acme.Keys[:1]
	for name, members := range map[string]map[string]any{
		"a living tenant with a keyset":         {"erased": map[string]erasedTenant{"acme": acme, "rival": forged}, "tenants": nil},
		"a living tenant without":               {"erased": map[string]erasedTenant{"acme": acme, "third": forged}},
		"the erased one no more":                {"erased": nil},
		"with fewer keys":                       {"erased": map[string]erasedTenant{"acme": fewer}},
		"at another time":                       {"erased": map[string]erasedTenant{"acme": earlier}},
		"as if it were of the version before":   {"erased": map[string]erasedTenant{"acme": acme, "rival": forged}, "format": nil},
		"of the version before, nothing else":   {"format": nil},
		"of a version that there is not, alone": {"format": 3},
	} {
		bad := changedFile(t, file, members)
		if _, err := OpenKeyset(bad, kek); err == nil {
			t.Errorf("%s: it opens", name)
		} else if members["format"] == nil && members["erased"] != nil && !strings.Contains(err.Error(), "KEK") {
			t.Errorf("%s: %v", name, err)
		}
		if err := opened.Reload(bad); err == nil || opened.Erased("rival") || !opened.Erased("acme") {
			t.Errorf("%s: a running process took it up", name)
		}
	}
	if err := opened.Reload(changedFile(t, file, map[string]any{"created": nil})); err != nil {
		t.Errorf("what only people read was taken out: %v", err)
	}

	// A file of the version before opens, with what it says, and the next change binds it.
	former := formerFile(t, file, kek)
	if old, err := OpenKeyset(former, kek); err != nil || !old.Erased("acme") {
		t.Fatalf("a file of the version before: %v", err)
	}
	if err := opened.Reload(former); err != nil {
		t.Errorf("a file of the version before: %v", err)
	}
	next, err := RotateKeyset(former, kek, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyset(next, kek); err != nil {
		t.Error(err)
	}
	if _, err := OpenKeyset(changedFile(t, next, map[string]any{"erased": map[string]erasedTenant{"acme": acme, "third": forged}}), kek); err == nil {
		t.Error("a file that was changed by this version opens with a tenant more")
	}
}
