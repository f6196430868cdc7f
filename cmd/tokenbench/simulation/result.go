package simulation

import (
	"cmp"
	"slices"
	"time"
)

// outcome is what one provider's run counts, by the second.
type outcome struct {
	refreshes, urgent, early []float64
	waits                    []weighted
	requests, joins          float64
	failures, aways          float64
}

type weighted struct {
	ms     int64
	weight float64
}

func newOutcome(p Plan) outcome {
	n := int(p.Span.Seconds()) + 1
	return outcome{refreshes: make([]float64, n), urgent: make([]float64, n), early: make([]float64, n)}
}

// counted is the second of a moment; false: it is of the warm-up.
func counted(at int64) (int, bool) { return int(at / 1000), at >= 0 }

func (o *outcome) refreshed(at int64, weight float64) {
	if s, ok := counted(at); ok {
		o.refreshes[s] += weight
	}
}

func (o *outcome) queue(at int64, urgent, early float64) {
	if s, ok := counted(at); ok {
		o.urgent[s], o.early[s] = max(o.urgent[s], urgent), max(o.early[s], early)
	}
}

func (o *outcome) waited(at, ms int64, weight float64) {
	if _, ok := counted(at); ok {
		o.waits = append(o.waits, weighted{ms, weight})
	}
}

func add(at int64, to *float64, weight float64) {
	if at >= 0 {
		*to += weight
	}
}

func (o *outcome) asked(at int64, w float64)    { add(at, &o.requests, w) }
func (o *outcome) joined(at int64, w float64)   { add(at, &o.joins, w) }
func (o *outcome) failed(at int64, w float64)   { add(at, &o.failures, w) }
func (o *outcome) sentAway(at int64, w float64) { add(at, &o.aways, w) }

// Load is a rate over the seconds of the span.
type Load struct {
	Mean float64 `json:"mean"`
	P99  float64 `json:"p99"`
	Peak float64 `json:"peak"`
}

// ProviderResult is what happens at one provider. Refreshes are for each second; queues are the longest of each second; Waits are
// of callers who were given a token that they had to wait for.
type ProviderResult struct {
	ID          string        `json:"id"`
	Connections float64       `json:"connections"`
	Weight      float64       `json:"weight"` // connections that one of the sample stands for
	Requests    float64       `json:"requests"`
	Refreshes   Load          `json:"refreshes_per_second"`
	KeptAlive   float64       `json:"kept_alive_per_second"` // of unused grants, in the refreshes too
	Waiting     Load          `json:"waiting"`
	Early       Load          `json:"early_queue"`
	Waited      float64       `json:"waited"` // callers
	WaitP50     time.Duration `json:"wait_p50"`
	WaitP99     time.Duration `json:"wait_p99"`
	WaitMax     time.Duration `json:"wait_max"`
	SentAway    float64       `json:"sent_away"` // told to come again because the queue was too long
	Failed      float64       `json:"failed"`    // asked while the provider was away and their token had ended
	Limit       float64       `json:"limit_per_second"`
	LimitOf     string        `json:"limit_of"` // what sets it
	Used        float64       `json:"used"`     // the peak, as a part of it
	Published   string        `json:"published,omitempty"`
}

// Result is all of it.
type Result struct {
	Plan      Plan             `json:"plan"`
	Providers []ProviderResult `json:"providers"` // those nearest to their limit first
	Total     Load             `json:"total_per_second"`
	Requests  Load             `json:"token_requests_per_second"` // mean only
	// First is the limit that is nearest: what it is, how much there is of it, and the part that the peak uses.
	First     string  `json:"first_limit"`
	FirstHas  float64 `json:"first_limit_per_second"`
	FirstUsed float64 `json:"first_limit_used"`
	Waited    float64 `json:"waited"`
	total     []float64
}

func newResult(p Plan) Result {
	return Result{Plan: p, total: make([]float64, int(p.Span.Seconds())+1)}
}

func (r *Result) add(of *run) {
	p, o, plan := of.provider, of.out, of.plan
	n := plan.Connections * p.Share
	kept := p.idleRate(n * (1 - plan.ActiveShare))
	for s := range o.refreshes {
		o.refreshes[s] += kept
		r.total[s] += o.refreshes[s]
	}
	// Where one of the sample is more than what happens in a second, seconds say nothing: figures are then over a minute.
	smooth := o.refreshes
	if of.weight > 1 {
		smooth = minutes(o.refreshes)
	}
	one := ProviderResult{
		ID: p.ID, Connections: n, Weight: of.weight, Requests: o.requests, Refreshes: loadOf(smooth), KeptAlive: kept,
		Waiting: loadOf(o.urgent), Early: loadOf(o.early), SentAway: o.aways, Failed: o.failures, Published: p.Limit,
	}
	slices.SortFunc(o.waits, func(a, b weighted) int { return cmp.Compare(a.ms, b.ms) })
	if len(o.waits) > 0 {
		at := func(part float64) time.Duration {
			return time.Duration(o.waits[int(part*float64(len(o.waits)-1))].ms) * time.Millisecond
		}
		one.WaitP50, one.WaitP99, one.WaitMax = at(.5), at(.99), at(1)
		one.Waited = float64(len(o.waits))*of.weight + o.joins
	}
	one.Limit, one.LimitOf = float64(plan.Replicas)*float64(plan.AtOnce)/plan.Latency.Seconds(), "lanes"
	if p.RefreshesPerSecond > 0 && p.RefreshesPerSecond < one.Limit {
		one.Limit, one.LimitOf = p.RefreshesPerSecond, "provider"
	}
	one.Used = one.Refreshes.Peak / one.Limit
	r.Providers = append(r.Providers, one)
	r.Requests.Mean += o.requests / plan.Span.Seconds()
	r.Waited += one.Waited
}

func (r *Result) finish() {
	r.Total = loadOf(minutes(r.total))
	slices.SortStableFunc(r.Providers, func(a, b ProviderResult) int { return cmp.Or(cmp.Compare(b.Used, a.Used), cmp.Compare(a.ID, b.ID)) })
	r.First, r.FirstHas = "replicas", float64(r.Plan.Replicas)*r.Plan.PerReplica
	r.FirstUsed = r.Total.Peak / r.FirstHas
	if len(r.Providers) > 0 && r.Providers[0].Used > r.FirstUsed {
		p := r.Providers[0]
		r.First, r.FirstHas, r.FirstUsed = p.LimitOf+" of "+p.ID, p.Limit, p.Used
	}
}

// minutes is a mean over the minute that each second ends.
func minutes(seconds []float64) []float64 {
	out := make([]float64, len(seconds))
	sum := 0.0
	for i, v := range seconds {
		if sum += v; i >= 60 {
			sum -= seconds[i-60]
		}
		out[i] = max(0, sum) / float64(min(i+1, 60))
	}
	return out
}

func loadOf(series []float64) Load {
	if len(series) == 0 {
		return Load{}
	}
	sum, sorted := 0.0, slices.Clone(series)
	slices.Sort(sorted)
	for _, v := range sorted {
		sum += v
	}
	return Load{Mean: sum / float64(len(sorted)), P99: sorted[int(.99*float64(len(sorted)-1))], Peak: sorted[len(sorted)-1]}
}
