package vaulttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// rotation is a keyset whose file changes under processes that have it open.
type rotation struct {
	*rig
	kek  vault.KEK
	file []byte
}

func newRotation(r *rig) *rotation {
	r.Helper()
	kek, err := vault.NewKEK(bytes.Repeat([]byte{8}, 32), "test")
	if err != nil {
		r.Fatal(err)
	}
	file, err := vault.CreateKeyset(kek, time.Now())
	if err != nil {
		r.Fatal(err)
	}
	o := &rotation{rig: r, kek: kek, file: file}
	r.keyset = o.open()
	return o
}

func (o *rotation) open() *vault.Keyset {
	o.Helper()
	k, err := vault.OpenKeyset(o.file, o.kek)
	if err != nil {
		o.Fatal(err)
	}
	return k
}

// edit changes the file, and the keyset of all stores with it.
func (o *rotation) edit(edit vault.KeysetEdit) uint32 {
	o.Helper()
	file, key, err := vault.EditKeyset(o.file, o.kek, edit, time.Now())
	if err == nil {
		o.file, err = file, o.keyset.Reload(file)
	}
	if err != nil {
		o.Fatalf("%s: %v", edit.Do, err)
	}
	return key
}

func (o *rotation) primary() uint32 {
	for _, k := range o.keyset.Keys() {
		if k.Primary {
			return k.ID
		}
	}
	return 0
}

// retire removes the key.
func (o *rotation) retire(key uint32) {
	o.Helper()
	o.edit(vault.KeysetEdit{Do: vault.KeysetDisable, Key: key})
	o.edit(vault.KeysetEdit{Do: vault.KeysetDelete, Key: key})
}

// left is what is still sealed with the key.
func (o *rotation) left(s *vault.Store, key uint32) int {
	o.Helper()
	count, err := s.CountSeals(o.ctx())
	if err != nil {
		o.Fatal(err)
	}
	return count.ByKey[key]
}

// everyKind makes a record of every kind that is sealed; the function that comes back checks that all are as they were.
func everyKind(r *rig, s *vault.Store) (check func(*vault.Store)) {
	r.Helper()
	r.unswitched()
	must := func(err error) {
		r.Helper()
		if err != nil {
			r.Fatal(err)
		}
	}
	// A connection with a late refresh token beside it, and one with two access tokens.
	conn := r.connect(s, tenant(r), "u", "files", "1")
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	must(err)
	wide := r.connect(s, tenant(r), "wide", "files", "1")
	narrow := broker.Grant{AccessToken: broker.NewSecret("canary-at-narrow"), ExpiresAt: time.Now().Add(time.Hour), Scopes: broker.NewScopeSet("files.read"), ScopesReported: true}
	second := renewLease(r, s, wide)
	wide, err = s.CommitRefresh(r.ctx(), second, wide, "k1", narrow, nil)
	must(err)
	late := conn
	conn = r.renew(s, conn, "2")
	lease.Fence++
	_, err = s.CommitRefresh(r.ctx(), lease, late, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "late commit")
	shared, holders := r.holders(s, "alice", "bob")
	link, err := s.CreateConsent(r.ctx(), renewal(s, conn), "", nil)
	must(err)
	visit, err := s.CreatePortal(r.ctx(), newPortal(s, tenant(r), "u"), nil)
	must(err)
	drive := fmt.Sprintf("drive_%x", time.Now().UnixNano())
	_, err = s.SaveTenantConnector(r.ctx(), ownConnector(r, drive, "canary-secret"), nil)
	must(err)
	job, _, err := s.CreateJob(r.ctx(), newJob(r, 1), "form")
	must(err)
	session := broker.NewSecret("session of " + tenant(r))
	must(s.SaveSession(r.ctx(), session, []byte("data"), time.Now().Add(time.Hour)))
	must(s.CreateSignIn(r.ctx(), session, operatorRun("canary")))
	must(s.SetOperatorEpoch(r.ctx(), "oidc:"+tenant(r), "epoch", time.Now().Add(time.Hour)))
	in := operatorSession(1)
	must(s.BeginOperatorSession(r.ctx(), in, time.Now().Add(time.Hour)))
	must(s.Beat(r.ctx(), broker.Replica{ID: tenant(r), Host: "here"}))
	must(s.LeaveReplica(r.ctx(), broker.Replica{ID: tenant(r) + "-left", Host: "left here"}))
	r.Cleanup(func() { _ = s.EndReplica(context.Background(), tenant(r)+"-left") })
	r.turnOff(s, drive)
	table, err := s.Switches(r.ctx())
	must(err)
	conn.Switches, wide.Switches = table.Mark, table.Mark
	events := len(r.allEvents(s, tenant(r), broker.EventFilter{}, 100))
	return func(s *vault.Store) {
		r.Helper()
		r.release(s, conn, "2")
		r.release(s, wide, "1")
		events += len(conn.Scopes.All()) + len(wide.Scopes.All())
		token, err := s.Release(r.ctx(), wide, "k1", entry(broker.EventTokenIssued, wide, "files.read"))
		events++
		if err != nil || token.Reveal() != "canary-at-narrow" {
			r.Errorf("the narrower token: %v", err)
		}
		lease, refresh, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
		must(err)
		if refresh.Reveal() != "canary-rt-2" {
			r.Errorf("refresh token %q", refresh.Reveal())
		}
		alternates, err := s.Alternates(r.ctx(), broker.Lease{}, conn)
		if err != nil || len(alternates) != 1 || alternates[0].Reveal() != "canary-rt-late" {
			r.Errorf("%d alternates, %v", len(alternates), err)
		}
		must(s.EndRefresh(r.ctx(), lease))
		if n, err := s.Holders(r.ctx(), shared, broker.Holder{}); err != nil || n != 2 {
			r.Errorf("%d holders of a shared grant, %v", n, err)
		}
		if held, err := s.Connection(r.ctx(), tenant(r), holders[0].ID); err != nil || held.SharedGrant != shared {
			r.Errorf("holder of a shared grant: %v", err)
		}
		if lease, token, err := s.BeginRefresh(r.ctx(), holders[0], "x", time.Minute); err != nil || !strings.HasPrefix(token.Reveal(), "canary-rt-") {
			r.Errorf("refresh of a shared grant: %v", err)
		} else {
			must(s.EndRefresh(r.ctx(), lease))
		}
		if c, err := s.Consent(r.ctx(), link.ID); err != nil || c.Link.Reveal() != link.Link.Reveal() {
			r.Errorf("consent: %v", err)
		}
		if p, err := s.Portal(r.ctx(), visit.ID); err != nil || p.Subject != "u" {
			r.Errorf("visit: %v", err)
		}
		if c, err := s.TenantConnector(r.ctx(), tenant(r), drive); err != nil || c.ClientSecret.Reveal() != "canary-secret" {
			r.Errorf("connector: %v", err)
		}
		if j, err := s.Job(r.ctx(), job.ID); err != nil || j.Kind != job.Kind {
			r.Errorf("job: %v", err)
		}
		if data, err := s.Session(r.ctx(), session); err != nil || string(data) != "data" {
			r.Errorf("session: %v", err)
		}
		if _, err := s.SignIn(r.ctx(), session); err != nil {
			r.Errorf("sign-in: %v", err)
		}
		if epoch, err := s.OperatorEpoch(r.ctx(), "oidc:"+tenant(r)); err != nil || epoch != "epoch" {
			r.Errorf("epoch: %q, %v", epoch, err)
		}
		if one, err := s.OperatorSession(r.ctx(), in.ID); err != nil || one.Name != in.Name {
			r.Errorf("who is signed in: %+v, %v", one, err)
		}
		if all, _, err := s.AllReplicas(r.ctx()); err != nil || !strings.Contains(fmt.Sprint(all), "here") {
			r.Errorf("replicas: %v", err)
		}
		if all, err := s.LeftReplicas(r.ctx()); err != nil || !strings.Contains(fmt.Sprint(all), "left here") {
			r.Errorf("replicas that left something: %v", err)
		}
		if table, err := s.Switches(r.ctx()); err != nil || len(table.Off) == 0 {
			r.Errorf("switches: %v", err)
		}
		if table, err := s.SwitchesFor(r.ctx(), tenant(r), "u"); err != nil || len(table.Off) == 0 {
			r.Errorf("switches of a shard: %v", err)
		}
		r.verified(s)
		if n := len(r.allEvents(s, tenant(r), broker.EventFilter{}, 100)); n < events {
			r.Errorf("%d events, %d were recorded", n, events)
		}
	}
}

// testReseal (threat 35): every kind of record is sealed anew, so that the key before can be deleted; the audit trail has a key of
// its own, and stays readable.
func testReseal(r *rig) {
	o := newRotation(r)
	a, b := r.store(withSpool(Dir(r))), r.store()
	r.Cleanup(func() { _, _ = r.rawTry("DEL", "tb:{00}:rs", "tb:{00}:rp:"+tenant(r)) })
	check := everyKind(r, a)
	first := o.primary()
	if n := o.left(b, first); n < 15 {
		r.Fatalf("%d records sealed with the first key", n)
	}
	second := o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	check(b)
	if err := b.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	if n := o.left(a, first); n != 0 {
		r.Errorf("%d records are still sealed with the first key", n)
	}
	// Bytes 1 to 4 of each seal, as somebody sees them who knows nothing of kinds of records.
	mark := string([]byte{1, byte(first >> 24), byte(first >> 16), byte(first >> 8), byte(first)})
	for _, key := range r.keys(tag(a.Shard(tenant(r), "u")) + "*") {
		if strings.Contains(key, ":a:") {
			continue // of the audit trail
		}
		if reply, err := r.rawTry("HGETALL", key); err == nil && strings.Contains(reply, mark) {
			r.Errorf("something under %s is still sealed with the first key", key)
		}
	}
	o.retire(first)
	check(a)                                                                              // which knows what was before
	check(r.store())                                                                      // and who only comes now
	check(r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Keyset = o.open() })) // or begins with the file as it is
	if done, err := a.Resealing(r.ctx()); err != nil || done.Last.Resealed < 15 || done.Last.ByKey[second] < 15 || done.Last.ByKey[first] != 0 {
		r.Errorf("what is told of it: %+v, %v", done, err)
	}
	if found := strings.Contains(r.log.String(), "written back"); found {
		r.Error("something was taken for lost")
	}
}

// testResealMeets: whoever writes between the reading and the exchange of a seal is not overwritten, and what he wrote counts.
func testResealMeets(r *rig) {
	o := newRotation(r)
	for _, after := range []bool{false, true} {
		writer := r.store()
		subject := fmt.Sprint("u", after)
		conn := r.connect(writer, tenant(r), subject, "files", "1")
		first := o.primary()
		o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
		meets := &crashing{after: after}
		meets.left.Store(2) // the first write takes the right to go through the records
		met := false
		meets.meet = func() {
			lease, token, err := writer.BeginRefresh(r.ctx(), conn, "x", time.Minute)
			if err != nil || token.Reveal() != "canary-rt-1" {
				r.Fatalf("refresh beside an exchange of seals: %v", err)
			}
			if conn, err = writer.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)}); err != nil {
				r.Fatal(err)
			}
			met = true
		}
		if err := r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = meets }).Reseal(r.ctx()); err != nil || !met {
			r.Fatalf("met %v, %v", met, err)
		}
		r.release(writer, conn, "2")
		lease, token, err := r.store().BeginRefresh(r.ctx(), conn, "x", time.Minute)
		if err != nil || token.Reveal() != "canary-rt-2" {
			r.Fatalf("the refresh token that was written meanwhile is not there: %v", err)
		}
		if err := writer.EndRefresh(r.ctx(), lease); err != nil {
			r.Fatal(err)
		}
		if err := writer.Reseal(r.ctx()); err != nil {
			r.Fatal(err)
		}
		if n := o.left(writer, first); n != 0 {
			r.Errorf("%d records are still sealed with the first key", n)
		}
		r.verified(writer)
	}
}

// testResealCrash: wherever the process dies that seals anew, the next one ends it.
func testResealCrash(r *rig) {
	o := newRotation(r)
	s := r.store()
	var conns []broker.Connection
	for i := range 4 {
		conns = append(conns, r.connect(s, tenant(r), fmt.Sprint("u", i), "files", fmt.Sprint(i)))
	}
	for n := int64(1); n <= 8; n++ {
		first := o.primary()
		o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
		dies := &crashing{after: n%2 == 0}
		dies.left.Store(n)
		ctx, cancel := contextWithTimeout(300 * time.Millisecond)
		_ = r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = dies }).Reseal(ctx)
		cancel()
		r.raw("HDEL", "tb:{00}:rs", "dl") // its time is over
		if err := s.Reseal(r.ctx()); err != nil {
			r.Fatal(err)
		}
		if left := o.left(s, first); left != 0 {
			r.Fatalf("died at write %d: %d records are still sealed with the key before", n, left)
		}
		o.retire(first)
		for i, conn := range conns {
			r.release(s, conn, fmt.Sprint(i))
		}
	}
	r.verified(s)
}

// testResealUnderWrites: refreshes go on all the while, in two processes, and none is lost.
func testResealUnderWrites(r *rig) {
	o := newRotation(r)
	stores := []*vault.Store{r.store(withSpool(Dir(r))), r.store(withSpool(Dir(r)))}
	type state struct {
		conn   broker.Connection
		tokens string
	}
	var states []state
	for i := range 6 {
		states = append(states, state{r.connect(stores[0], tenant(r), fmt.Sprint("u", i), "files", "0"), "0"})
	}
	ctx, stop := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	for i := range states {
		writing.Go(func() {
			at := &states[i]
			for n := 1; ctx.Err() == nil; n++ {
				s := stores[n%2]
				lease, token, err := s.BeginRefresh(r.ctx(), at.conn, "x", time.Minute)
				if err != nil || token.Reveal() != "canary-rt-"+at.tokens {
					r.Errorf("begin a refresh: %v", err)
					return
				}
				tokens := fmt.Sprint(n)
				next, err := s.CommitRefresh(r.ctx(), lease, at.conn, "", r.grant(tokens), []broker.Entry{entry(broker.EventTokenRefreshed, at.conn)})
				if err != nil {
					r.Errorf("commit: %v", err)
					return
				}
				at.conn, at.tokens = next, tokens
				if got, err := stores[(n+1)%2].Release(r.ctx(), next, "", entry(broker.EventTokenIssued, next, "files.read")); err != nil || got.Reveal() != "canary-at-"+tokens {
					r.Errorf("release: %v", err)
					return
				}
			}
		})
	}
	for range 4 {
		first := o.primary()
		o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
		for pass := 0; ; pass++ {
			if err := stores[pass%2].Reseal(r.ctx()); err != nil {
				r.Error(err)
				break
			}
			if o.left(stores[0], first) == 0 {
				break
			}
		}
	}
	stop()
	writing.Wait()
	for _, at := range states {
		r.release(stores[0], at.conn, at.tokens)
	}
	if strings.Contains(r.log.String(), "alternate") || strings.Contains(r.log.String(), "written back") {
		r.Error("a seal that was exchanged was taken for another token")
	}
	r.verified(stores[0])
}

// testResealSuccessor: what is said beside a record of its refresh token stays true of it under its new seal.
func testResealSuccessor(r *rig) {
	o := newRotation(r)
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	late := renewLease(r, s, conn)
	// The store lost that lease, and somebody else has one.
	r.raw("HDEL", tag(s.Shard(tenant(r), "u"))+"c:"+conn.ID, "own", "dl")
	other := renewLease(r, s, conn)
	_, err := s.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "late commit")
	if err := s.EndRefresh(r.ctx(), other); err != nil {
		r.Fatal(err)
	}
	first := o.primary()
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	if err := s.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	o.retire(first)
	_, _, err = s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	is(r, err, broker.ErrConflict, "the record has become another one")
	if conn, err = s.Connection(r.ctx(), tenant(r), conn.ID); err != nil {
		r.Fatal(err)
	}
	if _, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute); err != nil || token.Reveal() != "canary-rt-late" {
		r.Errorf("what was given for the record's refresh token does not go first: %q, %v", token.Reveal(), err)
	}
}

// testResealLost: the store loses a write whose record was sealed anew meanwhile. Who remembers it writes it back under the new key.
func testResealLost(r *rig) {
	o := newRotation(r)
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	first := o.primary()
	key := tag(s.Shard(tenant(r), "u")) + "c:" + conn.ID
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	if err := s.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	s.ResealMemory(r.ctx())
	if old := s.OldSeals(); len(old) != 0 {
		r.Errorf("still remembered under the key before: %v", old)
	}
	o.retire(first)
	r.raw("DEL", key)
	if _, err := s.Connection(r.ctx(), tenant(r), conn.ID); err != nil {
		r.Fatalf("what is remembered of it does not bring it back: %v", err)
	}
	r.release(s, conn, "1")
	_, err := s.Connection(r.ctx(), tenant(r), conn.ID)
	if errors.Is(err, broker.ErrIntegrity) || o.left(s, first) != 0 {
		r.Errorf("written back under the key before: %v", err)
	}
}
