package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// Establish implements broker.Connections: the record and what once says, in one step. A crash before it leaves nothing,
// behind it everything is done.
func (s *Store) Establish(ctx context.Context, conn broker.Connection, once string, until time.Time) (broker.Connection, error) {
	shard, err := shardOf(conn.ID)
	if err != nil {
		return broker.Connection{}, err
	}
	if shard != s.Shard(conn.Tenant, conn.Subject) {
		return broker.Connection{}, errors.New("establish connection: its id was not made for its subject")
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	id := writeID("establish", conn.ID, 0, nil, once)
	next := stored(conn)
	next.Tokens, next.Renewable, next.Generation = nil, false, 1
	generation := strconv.FormatInt(next.Generation, 10)
	fields, err := s.connectionFields(next, next.Generation, 0, id)
	if err != nil {
		return broker.Connection{}, err
	}
	fields = append(fields, fieldConsented, generation)
	key := connectionKey(shard, conn.ID)
	mark := onceKey(shard, s.onceTag(conn.Tenant, conn.Subject, "establish\x00"+once))
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: conn.Tenant}, id, Step{
		Settle: &Settle{Key: settleKey(shard)},
		Checks: []Check{
			{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: id},
			{Key: key, Field: fieldGeneration, Kind: CheckAbsent},
			{Key: mark, Field: fieldConsent, Kind: CheckAbsent},
		},
		Writes: slices.Concat([]Write{{Kind: WriteHashSet, Key: key, Args: fields}}, s.connectionIndexes(shard, next), []Write{
			{Kind: WriteHashSet, Key: mark, Args: []string{fieldConsent, conn.ID}},
			{Kind: WriteExpireAt, Key: mark, Args: []string{strconv.FormatInt(until.UnixMilli(), 10)}},
		}),
		Reads: []Read{{Key: key}},
	}, nil)
	if err != nil {
		return broker.Connection{}, fmt.Errorf("establish connection: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return broker.Connection{}, fmt.Errorf("establish connection: %w", broker.ErrConflict)
	}
	s.rememberIfRead(ctx, s.writtenConnection(shard, next, id, nil, s.followWrites(shard, next)...), r)
	return next, nil
}
