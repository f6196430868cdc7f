package vaulttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func (r *rig) appendFor(s *vault.Store, subject string, scopes ...string) broker.Entry {
	r.Helper()
	e := entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r), Subject: subject, Connector: "files", ID: "c-" + subject}, scopes...)
	if err := s.Append(r.ctx(), e); err != nil {
		r.Fatalf("append: %v", err)
	}
	return e
}

func testEvents(r *rig) {
	s := r.store()
	var want []string
	for i := range 40 {
		e := r.appendFor(s, fmt.Sprintf("user-%d", i%9), "a", "b", "c")
		for _, scope := range e.Scopes {
			want = append(want, scope.ID)
		}
	}
	for _, page := range []int{1, 2, 7, 50, 1000} {
		var got []string
		for _, e := range r.allEvents(s, tenant(r), broker.EventFilter{}, page) {
			got = append(got, e.ID)
		}
		// One process appended one after the other: where the ms is the same, the order is that of the shards.
		if len(got) != len(want) {
			r.Fatalf("pages of %d: %d events of %d", page, len(got), len(want))
		}
		sorted, wanted := slices.Clone(got), slices.Clone(want)
		slices.Sort(sorted)
		slices.Sort(wanted)
		if !slices.Equal(sorted, wanted) {
			r.Fatalf("pages of %d: not the events that were appended", page)
		}
	}
	last := time.Time{}
	for _, e := range r.allEvents(s, tenant(r), broker.EventFilter{}, 1000) {
		if e.Time.Before(last.Add(-50 * time.Millisecond)) {
			r.Fatalf("not oldest first: %v after %v", e.Time, last)
		}
		last = e.Time
	}
	all, next, err := s.Events(r.ctx(), tenant(r)+"x", broker.EventFilter{}, "", 10)
	if err != nil || len(all) != 0 || next != "" {
		r.Fatalf("another tenant's events: %d, %v", len(all), err)
	}
	if _, _, err := s.Events(r.ctx(), tenant(r), broker.EventFilter{}, "no position", 10); err == nil {
		r.Fatal("a position that is none was taken")
	}
	// Entries of several subjects, and of none.
	entries := []broker.Entry{
		entry(broker.EventOperatorViewed, broker.Connection{Tenant: tenant(r)}),
		entry(broker.EventSubjectErased, broker.Connection{Tenant: tenant(r), Subject: "s1"}),
		entry(broker.EventSubjectErased, broker.Connection{Tenant: tenant(r), Subject: "s2"}),
	}
	entries[0].Scopes = nil
	if err := s.Append(r.ctx(), entries...); err != nil {
		r.Fatal(err)
	}
	if n := len(r.allEvents(s, tenant(r), broker.EventFilter{}, 1000)); n != len(want)+3 {
		r.Fatalf("%d events after three more entries", n)
	}
	report := r.verified(s)
	if report.Entries < 43 || report.Events < len(want)+3 {
		r.Fatalf("report: %+v", report)
	}
}

func testEventFilters(r *rig) {
	s := r.store()
	a := r.connect(s, tenant(r), "alice", "files", "a")
	b := r.connect(s, tenant(r), "bob", "crm", "b")
	r.release(s, a, "a")
	middle := time.Now()
	r.within(time.Second, "the clock goes on", func() bool { return time.Now().UnixMilli() > middle.UnixMilli()+1 })
	r.release(s, b, "b")
	count := func(f broker.EventFilter) int { return len(r.allEvents(s, tenant(r), f, 3)) }
	for _, check := range []struct {
		name   string
		filter broker.EventFilter
		want   int
	}{
		{"all", broker.EventFilter{}, 8},
		{"subject", broker.EventFilter{Subject: "alice"}, 4},
		{"other subject", broker.EventFilter{Subject: "carol"}, 0},
		{"connector", broker.EventFilter{Connector: "crm"}, 4},
		{"connection", broker.EventFilter{Connection: a.ID}, 3},
		{"type", broker.EventFilter{Type: broker.EventTokenIssued}, 4},
		{"scope", broker.EventFilter{Scope: "files.read"}, 2},
		{"subject and scope", broker.EventFilter{Subject: "bob", Scope: "files.write"}, 1},
		{"since", broker.EventFilter{Since: middle}, 2},
		{"until", broker.EventFilter{Until: middle}, 6},
		{"nothing", broker.EventFilter{Since: middle, Until: middle}, 0},
	} {
		if got := count(check.filter); got != check.want {
			r.Errorf("%s: %d events, want %d", check.name, got, check.want)
		}
	}
	e := r.allEvents(s, tenant(r), broker.EventFilter{Subject: "bob", Scope: "files.write"}, 10)[0]
	if e.ID == "" || e.Type != broker.EventTokenIssued || e.Tenant != tenant(r) || e.Client != "chat" || e.Subject != "bob" || e.Actor.Agent != "agent-1" ||
		e.Connector != "crm" || e.Connection != b.ID || !e.Requested || e.Outcome != "ok" || e.RequestID == "" {
		r.Errorf("event read back: %+v", e)
	}
}

// testFollower appends from several processes and follows meanwhile: nobody's event is ever passed over.
func testFollower(r *rig) {
	s := r.store()
	const writers, each = 4, 60
	var mu sync.Mutex
	appended := make(map[string]bool)
	var group sync.WaitGroup
	for w := range writers {
		writer := r.store()
		group.Go(func() {
			for i := range each {
				e := entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r), Subject: fmt.Sprintf("s%d-%d", w, i)}, "x")
				if err := writer.Append(r.ctx(), e); err != nil {
					r.Errorf("append: %v", err)
					return
				}
				mu.Lock()
				appended[e.Scopes[0].ID] = true
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	seen := make(map[string]bool)
	position := ""
	follow := func() {
		for {
			mu.Lock()
			before := len(appended)
			mu.Unlock()
			events, next, err := s.Events(r.ctx(), tenant(r), broker.EventFilter{}, position, 5)
			if err != nil {
				r.Fatalf("events: %v", err)
			}
			for _, e := range events {
				seen[e.ID] = true
			}
			if next == "" {
				if len(seen) < before {
					r.Fatalf("%d events seen at the end, %d were appended before", len(seen), before)
				}
				return
			}
			position = next
		}
	}
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		follow()
	}
	for id := range appended {
		if !seen[id] {
			r.Fatalf("a follower missed an event; %d of %d seen", len(seen), len(appended))
		}
	}
}

// testGroupCommit has many releases at once: each leaves its events once, and the chain holds.
func testGroupCommit(r *rig) {
	stores := []*vault.Store{r.store(), r.store()}
	var conns []broker.Connection
	for i := range 4 {
		conns = append(conns, r.connect(stores[0], tenant(r), "u", "files", fmt.Sprint(i)))
	}
	var group sync.WaitGroup
	const n = 200
	for i := range n {
		group.Go(func() {
			conn := conns[i%len(conns)]
			conn.Generation += int64(i % 5 / 4) // one in five is refused
			_, err := stores[i%2].Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "a", "b"))
			if refused := i%5 == 4; refused != (err != nil) {
				r.Errorf("release %d: %v", i, err)
			}
		})
	}
	group.Wait()
	if got := len(r.allEvents(stores[0], tenant(r), broker.EventFilter{Type: broker.EventTokenIssued, Subject: "u"}, 1000)); got != n*4/5*2 {
		r.Fatalf("%d events of %d releases", got, n*4/5)
	}
	r.verified(stores[0])
}

func testScriptFlush(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	ctx, cancel := context.WithCancel(r.ctx())
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, "a")); err != nil {
					r.Errorf("release: %v", err)
					return
				}
			}
		})
	}
	for range 30 {
		r.everywhere("SCRIPT", "FLUSH")
	}
	cancel()
	group.Wait()
	r.everywhere("SCRIPT", "FLUSH")
	if _, err := s.OfSubject(r.ctx(), tenant(r), "u", ""); err != nil {
		r.Fatal(err)
	}
	r.verified(s)
}
