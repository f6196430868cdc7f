package vaulttest_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// TestSearchOverDays: what lies in the lists of many days is found, page by page, and a page whose time is up says how far it came.
func TestSearchOverDays(t *testing.T) {
	t.Parallel()
	m := miniredis.RunT(t)
	backend, err := redisstore.New(redisstore.Config{URL: "redis://" + m.Addr(), DialTimeout: 10 * time.Second, IOTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	keyset, err := vault.NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 23, 59, 0, 0, time.UTC)
	step := time.Duration(0) // that each look at the clock takes
	var clock sync.Mutex     // of both, while the store may look
	s, err := vault.New(vault.Config{Backend: backend, Keyset: keyset, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Now: func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		now = now.Add(step)
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const days = 80
	begin := now
	want := map[string]time.Time{}
	for i := range 4 * days {
		now = begin.Add(time.Duration(i) * 6 * time.Hour)
		m.SetTime(now)
		e := broker.Entry{Type: broker.EventTokenIssued, Time: now, Tenant: "acme", Client: "chat", Subject: fmt.Sprint(i % 3), Actor: broker.Actor{Agent: fmt.Sprint("agent-", i%9)}, Scopes: []broker.EventScope{{ID: fmt.Sprint(i), Scope: "a"}}}
		if err := s.Append(ctx, e); err != nil {
			t.Fatal(err)
		}
		if i%9 == 4 {
			want[e.Scopes[0].ID] = now
		}
	}
	now = now.Add(time.Second)
	m.SetTime(now)
	search := func(filter broker.EventFilter) (found map[string]time.Time, pages int) {
		t.Helper()
		found = map[string]time.Time{}
		q := broker.EventSearch{Filter: filter, Limit: 10}
		last := now.AddDate(1, 0, 0)
		for {
			page, err := s.SearchEvents(ctx, "acme", q)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range page.Events {
				if e.Time.After(last) {
					t.Fatalf("%s behind %s", e.Time, last)
				}
				last, found[e.ID] = e.Time, e.Time
			}
			if pages++; page.Next == "" {
				return found, pages
			}
			if q.Position = page.Next; page.Reached.After(last.AddDate(0, 0, 81)) || len(page.Events) > 0 && page.Reached.After(last) {
				t.Fatalf("reached %s behind %s", page.Reached, last)
			}
		}
	}
	check := func(what string, pages int) {
		t.Helper()
		found, took := search(broker.EventFilter{Agent: "agent-4"})
		if len(found) != len(want) || took < pages {
			t.Errorf("%s: %d events in %d pages, want %d in %d at least", what, len(found), took, len(want), pages)
		}
		from, to := begin.AddDate(0, 0, 20), begin.AddDate(0, 0, 51)
		found, _ = search(broker.EventFilter{Agent: "agent-4", Since: from, Until: to})
		in := 0
		for id, at := range want {
			if !at.Before(from) && at.Before(to) {
				in++
				if found[id].IsZero() {
					t.Errorf("%s: %s of %s is missing", what, id, at)
				}
			}
		}
		if len(found) != in {
			t.Errorf("%s: %d events within 31 days, want %d", what, len(found), in)
		}
	}
	check("without an index", 4)
	for range 40 {
		if _, err := s.IndexTrail(ctx); err != nil {
			t.Fatal(err)
		}
	}
	check("with the index", 4)
	step = 60 * time.Millisecond // so that each page ends behind a day or two
	check("with little time", 30)
}
