package broker

import (
	"context"
	"time"
)

// Counters keeps what the charts of the dashboard are drawn from: sums by tenant and time. They are for the eye alone, the
// audit trail is the truth: a process that dies takes its last seconds of them along.
type Counters interface {
	// AddCounts adds the counts of one tenant (Everywhere: of all together) to their buckets. batch names the call among those of
	// this writer: the same batch again changes nothing, so that it can be repeated when nobody knows what became of it. A
	// writer's batches come one after the other.
	AddCounts(ctx context.Context, tenant, writer, batch string, counts []BucketCounts) error
	// Counts reads the tenant's buckets that begin at from or later and before until, at most MaxBuckets, in their order, those
	// without counts too. One round trip.
	Counts(ctx context.Context, tenant string, grain Grain, from, until time.Time) ([]BucketCounts, error)
}

// MaxBuckets bounds what is read at once.
const MaxBuckets = 200

// Grain is how long a bucket is.
type Grain string

// The grains: the finer, the sooner forgotten.
const (
	GrainMinute Grain = "minute"
	GrainHour   Grain = "hour"
	GrainDay    Grain = "day" // of UTC
)

// Length of a bucket.
func (g Grain) Length() time.Duration {
	switch g {
	case GrainMinute:
		return time.Minute
	case GrainHour:
		return time.Hour
	}
	return 24 * time.Hour
}

// Kept is how long buckets are kept behind their end.
func (g Grain) Kept() time.Duration {
	if g == GrainMinute {
		return 6 * time.Hour
	}
	return 90 * 24 * time.Hour
}

// Bucket is the one that the time falls into.
func (g Grain) Bucket(at time.Time) time.Time { return at.UTC().Truncate(g.Length()) }

// BucketCounts are the counts of one bucket.
type BucketCounts struct {
	Grain  Grain
	Start  time.Time
	Counts map[Tally]int64
}

// Tally is one thing that is counted.
type Tally struct {
	Measure   Measure
	Code      string // why, or which part of a distribution; of our own lists
	Connector string // an id, or one of the names below
}

// Connectors that are counted together.
const (
	TalliedUnknown = "*unknown" // what a caller asked for and there is not
	TalliedOthers  = "*others"  // those of a tenant's own that are too many to be counted each
	TalliedTenants = "*tenants" // in the counts of all tenants together: what tenants made
)

// Measure is a kind of count.
type Measure string

// The measures.
const (
	MeasureIssued        Measure = "issued"         // tokens handed out
	MeasureRefused       Measure = "refused"        // token requests that were answered with that code
	MeasureRefreshed     Measure = "refreshed"      // refreshes that gave a token
	MeasureRefreshFailed Measure = "refresh_failed" // by code
	MeasureLatency       Measure = "latency"        // of refreshes that gave a token: Code is the index in LatencyBounds, from 0
	MeasureConsent       Measure = "consent"        // consents that reached the status that Code is
	MeasureEnded         Measure = "ended"          // grants found to be over, by reason
)

// LatencyBounds are the upper ends of the parts of MeasureLatency; what took longer is in one more.
func LatencyBounds() []time.Duration {
	const ms = time.Millisecond
	return []time.Duration{10 * ms, 25 * ms, 50 * ms, 100 * ms, 250 * ms, 500 * ms, time.Second, 2500 * ms, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute}
}
