package vaulttest

import (
	"slices"
	"strings"
	"sync"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// Whoever leaves a shared grant beside a consent: what that gave must not be ended at the provider for it.

// leaves tells whether the step ends somebody's holding.
func leaves(step vault.Step) bool {
	return slices.ContainsFunc(step.Writes, func(w vault.Write) bool {
		return w.Kind == vault.WriteHashDelete && strings.Contains(w.Key, "}:g:") &&
			slices.ContainsFunc(w.Args, func(field string) bool { return strings.HasPrefix(field, "m:") })
	})
}

// testSharedLeavingBesideConsent: a consent is given tokens of the grant between the look at who holds it and the leaving.
func testSharedLeavingBesideConsent(r *rig) {
	var meanwhile func()
	var once sync.Once
	s, other := r.troubledStore(&troubled{before: func(step vault.Step) error {
		if meanwhile != nil && leaves(step) {
			once.Do(meanwhile)
		}
		return nil
	}}), r.store()
	name, conns := r.holders(s, "alice")
	meanwhile = func() {
		if _, err := other.Spread(r.ctx(), name, "bobs-consent", r.grant("bob")); err != nil {
			r.Errorf("spread: %v", err)
		}
	}
	left, err := s.Leave(r.ctx(), name, holderOf(conns[0]))
	if err != nil || left != 1 {
		r.Errorf("who leaves beside a consent is told that %d are left, %v: it would end what the consent was given", left, err)
	}
}

// testSharedLeavingBesideRenewal: a disconnect is in the middle of its work while a consent brings the connection back. What
// it still does must not count the connection out.
func testSharedLeavingBesideRenewal(r *rig) {
	s, other := r.store(), r.store()
	name, conns := r.holders(s, "alice", "bob")
	left, err := s.BeginRevoke(r.ctx(), tenant(r), conns[0].ID, []broker.Entry{entry(broker.EventConnectionRevoked, conns[0])})
	if err != nil {
		r.Fatal(err)
	}
	again := left.Connection
	again.Status = broker.ConnectionActive
	if again.SharedGeneration, err = other.Spread(r.ctx(), name, "alices-consent", r.grant("again")); err != nil {
		r.Fatal(err)
	}
	again = r.renew(other, again, "again")
	if err := other.Unmark(r.ctx(), name, "alices-consent"); err != nil {
		r.Fatal(err)
	}
	count := func(what string, beside broker.Holder, want int) {
		r.Helper()
		if n, err := other.Holders(r.ctx(), name, beside); err != nil || n != want {
			r.Errorf("%s: %d others hold the grant, want %d: %v", what, n, want, err)
		}
	}
	if n, err := s.Leave(r.ctx(), name, holderOf(left.Connection)); err != nil || n != 2 {
		r.Errorf("a disconnect that a consent overtook is told that %d are left, %v", n, err)
	}
	count("beside bob", holderOf(conns[1]), 1)
	r.disconnect(other, conns[1], false)
	// What a refresh from before the disconnect brings is ended at the provider if nobody holds the grant.
	count("beside the connection of before", holderOf(conns[0]), 1)
	count("beside the connection of now", holderOf(again), 0)
}
