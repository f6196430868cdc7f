package vaulttest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// troubled is a backend that a test stands before: a request or an answer gets lost where before or after says so.
type troubled struct {
	vault.Backend
	before, after func(vault.Step) error
	reading       func(keys []string) // something happens in front of it
}

// Hashes is part of vault.Backend.
func (b *troubled) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	if b.reading != nil {
		b.reading(keys)
	}
	return b.Backend.Hashes(ctx, keys)
}

// Apply is part of vault.Backend.
func (b *troubled) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	lost := func(err error) []vault.Result {
		results := make([]vault.Result, len(steps))
		for i := range results {
			results[i].Err = err
		}
		return results
	}
	ask := func(hook func(vault.Step) error) error {
		for _, step := range steps {
			if hook != nil {
				if err := hook(step); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := ask(b.before); err != nil {
		return lost(err)
	}
	results := b.Backend.Apply(ctx, steps)
	if err := ask(b.after); err != nil {
		return lost(err)
	}
	return results
}

// troubledStore is another replica, behind that backend.
func (r *rig) troubledStore(b *troubled) *vault.Store {
	r.Helper()
	b.Backend = r.backend()
	var cfg vault.Config
	r.store(func(vc *vault.Config, _ *redisstore.Config) { cfg = *vc })
	cfg.Backend = b
	s, err := vault.New(cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(s.Close)
	return s
}

func holderOf(conn broker.Connection) broker.Holder {
	return broker.Holder{ID: conn.ID, Generation: conn.Generation}
}

func ofSharedGrant(step vault.Step) bool {
	for _, w := range step.Writes {
		if strings.Contains(w.Key, "}:g:") {
			return true
		}
	}
	return false
}

// sharedKey is the key of the grant's record that was made since.
func (r *rig) sharedKey(before []string) string {
	r.Helper()
	for _, key := range r.keys("*}:g:*") {
		if !strings.Contains(strings.Join(before, " "), key) {
			return key
		}
	}
	r.Fatal("there is no record of a shared grant")
	return ""
}

// sends is the refresh token that the connection's next refresh would send; it gives the lease back.
func (r *rig) sends(s *vault.Store, conn broker.Connection, owner string) (token string) {
	r.Helper()
	r.within(10*time.Second, "the lease on a shared grant", func() bool {
		lease, secret, err := s.BeginRefresh(r.ctx(), conn, owner, time.Minute)
		if errors.Is(err, broker.ErrBusy) {
			return false
		}
		if err != nil {
			r.Fatalf("begin refresh: %v", err)
		}
		token = strings.TrimPrefix(secret.Reveal(), "canary-rt-")
		if err := s.EndRefresh(r.ctx(), lease); err != nil {
			r.Fatal(err)
		}
		return true
	})
	return token
}

// disconnect is a whole revocation.
func (r *rig) disconnect(s *vault.Store, conn broker.Connection, forget bool) {
	r.Helper()
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)}); err != nil {
		r.Fatal(err)
	}
	if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, forget); err != nil {
		r.Fatal(err)
	}
}

// testSharedReconnect: the last holder leaves and comes back through another replica. Who remembers the grant of before must
// not write it back over the new one.
func testSharedReconnect(r *rig) {
	p, q := r.store(), r.store()
	name, conns := r.holders(p, "alice")
	alice := r.refresh(p, r.refresh(p, conns[0], "2"), "3")
	r.disconnect(q, alice, false)
	generation, err := q.Spread(r.ctx(), name, "again", r.grant("new"))
	if err != nil {
		r.Fatal(err)
	}
	conn := r.connect(q, tenant(r), "alice", "files", "new")
	conn.SharedGrant, conn.SharedGeneration = name, generation
	conn = r.renew(q, conn, "new")
	if got := r.sends(p, conn, "p"); got != "new" {
		r.Errorf("after a reconnect the refresh token %q is sent", got)
	}
}

// testSharedSetBack: the store lost what one holder's refresh brought, before or while another asks.
func testSharedSetBack(r *rig) {
	before := r.keys("*}:g:*")
	s, other := r.store(), r.store()
	_, conns := r.holders(s, "alice", "bob")
	key := r.sharedKey(before)
	was := []string{"HSET", key}
	for _, field := range []string{"gen", "g", "wid"} {
		was = append(was, field, r.raw("HGET", key, field))
	}
	r.refresh(s, conns[0], "2")
	r.raw(was...)
	if got := r.sends(s, conns[1], "s"); got != "2" {
		r.Errorf("the store was set back, and %q is sent", got)
	}

	lease, _, err := s.BeginRefresh(r.ctx(), conns[1], "s", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	r.raw("DEL", key)
	if _, err := s.CommitRefresh(r.ctx(), lease, conns[1], "", r.grant("3"), []broker.Entry{entry(broker.EventTokenRefreshed, conns[1])}); err != nil {
		r.Fatal(err)
	}
	now, err := other.Connection(r.ctx(), tenant(r), conns[0].ID)
	if err != nil {
		r.Fatal(err)
	}
	if got := r.sends(other, now, "other"); got != "3" {
		r.Errorf("the grant was lost during a refresh, and another holder sends %q", got)
	}
}

// testSharedNewerFormat: a record that a newer program wrote stays as it is.
func testSharedNewerFormat(r *rig) {
	before := r.keys("*}:g:*")
	s := r.store()
	name, conns := r.holders(s, "alice")
	key := r.sharedKey(before)
	r.raw("HSET", key, "v", "2")
	was := r.snapshot(key)
	_, _, err := s.BeginRefresh(r.ctx(), conns[0], "a", time.Minute)
	is(r, err, broker.ErrNewerFormat, "a lease")
	_, err = s.Spread(r.ctx(), name, "consent", r.grant("2"))
	is(r, err, broker.ErrNewerFormat, "a consent")
	_, err = s.Leave(r.ctx(), name, holderOf(conns[0]))
	is(r, err, broker.ErrNewerFormat, "leaving")
	if now := r.snapshot(key); now != was {
		r.Errorf("it was changed:\n%s\n%s", was, now)
	}
}

// testSharedLeaseOfTwoRuns: a consent ends a connection's lease in the middle of its refresh. The next one takes a lease of
// its own, which the first one's late commit does not end.
func testSharedLeaseOfTwoRuns(r *rig) {
	s, other := r.store(), r.store()
	name, conns := r.holders(s, "alice", "bob")
	first, _, err := s.BeginRefresh(r.ctx(), conns[0], "a", 2*time.Second)
	if err != nil {
		r.Fatal(err)
	}
	late := r.grant("late") // asked for before the consent's
	time.Sleep(time.Millisecond)
	generation, err := s.Spread(r.ctx(), name, "again", r.grant("consent"))
	if err != nil {
		r.Fatal(err)
	}
	renewed := conns[0]
	renewed.SharedGeneration = generation
	renewed = r.renew(s, renewed, "consent")
	var second broker.Lease
	r.within(10*time.Second, "the first lease is over", func() bool {
		second, _, err = s.BeginRefresh(r.ctx(), renewed, "a", time.Minute)
		return err == nil
	})
	if second.Shared.Fence == first.Shared.Fence || second.Shared.Owner == first.Shared.Owner {
		r.Errorf("two runs have one lease")
	}
	// Late, with tokens that are older than the consent's; and later still, with newer ones, as a clock may have it.
	for _, grant := range []broker.Grant{late, r.grant("later")} {
		_, _ = s.CommitRefresh(r.ctx(), first, conns[0], "", grant, []broker.Entry{entry(broker.EventTokenRefreshed, conns[0])})
		_, _, err = other.BeginRefresh(r.ctx(), conns[1], "b", time.Minute)
		is(r, err, broker.ErrBusy, "another holder beside the second run")
	}
}

// testSharedLeavers: of any number who leave at the same time one is told that nobody is left; who erases leaves nothing.
func testSharedLeavers(r *rig) {
	before := r.keys("*}:g:*")
	s := r.store()
	name, conns := r.holders(s, "alice", "bob", "carol")
	var last atomic.Int32
	var group sync.WaitGroup
	for _, conn := range conns {
		group.Go(func() {
			left, err := s.Leave(r.ctx(), name, holderOf(conn))
			if err != nil {
				r.Errorf("leave: %v", err)
			}
			if left == 0 {
				last.Add(1)
			}
		})
	}
	group.Wait()
	if last.Load() != 1 {
		r.Errorf("%d of three who left were the last", last.Load())
	}
	for _, conn := range conns {
		r.disconnect(s, conn, true)
	}
	if n := len(r.keys("*}:g:*")); n != len(before) {
		r.Errorf("%d records of a grant that nobody holds any more", n-len(before))
	}
}

// testSharedGhost: a connection that is erased between its lease and the grant's is no holder for that.
func testSharedGhost(r *rig) {
	var meanwhile func()
	var once sync.Once
	s, other := r.troubledStore(&troubled{before: func(step vault.Step) error {
		if meanwhile != nil && ofSharedGrant(step) {
			once.Do(meanwhile)
		}
		return nil
	}}), r.store()
	name, conns := r.holders(s, "alice")
	meanwhile = func() { r.disconnect(other, conns[0], true) }
	lease, _, err := s.BeginRefresh(r.ctx(), conns[0], "a", time.Minute)
	if err == nil {
		_, err = s.CommitRefresh(r.ctx(), lease, conns[0], "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conns[0])})
	}
	is(r, err, broker.ErrNotFound, "a refresh of what was erased")
	if n, err := other.Holders(r.ctx(), name, broker.Holder{}); err != nil || n != 0 {
		r.Errorf("%d holders, %v", n, err)
	}
}

// testSharedLostAnswer: the answer to the lease on a grant gets lost until the caller's time is over. Neither it nor the
// connection's own lease stays with the process for that.
func testSharedLostAnswer(r *rig) {
	const patience = 100 * time.Millisecond
	var lost atomic.Bool
	lose := func(step vault.Step) error {
		if lost.Load() && ofSharedGrant(step) {
			return errors.New("answer lost")
		}
		return nil
	}
	hang := func(step vault.Step) error {
		err := lose(step)
		if err != nil {
			time.Sleep(2 * patience) // that long the store says nothing
		}
		return err
	}
	for what, b := range map[string]*troubled{"answer": {after: lose}, "request": {before: lose}, "time": {before: hang}} {
		lost.Store(false)
		s := r.troubledStore(b)
		_, conns := r.holders(s, what+" alice", what+" bob")
		lost.Store(true)
		ctx, cancel := contextWithTimeout(patience)
		if _, _, err := s.BeginRefresh(ctx, conns[0], "a", 45*time.Second); err == nil {
			r.Errorf("%s lost, and a lease", what)
		}
		cancel()
		lost.Store(false)
		for _, conn := range conns {
			lease, _, err := s.BeginRefresh(r.ctx(), conn, "a", 45*time.Second)
			if err != nil {
				r.Errorf("%s lost, and nobody has a lease: %v", what, err)
			} else if err := s.EndRefresh(r.ctx(), lease); err != nil {
				r.Error(err)
			}
		}
	}
}
