package vault

import (
	"context"
	"fmt"
	"math"
	"time"

	"tokenbroker/broker"
)

// overdueAfter is how long what is due may lie before it counts as overdue: the sweeps of the broker come every few seconds.
const overdueAfter = time.Minute

// Backlog implements broker.Backlogs: the store counts, shard by shard, in one round trip for each node.
func (s *Store) Backlog(ctx context.Context, now time.Time) (broker.Backlog, error) {
	var b broker.Backlog
	late := now.Add(-overdueAfter).UnixMilli()
	questions := []struct {
		key  func(byte) string
		max  int64
		into *int64
	}{
		{scheduleKey, now.UnixMilli(), &b.RefreshesDue},
		{scheduleKey, math.MaxInt64, &b.Refreshes},
		{revocationsKey, late, &b.RevocationsDue},
		{deadlinesKey, math.MaxInt64, &b.Consents},
		{deadlinesKey, late, &b.ConsentsOverdue},
		{pollsKey, late, &b.PollsOverdue},
	}
	queries := make([]ScoreQuery, 0, shards*len(questions))
	for _, q := range questions {
		for shard := range shards {
			queries = append(queries, ScoreQuery{Key: q.key(byte(shard)), Max: q.max})
		}
	}
	counts, err := readPatiently(ctx, func(ctx context.Context) ([]int64, error) { return s.cfg.Backend.Dues(ctx, queries) })
	if err != nil {
		return broker.Backlog{}, fmt.Errorf("count what waits: %w", err)
	}
	for i, n := range counts {
		*questions[i/shards].into += n
	}
	return b, nil
}
