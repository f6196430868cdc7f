package simulationtest

import (
	"context"
	"errors"
	"time"

	"tokenbroker/vault"
)

// backend is the way of one process to the store: each call waits at a gate.
type backend struct{ proc *process }

var errFault = errors.New("simulated: no answer from the store")

// Apply implements vault.Backend. Once it was sent it may be carried out long after the process has given up on it, or is
// dead.
func (b backend) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	w := b.proc.world
	results := make([]vault.Result, len(steps))
	g := &gate{call: callApply, who: whoOf(ctx), conn: w.about(steps)}
	g.what = func() string { return w.describe(steps) }
	g.run = func(o outcome) {
		n := len(steps)
		switch o.fault {
		case faultBefore:
			n = 0
		case faultAfter:
			n = 1 + o.part%len(steps)
		}
		for i := range n {
			results[i] = w.memory.Step(&steps[i])
			w.applied(b.proc, &steps[i], results[i])
		}
		if o.fault != faultNone {
			for i := range results {
				results[i] = vault.Result{Err: errFault}
			}
		}
	}
	if err := b.proc.ask(ctx, g); err != nil {
		failed := make([]vault.Result, len(steps)) // not the same: it may still be carried out
		for i := range failed {
			failed[i].Err = err
		}
		return failed
	}
	for i, step := range steps {
		switch r := results[i]; {
		case r.Err != nil:
		case r.Verdict == vault.VerdictDone, r.Verdict == vault.VerdictRepeated, r.Verdict == vault.VerdictApplied:
			w.toldOf(step)
		}
	}
	return results
}

// toldOf notes that a process was told of a step that the store has carried out.
func (w *world) toldOf(step vault.Step) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, write := range step.Writes {
		kind, _ := keyParts(write.Key)
		if sealed, ok := argument(write.Args, "rt"); ok && kind == "c" && w.shared == nil && write.Kind == vault.WriteHashSet {
			if t := w.provider.sealedIn(sealed); t != nil && t.told.IsZero() {
				t.told = time.Now()
			}
		}
		if sealed, ok := argument(write.Args, "g"); ok && kind == "g" && write.Kind == vault.WriteHashSet && w.shared != nil {
			if t := w.provider.numbered(len(sealed) - w.shared.around); t != nil && t.told.IsZero() {
				t.told = time.Now()
			}
		}
	}
}

// read is a call that changes nothing.
func read[T any](b backend, ctx context.Context, what string, do func() (T, error)) (T, error) {
	var found T
	var failure error
	g := &gate{call: callRead, who: whoOf(ctx), conn: -1}
	g.what = func() string { return what }
	g.run = func(o outcome) {
		if o.fault != faultNone {
			failure = errFault
			return
		}
		found, failure = do()
	}
	if err := b.proc.ask(ctx, g); err != nil {
		var none T
		return none, err
	}
	return found, failure
}

// Hashes implements vault.Backend.
func (b backend) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	return read(b, ctx, "read records", func() ([]map[string][]byte, error) { return b.proc.world.memory.Hashes(ctx, keys) })
}

// Indexed implements vault.Backend.
func (b backend) Indexed(ctx context.Context, queries []vault.IndexQuery) ([][]vault.Indexed, error) {
	return read(b, ctx, "read an index", func() ([][]vault.Indexed, error) { return b.proc.world.memory.Indexed(ctx, queries) })
}

// Scored implements vault.Backend.
func (b backend) Scored(ctx context.Context, queries []vault.ScoreQuery) ([][]vault.Scored, error) {
	return read(b, ctx, "read what is due", func() ([][]vault.Scored, error) { return b.proc.world.memory.Scored(ctx, queries) })
}

// Ranges implements vault.Backend.
func (b backend) Ranges(ctx context.Context, queries []vault.RangeQuery) ([][]string, error) {
	return read(b, ctx, "read ranges", func() ([][]string, error) { return b.proc.world.memory.Ranges(ctx, queries) })
}

// Counts implements vault.Backend.
func (b backend) Counts(ctx context.Context, queries []vault.RangeQuery) ([]int, error) {
	return read(b, ctx, "count ranges", func() ([]int, error) { return b.proc.world.memory.Counts(ctx, queries) })
}

// Dues implements vault.Backend.
func (b backend) Dues(ctx context.Context, queries []vault.ScoreQuery) ([]int64, error) {
	return read(b, ctx, "count what is due", func() ([]int64, error) { return b.proc.world.memory.Dues(ctx, queries) })
}

// Streams implements vault.Backend.
func (b backend) Streams(ctx context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	return read(b, ctx, "read the trail", func() ([][]vault.StreamEntry, error) { return b.proc.world.memory.Streams(ctx, queries) })
}

// Members implements vault.Backend.
func (b backend) Members(ctx context.Context, keys []string) ([][]string, error) {
	return read(b, ctx, "read members", func() ([][]string, error) { return b.proc.world.memory.Members(ctx, keys) })
}

// Keys implements vault.Backend.
func (b backend) Keys(ctx context.Context, pattern string) ([]string, error) {
	return read(b, ctx, "read keys", func() ([]string, error) { return b.proc.world.memory.Keys(ctx, pattern) })
}

// Clock implements vault.Backend.
func (b backend) Clock(ctx context.Context) (earliest, latest time.Time, err error) {
	now, err := read(b, ctx, "read the time", func() (time.Time, error) { return time.Now(), nil })
	return now, now, err
}

// Identity implements vault.Backend.
func (b backend) Identity(ctx context.Context) (string, error) {
	return read(b, ctx, "read the identity", func() (string, error) { return b.proc.world.memory.Identity(ctx) })
}
