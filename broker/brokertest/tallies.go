package brokertest

import (
	"context"
	"errors"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Tallies are broker.Counters in memory.
type Tallies struct {
	mu    sync.Mutex
	down  bool
	lost  bool
	all   map[tallyKey]map[broker.Tally]int64
	marks map[[2]string]string
	calls int
}

type tallyKey struct {
	tenant string
	grain  broker.Grain
	start  time.Time
}

var errTallies = errors.New("counts: the store is away")

// Fail makes writes fail, before or, with done, after they were carried out.
func (t *Tallies) Fail(down, done bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.down, t.lost = down, done
}

// Calls is how many batches came.
func (t *Tallies) Calls() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.calls
}

// AddCounts is part of broker.Counters.
func (t *Tallies) AddCounts(_ context.Context, tenant, writer, batch string, counts []broker.BucketCounts) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down {
		return errTallies
	}
	t.calls++
	if t.all == nil {
		t.all, t.marks = map[tallyKey]map[broker.Tally]int64{}, map[[2]string]string{}
	}
	if t.marks[[2]string{tenant, writer}] != batch {
		t.marks[[2]string{tenant, writer}] = batch
		for _, b := range counts {
			key := tallyKey{tenant, b.Grain, b.Start}
			if t.all[key] == nil {
				t.all[key] = map[broker.Tally]int64{}
			}
			for what, n := range b.Counts {
				t.all[key][what] += n
			}
		}
	}
	if t.lost {
		return errTallies
	}
	return nil
}

// Counts is part of broker.Counters.
func (t *Tallies) Counts(_ context.Context, tenant string, grain broker.Grain, from, until time.Time) ([]broker.BucketCounts, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.down {
		return nil, errTallies
	}
	var out []broker.BucketCounts
	for start := grain.Bucket(from); start.Before(until); start = start.Add(grain.Length()) {
		counts := map[broker.Tally]int64{}
		for what, n := range t.all[tallyKey{tenant, grain, start}] {
			counts[what] = n
		}
		out = append(out, broker.BucketCounts{Grain: grain, Start: start, Counts: counts})
	}
	return out, nil
}

// Sum is what was counted of the measure and code at the connector, in all buckets of the grain.
func (t *Tallies) Sum(tenant string, grain broker.Grain, m broker.Measure, code, connector string) (n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, counts := range t.all {
		if key.tenant == tenant && key.grain == grain {
			n += counts[broker.Tally{Measure: m, Code: code, Connector: connector}]
		}
	}
	return n
}

// Connectors are the names that the tenant's counts have, in all buckets of the grain.
func (t *Tallies) Connectors(tenant string, grain broker.Grain) map[string]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	names := map[string]bool{}
	for key, counts := range t.all {
		if key.tenant == tenant && key.grain == grain {
			for what := range counts {
				names[what.Connector] = true
			}
		}
	}
	return names
}
