package vaulttest

import (
	"slices"
	"sync"

	"tokenbroker/broker"
)

// testRevokedTogether: who holds one of several grants that end together, and consents under way among them. There are no tokens.
func testRevokedTogether(r *rig) {
	s, other := r.store(), r.store()
	name := "together/client\x00canary-account-" + tenant(r)
	count := func(want int, beside broker.Holder, what string) {
		r.Helper()
		if n, err := other.Holders(r.ctx(), name, beside); err != nil || n != want {
			r.Fatalf("%s: %d holders, %v, want %d", what, n, err, want)
		}
	}
	a, b := broker.Holder{ID: recordID(s, tenant(r), "a"), Generation: 1}, broker.Holder{ID: recordID(s, tenant(r), "b"), Generation: 1}
	count(0, broker.Holder{}, "before the first")
	for range 2 { // again it changes nothing
		if err := s.Mark(r.ctx(), name, "consent"); err != nil {
			r.Fatal(err)
		}
		if err := s.Hold(r.ctx(), name, a); err != nil {
			r.Fatal(err)
		}
	}
	count(2, b, "a connection and a consent")
	count(1, a, "beside the connection")
	count(1, broker.Holder{ID: "consent"}, "beside the consent")
	if n, err := s.Newest(r.ctx(), name); err != nil || n != 0 {
		r.Fatalf("it has tokens of generation %d, %v", n, err)
	}
	if err := s.Unmark(r.ctx(), name, "consent"); err != nil {
		r.Fatal(err)
	}
	// A consent renewed it since: whoever leaves for the generation before does not end that.
	renewed := a
	renewed.Generation = 4
	if err := other.Hold(r.ctx(), name, renewed); err != nil {
		r.Fatal(err)
	}
	if left, err := s.Leave(r.ctx(), name, a); err != nil || left != 1 {
		r.Fatalf("leaving for an earlier generation: %d left, %v", left, err)
	}
	if err := s.Hold(r.ctx(), name, b); err != nil {
		r.Fatal(err)
	}
	var lefts [2]int
	var group sync.WaitGroup
	for i, who := range []broker.Holder{renewed, b} {
		group.Go(func() {
			var err error
			if lefts[i], err = []broker.SharedGrants{s, other}[i].Leave(r.ctx(), name, who); err != nil {
				r.Errorf("leave: %v", err)
			}
		})
	}
	group.Wait()
	if slices.Sort(lefts[:]); lefts != [2]int{0, 1} {
		r.Fatalf("of two who left at once, %v were told to be left", lefts)
	}
	count(0, broker.Holder{}, "at the end")
}

// testEnlist: connections that were there before anybody counted are made holders once, of every tenant, but revoked ones; what
// comes behind that counts by itself.
func testEnlist(r *rig) {
	s, other := r.store(), r.store()
	client := "client-" + tenant(r)
	name := client + "\x00canary-account"
	here := r.connect(s, tenant(r), "u", "files", "1")
	there := r.connect(s, tenant(r)+"-other", "v", "files", "2")
	gone := r.connect(s, tenant(r), "w", "files", "3")
	if _, err := s.BeginRevoke(r.ctx(), gone.Tenant, gone.ID, nil); err != nil {
		r.Fatal(err)
	}
	visited := 0
	ours := func(conn broker.Connection) string {
		if conn.Tenant != here.Tenant && conn.Tenant != there.Tenant {
			return ""
		}
		visited++
		return name
	}
	if err := s.Enlist(r.ctx(), client, ours); err != nil {
		r.Fatal(err)
	}
	if n, err := s.Holders(r.ctx(), name, broker.Holder{}); err != nil || n != 2 {
		r.Fatalf("%d holders, %v, want the two that are not revoked", n, err)
	}
	if n, err := s.Holders(r.ctx(), name, broker.Holder{ID: here.ID, Generation: here.Generation}); err != nil || n != 1 {
		r.Fatalf("%d holders beside one of them, %v", n, err)
	}
	before := visited
	for _, again := range []broker.SharedGrants{s, other} {
		if err := again.Enlist(r.ctx(), client, ours); err != nil || visited != before {
			r.Fatalf("a later call walked through %d connections again, %v", visited-before, err)
		}
	}
}

// testHeldBy: whoever asks for the connections behind a name gets those that are there, of whatever tenant.
func testHeldBy(r *rig) {
	s, other := r.store(), r.store()
	name := "noticed account\x00canary-" + tenant(r)
	made := map[string]bool{}
	for _, subject := range []string{"a{b}c", "bob", "}{"} {
		conn := r.connect(s, tenant(r), subject, "files", "canary-"+subject)
		made[conn.ID] = true
		if err := s.Hold(r.ctx(), name, broker.Holder{ID: conn.ID, Generation: conn.Generation}); err != nil {
			r.Fatal(err)
		}
	}
	if err := s.Hold(r.ctx(), name, broker.Holder{ID: recordID(s, tenant(r), "gone"), Generation: 1}); err != nil {
		r.Fatal(err)
	}
	got, err := other.HeldBy(r.ctx(), name, 100)
	if err != nil || len(got) != len(made) {
		r.Fatalf("%d connections, %v, want %d", len(got), err, len(made))
	}
	for _, conn := range got {
		if !made[conn.ID] || conn.Tenant != tenant(r) {
			r.Errorf("%s of %s is none of them", conn.ID, conn.Tenant)
		}
	}
	if got, err := other.HeldBy(r.ctx(), name, 1); err != nil || len(got) > 1 {
		r.Errorf("at most one: %d, %v", len(got), err)
	}
	if got, err := other.HeldBy(r.ctx(), "noticed account\x00nobody", 100); err != nil || len(got) != 0 {
		r.Errorf("of nobody: %d, %v", len(got), err)
	}
}
