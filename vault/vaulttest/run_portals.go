package vaulttest

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

func newPortal(s *vault.Store, tenant, subject string) broker.Portal {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return broker.Portal{
		ID: recordID(s, tenant, subject), Tenant: tenant, Client: "chat", Subject: subject, Binding: broker.BindingReturn,
		ReturnTo: "https://canary.example.com/done", State: "canary-state", Link: broker.NewSecret("canary-link"),
		Status: broker.PortalPending, Deadline: now.Add(broker.LinkLife), CreatedAt: now, RequestID: "req", TraceID: "trace",
	}
}

func testPortals(r *rig) {
	s := r.store()
	subject := "canary-subject@example.com"
	opened := entry(broker.EventPortalCreated, broker.Connection{Tenant: tenant(r), Subject: subject})
	fresh := newPortal(s, tenant(r), subject)
	opened.Portal = fresh.ID
	p, err := s.CreatePortal(r.ctx(), fresh, []broker.Entry{opened})
	if err != nil || p.Version != 1 {
		r.Fatalf("create: version %d, %v", p.Version, err)
	}
	if again, err := s.CreatePortal(r.ctx(), fresh, []broker.Entry{opened}); err != nil || again.Version != 1 {
		r.Fatalf("the same creation, repeated as it was: %v", err)
	}
	read, err := s.Portal(r.ctx(), p.ID)
	if err != nil || fmt.Sprintf("%#v", read) != fmt.Sprintf("%#v", p) || read.Link.Reveal() != "canary-link" {
		r.Fatalf("read back: %+v, made: %+v, %v", read, p, err)
	}
	events := r.allEvents(s, tenant(r), broker.EventFilter{Subject: subject}, 10)
	if len(events) != 1 || events[0].Portal != p.ID {
		r.Fatalf("events: %+v", events)
	}
	stale := p
	p.Status, p.BrowserDigest, p.CompletionCode, p.TicketDigest, p.Attempts = broker.PortalStarted, "bd", broker.NewSecret("canary-code"), "td", 2
	if p, err = s.UpdatePortal(r.ctx(), p, nil); err != nil || p.Version != 2 {
		r.Fatalf("update: %v", err)
	}
	if read, err = s.Portal(r.ctx(), p.ID); err != nil || read.CompletionCode.Reveal() != "canary-code" || read.TicketDigest != "td" || read.Attempts != 2 {
		r.Fatalf("read back: %+v, %v", read, err)
	}
	stale.Attempts++
	_, err = s.UpdatePortal(r.ctx(), stale, nil)
	is(r, err, broker.ErrConflict, "update from an older version")
	for what, id := range map[string]string{"unknown": recordID(s, tenant(r), subject), "no id": "../etc"} {
		_, err = s.Portal(r.ctx(), id)
		is(r, err, broker.ErrNotFound, what)
	}
	foreign := newPortal(s, tenant(r), subject)
	foreign.Subject = "somebody else"
	if s.Shard(tenant(r), foreign.Subject) != s.Shard(tenant(r), subject) {
		if _, err := s.CreatePortal(r.ctx(), foreign, nil); err == nil {
			r.Fatal("an id that was not made for its subject was taken")
		}
	}
	keys := r.keys("tb:*:j:" + p.ID)
	if len(keys) != 1 {
		r.Fatalf("keys: %q", keys)
	}
	if end, err := strconv.ParseInt(r.raw("PTTL", keys[0]), 10, 64); err != nil || time.Duration(end)*time.Millisecond > broker.LinkLife+broker.ConsentKept {
		r.Fatalf("a visit that lives ten minutes is kept for %d ms, %v", end, err)
	}
	// Under another id, under another version and of a newer format it does not open.
	other, err := s.CreatePortal(r.ctx(), newPortal(s, tenant(r), subject), nil)
	if err != nil {
		r.Fatal(err)
	}
	if other, err = s.UpdatePortal(r.ctx(), other, nil); err != nil || other.Version != p.Version { // so that the version alone does not tell them apart
		r.Fatal(err)
	}
	body := r.raw("HGET", keys[0], "b")
	r.raw("HSET", r.keys("tb:*:j:" + other.ID)[0], "b", body)
	_, err = s.Portal(r.ctx(), other.ID)
	is(r, err, broker.ErrIntegrity, "another visit's value")
	r.raw("HSET", keys[0], "ver", "1")
	_, err = s.Portal(r.ctx(), p.ID)
	is(r, err, broker.ErrIntegrity, "a value of another version")
	r.raw("HSET", keys[0], "ver", "2", "v", "99")
	_, err = s.Portal(r.ctx(), p.ID)
	is(r, err, broker.ErrNewerFormat, "newer format")
	p.Status = broker.PortalEnded
	_, err = s.UpdatePortal(r.ctx(), p, nil)
	is(r, err, broker.ErrConflict, "update of a newer format")
}

// testPortalsParallel: of many who count a wrong code at once each counts, and of many who let the browser in one does.
func testPortalsParallel(r *rig) {
	stores := []*vault.Store{r.store(), r.store()}
	p, err := stores[0].CreatePortal(r.ctx(), newPortal(stores[0], tenant(r), "u"), nil)
	if err != nil {
		r.Fatal(err)
	}
	var group sync.WaitGroup
	var made atomic.Int64
	for i := range 12 {
		group.Go(func() {
			mine := p
			mine.Attempts = 1
			e := entry(broker.EventPortalRefused, broker.Connection{Tenant: tenant(r), Subject: "u"})
			switch _, err := stores[i%2].UpdatePortal(r.ctx(), mine, []broker.Entry{e}); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, broker.ErrConflict):
				r.Errorf("update: %v", err)
			}
		})
	}
	group.Wait()
	if made.Load() != 1 {
		r.Fatalf("%d of 12 that read the same version have written", made.Load())
	}
}

// neighbour is another subject in the same shard, whose entries lie in the same stream.
func neighbour(r *rig, s *vault.Store, subject string) string {
	for i := range 100_000 {
		if other := "neighbour-" + strconv.Itoa(i); s.Shard(tenant(r), other) == s.Shard(tenant(r), subject) {
			return other
		}
	}
	r.Fatal("no neighbour")
	return ""
}

func (r *rig) recent(s *vault.Store, subject string, types []broker.EventType, page int) (ids []string, pages int) {
	r.Helper()
	for position := ""; ; pages++ {
		entries, next, err := s.Recent(r.ctx(), tenant(r), subject, types, position, page)
		if err != nil {
			r.Fatalf("recent: %v", err)
		}
		for _, e := range entries {
			if e.Subject != subject || e.Tenant != tenant(r) {
				r.Fatalf("an entry of somebody else: %+v", e)
			}
			ids = append(ids, e.Scopes[0].ID)
		}
		if position = next; position == "" {
			return ids, pages + 1
		}
	}
}

// testRecent reads a subject's newest entries first, whatever others do in the same stream.
func testRecent(r *rig) {
	s := r.store()
	other := neighbour(r, s, "alice")
	var want []string
	for i := range 25 {
		e := r.appendFor(s, "alice", "a", "b")
		want = append(want, e.Scopes[0].ID)
		if i%3 == 0 {
			r.appendFor(s, other, "a")
		}
		if i%5 == 0 {
			refused := entry(broker.EventTokenRefused, broker.Connection{Tenant: tenant(r), Subject: "alice"}, "a")
			if err := s.Append(r.ctx(), refused); err != nil {
				r.Fatal(err)
			}
		}
	}
	slices.Reverse(want)
	issued := []broker.EventType{broker.EventTokenIssued}
	for _, page := range []int{1, 7, 25, 100} {
		if got, _ := r.recent(s, "alice", issued, page); !slices.Equal(got, want) {
			r.Fatalf("pages of %d: %d entries, not the newest first", page, len(got))
		}
	}
	if got, _ := r.recent(s, "alice", append(issued, broker.EventTokenRefused), 100); len(got) != 30 {
		r.Errorf("two types: %d entries", len(got))
	}
	for _, subject := range []string{"nobody", ""} {
		if got, _ := r.recent(s, subject, issued, 10); len(got) != 0 {
			r.Errorf("subject %q: %d entries", subject, len(got))
		}
	}
	if got, _, err := s.Recent(r.ctx(), tenant(r)+"x", "alice", issued, "", 10); err != nil || len(got) != 0 {
		r.Errorf("another tenant's: %d, %v", len(got), err)
	}
	if _, _, err := s.Recent(r.ctx(), tenant(r), "alice", issued, "no position", 10); err == nil {
		r.Error("a position that is none was taken")
	}
	e, _, err := s.Recent(r.ctx(), tenant(r), "alice", issued, "", 1)
	if err != nil || len(e) != 1 || len(e[0].Scopes) != 2 || e[0].Actor.Agent != "agent-1" || e[0].Connection != "c-alice" || e[0].Time.IsZero() {
		r.Errorf("entry read back: %+v, %v", e, err)
	}
	// One that was changed hides no other.
	if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r), Subject: "alice"}, "a")); err != nil {
		r.Fatal(err)
	}
	stream := tag(s.Shard(tenant(r), "alice")) + "a:" + tenant(r)
	r.raw("XADD", stream, "*", "m", "junk", "b", "junk")
	if got, _ := r.recent(s, "alice", issued, 10); len(got) != 26 {
		r.Errorf("beside one that can't be read: %d entries", len(got))
	}
}

// testRecentBound: behind very many entries of somebody else a page ends early, says where it stopped, and the next goes on.
func testRecentBound(r *rig) {
	s := r.store()
	old := r.appendFor(s, "alice", "a")
	other := neighbour(r, s, "alice")
	for range 21 {
		crowd := make([]broker.Entry, 500)
		for i := range crowd {
			crowd[i] = entry(broker.EventTokenIssued, broker.Connection{Tenant: tenant(r), Subject: other}, "a")
		}
		if err := s.Append(r.ctx(), crowd...); err != nil {
			r.Fatal(err)
		}
	}
	issued := []broker.EventType{broker.EventTokenIssued}
	first, next, err := s.Recent(r.ctx(), tenant(r), "alice", issued, "", 10)
	if err != nil || len(first) != 0 || next == "" {
		r.Fatalf("first page: %d entries, goes on at %q, %v", len(first), next, err)
	}
	got, pages := r.recent(s, "alice", issued, 10)
	if pages != 2 || len(got) != 1 || got[0] != old.Scopes[0].ID {
		r.Fatalf("%d pages, %q", pages, got)
	}
}
