package vaulttest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// counting is a backend that counts the entries that were read from it.
type counting struct {
	*redisstore.Store
	entries atomic.Int64
}

func (c *counting) Streams(ctx context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	found, err := c.Store.Streams(ctx, queries)
	for _, entries := range found {
		c.entries.Add(int64(len(entries)))
	}
	return found, err
}

// RunSearch searches the trail before, while and after it is in the index, on servers of its own: whatever the index knows, what
// is found is what a look at every entry finds.
func RunSearch(t *testing.T, topology Topology) {
	r := newRig(t, topology)
	s := r.store()
	r.variedTrail(s, 200)
	r.searched(s, "nothing is in the index", "agent", "rare agent", "run", "until", "all of it")
	other := r.store() // which another replica indexes
	r.trailIndexed(other)
	r.searched(s, "all is in the index")
	r.variedTrail(s, 40)
	r.searched(s, "the newest are not in the index")
	r.trailIndexed(other)
	r.searched(s, "those are too", "agent", "run", "subject and agent", "agent until", "an hour ago")

	// What a failover of the nodes with the lists loses is not missed.
	lists := r.keys("tb:*:ax:*[.:]*")
	if len(lists) < 20 {
		r.Fatalf("%d lists", len(lists))
	}
	marks := 0
	for _, key := range r.keys("tb:*:ax:m:*") {
		r.raw("HSET", key, "run", "before")
		marks++
	}
	for _, key := range lists {
		if !strings.Contains(key, ":ax:m:") {
			r.raw("DEL", key)
		}
	}
	r.searched(s, "the store is another one, without the lists")
	again := r.store()
	for _, key := range r.keys("tb:*:ax:k") {
		r.raw("DEL", key) // as if the other replica had ended a minute ago
	}
	r.trailIndexed(again)
	r.searched(s, "all is in the index again", "agent", "run", "type", "client")
	// A crash between the lists and the mark: everything is there twice.
	for _, key := range r.keys("tb:*:ax:m:*") {
		r.raw("DEL", key)
	}
	for _, key := range r.keys("tb:*:ax:k") {
		r.raw("DEL", key)
	}
	r.trailIndexed(r.store())
	r.searched(s, "all is in the index twice", "agent", "rare agent", "run", "scope", "agent and client")
	if n := len(r.keys("tb:*:ax:m:*")); n != marks {
		r.Fatalf("%d marks, %d before", n, marks)
	}

	// The index saves looking at the others: what one run did is found among hundreds by looking at few.
	c := &counting{Store: r.backend()}
	reader, err := vault.New(vault.Config{Backend: c, Keyset: r.keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(reader.Close)
	page, err := reader.SearchEvents(r.ctx(), tenant(r), broker.EventSearch{Filter: broker.EventFilter{Run: "run-7"}, Limit: 50})
	streams := len(r.keys("tb:*:a:*"))
	if err != nil || len(page.Events) == 0 || page.Next != "" || c.entries.Load() > int64(2*streams+len(page.Events)+100) {
		r.Fatalf("%d events, %d entries looked at in %d streams, %v", len(page.Events), c.entries.Load(), streams, err)
	}
	r.forgedPosting(reader)
	r.concealed()
}

// forgedPosting: whoever writes into the index shows nobody anything that is not asked for.
func (r *rig) forgedPosting(s *vault.Store) {
	r.Helper()
	all := r.everySearch(s, broker.EventSearch{Filter: broker.EventFilter{}, Limit: 1000})
	want := r.everySearch(s, broker.EventSearch{Filter: broker.EventFilter{Agent: "rare"}, Limit: 1000})
	var own []string
	for _, key := range r.keys("tb:*:ax:*:*") {
		if !strings.Contains(key, ":ax:m:") {
			own = append(own, r.raw("GET", key))
		}
	}
	for _, key := range r.keys("tb:*:ax:*:*") {
		if !strings.Contains(key, ":ax:m:") {
			r.raw("APPEND", key, strings.Join(own, ""))
		}
	}
	if got := r.everySearch(s, broker.EventSearch{Filter: broker.EventFilter{Agent: "rare"}, Limit: 1000}); len(want) == 0 || !slices.Equal(ids(got), ids(want)) {
		r.Errorf("with forged postings: %d events, want %d", len(got), len(want))
	}
	if got := r.everySearch(s, broker.EventSearch{Filter: broker.EventFilter{}, Limit: 1000}); len(got) != len(all) {
		r.Errorf("with forged postings: %d events in all, want %d", len(got), len(all))
	}
}

// concealed: nothing that was searched for lies in the index in clear.
func (r *rig) concealed() {
	r.Helper()
	for _, key := range r.keys("tb:*:ax:*") {
		value := key
		if kind := r.raw("TYPE", key); kind == "string" {
			value += r.raw("GET", key)
		}
		for _, secret := range []string{"agent-", "run-", "client-", "person-", "files", "crm", "token.", "rare"} {
			if strings.Contains(strings.TrimSuffix(value, tenant(r)), secret) {
				r.Fatalf("%q is in clear in %q", secret, key)
			}
		}
	}
}

// variedTrail appends n entries that differ in all that is searched for, and some in one ms.
func (r *rig) variedTrail(s *vault.Store, n int) {
	r.Helper()
	pick := func(i int, of ...string) string { return of[i%len(of)] }
	make := func(i int) broker.Entry {
		e := entry(broker.EventType(pick(i, "token.issued", "token.issued", "token.issued", "token.refreshed", "token.refused")),
			broker.Connection{Tenant: tenant(r), Subject: fmt.Sprintf("person-%d", i%23), Connector: pick(i/3, "files", "files", "crm"), ID: "c-" + fmt.Sprint(i%7)}, "a", pick(i, "b", "c"))
		e.Client, e.Actor = pick(i, "client-1", "client-1", "client-2"), broker.Actor{Agent: pick(i/2, "agent-1", "agent-1", "agent-2", "agent-1", "agent-3"), Run: fmt.Sprintf("run-%d", i/5)}
		if i%97 == 5 {
			e.Actor.Agent = "rare"
		}
		if e.Type == "token.refused" {
			e.Outcome = "access_denied"
		}
		if i%29 == 0 {
			e.Time = e.Time.Add(-time.Hour) // it waited in the spool
		}
		return e
	}
	for i := 0; i < n; i += 2 {
		if err := s.Append(r.ctx(), make(i), make(i+1)); err != nil {
			r.Fatal(err)
		}
	}
	var crowd []broker.Entry
	for i := range 70 {
		e := make(i)
		e.Subject = "person-1"
		crowd = append(crowd, e)
	}
	if err := s.Append(r.ctx(), crowd...); err != nil {
		r.Fatal(err)
	}
	last := time.Now() // over on every node, so that it is seen oldest first too
	r.within(time.Second, "the clock goes on", func() bool { return time.Now().UnixMilli() > last.UnixMilli()+1 })
}

// trailIndexed brings everything into the index.
func (r *rig) trailIndexed(s *vault.Store) {
	r.Helper()
	for i, quiet := 0, 0; quiet < 8; i++ {
		more, err := s.IndexTrail(r.ctx())
		if err != nil || i > 100 {
			r.Fatalf("index, round %d: %v", i, err)
		}
		if quiet++; more {
			quiet = 0
		}
	}
}

func (r *rig) everySearch(s *vault.Store, q broker.EventSearch) []broker.Event {
	r.Helper()
	var all []broker.Event
	for range 10000 {
		page, err := s.SearchEvents(r.ctx(), tenant(r), q)
		if err != nil || len(page.Events) > q.Limit || (page.Next != "") == page.Reached.IsZero() {
			r.Fatalf("search: %d events, next %q, %v", len(page.Events), page.Next, err)
		}
		all = append(all, page.Events...)
		if q.Position = page.Next; q.Position == "" {
			return all
		}
	}
	r.Fatal("a search without an end")
	return nil
}

func ids(events []broker.Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = e.ID
	}
	return out
}

// searched compares what is found with what a look at every event finds, for some questions or, where none are named, for all.
func (r *rig) searched(s *vault.Store, when string, some ...string) {
	r.Helper()
	all := r.allEvents(s, tenant(r), broker.EventFilter{}, 1000)
	middle := all[len(all)/2].Time
	for name, f := range map[string]broker.EventFilter{
		"all": {}, "client": {Client: "client-2"}, "agent": {Agent: "agent-2"}, "rare agent": {Agent: "rare"}, "run": {Run: "run-7"}, "type": {Type: "token.refused"},
		"common type": {Type: "token.issued"}, "outcome": {Outcome: "access_denied"}, "scope": {Scope: "c"}, "connector": {Connector: "crm"}, "nobody": {Agent: "nobody"},
		"subject": {Subject: "person-1"}, "subject and agent": {Subject: "person-1", Agent: "agent-2"}, "connection": {Connection: "c-3"},
		"agent and client": {Agent: "agent-2", Client: "client-2"}, "since": {Since: middle}, "until": {Until: middle}, "agent until": {Agent: "agent-3", Until: middle},
		"an hour ago": {Until: all[0].Time.Add(-30 * time.Minute)}, "agent an hour ago": {Agent: "agent-1", Until: all[0].Time.Add(-30 * time.Minute)},
		"all of it": {Agent: "agent-1", Client: "client-1", Connector: "files", Scope: "b", Since: middle.Add(-time.Hour), Until: middle.Add(time.Hour)},
	} {
		if len(some) > 0 && !slices.Contains(some, name) {
			continue
		}
		want := slices.DeleteFunc(slices.Clone(all), func(e broker.Event) bool {
			is := func(wanted, got string) bool { return wanted == "" || wanted == got }
			return !is(f.Client, e.Client) || !is(f.Agent, e.Actor.Agent) || !is(f.Run, e.Actor.Run) || !is(string(f.Type), string(e.Type)) || !is(f.Outcome, e.Outcome) ||
				!is(f.Scope, e.Scope) || !is(f.Connector, e.Connector) || !is(f.Connection, e.Connection) || !is(f.Subject, e.Subject) ||
				!f.Since.IsZero() && e.Time.Before(f.Since) || !f.Until.IsZero() && !e.Time.Before(f.Until)
		})
		for _, limit := range []int{1000, 7} {
			if got := r.everySearch(s, broker.EventSearch{Filter: f, Oldest: true, Limit: limit}); !slices.Equal(ids(got), ids(want)) {
				r.Errorf("%s: %s, oldest first, pages of %d: %d events, want %d", when, name, limit, len(got), len(want))
			}
			// Newest first: the entries the other way round, each with its events as they are.
			got := r.everySearch(s, broker.EventSearch{Filter: f, Limit: limit})
			var back []broker.Event
			for i := len(got); i > 0; {
				begin := i - 1
				for begin > 0 && got[begin-1].RequestID == got[begin].RequestID {
					begin--
				}
				back, i = append(back, got[begin:i]...), begin
			}
			if !slices.Equal(ids(back), ids(want)) {
				r.Errorf("%s: %s, newest first, pages of %d: %d events, want %d", when, name, limit, len(got), len(want))
			}
			if len(want) > 50 {
				break // small pages are for few
			}
		}
	}
	if r.Failed() {
		r.FailNow()
	}
	if _, err := s.SearchEvents(r.ctx(), tenant(r), broker.EventSearch{Position: "no position", Limit: 1}); err == nil {
		r.Fatal("a position that is none was taken")
	}
}

// RunSearchWithoutLists searches as a user who lacks the commands of the index, one after the other. The topology is one server.
func RunSearchWithoutLists(t *testing.T, topology Topology) {
	r := newRig(t, topology)
	allowed := r.store()
	r.variedTrail(allowed, 200)
	r.trailIndexed(allowed)
	r.raw("ACL", "SETUSER", "lists", "on", ">pw", "~*", "+@all")
	limited := r.store(func(_ *vault.Config, rc *redisstore.Config) {
		rc.URL = strings.Replace(rc.URL, "redis://", "redis://lists:pw@", 1)
	})
	for _, command := range []string{"getrange", "strlen", "append"} {
		r.raw("ACL", "SETUSER", "lists", "+@all", "-"+command)
		r.searched(limited, "without "+command, "rare agent", "until")
	}
	r.variedTrail(allowed, 20)
	for _, key := range r.keys("tb:*:ax:k") {
		r.raw("DEL", key) // as if the other process were gone
	}
	if _, err := limited.IndexTrail(r.ctx()); err == nil {
		r.Error("the index was written without the right to append")
	}
	r.searched(limited, "behind an index that can't be written", "rare agent")
}
