package vaulttest

import (
	"reflect"
	"slices"
	"testing"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// releaseRig is what the tests of vault.ReleaseStep work with: a subject's index with two records, a table of switches, a trail.
type releaseRig struct {
	*rig
	backend *redisstore.Store
	at      string // beginning of the test's keys
	head    string
}

func newReleaseRig(r *rig, backend *redisstore.Store, at string) *releaseRig {
	r.Helper()
	rr := &releaseRig{rig: r, backend: backend, at: at}
	set := func(key string, args ...string) vault.Write {
		return vault.Write{Kind: vault.WriteHashSet, Key: at + key, Args: args}
	}
	rr.apply(vault.Step{Writes: []vault.Write{
		{Kind: vault.WriteSortedAdd, Key: at + "index", Args: []string{"0", "one", "0", "two\r\n\xff"}},
		set("c:one", "t", "acme", "s", "active", "wid", "w1", "at:", "sealed\x00\r\n\xfe", "gen", "7", "other", "x"), set("c:two\r\n\xff", "s", "gone"), set("i:one", "is", "1"),
		set("switches", "wid", "mark"),
	}})
	return rr
}

func (r *releaseRig) apply(steps ...vault.Step) []vault.Result {
	r.Helper()
	results := r.backend.Apply(r.ctx(), steps)
	for i, result := range results {
		if result.Err != nil {
			r.Fatalf("step %d of %d: %v", i, len(steps), result.Err)
		}
	}
	return results
}

// step is one that is carried out, unless something changes before.
func (r *releaseRig) step(next string) vault.Step {
	return vault.Step{
		Trail: &vault.TrailStep{
			Stream: r.at + "stream", Heads: r.at + "heads", Index: r.at + "trails", Member: "m", Writer: "w", Head: r.head, Next: next,
			Entries: []vault.TrailEntry{{Meta: "meta of " + next, Body: "body\x00of\r\n" + next}},
		},
		Release: &vault.ReleaseStep{
			Index: r.at + "index", State: vault.StateDigest([]string{"one", "two\r\n\xff"}, "w1")[:12],
			Record: r.at + "c:one", Values: []string{"acme", "active"},
			Switches: r.at + "switches", Mark: "mark",
			UseKey: r.at + "i:one", UseField: "is", UseValue: "used by " + next,
			Instead: vault.IndexQuery{Index: r.at + "index", Records: r.at + "c:", Extra: r.at + "i:", Beside: r.at + "switches"},
		},
	}
}

// left is all that a step may have changed.
func (r *releaseRig) left() (all []map[string][]byte, entries []vault.StreamEntry, trails []string) {
	r.Helper()
	all, err := r.backend.Hashes(r.ctx(), []string{r.at + "heads", r.at + "i:one", r.at + "c:one", r.at + "switches"})
	if err != nil {
		r.Fatal(err)
	}
	streams, err := r.backend.Streams(r.ctx(), []vault.StreamQuery{{Key: r.at + "stream", From: "-", To: "+", Limit: 1000}})
	if err != nil {
		r.Fatal(err)
	}
	members, err := r.backend.Members(r.ctx(), []string{r.at + "trails"})
	if err != nil {
		r.Fatal(err)
	}
	return all, streams[0], members[0]
}

var released = []map[string][]byte{{"at:": []byte("sealed\x00\r\n\xfe"), "gen": []byte("7"), "t": []byte("acme"), "s": []byte("active")}}

// testReleaseStep: carried out, once, with its entry and its use.
func testReleaseStep(r *rig) {
	rr := newReleaseRig(r, r.backend(), tag(0xa1)+"released:")
	for _, next := range []string{"h1", "h2"} {
		step := rr.step(next)
		got := rr.apply(step)[0]
		if got.Verdict != vault.VerdictDone || got.Head != next || len(got.IDs) != 1 || got.HeadID != got.IDs[0] || !reflect.DeepEqual(got.Reads, released) || got.Instead != nil {
			r.Fatalf("done: %+v", got)
		}
		all, entries, trails := rr.left()
		last := entries[len(entries)-1]
		if string(all[0]["w"]) != next || string(all[0]["w"+vault.HeadIDSuffix]) != last.ID || last.ID != got.HeadID || last.TrailEntry != step.Trail.Entries[0] {
			r.Fatalf("entry %+v of %+v, heads %q", last, step.Trail, all[0])
		}
		if string(all[1]["is"]) != "used by "+next || !slices.Equal(trails, []string{"m"}) {
			r.Fatalf("use %q, trails %q", all[1], trails)
		}
		// The same again: recognised by the chain alone, whatever has changed meanwhile.
		step.Release.State, step.Release.Values = "another state", []string{"another", "revoked"}
		again := rr.apply(step)[0]
		if again.Verdict != vault.VerdictRepeated || again.Head != next || again.HeadID != got.HeadID || again.IDs != nil || !reflect.DeepEqual(again.Reads, released) {
			r.Fatalf("again: %+v", again)
		}
		rr.head = next
	}
	if _, entries, _ := rr.left(); len(entries) != 2 {
		r.Fatalf("%d entries of two steps", len(entries))
	}
	// No switches were ever thrown, and the subject has no connection.
	step := rr.step("h3")
	step.Release.Switches, step.Release.Mark, step.Release.Index, step.Release.State = rr.at+"none", "", rr.at+"none", vault.StateDigest(nil, "w1")
	if got := rr.apply(step)[0]; got.Verdict != vault.VerdictDone {
		r.Fatalf("nothing there: %+v", got)
	}
}

// testReleaseRefused: whatever is not so is named, nothing is written, and what a reader would have found is in the answer.
func testReleaseRefused(r *rig) {
	rr := newReleaseRig(r, r.backend(), tag(0xa2)+"refused:")
	rr.apply(rr.step("h1"))
	rr.head = "h1"
	all, entries, trails := rr.left()
	for _, c := range []struct {
		name    string
		change  func(*vault.Step)
		verdict vault.Verdict
		refused int
	}{
		{"another head", func(s *vault.Step) { s.Trail.Head, s.Release.State = "another", "x" }, vault.VerdictChain, 0},
		{"a writer's first", func(s *vault.Step) { s.Trail.Head = "" }, vault.VerdictChain, 0},
		{"another index", func(s *vault.Step) {
			s.Release.State, s.Release.Values[0], s.Release.Mark = vault.StateDigest([]string{"one"}, "w1"), "x", "x"
		}, vault.VerdictRefused, 0},
		{"another version", func(s *vault.Step) { s.Release.State = vault.StateDigest([]string{"one", "two\r\n\xff"}, "w2") }, vault.VerdictRefused, 0},
		{"no digest", func(s *vault.Step) { s.Release.State = "" }, vault.VerdictRefused, 0},
		{"too little of a digest", func(s *vault.Step) { s.Release.State = s.Release.State[:11] }, vault.VerdictRefused, 0},
		{"an index that is gone", func(s *vault.Step) { s.Release.Index = rr.at + "none" }, vault.VerdictRefused, 0},
		{"another tenant", func(s *vault.Step) {
			s.Release.Values[0], s.Release.Values[1], s.Release.Mark = "rival", "x", "x"
		}, vault.VerdictRefused, 1},
		{"another status", func(s *vault.Step) { s.Release.Values[1], s.Release.Mark = "revoked", "x" }, vault.VerdictRefused, 2},
		{"no record", func(s *vault.Step) { s.Release.Record = rr.at + "c:none" }, vault.VerdictRefused, 0},
		{"another mark", func(s *vault.Step) { s.Release.Mark = "x" }, vault.VerdictRefused, 3},
		{"a mark where none was", func(s *vault.Step) { s.Release.Mark = "" }, vault.VerdictRefused, 3},
		{"no mark where one was", func(s *vault.Step) { s.Release.Switches = rr.at + "none" }, vault.VerdictRefused, 3},
		{"something else read instead", func(s *vault.Step) {
			s.Release.Mark, s.Release.Instead = "x", vault.IndexQuery{Index: rr.at + "index", Records: rr.at + "c:", After: "one", Limit: 3}
		}, vault.VerdictRefused, 3},
		{"one read instead", func(s *vault.Step) { s.Release.Mark, s.Release.Instead.Limit = "x", 1 }, vault.VerdictRefused, 3},
		{"nothing to read instead", func(s *vault.Step) { s.Release.Mark, s.Release.Instead = "x", vault.IndexQuery{Index: rr.at + "none"} }, vault.VerdictRefused, 3},
	} {
		step := rr.step("h2")
		c.change(&step)
		got := rr.apply(step)[0]
		if got.Verdict != c.verdict || got.Refused != c.refused || got.Head != "h1" || got.HeadID != entries[0].ID || got.IDs != nil {
			r.Errorf("%s: %+v", c.name, got)
		}
		var want []vault.Indexed
		if c.verdict == vault.VerdictRefused {
			found, err := rr.backend.Indexed(r.ctx(), []vault.IndexQuery{step.Release.Instead})
			if err != nil {
				r.Fatal(err)
			}
			want = found[0]
		}
		if !reflect.DeepEqual(got.Instead, want) || c.verdict == vault.VerdictRefused && step.Release.Instead.Records != "" && len(want) == 0 {
			r.Errorf("%s: instead %q, want %q", c.name, got.Instead, want)
		}
		nowAll, nowEntries, nowTrails := rr.left()
		if !reflect.DeepEqual(nowAll, all) || !reflect.DeepEqual(nowEntries, entries) || !slices.Equal(nowTrails, trails) {
			r.Fatalf("%s: something was written: %q, %q, %q", c.name, nowAll, nowEntries, nowTrails)
		}
	}
	// What is not that kind of a step is not sent at all, nor is anything beside it.
	for _, change := range []func(*vault.Step){
		func(s *vault.Step) { s.Trail = nil },
		func(s *vault.Step) { s.Trail.Entries = append(s.Trail.Entries, s.Trail.Entries[0]) },
		func(s *vault.Step) { s.Checks = []vault.Check{{Key: rr.at + "x", Field: "f", Kind: vault.CheckAbsent}} },
		func(s *vault.Step) { s.Confirm = true },
		func(s *vault.Step) { s.Release.Values = s.Release.Values[:1] },
	} {
		step := rr.step("h2")
		change(&step)
		for i, result := range rr.backend.Apply(r.ctx(), []vault.Step{rr.step("h2"), step}) {
			if result.Err == nil {
				r.Errorf("step %d: %+v", i, result)
			}
		}
	}
	if nowAll, nowEntries, _ := rr.left(); !reflect.DeepEqual(nowAll, all) || len(nowEntries) != len(entries) {
		r.Errorf("something was written: %q, %q", nowAll, nowEntries)
	}
}

// testReleaseMixed: steps of both kinds in one call follow upon each other, also where the server had forgotten its scripts: a step
// that is sent again while those behind it were carried out would be taken for a loss of the store's.
func testReleaseMixed(r *rig) {
	rr := newReleaseRig(r, r.backend(), tag(0xa3)+"mixed:")
	for round, forget := range []bool{false, true} {
		heads := []string{"a", "b", "c", "d"}
		for i := range heads {
			heads[i] += string(rune('0' + round))
		}
		first, second, third := rr.step(heads[0]), rr.step(heads[1]), rr.step(heads[2])
		second.Trail.Head, third.Trail.Head = heads[0], heads[1]
		third.Release = nil
		third.Writes = []vault.Write{{Kind: vault.WriteHashSet, Key: rr.at + "c:one", Args: []string{"s", "revoked"}}}
		fourth, back := rr.step(heads[3]), vault.Step{Writes: []vault.Write{{Kind: vault.WriteHashSet, Key: rr.at + "c:one", Args: []string{"s", "active"}}}}
		fourth.Trail.Head = heads[2]
		if forget {
			r.everywhere("SCRIPT", "FLUSH", "SYNC")
			rr.apply(vault.Step{Checks: []vault.Check{{Key: rr.at + "c:one", Field: "none", Kind: vault.CheckAbsent}}}) // which may bring back what it needs, and must not leave out what others need
		}
		got := rr.apply(first, second, third, fourth, back)
		for i, want := range []vault.Verdict{vault.VerdictDone, vault.VerdictDone, vault.VerdictDone, vault.VerdictRefused, vault.VerdictDone} {
			if got[i].Verdict != want {
				r.Fatalf("forgotten: %v: step %d: %+v", forget, i, got[i])
			}
		}
		if got[3].Refused != 2 || string(got[3].Instead[1].Record["s"]) != "revoked" {
			r.Fatalf("behind a revocation: %+v", got[3])
		}
		rr.head = heads[2]
	}
	if _, entries, _ := rr.left(); len(entries) != 6 {
		r.Fatalf("%d entries", len(entries))
	}
}

// RunReleaseDenied takes rights away from the user that the store logs in as, by set: no entry is ever left without its head, nor
// a head without an entry.
func RunReleaseDenied(t *testing.T, store *redisstore.Store, topology Topology, set func(rules ...string)) {
	rr := newReleaseRig(newRig(t, topology), store, tag(0xa4)+"denied:")
	for _, head := range []string{"", "h1"} { // with a writer's first entry, and later
		rr.head = head
		for _, command := range []string{"sadd", "xadd", "hset", "hmget"} {
			all, entries, trails := rr.left()
			if head != "" && command == "sadd" {
				continue // a writer asks for it once
			}
			set("-" + command)
			got := store.Apply(rr.ctx(), []vault.Step{rr.step("denied")})[0]
			set("+" + command)
			if got.Err == nil {
				t.Errorf("without %s, behind %q: %+v", command, head, got)
			}
			nowAll, nowEntries, nowTrails := rr.left()
			if head != "" && command == "xadd" {
				nowAll[1], all[1] = nil, nil // the use may be noted: it says nothing that an entry must say
			}
			if !reflect.DeepEqual(nowAll, all) || !reflect.DeepEqual(nowEntries, entries) || !slices.Equal(nowTrails, trails) {
				t.Fatalf("without %s, behind %q: something was written: %q, %q, %q", command, head, nowAll, nowEntries, nowTrails)
			}
		}
		if got := rr.apply(rr.step(map[string]string{"": "h1", "h1": "h2"}[head]))[0]; got.Verdict != vault.VerdictDone {
			t.Fatalf("with all rights: %+v", got)
		}
	}
}
