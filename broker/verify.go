package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"
)

// This file verifies the audit trail as a job.

// JobVerify walks the audit trail of a tenant, or all of it, and names the first event that was changed, dropped or reordered.
const JobVerify JobKind = "verify"

// verifyStep is for how long one step works, about.
const verifyStep = 2 * time.Second

// VerifyTrail starts the job. once as in startJob.
func (s *Service) VerifyTrail(ctx context.Context, op Operator, tenant, reason, once string) (Job, error) {
	if err := op.Check(PermitExport, tenant); err != nil {
		return Job{}, err
	}
	reason, err := operatorReason(reason)
	if err != nil {
		return Job{}, err
	}
	if s.cfg.Verifier == nil {
		return Job{}, serverError(errNoVerifier)
	}
	return s.startJob(ctx, op, Job{Kind: JobVerify, Tenant: tenant, Reason: reason}, once)
}

// TrailVerification returns a job of VerifyTrail.
func (s *Service) TrailVerification(ctx context.Context, op Operator, id string) (Job, error) {
	job, err := s.GetJob(ctx, op, id)
	if err == nil && job.Kind != JobVerify {
		return Job{}, errNoJob()
	}
	return job, err
}

// TrailVerifications are the newest jobs of VerifyTrail that the operator may see, at most limit.
func (s *Service) TrailVerifications(ctx context.Context, op Operator, limit int) ([]Job, error) {
	all, err := s.ListJobs(ctx, op, jobsRead)
	if err != nil {
		return nil, err
	}
	var out []Job
	for _, job := range all {
		if job.Kind == JobVerify && len(out) < limit {
			out = append(out, job)
		}
	}
	return out, nil
}

// verifyPosition is the position of the job: where to go on, and what was found so far.
type verifyPosition struct {
	Next  string      `json:"n"`
	First *TrailFault `json:"f,omitempty"` // one that was not lost, if there is one
}

// verifyTrail is a step of the job.
func (s *Service) verifyTrail(ctx context.Context, job Job) (jobStep, error) {
	if s.cfg.Verifier == nil {
		return jobStep{}, serverError(errNoVerifier)
	}
	var at verifyPosition
	if job.Position != "" {
		if err := json.Unmarshal([]byte(job.Position), &at); err != nil {
			return jobStep{}, serverError(fmt.Errorf("position of a job: %w", err))
		}
	}
	found, err := s.cfg.Verifier.VerifyTrail(ctx, job.Tenant, at.Next, verifyStep)
	if err != nil {
		return jobStep{}, storeError("read the audit trail", err)
	}
	for _, f := range found.Faults {
		if at.First == nil || at.First.Lost && !f.Lost { // what nobody but a tamperer does comes first
			at.First = &f
		}
	}
	at.Next = found.Next
	p := job.Progress
	p.Counts = maps.Clone(p.Counts)
	if p.Counts == nil {
		p.Counts = make(map[string]int64)
	}
	p.Done += int64(found.Streams)
	p.Total = max(p.Done, int64(found.Total))
	p.Failed += int64(len(found.Faults))
	p.Counts["entries"] += int64(found.Entries)
	p.Counts["events"] += int64(found.Events)
	p.Note = ""
	if at.First != nil {
		p.Note = "first bad event: " + at.First.Place()
	}
	position, err := json.Marshal(at)
	if err != nil {
		return jobStep{}, serverError(err)
	}
	step := jobStep{position: string(position), progress: p}
	if found.Next == "" {
		step.ended, step.result = JobDone, verified(p, at.First)
	}
	return step, nil
}

// verified is the result in words.
func verified(p JobProgress, first *TrailFault) string {
	walked := fmt.Sprintf("%d events in %d entries of %d streams", p.Counts["events"], p.Counts["entries"], p.Done)
	switch {
	case first == nil:
		return "the audit trail is whole: " + walked
	case first.Lost:
		return fmt.Sprintf("the audit trail has gaps, and is otherwise as it was written: the first bad event is %s: %s, in a crash or failover or because somebody set it back; bad places in all: %d; %s", first.Place(), first.What, p.Failed, walked)
	}
	return fmt.Sprintf("the audit trail was tampered with: the first bad event is %s: %s; what lies behind it in that stream was not looked at; bad places in all: %d; %s", first.Place(), first.What, p.Failed, walked)
}
