package simulation

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

const (
	minTTL   = int64(60_000) // broker.DefaultMinTTL
	patience = int64(10_000) // laneWait of package broker
	farthest = int64(30_000) // laneFarthest
	earlyMin = int64(20_000) // earlyLifetime
	useMin   = int64(time.Hour / time.Millisecond)
	sweep    = int64(5_000) // the pause between two rounds of early refreshes
)

// connection is one of the sample. Times are in ms, counted from where figures begin.
type connection struct {
	expires, issued, session int64
	since                    int64 // somebody waits for its refresh; -1: nobody
	stamp                    int32
	queued                   place
}

type place uint8

const (
	nowhere place = iota
	early
	urgent
)

// queue is first in, first out. What moved to another queue is passed over when its turn comes.
type queue struct {
	list []int32
	head int
	size int
}

func (q *queue) push(i int32) { q.list, q.size = append(q.list, i), q.size+1 }

// pop returns the first that is still in the queue.
func (q *queue) pop(all []connection, in place) (int32, bool) {
	for q.head < len(q.list) {
		i := q.list[q.head]
		if q.head++; q.head > 4096 && q.head*2 > len(q.list) {
			q.list = append(q.list[:0], q.list[q.head:]...)
			q.head = 0
		}
		if all[i].queued == in {
			q.size--
			return i, true
		}
	}
	return 0, false
}

// run is the simulation of one provider.
type run struct {
	plan     Plan
	provider Provider
	random   *rand.Rand
	curve    curve
	agenda   agenda
	now, end int64
	weight   float64
	all      []connection
	urgent   queue
	early    queue
	serving  bool
	free     float64 // when the next one can be taken
	out      outcome
}

// Simulate runs the plan for each provider and adds up what they need together. It ends early with ctx.
func Simulate(ctx context.Context, plan Plan, providers []Provider) (Result, error) {
	plan, err := plan.complete()
	if err != nil {
		return Result{}, err
	}
	result := newResult(plan)
	c := newCurve(plan.Peak)
	for _, p := range providers {
		if p.Share == 0 {
			continue
		}
		r := newRun(plan, p, c)
		if err := r.simulate(ctx); err != nil {
			return Result{}, err
		}
		result.add(r)
	}
	result.finish()
	return result, nil
}

func newRun(plan Plan, p Provider, c curve) *run {
	name := fnv.New64a()
	_, _ = name.Write([]byte(p.ID))
	active := plan.Connections * plan.ActiveShare * p.Share
	n := max(1, int(min(active, max(200, float64(plan.Sample)*p.Share))))
	r := &run{
		plan: plan, provider: p, curve: c, random: rand.New(rand.NewPCG(plan.Seed, name.Sum64())),
		now: -plan.Warm.Milliseconds(), end: plan.Span.Milliseconds(), weight: active / float64(n), all: make([]connection, n),
	}
	r.free = float64(r.now)
	r.out = newOutcome(plan)
	return r
}

func (r *run) within(ms int64) int64 { return r.random.Int64N(max(1, ms)) }

func (r *run) simulate(ctx context.Context) error {
	if r.provider.TTL == 0 {
		return nil // its tokens are not known to end
	}
	begin := r.now
	for i := range r.all {
		c := &r.all[i]
		c.since, c.issued, c.expires = -1, begin-365*day.Milliseconds(), begin+r.within(r.provider.TTL*1000)
		for from := begin; from < r.end; from += day.Milliseconds() {
			for range r.plan.Sessions {
				if at := from + r.timeOfDay(from); at < r.end {
					r.agenda.add(event{at: at, kind: ask, conn: int32(i), stamp: -1})
				}
			}
		}
	}
	for n := 0; ; n++ {
		e, more := r.agenda.next()
		if !more || e.at >= r.end {
			return nil
		}
		if n%65536 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		r.now = e.at
		switch e.kind {
		case ask:
			r.ask(e)
		case due:
			r.due(e)
		case serve:
			r.serve()
		}
	}
}

// timeOfDay draws a moment of the day that begins then, by the curve.
func (r *run) timeOfDay(from int64) int64 {
	for {
		t := r.within(day.Milliseconds())
		if r.random.Float64()*r.curve.top() <= r.curve.at(time.Duration(from+t)*time.Millisecond+day) {
			return t
		}
	}
}

func (r *run) band() int64 { return min(r.provider.TTL*1000/5, 300_000) }

// away tells whether the provider is.
func (r *run) away() bool {
	start := r.plan.OutageStart.Milliseconds()
	return r.provider.ID == r.plan.OutageOf && r.now >= start && r.now < start+r.plan.OutageLength.Milliseconds()
}

// ask is a caller; stamp -1 says that a session begins, -2 that somebody comes again who was sent away.
func (r *run) ask(e event) {
	c := &r.all[e.conn]
	if e.stamp == -1 {
		c.session = max(c.session, r.now+r.plan.Session.Milliseconds())
	}
	if e.stamp != -2 {
		r.out.asked(r.now, r.weight)
		if next := r.now + r.plan.Pause.Milliseconds()/2 + r.within(r.plan.Pause.Milliseconds()); next < c.session {
			r.agenda.add(event{at: next, kind: ask, conn: e.conn})
		}
	}
	left := c.expires - r.now
	switch {
	case left >= minTTL:
		c.issued = r.now
		if left < r.band() && c.queued == nowhere && !r.away() {
			r.enqueue(e.conn, early)
		}
	case c.queued == urgent:
		r.out.joined(r.now, r.weight) // waits with the one who came before
	case r.away():
		r.out.failed(r.now, r.weight)
		r.agenda.add(event{at: r.now + 5_000 + r.within(15_000), kind: ask, conn: e.conn, stamp: -2})
	default:
		wait := int64(float64(r.urgent.size) * r.interval(urgent))
		if wait > patience {
			r.out.sentAway(r.now, r.weight)
			again := r.now + wait + r.within(1000)
			if wait > farthest {
				again = r.now + farthest/2 + r.within(farthest/2)
			}
			r.agenda.add(event{at: again, kind: ask, conn: e.conn, stamp: -2})
			return
		}
		c.since = r.now
		r.enqueue(e.conn, urgent)
	}
}

// due is the schedule's: stale where the token was replaced since.
func (r *run) due(e event) {
	c := &r.all[e.conn]
	switch {
	case e.stamp != c.stamp || c.queued != nowhere:
	case r.now >= c.issued+max(2*r.provider.TTL*1000, useMin): // nobody uses it
	case r.away():
		r.agenda.add(event{at: r.now + 10_000 + r.within(10_000), kind: due, conn: e.conn, stamp: e.stamp})
	default:
		r.enqueue(e.conn, early)
	}
}

func (r *run) enqueue(i int32, in place) {
	c := &r.all[i]
	if c.queued == early && in == urgent {
		r.early.size-- // passed over there
	}
	c.queued = in
	if in == urgent {
		r.urgent.push(i)
	} else {
		r.early.push(i)
	}
	r.out.queue(r.now, float64(r.urgent.size)*r.weight, float64(r.early.size)*r.weight)
	r.planNext()
}

// planNext plans the next service, if there is something to do and nothing planned.
func (r *run) planNext() {
	if r.serving || r.urgent.size+r.early.size == 0 {
		return
	}
	r.serving = true
	r.agenda.add(event{at: max(r.now, int64(r.free)), kind: serve})
}

// perSecond is how many refreshes a second there can be, of real connections.
func (r *run) perSecond(in place) float64 {
	p := r.plan
	replicas := float64(p.Replicas) * p.working(time.Duration(r.now)*time.Millisecond)
	places := p.AtOnce
	if in == early {
		places = min(p.AtOnce, p.EarlyAtOnce)
	}
	rate := min(replicas*float64(places)/p.Latency.Seconds(), replicas*p.PerReplica)
	if limit := r.provider.RefreshesPerSecond; limit > 0 {
		rate = min(rate, limit)
	}
	return rate
}

// interval is the time between two of the sample, in ms.
func (r *run) interval(in place) float64 { return 1000 * r.weight / r.perSecond(in) }

func (r *run) serve() {
	r.serving = false
	if r.away() {
		// The circuit is open: what waits is told so, and comes back by itself.
		for _, q := range []struct {
			q  *queue
			in place
		}{{&r.urgent, urgent}, {&r.early, early}} {
			for i, more := q.q.pop(r.all, q.in); more; i, more = q.q.pop(r.all, q.in) {
				r.all[i].queued, r.all[i].since = nowhere, -1
				again := event{at: r.now + 10_000 + r.within(10_000), kind: due, conn: i, stamp: r.all[i].stamp}
				if q.in == urgent {
					r.out.failed(r.now, r.weight)
					again.kind, again.stamp = ask, -2
				}
				r.agenda.add(again)
			}
		}
		return
	}
	in := urgent
	i, found := r.urgent.pop(r.all, urgent)
	if !found {
		in = early
		if i, found = r.early.pop(r.all, early); !found {
			return
		}
	}
	c := &r.all[i]
	done := r.now + r.plan.Latency.Milliseconds()
	r.out.refreshed(r.now, r.weight)
	if in == urgent {
		r.out.waited(r.now, done-c.since, r.weight)
		c.issued = done
	}
	c.queued, c.since = nowhere, -1
	c.expires = done + r.provider.TTL*1000
	c.stamp++
	if r.provider.TTL*1000 >= earlyMin {
		at := c.expires - 2*r.band() + r.within(r.band()) + r.within(sweep)
		r.agenda.add(event{at: at, kind: due, conn: i, stamp: c.stamp})
	}
	r.free = max(r.free, float64(r.now)) + r.interval(in)
	r.planNext()
}
