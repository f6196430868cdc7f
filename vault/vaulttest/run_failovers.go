package vaulttest

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// This file holds what vault/simulationtest found about failovers that come at a bad moment.

// saved returns what sets the record back to what it is now, as a failover does.
func (r *rig) saved(s *vault.Store, conn broker.Connection) (setBack func()) {
	r.Helper()
	key := r.connKey(s, conn)
	was := []string{"HSET", key}
	for _, f := range lines(r.raw("HKEYS", key)) {
		was = append(was, f, r.raw("HGET", key, f))
	}
	return func() {
		r.raw("DEL", key)
		r.raw(was...)
	}
}

// testLostFailureMeetsLease: what the store lost says nothing new of the grant, and by the time that it could be written back
// somebody refreshes it. He must not be fenced out: the next one would send the same refresh token.
func testLostFailureMeetsLease(p *pair) {
	writer, other := p.store(), p.process()
	conn := p.connect(writer, tenant(p.rig), "u", "files", "1")
	lease := p.wentOn(writer, other, conn, func() {
		lease, _ := p.begin(writer, conn, "x")
		failing := conn
		failing.Failures = 1
		if _, err := writer.FailRefresh(p.ctx(), lease, failing, []broker.Entry{entry(broker.EventTokenRefreshFailed, conn)}); err != nil {
			p.Fatal(err)
		}
	})
	p.heal(writer)
	if _, _, err := writer.BeginRefresh(p.ctx(), conn, "z", time.Minute); !errors.Is(err, broker.ErrBusy) {
		p.Fatalf("the lease beside another one: %v", err)
	}
	if _, err := other.CommitRefresh(p.ctx(), lease, conn, "", p.grant("2"), nil); err != nil {
		p.Fatalf("the commit of who had the lease: %v", err)
	}
	p.holds(conn, broker.ConnectionActive, 2, writer, other)
	if n := p.events(other, broker.EventTokenRefreshFailed); n != 1 {
		p.Fatalf("%d events of the lost failure", n)
	}
}

// testLostWithWhoWroteBehind: the answer to a refresh comes after a consent of another process, which is gone when the store loses
// both. Who refreshed brings back what the consent left.
func testLostWithWhoWroteBehind(r *rig) {
	other := r.store()
	var behind func()
	hidden := errors.New("no answer")
	writer := r.troubledStore(&troubled{after: func(vault.Step) error {
		if do := behind; do != nil {
			behind = nil
			do()
			return hidden
		}
		return nil
	}})
	conn := r.connect(other, tenant(r), "u", "files", "1")
	lease := r.taken(writer, conn, "x", time.Minute)
	setBack := r.saved(other, conn)
	behind = func() {
		now, err := other.Connection(r.ctx(), conn.Tenant, conn.ID)
		if err != nil {
			r.Error(err)
			return
		}
		r.renew(other, now, "3")
	}
	if _, err := writer.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); err != nil {
		r.Fatal(err)
	}
	setBack()
	if err := writer.Heal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	now, err := r.store().Connection(r.ctx(), conn.Tenant, conn.ID)
	if err != nil || now.Generation != 3 {
		r.Fatalf("generation %d, %v: nobody has brought back what was written behind the refresh", now.Generation, err)
	}
	r.release(writer, now, "3")
}

// testGenerationMadeTwice: a process has read a record that the store lost then, and another write has made the same generation.
func testGenerationMadeTwice(r *rig) {
	s, other := r.store(), r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	setBack := r.saved(s, conn)
	failing := conn
	failing.Failures = 1
	if _, err := other.FailRefresh(r.ctx(), r.taken(other, conn, "b", time.Minute), failing, nil); err != nil {
		r.Fatal(err)
	}
	if now, err := s.Connection(r.ctx(), conn.Tenant, conn.ID); err != nil || now.Generation != 2 {
		r.Fatalf("generation %d, %v", now.Generation, err)
	}
	setBack()
	grant := r.grant("2")
	grant.ExpiresAt = grant.ExpiresAt.Add(time.Minute)
	next, err := s.CommitRefresh(r.ctx(), r.taken(s, conn, "a", time.Minute), conn, "", grant, nil)
	if err != nil {
		r.Fatal(err)
	}
	r.release(s, next, "2")
}

// testAlternatesOfTheLease: alternates are for who has the lease. Whoever was fenced out would send the same ones as the next.
func testAlternatesOfTheLease(r *rig) {
	a, b := r.store(), r.store()
	conn := r.connect(a, tenant(r), "u", "files", "1")
	late := r.taken(a, conn, "a", 20*time.Millisecond)
	lease := r.taken(b, conn, "b", time.Minute)
	_, err := a.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "a late commit")
	_, err = a.Alternates(r.ctx(), late, conn)
	is(r, err, broker.ErrConflict, "the alternates, for a lease that is over")
	if tokens, err := b.Alternates(r.ctx(), lease, conn); err != nil || len(tokens) != 1 {
		r.Fatalf("alternates: %d, %v", len(tokens), err)
	}
	if _, err := b.FailRefresh(r.ctx(), lease, conn, nil); err != nil {
		r.Fatal(err)
	}
	_, err = b.Alternates(r.ctx(), lease, conn)
	is(r, err, broker.ErrConflict, "the alternates of a record that moved on")
}

// silentRecords does not let a connection be read with what was issued of it.
type silentRecords struct{ vault.Backend }

var errSilent = errors.New("no answer")

// Hashes is part of vault.Backend.
func (s *silentRecords) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	if len(keys) == 2 && strings.Contains(keys[0], ":c:") {
		return nil, errSilent
	}
	return s.Backend.Hashes(ctx, keys)
}

// testSpoolWithoutStore: a settled commit of a process before this one may be what the store lost, and the store does not say so
// in time. That leaves open whether there is another refresh token.
func testSpoolWithoutStore(r *rig) {
	dir := filepath.Join(Dir(r), "spool")
	s := r.store(withSpool(dir))
	conn := r.connect(s, tenant(r), "u", "files", "1")
	setBack := r.saved(s, conn)
	r.refresh(s, conn, "2")
	setBack()
	silent := &silentRecords{Backend: r.backend()}
	next := r.store(withSpool(dir))
	cut, err := vault.New(vault.Config{
		Backend: silent, Keyset: r.keyset, SpoolDir: dir, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(cut.Close)
	lease := r.taken(cut, conn, "x", time.Minute)
	if tokens, err := cut.Alternates(r.ctx(), lease, conn); err == nil {
		r.Fatalf("%d alternates, and the store has not said what the record is", len(tokens))
	}
	_, err = next.Alternates(r.ctx(), lease, conn)
	is(r, err, broker.ErrConflict, "alternates while the record comes back")
	if _, token := r.begin(next, conn, "x"); token != "canary-rt-2" {
		r.Fatalf("the next refresh would send %s", token)
	}
}
