package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// testTampering changes the audit stream by hand; every change must be named (threats.md, row 71).
func testTampering(r *rig) {
	type attack struct {
		name string
		what string // what the fault must say
		do   func(stream, heads string, ids []string, field func(id, name string) string)
	}
	attacks := []attack{
		{"first entry deleted", "dropped", func(stream, heads string, ids []string, _ func(string, string) string) { r.raw("XDEL", stream, ids[0]) }},
		{"middle entry deleted", "dropped", func(stream, heads string, ids []string, _ func(string, string) string) { r.raw("XDEL", stream, ids[3]) }},
		{"last entry deleted", "dropped", func(stream, heads string, ids []string, _ func(string, string) string) {
			r.raw("XDEL", stream, ids[len(ids)-1])
		}},
		{"stream deleted, head remains", "dropped", func(stream, heads string, ids []string, _ func(string, string) string) { r.raw("DEL", stream) }},
		{"heads deleted", "dropped", func(stream, heads string, ids []string, _ func(string, string) string) { r.raw("DEL", heads) }},
		{"forged entry", "forged", func(stream, heads string, ids []string, field func(string, string) string) {
			r.raw("XADD", stream, "*", "m", field(ids[0], "m"), "b", "forged")
		}},
		{"entry without fields", "forged", func(stream, heads string, ids []string, _ func(string, string) string) {
			r.raw("XADD", stream, "*", "x", "y")
		}},
		{"entry repeated", "repeated", func(stream, heads string, ids []string, field func(string, string) string) {
			r.raw("XADD", stream, "*", "m", field(ids[1], "m"), "b", field(ids[1], "b"))
		}},
		{"clear part changed", "changed", func(stream, heads string, ids []string, field func(string, string) string) {
			rebuild(r, stream, ids, field, func(i int) (int, string, string) {
				m := field(ids[i], "m")
				if i == 2 {
					m = strings.Replace(m, "token.issued", "token.issueX", 1)
				}
				return i, m, field(ids[i], "b")
			})
		}},
		{"bodies of two entries exchanged", "changed", func(stream, heads string, ids []string, field func(string, string) string) {
			rebuild(r, stream, ids, field, func(i int) (int, string, string) {
				j := map[int]int{2: 3, 3: 2}[i]
				if j == 0 {
					j = i
				}
				return i, field(ids[i], "m"), field(ids[j], "b")
			})
		}},
		{"two entries exchanged", "dropped", func(stream, heads string, ids []string, field func(string, string) string) {
			// Of one writer: the later one comes first, so the earlier seems to be missing.
			rebuild(r, stream, ids, field, func(i int) (int, string, string) {
				j := i
				if i == 2 || i == 4 {
					j = 6 - i
				}
				return i, field(ids[j], "m"), field(ids[j], "b")
			})
		}},
		{"entries of two writers exchanged", "reordered", func(stream, heads string, ids []string, field func(string, string) string) {
			// Each writer's own order stays: only the attested stream ids tell.
			rebuild(r, stream, ids, field, func(i int) (int, string, string) {
				j := i
				if i == 2 || i == 3 {
					j = 5 - i
				}
				return i, field(ids[j], "m"), field(ids[j], "b")
			})
		}},
		{"head of an earlier place forged", "forged", func(stream, heads string, ids []string, _ func(string, string) string) {
			for _, f := range lines(r.raw("HKEYS", heads)) {
				if !strings.HasSuffix(f, ".id") {
					head := []byte(r.raw("HGET", heads, f))
					head[7]--
					r.raw("HSET", heads, f, string(head))
				}
			}
		}},
	}
	for i, a := range attacks {
		subject := fmt.Sprintf("victim-%d", i)
		// Tenants of their own, for a fault hides what comes behind it in the same stream.
		name := fmt.Sprintf("%s.%d", tenant(r), i)
		one, two := r.store(), r.store()
		for range 5 {
			for _, s := range []*vault.Store{one, two} {
				e := entry(broker.EventTokenIssued, broker.Connection{Tenant: name, Subject: subject}, "a", "b")
				if err := s.Append(r.ctx(), e); err != nil {
					r.Fatal(err)
				}
			}
		}
		if i == 0 {
			r.verified(one)
		}
		shard := one.Shard(name, subject)
		stream, heads := tag(shard)+"a:"+name, tag(shard)+"h:"+name
		ids := streamIDs(r, stream)
		if len(ids) != 10 {
			r.Fatalf("%d entries in the stream", len(ids))
		}
		fields := make(map[string]string)
		for _, id := range ids {
			parts := rangeOne(r, stream, id)
			fields[id+"m"], fields[id+"b"] = parts["m"], parts["b"]
		}
		a.do(stream, heads, ids, func(id, name string) string { return fields[id+name] })
		report, err := one.Verify(r.ctx())
		if err != nil {
			r.Fatal(err)
		}
		found := false
		for _, f := range report.Faults {
			if f.Stream == fmt.Sprintf("%s/%02x", name, shard) {
				found = true
				if !strings.Contains(f.What, a.what) {
					r.Errorf("%s: %q, want it to say %q", a.name, f.What, a.what)
				}
			}
		}
		if !found {
			r.Errorf("%s: not noticed", a.name)
		}
		// Away with it, for the tests that come.
		r.raw("DEL", stream)
		r.raw("DEL", heads)
		r.raw("SREM", tag(shard)+"t", name)
	}
}

// rebuild deletes the stream and writes it again under the same ids.
func rebuild(r *rig, stream string, ids []string, _ func(string, string) string, entry func(i int) (int, string, string)) {
	r.Helper()
	type row struct{ id, m, b string }
	var rows []row
	for i := range ids {
		at, m, b := entry(i)
		rows = append(rows, row{ids[at], m, b})
	}
	r.raw("DEL", stream)
	for _, x := range rows {
		r.raw("XADD", stream, x.id, "m", x.m, "b", x.b)
	}
}

// streamIDs and rangeOne read by way of a script, whose answers have no line ends of sealed bytes in them.
func streamIDs(r *rig, stream string) []string {
	return lines(r.raw("EVAL", "local out = {} for i, e in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do out[i] = e[1] end return out", "1", stream))
}

func rangeOne(r *rig, stream, id string) map[string]string {
	out := make(map[string]string)
	for _, f := range []string{"m", "b"} {
		out[f] = r.raw("EVAL", `local e = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1][2]
			for i = 1, #e, 2 do if e[i] == ARGV[2] then return e[i + 1] end end`, "1", stream, id, f)
	}
	return out
}

// testLostChain: the store loses entries that it had acknowledged, as a failover may. Writing goes on, and verifying
// says that something is missing.
func testLostChain(r *rig) {
	s := r.store()
	name := tenant(r)
	appendOne := func() {
		r.Helper()
		if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: name, Subject: "u"}, "a")); err != nil {
			r.Fatal(err)
		}
	}
	appendOne()
	appendOne()
	prefix := tag(s.Shard(name, "u"))
	stream, heads := prefix+"a:"+name, prefix+"h:"+name
	saved := make(map[string]string)
	for _, f := range lines(r.raw("HKEYS", heads)) {
		saved[f] = r.raw("HGET", heads, f)
	}
	before := streamIDs(r, stream)
	appendOne()
	// Back to what it was: the third entry and its head are gone, and nothing in the store tells.
	r.raw("XDEL", stream, streamIDs(r, stream)[2])
	for f, v := range saved {
		r.raw("HSET", heads, f, v)
	}
	if n := len(streamIDs(r, stream)); n != len(before) {
		r.Fatalf("%d entries", n)
	}
	appendOne()
	appendOne()
	report, err := s.Verify(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	here := func(report vault.Report) (found []vault.Fault) {
		for _, f := range report.Faults {
			if strings.HasPrefix(f.Stream, name+"/") {
				found = append(found, f)
			}
		}
		return found
	}
	if found := here(report); len(found) != 1 || !found[0].Lost || !strings.Contains(found[0].What, "1 entry is missing which the store had acknowledged and lost") {
		r.Fatalf("the loss was not noticed, or not as one: %+v", found)
	}
	// What lies behind the loss is looked at all the same.
	last := streamIDs(r, stream)[3]
	parts := rangeOne(r, stream, last)
	r.raw("XDEL", stream, last)
	r.raw("XADD", stream, last+"1", "m", parts["m"], "b", "broken")
	if report, err = s.Verify(r.ctx()); err != nil {
		r.Fatal(err)
	}
	if found := here(report); len(found) != 2 || !found[0].Lost || found[1].Lost || !strings.Contains(found[1].What, "its seal does not open") {
		r.Fatalf("tampering behind a loss: %+v", found)
	}
	r.raw("XDEL", stream, last+"1")
	r.raw("XADD", stream, last+"2", "m", parts["m"], "b", parts["b"])
	if n := len(r.allEvents(s, name, broker.EventFilter{}, 10)); n != 4 {
		r.Fatalf("%d events", n)
	}
	for _, key := range []string{stream, heads} {
		r.raw("DEL", key)
	}
	r.raw("SREM", prefix+"t", name)
}

// testReplacedEntry: the store takes back an entry whose writer never heard that it was there, and another one has seen it.
func testReplacedEntry(r *rig) {
	name := tenant(r)
	var silent atomic.Bool
	ctx, cancel := contextWithTimeout(20 * time.Second)
	defer cancel()
	silence := func(s vault.Step) error {
		if s.Trail != nil && silent.Load() {
			cancel() // the store has it: however long that took
			return errors.New("no answer")
		}
		return nil
	}
	a := r.troubledStore(&troubled{after: silence})
	looked, goOn := make(chan bool), make(chan bool)
	b := r.troubledStore(&troubled{before: func(s vault.Step) error {
		if s.Trail != nil {
			close(looked)
			<-goOn
		}
		return nil
	}})
	write := func(ctx context.Context, s *vault.Store) error {
		return s.Append(ctx, entry(broker.EventTokenIssued, broker.Connection{Tenant: name, Subject: "u"}, "a"))
	}
	prefix := tag(a.Shard(name, "u"))
	stream, heads := prefix+"a:"+name, prefix+"h:"+name
	silent.Store(true)
	if err := write(ctx, a); err == nil {
		r.Fatal("written, and nobody said so")
	}
	silent.Store(false)
	second := make(chan error, 1)
	go func() { second <- write(r.ctx(), b) }()
	<-looked
	r.raw("DEL", stream)
	r.raw("DEL", heads)
	if err := write(r.ctx(), a); err != nil {
		r.Fatal(err)
	}
	close(goOn)
	if err := <-second; err != nil {
		r.Fatal(err)
	}
	report, err := r.store().Verify(r.ctx())
	if err != nil {
		r.Fatal(err)
	}
	found := slices.DeleteFunc(report.Faults, func(f vault.Fault) bool { return !strings.HasPrefix(f.Stream, name+"/") })
	if len(found) != 1 || !found[0].Lost || !strings.Contains(found[0].What, "another one of its writer has its place") {
		r.Fatalf("found %+v", found)
	}
	r.raw("DEL", stream)
	r.raw("DEL", heads)
	r.raw("SREM", prefix+"t", name)
}
