package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// The stored form of a job: one hash, which has a TTL once the job ended.
//
//	v format version   ver version of the job   wid id of the last write   b the rest, sealed
//	own, dl            the lease: which run has it, end in ms by the store's clock
//
// All jobs lie in one shard: they are few, and every replica looks there for what is due. Beside the records two sorted sets: the
// ids of all, which sort newest first, and those that are due, by the time from which on they are.
const (
	jobFormat = "1"
	fieldJob  = "id" // of what says once: the job

	// onceLife is how long what says once is kept.
	onceLife = 24 * time.Hour
	// maxJobID bounds what becomes a part of a key name.
	maxJobID = 64
	// jobsListed is how many jobs the list has, the newest: those that nobody lists any more would stay in it for good.
	jobsListed = 1000
)

var _ broker.Jobs = (*Store)(nil)

type storedJob struct {
	ID        string           `json:"id"`
	Kind      string           `json:"k"`
	Tenant    string           `json:"t,omitempty"`
	Connector string           `json:"cn,omitempty"`
	Reason    string           `json:"re,omitempty"`
	StartedBy string           `json:"by,omitempty"`
	Rate      int              `json:"ra,omitempty"`
	State     string           `json:"st"`
	Done      int64            `json:"do,omitempty"`
	Failed    int64            `json:"fa,omitempty"`
	Skipped   int64            `json:"sk,omitempty"`
	Total     int64            `json:"to,omitempty"`
	Note      string           `json:"no,omitempty"`
	Counts    map[string]int64 `json:"co,omitempty"`
	Position  string           `json:"ps,omitempty"`
	Result    string           `json:"rs,omitempty"`
	CreatedAt int64            `json:"ca"`
	UpdatedAt int64            `json:"ua"`
	EndedAt   int64            `json:"ea,omitempty"`
	Troubles  int              `json:"tb,omitempty"`
	RequestID string           `json:"rq,omitempty"`
	TraceID   string           `json:"tr,omitempty"`
}

func storeJob(j broker.Job) storedJob {
	p := j.Progress
	return storedJob{
		ID: j.ID, Kind: string(j.Kind), Tenant: j.Tenant, Connector: j.Connector, Reason: j.Reason, StartedBy: j.StartedBy, Rate: j.Rate, State: string(j.State),
		Done: p.Done, Failed: p.Failed, Skipped: p.Skipped, Total: p.Total, Note: p.Note, Counts: p.Counts, Position: j.Position, Result: j.Result,
		CreatedAt: millis(j.CreatedAt), UpdatedAt: millis(j.UpdatedAt), EndedAt: millis(j.EndedAt), Troubles: j.Troubles, RequestID: j.RequestID, TraceID: j.TraceID,
	}
}

func (j storedJob) job(version int64) broker.Job {
	return broker.Job{
		ID: j.ID, Kind: broker.JobKind(j.Kind), Tenant: j.Tenant, Connector: j.Connector, Reason: j.Reason, StartedBy: j.StartedBy, Rate: j.Rate, State: broker.JobState(j.State),
		Progress: broker.JobProgress{Done: j.Done, Failed: j.Failed, Skipped: j.Skipped, Total: j.Total, Note: j.Note, Counts: j.Counts},
		Position: j.Position, Result: j.Result, CreatedAt: fromMillis(j.CreatedAt), UpdatedAt: fromMillis(j.UpdatedAt), EndedAt: fromMillis(j.EndedAt),
		Troubles: j.Troubles, RequestID: j.RequestID, TraceID: j.TraceID, Version: version,
	}
}

func jobPlace(id string, version int64) []byte {
	return place("job", "", id, fieldBody, jobFormat, strconv.FormatInt(version, 10))
}

// jobShard is where all jobs lie.
func (s *Store) jobShard() byte { return s.Shard("", "jobs") }

// usableJobID tells whether the id can be that of a job. It becomes part of a key name.
func usableJobID(id string) bool {
	return id != "" && len(id) <= maxJobID && strings.IndexFunc(id, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}) < 0
}

func (s *Store) openJob(id string, record map[string][]byte) (broker.Job, error) {
	body, version, err := openVersioned(s.seals, record, jobFormat, func(version int64) []byte { return jobPlace(id, version) },
		func(j storedJob) (string, bool) { return j.Tenant, j.ID == id })
	if err != nil {
		return broker.Job{}, fmt.Errorf("job: %w", err)
	}
	return body.job(version), nil
}

// CreateJob implements broker.Jobs.
func (s *Store) CreateJob(ctx context.Context, j broker.Job, once string) (broker.Job, bool, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	shard := s.jobShard()
	key := jobOnceKey(shard, s.onceTag(j.Tenant, j.StartedBy, string(j.Kind)+" "+once))
	life := strconv.FormatInt(onceLife.Milliseconds(), 10)
	made, err := s.writeJob(ctx, "create job", j, nil,
		[]Check{{Key: key, Field: fieldJob, Kind: CheckAbsent}},
		[]Write{
			{Kind: WriteHashSet, Key: key, Args: []string{fieldJob, j.ID}}, {Kind: WriteExpireIn, Key: key, Args: []string{life}},
			{Kind: WriteSortedTrim, Key: jobsKey(shard), Args: []string{strconv.Itoa(jobsListed), "-1"}},
		})
	if !errors.Is(err, broker.ErrConflict) {
		return made, err == nil, err
	}
	found, err := s.hashes(ctx, key)
	if err != nil {
		return broker.Job{}, false, err
	}
	first, err := s.Job(ctx, string(found[0][fieldJob]))
	return first, false, err
}

// Job implements broker.Jobs.
func (s *Store) Job(ctx context.Context, id string) (broker.Job, error) {
	if !usableJobID(id) {
		return broker.Job{}, fmt.Errorf("job: %w", broker.ErrNotFound)
	}
	found, err := s.hashes(ctx, jobKey(s.jobShard(), id))
	if err != nil {
		return broker.Job{}, err
	}
	return s.openJob(id, found[0])
}

// ListJobs implements broker.Jobs. Those whose time is over leave the list here, and the oldest of very many when one is made.
func (s *Store) ListJobs(ctx context.Context, position string, limit int) ([]broker.Job, string, error) {
	shard := s.jobShard()
	limit = max(1, limit)
	query := IndexQuery{Index: jobsKey(shard), Records: jobPrefix(shard), After: position, Limit: limit + 1}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) {
		return s.cfg.Backend.Indexed(ctx, []IndexQuery{query})
	})
	if err != nil {
		return nil, "", err
	}
	items := found[0]
	next := ""
	if len(items) > limit {
		items, next = items[:limit], items[limit-1].Member
	}
	var jobs []broker.Job
	for _, item := range items {
		j, err := s.openJob(item.Member, item.Record)
		switch {
		case errors.Is(err, broker.ErrNotFound):
			if _, err := s.trails.direct(ctx, Step{
				Checks: []Check{{Key: jobKey(shard, item.Member), Field: fieldVersion, Kind: CheckAbsent}},
				Writes: []Write{{Kind: WriteSortedRemove, Key: jobsKey(shard), Args: []string{item.Member}}, {Kind: WriteSortedRemove, Key: jobsDueKey(shard), Args: []string{item.Member}}},
			}); err != nil {
				return nil, "", fmt.Errorf("clear the list of jobs: %w", err)
			}
		case err != nil:
			s.cfg.Log.WarnContext(ctx, "job left out of the list", "job", item.Member, "error", err)
		default:
			jobs = append(jobs, j)
		}
	}
	return jobs, next, nil
}

// ClaimJobs implements broker.Jobs. What is due is asked for by this process's clock, and taken by the store's.
func (s *Store) ClaimJobs(ctx context.Context, lease time.Duration, limit int) ([]broker.Job, error) {
	if err := s.healJobs(ctx); err != nil {
		return nil, err
	}
	shard := s.jobShard()
	query := ScoreQuery{Key: jobsDueKey(shard), Max: s.cfg.Now().UnixMilli(), Limit: 10 * max(1, limit)}
	due, err := readPatiently(ctx, func(ctx context.Context) ([][]Scored, error) { return s.cfg.Backend.Scored(ctx, []ScoreQuery{query}) })
	if err != nil {
		return nil, err
	}
	var mine []broker.Job
	for _, d := range due[0] {
		if len(mine) >= limit {
			break
		}
		j, err := s.claimJob(ctx, shard, d.Member, lease)
		switch {
		case errors.Is(err, broker.ErrBusy):
		case errors.Is(err, broker.ErrNotFound), errors.Is(err, broker.ErrIntegrity), errors.Is(err, broker.ErrNewerFormat):
			s.cfg.Log.WarnContext(ctx, "a job that is due can't be run", "job", d.Member, "error", err)
			later := strconv.FormatInt(s.cfg.Now().Add(time.Hour).UnixMilli(), 10)
			if _, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteSortedAdd, Key: jobsDueKey(shard), Args: []string{later, d.Member}}}}); err != nil {
				return mine, fmt.Errorf("put a job off: %w", err)
			}
		case err != nil:
			return mine, err
		default:
			mine = append(mine, j)
		}
	}
	return mine, nil
}

func (s *Store) claimJob(ctx context.Context, shard byte, id string, lease time.Duration) (broker.Job, error) {
	claim, err := s.randomID()
	if err != nil {
		return broker.Job{}, err
	}
	key := jobKey(shard, id)
	r, err := s.trails.direct(ctx, Step{
		Checks: []Check{
			{Key: key, Field: fieldOwner, Kind: CheckApplied, Value: claim},
			{Key: key, Field: fieldFormat, Kind: CheckEqual, Value: jobFormat},
			{Key: key, Field: fieldDeadline, Kind: CheckFree},
		},
		Writes: append([]Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldOwner, claim}}}, s.leaseWrites(shard, id, lease)...),
		Reads:  []Read{{Key: key}},
	})
	if err != nil {
		return broker.Job{}, fmt.Errorf("take a job: %w", err)
	}
	if len(r.Reads) == 0 || r.Verdict == VerdictRefused && r.Refused > 1 {
		return broker.Job{}, broker.ErrBusy
	}
	j, err := s.openJob(id, r.Reads[0]) // gone, or of a newer format, if that is why it was refused
	if err == nil && j.State != broker.JobQueued && j.State != broker.JobRunning {
		err = fmt.Errorf("job: it is not to be run: %w", broker.ErrNotFound)
	}
	j.Claim = claim
	return j, err
}

// leaseWrites make the lease on the job last from now on, and the job due again when it ends; 0: at once.
func (s *Store) leaseWrites(shard byte, id string, lease time.Duration) []Write {
	key, due := jobKey(shard, id), strconv.FormatInt(s.cfg.Now().Add(lease).UnixMilli(), 10)
	writes := []Write{{Kind: WriteSortedAdd, Key: jobsDueKey(shard), Args: []string{due, id}}}
	if lease <= 0 {
		return append(writes, Write{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}})
	}
	return append(writes, Write{Kind: WriteDeadline, Key: key, Args: []string{fieldDeadline, strconv.FormatInt(lease.Milliseconds(), 10)}})
}

// ExtendJob implements broker.Jobs.
func (s *Store) ExtendJob(ctx context.Context, j broker.Job, lease time.Duration) error {
	if j.Claim == "" || !usableJobID(j.ID) {
		return fmt.Errorf("extend the lease on a job: %w", broker.ErrConflict)
	}
	shard := s.jobShard()
	r, err := s.trails.direct(ctx, Step{
		Checks: []Check{{Key: jobKey(shard, j.ID), Field: fieldOwner, Kind: CheckEqual, Value: j.Claim}},
		Writes: s.leaseWrites(shard, j.ID, lease),
	})
	if err == nil && r.Verdict == VerdictRefused {
		err = broker.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("extend the lease on a job: %w", err)
	}
	return nil
}

// UpdateJob implements broker.Jobs.
func (s *Store) UpdateJob(ctx context.Context, j broker.Job, lease time.Duration) (broker.Job, error) {
	if !usableJobID(j.ID) || j.Version < 1 {
		return broker.Job{}, fmt.Errorf("update job: %w", broker.ErrNotFound)
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	return s.writeJob(ctx, "update job", j, &lease, nil, nil)
}

// writeJob writes the record, with further checks and writes of the same shard.
func (s *Store) writeJob(ctx context.Context, what string, j broker.Job, lease *time.Duration, checks []Check, writes []Write) (broker.Job, error) {
	if !usableJobID(j.ID) {
		return broker.Job{}, fmt.Errorf("%s: its id can't be stored", what)
	}
	plain, err := json.Marshal(storeJob(j))
	if err != nil {
		return broker.Job{}, fmt.Errorf("encode job: %w", err)
	}
	version := j.Version + 1
	sealed, err := s.seals.sealFor(j.Tenant, plain, jobPlace(j.ID, version))
	if err != nil {
		return broker.Job{}, err
	}
	id, err := s.randomID()
	if err != nil {
		return broker.Job{}, err
	}
	shard := s.jobShard()
	key := jobKey(shard, j.ID)
	step := Step{Confirm: s.cfg.Confirm, Checks: append(versionChecks(key, jobFormat, j.Version, id), checks...), Writes: append([]Write{
		{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, jobFormat, fieldVersion, strconv.FormatInt(version, 10), fieldWrite, id, fieldBody, sealed}},
		{Kind: WriteSortedAdd, Key: jobsKey(shard), Args: []string{"0", j.ID}},
	}, writes...)}
	if j.Claim != "" {
		step.Checks = append(step.Checks, Check{Key: key, Field: fieldOwner, Kind: CheckEqual, Value: j.Claim})
	}
	if j.Claim != "" && (j.State.Ended() || j.State == broker.JobPaused) {
		step.Writes = append(step.Writes, Write{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}})
	}
	switch {
	case j.State.Ended():
		step.Writes = append(step.Writes,
			Write{Kind: WriteSortedRemove, Key: jobsDueKey(shard), Args: []string{j.ID}},
			Write{Kind: WriteExpireAt, Key: key, Args: []string{strconv.FormatInt(s.cfg.Now().Add(broker.JobKept).UnixMilli(), 10)}})
	case j.State == broker.JobPaused:
		step.Writes = append(step.Writes, Write{Kind: WriteSortedRemove, Key: jobsDueKey(shard), Args: []string{j.ID}})
	case j.Claim != "" && lease != nil:
		step.Writes = append(step.Writes, s.leaseWrites(shard, j.ID, *lease)...)
	default:
		// Whoever has the lease keeps it; whoever looks for work finds out by it that there is nothing to do yet.
		step.Writes = append(step.Writes, Write{Kind: WriteSortedAdd, Key: jobsDueKey(shard), Args: []string{strconv.FormatInt(s.cfg.Now().UnixMilli(), 10), j.ID}})
	}
	r, err := s.trails.direct(ctx, step)
	if err != nil {
		return broker.Job{}, fmt.Errorf("%s: %w", what, err)
	}
	if r.Verdict == VerdictRefused {
		return broker.Job{}, fmt.Errorf("%s: %w", what, broker.ErrConflict)
	}
	s.jobs.put(jobWrite{id: j.ID, version: version, write: id, writes: step.Writes}, s.cfg.Now())
	stored := storeJob(j).job(version)
	stored.Claim = j.Claim
	return stored, nil
}
