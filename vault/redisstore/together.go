package redisstore

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// tripsAtOnce is how many trips to one node are under way while others wait to go along with the next.
	tripsAtOnce = 1
	// tripIsLate: a trip that is under way for so long keeps nobody from another one. The node is far away or busy, or a packet was lost.
	tripIsLate = 2 * time.Millisecond
	// maxTrip bounds the commands of one trip.
	maxTrip = 128
)

// together sends what concurrent callers ask of one node in one pipeline, on one connection: who comes while enough trips are under
// way goes with the next, which leaves when one of them is back. Nobody waits for others to come. A trip is led by one of its
// callers, in his goroutine; there are no others.
type together struct {
	exec func(ctx context.Context, cmds []redis.Cmder) error // one round trip
	few  int                                                 // trips under way with which others wait: tripsAtOnce
	most int                                                 // trips under way, late ones among them: places of the pool

	mu      sync.Mutex
	waiting []*rider
	began   []time.Time // of the trips under way; in no order
}

// rider is a caller who waits.
type rider struct {
	cmds     []redis.Cmder
	deadline time.Time     // zero: none
	wake     chan []*rider // whom it is to lead; nil: the trip is over. Buffered, one message at most
	left     bool          // no longer among those who wait
	leads    bool
	began    time.Time // of the trip that it leads
	err      error     // of the trip
}

// do sends the commands, in their order; each has its answer then, or err says why not. sent: false if the caller's time was over
// first: the commands may still be on their way, or come to be, and must not be looked at.
func (t *together) do(ctx context.Context, cmds []redis.Cmder) (err error, sent bool) {
	t.mu.Lock()
	now := time.Now()
	if len(t.waiting) == 0 && t.room(now) {
		t.began = append(t.began, now)
		t.mu.Unlock()
		defer t.back(now)
		return t.exec(ctx, cmds), true
	}
	r := &rider{cmds: cmds, wake: make(chan []*rider, 1)}
	r.deadline, _ = ctx.Deadline()
	t.waiting = append(t.waiting, r)
	if t.room(now) { // those before are late, and take the others along no sooner
		t.leave(now)
	}
	t.mu.Unlock()

	var riders []*rider
	select {
	case riders = <-r.wake:
	case <-ctx.Done():
		t.mu.Lock()
		if !r.left {
			t.waiting = slices.DeleteFunc(t.waiting, func(other *rider) bool { return other == r })
		}
		leads := r.leads
		t.mu.Unlock()
		if !leads {
			return ctx.Err(), false
		}
		riders = <-r.wake // others rely on it
	}
	if riders == nil {
		return r.err, true
	}
	t.lead(r, riders)
	return r.err, true
}

// room tells whether a trip may leave now.
func (t *together) room(now time.Time) bool {
	if len(t.began) < t.few {
		return true
	}
	late := 0
	for _, began := range t.began {
		if now.Sub(began) > tripIsLate {
			late++
		}
	}
	return len(t.began)-late < t.few && len(t.began) < t.most
}

// leave lets those who wait go, or as many as a trip takes. Who has the most time leads: then nobody is held beyond his own, nor is
// anybody's answer given up before.
func (t *together) leave(now time.Time) {
	n, size := 0, 0
	for n < len(t.waiting) && (n == 0 || size+len(t.waiting[n].cmds) <= maxTrip) {
		size += len(t.waiting[n].cmds)
		n++
	}
	riders := slices.Clone(t.waiting[:n])
	t.waiting = slices.Delete(t.waiting, 0, n)
	leader := riders[0]
	for _, r := range riders {
		r.left = true
		if !leader.deadline.IsZero() && (r.deadline.IsZero() || r.deadline.After(leader.deadline)) {
			leader = r
		}
	}
	leader.leads, leader.began = true, now
	t.began = append(t.began, now)
	leader.wake <- riders
}

// lead makes a trip for all riders.
func (t *together) lead(leader *rider, riders []*rider) {
	defer t.back(leader.began)
	size := 0
	for _, r := range riders {
		size += len(r.cmds)
	}
	cmds := make([]redis.Cmder, 0, size)
	for _, r := range riders {
		cmds = append(cmds, r.cmds...)
	}
	// Not the leader's context: that may be cancelled, and the others are still there.
	ctx := context.Background()
	if !leader.deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, leader.deadline)
		defer cancel()
	}
	err := t.exec(ctx, cmds)
	for _, r := range riders {
		r.err = err
		if r != leader {
			r.wake <- nil
		}
	}
}

// back ends a trip that began then; the next one leaves.
func (t *together) back(began time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.began, began); i >= 0 {
		t.began = slices.Delete(t.began, i, i+1)
	}
	if now := time.Now(); len(t.waiting) > 0 && t.room(now) {
		t.leave(now)
	}
}
