package vaulttest

import (
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

// testUsedAssertions (threat 40): a token that counts once does so once, whoever is asked and however many ask at the same time; what is kept of it
// says nothing, and goes by itself.
func testUsedAssertions(r *rig) {
	one, two := r.store(), r.store()
	until := time.Now().Add(time.Minute)
	token := broker.UsedToken{Tenant: tenant(r), Issuer: "https://canary.example", ID: "jti canary " + tenant(r)}
	var receipt atomic.Pointer[string]
	var got atomic.Int32
	var asking sync.WaitGroup
	for range 10 {
		for _, s := range []broker.UsedAssertions{one, two} {
			asking.Go(func() {
				if by, err := s.Use(r.ctx(), token, until); err == nil {
					got.Add(1)
					receipt.Store(&by)
				} else {
					is(r, err, broker.ErrConflict, "used again")
				}
			})
		}
	}
	asking.Wait()
	if n := got.Load(); n != 1 {
		r.Fatalf("it counted %d times", n)
	}
	for _, other := range []broker.UsedToken{{Tenant: token.Tenant, Issuer: "https://other.example", ID: token.ID}, {Tenant: token.Tenant + "x", Issuer: token.Issuer, ID: token.ID}} {
		if _, err := one.Use(r.ctx(), other, until); err != nil {
			r.Errorf("the same id elsewhere: %v", err)
		}
	}
	keys := r.keys("tb:*:ua:*")
	if len(keys) < 2 {
		r.Fatalf("keys: %v", keys)
	}
	for _, key := range keys {
		if ttl := r.raw("PTTL", key); ttl == "-1" {
			r.Errorf("%s never goes", key)
		}
	}
	if err := two.Unuse(r.ctx(), token, *receipt.Load()); err != nil {
		r.Fatal(err)
	}
	if _, err := one.Use(r.ctx(), token, until); err != nil {
		r.Errorf("when nothing came of it: %v", err)
	}
	// The one before takes back its own use alone, however late.
	if err := two.Unuse(r.ctx(), token, *receipt.Load()); err != nil {
		r.Fatal(err)
	}
	_, err := two.Use(r.ctx(), token, until)
	is(r, err, broker.ErrConflict, "used, and taken back by another")
	if _, err := one.Use(r.ctx(), broker.UsedToken{Issuer: token.Issuer, ID: "jti over"}, time.Now().Add(-time.Hour)); err != nil {
		r.Errorf("one that is over: %v", err)
	}
}
