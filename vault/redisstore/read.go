package redisstore

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"tokenbroker/vault"
)

// pipelined sends one command for each item in one round trip and reads their answers.
func pipelined[In, Out any, C redis.Cmder](ctx context.Context, s *Store, items []In, send func(redis.Pipeliner, In) C, read func(C) (Out, error)) ([]Out, error) {
	pipe := s.client.Pipeline()
	cmds := make([]C, len(items))
	for i, item := range items {
		cmds[i] = send(pipe, item)
	}
	// Each command has its own error; the joint one only matters for those that were never sent.
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, clean(err)
	}
	out := make([]Out, len(items))
	for i, cmd := range cmds {
		var err error
		if out[i], err = read(cmd); err != nil {
			return nil, clean(err)
		}
	}
	return out, nil
}

// Hashes implements vault.Backend.
func (s *Store) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	trip := alone(s.client)
	if len(keys) <= fewHashes && sameSlot(keys) {
		trip = s.ways.to(ctx, keys[0])
	}
	cmds := make([]redis.Cmder, len(keys))
	for i, key := range keys {
		cmds[i] = redis.NewMapStringStringCmd(ctx, "hgetall", key)
	}
	tripErr, sent := trip(ctx, cmds)
	if !sent {
		return nil, clean(tripErr)
	}
	out := make([]map[string][]byte, len(keys))
	for i, cmd := range cmds {
		found, err := cmd.(*redis.MapStringStringCmd).Result()
		if err == nil && found == nil {
			err = tripErr // it was not sent: others' errors are no matter of ours
		}
		if err != nil {
			return nil, clean(err)
		}
		out[i] = make(map[string][]byte, len(found))
		for name, value := range found {
			out[i][name] = []byte(value)
		}
	}
	return out, nil
}

// Indexed implements vault.Backend.
func (s *Store) Indexed(ctx context.Context, queries []vault.IndexQuery) ([][]vault.Indexed, error) {
	calls := make([]call, len(queries))
	echoes := make([]string, len(queries))
	for i, q := range queries {
		echoes[i] = s.echoes.next()
		from, limit := lowerEnd(q)
		calls[i] = newWhole(indexedScript, 6, q.Index)
		calls[i].text(echoes[i], from)
		calls[i].number(limit)
		calls[i].text(q.Records, q.Extra, q.Beside)
	}
	trip := alone(s.client)
	if len(queries) == 1 && queries[0].Limit == 0 { // of one subject: what lists ask for is long, and must not hold up tokens
		trip = s.ways.to(ctx, queries[0].Index)
	}
	values, errs := run(ctx, trip, calls)
	out := make([][]vault.Indexed, len(queries))
	for i, value := range values {
		if errs[i] != nil {
			return nil, errs[i]
		}
		var err error
		if out[i], err = decodeIndexed(value, echoes[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// decodeIndexed reads the answer to the query with that echo.
func decodeIndexed(value any, echo string) ([]vault.Indexed, error) {
	answer, ok := value.([]any)
	if !ok || len(answer) != 2 {
		return nil, errAnswer
	}
	if answer[0] != echo {
		return nil, errForeign
	}
	return indexedItems(answer[1])
}

// lowerEnd is where the query begins and how much it asks for, as members.lua has them.
func lowerEnd(q vault.IndexQuery) (from string, limit int) {
	from, limit = "-", -1
	if q.After != "" {
		from = "(" + q.After
	}
	if q.Limit > 0 {
		limit = q.Limit
	}
	return from, limit
}

// indexedItems reads what members.lua gives.
func indexedItems(value any) (out []vault.Indexed, err error) {
	items, ok := value.([]any)
	if !ok {
		return nil, errAnswer
	}
	for _, item := range items {
		found, err := indexed(item)
		if err != nil {
			return nil, err
		}
		out = append(out, found)
	}
	return out, nil
}

func indexed(item any) (found vault.Indexed, err error) {
	parts, ok := item.([]any)
	if !ok || len(parts) != 3 {
		return found, errAnswer
	}
	if found.Member, ok = parts[0].(string); !ok {
		return found, errAnswer
	}
	if found.Record, err = fieldsOf(parts[1]); err != nil {
		return found, err
	}
	found.Extra, err = fieldsOf(parts[2])
	return found, err
}

// Scored implements vault.Backend.
func (s *Store) Scored(ctx context.Context, queries []vault.ScoreQuery) ([][]vault.Scored, error) {
	return pipelined(ctx, s, queries,
		func(pipe redis.Pipeliner, q vault.ScoreQuery) *redis.ZSliceCmd {
			by := &redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(q.Max, 10)}
			if q.Limit > 0 {
				by.Count = int64(q.Limit)
			}
			return pipe.ZRangeByScoreWithScores(ctx, q.Key, by)
		},
		func(cmd *redis.ZSliceCmd) ([]vault.Scored, error) {
			var out []vault.Scored
			for _, z := range cmd.Val() {
				member, ok := z.Member.(string)
				if !ok {
					return nil, errAnswer
				}
				out = append(out, vault.Scored{Member: member, Score: int64(z.Score)})
			}
			return out, cmd.Err()
		})
}

// lex is the range as Redis has it.
func lex(q vault.RangeQuery) (low, high string) {
	low, high = "-", "+"
	if q.From != "" {
		low = "[" + q.From
	}
	if q.To != "" {
		high = "(" + q.To
	}
	return low, high
}

// Ranges implements vault.Backend.
func (s *Store) Ranges(ctx context.Context, queries []vault.RangeQuery) ([][]string, error) {
	return pipelined(ctx, s, queries,
		func(pipe redis.Pipeliner, q vault.RangeQuery) *redis.StringSliceCmd {
			low, high := lex(q)
			by := &redis.ZRangeBy{Min: low, Max: high, Count: -1}
			if q.Limit > 0 {
				by.Count = int64(q.Limit)
			}
			if q.Reverse {
				return pipe.ZRevRangeByLex(ctx, q.Key, by)
			}
			return pipe.ZRangeByLex(ctx, q.Key, by)
		},
		func(cmd *redis.StringSliceCmd) ([]string, error) { return cmd.Val(), cmd.Err() })
}

// Counts implements vault.Backend.
func (s *Store) Counts(ctx context.Context, queries []vault.RangeQuery) ([]int, error) {
	return pipelined(ctx, s, queries,
		func(pipe redis.Pipeliner, q vault.RangeQuery) *redis.IntCmd {
			low, high := lex(q)
			return pipe.ZLexCount(ctx, q.Key, low, high)
		},
		func(cmd *redis.IntCmd) (int, error) { return int(cmd.Val()), cmd.Err() })
}

// Dues implements vault.Backend.
func (s *Store) Dues(ctx context.Context, queries []vault.ScoreQuery) ([]int64, error) {
	return pipelined(ctx, s, queries,
		func(pipe redis.Pipeliner, q vault.ScoreQuery) *redis.IntCmd {
			return pipe.ZCount(ctx, q.Key, "-inf", strconv.FormatInt(q.Max, 10))
		},
		func(cmd *redis.IntCmd) (int64, error) { return cmd.Result() })
}

// Streams implements vault.Backend.
func (s *Store) Streams(ctx context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	return pipelined(ctx, s, queries,
		func(pipe redis.Pipeliner, q vault.StreamQuery) *redis.XMessageSliceCmd {
			if q.Newest {
				return pipe.XRevRangeN(ctx, q.Key, q.To, q.From, int64(q.Limit))
			}
			return pipe.XRangeN(ctx, q.Key, q.From, q.To, int64(q.Limit))
		},
		func(cmd *redis.XMessageSliceCmd) ([]vault.StreamEntry, error) {
			var out []vault.StreamEntry
			for _, m := range cmd.Val() {
				// An entry without our fields is passed on: verifying names it.
				meta, _ := m.Values["m"].(string)
				body, _ := m.Values["b"].(string)
				out = append(out, vault.StreamEntry{ID: m.ID, TrailEntry: vault.TrailEntry{Meta: meta, Body: body}})
			}
			return out, cmd.Err()
		})
}

// Members implements vault.Backend.
func (s *Store) Members(ctx context.Context, keys []string) ([][]string, error) {
	return pipelined(ctx, s, keys,
		func(pipe redis.Pipeliner, key string) *redis.StringSliceCmd { return pipe.SMembers(ctx, key) },
		func(cmd *redis.StringSliceCmd) ([]string, error) { return cmd.Val(), cmd.Err() })
}

// scanCount is how many keys a server looks at for one request: a few ms at most, while it does nothing else.
const scanCount = 1000

// Keys implements vault.Backend.
func (s *Store) Keys(ctx context.Context, pattern string) ([]string, error) {
	var mu sync.Mutex
	seen := make(map[string]bool)
	var keys []string
	err := s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		for cursor := uint64(0); ; {
			found, next, err := node.Scan(ctx, cursor, pattern, scanCount).Result()
			if err != nil {
				return err
			}
			mu.Lock()
			for _, key := range found {
				if !seen[key] { // SCAN may give one twice; so may two masters while a slot moves
					seen[key] = true
					keys = append(keys, key)
				}
			}
			mu.Unlock()
			if next == 0 {
				return nil
			}
			cursor = next
		}
	})
	if err != nil {
		return nil, fmt.Errorf("walk through the keys: %w", clean(err))
	}
	return keys, nil
}

// Clock implements vault.Backend.
func (s *Store) Clock(ctx context.Context) (earliest, latest time.Time, err error) {
	var mu sync.Mutex
	err = s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		now, err := node.Time(ctx).Result()
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if earliest.IsZero() || now.Before(earliest) {
			earliest = now
		}
		if now.After(latest) {
			latest = now
		}
		return nil
	})
	if err != nil {
		return earliest, latest, fmt.Errorf("ask for the time: %w", clean(err))
	}
	return earliest, latest, nil
}

// eachMaster asks every master, at the same time on a cluster.
func (s *Store) eachMaster(ctx context.Context, ask func(context.Context, redis.UniversalClient) error) error {
	if cluster, ok := s.client.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return ask(ctx, node) })
	}
	return ask(ctx, s.client)
}
