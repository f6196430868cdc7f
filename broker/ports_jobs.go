package broker

import (
	"context"
	"time"
)

// JobKind says what a job does; jobKinds has what each of them needs.
type JobKind string

// JobState is where a job stands.
type JobState string

// The states. A job that is queued or running is carried on by whichever replica is there; the last three are final.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobPaused    JobState = "paused"
	JobCancelled JobState = "cancelled"
	JobDone      JobState = "done"
	JobFailed    JobState = "failed"
)

// Ended tells that nothing more becomes of the job.
func (s JobState) Ended() bool { return s == JobCancelled || s == JobDone || s == JobFailed }

// JobKept is how long a job is kept after its end.
const JobKept = 30 * 24 * time.Hour

// Job is a piece of work that an operator started and that takes longer than a request: it is done in steps, and any replica goes
// on where the last step ended. Position, Progress and Result belong to whoever runs it, State and Rate to operators, but for the
// states that come of running.
type Job struct {
	ID        string
	Kind      JobKind
	Tenant    string // Everywhere: of the whole installation
	Connector string // "": of none in particular
	Reason    string
	StartedBy string // the operator's id
	Rate      int    // how many pieces of work a second at most; 0: the kind has no such limit
	State     JobState
	Progress  JobProgress
	// Position is where the next step begins. What it means is the kind's own business; it holds no secret.
	Position  string
	Result    string // in words, once it ended
	CreatedAt time.Time
	UpdatedAt time.Time
	EndedAt   time.Time // zero: it has not
	// Troubles counts the steps since the last one that went well.
	Troubles  int
	RequestID string
	TraceID   string

	// Claim names the run that holds the lease on the job; "" in what Job and ListJobs return. Set by ClaimJobs.
	Claim string
	// Version grows by one with every write of the record. A write names the version that it was made from.
	Version int64
}

// JobProgress is how far a job is. Zero Total: nobody knows how much there is.
type JobProgress struct {
	Done, Failed, Skipped, Total int64
	Note                         string // what is going on, in words
	// Counts are further counts by their names in words, as they go into the result.
	Counts map[string]int64
}

// Jobs keeps jobs, sealed. They are few.
type Jobs interface {
	// CreateJob stores a new job (Version 0), due at once. once says what must not be begun twice: for a day a second call with
	// it, for the same kind, tenant and starter, returns the job that the first one made, and false. Durable.
	CreateJob(ctx context.Context, job Job, once string) (Job, bool, error)
	// Job returns one by its id; the caller checks whose it is. ErrNotFound.
	Job(ctx context.Context, id string) (Job, error)
	// ListJobs pages through the jobs, newest first, at least the newest 1000. Those that can't be read are left out. Position as in Connections.List.
	ListJobs(ctx context.Context, position string, limit int) ([]Job, string, error)
	// ClaimJobs takes the lease on jobs that are due, at most limit: queued or running ones on which nobody has it, by the
	// store's clock. Each comes with a Claim of its own.
	ClaimJobs(ctx context.Context, lease time.Duration, limit int) ([]Job, error)
	// ExtendJob makes the lease last that long from now on. ErrConflict: it is another's by now.
	ExtendJob(ctx context.Context, job Job, lease time.Duration) error
	// UpdateJob writes the job if the stored one is still at job.Version, and, if it names a Claim, that has the lease; which
	// then lasts that long from now on, or ends with lease 0. Without a Claim the lease stays as it is. A job that ended is due no
	// more, and is kept for JobKept. ErrConflict, ErrNotFound. Durable.
	UpdateJob(ctx context.Context, job Job, lease time.Duration) (Job, error)
}
