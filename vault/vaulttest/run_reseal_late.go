package vaulttest

import (
	"errors"
	"path/filepath"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// testResealSuccessorMeets (threat 35): a late commit that comes between the reading of a record and the exchange of its seals, and
// says of the refresh token under its old seal what it was exchanged for, is heard under the new one.
func testResealSuccessorMeets(r *rig) {
	o := newRotation(r)
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	late := renewLease(r, s, conn)
	r.raw("HDEL", tag(s.Shard(tenant(r), "u"))+"c:"+conn.ID, "own", "dl")
	other := renewLease(r, s, conn)
	first := o.primary()
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	meets := &crashing{}
	meets.left.Store(2) // the first write takes the right to go through the records
	met := false
	meets.meet = func() {
		_, err := s.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
		is(r, err, broker.ErrConflict, "late commit")
		met = true
	}
	if err := r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = meets }).Reseal(r.ctx()); err != nil || !met {
		r.Fatalf("met %v, %v", met, err)
	}
	if err := s.EndRefresh(r.ctx(), other); err != nil {
		r.Fatal(err)
	}
	for range 2 {
		if err := s.Reseal(r.ctx()); err != nil {
			r.Fatal(err)
		}
	}
	o.retire(first)
	_, _, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute)
	is(r, err, broker.ErrConflict, "the record has become another one")
	if conn, err = s.Connection(r.ctx(), tenant(r), conn.ID); err != nil {
		r.Fatal(err)
	}
	if _, token, err := s.BeginRefresh(r.ctx(), conn, "x", time.Minute); err != nil || token.Reveal() != "canary-rt-late" {
		r.Errorf("what was given for the record's refresh token does not go first: %q, %v", token.Reveal(), err)
	}
}

// testTenantErasedMeanwhile (threat 78): a refresh whose tenant is erased before it is stored is given up: nobody is told that it waits
// for the store, and nothing of it stays in the spool.
func testTenantErasedMeanwhile(r *rig) {
	o := newRotation(r)
	dir := filepath.Join(Dir(r), "spool")
	s, dead := r.store(withSpool(dir)), r.store(withSpool(dir), away)
	o.tenantKeyset(tenant(r))
	conn := r.connect(s, tenant(r), "u", "files", "1")
	lease := renewLease(r, s, conn)
	ctx, cancel := contextWithTimeout(100 * time.Millisecond)
	defer cancel()
	_, err := dead.CommitRefresh(ctx, lease, conn, "", r.grant("2"), nil)
	is(r, err, broker.ErrSpooled, "the store is away")
	o.destroyTenant(tenant(r))
	_, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil)
	if is(r, err, broker.ErrTenantErased, "a commit of an erased tenant"); errors.Is(err, broker.ErrSpooled) {
		r.Errorf("it is said to wait for the store: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.spool")); err != nil || len(left) != 0 {
		r.Errorf("left in the spool: %v, %v", left, err)
	}
}
