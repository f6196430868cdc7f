package broker

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// This file does the jobs that operators started: any replica takes one that is due, does its steps one after the other and keeps
// after each how far it came. A replica that dies leaves a lease that ends, and the next one goes on behind the last step.

const (
	// jobLease is how long a job waits for a replica that died in it.
	jobLease = 8 * time.Second
	// jobPoll is how often each replica looks for work.
	jobPoll = 2 * time.Second
	// jobsAtOnce is how many jobs a replica runs.
	jobsAtOnce = 4
	// jobTurn is how long a run keeps its place: a job that takes hours must not keep one from beginning that can't wait.
	jobTurn = 5 * time.Second
	// jobGrace is how long a step may go on after its replica was told to end.
	jobGrace = 5 * time.Second
	// jobTries is how many steps may go wrong, one behind the other, before the job is given up: some ten minutes.
	jobTries    = 20
	jobPauseMin = time.Second
	// jobWaitMost bounds the wait between two steps: so soon it is seen that an operator stopped the job.
	jobWaitMost = 10 * time.Second
	jobPauseMax = 30 * time.Second
)

// wakeJobs lets this replica look for work now.
func (s *Service) wakeJobs() {
	select {
	case s.jobWake <- struct{}{}:
	default:
	}
}

// followJobs runs what is due, until ctx ends.
func (s *Service) followJobs(ctx context.Context) {
	if s.cfg.Jobs == nil {
		return
	}
	places := make(chan struct{}, jobsAtOnce)
	var running sync.WaitGroup
	defer running.Wait()
	ticker := time.NewTicker(jobPoll)
	defer ticker.Stop()
	for {
		if free := cap(places) - len(places); free > 0 && ctx.Err() == nil {
			claimCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
			claimed, err := s.cfg.Jobs.ClaimJobs(claimCtx, jobLease, free)
			cancel()
			if err != nil && ctx.Err() == nil {
				s.cfg.Log.WarnContext(ctx, "jobs could not be looked for", "error", err)
			}
			for _, job := range claimed {
				places <- struct{}{}
				running.Go(func() {
					defer func() { <-places; s.wakeJobs() }()
					s.round(ctx, func(ctx context.Context) { s.runJob(ctx, job) })
				})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.jobWake:
		}
	}
}

// runJob does the steps of a claimed job until it ends, its turn does, somebody stops it, or this process is told to end.
func (s *Service) runJob(ctx context.Context, job Job) {
	kind, known := s.jobKind(job.Kind)
	if !known {
		s.cfg.Log.WarnContext(ctx, "a job of a kind that this version does not know waits for a newer one", "job", job.ID, "kind", string(job.Kind))
		return // the lease keeps it from being looked at all the time
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var keeping sync.WaitGroup
	defer keeping.Wait()
	over := make(chan struct{})
	defer close(over)
	claimed := job // what goes on below replaces job
	keeping.Go(func() { s.keepJob(ctx, claimed, over, stop) })
	for began := s.cfg.Now(); ; {
		step, err := kind.step(work, job)
		if err == nil || work.Err() == nil { // else it was cut short, and will be done again
			var more bool
			if job, more = s.saveJob(ctx, job, step, err); !more {
				return
			}
		}
		wait := step.wait
		if job.Troubles > 0 {
			wait = min(jobPauseMin<<min(job.Troubles-1, 10), jobPauseMax)
		}
		s.pauseJob(ctx, work, min(wait, jobWaitMost))
		if work.Err() != nil || ctx.Err() != nil || s.cfg.Now().Sub(began) >= jobTurn {
			s.giveBack(ctx, job)
			return
		}
	}
}

// giveBack leaves the job to another replica, at once, or to this one, behind the others that are due. An operator may have changed it
// since its last step.
func (s *Service) giveBack(ctx context.Context, job Job) {
	var err error
	for range releaseAttempts {
		if _, err = s.updateJob(ctx, job, 0); !errors.Is(err, ErrConflict) {
			break
		}
		readCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
		latest, readErr := s.cfg.Jobs.Job(readCtx, job.ID)
		cancel()
		if readErr != nil || latest.Version == job.Version {
			break // in the latter case it is another replica's by now
		}
		latest.Claim = job.Claim
		job = latest
	}
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "a job could not be given back; another replica takes it when the lease ends", "job", job.ID, "error", err)
	}
}

// pauseJob waits between two steps, no longer than this process works on.
func (s *Service) pauseJob(ctx, work context.Context, wait time.Duration) {
	if wait <= 0 {
		return
	}
	both, cancel := context.WithCancel(work)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	s.pause(both, wait)
}

// keepJob holds the lease while the job runs. It stops the work when the lease is another's, when this process is killed, or some
// time after ctx ended.
func (s *Service) keepJob(ctx context.Context, job Job, over <-chan struct{}, stop func()) {
	ticker := time.NewTicker(jobLease / 4)
	defer ticker.Stop()
	ending, until := ctx.Done(), (<-chan time.Time)(nil)
	held := time.Now()
	for {
		select {
		case <-over:
			return
		case <-ending:
			timer := time.NewTimer(jobGrace)
			defer timer.Stop()
			ending, until = nil, timer.C
		case <-until:
			stop()
			return
		case <-s.killed:
			stop()
			return
		case <-ticker.C:
			asked := time.Now()
			extendCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StoreTimeout)
			err := s.cfg.Jobs.ExtendJob(extendCtx, job, jobLease)
			cancel()
			switch {
			case err == nil:
				held = asked
			case errors.Is(err, ErrConflict), time.Since(held) > jobLease:
				stop() // somebody else has it, or may
				return
			}
		}
	}
}

// saveJob keeps what a step came to. An operator may have changed the job meanwhile: what the step did counts all the same. It tells
// whether the job goes on here.
func (s *Service) saveJob(ctx context.Context, job Job, step jobStep, failed error) (Job, bool) {
	ctx = context.WithoutCancel(ctx)
	for range releaseAttempts {
		next := s.stepped(job, step, failed)
		if next.State.Ended() && !job.State.Ended() {
			if err := s.recordJobEnd(ctx, next); err != nil {
				s.cfg.Log.WarnContext(ctx, "the end of a job could not be recorded yet", "job", job.ID, "error", err)
				job.Troubles++
				return job, true // its last step is done once more
			}
		}
		saved, err := s.updateJob(ctx, next, jobLease)
		if err == nil {
			return saved, saved.State == JobRunning
		}
		if errors.Is(err, ErrNotFound) {
			s.cfg.Log.WarnContext(ctx, "a job is gone", "job", job.ID)
			return job, false
		}
		claim, version := job.Claim, job.Version
		readCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		latest, readErr := s.cfg.Jobs.Job(readCtx, job.ID)
		cancel()
		if errors.Is(err, ErrConflict) && readErr == nil && latest.Version == version {
			s.cfg.Log.InfoContext(ctx, "a job is run by another replica by now", "job", job.ID)
			return job, false
		}
		if readErr == nil {
			job, job.Claim = latest, claim
		} else if !s.pause(ctx, time.Second) {
			return job, false
		}
	}
	s.cfg.Log.WarnContext(ctx, "a step of a job could not be stored; it will be done again", "job", job.ID)
	return job, false
}

// stepped is the job with what the step came to.
func (s *Service) stepped(job Job, step jobStep, failed error) Job {
	now := s.cfg.Now().UTC()
	if failed == nil {
		job.UpdatedAt = now
		job.Position, job.Progress, job.Troubles = step.position, step.progress, 0
	} else {
		job.Troubles++
		job.Progress.Counts = maps.Clone(job.Progress.Counts)
		job.Progress.Note = "tried again soon: " + publicWords(failed)
	}
	if job.State.Ended() {
		return job
	}
	switch {
	case failed == nil && step.ended != "":
		job.State, job.Result, job.EndedAt = step.ended, step.result, now
	case failed != nil && job.Troubles >= jobTries:
		job.State, job.Result, job.EndedAt = JobFailed, "given up: "+publicWords(failed)+"; "+job.Progress.words(), now
	case job.State == JobQueued:
		job.State = JobRunning
	}
	return job
}

// publicWords is what may be shown of an error.
func publicWords(err error) string {
	var public *Error
	if errors.As(err, &public) && public.Code != CodeServerError {
		return public.Description
	}
	return "the broker failed; its log tells why"
}

// recordJobEnd records that the job ended, in the name of whoever started it.
func (s *Service) recordJobEnd(ctx context.Context, job Job) error {
	return s.recordOperator(ctx, Operator{ID: job.StartedBy, RequestID: job.RequestID, TraceID: job.TraceID}, Entry{
		Type: EventOperatorJobEnded, Tenant: job.Tenant, Connector: job.Connector, Outcome: string(job.Kind) + " " + string(job.State), Reason: job.Result,
	})
}

func (s *Service) updateJob(ctx context.Context, job Job, lease time.Duration) (Job, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.StoreTimeout)
	defer cancel()
	return s.cfg.Jobs.UpdateJob(ctx, job, lease)
}
