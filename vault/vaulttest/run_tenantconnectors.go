package vaulttest

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

func ownConnector(r *rig, id, secret string) broker.TenantConnector {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return broker.TenantConnector{
		ID: id, Tenant: tenant(r), Client: "chat", Provider: "google-drive", Name: "Canary Drive", ClientID: "canary-client-id",
		ClientSecret: broker.NewSecret(secret), ClientGeneration: 1, Scopes: []string{"canary-scope"}, Vars: map[string]string{"host": "canary.example"},
		CreatedAt: now, UpdatedAt: now,
	}
}

func connectorEvent(r *rig, t broker.EventType, id string) []broker.Entry {
	return []broker.Entry{{Type: t, Time: time.Now(), Tenant: tenant(r), Client: "chat", Connector: id, Outcome: "ok",
		Scopes: []broker.EventScope{{ID: fmt.Sprintf("%s-%s-%d", t, id, time.Now().UnixNano())}}}}
}

// mine are the tenant's among all that were read.
func mine(r *rig, all []broker.TenantConnector) []string {
	var ids []string
	for _, c := range all {
		if c.Tenant == tenant(r) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// testTenantConnectors: what one replica writes another reads whole; versions guard it; the mark tells that there is something
// to read, and nothing else does.
func testTenantConnectors(r *rig) {
	a, b := r.store(), r.store()
	_, before, _, err := b.AllTenantConnectors(r.ctx(), "")
	if err != nil {
		r.Fatal(err)
	}
	if _, same, changed, err := b.AllTenantConnectors(r.ctx(), before); err != nil || changed || same != before {
		r.Fatalf("unchanged: %t, %v", changed, err)
	}
	made, err := a.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_a", "canary-secret-1"), connectorEvent(r, broker.EventConnectorCreated, "drive_a"))
	if err != nil || made.Version != 1 {
		r.Fatalf("create: %d, %v", made.Version, err)
	}
	read, err := b.TenantConnector(r.ctx(), tenant(r), "drive_a")
	if err != nil || !reflect.DeepEqual(read, made) {
		r.Fatalf("read back: %v, %v", read, err)
	}
	all, mark, changed, err := b.AllTenantConnectors(r.ctx(), before)
	if err != nil || !changed || !slices.Equal(mine(r, all), []string{"drive_a"}) {
		r.Fatalf("all: %v, %t, %v", mine(r, all), changed, err)
	}
	_, err = a.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_a", "another"), nil)
	is(r, err, broker.ErrConflict, "create twice")
	neighbour := "neighbour"
	for i := 0; b.Shard(neighbour, "") != b.Shard(tenant(r), ""); i++ {
		neighbour = fmt.Sprint("neighbour", i) // whose connectors lie under the same hash tag
	}
	_, err = b.TenantConnector(r.ctx(), neighbour, "drive_a")
	is(r, err, broker.ErrNotFound, "another tenant's")
	if theirs, err := b.TenantConnectorsOf(r.ctx(), neighbour); err != nil || len(theirs) != 0 {
		r.Errorf("another tenant's: %d, %v", len(theirs), err)
	}
	foreign := made
	foreign.Tenant = neighbour
	_, err = b.SaveTenantConnector(r.ctx(), foreign, nil)
	is(r, err, broker.ErrConflict, "write another tenant's")
	is(r, b.DeleteTenantConnector(r.ctx(), foreign, nil), broker.ErrConflict, "delete another tenant's")
	for _, id := range []string{"", "no", "x}{", strings.Repeat("a", 200), "A_b", "a:b"} {
		_, err = b.TenantConnector(r.ctx(), tenant(r), id)
		is(r, err, broker.ErrNotFound, "id "+id)
	}

	next := read
	next.ClientSecret, next.Previous, next.PreviousUntil, next.ClientGeneration = broker.NewSecret("canary-secret-2"), read.ClientSecret, time.Now().UTC().Add(time.Hour).Truncate(time.Millisecond), 2
	next, err = b.SaveTenantConnector(r.ctx(), next, connectorEvent(r, broker.EventConnectorUpdated, "drive_a"))
	if err != nil || next.Version != 2 {
		r.Fatalf("update: %v", err)
	}
	_, err = a.SaveTenantConnector(r.ctx(), made, nil)
	is(r, err, broker.ErrConflict, "update of an older version")
	is(r, a.DeleteTenantConnector(r.ctx(), made, nil), broker.ErrConflict, "delete of an older version")
	of, err := a.TenantConnectorsOf(r.ctx(), tenant(r))
	if err != nil || len(of) != 1 || !reflect.DeepEqual(of[0], next) {
		r.Fatalf("of the tenant: %v, %v", of, err)
	}
	_, mark, changed, err = a.AllTenantConnectors(r.ctx(), mark)
	if err != nil || !changed {
		r.Fatalf("an update does not show: %t, %v", changed, err)
	}

	if err := a.DeleteTenantConnector(r.ctx(), next, connectorEvent(r, broker.EventConnectorDeleted, "drive_a")); err != nil {
		r.Fatal(err)
	}
	is(r, a.DeleteTenantConnector(r.ctx(), next, nil), broker.ErrConflict, "delete twice")
	_, err = b.TenantConnector(r.ctx(), tenant(r), "drive_a")
	is(r, err, broker.ErrNotFound, "deleted")
	all, _, changed, err = b.AllTenantConnectors(r.ctx(), mark)
	if err != nil || !changed || len(mine(r, all)) != 0 {
		r.Fatalf("after the deletion: %v, %t, %v", mine(r, all), changed, err)
	}
	events, _, err := b.Events(r.ctx(), tenant(r), broker.EventFilter{}, "", 100)
	var types []string
	for _, e := range events {
		types = append(types, string(e.Type)+" "+e.Connector)
	}
	if want := []string{"connector.created drive_a", "connector.updated drive_a", "connector.deleted drive_a"}; err != nil || !slices.Equal(types, want) {
		r.Errorf("events %q, %v, want %q", types, err, want)
	}
}

// testTenantConnectorsParallel: of several writers from one version one succeeds.
func testTenantConnectorsParallel(r *rig) {
	s := r.store()
	made, err := s.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_p", "canary-secret-p"), nil)
	if err != nil {
		r.Fatal(err)
	}
	var group sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		store := r.store()
		group.Go(func() {
			next := made
			next.Name = fmt.Sprint(i)
			_, errs[i] = store.SaveTenantConnector(r.ctx(), next, connectorEvent(r, broker.EventConnectorUpdated, "drive_p"))
		})
	}
	group.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		is(r, err, broker.ErrConflict, "another writer")
	}
	if won != 1 {
		r.Errorf("%d of the writers succeeded, want 1", won)
	}
}

// testTenantConnectorsAttacked, threats 30, 31 and 34: a body copied to another connector, or put back to an earlier one, does not open, and keeps
// nobody from the others; nothing of it lies in clear.
func testTenantConnectorsAttacked(r *rig) {
	s := r.store()
	one, err := s.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_x", "canary-secret-x"), nil)
	if err != nil {
		r.Fatal(err)
	}
	if _, err := s.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_y", "canary-secret-y"), nil); err != nil {
		r.Fatal(err)
	}
	keyX := fmt.Sprintf("tb:{%02x}:b:drive_x", s.Shard(tenant(r), ""))
	keyY := fmt.Sprintf("tb:{%02x}:b:drive_y", s.Shard(tenant(r), ""))
	earlier := r.raw("HGET", keyX, "b")
	for _, field := range []string{"b", "v", "ver", "wid", "t"} {
		if text := r.raw("HGET", keyX, field); strings.Contains(strings.ToLower(text), "canary") {
			r.Errorf("field %s has something in clear: %q", field, text)
		}
	}
	two := one
	two.ClientSecret = broker.NewSecret("canary-secret-x2")
	if _, err := s.SaveTenantConnector(r.ctx(), two, nil); err != nil {
		r.Fatal(err)
	}
	now := r.raw("HGET", keyX, "b")
	for what, put := range map[string][2]string{"an earlier body": {keyX, earlier}, "another's body": {keyX, r.raw("HGET", keyY, "b")}} {
		r.raw("HSET", put[0], "b", put[1])
		_, err := s.TenantConnector(r.ctx(), tenant(r), "drive_x")
		is(r, err, broker.ErrIntegrity, what)
		of, err := s.TenantConnectorsOf(r.ctx(), tenant(r))
		is(r, err, broker.ErrIntegrity, what+" in a list")
		if ids := mine(r, of); !slices.Equal(ids, []string{"drive_y"}) {
			r.Errorf("%s: read beside it: %v", what, ids)
		}
	}
	r.raw("HSET", keyX, "b", now)
	r.raw("HSET", keyX, "v", "99")
	_, err = s.TenantConnector(r.ctx(), tenant(r), "drive_x")
	is(r, err, broker.ErrNewerFormat, "a newer format")
	_, err = s.SaveTenantConnector(r.ctx(), two, nil)
	is(r, err, broker.ErrConflict, "over a newer format")
	r.raw("HSET", keyX, "v", "1")
	if c, err := s.TenantConnector(r.ctx(), tenant(r), "drive_x"); err != nil || c.ClientSecret.Reveal() != "canary-secret-x2" {
		r.Errorf("put right again: %v", err)
	}
}

// testTenantConnectorsLostAnswer: a write whose answer got lost is sent again, and takes effect once.
func testTenantConnectorsLostAnswer(r *rig) {
	var lose atomic.Int64
	s := r.troubledStore(&troubled{after: func(step vault.Step) error {
		if ofConnector(step) && lose.Add(-1) >= 0 {
			return errors.New("answer lost")
		}
		return nil
	}})
	lost := func(what string, err error) {
		r.Helper()
		if err != nil || lose.Load() > 0 {
			r.Fatalf("%s: %v, %d answers are still to be lost", what, err, lose.Load())
		}
	}
	for _, events := range []bool{true, false} {
		entries := func(t broker.EventType) []broker.Entry {
			if events {
				return connectorEvent(r, t, "drive_l")
			}
			return nil
		}
		lose.Store(1)
		c, err := s.SaveTenantConnector(r.ctx(), ownConnector(r, "drive_l", "canary-secret-l"), entries(broker.EventConnectorCreated))
		lost("create", err)
		lose.Store(1)
		c, err = s.SaveTenantConnector(r.ctx(), c, entries(broker.EventConnectorUpdated))
		lost("update", err)
		if c.Version != 2 {
			r.Errorf("version %d after two writes", c.Version)
		}
		lose.Store(1)
		lost("delete", s.DeleteTenantConnector(r.ctx(), c, entries(broker.EventConnectorDeleted)))
	}
	if got := len(r.allEvents(s, tenant(r), broker.EventFilter{}, 1000)); got != 3 {
		r.Errorf("%d events of three writes with events", got)
	}
}

func ofConnector(step vault.Step) bool {
	return slices.ContainsFunc(step.Writes, func(w vault.Write) bool { return strings.Contains(w.Key, ":b:") })
}

// lookFor is what a replica's look finds of the tenant's.
func (p *pair) lookFor(s *vault.Store) []string {
	p.Helper()
	var all []broker.TenantConnector
	p.within(startPatience, "a look at the connectors", func() (ok bool) {
		var err error
		all, _, _, err = s.AllTenantConnectors(p.ctx(), "")
		return err == nil
	})
	return mine(p.rig, all)
}

// testLostConnector: a connector, and a change of one, that a failover took back come back at their writer's next look, with
// their events.
func testLostConnector(p *pair) {
	writer, other := p.store(), p.store()
	old, err := writer.SaveTenantConnector(p.ctx(), ownConnector(p.rig, "drive_old", "canary-secret-1"), nil)
	if err != nil {
		p.Fatal(err)
	}
	p.lose(func() {
		if _, err := writer.SaveTenantConnector(p.ctx(), ownConnector(p.rig, "drive_new", "canary-secret-n"), connectorEvent(p.rig, broker.EventConnectorCreated, "drive_new")); err != nil {
			p.Fatal(err)
		}
		for i := range 2 {
			old.ClientSecret = broker.NewSecret(fmt.Sprint("canary-secret-", i+2))
			if old, err = writer.SaveTenantConnector(p.ctx(), old, connectorEvent(p.rig, broker.EventConnectorUpdated, "drive_old")); err != nil {
				p.Fatal(err)
			}
		}
	})
	if got := p.lookFor(other); !slices.Equal(got, []string{"drive_old"}) {
		p.Fatalf("right behind the failover: %v", got)
	}
	if c, err := writer.TenantConnector(p.ctx(), tenant(p.rig), "drive_old"); err != nil || c.Version != 3 {
		p.Fatalf("asked of its writer: version %d, %v", c.Version, err)
	}
	if got := p.lookFor(writer); !slices.Equal(got, []string{"drive_old", "drive_new"}) {
		p.Fatalf("at the writer's look: %v", got)
	}
	now, err := other.TenantConnector(p.ctx(), tenant(p.rig), "drive_old")
	if err != nil || now.Version != 3 || now.ClientSecret.Reveal() != "canary-secret-3" {
		p.Fatalf("the change: version %d, %v", now.Version, err)
	}
	if created, updated := p.events(other, broker.EventConnectorCreated), p.events(other, broker.EventConnectorUpdated); created != 1 || updated != 2 {
		p.Errorf("%d and %d events of what was lost", created, updated)
	}
	p.lookFor(writer)
	if updated := p.events(other, broker.EventConnectorUpdated); updated != 2 {
		p.Errorf("%d events after another look", updated)
	}
}

// testLostConnectorDeletion: what was deleted does not come back.
func testLostConnectorDeletion(p *pair) {
	writer, other := p.store(), p.store()
	old, err := writer.SaveTenantConnector(p.ctx(), ownConnector(p.rig, "drive_old", "canary-secret-1"), nil)
	if err != nil {
		p.Fatal(err)
	}
	p.lose(func() {
		if err := other.DeleteTenantConnector(p.ctx(), old, connectorEvent(p.rig, broker.EventConnectorDeleted, "drive_old")); err != nil {
			p.Fatal(err)
		}
	})
	p.within(startPatience, "the store answers", func() bool {
		_, err := other.TenantConnector(p.ctx(), tenant(p.rig), "drive_old")
		return errors.Is(err, broker.ErrNotFound)
	})
	if got := p.lookFor(writer); len(got) != 0 {
		p.Errorf("came back: %v", got)
	}
	if n := p.events(writer, broker.EventConnectorDeleted); n != 1 {
		p.Errorf("%d events of the deletion", n)
	}
}

// testConnectorDeletedElsewhere: who remembers a write does not bring back what another process deleted since.
func testConnectorDeletedElsewhere(p *pair) {
	writer, other := p.store(), p.store()
	old, err := writer.SaveTenantConnector(p.ctx(), ownConnector(p.rig, "drive_old", "canary-secret-1"), nil)
	if err != nil {
		p.Fatal(err)
	}
	if err := other.DeleteTenantConnector(p.ctx(), old, nil); err != nil {
		p.Fatal(err)
	}
	for range 2 {
		if got := p.lookFor(writer); len(got) != 0 {
			p.Fatalf("came back: %v", got)
		}
	}
	_, err = writer.TenantConnector(p.ctx(), tenant(p.rig), "drive_old")
	is(p.rig, err, broker.ErrNotFound, "deleted elsewhere")
}
