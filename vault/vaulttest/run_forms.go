package vaulttest

import (
	"errors"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// form makes a store write the newest stored form when the switch is on.
func form(newest *atomic.Bool) func(*vault.Config, *redisstore.Config) {
	return func(vc *vault.Config, _ *redisstore.Config) { vc.Compact = newest.Load }
}

// testUpgrade: two replicas of this version, while there may be an older one and after it has gone. Whatever form the last write had,
// either replica serves, refreshes, fails, renews and revokes, and no record goes back to the older form.
func testUpgrade(r *rig) {
	var on atomic.Bool
	a, b := r.store(form(&on)), r.store(form(&on))
	conn := r.connect(a, tenant(r), "u", "files", "1")
	key := r.connKey(a, conn)
	is1, is2 := func() {
		r.Helper()
		if v := r.raw("HGET", key, "v"); v != "1" {
			r.Fatalf("a record of form %s while an older version may have to read it", v)
		}
	}, func() {
		r.Helper()
		if v := r.raw("HGET", key, "v"); v != "2" {
			r.Fatalf("a record of form %s, though everybody reads 2", v)
		}
	}
	served := func(tokens string) {
		r.Helper()
		for _, s := range []*vault.Store{a, b} {
			all, err := s.OfSubject(r.ctx(), tenant(r), "u", "files")
			if err != nil || len(all) != 1 {
				r.Fatalf("read: %v, %v", all, err)
			}
			r.release(s, all[0], tokens)
		}
	}
	is1()
	served("1")
	conn = r.refresh(b, conn, "2")
	is1()
	served("2")
	// The older replicas are gone. What leaves the tokens as they are keeps them readable.
	on.Store(true)
	served("2")
	lease := renewLease(r, a, conn)
	conn.Failures = 1
	conn, err := a.FailRefresh(r.ctx(), lease, conn, []broker.Entry{entry(broker.EventTokenRefreshFailed, conn)})
	if err != nil {
		r.Fatal(err)
	}
	is2()
	served("2")
	for _, s := range []*vault.Store{a, b} {
		lease, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err != nil || token.Reveal() != "canary-rt-2" {
			r.Fatalf("a refresh token of the older form in a record of the newer one: %v", err)
		}
		if err := s.EndRefresh(r.ctx(), lease); err != nil {
			r.Fatal(err)
		}
	}
	// A replica that believes in an older one writes the newer form all the same over what it has read so.
	on.Store(false)
	c := r.store(form(&on))
	if _, err := c.Connection(r.ctx(), tenant(r), conn.ID); err != nil {
		r.Fatal(err)
	}
	conn = r.refresh(c, conn, "3")
	is2()
	served("3")
	conn = r.renew(a, conn, "4")
	is2()
	served("4")
	left, err := b.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
	if err != nil || left.RefreshToken.Reveal() != "canary-rt-4" || left.AccessToken.Reveal() != "canary-at-4" {
		r.Fatalf("revoke: %v", err)
	}
	if err := b.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
		r.Fatal(err)
	}
	if _, err := a.Connection(r.ctx(), tenant(r), conn.ID); !errors.Is(err, broker.ErrNotFound) {
		r.Fatalf("erased: %v", err)
	}
	// The trail has entries of both forms, in the chains of all three.
	events := r.allEvents(a, tenant(r), broker.EventFilter{}, 7)
	if issued := len(events); issued < 20 {
		r.Fatalf("%d events", issued)
	}
	r.verified(b)
}
