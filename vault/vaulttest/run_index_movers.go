package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// crashing is a backend whose process dies at its nth write: before it, or when it was carried out and nobody was told.
type crashing struct {
	vault.Backend
	left  atomic.Int64
	after bool
	// meet, if set, is what happens at that moment in place of the end: the process was stopped, and goes on behind it.
	meet func()
}

var errCrashed = errors.New("the process is dead")

// Apply implements vault.Backend.
func (c *crashing) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	left := c.left.Add(-1)
	if left > 0 {
		return c.Backend.Apply(ctx, steps)
	}
	if c.meet != nil {
		if left < 0 {
			return c.Backend.Apply(ctx, steps)
		}
		if c.after {
			defer c.meet()
		} else {
			c.meet()
		}
		return c.Backend.Apply(ctx, steps)
	}
	if left == 0 && c.after {
		c.Backend.Apply(ctx, steps)
	}
	out := make([]vault.Result, len(steps))
	for i := range out {
		out[i].Err = errCrashed
	}
	return out
}

// testIndexCrash: wherever the process that moves a connection dies, the next one finishes it, also if the connection changed
// between.
func testIndexCrash(r *rig) {
	s := r.store()
	for n := int64(1); n <= 5; n++ {
		for _, after := range []bool{false, true} {
			for _, changed := range []bool{false, true} {
				subject := fmt.Sprintf("user-%d-%v-%v", n, after, changed)
				conn := r.connect(s, tenant(r), subject, "files", "1")
				r.follow(s)
				conn = r.fail(s, conn, "invalid_grant")
				dying := &crashing{after: after}
				dying.left.Store(n)
				if err := r.store(func(vc *vault.Config, rc *redisstore.Config) { vc.RoundTrip = 300 * time.Millisecond }, wrapped(dying)).FollowIndex(r.ctx()); err == nil {
					r.Fatalf("write %d: nothing crashed", n)
				}
				want := "files|needs_consent|invalid_grant|files.read files.write"
				if changed {
					if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
						r.Fatal(err)
					}
					want = "files|revoked|invalid_grant|files.read files.write"
				}
				r.follow(r.store())
				if got := r.counts(); !maps.Equal(got, map[string]int{want: 1}) {
					r.Fatalf("crash at write %d (carried out: %v), changed then: %v: %v", n, after, changed, got)
				}
				if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
					r.Fatal(err)
				}
				if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
					r.Fatal(err)
				}
				r.follow(s)
				if got := r.counts(); len(got) != 0 {
					r.Fatalf("erased: %v", got)
				}
			}
		}
	}
}

// testIndexRace: several movers at once, while connections change, end with an index that is right.
func testIndexRace(r *rig) {
	patient := func(vc *vault.Config, _ *redisstore.Config) { vc.RoundTrip = 10 * time.Second }
	stores := []*vault.Store{r.store(patient), r.store(patient), r.store(patient)}
	var conns []broker.Connection
	for i := range 8 {
		conns = append(conns, r.connect(stores[0], tenant(r), fmt.Sprint("user-", i%4), "files", "1"))
	}
	done := make(chan struct{})
	var movers, changers sync.WaitGroup
	for _, s := range stores {
		movers.Go(func() {
			for {
				if err := s.FollowIndex(r.ctx()); err != nil {
					r.Errorf("follow: %v", err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for i, conn := range conns {
		changers.Go(func() {
			s := stores[i%len(stores)]
			for n := range 10 {
				conn = r.fail(s, conn, []string{"invalid_grant", "expired"}[n%2])
				conn.Status, conn.Error = broker.ConnectionActive, ""
				conn = r.renew(s, conn, "2")
			}
		})
	}
	changers.Wait()
	close(done)
	movers.Wait()
	r.follow(stores[0])
	if got := r.counts(); !maps.Equal(got, map[string]int{"files|active||files.read files.write": len(conns)}) {
		r.Fatalf("after a race: %v", got)
	}
}

// testIndexMeet: a mover that stands still anywhere, while the connection changes and another mover finishes with it, spoils nothing
// when it goes on.
func testIndexMeet(r *rig) {
	s := r.store()
	const active, dead, revoked = "files|active||files.read files.write", "files|needs_consent|invalid_grant|files.read files.write", "files|revoked||files.read files.write"
	for n := int64(1); n <= 5; n++ {
		for _, after := range []bool{false, true} {
			for _, back := range []bool{false, true} {
				conn := r.connect(s, tenant(r), fmt.Sprintf("user-%d-%v-%v", n, after, back), "files", "1")
				r.follow(s)
				conn = r.fail(s, conn, "invalid_grant")
				want := dead
				if back { // to where the mover found it
					want = active
				}
				met := false
				slow := &crashing{after: after, meet: func() {
					met = true
					conn.Status, conn.Error = broker.ConnectionActive, ""
					conn = r.renew(s, conn, "2")
					r.follow(s)
					if !back {
						conn = r.fail(s, conn, "invalid_grant")
						r.follow(s)
						return
					}
				}}
				slow.left.Store(n)
				r.follow(r.store(wrapped(slow)))
				r.follow(s)
				if got := r.counts(); !maps.Equal(got, map[string]int{want: 1}) || !met {
					r.Fatalf("stopped at write %d (behind it: %v), and back where it was: %v: %v, met: %v", n, after, back, got, met)
				}
				if _, err := s.BeginRevoke(r.ctx(), tenant(r), conn.ID, nil); err != nil {
					r.Fatal(err)
				}
				r.follow(s)
				if back {
					if got := r.counts(); !maps.Equal(got, map[string]int{revoked: 1}) {
						r.Fatalf("revoked then: %v", got)
					}
				}
				if err := s.EndRevoke(r.ctx(), tenant(r), conn.ID, broker.RevokedDone, true); err != nil {
					r.Fatal(err)
				}
				r.follow(s)
				if got := r.counts(); len(got) != 0 {
					r.Fatalf("erased: %v", got)
				}
			}
		}
	}
}

// testIndexRemark: a mover that is about to say that all is well, while somebody finds that it is not, does not say so.
func testIndexRemark(r *rig) {
	s := r.store()
	conn, other := r.connect(s, tenant(r), "one", "files", "1"), r.connect(s, tenant(r), "two", "files", "1")
	other = r.fail(s, other, "invalid_grant")
	r.follow(s)
	shard := s.Shard(tenant(r), conn.Subject)
	set := func(c broker.Connection) (string, string) {
		place := r.raw("HGET", tag(s.Shard(tenant(r), c.Subject))+"i:"+c.ID, "ix")
		return r.keys("tb:*:y:" + place[:16])[0], place[16:27]
	}
	active, stamp := set(conn)
	dead, _ := set(other)
	r.raw("ZADD", tag(shard)+"ci:d", "1", conn.ID)
	slow := &crashing{meet: func() {
		// Another mover, from before, takes it away behind this one's back, and a reader meets it elsewhere.
		r.raw("ZREM", active, stamp+conn.ID)
		r.raw("ZADD", dead, "0", stamp+conn.ID)
		r.walked(s, 10, ofTenant(r), false)
	}}
	slow.left.Store(2) // the last of its steps
	r.follow(r.store(wrapped(slow)))
	r.follow(s)
	want := map[string]int{"files|active||files.read files.write": 1, "files|needs_consent|invalid_grant|files.read files.write": 1}
	if got := r.counts(); !maps.Equal(got, want) || slow.left.Load() > 0 {
		r.Fatalf("marked while it was moved: %v, steps left: %d", got, slow.left.Load())
	}
}

// testIndexReplicas: replicas that run share the work, and when one of them is gone another one takes over what it held.
func testIndexReplicas(r *rig) {
	ctx, stop := context.WithCancel(r.ctx())
	var running sync.WaitGroup
	defer func() { stop(); running.Wait() }()
	first, end := context.WithCancel(ctx)
	defer end()
	a, b := r.store(), r.store()
	gone := make(chan struct{})
	running.Go(func() {
		defer close(gone)
		_ = a.Run(first)
	})
	var conns []broker.Connection
	for i := range 20 {
		conns = append(conns, r.connect(a, tenant(r), fmt.Sprint("user-", i), "files", "1"))
	}
	has := func(class string, n int) func() bool { return func() bool { return r.counts()[class] == n } }
	r.within(10*time.Second, "one replica follows", has("files|active||files.read files.write", len(conns)))
	end()
	<-gone
	r.raw("DEL", tag(0)+"ci:w") // the last check, of whenever, will not do; and processes of other tests were killed in one
	running.Go(func() { _ = b.Run(ctx) })
	for _, conn := range conns {
		r.fail(a, conn, "invalid_grant") // which a does not follow any more
	}
	r.within(15*time.Second, "the other one takes over", has("files|needs_consent|invalid_grant|files.read files.write", len(conns)))
	// The check, which rests between its pages, goes through all that other tests have left: that it is under way is enough.
	r.within(15*time.Second, "the other one checks by itself", func() bool {
		return r.raw("HGET", tag(0)+"ci:w", "own") != "" || r.raw("HGET", tag(0)+"ci:w", "done") != ""
	})
}

// stopping is a backend at which whoever looks for the tenants is stopped.
type stopping struct {
	vault.Backend
	stop context.CancelFunc
}

// Keys implements vault.Backend.
func (b stopping) Keys(ctx context.Context, _ string) ([]string, error) {
	b.stop()
	<-ctx.Done()
	return nil, ctx.Err()
}

// testIndexCheckStopped: a process that is stopped while it checks leaves the check to whoever comes next, at once.
func testIndexCheckStopped(r *rig) {
	ctx, stop := context.WithCancel(r.ctx())
	defer stop()
	backend, err := redisstore.New(r.reach())
	if err != nil {
		r.Fatal(err)
	}
	defer backend.Close()
	stopped := r.store(func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = stopping{backend, stop} })
	r.raw("DEL", tag(0)+"ci:w") // processes of other tests began a check, and were cut off or killed in it
	if err := stopped.CheckIndex(ctx); !errors.Is(err, context.Canceled) {
		r.Fatalf("stopped: %v", err)
	}
	if err := r.store().CheckIndex(r.ctx()); err != nil {
		r.Fatalf("behind a check that was stopped: %v", err)
	}
}

// wrapped puts the backend of the store into b.
func wrapped(b *crashing) func(*vault.Config, *redisstore.Config) {
	return func(vc *vault.Config, _ *redisstore.Config) { vc.Backend = b }
}
