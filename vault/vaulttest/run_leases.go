package vaulttest

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

func testLease(r *rig) {
	s := r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	var begun atomic.Int32
	var leases sync.Map
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			lease, _, err := s.BeginRefresh(r.ctx(), conn, "same-owner", time.Minute)
			switch {
			case err == nil:
				begun.Add(1)
				leases.Store(lease.Fence, lease)
			case !errors.Is(err, broker.ErrBusy):
				r.Errorf("begin: %v", err)
			}
		})
	}
	group.Wait()
	if n := begun.Load(); n != 1 {
		r.Fatalf("%d of 50 got the lease", n)
	}
	leases.Range(func(_, l any) bool {
		lease := l.(broker.Lease)
		if lease.Until.Before(time.Now()) || lease.Until.After(time.Now().Add(time.Minute)) {
			r.Errorf("lease until %v", lease.Until)
		}
		if err := s.EndRefresh(r.ctx(), lease); err != nil {
			r.Error(err)
		}
		return true
	})
	lease, _, err := s.BeginRefresh(r.ctx(), conn, "x", 30*time.Millisecond)
	if err != nil {
		r.Fatalf("after the end: %v", err)
	}
	// It has run out, but nobody took it: the answer that came late is stored.
	deadline := strings.TrimSpace(r.raw("HGET", tag(s.Shard(tenant(r), "u"))+"c:"+conn.ID, "dl"))
	if deadline == "" {
		r.Fatal("no deadline stored")
	}
	r.within(5*time.Second, "the lease runs out", func() bool { return time.Now().After(lease.Until.Add(time.Millisecond)) })
	if _, err = s.CommitRefresh(r.ctx(), lease, conn, "", r.grant("2"), nil); err != nil {
		r.Fatalf("commit with a lease that ran out: %v", err)
	}
}

// testHangAtBegin: a server that hangs takes the lease when it wakes, for a caller who has left. The process that asked has
// it at once, in one of its calls; nobody else has.
func testHangAtBegin(r *rig) {
	const lease = 49 * time.Second
	s, other := r.store(), r.store()
	conn := r.connect(s, tenant(r), "u", "files", "1")
	key := r.connKey(s, conn)
	if given, _, err := s.BeginRefresh(r.ctx(), conn, "a", lease); err != nil { // the server knows the script now
		r.Fatal(err)
	} else if err := s.EndRefresh(r.ctx(), given); err != nil {
		r.Fatal(err)
	}
	asked := time.Now()
	r.Redis.Pause()
	ctx, cancel := contextWithTimeout(300 * time.Millisecond)
	_, _, err := s.BeginRefresh(ctx, conn, "a", lease)
	cancel()
	if err == nil || errors.Is(err, broker.ErrBusy) {
		r.Fatalf("begin while the store hangs: %v", err)
	}
	left := time.Now()
	r.Redis.Resume()
	r.within(10*time.Second, "the lease nobody heard of", func() bool { return r.raw("HEXISTS", key, "own") == "1" })
	_, _, err = other.BeginRefresh(r.ctx(), conn, "a", lease)
	is(r, err, broker.ErrBusy, "another process of the same name")

	var mu sync.Mutex
	var got []broker.Lease
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			lease, token, err := s.BeginRefresh(r.ctx(), conn, "a", lease)
			switch {
			case err == nil && token.Reveal() == "canary-rt-1":
				mu.Lock()
				got = append(got, lease)
				mu.Unlock()
			case !errors.Is(err, broker.ErrBusy):
				r.Errorf("begin: %v", err)
			}
		})
	}
	group.Wait()
	if len(got) != 1 {
		r.Fatalf("%d of 20 calls got the lease", len(got))
	}
	// The store may count from the first request on.
	if until := got[0].Until; until.Before(asked.Add(lease)) || until.After(left.Add(lease)) {
		r.Fatalf("lease until %v, %v after it was asked for first", until, until.Sub(asked))
	}
	if fence := r.raw("HGET", key, "fen"); fence != "2" || got[0].Fence != 2 {
		r.Fatalf("fence %s in the store, %d in the lease: it was taken more than once", fence, got[0].Fence)
	}
	// Given back, it is anybody's, and no longer remembered here.
	if err := s.EndRefresh(r.ctx(), got[0]); err != nil {
		r.Fatal(err)
	}
	theirs, _, err := other.BeginRefresh(r.ctx(), conn, "a", lease)
	if err != nil {
		r.Fatal(err)
	}
	_, _, err = s.BeginRefresh(r.ctx(), conn, "a", lease)
	is(r, err, broker.ErrBusy, "another's lease")
	if _, err := other.CommitRefresh(r.ctx(), theirs, conn, "", r.grant("2"), nil); err != nil {
		r.Fatal(err)
	}
}
