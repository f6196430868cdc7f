package vaulttest

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// newJob is one whose id sorts before those of later n.
func newJob(r *rig, n int) broker.Job {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return broker.Job{
		ID: fmt.Sprintf("%011x", n) + rand.Text(), Kind: broker.JobRevokeAll, Tenant: tenant(r), Connector: "files", Reason: "canary-reason", StartedBy: "canary-operator",
		Rate: 10, State: broker.JobQueued, CreatedAt: now, UpdatedAt: now, RequestID: "req", TraceID: "trace",
	}
}

// claim takes this one alone.
func (r *rig) claim(s *vault.Store, id string, lease time.Duration) (broker.Job, bool) {
	r.Helper()
	claimed, err := s.ClaimJobs(r.ctx(), lease, 50)
	if err != nil {
		r.Fatal(err)
	}
	for _, j := range claimed {
		if j.ID == id {
			return j, true
		}
	}
	return broker.Job{}, false
}

func testJobs(r *rig) {
	a, b := r.store(), r.store()
	j, made, err := a.CreateJob(r.ctx(), newJob(r, 3), "form-1")
	if err != nil || !made || j.Version != 1 {
		r.Fatalf("create: %v, %+v, %v", made, j, err)
	}
	again, made, err := b.CreateJob(r.ctx(), newJob(r, 2), "form-1")
	if err != nil || made || again.ID != j.ID {
		r.Fatalf("the same form again: %v, %s in place of %s, %v", made, again.ID, j.ID, err)
	}
	read, err := b.Job(r.ctx(), j.ID)
	if err != nil || fmt.Sprintf("%#v", read) != fmt.Sprintf("%#v", j) {
		r.Fatalf("read back: %+v, made: %+v, %v", read, j, err)
	}
	for _, id := range []string{"", "../etc", strings.Repeat("x", 100), "unknown"} {
		_, err := a.Job(r.ctx(), id)
		is(r, err, broker.ErrNotFound, "a job called "+id)
	}

	// One run has it; whoever lost the lease writes nothing more.
	mine, ok := r.claim(a, j.ID, 50*time.Millisecond)
	if !ok || mine.Claim == "" {
		r.Fatal("a new job is not due")
	}
	var theirs broker.Job
	r.within(5*time.Second, "the lease ends", func() bool {
		theirs, ok = r.claim(b, j.ID, time.Minute)
		return ok
	})
	mine.Position = "lost"
	_, err = a.UpdateJob(r.ctx(), mine, time.Minute)
	is(r, err, broker.ErrConflict, "a step of the run that lost the lease")
	is(r, a.ExtendJob(r.ctx(), mine, time.Minute), broker.ErrConflict, "its extension")
	if _, ok := r.claim(a, j.ID, time.Minute); ok {
		r.Fatal("two runs have the job")
	}
	if err := b.ExtendJob(r.ctx(), theirs, time.Minute); err != nil {
		r.Fatal(err)
	}
	theirs.State, theirs.Position, theirs.Progress = broker.JobRunning, "canary-position", broker.JobProgress{Done: 1, Failed: 2, Skipped: 3, Total: 4, Note: "note", Counts: map[string]int64{"c": 5}}
	stale := theirs
	if theirs, err = b.UpdateJob(r.ctx(), theirs, time.Minute); err != nil || theirs.Version != 2 {
		r.Fatalf("a step: %+v, %v", theirs, err)
	}
	_, err = b.UpdateJob(r.ctx(), stale, time.Minute)
	is(r, err, broker.ErrConflict, "a write from an older version")

	// An operator's write leaves the lease alone.
	paused, err := a.Job(r.ctx(), j.ID)
	if err != nil || paused.Progress.Counts["c"] != 5 || paused.Position != "canary-position" {
		r.Fatalf("after a step: %+v, %v", paused, err)
	}
	paused.State = broker.JobPaused
	if paused, err = a.UpdateJob(r.ctx(), paused, 0); err != nil {
		r.Fatal(err)
	}
	paused.Claim, paused.Position = theirs.Claim, "further"
	if paused, err = b.UpdateJob(r.ctx(), paused, time.Minute); err != nil {
		r.Fatalf("the last step behind a pause: %v", err)
	}
	if _, ok := r.claim(a, j.ID, time.Minute); ok {
		r.Fatal("a paused job is run")
	}
	paused.Claim, paused.State = "", broker.JobQueued
	if paused, err = a.UpdateJob(r.ctx(), paused, 0); err != nil {
		r.Fatal(err)
	}
	resumed, ok := r.claim(b, j.ID, time.Minute)
	if !ok || resumed.Position != "further" {
		r.Fatalf("resumed: %v, %+v", ok, resumed)
	}
	if resumed, err = b.UpdateJob(r.ctx(), resumed, 0); err != nil {
		r.Fatal(err)
	}
	if resumed, ok = r.claim(a, j.ID, time.Minute); !ok {
		r.Fatal("a job that was given back is not due")
	}

	// At its end it is due no more, and is kept for a while.
	resumed.State, resumed.EndedAt, resumed.Result = broker.JobDone, time.Now().UTC().Truncate(time.Millisecond), "canary-result"
	if _, err := a.UpdateJob(r.ctx(), resumed, time.Minute); err != nil {
		r.Fatal(err)
	}
	if _, ok := r.claim(b, j.ID, time.Minute); ok {
		r.Fatal("a job that ended is run")
	}
	keys := r.keys("tb:*:jb:" + j.ID)
	if len(keys) != 1 {
		r.Fatalf("keys: %q", keys)
	}
	left, err := strconv.ParseInt(r.raw("PTTL", keys[0]), 10, 64)
	if d := time.Duration(left) * time.Millisecond; err != nil || d > broker.JobKept || d < broker.JobKept-time.Hour {
		r.Errorf("kept for %v, %v", d, err)
	}
	if stored := r.snapshot(keys[0]); strings.Contains(stored, "canary") || strings.Contains(stored, tenant(r)) {
		r.Errorf("in clear: %s", stored)
	}
}

func testJobsListed(r *rig) {
	s := r.store()
	var want []string
	for i := range 5 {
		j, _, err := s.CreateJob(r.ctx(), newJob(r, i), "form-"+strconv.Itoa(i))
		if err != nil {
			r.Fatal(err)
		}
		want = append(want, j.ID)
	}
	listed := func(page int) (got []string) {
		position := ""
		for {
			jobs, next, err := s.ListJobs(r.ctx(), position, page)
			if err != nil || len(jobs) > page {
				r.Fatalf("%d jobs in a page of %d, %v", len(jobs), page, err)
			}
			for _, j := range jobs {
				got = append(got, j.ID)
			}
			if position = next; next == "" {
				return got
			}
		}
	}
	for _, page := range []int{1, 2, 5, 100} {
		if got := listed(page); !slices.Equal(got, want) {
			r.Fatalf("by %d: %q, want %q", page, got, want)
		}
	}
	// Of very many the list has the newest.
	old := strings.TrimSuffix(r.keys("tb:*:jb:" + want[0])[0], ":"+want[0])
	many := []string{"ZADD", old}
	for i := range 1000 {
		many = append(many, "0", fmt.Sprintf("%011x", 100+i)+rand.Text())
	}
	r.raw(many...)
	j, _, err := s.CreateJob(r.ctx(), newJob(r, 50), "form-50")
	if err != nil {
		r.Fatal(err)
	}
	if n := r.raw("ZCARD", old); n != "1000" && n != "1001" {
		r.Errorf("the list has %s jobs", n)
	}
	if got := listed(100); !slices.Equal(got, append(slices.Clone(want), j.ID)) {
		r.Errorf("listed: %q", got)
	}
	r.raw("DEL", r.keys("tb:*:jb:" + j.ID)[0])
	// One whose time is over leaves the list, and one that was changed is left out.
	key := r.keys("tb:*:jb:" + want[1])[0]
	r.raw("DEL", key)
	index := strings.TrimSuffix(key, ":"+want[1])
	other := strings.Replace(key, want[1], want[2], 1)
	r.raw("HSET", other, "b", r.raw("HGET", strings.Replace(key, want[1], want[3], 1), "b"))
	if got := listed(2); !slices.Equal(got, []string{want[0], want[3], want[4]}) {
		r.Fatalf("%q of %q", got, want)
	}
	if r.raw("ZSCORE", index, want[1]) != "" {
		r.Error("what is gone is in the list for good")
	}
	// Asked elsewhere: its writer would bring back what is gone, as what a failover took.
	if got, err := r.store().ClaimJobs(r.ctx(), time.Minute, 50); err != nil || slices.ContainsFunc(got, func(j broker.Job) bool { return j.ID == want[1] || j.ID == want[2] }) {
		r.Fatalf("claimed what can't be read: %v", err)
	}
}

// testJobsParallel: of many who ask at once one gets the job, and of many forms sent at once one makes it.
func testJobsParallel(r *rig) {
	stores := []*vault.Store{r.store(), r.store()}
	var mu sync.Mutex
	var group sync.WaitGroup
	ids, made, claims := map[string]bool{}, 0, 0
	for i := range 20 {
		group.Go(func() {
			j, first, err := stores[i%2].CreateJob(r.ctx(), newJob(r, i), "form")
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Error(err)
			}
			if ids[j.ID] = true; first {
				made++
			}
		})
	}
	group.Wait()
	for i := range 20 {
		group.Go(func() {
			claimed, err := stores[i%2].ClaimJobs(r.ctx(), time.Minute, 5)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				r.Error(err)
			}
			for _, j := range claimed {
				if ids[j.ID] {
					claims++
				}
			}
		})
	}
	group.Wait()
	if made != 1 || len(ids) != 1 || claims != 1 {
		r.Errorf("%d made, %d ids, %d claims", made, len(ids), claims)
	}
}

// testLostJob: a job that a failover took back is there again at its writer's next look, and one that ended does not go on.
func testLostJob(p *pair) {
	writer, other := p.store(), p.store()
	ended, _, err := writer.CreateJob(p.ctx(), newJob(p.rig, 1), "form-1")
	if err != nil {
		p.Fatal(err)
	}
	var begun broker.Job
	p.lose(func() {
		if begun, _, err = writer.CreateJob(p.ctx(), newJob(p.rig, 2), "form-2"); err != nil {
			p.Fatal(err)
		}
		ended.State, ended.EndedAt = broker.JobCancelled, time.Now()
		if ended, err = writer.UpdateJob(p.ctx(), ended, 0); err != nil {
			p.Fatal(err)
		}
	})
	var got []broker.Job
	p.within(startPatience, "the writer looks for work", func() bool {
		got, err = writer.ClaimJobs(p.ctx(), time.Minute, 50)
		return err == nil
	})
	if len(got) != 1 || got[0].ID != begun.ID {
		p.Fatalf("claimed %+v", got)
	}
	if j, err := other.Job(p.ctx(), ended.ID); err != nil || j.State != broker.JobCancelled {
		p.Errorf("what was cancelled: %+v, %v", j, err)
	}
}
