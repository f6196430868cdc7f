package vaulttest

import (
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
