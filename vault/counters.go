package vault

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// The stored form of the counts for the dashboard's charts: a hash for each bucket of a tenant, with a field for each tally and
// nothing that is secret; all of a tenant in one shard, so that a step can carry them and a chart costs one round trip.

const (
	fieldBatch = "b" // of a writer's mark: its last batch
	// batchMemory is how long a writer's last batch is known, longer than it may go on repeating it.
	batchMemory = time.Hour
)

var grainLetters = map[broker.Grain]string{broker.GrainMinute: "m", broker.GrainHour: "h", broker.GrainDay: "d"}

// AddCounts implements broker.Counters.
func (s *Store) AddCounts(ctx context.Context, tenant, writer, batch string, counts []broker.BucketCounts) error {
	shard := s.countShard(tenant)
	mark := countMarkKey(shard, tenant, writer)
	step := Step{
		Checks: []Check{{Key: mark, Field: fieldBatch, Kind: CheckApplied, Value: batch}},
		Writes: []Write{
			{Kind: WriteHashSet, Key: mark, Args: []string{fieldBatch, batch}},
			{Kind: WriteExpireIn, Key: mark, Args: []string{strconv.FormatInt(batchMemory.Milliseconds(), 10)}},
		},
	}
	for _, bucket := range counts {
		letter, ok := grainLetters[bucket.Grain]
		if !ok || len(bucket.Counts) == 0 {
			continue
		}
		key := countKey(shard, tenant, letter, bucket.Start.Unix())
		for what, n := range bucket.Counts {
			step.Writes = append(step.Writes, Write{Kind: WriteHashIncrement, Key: key, Args: []string{tallyField(what), strconv.FormatInt(n, 10)}})
		}
		end := bucket.Start.Add(bucket.Grain.Length() + bucket.Grain.Kept())
		step.Writes = append(step.Writes, Write{Kind: WriteExpireAt, Key: key, Args: []string{strconv.FormatInt(end.UnixMilli(), 10)}})
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if _, err := s.trails.direct(ctx, step); err != nil {
		return fmt.Errorf("add counts: %w", err)
	}
	return nil
}

// Counts implements broker.Counters.
func (s *Store) Counts(ctx context.Context, tenant string, grain broker.Grain, from, until time.Time) ([]broker.BucketCounts, error) {
	letter, ok := grainLetters[grain]
	if !ok {
		return nil, fmt.Errorf("read counts: there is no grain %q", grain)
	}
	shard := s.countShard(tenant)
	var keys []string
	var buckets []broker.BucketCounts
	start := grain.Bucket(from)
	if start.Before(from) {
		start = start.Add(grain.Length())
	}
	for ; start.Before(until) && len(buckets) < broker.MaxBuckets; start = start.Add(grain.Length()) {
		keys = append(keys, countKey(shard, tenant, letter, start.Unix()))
		buckets = append(buckets, broker.BucketCounts{Grain: grain, Start: start, Counts: map[broker.Tally]int64{}})
	}
	if len(keys) == 0 {
		return nil, nil
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	for i, fields := range found {
		for name, value := range fields {
			// What is no count of ours, a newer version's among it, is left out of the picture.
			what, known := parseTally(name)
			if n, err := strconv.ParseInt(string(value), 10, 64); known && err == nil && n > 0 {
				buckets[i].Counts[what] = n
			}
		}
	}
	return buckets, nil
}

// countShard is where the counts of a tenant lie, and those of all together.
func (s *Store) countShard(tenant string) byte { return s.seals.hash(1, "counts", tenant)[0] }

func tallyField(t broker.Tally) string {
	return string(t.Measure) + "|" + t.Code + "|" + t.Connector
}

func parseTally(field string) (broker.Tally, bool) {
	measure, rest, ok1 := strings.Cut(field, "|")
	code, connector, ok2 := strings.Cut(rest, "|")
	return broker.Tally{Measure: broker.Measure(measure), Code: code, Connector: connector}, ok1 && ok2
}
