package vaulttest

import (
	"errors"
	"path/filepath"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// This file holds what vault/simulationtest found about a grant that is called dead at the wrong moment.

// dead is the connection as a refresher leaves it whose refresh token was refused.
func dead(conn broker.Connection) broker.Connection {
	conn.Status, conn.Error = broker.ConnectionNeedsConsent, broker.ErrorInvalidGrant
	return conn
}

// taken takes the lease on the connection for a process, once the one before is over.
func (r *rig) taken(s *vault.Store, conn broker.Connection, owner string, lease time.Duration) broker.Lease {
	r.Helper()
	var got broker.Lease
	r.within(10*time.Second, "the lease is free", func() bool {
		var err error
		got, _, err = s.BeginRefresh(r.ctx(), conn, owner, lease)
		if err != nil && !errors.Is(err, broker.ErrBusy) {
			r.Fatal(err)
		}
		return err == nil
	})
	return got
}

// testVerdictMeetsAlternate: a late refresh token is put beside the record after somebody has looked at the alternates, and
// before the grant is called dead. Nobody would ever try it.
func testVerdictMeetsAlternate(r *rig) {
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	late := r.taken(a, conn, "a", 20*time.Millisecond)
	lease := r.taken(b, conn, "b", time.Minute)
	if tokens, err := b.Alternates(r.ctx(), broker.Lease{}, conn); err != nil || len(tokens) != 0 {
		r.Fatalf("alternates before: %d, %v", len(tokens), err)
	}
	_, err := a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a late commit")
	_, err = b.FailRefresh(r.ctx(), lease, dead(conn), nil)
	is(r, err, broker.ErrConflict, "called dead although there is an alternate that was not tried")
	now, err := b.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil || now.Status != broker.ConnectionActive || now.Generation != conn.Generation {
		r.Fatalf("after that: %s at generation %d, %v", now.Status, now.Generation, err)
	}
	// The lease is free at once. What was given for the record's own token takes its place before anything is sent, and the
	// old one is tried once more before the grant is called dead.
	_, _, err = a.BeginRefresh(r.ctx(), conn, "a", time.Minute)
	is(r, err, broker.ErrConflict, "the next lease")
	now, err = a.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil || now.Status != broker.ConnectionActive || now.Generation != conn.Generation+1 {
		r.Fatalf("after that: %s at generation %d, %v", now.Status, now.Generation, err)
	}
	lease, token, err := b.BeginRefresh(r.ctx(), now, "b", time.Minute)
	if err != nil || token.Reveal() != "canary-rt-late" {
		r.Fatalf("the lease after that: %v, and the token is not the late one", err)
	}
	if tokens, err := b.Alternates(r.ctx(), broker.Lease{}, now); err != nil || len(tokens) != 1 || tokens[0].Reveal() != "canary-rt-1" {
		r.Fatalf("alternates: %d, %v", len(tokens), err)
	}
	if _, err := b.FailRefresh(r.ctx(), lease, dead(now), nil); err != nil {
		r.Fatalf("called dead: %v", err)
	}
}

// testSuccessorElsewhere: what was given for a refresh token that the record has no longer does not go before the record's.
// Nor does what does not open.
func testSuccessorElsewhere(r *rig) {
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	late := r.taken(a, conn, "a", 20*time.Millisecond)
	lease := r.taken(b, conn, "b", time.Minute)
	_, err := a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a late commit")
	next, err := b.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil)
	if err != nil {
		r.Fatal(err)
	}
	if token := r.sends(b, next, "b"); token != "2" {
		r.Fatalf("the next refresh would send %s", token)
	}
	if tokens, err := a.Alternates(r.ctx(), broker.Lease{}, next); err != nil || len(tokens) != 1 {
		r.Fatalf("alternates: %d, %v", len(tokens), err)
	}

	broken := r.connect(a, tenant(r), "broken", "files", "1")
	late = r.taken(a, broken, "a", 20*time.Millisecond)
	r.taken(b, broken, "b", 20*time.Millisecond)
	_, err = a.CommitRefresh(r.ctx(), late, broken, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a late commit")
	key := tag(a.Shard(broken.Tenant, broken.Subject)) + "x:" + broken.ID
	for _, field := range lines(r.raw("HKEYS", key)) {
		if field != "n" && field != "next" {
			r.raw("HSET", key, field, "12345678 broken")
		}
	}
	if token := r.sends(b, broken, "b"); token != "1" {
		r.Fatalf("the next refresh would send %s", token)
	}
}

// testLateBehindSeveral: the grant was called dead after another failure, and then comes the refresh token.
func testLateBehindSeveral(r *rig) {
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	late := r.taken(a, conn, "a", 20*time.Millisecond)
	failing := conn
	failing.Failures, failing.Error = 1, string(broker.CodeProviderUnavailable)
	failing, err := b.FailRefresh(r.ctx(), r.taken(b, conn, "b", time.Minute), failing, nil)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := b.FailRefresh(r.ctx(), r.taken(b, failing, "b", time.Minute), dead(failing), nil); err != nil {
		r.Fatal(err)
	}
	back, err := a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	if err != nil || back.Status != broker.ConnectionActive {
		r.Fatalf("a late commit behind two failures: %s, %v", back.Status, err)
	}
	r.release(b, back, "late")
}

// testAlternateOfWrongClock: whoever kept it, or whoever looks for it, has a clock that is wrong.
func testAlternateOfWrongClock(r *rig) {
	s := r.store()
	behind := r.store(func(vc *vault.Config, _ *redisstore.Config) {
		vc.Now = func() time.Time { return time.Now().Add(-time.Hour - time.Minute) }
	})
	conn := r.connect(s, tenant(r), "u", "files", "1")
	late := r.taken(behind, conn, "a", 20*time.Millisecond)
	r.taken(s, conn, "b", time.Minute)
	_, err := behind.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a late commit")
	if tokens, err := s.Alternates(r.ctx(), broker.Lease{}, conn); err != nil || len(tokens) != 1 {
		r.Fatalf("alternates: %d, %v", len(tokens), err)
	}
}

// testAlternateInSpool: what waits on the own disk goes to the store before a grant is called dead.
func testAlternateInSpool(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	s, cut := r.store(withSpool(dir)), r.store(withSpool(dir), away)
	conn := r.connect(s, tenant(r), "u", "files", "1")
	other := r.connect(s, tenant(r), "other", "files", "1")
	late := r.taken(s, conn, "x", time.Minute)
	ctx, cancel := contextWithTimeout(100 * time.Millisecond)
	defer cancel()
	_, err := cut.CommitRefresh(ctx, late, conn, "", r.grant("kept"), nil)
	is(r, err, broker.ErrSpooled, "a commit without a store")
	_, err = s.Alternates(r.ctx(), late, conn)
	is(r, err, broker.ErrConflict, "alternates of a connection of which a refresh waits")
	if _, token := r.begin(s, conn, "x"); token != "canary-rt-kept" {
		r.Fatalf("the next refresh would send %s", token)
	}
	// Beside the lease of somebody else it is an alternate.
	third := r.connect(s, tenant(r), "third", "files", "1")
	late = r.taken(s, third, "x", 20*time.Millisecond)
	ctx, cancel = contextWithTimeout(100 * time.Millisecond)
	defer cancel()
	_, err = cut.CommitRefresh(ctx, late, third, "", r.grant("third"), nil)
	is(r, err, broker.ErrSpooled, "a commit without a store")
	lease := r.taken(s, third, "y", time.Minute)
	if tokens, err := s.Alternates(r.ctx(), lease, third); err != nil || len(tokens) != 1 || tokens[0].Reveal() != "canary-rt-third" {
		r.Fatalf("alternates: %d, %v", len(tokens), err)
	}
	if tokens, err := s.Alternates(r.ctx(), broker.Lease{}, other); err != nil || len(tokens) != 0 {
		r.Fatalf("alternates of another connection: %d, %v", len(tokens), err)
	}
}

// testSameFence: after a failover that lost a lease, the next one has the same fence. Who had the lost one ends nothing of
// it; and what it was given is stored if nobody took the next one.
func testSameFence(r *rig) {
	a, b := r.store(), r.store()
	forget := func(conn broker.Connection) { r.raw("HDEL", r.connKey(a, conn), "own", "dl", "fen") }
	conn := r.connect(a, tenant(r), "u", "files", "1")
	lost := r.taken(a, conn, "a", time.Minute)
	forget(conn)
	lease := r.taken(b, conn, "b", time.Minute)
	if lost.Fence != lease.Fence {
		r.Fatalf("fences %d and %d", lost.Fence, lease.Fence)
	}
	failing := conn
	failing.Failures = 1
	_, err := a.FailRefresh(r.ctx(), lost, failing, nil)
	is(r, err, broker.ErrConflict, "a failure under a lease that was lost")
	_, err = a.CommitRefresh(r.ctx(), lost, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a commit under a lease that was lost")
	if _, err := b.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil); err != nil {
		r.Fatalf("commit of the next holder: %v", err)
	}

	alone := r.connect(a, tenant(r), "alone", "files", "1")
	lost = r.taken(a, alone, "a", time.Minute)
	forget(alone)
	next, err := a.CommitRefresh(r.ctx(), lost, alone, "", r.grant("2"), nil)
	if err != nil {
		r.Fatalf("commit under a lease that was lost, and that nobody took since: %v", err)
	}
	r.release(b, next, "2")
}

// testLostVerdict: a failover loses the verdict, and a late refresh token is kept before whoever remembers it brings it back.
func testLostVerdict(r *rig) {
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	late := r.taken(a, conn, "a", 20*time.Millisecond)
	lease := r.taken(b, conn, "b", time.Minute)
	key := r.connKey(a, conn)
	set := []string{"HSET", key}
	for _, f := range lines(r.raw("HKEYS", key)) {
		set = append(set, f, r.raw("HGET", key, f))
	}
	if _, err := b.FailRefresh(r.ctx(), lease, dead(conn), nil); err != nil {
		r.Fatal(err)
	}
	r.raw("DEL", key)
	r.raw(set...)
	_, err := a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a late commit")
	if err := b.Heal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	now, err := b.Connection(r.ctx(), tenant(r), conn.ID)
	if err != nil || now.Status != broker.ConnectionActive {
		r.Fatalf("%s, %v: there is a refresh token that nobody has tried", now.Status, err)
	}
}

// testOvertakenAnswer: the store acknowledges a refresh and loses it, and the process has looked for what was lost before the
// answer comes. A commit that says that it is done must be in the record.
func testOvertakenAnswer(r *rig) {
	var s *vault.Store
	var lose func()
	s = r.troubledStore(&troubled{after: func(step vault.Step) error {
		if do := lose; do != nil {
			lose = nil
			do()
		}
		return nil
	}})
	conn := r.connect(s, tenant(r), "u", "files", "1")
	lease := r.taken(s, conn, "a", time.Minute)
	key := r.connKey(s, conn)
	was := []string{"HSET", key}
	for _, f := range lines(r.raw("HKEYS", key)) {
		was = append(was, f, r.raw("HGET", key, f))
	}
	lose = func() {
		r.raw("DEL", key)
		r.raw(was...)
		s.Changed()
		if err := s.Heal(r.ctx()); err != nil {
			r.Error(err)
		}
	}
	r.within(10*time.Second, "the commit is done", func() bool {
		_, err := s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil)
		return err == nil
	})
	if n := r.raw("HGET", key, "gen"); n != "2" {
		r.Fatalf("the commit is done, and the record is at generation %s", n)
	}
}
