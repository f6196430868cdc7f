package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// This file is the job that ends all connections of a tenant, of a connector, or of a connector within a tenant (threats.md, row 80).

const (
	// DefaultRevokeRate is how many connections a second are ended unless the operator says otherwise, and MaxRevokeRate the most.
	DefaultRevokeRate = 10
	MaxRevokeRate     = 200

	// revokesAtOnce is how many of a batch are with the provider at the same time.
	revokesAtOnce = 8
	// revokeBatchMost bounds a batch: its ids are part of the job's record.
	revokeBatchMost = 50
	// revokeRounds is how often the job looks from the beginning for what was connected meanwhile.
	revokeRounds = 20
	// revokeBatchTries is how often the same connections are tried whose provider throttles, or does not answer; then the grants are ended here
	// alone.
	revokeBatchTries = 15
	// revokeSkips is how many may be left over that can't be ended.
	revokeSkips = 100
	// revokePauseMost bounds how long a provider may ask to wait.
	revokePauseMost = 10 * time.Minute
)

// RevokeAllRequest says what to end.
type RevokeAllRequest struct {
	Tenant    string // Everywhere: of all tenants; then Connector is needed
	Connector string // "": all of the tenant's
	Rate      int    // connections a second; 0: DefaultRevokeRate
	Reason    string
}

func (r RevokeAllRequest) check(op Operator) error {
	if err := op.Check(PermitStopAll, r.Tenant); err != nil {
		return err
	}
	switch {
	case r.Tenant == Everywhere && r.Connector == "":
		return Errorf(CodeInvalidRequest, "choose a tenant or a connector: nothing ends the connections of the whole installation at once")
	case r.Rate < 0 || r.Rate > MaxRevokeRate:
		return Errorf(CodeInvalidRequest, "the rate is 1 to %d connections a second", MaxRevokeRate)
	}
	return nil
}

// RevokeAll starts the job. once is made with the form.
func (s *Service) RevokeAll(ctx context.Context, op Operator, req RevokeAllRequest, once string) (Job, error) {
	if err := req.check(op); err != nil {
		return Job{}, err
	}
	var err error
	if req.Reason, err = operatorReason(req.Reason); err != nil {
		return Job{}, err
	}
	if req.Rate == 0 {
		req.Rate = DefaultRevokeRate
	}
	return s.startJob(ctx, op, Job{Kind: JobRevokeAll, Tenant: req.Tenant, Connector: req.Connector, Rate: req.Rate, Reason: req.Reason}, once)
}

// CountRevokeAll is how many connections the job would end, as far as is known.
func (s *Service) CountRevokeAll(ctx context.Context, op Operator, req RevokeAllRequest) (int, error) {
	if err := req.check(op); err != nil {
		return 0, err
	}
	return s.countLive(ctx, req.Tenant, req.Connector)
}

func (s *Service) countLive(ctx context.Context, tenant, connector string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	classes, err := s.cfg.Index.Classes(ctx)
	if err != nil {
		return 0, storeError("count the connections", err)
	}
	n := 0
	for _, c := range classes {
		if liveOf(tenant, connector)(c.ConnectionClass) {
			n += c.Count
		}
	}
	return n, nil
}

// liveOf selects what the job ends.
func liveOf(tenant, connector string) func(ConnectionClass) bool {
	return func(c ConnectionClass) bool {
		return c.Status != ConnectionRevoked && (tenant == Everywhere || c.Tenant == tenant) && (connector == "" || c.Connector == connector)
	}
}

// revokePosition is Job.Position of this kind. The ids of a batch are kept before any of it is ended: whoever goes on after a crash
// finishes exactly those, and counts each once.
type revokePosition struct {
	Batch []revokeItem `json:"b,omitempty"`
	// Tries is how often the first Tried of the batch were tried, at Rate connections a second. What comes behind them has tries of its own,
	// and so has the same at another rate: an operator lowers it because the provider throttles.
	Tries int   `json:"n,omitempty"`
	Tried int   `json:"nt,omitempty"`
	Rate  int   `json:"nr,omitempty"`
	Until int64 `json:"u,omitempty"` // ms: the provider shall be left alone till then
	// Round counts from 0; Found is what this one has found. The last one finds nothing. Each reads the index, and then the records
	// themselves (Listing), which miss nothing: tenant after tenant.
	// Skipped can't be ended, and are not tried again.
	Skipped []string `json:"s,omitempty"`
	Round   int      `json:"r,omitempty"`
	Found   int      `json:"f,omitempty"`
	Listing bool     `json:"l,omitempty"`
	Tenant  string   `json:"t,omitempty"`
	At      string   `json:"p,omitempty"`
}

type revokeItem struct {
	Tenant string `json:"t"`
	ID     string `json:"i"`
}

// What is counted, in words.
const (
	countRevoked     = "revoked at the provider"
	countUnsupported = "ended here; the provider has no revocation, or others share the grant"
	countUnconfirmed = "ended here; the provider did not confirm"
)

func (s *Service) stepRevokeAll(ctx context.Context, job Job) (jobStep, error) {
	step := jobStep{position: job.Position, progress: job.Progress}
	step.progress.Note, step.progress.Counts = "", cloneCounts(job.Progress.Counts)
	var at revokePosition
	if job.Position != "" {
		if err := json.Unmarshal([]byte(job.Position), &at); err != nil {
			return step, serverError(fmt.Errorf("position of a job: %w", err))
		}
	} else if n, err := s.countLive(ctx, job.Tenant, job.Connector); err == nil {
		step.progress.Total = int64(n)
	}
	if wait := time.UnixMilli(at.Until).Sub(s.cfg.Now()); at.Until > 0 && wait > 0 {
		step.wait, step.progress.Note = wait, "the provider asked to wait"
		return step, nil
	}
	// A second's worth: the batch may have been made while the rate was higher.
	began, size := s.cfg.Now(), min(len(at.Batch), max(1, job.Rate))
	if at.Tries > 0 && at.Rate == job.Rate {
		size = min(size, max(1, at.Tried))
	} else {
		at.Tries = 0
	}
	later := at.Batch[size:]
	left, throttled, err := s.revokeBatch(ctx, job, &at, at.Batch[:size], &step.progress)
	if err != nil {
		return step, err
	}
	if at.Batch, at.Until = append(left, later...), 0; len(left) > 0 {
		at.Tries, at.Tried, at.Rate = at.Tries+1, len(left), job.Rate
		step.wait = min(max(throttled, time.Second), revokePauseMost)
		at.Until, step.progress.Note = s.cfg.Now().Add(step.wait).UnixMilli(), "the provider throttles or does not answer: it is asked again soon"
		return step.at(at)
	}
	if at.Tries, at.Tried, at.Rate = 0, 0, 0; ctx.Err() != nil {
		return step.at(at)
	}
	// So many a second, however fast the provider is.
	rest := func() time.Duration {
		return began.Add(time.Second * time.Duration(size) / time.Duration(max(1, job.Rate))).Sub(s.cfg.Now())
	}
	if len(later) > 0 {
		step.wait = rest()
		return step.at(at)
	}
	more, err := s.nextBatch(ctx, job, &at)
	if err != nil {
		// What was ended is kept; the next step looks again.
		step.progress.Note, step.wait = "tried again soon: "+publicWords(err), jobPauseMin
		return step.at(at)
	}
	if !more {
		step.ended, step.result = JobDone, revokeResult(step.progress)
		if at.Found > 0 {
			step.ended, step.result = JobFailed, "connections are made faster than they are ended: disable it first, then start again; "+step.result
		}
	}
	step.progress.Total = max(step.progress.Total, step.progress.Done+step.progress.Failed+int64(len(at.Batch)))
	step.wait = rest()
	return step.at(at)
}

func (step jobStep) at(at revokePosition) (jobStep, error) {
	position, err := json.Marshal(at)
	if err != nil {
		return step, serverError(err)
	}
	step.position = string(position)
	return step, nil
}

func revokeResult(p JobProgress) string {
	out := strconv.FormatInt(p.Done+p.Failed, 10) + " connections ended"
	for _, name := range []string{countRevoked, countUnsupported, countUnconfirmed} {
		if n := p.Counts[name]; n > 0 {
			out += fmt.Sprintf("; %d %s", n, name)
		}
	}
	if p.Skipped > 0 {
		out += fmt.Sprintf("; %d could not be ended, the log tells why", p.Skipped)
	}
	return out
}

func cloneCounts(counts map[string]int64) map[string]int64 {
	next := make(map[string]int64, len(counts))
	for name, n := range counts {
		next[name] = n
	}
	return next
}

// nextBatch finds what to end next. False: a whole round found nothing, or too many found something (at.Found is not 0 then).
func (s *Service) nextBatch(ctx context.Context, job Job, at *revokePosition) (bool, error) {
	size := min(max(job.Rate, 1), revokeBatchMost)
	for range sweepRounds {
		found, err := s.lookFor(ctx, job, at, size)
		if err != nil {
			return false, err
		}
		found = slices.DeleteFunc(found, func(c Connection) bool { return slices.Contains(at.Skipped, c.ID) })
		for _, c := range found {
			at.Batch = append(at.Batch, revokeItem{Tenant: c.Tenant, ID: c.ID})
		}
		at.Found += len(found)
		if len(found) > 0 {
			return true, nil
		}
		if at.At != "" || at.Listing && at.Tenant != "" {
			continue // more of this round
		}
		if at.Listing = !at.Listing; at.Listing {
			continue
		}
		if at.Round++; at.Found == 0 || at.Round >= revokeRounds {
			return false, nil
		}
		at.Found = 0
	}
	return true, nil // there is more to look through: in the next step
}

// lookFor reads one page, and moves on.
func (s *Service) lookFor(ctx context.Context, job Job, at *revokePosition, size int) ([]Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	if !at.Listing {
		found, next, err := s.cfg.Index.OldestOf(ctx, liveOf(job.Tenant, job.Connector), at.At, size)
		if err != nil {
			return nil, storeError("look for connections", err)
		}
		at.At = next
		return found, nil
	}
	tenant := job.Tenant
	if tenant == Everywhere {
		if tenant = at.Tenant; at.At == "" {
			all, err := s.cfg.Connections.Tenants(ctx)
			if err != nil {
				return nil, storeError("look for connections", err)
			}
			tenant = tenantBehind(all, at.Tenant)
		}
		if at.Tenant = tenant; tenant == "" {
			return nil, nil
		}
	}
	found, next, err := s.cfg.Connections.List(ctx, tenant, ConnectionFilter{Connector: job.Connector}, at.At, size)
	if err != nil {
		return nil, storeError("look for connections", err)
	}
	at.At = next
	return slices.DeleteFunc(found, func(c Connection) bool { return c.Status == ConnectionRevoked }), nil
}

// tenantBehind is the next one in the order of their names; "": there is none.
func tenantBehind(all []string, tenant string) string {
	for _, one := range all {
		if one > tenant {
			return one
		}
	}
	return ""
}

// revokeBatch ends the connections of batch, the next of at.Batch, no faster than the job's rate. left are those whose provider throttled or did not
// answer, if it is given time, and throttled how long it wants.
func (s *Service) revokeBatch(ctx context.Context, job Job, at *revokePosition, batch []revokeItem, progress *JobProgress) (left []revokeItem, throttled time.Duration, err error) {
	if at.Tries < revokeBatchTries {
		ctx = context.WithValue(ctx, patientKey{}, true)
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(revokesAtOnce)
	pause := time.Second / time.Duration(max(1, job.Rate))
	note := func(item revokeItem, outcome RevokedUpstream, revokeErr error) {
		mu.Lock()
		defer mu.Unlock()
		var busy *throttledError
		switch {
		case errors.As(revokeErr, &busy):
			left, throttled = append(left, item), max(throttled, busy.after)
		case revokeErr != nil && ctx.Err() == nil && (CodeOf(revokeErr) != CodeTemporarilyUnavailable || errors.Is(revokeErr, ErrNewerFormat)) && len(at.Skipped) < revokeSkips:
			progress.Skipped++
			at.Skipped = append(at.Skipped, item.ID)
			s.cfg.Log.WarnContext(ctx, "a connection could not be ended with the others", "job", job.ID, "connection", item.ID, "error", revokeErr)
		case revokeErr != nil:
			left, err = append(left, item), revokeErr
		case outcome == RevokedFailed:
			progress.Failed++
			progress.Counts[countUnconfirmed]++
		case outcome == RevokedUnsupported:
			progress.Done++
			progress.Counts[countUnsupported]++
		default:
			progress.Done++
			progress.Counts[countRevoked]++
		}
	}
	for i, item := range batch {
		mu.Lock()
		stop := throttled > 0 || err != nil
		mu.Unlock()
		if stop || ctx.Err() != nil || i > 0 && !s.pause(ctx, pause) {
			mu.Lock()
			left = append(left, batch[i:]...)
			mu.Unlock()
			break
		}
		group.Go(func() error {
			outcome, err := s.revokeOne(ctx, job, item)
			note(item, outcome, err)
			return nil
		})
	}
	_ = group.Wait() // no piece returns an error
	if err != nil && len(left) < len(batch) {
		err = nil // what was ended is kept, and counted; the others are tried again
	}
	return left, throttled, err
}

// revokeOne ends one connection, or finishes what was begun of that.
func (s *Service) revokeOne(ctx context.Context, job Job, item revokeItem) (RevokedUpstream, error) {
	conn, err := s.reread(ctx, Connection{Tenant: item.Tenant, ID: item.ID})
	switch {
	case errors.Is(err, ErrNotFound):
		return RevokedDone, nil // erased meanwhile, which revoked it
	case errors.Is(err, ErrIntegrity):
		conn = Connection{Tenant: item.Tenant, ID: item.ID, Connector: job.Connector} // erased all the same
	case err != nil:
		return "", storeError("read the connection", err)
	}
	if conn.Status != ConnectionRevoked {
		op := Operator{ID: job.StartedBy, RequestID: job.RequestID, TraceID: job.TraceID}
		if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorRevoked, conn, job.Reason)); err != nil {
			return "", err
		}
	}
	caller := Caller{Client: Client{Tenant: item.Tenant}, RequestID: job.RequestID, TraceID: job.TraceID}
	return s.revoke(ctx, caller, conn, "ended by an operator, with all others", false)
}

// patientKey marks the context of a revocation that is better put off than given up.
type patientKey struct{}

// throttledError: the provider shall be asked again after that time. What is to be revoked is kept.
type throttledError struct {
	after time.Duration
	cause error
}

func (e *throttledError) Error() string { return fmt.Sprintf("to be revoked later: %v", e.cause) }
func (e *throttledError) Unwrap() error { return e.cause }
