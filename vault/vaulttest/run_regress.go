package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// What is remembered is compared with what lies in the store, by who reads a record and by who looks after all that it remembers.

// fields is a hash as it is stored.
func (r *rig) fields(key string) map[string]string {
	r.Helper()
	all := make(map[string]string)
	for _, f := range lines(r.raw("HKEYS", key)) {
		all[f] = r.raw("HGET", key, f)
	}
	return all
}

// put makes the hash that, and nothing else.
func (r *rig) put(key string, fields map[string]string) {
	r.Helper()
	r.raw("DEL", key)
	for f, v := range fields {
		r.raw("HSET", key, f, v)
	}
}

// testHealErased (threat 80): a failover behind the erasing of a tenant, whose records are still remembered. They are left alone, and that ends.
func testHealErased(r *rig) {
	o := newRotation(r)
	s := r.store()
	o.tenantKeyset(tenant(r))
	conn := r.connect(s, tenant(r), "u", "files", "1")
	key := r.connKey(s, conn)
	old := r.fields(key)
	r.refresh(s, conn, "2")
	r.put(key, old)
	file, err := vault.DestroyTenantKeyset(o.file, o.kek, tenant(r), time.Now())
	if err == nil {
		o.file, err = file, o.keyset.Reload(file)
	}
	if err != nil {
		r.Fatal(err)
	}
	was := r.snapshot(key)
	if err := s.Heal(r.ctx()); err != nil {
		r.Errorf("healing never ends: %v", err)
	}
	if r.snapshot(key) != was {
		r.Error("an erased tenant's record was changed")
	}
}

// testHealSealedAnew: a failover during a rotation. What another replica has sealed anew, and then wrote on, is no rival grant.
func testHealSealedAnew(r *rig) {
	o := newRotation(r)
	s, other := r.store(), r.store()
	r.Cleanup(func() { _, _ = r.rawTry("DEL", "tb:{00}:rs") })
	conn := r.connect(s, tenant(r), "u", "files", "1")
	conn = r.refresh(s, conn, "2")
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	if err := other.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	var err error
	conn.Failures = 1
	if conn, err = other.FailRefresh(r.ctx(), renewLease(r, other, conn), conn, nil); err != nil {
		r.Fatal(err)
	}
	if err := s.Heal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	if alternates, err := other.Alternates(r.ctx(), broker.Lease{}, conn); err != nil || len(alternates) != 0 {
		r.Errorf("%d alternates of the refresh token that the record has, %v", len(alternates), err)
	}
}

// testHealForeign (threats 31 and 34): another's record in the place of the one that is remembered, when a failover makes a process look: nothing
// is forgotten for that.
func testHealForeign(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	twin := r.refresh(s, r.connect(s, tenant(r), "v", "files", "v"), "v2")
	key, theirs := r.connKey(s, conn), r.fields(r.connKey(s, twin))
	old := r.fields(key)
	conn = r.refresh(s, r.refresh(s, r.refresh(s, conn, "2"), "3"), "4")
	theirs["cg"] = "2"
	r.put(key, theirs)
	if err := s.Heal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	r.put(key, old)
	if _, token := r.begin(s, conn, "y"); token != "canary-rt-4" {
		r.Errorf("refresh token %q: the newest was forgotten", token)
	}
}

// testKeysetAway (threat 79): a replica meets a key that it lacks while the keyset can't be read again. Nobody takes that for tampering, and
// nothing is forgotten for it; once it can be read, an unknown key is what it is.
func testKeysetAway(r *rig) {
	o := newRotation(r)
	r.Cleanup(func() { _, _ = r.rawTry("DEL", "tb:{00}:rs") })
	old, away, now := o.keyset, true, time.Now()
	behind := r.store(func(vc *vault.Config, _ *redisstore.Config) {
		vc.Keyset, vc.Now = old, func() time.Time { return now }
		vc.ReloadKeyset = func() error {
			if away {
				return errors.New("the key service is away")
			}
			return old.Reload(o.file)
		}
	})
	conn := r.connect(behind, tenant(r), "u", "files", "1")
	key := r.connKey(behind, conn)
	first := r.fields(key)
	conn = r.refresh(behind, r.refresh(behind, conn, "2"), "3")
	r.keyset = o.open()
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	ahead := r.store()
	if err := ahead.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	conn.Failures = 1
	conn, err := ahead.FailRefresh(r.ctx(), renewLease(r, ahead, conn), conn, nil)
	if err != nil {
		r.Fatal(err)
	}
	for range 3 { // the first asks for the keys, the others come within the pause
		if _, err := behind.Connection(r.ctx(), conn.Tenant, conn.ID); err == nil || errors.Is(err, broker.ErrIntegrity) {
			r.Errorf("read with a key that the replica lacks: %v", err)
		}
	}
	if alternates, err := ahead.Alternates(r.ctx(), broker.Lease{}, conn); err != nil || len(alternates) != 0 {
		r.Errorf("%d alternates of the refresh token that the record has, %v", len(alternates), err)
	}
	// What is lost meanwhile is written back all the same.
	newest := r.fields(key)
	lost := maps.Clone(newest)
	lost["gen"], lost["wid"] = "1", "before"
	r.put(key, lost)
	if conn, err := behind.Connection(r.ctx(), conn.Tenant, conn.ID); err != nil || conn.Generation != 3 {
		r.Errorf("generation %d, %v", conn.Generation, err)
	}
	// What would be forgotten is not, until it can be told.
	foreign := maps.Clone(newest)
	foreign["gen"], foreign["cg"] = "2", "2"
	r.put(key, foreign)
	if _, err := behind.Connection(r.ctx(), conn.Tenant, conn.ID); err == nil || errors.Is(err, broker.ErrIntegrity) {
		r.Errorf("read with a key that the replica lacks: %v", err)
	}
	r.put(key, first)
	if _, token := r.begin(behind, conn, "y"); token != "canary-rt-3" {
		r.Errorf("refresh token %q: the newest was forgotten", token)
	}
	r.put(key, newest)
	away, now = false, now.Add(2*time.Second)
	if _, err := behind.Connection(r.ctx(), conn.Tenant, conn.ID); err != nil {
		r.Errorf("once the keyset can be read: %v", err)
	}
	private := []byte(newest["p"])
	private[1] ^= 0x40 // of the key's id
	r.raw("HSET", key, "p", string(private))
	_, err = behind.Connection(r.ctx(), conn.Tenant, conn.ID)
	is(r, err, broker.ErrKeyNotYet, "a key that may have come since the file was read")
	for range 2 {
		now = now.Add(2 * time.Second)
		_, err := behind.Connection(r.ctx(), conn.Tenant, conn.ID)
		is(r, err, broker.ErrIntegrity, "a key that nobody has")
	}
}

// steadyBackend is a store whose history looks as if it were always one: so does a rented one that answers the same identity whoever its master is.
type steadyBackend struct {
	vault.Backend
	asked atomic.Int64
	// last, if set, is the key of the record that this process writes last: it dies before it learns of that.
	last atomic.Pointer[string]
	dead atomic.Bool
	died func() // if set before last, is called then
}

// Identity implements vault.Backend.
func (b *steadyBackend) Identity(context.Context) (string, error) {
	b.asked.Add(1)
	return "one", nil
}

// Apply implements vault.Backend.
func (b *steadyBackend) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	if !b.dead.Load() {
		results := b.Backend.Apply(ctx, steps)
		last := b.last.Load()
		if last == nil || !slices.ContainsFunc(steps, func(s vault.Step) bool {
			return slices.ContainsFunc(s.Writes, func(w vault.Write) bool { return w.Key == *last })
		}) {
			return results
		}
		b.dead.Store(true)
		if b.died != nil {
			b.died()
		}
	}
	out := make([]vault.Result, len(steps))
	for i := range out {
		out[i].Err = errCrashed
	}
	return out
}

// steady is a process that knows the history of its store.
func (r *rig) steady() (*vault.Store, *steadyBackend) {
	r.Helper()
	b := &steadyBackend{Backend: r.backend()}
	s := r.process(func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = b })
	r.within(startPatience, "the store's history is known", func() bool { return b.asked.Load() > 1 })
	return s, b
}

// testHealedOnRecord (threat 34): whoever puts a record right that somebody set back has it on record with that, also if it dies at that moment; and
// what the store loses of both comes back with the other writes.
func testHealedOnRecord(r *rig) {
	other := r.store()
	alarms := func(conn broker.Connection) int {
		return len(r.allEvents(other, tenant(r), broker.EventFilter{Type: broker.EventIntegrityFailed, Connection: conn.ID}, 100))
	}
	for _, c := range []struct {
		name  string
		spoil func(s *vault.Store, conn broker.Connection, key string, old map[string]string)
	}{
		{"set back", func(s *vault.Store, conn broker.Connection, key string, old map[string]string) {
			r.refresh(s, conn, "2")
			r.put(key, old)
		}},
		{"set back, and went on", func(s *vault.Store, conn broker.Connection, key string, old map[string]string) {
			r.refresh(s, conn, "2")
			r.put(key, old)
			r.fail(other, conn, "")
		}},
		{"set back behind a revocation, and went on", func(s *vault.Store, conn broker.Connection, key string, old map[string]string) {
			if _, err := s.BeginRevoke(r.ctx(), conn.Tenant, conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)}); err != nil {
				r.Fatal(err)
			}
			r.put(key, old)
			r.fail(other, conn, "")
		}},
		{"there again behind its erasure", func(s *vault.Store, conn broker.Connection, key string, old map[string]string) {
			_, err := s.BeginRevoke(r.ctx(), conn.Tenant, conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
			if err == nil {
				err = s.EndRevoke(r.ctx(), conn.Tenant, conn.ID, broker.RevokedDone, true)
			}
			if err != nil {
				r.Fatal(err)
			}
			r.put(key, old)
		}},
	} {
		for _, dies := range []bool{true, false} {
			s, b := r.steady()
			conn := r.connect(s, tenant(r), fmt.Sprint(c.name, dies), "files", "1")
			key := r.connKey(s, conn)
			old := r.fields(key)
			c.spoil(s, conn, key, old)
			ctx, cancel := context.WithCancel(r.ctx())
			if dies {
				b.died = cancel
				b.last.Store(&key)
			}
			_, err := s.Connection(ctx, conn.Tenant, conn.ID)
			cancel()
			if dies != b.dead.Load() || maps.Equal(r.fields(key), old) {
				r.Fatalf("%s, dies %v: it was not put right, or by another step: %v", c.name, dies, err)
			}
			if n := alarms(conn); n != 1 {
				r.Errorf("%s, dies %v: %d events", c.name, dies, n)
			}
		}
	}
}

// testConsentInstead (threat 34): a consent or a revocation that came instead of what a failover lost stands, also where the store does not tell
// that there was one; an older record that was only made to look like it does not.
func testConsentInstead(r *rig) {
	other := r.store()
	for _, c := range []struct {
		name    string
		instead func(key string, conn broker.Connection)
		then    func(key string, old map[string]string)
		token   string // the refresh token of then
	}{
		{"a consent", func(_ string, conn broker.Connection) { r.renew(other, conn, "consented") }, nil, "canary-rt-consented"},
		{"a consent, refreshed", func(_ string, conn broker.Connection) {
			r.refresh(other, r.renew(other, conn, "consented"), "refreshed")
		}, nil, "canary-rt-refreshed"},
		{"a consent without a refresh token of its own", func(_ string, conn broker.Connection) {
			consent, err := other.CreateConsent(r.ctx(), renewal(other, conn), "", nil)
			if err != nil {
				r.Fatal(err)
			}
			consent.Status = broker.ConsentCompleted
			bare := r.grant("bare")
			bare.RefreshToken = broker.Secret{}
			if _, err := other.CompleteConsent(r.ctx(), consent, conn, bare, nil); err != nil {
				r.Fatal(err)
			}
		}, nil, "canary-rt-1"},
		{"a revocation", func(_ string, conn broker.Connection) {
			if _, err := other.BeginRevoke(r.ctx(), conn.Tenant, conn.ID, nil); err != nil {
				r.Fatal(err)
			}
		}, nil, ""},
		{"an older record that says to be of a consent", func(key string, _ broker.Connection) { r.raw("HSET", key, "cg", "2") }, nil, "canary-rt-4"},
		{"an older record that says to be revoked", func(key string, _ broker.Connection) { r.raw("HSET", key, "s", "revoked") }, r.put, "canary-rt-4"},
	} {
		s, _ := r.steady()
		conn := r.connect(s, tenant(r), c.name, "files", "1")
		key := r.connKey(s, conn)
		old := r.fields(key)
		r.refresh(s, r.refresh(s, r.refresh(s, conn, "2"), "3"), "4")
		r.put(key, old)
		c.instead(key, conn)
		now, err := s.Connection(r.ctx(), conn.Tenant, conn.ID)
		if err != nil {
			r.Fatalf("%s: %v", c.name, err)
		}
		if c.then != nil {
			c.then(key, old)
			now = r.now(s, conn)
		}
		if c.token == "" {
			if now.Status != broker.ConnectionRevoked {
				r.Errorf("%s: %s", c.name, now.Status)
			}
			continue
		}
		if _, token := r.begin(s, now, "y"); token != c.token {
			r.Errorf("%s: refresh token %q, want %q", c.name, token, c.token)
		}
	}
}
