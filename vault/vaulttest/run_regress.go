package vaulttest

import (
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
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
