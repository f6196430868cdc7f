package vault

import (
	"testing"
	"time"
)

// FuzzCursor (threat 64): a cursor opens for the question that it was made for, and unchanged; nothing else opens at all.
func FuzzCursor(f *testing.F) {
	keyset, err := NewEphemeralKeyset()
	if err != nil {
		f.Fatal(err)
	}
	s := &Store{seals: &sealer{keyset: keyset, now: time.Now}}
	f.Add("connections/acme", "7:abc", "", 0)
	f.Add("events", "", "AQAAAAAA", 3)
	f.Add("", "\x00", "====", 9)
	f.Fuzz(func(t *testing.T, purpose, position, stranger string, at int) {
		if got, err := s.OpenCursor(purpose, stranger); err == nil {
			t.Fatalf("%q opens to %q", stranger, got)
		}
		made, err := s.SealCursor(purpose, position)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.OpenCursor(purpose, made); err != nil || got != position {
			t.Fatalf("%q comes back as %q, %v", position, got, err)
		}
		if _, err := s.OpenCursor(purpose+"x", made); err == nil {
			t.Fatal("opens for another question")
		}
		spoilt := []byte(made)
		i := int(uint(at) % uint(len(spoilt)))
		for _, c := range []byte("Ab-") {
			if spoilt[i] == c {
				continue
			}
			was := spoilt[i]
			spoilt[i] = c
			if _, err := s.OpenCursor(purpose, string(spoilt)); err == nil {
				t.Fatalf("opens with byte %d changed", i)
			}
			spoilt[i] = was
		}
		if _, err := s.OpenCursor(purpose, made[:i]); err == nil {
			t.Fatal("opens when it is cut")
		}
	})
}
