package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"io"
	"testing"
)

// Threat 10: an API key is 256 bits of what the system gives, all of them, and there is none where it gives less.
func TestThreat10APIKeys(t *testing.T) {
	raw := bytes.Repeat([]byte{0xa5, 0x17, 0xff, 0x00}, 8)
	key, err := newAPIKey(bytes.NewReader(raw))
	if err != nil || key != "tb_"+base64.RawURLEncoding.EncodeToString(raw) {
		t.Errorf("%q, %v", key, err)
	}
	for _, short := range []io.Reader{bytes.NewReader(nil), bytes.NewReader(raw[:31])} {
		if key, err := newAPIKey(short); err == nil {
			t.Errorf("a key of too little: %q", key)
		}
	}
	seen := map[string]bool{}
	for range 1000 {
		key, err := newAPIKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		seen[key] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d different keys of 1000", len(seen))
	}
}
