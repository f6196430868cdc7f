package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

// The schedule of early refreshes: in each shard a sorted set of connections by the time at which they are due, and a hash
// that says who looks after that shard for the moment. Each write of a connection puts it where it belongs, in the same step.

// followWrites keep what follows a record in step with the one that conn becomes: the schedule, and the index of connections.
func (s *Store) followWrites(shard byte, conn broker.Connection) []Write {
	return append(scheduleWrites(shard, conn), s.indexWrite(shard, conn))
}

// scheduleWrites keep the schedule in step with the record that conn becomes.
func scheduleWrites(shard byte, conn broker.Connection) []Write {
	if conn.RefreshAt.IsZero() || conn.Status != broker.ConnectionActive {
		return []Write{{Kind: WriteSortedRemove, Key: scheduleKey(shard), Args: []string{conn.ID}}}
	}
	return []Write{{Kind: WriteSortedAdd, Key: scheduleKey(shard), Args: []string{strconv.FormatInt(conn.RefreshAt.UnixMilli(), 10), conn.ID}}}
}

// claims remembers which shards are this process's for the moment, and until when by its own clock.
type claims struct {
	mu    sync.Mutex
	until [shards]time.Time
}

func (c *claims) mine(shard byte, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Before(c.until[shard])
}

func (c *claims) set(shard byte, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until[shard] = until
}

// DueRefreshes implements broker.Schedule: a part is a shard. It asks all shards in one round trip for each node, and takes
// those where something is due, each in a round trip of its own, beginning anywhere, so that replicas meet rarely.
func (s *Store) DueRefreshes(ctx context.Context, before time.Time, hold time.Duration, limit int) ([]broker.Connection, error) {
	queries := make([]ScoreQuery, shards)
	for i := range queries {
		queries[i] = ScoreQuery{Key: scheduleKey(byte(i)), Max: before.UnixMilli(), Limit: limit}
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]Scored, error) { return s.cfg.Backend.Scored(ctx, queries) })
	if err != nil {
		return nil, err
	}
	var first [1]byte
	if _, err := io.ReadFull(s.cfg.Random, first[:]); err != nil {
		return nil, fmt.Errorf("choose a part of the schedule: %w", err)
	}
	var due []broker.Connection
	for i := 0; i < shards && len(due) < limit; i++ {
		shard := first[0] + byte(i)
		if len(found[shard]) == 0 {
			continue
		}
		mine, err := s.claim(ctx, &s.claims, claimKey(shard), shard, hold)
		if err != nil {
			return due, err
		}
		if !mine {
			continue
		}
		conns, err := s.scheduled(ctx, shard, found[shard][:min(len(found[shard]), limit-len(due))])
		due = append(due, conns...)
		if err != nil {
			return due, err
		}
	}
	return due, nil
}

// claim takes the shard for what c is about, or finds that this process has it already.
func (s *Store) claim(ctx context.Context, c *claims, key string, shard byte, hold time.Duration) (bool, error) {
	now := s.cfg.Now()
	if c.mine(shard, now) {
		return true, nil
	}
	id, err := s.randomID()
	if err != nil {
		return false, err
	}
	r, err := s.trails.direct(ctx, Step{
		Checks: []Check{
			{Key: key, Field: fieldOwner, Kind: CheckApplied, Value: id},
			{Key: key, Field: fieldDeadline, Kind: CheckFree},
		},
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: []string{fieldOwner, id}},
			{Kind: WriteDeadline, Key: key, Args: []string{fieldDeadline, strconv.FormatInt(hold.Milliseconds(), 10)}},
			{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(2*hold.Milliseconds(), 10)}},
		},
	})
	if err != nil {
		return false, fmt.Errorf("take a part: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return false, nil
	}
	c.set(shard, now.Add(hold))
	return true, nil
}

// scheduled reads the connections of a shard that are due. Those that are gone leave the schedule; one that does not open is
// left for an hour: whoever asks for its token is told, and it must not keep the others waiting.
func (s *Store) scheduled(ctx context.Context, shard byte, due []Scored) ([]broker.Connection, error) {
	keys := make([]string, 0, 2*len(due))
	for _, d := range due {
		keys = append(keys, connectionKey(shard, d.Member), issuedKey(shard, d.Member))
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, err
	}
	var conns []broker.Connection
	var drop []string
	var late []string
	for i, d := range due {
		record := found[2*i]
		conn, err := s.openConnection(string(record[fieldTenant]), d.Member, record, found[2*i+1])
		switch {
		case errors.Is(err, broker.ErrNotFound) || err == nil && conn.Status != broker.ConnectionActive:
			drop = append(drop, d.Member)
		case err != nil:
			s.cfg.Log.WarnContext(ctx, "connection left out of early refreshes", "connection", d.Member, "error", err)
			late = append(late, strconv.FormatInt(s.cfg.Now().Add(time.Hour).UnixMilli(), 10), d.Member)
		default:
			conns = append(conns, conn)
		}
	}
	for _, id := range drop {
		// Unless it comes back at this very moment.
		if _, err := s.trails.direct(ctx, Step{
			Checks: []Check{{Key: connectionKey(shard, id), Field: fieldStatus, Kind: CheckNot, Value: string(broker.ConnectionActive)}},
			Writes: []Write{{Kind: WriteSortedRemove, Key: scheduleKey(shard), Args: []string{id}}},
		}); err != nil {
			return conns, fmt.Errorf("clear the schedule: %w", err)
		}
	}
	var writes []Write
	for pair := range slices.Chunk(late, 2) {
		writes = append(writes, Write{Kind: WriteSortedAdd, Key: scheduleKey(shard), Args: pair})
	}
	if len(writes) == 0 {
		return conns, nil
	}
	if _, err := s.trails.direct(ctx, Step{Writes: writes}); err != nil {
		return conns, fmt.Errorf("clear the schedule: %w", err)
	}
	return conns, nil
}

// Reschedule implements broker.Schedule.
func (s *Store) Reschedule(ctx context.Context, conn broker.Connection, at time.Time) error {
	shard, err := shardOf(conn.ID)
	if err != nil {
		return err
	}
	moved := conn
	moved.RefreshAt = at
	key := connectionKey(shard, conn.ID)
	r, err := s.trails.direct(ctx, Step{
		Checks: []Check{
			{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: conn.Tenant},
			{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(conn.Generation, 10)},
		},
		Writes: scheduleWrites(shard, moved),
	})
	if err != nil {
		return fmt.Errorf("schedule the next refresh: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return broker.ErrConflict
	}
	return nil
}
