package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
)

// node is one to which trips go: each stays until it is told to come back.
type node struct {
	mu    sync.Mutex
	trips []*journey
}

type journey struct {
	cmds     []string
	ctx      context.Context
	deadline time.Time
	over     chan error
}

func (n *node) exec(ctx context.Context, cmds []redis.Cmder) error {
	j := &journey{ctx: ctx, over: make(chan error)}
	j.deadline, _ = ctx.Deadline()
	for _, cmd := range cmds {
		j.cmds = append(j.cmds, fmt.Sprint(cmd.Args()[0]))
	}
	n.mu.Lock()
	n.trips = append(n.trips, j)
	n.mu.Unlock()
	return <-j.over
}

func (n *node) trip(t *testing.T, i int, want ...string) *journey {
	t.Helper()
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.trips) <= i || !slices.Equal(n.trips[i].cmds, want) {
		t.Fatalf("trip %d: %+v, want it to take %q", i, n.trips, want)
	}
	return n.trips[i]
}

// at is the trip of that number, whatever it takes.
func (n *node) at(i int) *journey {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.trips[i]
}

func (n *node) count() int {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.trips)
}

// caller is one who asks, and what came of it.
type caller struct {
	done chan struct{}
	err  error
	sent bool
}

func (c *caller) over(t *testing.T, err error, sent bool) {
	t.Helper()
	synctest.Wait()
	select {
	case <-c.done:
	default:
		t.Fatal("the caller still waits")
	}
	if !errors.Is(c.err, err) || c.sent != sent {
		t.Fatalf("%v, sent: %v; want %v, %v", c.err, c.sent, err, sent)
	}
}

func ask(ctx context.Context, way *together, names ...string) *caller {
	c := &caller{done: make(chan struct{})}
	cmds := make([]redis.Cmder, len(names))
	for i, name := range names {
		cmds[i] = redis.NewCmd(ctx, name)
	}
	go func() {
		defer close(c.done)
		c.err, c.sent = way.do(ctx, cmds)
	}()
	synctest.Wait()
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestTogether: the first go at once, the others with the next that comes back, in their order, and learn what became of it.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		way := &together{exec: n.exec, few: 2, most: 16}
		ctx := within(t, time.Minute)
		a, b := ask(ctx, way, "a"), ask(ctx, way, "b")
		c, d, e := ask(ctx, way, "c"), ask(within(t, time.Hour), way, "d1", "d2"), ask(ctx, way, "e")
		first, second := n.trip(t, 0, "a"), n.trip(t, 1, "b")
		if first.ctx != ctx || n.count() != 2 {
			t.Fatalf("%d trips; the first has its caller's context: %v", n.count(), first.ctx == ctx)
		}
		failure := errors.New("failed")
		first.over <- failure
		third := n.trip(t, 2, "c", "d1", "d2", "e")
		if left := time.Until(third.deadline); left != time.Hour {
			t.Errorf("a trip for several has %v, want as long as the last of them", left)
		}
		a.over(t, failure, true)
		f := ask(ctx, way, "f")
		second.over <- nil
		b.over(t, nil, true)
		n.trip(t, 3, "f").over <- nil
		f.over(t, nil, true)
		third.over <- failure
		c.over(t, failure, true)
		d.over(t, failure, true)
		e.over(t, failure, true)
		if len(way.began) != 0 || len(way.waiting) != 0 {
			t.Errorf("left behind: %+v", way)
		}
	})
}

// TestTogetherLeaves: who has no more time leaves, whether his commands are on their way or wait; one who should lead others does.
func TestTogetherLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		way := &together{exec: n.exec, few: 2, most: 16}
		long := within(t, time.Hour)
		cancelled, cancel := context.WithCancel(long)
		a, b := ask(long, way, "a"), ask(long, way, "b")
		waits, rides := ask(within(t, time.Millisecond), way, "w"), ask(within(t, 2*time.Millisecond), way, "r")
		leaves, stays := ask(cancelled, way, "l"), ask(long, way, "s")
		time.Sleep(time.Millisecond)
		waits.over(t, context.DeadlineExceeded, false)
		n.trip(t, 0, "a").over <- nil
		a.over(t, nil, true)
		third := n.trip(t, 2, "r", "l", "s") // led by who asked before, of those who have most time
		time.Sleep(time.Millisecond)
		rides.over(t, context.DeadlineExceeded, false)
		cancel()
		select {
		case <-leaves.done:
			t.Fatal("who leads left")
		case <-stays.done:
			t.Fatal("who has time left")
		default:
		}
		if third.ctx.Err() != nil {
			t.Error("others' trip ended with its leader's context")
		}
		third.over <- nil
		stays.over(t, nil, true)
		leaves.over(t, nil, true)
		n.trip(t, 1, "b").over <- nil
		b.over(t, nil, true)
	})
}

// TestTogetherLate: a trip that does not come back holds up nobody but those who are on it, as long as the pool has places.
func TestTogetherLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		way := &together{exec: n.exec, few: 2, most: 4}
		ctx := within(t, time.Hour)
		all := []*caller{ask(ctx, way, "0"), ask(ctx, way, "1"), ask(ctx, way, "waits")}
		time.Sleep(tripIsLate + 1)
		all = append(all, ask(ctx, way, "comes"))
		n.trip(t, 2, "waits", "comes")
		all = append(all, ask(ctx, way, "another"))
		n.trip(t, 3, "another")
		time.Sleep(tripIsLate + 1)
		all = append(all, ask(ctx, way, "last"))
		if n.count() != 4 {
			t.Fatalf("%d trips, and the pool has 4 places", n.count())
		}
		for i := range 4 {
			n.at(i).over <- nil
		}
		n.trip(t, 4, "last").over <- nil
		for _, c := range all {
			c.over(t, nil, true)
		}
	})
}

// TestTogetherBound: a trip takes so many commands and no more, and one caller's however many.
func TestTogetherBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &node{}
		way := &together{exec: n.exec, few: 2, most: 16}
		ctx := within(t, time.Hour)
		all := []*caller{ask(ctx, way, "a"), ask(ctx, way, "b")}
		many := make([]string, maxTrip+1)
		for i := range many {
			many[i] = fmt.Sprint(i)
		}
		all = append(all, ask(ctx, way, many...), ask(ctx, way, "c"), ask(ctx, way, many[:maxTrip]...))
		n.trip(t, 0, "a").over <- nil
		n.trip(t, 2, many...)
		n.trip(t, 1, "b").over <- nil
		n.trip(t, 3, "c").over <- nil
		n.trip(t, 4, many[:maxTrip]...).over <- nil
		n.at(2).over <- nil
		for _, c := range all {
			c.over(t, nil, true)
		}
	})
}

// TestTogetherInParallel: many callers, some without time: each command is sent once at most, and nobody is left.
func TestTogetherInParallel(t *testing.T) {
	var sent sync.Map
	var trips atomic.Int64
	way := &together{few: 2, most: 4, exec: func(_ context.Context, cmds []redis.Cmder) error {
		trips.Add(1)
		for _, cmd := range cmds {
			if _, twice := sent.LoadOrStore(cmd, true); twice {
				t.Errorf("%v was sent twice", cmd.Args())
			}
			cmd.SetErr(errForeign) // as an answer is written
		}
		time.Sleep(50 * time.Microsecond)
		return nil
	}}
	var group sync.WaitGroup
	for i := range 64 {
		group.Go(func() {
			for k := range 200 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(50+i*k%400)*time.Microsecond)
				if k%2 == 0 {
					ctx = context.Background()
				}
				cmds := []redis.Cmder{redis.NewCmd(ctx, i, k)}
				err, answered := way.do(ctx, cmds)
				if k%2 == 0 && !answered {
					t.Errorf("who has time was told %v", err)
				}
				if answered && cmds[0].Err() == nil {
					t.Error("no answer")
				}
				cancel()
			}
		})
	}
	group.Wait()
	if len(way.waiting) != 0 || len(way.began) != 0 {
		t.Errorf("left behind: %d, %d", len(way.waiting), len(way.began))
	}
	if n := trips.Load(); n > 64*200/2 {
		t.Errorf("%d trips for %d", n, 64*200)
	}
}
