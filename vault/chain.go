package vault

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

const (
	// maxBatch bounds how many steps go to the store in one round trip.
	maxBatch = 64
	// maxLanded bounds how many late outcomes a chain remembers.
	maxLanded = 1024
	// lookFresh is for how long what look has found may be attested.
	lookFresh = time.Minute
)

// chains carries out the steps that append to the audit trail. Steps of one stream are sent together: while a round trip
// is under way others queue up and go with the next one, so nobody waits longer than for the trip before.
type chains struct {
	backend Backend
	seals   *sealer
	random  io.Reader
	ioTime  time.Duration // bounds one round trip
	// looks counts how often this process began to look for what the store had lost.
	looks atomic.Uint64
	// now is the time, cutOf where a stream was cut (cut.go).
	now   func() time.Time
	cutOf func(ctx context.Context, name trailName) (*cut, error)

	mu       sync.Mutex
	streams  map[trailName]*chain
	signing  bool // entries are left for the signer
	nameless uint64
	workers  sync.WaitGroup
}

// chain is this process's chain in one stream. The fields below queue belong to the worker alone; there is at most one.
type chain struct {
	name     trailName
	unsigned *unsigned // nil: nobody signs

	mu      sync.Mutex
	queue   []*chainOp
	working bool

	at      position // the confirmed end: acknowledged by the store, or found there
	head    string   // at, encoded; "" before the first entry
	resumes *position
	looked  time.Time        // before the first entry: when found was filled
	found   []position       // where other chains ended then
	known   []attestation    // stream ids of confirmed entries that no confirmed entry attests yet
	doubts  map[string]doubt // sent, outcome unknown, by the head that each would leave
	landed  map[string]bool  // ids of steps in doubt that turned out to have been applied
	failed  uint64           // rounds that the store did not answer whole
}

// chainOp is a step on its way.
type chainOp struct {
	ctx    context.Context
	id     string // write id: a caller who repeats a step repeats it too
	step   Step
	drafts []draft
	done   chan Result // buffered
	last   lastError

	// Of the present round.
	next     position
	nextHead string
	links    []link // of the entries before the last; nil where nobody signs
	attested int
	entries  int
}

// do carries out the step with its entries, and sends it again until the outcome is known or the context ends.
func (t *chains) do(ctx context.Context, name trailName, id string, step Step, drafts []draft) (Result, error) {
	asked := t.now()
	r, err := t.carryOut(ctx, name, id, step, drafts)
	r.asked = asked
	return r, err
}

func (t *chains) carryOut(ctx context.Context, name trailName, id string, step Step, drafts []draft) (Result, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	if len(drafts) == 0 {
		return t.direct(ctx, step)
	}
	c, number := t.chain(name)
	if id == "" {
		id = "#" + strconv.FormatUint(number, 10)
	}
	op := &chainOp{ctx: ctx, id: id, step: step, drafts: drafts, done: make(chan Result, 1)}
	c.mu.Lock()
	c.queue = append(c.queue, op)
	if !c.working {
		c.working = true
		t.workers.Add(1)
		go func() {
			defer t.workers.Done()
			t.work(c)
		}()
	}
	c.mu.Unlock()
	select {
	case r := <-op.done:
		return r, r.Err
	case <-ctx.Done():
		select {
		case r := <-op.done:
			return r, r.Err
		default:
			// It may still land. The worker remembers it, so a repetition is recognised.
			return Result{}, op.ended()
		}
	}
}

// direct carries out a step without entries. Each such step has a check that recognises its repetition.
func (t *chains) direct(ctx context.Context, step Step) (Result, error) {
	var last lastError
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		trip, cancel := context.WithTimeout(ctx, t.ioTime)
		r := t.apply(trip, []Step{step})[0]
		cancel()
		if r.Err == nil {
			return r, nil
		}
		last.note(r.Err)
		if !sleep(ctx, pause) {
			return Result{}, fmt.Errorf("write: %w", last.or(r.Err))
		}
	}
}

func (t *chains) apply(ctx context.Context, steps []Step) []Result {
	looks := t.looks.Load()
	results := t.backend.Apply(ctx, steps)
	overtaken := t.looks.Load() != looks
	for i := range results {
		results[i].overtaken = overtaken
	}
	return results
}

// chain returns the chain of the stream, and a number for a step that has no id.
func (t *chains) chain(name trailName) (*chain, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.streams[name]
	if c == nil {
		c = &chain{name: name, doubts: make(map[string]doubt), landed: make(map[string]bool)}
		if t.signing {
			c.unsigned = &unsigned{}
		}
		t.streams[name] = c
	}
	t.nameless++
	return c, t.nameless
}

// wait returns when no worker is left. Steps end with their contexts, so it does not take longer than those.
func (t *chains) wait() { t.workers.Wait() }

// pauses are how long a chain waits between rounds while the store has trouble.
type pauses struct{ next time.Duration }

// work sends rounds until the queue is empty.
func (t *chains) work(c *chain) {
	var carried []*chainOp
	p := pauses{}
	for more := true; more; {
		carried, more = t.turn(c, carried, &p)
	}
}

// turn sends one round: what is carried from the last one, and what is queued. more: there is something to send; else the chain has no
// worker any more.
func (t *chains) turn(c *chain, carried []*chainOp, p *pauses) (again []*chainOp, more bool) {
	if p.next > 0 && len(carried) > 0 {
		sleep(context.Background(), p.next) // the store has trouble: give it a moment. Callers leave by themselves
	}
	batch, room := carried, maxBatch
	c.mu.Lock()
	if len(c.doubts) > maxDoubts {
		room = 1 // what is in doubt already is sent again before there is more of it
	}
	for len(c.queue) > 0 && len(batch) < room {
		op := c.queue[0]
		c.queue = c.queue[1:]
		// Whose caller left meanwhile takes no place: in an outage those would be most of them.
		if !op.left() {
			batch = append(batch, op)
		}
	}
	if len(batch) == 0 {
		c.queue, c.working = nil, false
		c.mu.Unlock()
		return nil, false
	}
	c.mu.Unlock()
	again, failed := t.round(c, batch)
	if failed {
		p.next = min(max(2*p.next, firstPause), lastPause)
	} else {
		p.next = 0
	}
	if len(again) > 0 {
		return again, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) > 0 {
		return nil, true
	}
	c.queue, c.working = nil, false
	return nil, false
}

// trip is a context for one round trip: it ends when all the ops' callers have left, or when the trip has taken too long. A caller who
// leaves early does not cut it short: what became of the step would not be known.
func (t *chains) trip(ops []*chainOp) *broker.Bounded {
	var end time.Time
	for _, op := range ops {
		if d, _ := op.ctx.Deadline(); d.After(end) {
			end = d
		}
	}
	return broker.Bound(context.Background(), min(time.Until(end), t.ioTime))
}

// left tells whether the op's caller is gone; the op is then at its end.
func (op *chainOp) left() bool {
	if op.ctx.Err() == nil {
		return false
	}
	op.done <- Result{Err: op.ended()}
	return true
}

// ended is the error of an op whose time is over.
func (op *chainOp) ended() error {
	return fmt.Errorf("append to audit trail: %w", op.last.or(op.ctx.Err()))
}

// round sends the batch once and returns what must be sent again, and whether the store failed.
func (t *chains) round(c *chain, batch []*chainOp) (again []*chainOp, failed bool) {
	batch = c.deliver(batch)
	if len(c.landed) > maxLanded {
		clear(c.landed)
	}
	live := batch[:0:0]
	for _, op := range batch {
		if !op.left() {
			live = append(live, op)
		}
	}
	if len(live) == 0 {
		return nil, false
	}
	if err := t.look(c, live); err != nil {
		for _, op := range live {
			op.last.note(err)
		}
		return live, true
	}
	steps, err := t.chainUp(c, live)
	if err != nil {
		for _, op := range live {
			op.done <- Result{Err: err}
		}
		return nil, false
	}
	ctx := t.trip(live)
	results := t.apply(ctx, steps)
	ctx.End()

	for i, op := range live {
		r := results[i]
		switch {
		case r.Err != nil:
			failed = true
			op.last.note(r.Err)
			c.doubts[op.nextHead] = doubt{id: op.id, prev: steps[i].Trail.Head, next: op.next, links: op.links, round: c.failed}
			again = append(again, op)
		case r.Verdict == VerdictDone:
			c.confirm(op, steps[i].Trail.Head, r.IDs)
			op.done <- r
		case r.Verdict == VerdictRepeated:
			c.confirm(op, steps[i].Trail.Head, nil)
			c.learn(op.next.seq, r.HeadID)
			op.done <- r
		case r.Verdict == VerdictChain:
			if r.Head != c.head && !t.adopt(c, r) {
				// The store lost what it had acknowledged: a new chain says where the old one had been. Or that was so long ago that
				// nothing of it is kept.
				if err := t.restart(c, r.Head == "" && t.trimmedAway(op.ctx, c)); err != nil {
					op.done <- Result{Err: err}
					continue
				}
			}
			again = append(again, op)
		default: // refused, or applied by another process: nothing was appended
			op.done <- r
		}
	}
	if failed {
		c.failed++
		c.boundDoubts(again)
	}
	return c.deliver(again), failed
}

// deliver answers the ops that turned out to have landed and returns the others.
func (c *chain) deliver(ops []*chainOp) []*chainOp {
	rest := ops[:0]
	for _, op := range ops {
		if c.landed[op.id] {
			delete(c.landed, op.id)
			op.done <- Result{Verdict: VerdictRepeated}
			continue
		}
		rest = append(rest, op)
	}
	return rest
}

// look reads, before the first entry of a chain, where the others end. One read for each stream in a process's life, but where the
// first entry comes much later: what is dropped of the others then is remembered for a while only (goneKept).
func (t *chains) look(c *chain, live []*chainOp) error {
	if now := t.now(); c.head != "" || now.Sub(c.looked).Abs() < lookFresh {
		return nil
	}
	ctx := t.trip(live)
	defer ctx.End()
	heads, err := t.backend.Hashes(ctx, []string{headsKey(c.name.shard, c.name.tenant)})
	if err != nil {
		return err
	}
	c.looked, c.found = t.now(), newest(t.seals.parseHeads(c.name, heads[0]))
	return nil
}

// chainUp gives each op its place behind the confirmed end, as if all before it succeeded.
func (t *chains) chainUp(c *chain, ops []*chainOp) ([]Step, error) {
	if c.at.writer == "" {
		writer, err := newWriter(t.random)
		if err != nil {
			return nil, err
		}
		c.at = position{writer: writer}
	}
	at, head := c.at, c.head
	resumes, attests := c.resumes, c.known
	steps := make([]Step, len(ops))
	for i, op := range ops {
		trail := &TrailStep{
			Stream: streamKey(c.name.shard, c.name.tenant), Heads: headsKey(c.name.shard, c.name.tenant),
			Index: trailsKey(c.name.shard), Member: c.name.tenant, Writer: at.writer, Head: head,
		}
		op.attested, op.entries, op.links = len(attests), len(op.drafts), nil
		for _, d := range op.drafts {
			m := meta{writer: at.writer, seq: at.seq + 1, time: d.time, kind: d.kind, connector: d.connector, tag: d.tag, resumes: resumes, attests: attests}
			if m.seq == 1 {
				m.found = c.found
			}
			clear := m.chain(at.link, d.payload)
			body, err := t.seals.sealBody(c.name, d.payload, clear)
			if err != nil {
				return nil, err
			}
			trail.Entries = append(trail.Entries, TrailEntry{Meta: clear, Body: body})
			if c.unsigned != nil && len(trail.Entries) > 1 {
				op.links = append(op.links, at.link)
			}
			at.seq, at.link = m.seq, m.link
			resumes, attests = nil, nil
		}
		head = t.seals.headOf(c.name, at)
		trail.Next, op.next, op.nextHead = head, at, head
		steps[i] = op.step
		steps[i].Trail = trail
	}
	return steps, nil
}

// confirm moves the confirmed end to the op's, whose entries the store has.
func (c *chain) confirm(op *chainOp, prev string, ids []string) {
	c.land(prev)
	c.leave(op.links, op.next)
	c.at, c.head, c.resumes, c.found = op.next, op.nextHead, nil, nil
	c.known = append([]attestation(nil), c.known[min(op.attested, len(c.known)):]...)
	for i, text := range ids {
		if id, err := parseStreamID(text); err == nil {
			c.known = append(c.known, attestation{seq: op.next.seq - uint64(len(ids)-1-i), id: id})
		}
	}
	c.forget()
}

func (t *chains) restart(c *chain, trimmed bool) error {
	writer, err := newWriter(t.random)
	if err != nil {
		return err
	}
	if c.head != "" && !trimmed {
		was := c.at
		c.resumes = &was
	}
	c.at, c.head, c.known = position{writer: writer}, "", nil
	c.looked, c.found = time.Time{}, nil
	clear(c.doubts)
	return nil
}

func newWriter(random io.Reader) (string, error) {
	var raw [12]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("name audit writer: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw[:]), nil
}
