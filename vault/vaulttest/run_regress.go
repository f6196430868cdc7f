package vaulttest

import (
	"errors"
	"maps"
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
	for range 2 {
		_, err := behind.Connection(r.ctx(), conn.Tenant, conn.ID)
		is(r, err, broker.ErrIntegrity, "a key that nobody has")
		now = now.Add(2 * time.Second)
	}
}
