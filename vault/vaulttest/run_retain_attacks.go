package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// testTrimmedTampering takes something away beside a legitimate trim; it must be found, and not pass for a loss where it is none.
func testTrimmedTampering(r *rig) {
	for i, c := range []struct {
		name, what string
		spoil      func(t *trail, ids []string, fields []string)
	}{
		{"untouched", "", func(*trail, []string, []string) {}},
		{"the oldest entry that is kept", "dropped: ", func(t *trail, ids, _ []string) { t.raw("XDEL", t.stream, ids[0]) }},
		{"the oldest three", "dropped: ", func(t *trail, ids, _ []string) { t.raw("XTRIM", t.stream, "MINID", "=", ids[3]) }},
		{"the newest entry", "dropped: ", func(t *trail, ids, _ []string) { t.raw("XDEL", t.stream, ids[len(ids)-1]) }},
		{"everything", "dropped: ", func(t *trail, _, _ []string) { t.raw("DEL", t.stream) }},
		{"everything, and the heads", "dropped: ", func(t *trail, _, _ []string) { t.raw("DEL", t.stream, t.heads) }},
		{"the heads", "dropped: ", func(t *trail, _, _ []string) { t.raw("DEL", t.heads) }},
		{"what says that it was trimmed", "dropped: ", func(t *trail, _, _ []string) { t.raw("DEL", t.cutKey()) }},
		{"what says so, forged", "forged: ", func(t *trail, _, _ []string) { t.raw("HSET", t.cutKey(), "b", "forged") }},
		{"its version", "forged: ", func(t *trail, _, _ []string) { t.raw("HSET", t.cutKey(), "ver", "7") }},
		{"a head of an earlier place", "forged: ", func(t *trail, _, fields []string) {
			head := []byte(t.raw("HGET", t.heads, fields[0]))
			head[7]--
			t.raw("HSET", t.heads, fields[0], string(head))
		}},
		{"an entry of what was dropped, written again behind", "repeated", func(t *trail, ids, _ []string) {
			parts := rangeOne(t.rig, t.stream, ids[0])
			t.raw("XADD", t.stream, "*", "m", parts["m"], "b", parts["b"])
		}},
	} {
		t := r.trail(i)
		one, two := r.store(), r.store()
		t.write(one, 4)
		t.write(two, 4)
		t.write(one, 4)
		ids := streamIDs(r, t.stream)
		r.trimmed(r.retaining(t.upto(ids[5])))
		left := streamIDs(r, t.stream)
		if len(left) != 6 || left[0] != ids[6] {
			r.Fatalf("%d are left", len(left))
		}
		var fields []string
		for _, f := range lines(t.raw("HKEYS", t.heads)) {
			if !strings.HasSuffix(f, ".id") {
				fields = append(fields, f)
			}
		}
		c.spoil(t, left, fields)
		f := t.fault()
		t.raw("DEL", t.cutKey())
		switch {
		case c.what == "" && f != nil:
			r.Errorf("%s: %+v", c.name, f)
		case c.what == "":
		case f == nil:
			r.Errorf("%s: not noticed", c.name)
		case !strings.Contains(f.What, c.what) || f.Lost:
			r.Errorf("%s: %+v", c.name, f)
		}
	}
}

// testTrimmedTamperedBefore: what was spoiled is not trimmed away.
func testTrimmedTamperedBefore(r *rig) {
	for i, spoil := range []func(t *trail, ids []string){
		func(t *trail, ids []string) { t.raw("XDEL", t.stream, ids[1]) },
		func(t *trail, ids []string) { t.raw("XDEL", t.stream, ids[0]) },
		func(t *trail, ids []string) { t.raw("DEL", t.heads) },
		func(t *trail, ids []string) {
			parts := rangeOne(r, t.stream, ids[3])
			t.raw("XDEL", t.stream, ids[3])
			t.raw("XADD", t.stream, ids[len(ids)-1]+"1", "m", parts["m"], "b", "x")
		},
	} {
		t := r.trail(i)
		t.write(r.store(), 6)
		ids := streamIDs(r, t.stream)
		spoil(t, ids)
		before := len(streamIDs(r, t.stream))
		r.trimmed(r.retaining(vault.Retention{Age: 24 * time.Hour}))
		if after := len(streamIDs(r, t.stream)); after != before {
			r.Errorf("%d: of a stream that was tampered with %d entries are left of %d", i, after, before)
		}
		if !strings.Contains(r.log.String(), "is not trimmed, for it was tampered with") {
			r.Errorf("%d: nobody says so", i)
		}
		if f := t.fault(); f == nil {
			r.Errorf("%d: not noticed", i)
		}
	}
	// The only entry of a chain, behind the back of its writer given an id of long ago: nothing attests its own.
	t := r.trail(9)
	t.write(r.store(), 1)
	ids := streamIDs(r, t.stream)
	parts, old := rangeOne(r, t.stream, ids[0]), fmt.Sprint(time.Now().Add(-40*24*time.Hour).UnixMilli(), "-0")
	t.raw("DEL", t.stream)
	t.raw("XADD", t.stream, old, "m", parts["m"], "b", parts["b"])
	r.trimmed(r.retaining(vault.Retention{Age: 24 * time.Hour}))
	if left := streamIDs(r, t.stream); len(left) != 1 {
		r.Error("a fresh entry with an old id is dropped")
	}
	// What is kept because it was tampered with is found by its values too, though the lists of that day went with the other streams'.
	t = r.trail(10)
	s := r.store()
	another := "v"
	for s.Shard(t.tenant, another) == s.Shard(t.tenant, "u") {
		another += "v"
	}
	t.write(s, 40)
	for range 40 {
		if err := s.Append(r.ctx(), entry(broker.EventTokenIssued, broker.Connection{Tenant: t.tenant, Subject: another}, "a")); err != nil {
			r.Fatal(err)
		}
	}
	r.trailIndexed(s)
	t.raw("XDEL", t.stream, streamIDs(r, t.stream)[1])
	r.trimmed(r.retaining(vault.Retention{Age: 24 * time.Hour}))
	page, err := s.SearchEvents(r.ctx(), t.tenant, broker.EventSearch{Limit: 500, Filter: broker.EventFilter{Client: "chat"}})
	if err != nil || len(page.Events) != 78 {
		r.Errorf("of 39 entries that are held a search finds %d events, %v", len(page.Events), err)
	}
}

// testTrimmedReplay: a cut of another stream is none of this one, and an older one leaves something missing.
func testTrimmedReplay(r *rig) {
	t, other := r.trail(0), r.trail(1)
	copyCut := func(from, to string, fields map[string]string) {
		for _, f := range []string{"v", "ver", "wid", "b"} {
			value := fields[f]
			if fields == nil {
				value = r.raw("HGET", from, f)
			}
			r.raw("HSET", to, f, value)
		}
	}
	s := r.store()
	for _, x := range []*trail{t, other} {
		x.write(s, 8)
	}
	ids, others := streamIDs(r, t.stream), streamIDs(r, other.stream)
	r.trimmed(r.retaining(t.upto(ids[1])))
	r.trimmed(r.retaining(other.upto(others[5])))
	older := make(map[string]string)
	for _, f := range []string{"v", "ver", "wid", "b"} {
		older[f] = r.raw("HGET", t.cutKey(), f)
	}
	r.trimmed(r.retaining(t.upto(ids[3])))
	here := func(want string) {
		r.Helper()
		report, err := s.Verify(r.ctx())
		if err != nil {
			r.Fatal(err)
		}
		found := ""
		for _, f := range report.Faults {
			if strings.HasPrefix(f.Stream, t.tenant+"/") && !f.Lost {
				found = f.What
			}
		}
		if (found == "") != (want == "") || !strings.HasPrefix(found, want) {
			r.Fatalf("found %q, want %q", found, want)
		}
	}
	here("")
	newest := make(map[string]string)
	for f := range older {
		newest[f] = r.raw("HGET", t.cutKey(), f)
	}
	// The tamperer takes away what another stream's cut, or an older one with a later part of it, would cover.
	r.raw("XDEL", t.stream, ids[4])
	copyCut(other.cutKey(), t.cutKey(), nil)
	here("forged: ")
	copyCut("", t.cutKey(), older)
	here("dropped: ")
	copyCut("", t.cutKey(), newest)
	here("dropped: ")
}

// testTrimmedLosses: what a failover took is a loss, before and behind the place where a stream is cut, and does not hold up the rest.
func testTrimmedLosses(r *rig) {
	t := r.trail(0)
	s := r.store()
	t.write(s, 3)
	saved := make(map[string]string)
	for _, f := range lines(r.raw("HKEYS", t.heads)) {
		saved[f] = r.raw("HGET", t.heads, f)
	}
	t.write(s, 1)
	ids := streamIDs(r, t.stream)
	r.raw("XDEL", t.stream, ids[3])
	for f, v := range saved {
		r.raw("HSET", t.heads, f, v)
	}
	t.write(s, 3) // says what was lost
	report, err := s.Verify(r.ctx())
	if err != nil || len(report.Faults) != 1 || !report.Faults[0].Lost {
		r.Fatalf("%+v, %v", report.Faults, err)
	}
	ids = streamIDs(r, t.stream)
	r.trimmed(r.retaining(t.upto(ids[1]))) // the loss is told of behind
	if report, err = s.Verify(r.ctx()); err != nil || len(report.Faults) != 1 || !report.Faults[0].Lost {
		r.Fatalf("%+v, %v", report.Faults, err)
	}
	r.trimmed(r.retaining(t.upto(ids[4]))) // and before
	if report, err = s.Verify(r.ctx()); err != nil || len(report.Faults) != 0 {
		r.Fatalf("%+v, %v", report.Faults, err)
	}
	t.write(s, 1)
	if f := t.fault(); f != nil {
		r.Fatalf("%+v", f)
	}
}

// testTrimmedCrash: wherever the process that trims dies, nothing looks like tampering, and the next one goes on.
func testTrimmedCrash(r *rig) {
	t := r.trail(0)
	s := r.store()
	t.write(s, 6)
	t.write(r.store(), 6)
	ids := streamIDs(r, t.stream)
	for at := 1; at <= 6; at++ {
		for _, after := range []bool{false, true} {
			var left atomic.Int64
			left.Store(int64(at))
			dying := func(ctx context.Context, steps []vault.Step, apply func(context.Context, []vault.Step) []vault.Result) []vault.Result {
				n := left.Add(-1)
				if n > 0 || n == 0 && after {
					results := apply(ctx, steps)
					if n > 0 {
						return results
					}
				}
				out := make([]vault.Result, len(steps))
				for i := range out {
					out[i].Err = errors.New("the process is dead")
				}
				return out
			}
			r.raw("DEL", "tb:{00}:ack")
			ctx, cancel := contextWithTimeout(50 * time.Millisecond)
			_, err := r.retaining(t.upto(ids[at]), func(l *later) { l.apply = dying }).TrimTrail(ctx)
			cancel()
			if err == nil && left.Load() <= 0 {
				r.Fatalf("dead at step %d, and nobody noticed", at)
			}
			r.verified(s)
		}
		r.trimmed(r.retaining(t.upto(ids[at])))
		if left := streamIDs(r, t.stream); len(left) != len(ids)-at-1 {
			r.Fatalf("%d entries are left behind the %d. crash", len(left), at)
		}
		r.verified(s)
	}
	// A script that stopped between its writes: the cut is there, and the entries still are.
	fields := rangeOne(r, t.stream, ids[7])
	r.trimmed(r.retaining(t.upto(ids[7])))
	first := streamIDs(r, t.stream)[0]
	rest := make([]map[string]string, 0)
	all := streamIDs(r, t.stream)
	for _, id := range all {
		rest = append(rest, rangeOne(r, t.stream, id))
	}
	r.raw("DEL", t.stream)
	r.raw("XADD", t.stream, ids[7], "m", fields["m"], "b", fields["b"])
	for i, id := range all {
		r.raw("XADD", t.stream, id, "m", rest[i]["m"], "b", rest[i]["b"])
	}
	r.verified(s)
	r.trimmed(r.retaining(t.upto(ids[8])))
	if left := streamIDs(r, t.stream); left[0] == first || left[0] == ids[7] {
		r.Fatalf("left: %q", left)
	}
	r.verified(s)
}

// testTrimmedMeanwhile verifies, writes and trims at the same time, with two who trim.
func testTrimmedMeanwhile(r *rig) {
	t := r.trail(0)
	writers := []*vault.Store{r.store(), r.store()}
	t.write(writers[0], 40)
	t.write(writers[1], 40)
	ids := streamIDs(r, t.stream)
	done := make(chan error, 3)
	for n := range 2 {
		stores := make([]*vault.Store, 20)
		for i := range stores {
			stores[i] = r.retaining(t.upto(ids[3*i+n]))
		}
		go func() {
			for _, s := range stores {
				_, _ = r.rawTry("DEL", "tb:{00}:ack")
				if _, err := s.TrimTrail(r.ctx()); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	reader := r.store()
	go func() {
		for range 30 {
			report, err := reader.Verify(r.ctx())
			if err == nil && len(report.Faults) > 0 {
				err = errors.New(report.Faults[0].What)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 20 {
		t.write(writers[1], 1)
	}
	for range 3 {
		if err := <-done; err != nil {
			r.Fatal(err)
		}
	}
	if f := t.fault(); f != nil {
		r.Fatalf("%+v", f)
	}
}
