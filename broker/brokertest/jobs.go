package brokertest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// job is a stored job, with the lease on it.
type job struct {
	job   broker.Job
	claim string
	until time.Time
}

// CreateJob is part of broker.Jobs.
func (s *Store) CreateJob(ctx context.Context, j broker.Job, once string) (broker.Job, bool, error) {
	done, err := s.enter(ctx, "CreateJob")
	if err != nil {
		return broker.Job{}, false, err
	}
	defer done()
	mark := strings.Join([]string{string(j.Kind), j.Tenant, j.StartedBy, once}, "\x00")
	if first := s.jobs[s.jobOnce[mark]]; first != nil {
		return copied(first.job, ""), false, nil
	}
	if s.jobs == nil {
		s.jobs, s.jobOnce = map[string]*job{}, map[string]string{}
	}
	j.Version = 1
	s.jobs[j.ID], s.jobOnce[mark] = &job{job: copied(j, "")}, j.ID
	return j, true, nil
}

func copied(j broker.Job, claim string) broker.Job {
	j.Progress.Counts = maps.Clone(j.Progress.Counts)
	j.Claim = claim
	return j
}

// Job is part of broker.Jobs.
func (s *Store) Job(ctx context.Context, id string) (broker.Job, error) {
	done, err := s.enter(ctx, "Job")
	if err != nil {
		return broker.Job{}, err
	}
	defer done()
	if s.jobs[id] == nil {
		return broker.Job{}, broker.ErrNotFound
	}
	return copied(s.jobs[id].job, ""), nil
}

// ListJobs is part of broker.Jobs.
func (s *Store) ListJobs(ctx context.Context, position string, limit int) ([]broker.Job, string, error) {
	done, err := s.enter(ctx, "ListJobs")
	if err != nil {
		return nil, "", err
	}
	defer done()
	var all []broker.Job
	for id, j := range s.jobs {
		if id > position {
			all = append(all, copied(j.job, ""))
		}
	}
	slices.SortFunc(all, func(a, b broker.Job) int { return cmp.Compare(a.ID, b.ID) })
	if len(all) > limit {
		return all[:limit], all[limit-1].ID, nil
	}
	return all, "", nil
}

// ClaimJobs is part of broker.Jobs.
func (s *Store) ClaimJobs(ctx context.Context, lease time.Duration, limit int) ([]broker.Job, error) {
	done, err := s.enter(ctx, "ClaimJobs")
	if err != nil {
		return nil, err
	}
	defer done()
	var mine []broker.Job
	for _, j := range s.jobs {
		due := j.job.State == broker.JobQueued || j.job.State == broker.JobRunning
		if len(mine) < limit && due && !s.Now().Before(j.until) {
			s.fence++
			j.claim, j.until = strconv.FormatInt(s.fence, 10), s.Now().Add(lease)
			mine = append(mine, copied(j.job, j.claim))
		}
	}
	return mine, nil
}

// ExtendJob is part of broker.Jobs.
func (s *Store) ExtendJob(ctx context.Context, j broker.Job, lease time.Duration) error {
	done, err := s.enter(ctx, "ExtendJob")
	if err != nil {
		return err
	}
	defer done()
	had := s.jobs[j.ID]
	if had == nil || j.Claim == "" || had.claim != j.Claim {
		return broker.ErrConflict
	}
	had.until = s.Now().Add(lease)
	return nil
}

// UpdateJob is part of broker.Jobs.
func (s *Store) UpdateJob(ctx context.Context, j broker.Job, lease time.Duration) (broker.Job, error) {
	done, err := s.enter(ctx, "UpdateJob")
	if err != nil {
		return broker.Job{}, err
	}
	defer done()
	had := s.jobs[j.ID]
	switch {
	case had == nil:
		return broker.Job{}, broker.ErrNotFound
	case had.job.Version != j.Version, j.Claim != "" && had.claim != j.Claim:
		return broker.Job{}, broker.ErrConflict
	}
	claim := j.Claim
	j.Version++
	had.job = copied(j, "")
	if claim != "" {
		if had.until = s.Now().Add(lease); lease <= 0 || j.State.Ended() || j.State == broker.JobPaused {
			had.claim, had.until = "", time.Time{}
		}
	}
	return copied(j, claim), nil
}
