package simulationtest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// The keys of the comparison, all of one hash tag.
const (
	tag      = "tb:{0a}:"
	theIndex = tag + "s:all"
	theDues  = tag + "r"
	stream   = tag + "a:acme"
	heads    = tag + "h:acme"
	streams  = tag + "t"
	settles  = tag + "y"
)

func pick[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func hashKey(r *rand.Rand) string { return tag + "c:" + pick(r, "one", "two", "three") }

func fieldName(r *rand.Rand) string { return pick(r, "gen", "s", "own", "at:", "at:k1", "at:k2") }

// released is a record that the random steps leave alone, but those that let a token out.
const released = tag + "c:released"

func someValue(r *rand.Rand) string { return pick(r, "1", "2", "3", "x\x00\xffy", "{}") }

// randomStep is a step such as the vault makes, and some that it does not.
func randomStep(r *rand.Rand, head string) vault.Step {
	if r.IntN(5) == 0 {
		return randomRelease(r, head)
	}
	var step vault.Step
	if r.IntN(6) == 0 {
		step.Settle = &vault.Settle{Key: settles, Pause: pick(r, 0, time.Second)}
	}
	if r.IntN(2) == 0 {
		step.Trail = &vault.TrailStep{Stream: stream, Heads: heads, Index: streams, Member: "acme", Writer: "w", Head: head, Next: "head" + strconv.Itoa(r.IntN(1000))}
		switch r.IntN(6) {
		case 0:
			step.Trail.Head = "another"
		case 1:
			step.Trail.Next = head // carried out before, unless it is the first
		}
		for range 1 + r.IntN(2) {
			step.Trail.Entries = append(step.Trail.Entries, vault.TrailEntry{Meta: someValue(r), Body: someValue(r)})
		}
	}
	for range r.IntN(3) {
		kind := pick(r, vault.CheckEqual, vault.CheckNot, vault.CheckAbsent, vault.CheckFree, vault.CheckApplied)
		check := vault.Check{Key: hashKey(r), Field: fieldName(r), Kind: kind, Value: someValue(r)}
		if kind == vault.CheckFree {
			check.Field = "dl"
		}
		step.Checks = append(step.Checks, check)
	}
	for range r.IntN(4) {
		step.Writes = append(step.Writes, randomWrite(r))
	}
	for range r.IntN(3) {
		read := vault.Read{Key: hashKey(r)}
		if r.IntN(2) == 0 {
			read.Fields = []string{"gen", "s", "never there"}
		}
		step.Reads = append(step.Reads, read)
	}
	return step
}

// randomRelease is one whose checks hold about as often as not.
func randomRelease(r *rand.Rand, head string) vault.Step {
	state := vault.StateDigest(nil, pick(r, "", "w", "w", "1"))
	step := vault.Step{
		Trail: &vault.TrailStep{
			Stream: stream, Heads: heads, Index: streams, Member: "acme", Writer: "w", Head: head, Next: "head" + strconv.Itoa(r.IntN(1000)),
			Entries: []vault.TrailEntry{{Meta: someValue(r), Body: someValue(r)}},
		},
		Release: &vault.ReleaseStep{
			Index: tag + "s:none", State: pick(r, state, state[:12], state[:16], "another state"), Record: pick(r, released, released, released, hashKey(r)), Values: []string{pick(r, "acme", "acme", "rival"), pick(r, "1", "1", "2")},
			Switches: hashKey(r), Mark: pick(r, "", "", "1", "2"),
			UseKey: tag + "i:one", UseField: "is", UseValue: someValue(r),
			Instead: vault.IndexQuery{Index: theIndex, Records: tag + "c:", Extra: pick(r, "", tag+"c:"), Beside: pick(r, "", tag+"c:two"), After: pick(r, "", "m1"), Limit: r.IntN(3)},
		},
	}
	switch r.IntN(6) {
	case 0:
		step.Trail.Head = "another"
	case 1:
		step.Trail.Next = head
	}
	return step
}

func randomWrite(r *rand.Rand) vault.Write {
	soon := strconv.FormatInt(time.Now().Add(time.Hour).UnixMilli(), 10)
	member := "m" + strconv.Itoa(r.IntN(5))
	return pick(r,
		vault.Write{Kind: vault.WriteHashSet, Key: hashKey(r), Args: []string{fieldName(r), someValue(r), fieldName(r), someValue(r)}},
		vault.Write{Kind: vault.WriteHashDelete, Key: hashKey(r), Args: []string{fieldName(r), "own"}},
		vault.Write{Kind: vault.WriteHashIncrement, Key: hashKey(r), Args: []string{"fen", pick(r, "1", "7")}},
		vault.Write{Kind: vault.WriteDeadline, Key: hashKey(r), Args: []string{"dl", pick(r, "-60000", "60000")}},
		vault.Write{Kind: vault.WriteOnly, Key: hashKey(r), Args: []string{"at:", "at:k1"}},
		vault.Write{Kind: vault.WriteSortedAdd, Key: theIndex, Args: []string{"0", member}},
		vault.Write{Kind: vault.WriteSortedAdd, Key: theDues, Args: []string{strconv.Itoa(r.IntN(4)), member}},
		vault.Write{Kind: vault.WriteUnless, Key: theDues, Args: []string{someValue(r), strconv.Itoa(r.IntN(4)), member, hashKey(r), fieldName(r)}},
		vault.Write{Kind: vault.WriteSortedRemove, Key: pick(r, theIndex, theDues), Args: []string{member, "m0"}},
		vault.Write{Kind: vault.WriteExpireAt, Key: hashKey(r), Args: []string{pick(r, soon, soon, soon, "1")}},
		vault.Write{Kind: vault.WriteExpireIn, Key: hashKey(r), Args: []string{"3600000"}},
		vault.Write{Kind: vault.WritePersist, Key: hashKey(r)},
		vault.Write{Kind: vault.WriteDelete, Key: hashKey(r)},
	)
}

// timeless drops what the clocks of two stores make different.
func timeless(fields map[string][]byte) map[string][]byte {
	out := maps.Clone(fields)
	delete(out, "dl")
	return out
}

func timelessAll(items []vault.Indexed) []vault.Indexed {
	out := slices.Clone(items)
	for i := range out {
		out[i].Record, out[i].Extra = timeless(out[i].Record), timeless(out[i].Extra)
	}
	return out
}

// TestMemoryIsLikeRedis sends the same random steps to the model and to a server, and compares all answers and all that is
// there in the end.
func TestMemoryIsLikeRedis(t *testing.T) {
	server, err := redisstore.New(redisstore.Config{URL: vaulttest.StartRedis(t).URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	model := NewMemory(time.Now)
	r := rand.New(rand.NewPCG(number(t, "SIMULATION_FIRST", 1), 3))
	for _, b := range []vault.Backend{model, server} {
		b.Apply(ctx, []vault.Step{{Writes: []vault.Write{{Kind: vault.WriteHashSet, Key: released, Args: []string{"t", "acme", "s", "1", "wid", "w", "gen", "3", "at:", "x\x00\xffy"}}}}})
	}
	head, verdicts := "", make(map[vault.Verdict]int)
	for n := range 3000 {
		steps := make([]vault.Step, 1+r.IntN(3))
		for i := range steps {
			steps[i] = randomStep(r, head)
		}
		got, want := model.Apply(ctx, steps), server.Apply(ctx, steps)
		for i := range steps {
			if got[i].Err != nil || want[i].Err != nil {
				t.Fatalf("call %d, step %d: model %v, server %v: %+v", n, i, got[i].Err, want[i].Err, steps[i])
			}
			if got[i].Verdict != want[i].Verdict || got[i].Refused != want[i].Refused || got[i].Head != want[i].Head || len(got[i].IDs) != len(want[i].IDs) || len(got[i].Reads) != len(want[i].Reads) {
				t.Fatalf("call %d, step %d: model %+v, server %+v: %+v", n, i, got[i], want[i], steps[i])
			}
			if a, b := timelessAll(got[i].Instead), timelessAll(want[i].Instead); !reflect.DeepEqual(a, b) {
				t.Fatalf("call %d, step %d: model read instead %q, server %q: %+v", n, i, a, b, steps[i])
			}
			if steps[i].Release != nil {
				verdicts[got[i].Verdict]++
			}
			for k := range got[i].Reads {
				if a, b := timeless(got[i].Reads[k]), timeless(want[i].Reads[k]); !reflect.DeepEqual(a, b) {
					t.Fatalf("call %d, step %d, read %d: model %q, server %q: %+v", n, i, k, a, b, steps[i])
				}
			}
			if want[i].Head != "" {
				head = want[i].Head
			}
		}
	}
	for _, verdict := range []vault.Verdict{vault.VerdictDone, vault.VerdictRepeated, vault.VerdictChain, vault.VerdictRefused} {
		if verdicts[verdict] < 20 {
			t.Errorf("tokens let out, by verdict: %v", verdicts)
		}
	}
	for i, step := range []vault.Step{
		{Writes: []vault.Write{{Kind: vault.WriteDelete, Key: settles}}},
		{Settle: &vault.Settle{Key: settles, Pause: time.Hour}}, // the first to look notes the history
		{Settle: &vault.Settle{Key: settles, Pause: time.Hour}},
		{Writes: []vault.Write{{Kind: vault.WriteHashSet, Key: settles, Args: []string{vault.SettleRun, "another history"}}}},
		{Settle: &vault.Settle{Key: settles}},
		{Settle: &vault.Settle{Key: settles, Pause: time.Hour}}, // which begins the pause
		{Settle: &vault.Settle{Key: settles, Pause: time.Minute}},
		{Settle: &vault.Settle{Key: settles}},
		{Writes: []vault.Write{{Kind: vault.WriteHashSet, Key: settles, Args: []string{vault.SettleUntil, "1"}}}},
		{Settle: &vault.Settle{Key: settles, Pause: time.Minute}},
	} {
		got, want := model.Step(&step), server.Apply(ctx, []vault.Step{step})[0]
		if got.Err != nil || want.Err != nil || got.Verdict != want.Verdict {
			t.Fatalf("pause after a failover, step %d: model %v %v, server %v %v", i, got.Verdict, got.Err, want.Verdict, want.Err)
		}
	}
	if got, want := everything(t, ctx, model), everything(t, ctx, server); got != want {
		t.Errorf("what is left: model\n%s\nserver\n%s", got, want)
	}
}

// everything is what a store has, in words.
func everything(t *testing.T, ctx context.Context, b vault.Backend) string {
	t.Helper()
	var out string
	say := func(what string, got any, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		out += fmt.Sprintf("%s: %q\n", what, got)
	}
	keys, err := b.Keys(ctx, "tb:{??}:[ch]:*")
	slices.Sort(keys)
	say("keys", keys, err)
	found, err := b.Hashes(ctx, []string{tag + "c:one", tag + "c:two", tag + "c:three", heads, tag + "c:none", tag + "i:one"})
	for i := range found {
		found[i] = timeless(found[i])
		delete(found[i], "w"+vault.HeadIDSuffix)
	}
	say("hashes", found, err)
	indexed, err := b.Indexed(ctx, []vault.IndexQuery{
		{Index: theIndex, Records: tag + "c:", Extra: tag + "c:"}, {Index: theIndex, Records: tag + "c:", After: "m1", Limit: 2}, {Index: tag + "s:none", Records: tag + "c:"},
	})
	say("indexed", indexed, err)
	scored, err := b.Scored(ctx, []vault.ScoreQuery{{Key: theDues, Max: 2}, {Key: theDues, Max: 9, Limit: 2}, {Key: tag + "none", Max: 9}})
	say("scored", scored, err)
	counted, err := b.Dues(ctx, []vault.ScoreQuery{{Key: theDues, Max: 2}, {Key: theDues, Max: 9, Limit: 2}, {Key: tag + "none", Max: 9}})
	say("counted", counted, err)
	ranges := []vault.RangeQuery{
		{Key: theIndex}, {Key: theIndex, Reverse: true, Limit: 2}, {Key: theIndex, From: "m1", To: "m4"}, {Key: theIndex, From: "m1", To: "m4", Reverse: true}, {Key: theIndex, From: "m1\x00", Limit: 1}, {Key: tag + "none"},
	}
	members, err := b.Ranges(ctx, ranges)
	say("ranges", members, err)
	sizes, err := b.Counts(ctx, ranges)
	say("sizes", sizes, err)
	all, err := b.Streams(ctx, []vault.StreamQuery{{Key: stream, From: "-", To: "+", Limit: 1 << 20}, {Key: tag + "a:none", From: "-", To: "+", Limit: 9}, {Key: stream, From: "-", To: "+", Limit: 7, Newest: true}})
	if err != nil || len(all[0]) < 10 {
		t.Fatalf("streams: %d, %v", len(all), err)
	}
	some, err := b.Streams(ctx, []vault.StreamQuery{{Key: stream, From: "(" + all[0][3].ID, To: all[0][8].ID, Limit: 3}})
	say("parts of streams", len(some[0]), err)
	for _, entries := range append(all, some...) {
		for i := range entries {
			entries[i].ID = "" // the clock's
		}
		say("entries", entries, nil)
	}
	members, err = b.Members(ctx, []string{streams, tag + "none"})
	say("members", members, err)
	return out
}
