package broker

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// lanes bound how many refreshes of one OAuth client are under way at its provider from this process, so that thousands of tokens
// that end in the same minute meet the provider's limit as a queue here and not as refusals there, and take nothing that refreshes
// at other providers need: whoever finds no place holds no lease, no connection and no place in any pool (decisions/0023).
//
// How many a provider takes is not known beforehand. A lane begins narrow, grows with each answer while all its places are taken,
// is halved when the provider throttles, and grows slowly from then on (as TCP does, RFC 5681).
type lanes struct {
	mu     sync.Mutex
	now    func() time.Time
	jitter func(time.Duration) time.Duration
	all    map[laneKey]*lane
}

const (
	// laneStart is how wide a lane is at first.
	laneStart = 16
	// laneWait is how long somebody waits for a place, and laneStuck how long none may have been given back by then: longer than that
	// the provider hangs, and whoever comes is told at once.
	laneWait, laneStuck = 10 * time.Second, 3 * time.Second
	// laneHeld is how long a place is held, as long as nobody knows better.
	laneHeld = 500 * time.Millisecond
	// laneFarthest is the most that somebody who finds the queue too long is told to wait. It is reckoned from a lane that may have been
	// narrowed this very moment and is several times as wide seconds later, when who was sent away can't be told so any more.
	laneFarthest = 30 * time.Second
	// laneRemember is how long a provider's throttling keeps its lane from growing fast.
	laneRemember = 10 * time.Minute
)

// laneKey names those who share a lane: what one OAuth client is throttled for is not another's.
type laneKey struct{ provider, client string }

func (l line) lane() laneKey { return laneKey{provider: l.provider, client: l.client} }

// lane is one OAuth client's.
type lane struct {
	taken int
	most  int     // the operator's limit for this process
	width float64 // what the provider takes, as far as it showed

	throttled time.Time // when it was narrowed last; zero: never, or long ago
	held      time.Duration
	freed     time.Time // when a place was given back last, or the first one was taken
	promised  time.Time // the moment that was told to whoever was sent away last

	urgent, ahead list.List // of *queued: somebody waits for the refresh, nobody does
}

// queued is somebody in a queue.
type queued struct {
	ready chan struct{} // closed when a place is theirs
	at    *list.Element
	in    *list.List // nil: out of the queue
}

// place is the right to send requests. Its holder calls leave once or more often.
type place struct {
	lanes *lanes
	key   laneKey
	since time.Time
	once  sync.Once
}

func newLanes(now func() time.Time, jitter func(time.Duration) time.Duration) *lanes {
	return &lanes{now: now, jitter: jitter, all: map[laneKey]*lane{}}
}

// turn is how somebody asks for a place.
type turn struct {
	key    laneKey
	most   int             // places for this process
	urgent bool            // somebody waits for the refresh
	hurry  <-chan struct{} // closed when somebody does
	killed <-chan struct{}
}

// enter takes a place, and waits for one if need be. Without one, wait is when to come again: those who are sent away are told
// different moments, as the queue will move.
func (l *lanes) enter(ctx context.Context, t turn) (p *place, wait time.Duration) {
	w, wait := l.join(t)
	if wait > 0 {
		return nil, wait
	}
	p = &place{lanes: l, key: t.key, since: l.now()}
	if w == nil {
		return p, 0
	}
	timer := time.NewTimer(laneWait)
	defer timer.Stop()
	for hurry := t.hurry; ; {
		select {
		case <-w.ready:
			p.since = l.now()
			return p, 0
		case <-hurry:
			l.promote(t.key, w)
			hurry = nil
			continue
		case <-timer.C:
		case <-ctx.Done():
		case <-t.killed:
		}
		break
	}
	if !l.quit(w) {
		p.since = l.now()
		return p, 0 // it came at the same moment
	}
	return nil, l.away(t.key)
}

// join takes a place (neither queued nor wait), a position in the queue, or none.
func (l *lanes) join(t turn) (*queued, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	o := l.all[t.key]
	if o == nil {
		o = &lane{width: laneStart, held: laneHeld, freed: now}
		l.all[t.key] = o
	}
	o.most = t.most
	if o.taken == 0 {
		o.freed = now
	}
	before := o.urgent.Len()
	if !t.urgent {
		before += o.ahead.Len()
	}
	switch {
	case o.taken < o.capacity() && before == 0:
		o.taken++
		return nil, 0
	case now.Sub(o.freed) > max(laneStuck, 2*o.held), o.drain(before+1) > laneWait:
		return nil, l.sendAway(o, now)
	}
	w := &queued{ready: make(chan struct{}), in: &o.ahead}
	if t.urgent {
		w.in = &o.urgent
	}
	w.at = w.in.PushBack(w)
	return w, 0
}

// capacity is how many may be under way.
func (o *lane) capacity() int { return max(1, min(o.most, int(o.width))) }

// drain is how long it takes until so many more had their place.
func (o *lane) drain(n int) time.Duration {
	return time.Duration(float64(o.held) * float64(n) / float64(o.capacity()))
}

func (l *lanes) sendAway(o *lane, now time.Time) time.Duration {
	if end := now.Add(o.drain(o.urgent.Len() + 1)); o.promised.Before(end) {
		o.promised = end
	}
	o.promised = o.promised.Add(o.drain(1))
	if far := now.Add(laneFarthest); o.promised.After(far) {
		o.promised = far
		return laneFarthest/2 + l.jitter(laneFarthest/2) // too many to give each a moment of their own
	}
	return max(time.Second, o.promised.Sub(now))
}

// away is sendAway for somebody who waited in vain.
func (l *lanes) away(key laneKey) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.all[key]; o != nil {
		return l.sendAway(o, l.now())
	}
	return time.Second
}

// promote moves somebody to those for whom others wait.
func (l *lanes) promote(key laneKey, w *queued) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.all[key]; w.in != nil && w.in == &o.ahead {
		w.in.Remove(w.at)
		w.in = &o.urgent
		w.at = w.in.PushBack(w)
	}
}

// quit leaves the queue; false: the place is already there.
func (l *lanes) quit(w *queued) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.in == nil {
		return false
	}
	w.in.Remove(w.at)
	w.in = nil
	return true
}

// leave gives the place back, once; nil is none.
func (p *place) leave() {
	if p != nil {
		p.once.Do(func() { p.lanes.leave(p.key, p.since) })
	}
}

func (l *lanes) leave(key laneKey, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, now := l.all[key], l.now()
	o.taken--
	o.freed = now
	o.held += (max(0, now.Sub(since)) - o.held) / 8
	if o.isFresh(now) && o.taken == 0 && o.urgent.Len()+o.ahead.Len() == 0 {
		delete(l.all, key) // what it learnt is of a moment; it begins narrow again
		return
	}
	o.fill()
}

// isFresh tells that the provider did not throttle lately.
func (o *lane) isFresh(now time.Time) bool {
	return o.throttled.IsZero() || now.Sub(o.throttled) > laneRemember
}

// fill gives free places to those who wait.
func (o *lane) fill() {
	for o.taken < o.capacity() {
		queue := &o.urgent
		if queue.Len() == 0 {
			queue = &o.ahead
		}
		first := queue.Front()
		if first == nil {
			return
		}
		w := first.Value.(*queued)
		queue.Remove(first)
		w.in = nil
		o.taken++
		close(w.ready)
	}
}

// report notes how a request ended that was sent then, by somebody who has a place.
func (l *lanes) report(key laneKey, sent time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.all[key]
	if o == nil {
		return // it had none: a place that was given back before
	}
	now := l.now()
	if o.isFresh(now) {
		o.throttled = time.Time{}
	}
	switch class := classOf(err); {
	case class == ClassThrottled && sent.After(o.throttled):
		// What was sent before it was narrowed says nothing about the lane as it is.
		o.width = max(1, min(o.width, float64(o.taken))/2)
		o.throttled = now
	case class == ClassThrottled, class == ClassUnsent, class == ClassInDoubt:
	case o.taken >= o.capacity() && o.width < float64(o.most):
		grow := 1.0
		if !o.throttled.IsZero() {
			grow = 1 / o.width
		}
		o.width = min(o.width+grow, float64(o.most))
		o.fill()
	}
}

// classOf is "" without an error.
func classOf(err error) Class {
	if err == nil {
		return ""
	}
	return ClassOf(err)
}

// load tells how many refreshes are under way in the lane, and how many wait for a place.
func (l *lanes) load(key laneKey) (running, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.all[key]; o != nil {
		return o.taken, o.urgent.Len() + o.ahead.Len()
	}
	return 0, 0
}
