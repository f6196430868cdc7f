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
	id := "canary-jti " + tenant(r)
	var got atomic.Int32
	var asking sync.WaitGroup
	for range 10 {
		for _, s := range []broker.UsedAssertions{one, two} {
			asking.Go(func() {
				if err := s.Use(r.ctx(), "https://canary.example", id, until); err == nil {
					got.Add(1)
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
	if err := one.Use(r.ctx(), "https://other.example", id, until); err != nil {
		r.Errorf("the same id of another issuer: %v", err)
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
	if err := two.Unuse(r.ctx(), "https://canary.example", id); err != nil {
		r.Fatal(err)
	}
	if err := one.Use(r.ctx(), "https://canary.example", id, until); err != nil {
		r.Errorf("when nothing came of it: %v", err)
	}
	if err := one.Use(r.ctx(), "https://canary.example", id+" short", time.Now().Add(-time.Hour)); err != nil {
		r.Errorf("one that is over: %v", err)
	}
}
