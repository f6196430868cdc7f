package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// ledger keeps trails as the store does, and loses requests or answers when told so.
type ledger struct {
	Backend
	mode    string // "": well; "away": nothing is done; "mute": it is done, and nobody hears so
	heads   map[string]string
	entries []TrailEntry
}

var errAway = errors.New("no answer")

func (l *ledger) Apply(_ context.Context, steps []Step) []Result {
	results := make([]Result, len(steps))
	for i, step := range steps {
		if l.mode == "away" {
			results[i].Err = errAway
			continue
		}
		results[i] = l.apply(step.Trail)
		if l.mode == "mute" {
			results[i] = Result{Err: errAway}
		}
	}
	return results
}

func (l *ledger) apply(t *TrailStep) Result {
	switch head := l.heads[t.Writer]; head {
	case t.Next:
		return Result{Verdict: VerdictRepeated, Head: head}
	case t.Head:
	default:
		return Result{Verdict: VerdictChain, Head: head}
	}
	l.heads[t.Writer] = t.Next
	r := Result{Verdict: VerdictDone, Head: t.Next}
	for _, e := range t.Entries {
		l.entries = append(l.entries, e)
		r.IDs = append(r.IDs, fmt.Sprintf("1-%d", len(l.entries)))
	}
	return r
}

// outage is a chain, of one entry so far, whose store gets into trouble.
type outage struct {
	t      *testing.T
	store  *ledger
	chains *chains
	name   trailName
	most   int // doubts at any time
}

func newOutage(t *testing.T) *outage {
	keyset, err := NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	store := &ledger{heads: make(map[string]string)}
	o := &outage{t: t, store: store, name: trailName{tenant: "acme"}, chains: &chains{now: time.Now,
		backend: store, seals: &sealer{keyset: keyset, now: time.Now}, random: rand.Reader, ioTime: time.Second, streams: make(map[trailName]*chain),
	}}
	if err := o.append(t.Context(), "before"); err != nil {
		t.Fatal(err)
	}
	return o
}

// still does something while the worker is at rest between two rounds.
func (o *outage) still(do func(c *chain)) {
	synctest.Wait()
	c := o.chain()
	c.mu.Lock() // the worker takes it before each round
	defer c.mu.Unlock()
	do(c)
}

func (o *outage) set(mode string) { o.still(func(*chain) { o.store.mode = mode }) }

func (o *outage) doubts() (n int) {
	o.still(func(c *chain) { n = len(c.doubts) })
	return n
}

// stored demands that so many entries are in the store.
func (o *outage) stored(n int) {
	o.t.Helper()
	o.still(func(*chain) {
		if len(o.store.entries) != n {
			o.t.Fatalf("%d entries in the store, want %d", len(o.store.entries), n)
		}
	})
}

func (o *outage) chain() *chain {
	c, _ := o.chains.chain(o.name)
	return c
}

func (o *outage) append(ctx context.Context, id string) error {
	_, err := o.chains.do(ctx, o.name, id, Step{}, []draft{{payload: []byte(id), kind: "k"}})
	return err
}

// wave is a batch of appends whose callers wait for one request and leave.
func (o *outage) wave(n int) {
	ctx, cancel := context.WithTimeout(o.t.Context(), lastPause+lastPause/2)
	defer cancel()
	for i := range maxBatch {
		go func() {
			if err := o.append(ctx, fmt.Sprintf("%d/%d", n, i)); err == nil {
				o.t.Error("appended while the store was away")
			}
		}()
	}
	<-ctx.Done()
	o.most = max(o.most, o.doubts())
}

// whole demands one chain without gaps, and each payload once.
func (o *outage) whole(entries int) {
	o.t.Helper()
	if len(o.store.heads) != 1 {
		o.t.Errorf("%d chains: what was forgotten was taken for a loss", len(o.store.heads))
	}
	var end link
	seen := make(map[string]bool)
	for i, e := range o.store.entries {
		m, unlinked, err := parseMeta(e.Meta)
		if err != nil {
			o.t.Fatal(err)
		}
		payload, err := o.chains.seals.openBody(o.name, e)
		if err != nil {
			o.t.Fatal(err)
		}
		if m.seq != uint64(i+1) || linkOf(end, unlinked, payload) != m.link {
			o.t.Errorf("entry %d of %d has place %d, or does not follow", i+1, len(o.store.entries), m.seq)
		}
		if end = m.link; seen[string(payload)] {
			o.t.Errorf("%s is there twice", payload)
		}
		seen[string(payload)] = true
	}
	if len(seen) != entries {
		o.t.Errorf("%d entries, want %d", len(seen), entries)
	}
}

const longOutage = 4 * maxDoubts / maxBatch // waves

// TestDoubtsAreBounded: an outage leaves a step in doubt for each caller, and no more than so many are remembered.
func TestDoubtsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.set("away")
		for n := range longOutage {
			o.wave(n)
		}
		if o.most < maxDoubts/2 || o.most > maxDoubts+maxBatch {
			t.Errorf("up to %d doubts", o.most)
		}
		o.set("")
		for i := range maxBatch { // as many places as were in doubt
			if err := o.append(t.Context(), fmt.Sprint("after", i)); err != nil {
				t.Fatal(err)
			}
		}
		if n := o.doubts(); n != 0 {
			t.Errorf("%d doubts after the outage", n)
		}
		o.whole(1 + maxBatch)
	})
}

// TestForgottenDoubtLands: the store carried out a wave right before it went away, and its steps are forgotten meanwhile.
func TestForgottenDoubtLands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		c := o.chain()
		writer := c.at.writer
		o.set("mute")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond) // one request
		if err := o.append(ctx, "unheard"); err == nil {
			t.Fatal("heard")
		}
		cancel()
		o.set("away")
		for n := range longOutage {
			o.wave(n)
		}
		if _, known := c.doubts[o.store.heads[writer]]; known {
			t.Fatal("the step is still known, so this proves nothing")
		}
		o.set("")
		if err := o.append(t.Context(), "after"); err != nil {
			t.Fatal(err)
		}
		o.whole(3)
		// An old head is no such step, and neither is one that nobody of ours made.
		genuine := o.chains.seals.headOf(o.name, position{writer: writer, seq: 1, link: link{1}})
		forged := o.chains.seals.headOf(o.name, position{writer: "another", seq: 99, link: link{1}})
		for i, head := range []string{genuine, forged} {
			o.store.heads[c.at.writer] = head
			if err := o.append(t.Context(), "after a loss"); err != nil {
				t.Fatal(err)
			}
			if len(o.store.heads) != i+2 {
				t.Errorf("loss %d was not noticed", i+1)
			}
		}
	})
}

// TestAwaitedDoubtStays: a caller who waits through the outage hears that the step landed, and it lands once; also if the
// store's head is that of a step behind it, whose caller has left long ago.
func TestAwaitedDoubtStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.set("mute")
		patient, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- o.append(patient, "patient") }()
		synctest.Wait()
		brief, cancelBrief := context.WithTimeout(t.Context(), 2*firstPause) // goes with the second round
		defer cancelBrief()
		if err := o.append(brief, "brief"); err == nil {
			t.Fatal("heard")
		}
		o.stored(3)
		o.set("away")
		for n := range longOutage {
			o.wave(n)
		}
		o.set("")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		o.whole(3)
		if o.most <= maxDoubts || o.most > maxDoubts+maxBatch {
			t.Errorf("up to %d doubts", o.most)
		}
	})
}

// TestRecentDoubtStays: a caller may repeat a step for a while, and it takes effect once, also if doubts had to go meanwhile.
func TestRecentDoubtStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.set("away")
		n := 0
		for ; o.doubts() < maxDoubts-maxBatch; n++ {
			o.wave(n)
		}
		o.set("mute")
		ctx, cancel := context.WithTimeout(t.Context(), 2*lastPause)
		defer cancel()
		if err := o.append(ctx, "repeated"); err == nil {
			t.Fatal("heard")
		}
		o.stored(2)
		o.set("away")
		for before := 0; before <= o.doubts(); n++ { // until some are forgotten
			before = o.doubts()
			o.wave(n)
		}
		o.set("")
		for _, id := range []string{"another", "repeated"} {
			if err := o.append(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		o.whole(3)
	})
}

// TestLeftCallersTakeNoPlace: who comes to a full queue of callers that have left meanwhile is served with the next request.
func TestLeftCallersTakeNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutage(t)
		o.set("away")
		patient, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- o.append(patient, "patient") }()
		time.Sleep(time.Second) // the pause between requests is at its longest
		brief, cancelBrief := context.WithTimeout(t.Context(), lastPause/10)
		defer cancelBrief()
		for i := range 20 * maxBatch {
			go func() { _ = o.append(brief, fmt.Sprint(i)) }()
		}
		<-brief.Done()
		synctest.Wait()
		next, cancelNext := context.WithTimeout(t.Context(), 2*lastPause)
		defer cancelNext()
		if err := o.append(next, "next"); err == nil {
			t.Fatal("appended while the store was away")
		}
		sent := false
		o.still(func(c *chain) {
			for _, d := range c.doubts {
				sent = sent || d.id == "next"
			}
		})
		if !sent {
			t.Error("two requests went without the one caller who was there")
		}
		o.set("")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
