package vaulttest

import (
	"fmt"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// tenantKeyset makes the tenant one of its own, and tells its key for records.
func (o *rotation) tenantKeyset(tenant string) uint32 {
	o.Helper()
	file, key, err := vault.CreateTenantKeyset(o.file, o.kek, tenant, time.Now())
	if err == nil {
		o.file, err = file, o.keyset.Reload(file)
	}
	if err != nil {
		o.Fatal(err)
	}
	return key
}

// destroyTenant destroys the tenant's keyset.
func (o *rotation) destroyTenant(tenant string) {
	o.Helper()
	file, err := vault.DestroyTenantKeyset(o.file, o.kek, tenant, time.Now())
	if err == nil {
		o.file, err = file, o.keyset.Reload(file)
	}
	if err != nil {
		o.Fatal(err)
	}
}

// testTenantKeyset (threats 31, 78 and 80): a tenant's records are sealed with its own keys, which open nothing of another tenant's;
// once they are destroyed nothing of it can be read, from copies neither, and nobody else notices.
func testTenantKeyset(r *rig) {
	o := newRotation(r)
	s := r.store(withSpool(Dir(r)))
	r.Cleanup(func() { _, _ = r.rawTry("DEL", "tb:{00}:rs", "tb:{00}:rp:"+tenant(r)) })
	check := everyKind(r, s)
	rival := tenant(r) + "-rival"
	other := r.connect(s, rival, "u", "files", "other")
	table, err := s.Switches(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	other.Switches = table.Mark
	installation := o.primary()
	own, theirs := o.tenantKeyset(tenant(r)), o.tenantKeyset(rival)
	check(s)
	if err := s.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	counted, err := s.CountSeals(r.ctx())
	if err != nil || counted.ByKey[own] < 8 || counted.ByKey[theirs] < 2 || counted.Left[installation] != 0 {
		r.Errorf("sealed with the tenants' keys: %+v, %v", counted, err)
	}
	check(r.store())
	r.release(s, other, "other")
	conn := r.connect(s, tenant(r), "new", "files", "new")
	conn.Switches = table.Mark
	key, foreign := tag(s.Shard(tenant(r), "new"))+"c:"+conn.ID, tag(s.Shard(rival, "u"))+"c:"+other.ID
	if id, ok := vault.SealedBy(r.raw("HGET", key, "p")); !ok || id != own {
		r.Errorf("a new record is sealed with key %d, the tenant's is %d", id, own)
	}
	// The installation's key can go: nothing needs it any more but its own.
	o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	if err := s.Reseal(r.ctx()); err != nil || o.left(s, installation) != 0 {
		r.Fatalf("%d records are still sealed with the installation's first key, %v", o.left(s, installation), err)
	}
	o.retire(installation)
	check(s)
	// And each tenant's key, by itself.
	second := o.edit(vault.KeysetEdit{Do: vault.KeysetRotate, Tenant: tenant(r)})
	if err := s.Reseal(r.ctx()); err != nil || o.left(s, own) != 0 || o.left(s, second) == 0 {
		r.Fatalf("the tenant's keyset was rotated: %v", err)
	}
	for _, edit := range []vault.KeysetAction{vault.KeysetDisable, vault.KeysetDelete} {
		o.edit(vault.KeysetEdit{Do: edit, Key: own, Tenant: tenant(r)})
	}
	check(s)

	// A swap between tenants does not open.
	was := r.raw("HGET", foreign, "at:")
	r.raw("HSET", foreign, "at:", r.raw("HGET", key, "at:"))
	if _, err := r.store().Release(r.ctx(), other, "", entry(broker.EventTokenIssued, other, "files.read")); err == nil {
		r.Error("another tenant's token was handed out")
	}
	r.raw("HSET", foreign, "at:", was)

	backup := r.snapshot(key)
	o.destroyTenant(tenant(r))
	for _, each := range []*vault.Store{s, r.store()} {
		_, err := each.Connection(r.ctx(), tenant(r), conn.ID)
		is(r, err, broker.ErrNotFound, "a connection of an erased tenant")
		if all, err := each.OfSubject(r.ctx(), tenant(r), "new", ""); err != nil || len(all) != 0 {
			r.Errorf("connections of an erased tenant: %d, %v", len(all), err)
		}
		if _, err := each.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "files.read")); err == nil {
			r.Error("a token of an erased tenant was handed out")
		}
		r.release(each, other, "other")
	}
	if r.snapshot(key) != backup {
		r.Error("the record of an erased tenant was changed: a copy of it is as good as what is there")
	}
	report := r.verified(s) // of both tenants: their names begin alike
	if report.Erased == 0 {
		r.Error("verifying does not tell of entries that can't be read any more")
	}
	if events := r.allEvents(s, rival, broker.EventFilter{}, 100); len(events) == 0 {
		r.Error("another tenant's events are gone")
	}
	for _, e := range r.allEvents(s, tenant(r), broker.EventFilter{}, 100) {
		if e.Subject == "new" {
			r.Error("an event that the tenant's key had sealed was read")
		}
	}
	if err := s.Reseal(r.ctx()); err != nil {
		r.Fatal(err)
	}
	// Dropping one of its entries still shows.
	stream := tag(s.Shard(tenant(r), "new")) + "a:" + tenant(r)
	entries := lines(r.raw("XRANGE", stream, "-", "+"))
	r.raw("XDEL", stream, entries[0])
	found := false
	after, err := s.Verify(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	for _, f := range after.Faults {
		found = found || strings.HasPrefix(f.Stream, tenant(r)+"/")
	}
	if !found {
		r.Error("an entry of an erased tenant was dropped, and verifying does not tell")
	}
}

// testErasedRecords (threats 35 and 80): what is an erased tenant's, under whatever key, is counted apart, and holds up no key.
func testErasedRecords(r *rig) {
	o := newRotation(r)
	s := r.store()
	r.Cleanup(func() { _, _ = r.rawTry("DEL", "tb:{00}:rs") })
	must := func(err error) {
		r.Helper()
		if err != nil {
			r.Fatal(err)
		}
	}
	first := o.primary()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	late := renewLease(r, s, conn)
	next := r.renew(s, conn, "2") // so that a late refresh token lies beside it
	late.Fence++
	_, err := s.CommitRefresh(r.ctx(), late, conn, "", r.grant("late"), nil)
	is(r, err, broker.ErrConflict, "late commit")
	_, err = s.CreateConsent(r.ctx(), renewal(s, next), "", nil)
	must(err)
	_, err = s.CreatePortal(r.ctx(), newPortal(s, tenant(r), "u"), nil)
	must(err)
	_, err = s.SaveTenantConnector(r.ctx(), ownConnector(r, fmt.Sprintf("drive_%x", time.Now().UnixNano()), "canary-secret"), nil)
	must(err)
	_, _, err = s.CreateJob(r.ctx(), newJob(r, 1), "form")
	must(err)
	was := o.left(s, first) // a connection and what lies beside it, consents, a visit, a connector, a job
	other := r.connect(s, tenant(r)+"-other", "u", "files", "other")

	own := o.tenantKeyset(tenant(r))
	r.connect(s, tenant(r), "new", "files", "new")
	o.destroyTenant(tenant(r))
	second := o.edit(vault.KeysetEdit{Do: vault.KeysetRotate})
	must(s.Reseal(r.ctx()))
	counted, err := s.CountSeals(r.ctx())
	if err != nil || counted.ByKey[first] != 0 || counted.Left[first] != 0 || counted.Erased[first] != was || was < 6 || counted.ByKey[own] != 0 || counted.Erased[own] == 0 || counted.ByKey[second] == 0 {
		r.Errorf("counted: %d by the key before, %d left, %d apart (want %d), by the destroyed key %d and %d apart, by the new one %d, %v",
			counted.ByKey[first], counted.Left[first], counted.Erased[first], was, counted.ByKey[own], counted.Erased[own], counted.ByKey[second], err)
	}
	at, err := s.Resealing(r.ctx())
	if err != nil || at.Last.ByKey[first] != 0 || at.Last.Left[first] != 0 || at.Last.Erased[first] == 0 {
		r.Errorf("what is told of it: %+v, %v", at.Last, err)
	}
	o.retire(first)
	r.release(s, other, "other")
	r.verified(s)
}
