package vaulttest

import (
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// What the store lost of a grant that several connections hold, and whoever wrote it is gone: found by vault/simulationtest.

// savedKeys returns what sets the records back to what they are now.
func (r *rig) savedKeys(keys ...string) (setBack func()) {
	r.Helper()
	var was [][]string
	for _, key := range keys {
		set := []string{"HSET", key}
		for _, f := range lines(r.raw("HKEYS", key)) {
			set = append(set, f, r.raw("HGET", key, f))
		}
		was = append(was, set)
	}
	return func() {
		for i, key := range keys {
			r.raw("DEL", key)
			r.raw(was[i]...)
		}
	}
}

// testSharedSpool: the spool of a process that is gone brings back what its refresh gave to all holders, also what it had only taken
// over, and also if the connection itself has lost nothing.
func testSharedSpool(r *rig) {
	before, key := r.keys("*}:g:*"), ""
	for i, test := range []struct {
		name      string
		takenOver bool // by bob from alice
		both      bool // the connection is set back too
	}{{"refreshed", false, true}, {"refreshed, the grant alone lost", false, false}, {"taken over", true, true}} {
		dir := filepath.Join(Dir(r), "spool")
		gone, other := r.store(withSpool(dir)), r.store()
		name, conns := r.holders(other, "alice"+test.name, "bob"+test.name, "carol"+test.name)
		if key == "" {
			key = r.sharedKey(before)
		}
		keys := []string{key}
		if test.both {
			keys = append(keys, r.connKey(other, conns[1]))
		}
		setBack := r.savedKeys(keys...)
		if test.takenOver {
			r.refreshShared(other, conns[0], "2")
		}
		lease, _ := r.begin(gone, conns[1], "b")
		grant := r.grant("2")
		if test.takenOver {
			grant, lease.Shared.Adopted = *lease.Shared.Newer, true
		}
		if _, err := gone.CommitRefresh(r.ctx(), lease, conns[1], "", grant, nil); err != nil {
			r.Fatal(err)
		}
		setBack()
		r.raw("HDEL", key, "m:"+conns[1].ID)
		if err := r.store(withSpool(dir)).ReplaySpool(r.ctx()); err != nil {
			r.Fatal(err)
		}
		if token := r.sends(r.store(), conns[2], "c"); token != "2" {
			r.Fatalf("%s: another holder sends %q", test.name, token)
		}
		if n, err := other.Holders(r.ctx(), name, broker.Holder{}); err != nil || n != 3*(i+1) {
			r.Fatalf("%s: %d hold the grant, %v", test.name, n, err)
		}
	}
}

// refreshShared is a refresh of a connection that shares its grant.
func (r *rig) refreshShared(s *vault.Store, conn broker.Connection, tokens string) {
	r.Helper()
	lease, _ := r.begin(s, conn, "x")
	grant := r.grant(tokens)
	grant.ObtainedAt = time.Now()
	if _, err := s.CommitRefresh(r.ctx(), lease, conn, "", grant, nil); err != nil {
		r.Fatal(err)
	}
}

// testSharedTakenOver: a process that has only taken over what another one was given brings it back, should that one be gone.
func testSharedTakenOver(r *rig) {
	gone, s := r.store(), r.store()
	before := r.keys("*}:g:*")
	_, conns := r.holders(gone, "alice", "bob", "carol")
	setBack := r.savedKeys(r.sharedKey(before))
	r.refreshShared(gone, conns[0], "2")
	lease, _ := r.begin(s, conns[1], "b")
	grant := *lease.Shared.Newer
	lease.Shared.Adopted = true
	if _, err := s.CommitRefresh(r.ctx(), lease, conns[1], "", grant, nil); err != nil {
		r.Fatal(err)
	}
	setBack()
	if err := s.Heal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	if token := r.sends(r.store(), conns[2], "c"); token != "2" {
		r.Fatalf("another holder sends %q", token)
	}
}

// testSharedHolderLost: the store lost who holds a grant. A refresh says it again, and so does who brings the connection back.
func testSharedHolderLost(r *rig) {
	s, other := r.store(), r.store()
	before := r.keys("*}:g:*")
	name, conns := r.holders(s, "alice", "bob")
	alice, key := conns[0], r.sharedKey(before)
	held := func(what string) {
		r.Helper()
		if n, err := other.Holders(r.ctx(), name, holderOf(conns[1])); err != nil || n != 1 {
			r.Fatalf("%s: %d others hold the grant, %v", what, n, err)
		}
		r.raw("HDEL", key, "m:"+alice.ID)
	}
	held("at first")
	r.sends(other, alice, "a")
	held("after a refresh")
	setBack := r.saved(s, alice)
	r.refreshShared(s, alice, "2")
	r.raw("HDEL", key, "m:"+alice.ID)
	setBack()
	if err := s.Heal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	held("after healing")
}

// testSharedLostUnread: what a consent gives all holders is stored while its writer begins to look for what a failover took, so it has to
// read the record again; before it has, the store loses that too. It comes back when the writer looks for what was lost, if it does
// so in between, and else with the consent itself.
func testSharedLostUnread(r *rig) {
	before, key := r.keys("*}:g:*"), ""
	for _, test := range []struct {
		name  string
		looks bool // in between
	}{{"looked for", true}, {"not looked for", false}} {
		b := &troubled{}
		s, other := r.troubledStore(b), r.store()
		name, conns := r.holders(other, "alice "+test.name, "bob "+test.name)
		if key == "" {
			key = r.sharedKey(before)
		}
		setBack := r.savedKeys(key)
		written, lost := false, false
		b.after = func(step vault.Step) error {
			if ofSharedGrant(step) && !written {
				written = true
				s.Changed()
			}
			return nil
		}
		b.reading = func(keys []string) {
			if !written || lost || !slices.Contains(keys, key) {
				return
			}
			lost = true
			setBack()
			if !test.looks {
				return
			}
			if err := s.Heal(r.ctx()); err != nil {
				r.Errorf("heal: %v", err)
			}
			if token := r.sends(other, conns[0], "a"); token != "newer" {
				r.Errorf("%s: before the writer has read it again another holder sends %q", test.name, token)
			}
		}
		generation, err := s.Spread(r.ctx(), name, "consent "+test.name, r.grant("newer"))
		if err != nil || generation <= conns[1].SharedGeneration || !lost {
			r.Fatalf("%s: generation %d, lost %v, %v", test.name, generation, lost, err)
		}
		if token := r.sends(other, conns[1], "b"); token != "newer" {
			r.Errorf("%s: another holder sends %q", test.name, token)
		}
		if n, err := other.Holders(r.ctx(), name, holderOf(conns[0])); err != nil || n < 2 {
			r.Errorf("%s: %d hold the grant, the consent and bob among them, %v", test.name, n, err)
		}
		if err := s.Unmark(r.ctx(), name, "consent "+test.name); err != nil {
			r.Fatal(err)
		}
	}
}

// testSharedClockAhead: one replica's clock was wrong once. The consents that come behind it are the newest all the same.
func testSharedClockAhead(r *rig) {
	s := r.store()
	name, conns := r.holders(s, "alice", "bob")
	ahead := r.grant("carol")
	ahead.ObtainedAt = ahead.ObtainedAt.Add(time.Hour)
	if _, err := s.Spread(r.ctx(), name, "carols-consent", ahead); err != nil {
		r.Fatal(err)
	}
	for _, who := range []string{"dave", "erin"} {
		generation, err := s.Spread(r.ctx(), name, who+"s-consent", r.grant(who))
		if err != nil || generation == 0 {
			r.Fatalf("%s's tokens, the newest of the grant, were thrown away: generation %d, %v", who, generation, err)
		}
	}
	lease, _, err := s.BeginRefresh(r.ctx(), conns[0], "me", time.Minute)
	if err != nil || lease.Shared.Newer == nil || !strings.Contains(lease.Shared.Newer.RefreshToken.Reveal(), "erin") {
		r.Errorf("alice's refresh goes on with other tokens than the newest: %+v, %v", lease.Shared, err)
	}
}

// testSharedHeldElsewhere: the store has lost what a consent gave all holders, and nobody remembers it: the connection that was
// consented for has it, and the others get it there when theirs is dead.
func testSharedHeldElsewhere(r *rig) {
	s, before := r.store(), r.keys("*}:g:*")
	name, conns := r.holders(s, "alice", "bob")
	key := r.sharedKey(before)
	setBack := r.savedKeys(key)
	alice, bob := conns[0], conns[1]
	generation, err := s.Spread(r.ctx(), name, "consent", r.grant("newer"))
	if err != nil {
		r.Fatal(err)
	}
	bob.SharedGeneration = generation
	bob = r.renew(s, bob, "newer")
	setBack()
	other := r.store() // that remembers nothing
	lease, token := r.begin(other, alice, "a")
	if token != "canary-rt-first-bob" {
		r.Fatalf("refresh token %q", token)
	}
	alternates, err := other.Alternates(r.ctx(), lease, alice)
	if err != nil || len(alternates) != 1 || alternates[0].Reveal() != "canary-rt-newer" {
		r.Fatalf("%d alternates, %v", len(alternates), err)
	}
	// What the holder has is not newer any more once the grant has moved on.
	alice, err = other.CommitRefresh(r.ctx(), lease, alice, "", r.grant("newest"), []broker.Entry{entry(broker.EventTokenRefreshed, alice)})
	if err != nil {
		r.Fatal(err)
	}
	lease, token = r.begin(other, alice, "b")
	if alternates, err = other.Alternates(r.ctx(), lease, alice); err != nil || len(alternates) != 0 || token != "canary-rt-newest" {
		r.Fatalf("afterwards %d alternates, refresh token %q, %v", len(alternates), token, err)
	}
}
