package vaulttest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// later is a store whose servers say that it is that much later than it is.
type later struct {
	*redisstore.Store
	ahead time.Duration
	// apply, if set, comes before each call of Apply.
	apply func(ctx context.Context, steps []vault.Step, apply func(context.Context, []vault.Step) []vault.Result) []vault.Result
	// streams, if set, is told what Streams found.
	streams func(q vault.StreamQuery, found []vault.StreamEntry)
}

// Streams is part of vault.Backend.
func (l *later) Streams(ctx context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	found, err := l.Store.Streams(ctx, queries)
	if err == nil && l.streams != nil {
		for i, q := range queries {
			l.streams(q, found[i])
		}
	}
	return found, err
}

// Clock is part of vault.Backend.
func (l *later) Clock(ctx context.Context) (earliest, latest time.Time, err error) {
	earliest, latest, err = l.Store.Clock(ctx)
	return earliest.Add(l.ahead), latest.Add(l.ahead), err
}

// Apply is part of vault.Backend.
func (l *later) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	if l.apply == nil {
		return l.Store.Apply(ctx, steps)
	}
	return l.apply(ctx, steps, l.Store.Apply)
}

// ahead is by how much what trims is late: a year.
const ahead = 365 * 24 * time.Hour

// retaining is a replica for which it is a year later.
func (r *rig) retaining(keep vault.Retention, change ...func(*later)) *vault.Store {
	r.Helper()
	b := &later{Store: r.backend(), ahead: ahead}
	for _, c := range change {
		c(b)
	}
	return r.store(func(vc *vault.Config, _ *redisstore.Config) {
		vc.Backend, vc.Now, vc.Retention = b, func() time.Time { return time.Now().Add(ahead) }, keep
	})
}

// trimmed lets the replica trim until there is nothing more to do. Whoever had that before need not end first.
func (r *rig) trimmed(s *vault.Store) {
	r.Helper()
	for i := 0; ; i++ {
		r.raw("DEL", "tb:{00}:ack")
		more, err := s.TrimTrail(r.ctx())
		if err != nil || i > 100 {
			r.Fatalf("trim, round %d: %v", i, err)
		}
		if !more {
			return
		}
	}
}

// upto keeps what lies behind an entry of a stream, and all other streams.
func (t *trail) upto(id string) vault.Retention {
	shard := t.store.Shard(t.tenant, "u")
	return vault.Retention{Age: 90 * 24 * time.Hour, Archived: func(_ context.Context, streams []vault.TrailStream) ([]string, error) {
		ids := make([]string, len(streams))
		for i, s := range streams {
			if s == (vault.TrailStream{Tenant: t.tenant, Shard: shard}) {
				ids[i] = id
			}
		}
		return ids, nil
	}}
}

// RunRetention drops old events, on servers of its own: what is left can be verified, searched and gone on with, and whoever takes
// something away beside is still found.
func RunRetention(t *testing.T, start func(t testing.TB) Topology) {
	topology := start(t)
	type test struct {
		name string
		run  func(*rig)
	}
	tests := []test{
		{"by number", testTrimmedByNumber},
		{"step by step", testTrimmedInSteps},
		{"writers", testTrimmedWriters},
		{"tampering", testTrimmedTampering},
		{"cuts of others", testTrimmedReplay},
		{"losses", testTrimmedLosses}, {"newer key", testTrimmedNewerKey},
	}
	if !topology.Variant { // these take long
		tests = append(tests, test{"by age", testTrimmedByAge}, test{"tampered before", testTrimmedTamperedBefore}, test{"crashes", testTrimmedCrash}, test{"verified meanwhile", testTrimmedMeanwhile})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, topology)
			r.everywhere("FLUSHALL")
			test.run(r)
		})
	}
}

// testTrimmedByAge drops everything of a tenant, whose searches, cursors and writers go on.
func testTrimmedByAge(r *rig) {
	s, name := r.store(), tenant(r)
	const entries = 700
	for i := range entries {
		e := entry(broker.EventTokenIssued, broker.Connection{Tenant: name, Subject: fmt.Sprint("s", i%40), Connector: "files"}, "a", "b")
		e.Actor.Run = fmt.Sprint("run-", i)
		if err := s.Append(r.ctx(), e); err != nil {
			r.Fatal(err)
		}
	}
	r.trailIndexed(s)
	newest, err := s.SearchEvents(r.ctx(), name, broker.EventSearch{Limit: 10})
	if err != nil || newest.Next == "" {
		r.Fatalf("%+v, %v", newest, err)
	}
	_, next, err := s.Events(r.ctx(), name, broker.EventFilter{}, "", 10)
	if err != nil || next == "" {
		r.Fatal(err)
	}
	if since, err := s.KeptSince(r.ctx(), name); err != nil || !since.IsZero() {
		r.Fatalf("kept since %v, %v", since, err)
	}
	if n := len(r.keys("tb:*:ax:*[.:]*")); n < 20 {
		r.Fatalf("%d lists", n)
	}
	// Without having been told to nobody drops anything, nor where the store's clock or this process's says that it is not so late.
	r.trimmed(r.retaining(vault.Retention{}))
	r.trimmed(r.retaining(vault.Retention{Age: 90 * 24 * time.Hour}, func(l *later) { l.ahead = 0 }))
	r.trimmed(r.retaining(vault.Retention{Age: ahead + 48*time.Hour}))
	if n := len(r.allEvents(s, name, broker.EventFilter{}, 500)); n != 2*entries {
		r.Fatalf("%d events, want %d", n, 2*entries)
	}

	trimmer := r.retaining(vault.Retention{Age: 90 * 24 * time.Hour})
	r.trimmed(trimmer)
	all := r.allEvents(s, name, broker.EventFilter{}, 500)
	if len(all) > 1 || len(all) == 1 && (all[0].Type != broker.EventTrailTrimmed || !strings.Contains(all[0].Reason, "age 2160 h")) {
		r.Fatalf("%d events are left: %+v", len(all), all)
	}
	if report := r.verified(s); report.Dropped < entries {
		r.Fatalf("%d entries are said to be dropped, of %d", report.Dropped, entries)
	}
	since, err := s.KeptSince(r.ctx(), name)
	if want := time.Now().Add(ahead - 91*24*time.Hour); err != nil || since.Before(want) || since.After(want.Add(48*time.Hour)) {
		r.Fatalf("kept since %v, %v", since, err)
	}
	for _, pattern := range []string{"tb:*:ax:*:*", "tb:*:ax:*.*", "tb:*:h:*"} {
		left := slices.DeleteFunc(r.keys(pattern), func(key string) bool {
			return strings.Contains(key, ":ax:m:") || strings.HasPrefix(key[8:], "h:") && len(all) > 0
		})
		if len(left) > 0 {
			r.Errorf("%d keys are left of what was dropped: %q", len(left), left[:min(3, len(left))])
		}
	}
	// What is written then is all that is there, also behind a cursor of before.
	for i := range 80 {
		if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: name, Subject: fmt.Sprint("s", i%40)}, "a")); err != nil {
			r.Fatal(err)
		}
	}
	r.verified(s)
	r.verified(r.store())
	got, _, err := s.Events(r.ctx(), name, broker.EventFilter{Type: broker.EventTokenIssued}, next, 100)
	if err != nil || len(got) != 80 {
		r.Fatalf("%d events behind a cursor of before, %v", len(got), err)
	}
	page, err := s.SearchEvents(r.ctx(), name, broker.EventSearch{Limit: 10, Position: newest.Next})
	if err != nil || len(page.Events) != 0 {
		r.Fatalf("searching on backwards from a place that was dropped: %d, %v", len(page.Events), err)
	}
	page, err = s.SearchEvents(r.ctx(), name, broker.EventSearch{Limit: 100, Oldest: true, Position: newest.Next, Filter: broker.EventFilter{Scope: "a"}})
	if err != nil || len(page.Events) != 80 {
		r.Fatalf("searching on forwards: %d, %v", len(page.Events), err)
	}
	// And again, with what says that something was dropped.
	r.trimmed(trimmer)
	r.verified(s)
	before := len(r.allEvents(s, name, broker.EventFilter{}, 500))
	r.trimmed(trimmer)
	if after := r.allEvents(s, name, broker.EventFilter{}, 500); len(after) != before {
		r.Fatalf("trimming where there is nothing to trim leaves events: %+v", after)
	}
}

// testTrimmedByNumber drops nothing while there is room, and no day that is not over for long.
func testTrimmedByNumber(r *rig) {
	s, name := r.store(), tenant(r)
	for i := range 60 {
		if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: name, Subject: fmt.Sprint("s", i)}, "a")); err != nil {
			r.Fatal(err)
		}
	}
	r.trimmed(r.retaining(vault.Retention{Entries: 60}))
	r.trimmed(r.retaining(vault.Retention{Entries: 10}, func(l *later) { l.ahead = 23 * time.Hour }))
	if n := len(r.allEvents(s, name, broker.EventFilter{}, 500)); n != 60 {
		r.Fatalf("%d events, want all", n)
	}
	r.trimmed(r.retaining(vault.Retention{Entries: 10}))
	if n := len(r.allEvents(s, name, broker.EventFilter{Type: broker.EventTokenIssued}, 500)); n != 0 {
		r.Fatalf("%d events are left", n)
	}
	r.verified(s)
}

// testTrimmedInSteps drops the entries of a stream one after another, each time with all of it verified: chains are cut at every place.
func testTrimmedInSteps(r *rig) {
	t := r.trail(0)
	one, two := r.store(), r.store()
	for i := range 12 {
		t.write([]*vault.Store{one, two, one}[i%3], 1)
		if i == 6 {
			two = r.store()
		}
	}
	ids := streamIDs(r, t.stream)
	var dropped int
	for i, id := range ids {
		there := streamIDs(r, t.stream)
		r.trimmed(r.retaining(t.upto(id)))
		if left, want := streamIDs(r, t.stream), there[slices.Index(there, id)+1:]; !slices.Equal(left, want) {
			r.Fatalf("up to %s: %q are left of %q", id, left, there)
		}
		report := r.verified(one)
		if report.Dropped <= dropped {
			r.Fatalf("up to %s: %d were dropped", id, report.Dropped)
		}
		dropped = report.Dropped
		if i%4 == 3 {
			t.write(two, 1)
			r.verified(one)
		}
	}
}

// testTrimmedWriters: of writers of which everything was dropped nothing stays but a few bytes, and those not for good; and who went on
// living goes on writing, without saying that the store has lost something.
func testTrimmedWriters(r *rig) {
	t := r.trail(0)
	live, young := r.retaining(vault.Retention{}), r.store() // of whom the second does not know that so much time has passed
	t.write(young, 1)
	t.write(live, 1)
	for range 20 {
		t.write(r.store(), 1)
	}
	ids := streamIDs(r, t.stream)
	before := len(lines(r.raw("HKEYS", t.heads)))
	r.trimmed(r.retaining(t.upto(ids[20])))
	if after := len(lines(r.raw("HKEYS", t.heads))); before != 44 || after != 2 {
		r.Fatalf("%d fields of heads before, %d after", before, after)
	}
	cut := len(r.raw("HGET", t.cutKey(), "b"))
	if cut > 1200 {
		r.Fatalf("the cut has %d bytes", cut)
	}
	t.write(live, 2)
	t.write(young, 2)
	if report := r.verified(live); report.Entries < 5 {
		r.Fatalf("%+v", report)
	}
	// Behind the kind, the connector and the tag of the subject, of six bytes, stands whether a chain goes on in the place of a lost one.
	resumed := 0
	for _, id := range streamIDs(r, t.stream) {
		meta := rangeOne(r, t.stream, id)["m"]
		if at := strings.Index(meta, "token.issued\x00\x06"); at < 0 || meta[at+len("token.issued")+8] == 1 {
			resumed++
		}
	}
	if resumed != 1 {
		r.Errorf("%d chains go on in the place of a lost one, want that of the process whose clock is wrong", resumed)
	}
	if f := t.fault(); f != nil {
		r.Fatalf("%+v", f)
	}
}

// cutKey is where it says up to where the stream was trimmed.
func (t *trail) cutKey() string { return strings.Replace(t.stream, "}:a:", "}:ac:", 1) }
