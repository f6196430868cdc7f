package vault

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/kek"
)

func namedKEK(t *testing.T, b byte, name string) NamedKEK {
	t.Helper()
	return NamedKEK{KEK: testKEK(t, b), Name: name}
}

// Threat 36: the KEK is exchanged in stages. While two KEKs open the file, whoever has either changes it, and the other one still opens what
// became of it; once one is dropped, that one opens nothing of it. The keys are the same all along.
func TestThreat36KEKIsChanged(t *testing.T) {
	now := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	old, fresh, third := namedKEK(t, 1, "env:OLD"), namedKEK(t, 2, "hcvault://new/transit/keys/k"), namedKEK(t, 3, "env:THIRD")
	must := func(file []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	first := must(CreateKeyset(old, now))
	first, _, err := CreateTenantKeyset(first, old, "acme", now)
	first, _, err2 := CreateTenantKeyset(must(first, err), old, "gone", now)
	first = must(DestroyTenantKeyset(must(first, err2), old, "gone", now))
	was, err := OpenKeyset(first, old)
	if err != nil {
		t.Fatal(err)
	}

	both := must(AddKEK(first, old, fresh, now))
	if again := must(AddKEK(both, old, fresh, now)); string(again) != string(both) {
		t.Error("adding it once more changed the file")
	}
	for _, key := range []NamedKEK{old, fresh, {fresh.KEK, "renamed"}, {old.KEK, fresh.Name}, {fresh.KEK, old.Name}, {old.KEK, ""}} {
		opened, err := OpenKeyset(both, key)
		if err != nil || opened.Digest() != was.Digest() || !opened.Erased("gone") {
			t.Fatalf("%s: %v", key.Name, err)
		}
		if err := opened.Reload(first); (err == nil) != (key.KEK == old.KEK) {
			t.Errorf("%s takes up the file of the old KEK: %v", key.Name, err)
		}
	}
	if opened, err := OpenKeyset(both, NamedKEK{fresh.KEK, old.Name}); err != nil || opened.KEK() != fresh.Name {
		t.Errorf("which one opened it goes by the name of another: %v", err)
	}
	if _, err := OpenKeyset(both, third); err == nil || !strings.Contains(err.Error(), `encrypted with "env:OLD" and "hcvault://new/transit/keys/k"`) {
		t.Errorf("a third KEK: %v", err)
	}

	// The one of the own name is tried first: a service is not asked for what another KEK wrapped.
	counted := &countedKEK{NamedKEK: fresh}
	if _, err := OpenKeyset(both, counted); err != nil || counted.asked != 1 {
		t.Errorf("asked %d times: %v", counted.asked, err)
	}

	// Every change is of both.
	rotated := must(RotateKeyset(both, fresh, now))
	rotated = must(DestroyTenantKeyset(rotated, old, "acme", now))
	for _, key := range []KEK{old, fresh} {
		if opened, err := OpenKeyset(rotated, key); err != nil || !opened.Erased("acme") || len(opened.Keys()) != 2 {
			t.Errorf("after changes, %s: %v", KEKName(key), err)
		}
	}
	if err := was.Reload(rotated); err != nil {
		t.Errorf("a process with the old KEK: %v", err)
	}

	// The end, and the way back.
	for _, end := range []struct{ stays, goes NamedKEK }{{fresh, old}, {old, fresh}} {
		one := must(DropKEK(rotated, end.stays, end.goes.Name))
		if again := must(DropKEK(one, end.stays, end.goes.Name)); string(again) != string(one) {
			t.Error("dropping it once more changed the file")
		}
		opened, err := OpenKeyset(one, end.stays)
		if err != nil || opened.KEK() != end.stays.Name {
			t.Fatal(err)
		}
		_, err = OpenKeyset(one, end.goes)
		var other *OtherKEKError
		if !errors.As(err, &other) || !slices.Equal(other.Says, []string{end.stays.Name}) {
			t.Errorf("what was dropped: %v", err)
		}
		var form struct{ Format int }
		if json.Unmarshal(one, &form) != nil || form.Format != keysetFormat || strings.Contains(string(one), `"keks"`) {
			t.Errorf("form %d, which versions before do not read", form.Format)
		}
		// A replica with the other KEK goes on with what it has.
		was, err := OpenKeyset(rotated, end.goes)
		if err != nil {
			t.Fatal(err)
		}
		digest := was.Digest()
		if err := was.Reload(one); err == nil || was.Digest() != digest {
			t.Errorf("a process with the KEK that was dropped takes it up: %v", err)
		}
	}

	for name, c := range map[string]struct {
		err  error
		says string
	}{
		"a third one":                {fails(AddKEK(both, old, third, now)), "is under way"},
		"the same name":              {fails(AddKEK(first, old, NamedKEK{fresh.KEK, old.Name}, now)), "both KEKs are called env:OLD"},
		"the same key":               {fails(AddKEK(first, old, NamedKEK{old.KEK, "env:OTHER"}, now)), "env:OTHER is the same key as env:OLD"},
		"no name":                    {fails(AddKEK(first, old, fresh.KEK, now)), "without a name"},
		"not the one that it has":    {fails(AddKEK(first, third, fresh, now)), `encrypted with "env:OLD"`},
		"one that can't open":        {fails(AddKEK(first, old, onlyWraps{fresh}, now)), "does not open with it"},
		"one that is away":           {fails(AddKEK(first, old, awayKEK{fresh}, now)), "can't be asked now"},
		"dropping the only one left": {fails(DropKEK(both, old, old.Name)), "must open the file with the one that stays"},
		"dropping a stranger":        {fails(DropKEK(both, old, "env:X")), `not encrypted for "env:X"`},
		"renewing one of two":        {fails(RenewKEK(both, old)), "end it first"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if err := fails(OpenKeyset(both, awayKEK{fresh})); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("a service that is away is taken for another KEK: %v", err)
	}
	renewed := must(RenewKEK(first, old))
	if opened, err := OpenKeyset(renewed, old); err != nil || opened.Digest() != was.Digest() && string(renewed) == string(first) {
		t.Errorf("renewed: %v", err)
	}
}

func fails[T any](_ T, err error) error { return err }

type countedKEK struct {
	NamedKEK
	asked int
}

func (c *countedKEK) Decrypt(ciphertext, ad []byte) ([]byte, error) {
	c.asked++
	return c.NamedKEK.Decrypt(ciphertext, ad)
}

// onlyWraps may not open; awayKEK is a service that does not answer.
type onlyWraps struct{ NamedKEK }

func (onlyWraps) Decrypt([]byte, []byte) ([]byte, error) { return nil, errors.New("not allowed") }

type awayKEK struct{ NamedKEK }

func (awayKEK) Encrypt([]byte, []byte) ([]byte, error) {
	return nil, fmt.Errorf("away: %w", kek.ErrUnavailable)
}
func (awayKEK) Decrypt([]byte, []byte) ([]byte, error) {
	return nil, fmt.Errorf("away: %w", kek.ErrUnavailable)
}

// Threats 36 and 80: who can write the file and has no KEK makes nothing of the names and wrapped keys in it.
func TestThreat36KEKsOfNobodyElse(t *testing.T) {
	now := time.Now()
	old, fresh, evil := namedKEK(t, 1, "env:OLD"), namedKEK(t, 2, "env:NEW"), namedKEK(t, 9, "env:EVIL")
	first, err := CreateKeyset(old, now)
	if err != nil {
		t.Fatal(err)
	}
	both, err := AddKEK(first, old, fresh, now)
	if err != nil {
		t.Fatal(err)
	}
	another, err := AddKEK(first, old, fresh, now)
	if err != nil {
		t.Fatal(err)
	}
	var is, later struct{ KEKs []wrappedKey }
	if err := errors.Join(json.Unmarshal(both, &is), json.Unmarshal(another, &later)); err != nil {
		t.Fatal(err)
	}
	swapped := []wrappedKey{{KEK: "env:NEW", Key: is.KEKs[0].Key}, {KEK: "env:OLD", Key: is.KEKs[1].Key}}
	own, err := newSharedKey(sharedKeyset, evil, evil, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, members := range map[string]map[string]any{
		"names exchanged":            {"keks": swapped},
		"of another change":          {"keks": later.KEKs},
		"of somebody's own":          {"keks": own.wrapped},
		"none":                       {"keks": nil},
		"as of one KEK":              {"format": 2},
		"as of before":               {"format": nil},
		"as of a version to come":    {"format": 4},
		"somebody erased":            {"erased": map[string]erasedTenant{"acme": {At: now, Keys: []uint32{1}}}},
		"more than there ever are":   {"keks": append(slices.Clone(is.KEKs), is.KEKs...)},
		"a wrapped key of no length": {"keks": []wrappedKey{{KEK: "env:OLD"}, {KEK: "env:NEW"}}},
	} {
		bad := changedFile(t, both, members)
		for _, key := range []KEK{old, fresh, evil} {
			if _, err := OpenKeyset(bad, key); err == nil {
				t.Errorf("%s: it opens with %s", name, KEKName(key))
			}
		}
	}
	// A key of the audit trail's file is not one of the keyset.
	signing, err := AddSigningKey(nil, old, rand.Reader, now)
	if err == nil {
		signing, err = AddSigningKEK(signing, old, fresh, now)
	}
	var of struct{ KEKs []wrappedKey }
	if err != nil || json.Unmarshal(signing, &of) != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyset(changedFile(t, both, map[string]any{"keks": of.KEKs}), old); err == nil || !strings.Contains(err.Error(), "open with any of its KEKs") {
		t.Errorf("the wrapped key of the signing keys: %v", err)
	}
}

// The keys that sign the audit trail go the same way.
func TestSigningKEKIsChanged(t *testing.T) {
	now := time.Now()
	old, fresh := namedKEK(t, 1, "env:OLD"), namedKEK(t, 2, "env:NEW")
	must := func(file []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	first := must(AddSigningKey(nil, old, rand.Reader, now))
	first = must(AddSigningKey(first, old, rand.Reader, now))
	signs := func(file []byte, key KEK) string {
		t.Helper()
		keys, err := OpenSigningKeys(file, key)
		if err != nil {
			t.Fatalf("%s: %v", KEKName(key), err)
		}
		return string(keys.sign([]byte("x"))) // of Ed25519 the same each time
	}
	both := must(AddSigningKEK(first, old, fresh, now))
	if again := must(AddSigningKEK(both, old, fresh, now)); string(again) != string(both) {
		t.Error("adding it once more changed the file")
	}
	if signs(both, old) != signs(first, old) || signs(both, fresh) != signs(first, old) {
		t.Error("it signs otherwise")
	}
	more := must(AddSigningKey(both, fresh, rand.Reader, now))
	if signs(more, old) != signs(more, fresh) || signs(more, old) == signs(first, old) {
		t.Error("a key that was added during the change")
	}
	if _, err := RenewSigningKEK(both, old); !errors.Is(err, ErrChangingKEK) {
		t.Errorf("renewing one of two: %v", err)
	}
	one := must(DropSigningKEK(more, fresh, "env:OLD"))
	if signs(one, fresh) != signs(more, old) {
		t.Error("it signs otherwise")
	}
	if _, err := OpenSigningKeys(one, old); err == nil {
		t.Error("what was dropped opens it")
	}
	if public, err := ReadPublicKeys(one); err != nil || len(public) != 3 {
		t.Errorf("public keys: %v", err)
	}
	if renewed := must(RenewSigningKEK(one, fresh)); signs(renewed, fresh) != signs(one, fresh) || string(renewed) == string(one) {
		t.Error("renewed")
	}
}
