package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// This file is what operators do with jobs; job_run.go does them.

// jobKind is what is particular to a kind of job.
type jobKind struct {
	// permit is what its operators must be permitted in the job's tenant: to start it, to see it and to stop it.
	permit Permission
	// step does a bounded piece of the work, a few seconds at most, from job.Position on, and tells where it came to. The same
	// step may be done again, here or elsewhere, after a crash: what it does must come to the same then. It ends early, with what
	// it has done, when the context does. An error leaves the job where it was, and the step is tried again after a while.
	step func(ctx context.Context, job Job) (jobStep, error)
	// mostRate bounds Job.Rate; 0: the kind has no rate.
	mostRate int
}

// jobStep is what a step came to.
type jobStep struct {
	position string
	progress JobProgress   // all of it, not the step's share
	ended    JobState      // JobDone or JobFailed: that was the last step; "": there is more to do
	result   string        // in words, with ended
	wait     time.Duration // before the next step
}

// The kinds of jobs.
const (
	JobRevokeAll JobKind = "revoke_all"
)

// jobKind returns what is known of the kind; false: a newer version of the program made it.
func (s *Service) jobKind(kind JobKind) (jobKind, bool) {
	switch kind {
	case JobVerify:
		return jobKind{permit: PermitExport, step: s.verifyTrail}, true
	case JobRevokeAll:
		return jobKind{permit: PermitStopAll, step: s.stepRevokeAll, mostRate: MaxRevokeRate}, true
	default:
		return jobKind{}, false
	}
}

// startJob records that the operator starts the job, and starts it. Whoever calls has checked the permission and the reason. once is
// made with the form: sent twice, it starts one job.
func (s *Service) startJob(ctx context.Context, op Operator, job Job, once string) (Job, error) {
	if s.cfg.Jobs == nil {
		return Job{}, serverError(errors.New("this program has no store of jobs"))
	}
	if once == "" || len(once) > maxOnce {
		return Job{}, Errorf(CodeInvalidRequest, "this form is not one of ours; open the page again")
	}
	if err := s.roomForJob(ctx, op, job); err != nil {
		return Job{}, err
	}
	now := s.cfg.Now().UTC()
	id, err := s.ids().job(now)
	if err != nil {
		return Job{}, serverError(err)
	}
	job.ID, job.State, job.StartedBy, job.RequestID, job.TraceID, job.CreatedAt, job.UpdatedAt = id, JobQueued, op.ID, op.RequestID, op.TraceID, now, now
	if err := s.recordOperator(ctx, op, Entry{
		Type: EventOperatorJobStarted, Tenant: job.Tenant, Connector: job.Connector, Outcome: string(job.Kind), Reason: job.Reason,
	}); err != nil {
		return Job{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	made, _, err := s.cfg.Jobs.CreateJob(ctx, job, once)
	if err != nil {
		return Job{}, storeError("start the job", err)
	}
	s.wakeJobs()
	return made, nil
}

// maxOnce bounds what a form says once, in bytes.
const maxOnce = 64

// jobsEach bounds how many jobs of a tenant its own operators have under way: replicas do them in turn with everybody else's.
const jobsEach = 4

// roomForJob is the error where it is one more. It looks at the newest jobsRead alone.
func (s *Service) roomForJob(ctx context.Context, op Operator, job Job) error {
	if kind, _ := s.jobKind(job.Kind); op.May(kind.permit, Everywhere) {
		return nil // whoever mends things for all waits for nobody
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	all, _, err := s.cfg.Jobs.ListJobs(ctx, "", jobsRead)
	if err != nil {
		return storeError("list the jobs", err)
	}
	under := 0
	for _, one := range all {
		if one.Tenant == job.Tenant && (one.State == JobQueued || one.State == JobRunning) {
			under++
		}
	}
	if under >= jobsEach {
		return Errorf(CodeInvalidRequest, "%d jobs of this tenant are under way already: wait for one, pause it or cancel it", under)
	}
	return nil
}

// mayJob is the error for an operator who may not see, or stop, the job.
func (s *Service) mayJob(op Operator, job Job) error {
	kind, known := s.jobKind(job.Kind)
	if !known {
		kind.permit = PermitStopAll
	}
	if err := op.Check(kind.permit, job.Tenant); CodeOf(err) == CodeNotFound {
		return errNoJob()
	} else if err != nil {
		return err
	}
	return nil
}

// MayJob tells whether the operator may see the job, and stop it.
func (s *Service) MayJob(op Operator, job Job) bool { return s.mayJob(op, job) == nil }

func errNoJob() *Error { return Errorf(CodeNotFound, "there is no such job") }

// jobsRead is how many jobs are looked at for one page of the list.
const jobsRead = 200

// ListJobs returns the jobs that the operator may see, newest first, at most limit. It looks at the newest jobsRead alone.
func (s *Service) ListJobs(ctx context.Context, op Operator, limit int) ([]Job, error) {
	if s.cfg.Jobs == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	all, _, err := s.cfg.Jobs.ListJobs(ctx, "", jobsRead)
	if err != nil {
		return nil, storeError("list the jobs", err)
	}
	var mine []Job
	for _, job := range all {
		if len(mine) < limit && s.mayJob(op, job) == nil {
			mine = append(mine, job)
		}
	}
	return mine, nil
}

// GetJob returns one.
func (s *Service) GetJob(ctx context.Context, op Operator, id string) (Job, error) {
	if s.cfg.Jobs == nil {
		return Job{}, errNoJob()
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	job, err := s.cfg.Jobs.Job(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return Job{}, errNoJob()
	case err != nil:
		return Job{}, storeError("read the job", err)
	}
	return job, s.mayJob(op, job)
}

// JobAction is what an operator does with a job that is there.
type JobAction string

// The actions.
const (
	JobPause  JobAction = "pause"
	JobResume JobAction = "resume"
	JobCancel JobAction = "cancel"
	JobRate   JobAction = "rate" // by ChangeJobRate
)

// MayJobAction tells whether the action means anything for the job as it is.
func MayJobAction(job Job, action JobAction) bool {
	switch action {
	case JobPause:
		return job.State == JobQueued || job.State == JobRunning
	case JobResume:
		return job.State == JobPaused
	case JobCancel:
		return !job.State.Ended()
	case JobRate:
		return !job.State.Ended() && job.Rate > 0
	}
	return false
}

// ChangeJob pauses, resumes or cancels a job. What a step has begun is finished. The same again changes nothing.
func (s *Service) ChangeJob(ctx context.Context, op Operator, id string, action JobAction, reason string) (Job, error) {
	return s.changeJob(ctx, op, id, reason, func(job *Job, entry *Entry) (bool, error) {
		if !MayJobAction(*job, action) {
			return false, nil // it ended meanwhile, or somebody was faster
		}
		switch now := s.cfg.Now().UTC(); action {
		case JobPause:
			job.State, entry.Type = JobPaused, EventOperatorJobPaused
		case JobResume:
			if err := s.roomForJob(ctx, op, *job); err != nil {
				return false, err
			}
			job.State, job.Troubles, entry.Type = JobQueued, 0, EventOperatorJobResumed
		case JobCancel:
			job.State, job.EndedAt, job.Result, entry.Type = JobCancelled, now, "cancelled by "+op.ID+": "+entry.Reason, EventOperatorJobEnded
			entry.Outcome += " " + string(JobCancelled)
		default:
			return false, Errorf(CodeInvalidRequest, "there is no such action")
		}
		return true, nil
	})
}

// ChangeJobRate makes a job do so many pieces of work a second at most, from its next step on: within a second or two, wherever it
// runs. Nothing of what is under way is lost. The same rate again changes nothing.
func (s *Service) ChangeJobRate(ctx context.Context, op Operator, id string, rate int, reason string) (Job, error) {
	return s.changeJob(ctx, op, id, reason, func(job *Job, entry *Entry) (bool, error) {
		if !MayJobAction(*job, JobRate) || job.Rate == rate {
			return false, nil
		}
		if kind, _ := s.jobKind(job.Kind); rate < 1 || rate > kind.mostRate {
			return false, Errorf(CodeInvalidRequest, "the rate is 1 to %d a second", kind.mostRate)
		}
		entry.Type, entry.Reason = EventOperatorJobRate, firstBytes(fmt.Sprintf("%d to %d a second: %s", job.Rate, rate, entry.Reason), maxReason)
		job.Rate = rate
		return true, nil
	})
}

// changeJob does with the job what change says, which is asked again where the run wrote meanwhile: what that did counts all the same.
// change completes what is put on record; false: there is nothing to do.
func (s *Service) changeJob(ctx context.Context, op Operator, id, reason string, change func(job *Job, entry *Entry) (bool, error)) (Job, error) {
	job, err := s.GetJob(ctx, op, id)
	if err != nil {
		return Job{}, err
	}
	if reason, err = operatorReason(reason); err != nil {
		return Job{}, err
	}
	recorded := false
	for range releaseAttempts {
		entry := Entry{Tenant: job.Tenant, Connector: job.Connector, Outcome: string(job.Kind), Reason: reason}
		if something, err := change(&job, &entry); err != nil || !something {
			return job, err
		}
		job.UpdatedAt = s.cfg.Now().UTC()
		if !recorded {
			if err := s.recordOperator(ctx, op, entry); err != nil {
				return Job{}, err
			}
			recorded = true
		}
		changed, err := s.updateJob(ctx, job, 0)
		if err == nil {
			s.wakeJobs()
			return changed, nil
		}
		if !errors.Is(err, ErrConflict) {
			return Job{}, storeError("change the job", err)
		}
		if job, err = s.GetJob(ctx, op, id); err != nil {
			return Job{}, err
		}
	}
	return Job{}, storeError("change the job", ErrConflict)
}

// words says the progress in one line.
func (p JobProgress) words() string {
	parts := []string{fmt.Sprintf("%d done", p.Done)}
	for _, part := range []struct {
		n    int64
		what string
	}{{p.Failed, "failed"}, {p.Skipped, "skipped"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	return strings.Join(parts, ", ")
}
