package vaulttest

import (
	"slices"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// scheduledOf returns those of the tenant that are due; other tests' connections lie in the same store.
func scheduledOf(r *rig, due []broker.Connection) []string {
	var ids []string
	for _, c := range due {
		if c.Tenant == tenant(r) {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

const (
	shortHold = 50 * time.Millisecond
	farAhead  = 240 * time.Hour
)

// due is what this store is given now, and holds for a moment only.
func (r *rig) due(s *vault.Store, before time.Time) []string {
	r.Helper()
	due, err := s.DueRefreshes(r.ctx(), before, shortHold, 10_000)
	if err != nil {
		r.Fatalf("due refreshes: %v", err)
	}
	return scheduledOf(r, due)
}

// testSchedule: what is due when follows every write of the record.
func testSchedule(r *rig) {
	s := r.store()
	now := time.Now()
	alice := r.connect(s, tenant(r), "alice", "files", "1")
	if got := r.due(s, now.Add(farAhead)); len(got) != 0 {
		r.Fatalf("not scheduled, and due: %v", got)
	}
	lease, _, err := s.BeginRefresh(r.ctx(), alice, "a", time.Minute)
	if err != nil {
		r.Fatal(err)
	}
	next := alice
	next.RefreshAt = now.Add(time.Hour).UTC().Truncate(time.Millisecond)
	next, err = s.CommitRefresh(r.ctx(), lease, next, "", r.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, alice)})
	if err != nil {
		r.Fatal(err)
	}
	if got := r.due(s, now.Add(59*time.Minute)); len(got) != 0 {
		r.Errorf("due a minute too early")
	}
	r.within(5*time.Second, "due after its time", func() bool { return slices.Equal(r.due(s, now.Add(61*time.Minute)), []string{alice.ID}) })
	read, err := s.Connection(r.ctx(), tenant(r), alice.ID)
	if err != nil || !read.RefreshAt.Equal(next.RefreshAt) {
		r.Errorf("read back: %v, %v", read.RefreshAt, err)
	}

	is(r, s.Reschedule(r.ctx(), alice, now), broker.ErrConflict, "reschedule what moved on")
	if err := s.Reschedule(r.ctx(), next, now.Add(2*time.Hour)); err != nil {
		r.Fatal(err)
	}
	if got := r.due(s, now.Add(61*time.Minute)); len(got) != 0 {
		r.Errorf("moved, and due at the old time")
	}
	r.within(5*time.Second, "due at the new time", func() bool { return len(r.due(s, now.Add(121*time.Minute))) == 1 })
	if err := s.Reschedule(r.ctx(), next, time.Time{}); err != nil {
		r.Fatal(err)
	}
	if got := r.due(s, now.Add(farAhead)); len(got) != 0 {
		r.Errorf("taken out, and due")
	}

	if err := s.Reschedule(r.ctx(), next, now); err != nil {
		r.Fatal(err)
	}
	if _, err := s.BeginRevoke(r.ctx(), tenant(r), alice.ID, []broker.Entry{entry(broker.EventConnectionRevoked, alice)}); err != nil {
		r.Fatal(err)
	}
	is(r, s.Reschedule(r.ctx(), next, now), broker.ErrConflict, "reschedule what was revoked")
	if got := r.due(s, now.Add(farAhead)); len(got) != 0 {
		r.Errorf("revoked, and due")
	}
}

// testScheduleShared: of several replicas that ask at the same time each gets other work, and all of it is given out.
func testScheduleShared(r *rig) {
	stores := []*vault.Store{r.store(), r.store(), r.store()}
	now := time.Now()
	var all []string
	for i := range 40 {
		conn := r.connect(stores[0], tenant(r), "subject-"+string(rune('A'+i)), "files", "1")
		if err := stores[0].Reschedule(r.ctx(), conn, now.Add(-time.Minute)); err != nil {
			r.Fatal(err)
		}
		all = append(all, conn.ID)
	}
	var mu sync.Mutex
	given := map[string]int{} // by whom
	// A part may still be held by another test's store: then it comes a moment later.
	r.within(10*time.Second, "all of it is given out", func() bool {
		var group sync.WaitGroup
		for i, s := range stores {
			group.Go(func() {
				due, err := s.DueRefreshes(r.ctx(), now, 30*time.Second, 10_000)
				if err != nil {
					r.Errorf("due refreshes: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, id := range scheduledOf(r, due) {
					if by, known := given[id]; known && by != i {
						r.Errorf("%s was given to two at the same time", id)
					}
					given[id] = i
				}
			})
		}
		group.Wait()
		return len(given) == len(all)
	})
	for _, id := range all {
		conn, err := stores[0].Connection(r.ctx(), tenant(r), id)
		if err != nil {
			r.Fatal(err)
		}
		if err := stores[0].Reschedule(r.ctx(), conn, time.Time{}); err != nil {
			r.Fatal(err)
		}
	}
}

// testScheduleLimit: no more than was asked for, and the rest the next time.
func testScheduleLimit(r *rig) {
	s := r.store()
	now := time.Now()
	want := map[string]bool{}
	for i := range 10 {
		conn := r.connect(s, tenant(r), "subject-"+string(rune('A'+i)), "files", "1")
		if err := s.Reschedule(r.ctx(), conn, now.Add(-time.Minute)); err != nil {
			r.Fatal(err)
		}
		want[conn.ID] = true
	}
	r.within(10*time.Second, "all are given out in pieces of three", func() bool {
		due, err := s.DueRefreshes(r.ctx(), now, shortHold, 3)
		if err != nil || len(due) > 3 {
			r.Fatalf("%d given out, %v", len(due), err)
		}
		for _, conn := range due {
			delete(want, conn.ID)
			if err := s.Reschedule(r.ctx(), conn, time.Time{}); err != nil && conn.Tenant == tenant(r) {
				r.Fatal(err)
			}
		}
		return len(want) == 0
	})
}
