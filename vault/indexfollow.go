package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	// followEvery is how often all shards are asked for what is due, hintPause how long a hint gathers others.
	followEvery = time.Second
	hintPause   = 100 * time.Millisecond
	// indexHold is how long a process that took a shard keeps others from it; that saves work, and nothing more.
	indexHold = 3 * time.Second
	// indexBatch is how many records of a shard are moved together.
	indexBatch = 200
)

// followIndex moves what is due, until ctx ends. Any number of processes may do so.
func (s *Store) followIndex(ctx context.Context) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for trouble := 0; ; {
		var hinted []byte
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case shard := <-s.index.hints:
			if hinted = append(hinted, shard); !sleep(ctx, hintPause) {
				return
			}
		}
		for more := true; more; {
			select {
			case shard := <-s.index.hints:
				if hinted != nil && !slices.Contains(hinted, shard) {
					hinted = append(hinted, shard)
				}
			default:
				more = false
			}
		}
		err := s.followShards(ctx, hinted, s.claimIndex)
		switch {
		case err == nil:
			trouble = 0
		case ctx.Err() == nil && trouble%troubleRounds == 0:
			s.cfg.Log.WarnContext(ctx, "the index of connections is behind, and is brought up when the store lets it be", "error", err)
			fallthrough
		default:
			trouble++
		}
	}
}

// troubleRounds is how many failed rounds pass between two reports.
const troubleRounds = 60

// FollowIndex moves all that is due now, whoever else does so too. Run does it by itself.
func (s *Store) FollowIndex(ctx context.Context) error {
	return s.followShards(ctx, nil, func(context.Context, byte) (bool, error) { return true, nil })
}

// followShards moves what is due in these shards (nil: in all) as far as they are mine.
func (s *Store) followShards(ctx context.Context, of []byte, mine func(context.Context, byte) (bool, error)) error {
	if of == nil {
		for i := range shards {
			of = append(of, byte(i))
		}
	}
	for len(of) > 0 && ctx.Err() == nil {
		queries := make([]ScoreQuery, len(of))
		for i, shard := range of {
			queries[i] = ScoreQuery{Key: indexDueKey(shard), Max: s.cfg.Now().UnixMilli(), Limit: indexBatch}
		}
		trip, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
		found, err := s.cfg.Backend.Scored(trip, queries)
		cancel()
		if err != nil {
			return fmt.Errorf("read what is due: %w", err)
		}
		var again []byte
		var mu sync.Mutex
		errs := atOnce(len(of), fewAtOnce, func(i int) error {
			if len(found[i]) == 0 {
				return nil
			}
			if ok, err := mine(ctx, of[i]); err != nil || !ok {
				return err
			}
			ids := make([]string, len(found[i]))
			for n, d := range found[i] {
				ids[n] = d.Member
			}
			settled, err := s.moveIndexed(ctx, of[i], ids)
			if err == nil && len(ids) == indexBatch && settled > 0 {
				mu.Lock()
				again = append(again, of[i])
				mu.Unlock()
			}
			return err
		})
		if err := errors.Join(errs...); err != nil {
			return err
		}
		of = again
	}
	return ctx.Err()
}

func (s *Store) claimIndex(ctx context.Context, shard byte) (bool, error) {
	trip, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
	defer cancel()
	return s.claim(trip, &s.index.claims, indexClaimKey(shard), shard, indexHold)
}
