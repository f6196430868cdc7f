package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// vitalsAge is how long what was found out about replicas, store and backlog serves everybody who looks: many pages stay open.
const vitalsAge = 3 * time.Second

// Vitals are how the broker itself is. Of a part that could not be read the error is told instead.
type Vitals struct {
	At       time.Time
	Replicas []Replica
	StoreNow time.Time // when Replicas were read, by the store's clock
	Store    StoreReport
	Backlog  Backlog
	// Seals tell how far the records are sealed with the key that seals now.
	Seals Seals
	// Jobs are those that have not ended, the newest first, among the newest 100.
	Jobs []Job
	// Verified are the last verifications of the audit trail that came to an end, one of each tenant, the newest first, among the
	// newest 100 jobs.
	Verified []Job
	// Off is what operators disabled.
	Off []Switch
	// Errors by part: replicas, store, backlog, seals, jobs. Safe to show.
	Errors map[string]string

	classes []ClassCount // of all tenants
}

// vitals keeps the last ones.
type vitals struct {
	looks singleflight.Group
	mu    sync.Mutex
	last  Vitals
}

// readVitals returns what is at most vitalsAge old. All who ask at the same time share one look.
func (s *Service) readVitals(ctx context.Context) Vitals {
	s.vitals.mu.Lock()
	last := s.vitals.last
	s.vitals.mu.Unlock()
	if age := s.cfg.Now().Sub(last.At); age >= 0 && age < vitalsAge {
		return last
	}
	fresh := s.vitals.looks.DoChan("", func() (any, error) {
		if !s.enter() {
			return nil, nil // the process ends
		}
		defer s.leave()
		// For all who wait, so not by the context of one of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.StoreTimeout)
		defer cancel()
		v := s.lookAtVitals(ctx)
		s.vitals.mu.Lock()
		defer s.vitals.mu.Unlock()
		s.vitals.last = v
		return v, nil
	})
	select {
	case r := <-fresh:
		v, _ := r.Val.(Vitals)
		return v
	case <-ctx.Done():
		return Vitals{At: s.cfg.Now(), Errors: map[string]string{"store": notInTime, "accounts": notInTime}}
	}
}

const notInTime = "the store did not answer in time"

func (s *Service) lookAtVitals(ctx context.Context) Vitals {
	v := Vitals{At: s.cfg.Now().UTC(), Errors: map[string]string{}}
	var mu sync.Mutex
	failed := func(part, text string, err error) {
		s.cfg.Log.WarnContext(ctx, "a part of the broker's health could not be read", "part", part, "error", err)
		mu.Lock()
		defer mu.Unlock()
		v.Errors[part] = text
	}
	var parts sync.WaitGroup
	if s.cfg.Replicas != nil {
		parts.Go(func() {
			all, now, err := s.cfg.Replicas.AllReplicas(ctx)
			if err != nil {
				failed("replicas", "the heartbeats can't be read", err)
			}
			v.Replicas, v.StoreNow = all, now
		})
	}
	if s.cfg.StoreHealth != nil {
		parts.Go(func() {
			report, err := s.cfg.StoreHealth.StoreReport(ctx)
			if err != nil {
				failed("store", "Redis does not answer", err)
			}
			v.Store = report
		})
	}
	if s.cfg.Backlogs != nil {
		parts.Go(func() {
			backlog, err := s.cfg.Backlogs.Backlog(ctx, s.cfg.Now())
			if err != nil {
				failed("backlog", "what waits can't be counted; the Redis user may lack ZCOUNT (deploy/redis/users.acl)", err)
			}
			v.Backlog = backlog
		})
	}
	parts.Go(func() {
		seals, err := s.cfg.Index.SealedBy(ctx)
		if err != nil {
			failed("seals", "which keys the records are sealed with can't be read", err)
		}
		v.Seals = seals
	})
	parts.Go(func() {
		classes, err := s.cfg.Index.Classes(ctx)
		if err != nil {
			failed("accounts", "the connected accounts can't be counted", err)
		}
		v.classes = classes
	})
	if s.cfg.Switches != nil {
		parts.Go(func() {
			table, err := s.cfg.Switches.Switches(ctx)
			if err != nil {
				failed("switches", "what is disabled can't be read", err)
			}
			v.Off = table.Off
		})
	}
	if s.cfg.Jobs != nil {
		parts.Go(func() {
			jobs, _, err := s.cfg.Jobs.ListJobs(ctx, "", jobsLookedAt)
			if err != nil {
				failed("jobs", "the jobs can't be read", err)
			}
			for _, j := range jobs {
				if j.Kind == JobVerify && j.State == JobDone && !slices.ContainsFunc(v.Verified, func(one Job) bool { return one.Tenant == j.Tenant }) {
					v.Verified = append(v.Verified, j)
				}
			}
			v.Jobs = slices.DeleteFunc(jobs, func(j Job) bool { return j.State.Ended() })
		})
	}
	parts.Wait()
	return v
}

// jobsLookedAt is among how many of the newest jobs those are looked for that have not ended.
const jobsLookedAt = 100

// SilentReplicas are those that have missed several beats.
func (v Vitals) SilentReplicas() []Replica {
	return slices.DeleteFunc(slices.Clone(v.Replicas), func(r Replica) bool { return !r.Silent(v.StoreNow) })
}

// Versions are those of the replicas that are not silent, each once.
func (v Vitals) Versions() []string {
	var all []string
	for _, r := range v.Replicas {
		if name := r.Version + " (" + r.Commit + ")"; !r.Silent(v.StoreNow) && !r.Unreadable && !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}

// Health looks at the broker itself. It is recorded before anything is read.
func (s *Service) Health(ctx context.Context, op Operator) (Vitals, error) {
	if err := op.Check(PermitHealth, Everywhere); err != nil {
		return Vitals{}, err
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorViewed, Connection{}, "health of the broker")); err != nil {
		return Vitals{}, err
	}
	v := s.readVitals(ctx)
	v.Jobs = slices.DeleteFunc(slices.Clone(v.Jobs), func(j Job) bool { return s.mayJob(op, j) != nil })
	return v, nil
}
