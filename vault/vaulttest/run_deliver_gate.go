package vaulttest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// gated lets the store be one that is known to ask its sink for a while already.
func (r *rig) gated(s *vault.Store) {
	r.Helper()
	if err := s.Beat(r.ctx(), broker.Replica{ID: tenant(r) + "-gated"}); err != nil {
		r.Fatal(err)
	}
	r.deliver(s)
	for _, key := range r.keys("tb:*:sk:s:*") {
		if r.raw("HEXISTS", key, "released") == "1" {
			r.raw("HINCRBY", key, "released", "-70000")
		}
	}
}

// testDeliverRequiredLater (threat 70): a sink with a backlog becomes one without which no token is handed out. It gets the backlog all the
// same, and what a replica hands out meanwhile that does not ask it; and again what is handed out once it is no such sink any more.
func testDeliverRequiredLater(r *rig) {
	m := &mailbox{}
	r.raw("DEL", "tb:{00}:rp") // nobody else is known
	now := time.Now()
	clock := func(vc *vault.Config, _ *redisstore.Config) { vc.Now = func() time.Time { return now } }
	next := func(s *vault.Store) *vault.Store {
		r.leave()
		return s
	}
	token := func(s *vault.Store) string {
		e := entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r), Subject: "ann"}, "a")
		if err := s.Append(r.ctx(), e); err != nil {
			r.Fatal(err)
		}
		return e.Scopes[0].ID
	}
	var want []string
	has := func(what string) {
		r.Helper()
		if got := slices.Compact(m.ids(r, tenant(r))); !slices.Equal(got, want) {
			r.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	open := r.delivering(m, false, clock)
	r.deliver(open)
	m.fail = errors.New("away")
	want = append(want, token(open))
	if _, err := open.DeliverEvents(r.ctx()); err == nil {
		r.Fatal("it does not fail")
	}
	m.fail = nil

	gate := next(r.delivering(m, true, clock))
	if err := open.Beat(r.ctx(), broker.Replica{ID: tenant(r) + "-open"}); err != nil {
		r.Fatal(err)
	}
	r.gated(gate)
	has("the backlog")
	want = append(want, token(open))
	r.deliver(gate)
	has("while another replica does not ask it")

	if err := open.EndReplica(r.ctx(), tenant(r)+"-open"); err != nil {
		r.Fatal(err)
	}
	now = now.Add(time.Minute)
	r.leave()
	r.gated(gate)
	token(gate) // by the gate alone
	r.deliver(gate)
	has("when all ask it")

	open = next(r.delivering(m, false, clock))
	r.deliver(open)
	want = append(want, token(open))
	r.leave()
	now = now.Add(time.Minute)
	r.deliver(gate)
	has("when one does not ask it any more")
	for _, key := range r.keys("tb:*:sk:s:*") {
		if fields := r.raw("HGETALL", key); strings.Contains(fields, "canary-place") {
			r.Errorf("what is kept of a place names it: %s", fields)
		}
	}
}
