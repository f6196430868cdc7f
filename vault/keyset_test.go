package vault

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func testKEK(t *testing.T, b byte) KEK {
	t.Helper()
	kek, err := NewKEK(bytes.Repeat([]byte{b}, 32), "test")
	if err != nil {
		t.Fatal(err)
	}
	return kek
}

func TestKeysetLife(t *testing.T) {
	kek := testKEK(t, 1)
	made, rotated := time.Date(2026, 3, 1, 10, 0, 0, 5, time.UTC), time.Date(2026, 6, 1, 10, 0, 0, 0, time.UTC)
	first, err := CreateKeyset(kek, made)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ListKeyset(first, kek)
	if err != nil || len(keys) != 1 || !keys[0].Primary || keys[0].Status != "enabled" || !keys[0].Created.Equal(made.Truncate(time.Second)) {
		t.Fatalf("new keyset: %+v, %v", keys, err)
	}
	opened, err := OpenKeyset(first, kek)
	if err != nil {
		t.Fatal(err)
	}
	seals := &sealer{keyset: opened, now: time.Now}
	sealed, err := seals.seal([]byte("x"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	second, err := RotateKeyset(first, kek, rotated)
	if err != nil {
		t.Fatal(err)
	}
	keys, err = ListKeyset(second, kek)
	if err != nil || len(keys) != 2 || keys[0].Primary || !keys[1].Primary || !keys[0].Created.Equal(made.Truncate(time.Second)) || !keys[1].Created.Equal(rotated) {
		t.Fatalf("rotated keyset: %+v, %v", keys, err)
	}
	// A file without dates, or with some that can't be read, is as good.
	for _, member := range []string{`"created": null`, `"created": {"1": "yesterday"}`, `"created": 7`} {
		dateless := regexp.MustCompile(`(?s)"created": \{.*?\}`).ReplaceAll(second, []byte(member))
		old, err := OpenKeyset(dateless, kek)
		if err != nil || len(old.Keys()) != 2 || !old.Keys()[0].Created.IsZero() {
			t.Errorf("with %s: %v", member, err)
		}
		if third, err := RotateKeyset(dateless, kek, rotated); err != nil || !bytes.Contains(third, []byte("2026-06-01")) {
			t.Errorf("rotated with %s: %v", member, err)
		}
	}
	hash := seals.hash(16, "p", "x")
	if err := opened.Reload(second); err != nil {
		t.Fatal(err)
	}
	if plain, err := seals.open([]byte(sealed), []byte("here")); err != nil || string(plain) != "x" {
		t.Fatalf("what the old key sealed: %v", err)
	}
	if got := opened.Keys(); len(got) != 2 || !got[1].Primary || !got[1].Created.Equal(rotated) {
		t.Fatalf("keys in use: %+v", got)
	}
	if !bytes.Equal(hash, seals.hash(16, "p", "x")) {
		t.Fatal("key names changed with the rotation")
	}
	fresh, err := seals.seal([]byte("y"), []byte("here"))
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := keyID([]byte(fresh)); !ok || id != keys[1].ID {
		t.Fatalf("sealed with key %d, primary is %d", id, keys[1].ID)
	}
	if _, err := seals.open([]byte(sealed), []byte("there")); !errors.Is(err, broker.ErrIntegrity) {
		t.Fatalf("opened in another place: %v", err)
	}
	if _, err := OpenKeyset(second, testKEK(t, 2)); err == nil {
		t.Fatal("opened with another KEK")
	}
}

func TestKeysetRefusals(t *testing.T) {
	kek := testKEK(t, 1)
	good, err := CreateKeyset(kek, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ content, says string }{
		"clear":    {`{"primaryKeyId":1,"key":[{"keyData":{"value":"c2VjcmV0"}}]}`, "in clear"},
		"no JSON":  {"hello", "not JSON"},
		"empty":    {"{}", "lacks"},
		"no index": {strings.Replace(string(good), `"index"`, `"other"`, 1), "lacks"},
	} {
		_, err := OpenKeyset([]byte(c.content), kek)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "tokenbroker keyset create") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The two keysets of a file must not stand in for one another.
func TestKeysetMembersExchanged(t *testing.T) {
	kek := testKEK(t, 1)
	doc, err := newKeysetDoc(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	doc.keys, doc.index = doc.index, doc.keys
	if file, err := doc.wrap(kek); err == nil {
		if _, err := OpenKeyset(file, kek); err == nil {
			t.Error("exchanged keysets were opened")
		}
	}
}

func TestParseKEK(t *testing.T) {
	key := bytes.Repeat([]byte{0xfb, 0xff}, 16)
	env := map[string]string{
		"STD": base64.StdEncoding.EncodeToString(key), "URL": base64.RawURLEncoding.EncodeToString(key) + "\n",
		"SHORT": base64.StdEncoding.EncodeToString(key[:31]), "BAD": "no base64!",
	}
	for _, c := range []struct{ uri, says string }{
		{"env:STD", ""}, {"env:URL", ""}, {"env:SHORT", "exactly 32"}, {"env:BAD", "not base64"}, {"env:NONE", "not set"}, {"env:", "env:NAME"}, {"STD", "env:NAME"},
		{"aws-kms://arn:x", "unknown kind"}, {"file:/x", "unknown kind"}, // the services have packages of their own
	} {
		_, err := ParseKEK(c.uri, func(name string) string { return env[name] })
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", c.uri, err)
		}
		for _, v := range env {
			if err != nil && strings.Contains(err.Error(), strings.TrimSpace(v)) {
				t.Errorf("%s: the error shows the key", c.uri)
			}
		}
	}
}

func TestKeysetFiles(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keyset.json")
	if err := CreateKeysetFile(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if err := CreateKeysetFile(path, []byte("two")); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Fatalf("a keyset was overwritten: %v", err)
	}
	if got, err := ReadKeysetFile(path); err != nil || string(got) != "one" {
		t.Fatalf("read: %q, %v", got, err)
	}
	if err := ReplaceKeysetFile(path, []byte("one"), []byte("three")); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadKeysetFile(path); err != nil || string(got) != "three" {
		t.Fatalf("read after a replacement: %q, %v", got, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o660} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeysetFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if _, err := ReadKeysetFile(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadKeysetFile(empty); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("empty file: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".keyset-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

func TestUnknownKeyReloadsOnceInAWhile(t *testing.T) {
	kek := testKEK(t, 1)
	file, err := CreateKeyset(kek, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keyset, err := OpenKeyset(file, kek)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := (&sealer{keyset: other, now: time.Now}).seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	asked := 0
	seals := &sealer{keyset: keyset, now: func() time.Time { return now }, refresh: func() error { asked++; return nil }}
	for range 5 {
		if _, err := seals.open([]byte(foreign), nil); !errors.Is(err, broker.ErrIntegrity) {
			t.Fatalf("an unknown key: %v", err)
		}
	}
	if asked != 1 {
		t.Fatalf("asked for a newer keyset %d times", asked)
	}
	now = now.Add(refreshPause)
	if _, err := seals.open([]byte(foreign), nil); err == nil || asked != 2 {
		t.Fatalf("asked %d times, %v", asked, err)
	}
	for _, short := range []string{"", "\x01", "\x01abcd", "xxxxxxxxxx"} {
		if _, err := seals.open([]byte(short), nil); !errors.Is(err, broker.ErrIntegrity) {
			t.Errorf("%q: %v", short, err)
		}
	}
}

// Lengths, not separators: no two lists of parts give the same bytes (threats.md, row 33).
func TestJoinedIsUnambiguous(t *testing.T) {
	seen := make(map[string][]string)
	parts := []string{"", "a", "b", "ab", "a:b", "\x00\x00\x00\x01a"}
	for _, a := range parts {
		for _, b := range parts {
			for _, list := range [][]string{{a}, {a, b}, {a, b, a}} {
				key := string(joined(list...))
				if was, ok := seen[key]; ok && strings.Join(was, "|") != strings.Join(list, "|") {
					t.Fatalf("%q and %q give the same bytes", was, list)
				}
				seen[key] = list
			}
		}
	}
}
