package sandbox

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"
)

// Two token requests that both found the code good before either redeemed it, which over HTTP happens too rarely to test.
func TestRedeemIsAtomicWithTheCode(t *testing.T) {
	cfg := Config{Issuer: "http://127.0.0.1:1", Now: time.Now, Random: rand.Reader}
	if err := cfg.complete(); err != nil {
		t.Fatal(err)
	}
	s := newStore(cfg)
	r := &authRequest{clientID: "files"}
	if err := s.addRequest(r); err != nil {
		t.Fatal(err)
	}
	if _, first := s.decide(r.id, "acct-alice-1001", []string{ScopeFilesRead}, true); !first {
		t.Fatal("not decided")
	}
	if _, again := s.decide(r.id, "acct-bob-1002", nil, false); again {
		t.Error("a request was decided twice")
	}
	if err := s.saveCode(r.id, "the-code"); err != nil {
		t.Fatal(err)
	}
	if err := s.saveCode(r.id, "another"); err == nil {
		t.Error("a request got two codes")
	}
	for range 2 {
		if _, err := s.redeemable("the-code"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.redeem(r.id, true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.redeem(r.id, true); !errors.Is(err, errUnknownToken) {
		t.Errorf("redeemed twice: %v", err)
	}
}
