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

// revokeAttempts bounds how often EndRevoke reads again because the record moved on.
const revokeAttempts = 5

// BeginRevoke implements broker.Revocations. A crash behind it leaves an entry in the list of unfinished revocations. The
// entries are recorded by the call that revokes; a later one only finds what is left. ErrIntegrity means that it is
// revoked, but that not all of what it holds can be read.
func (s *Store) BeginRevoke(ctx context.Context, tenant, id string, entries []broker.Entry) (broker.Leftover, error) {
	if s.memory.get(id) != nil {
		// What the store lost of it is brought back first: what must be revoked upstream is the newest grant. What can't be
		// read is for leftover to tell.
		if _, record, err := s.load(ctx, tenant, id); err != nil && len(record) == 0 {
			return broker.Leftover{}, fmt.Errorf("begin revocation: %w", err)
		}
	}
	r, err := s.revoke(ctx, tenant, id, entries, nil)
	if err != nil {
		return broker.Leftover{}, fmt.Errorf("begin revocation: %w", err)
	}
	if r.Verdict == VerdictRefused && r.Refused < 3 {
		return broker.Leftover{}, fmt.Errorf("begin revocation: %w", []error{1: broker.ErrNotFound, 2: broker.ErrNewerFormat}[r.Refused])
	}
	return s.leftover(ctx, tenant, id)
}

// revoke is the step of BeginRevoke.
func (s *Store) revoke(ctx context.Context, tenant, id string, entries, alarm []broker.Entry) (Result, error) {
	shard, err := shardOf(id)
	if err != nil {
		return Result{}, err
	}
	drafts, err := s.drafts(tenant, withAlarm(entries, alarm))
	if err != nil {
		return Result{}, err
	}
	write, err := s.writeIDOr(writeID("revoke", id, 0, entries))
	if err != nil {
		return Result{}, err
	}
	key := connectionKey(shard, id)
	places := []Write{
		{Kind: WriteSortedAdd, Key: revocationsKey(shard), Args: []string{strconv.FormatInt(s.cfg.Now().UnixMilli(), 10), id}},
		{Kind: WriteSortedRemove, Key: scheduleKey(shard), Args: []string{id}},
		s.indexMark(shard, id), // of which class it is this call does not know
	}
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: tenant}, write, Step{
		Checks: []Check{
			{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: write},
			{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: tenant},
			{Key: key, Field: fieldFormat, Kind: CheckAtMost, Value: connectionFormat},
			{Key: key, Field: fieldStatus, Kind: CheckNot, Value: string(broker.ConnectionRevoked)},
		},
		Writes: slices.Concat(
			[]Write{
				{Kind: WriteHashSet, Key: key, Args: []string{fieldStatus, string(broker.ConnectionRevoked), fieldWrite, write}},
				{Kind: WriteHashIncrement, Key: key, Args: []string{fieldGeneration, "1"}},
			}, places,
			[]Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline, fieldOutcome}}},
		),
		Reads: []Read{{Key: key}},
	}, drafts)
	if err == nil && r.Verdict != VerdictRefused {
		// Whose it is this call does not know, so it is remembered without its index until EndRevoke: who asks for it asks by its id.
		if len(alarm) > 0 {
			entries = alarm // the revocation's own are remembered already: from there they come
		}
		s.rememberIfRead(ctx, written{remembered: remembered{tenant: tenant, id: id, shard: shard, write: write, places: places}, entries: entries}, r)
	}
	return r, err
}

// leftover reads what a revoked record still holds. What does not open can't be revoked upstream, but must not keep the
// record from being erased: ErrIntegrity comes with what there is.
func (s *Store) leftover(ctx context.Context, tenant, id string) (broker.Leftover, error) {
	conn, record, err := s.load(ctx, tenant, id)
	var broken error
	if errors.Is(err, broker.ErrIntegrity) {
		broken = err
		conn, err = s.clearConnection(tenant, id, record, nil)
	}
	if err != nil {
		return broker.Leftover{}, fmt.Errorf("begin revocation: %w", err)
	}
	if conn.Status != broker.ConnectionRevoked {
		// Renewed by a consent right behind us: there is nothing to revoke any more.
		return broker.Leftover{}, fmt.Errorf("begin revocation: %w", broker.ErrConflict)
	}
	left := broker.Leftover{Connection: conn, Outcome: broker.RevokedUpstream(record[fieldOutcome])}
	if sealed := record[fieldRefresh]; len(sealed) > 0 {
		token, err := s.openRefreshToken(tenant, id, epochOf(record), sealed)
		broken = errors.Join(broken, err)
		left.RefreshToken = token
	}
	tokens := slices.Clone(conn.Tokens)
	slices.SortFunc(tokens, func(a, b broker.AccessTokenInfo) int {
		if a.Never != b.Never { // the longest-lived first
			if a.Never {
				return -1
			}
			return 1
		}
		return b.ExpiresAt.Compare(a.ExpiresAt)
	})
	for _, t := range tokens {
		if token, err := s.openAccess(tenant, id, t, record[fieldAccess+t.Key]); err == nil {
			left.AccessToken = token
			break
		}
	}
	if err := s.newest(ctx, conn, &left); err != nil && !errors.Is(err, broker.ErrIntegrity) {
		return broker.Leftover{}, fmt.Errorf("begin revocation: %w", err)
	}
	if broken != nil {
		return left, fmt.Errorf("revoked, but what it holds can't be read: %w", broken)
	}
	return left, nil
}

// EndRevoke implements broker.Revocations. A connection that a consent has renewed meanwhile is left alone. Of two that
// end the same revocation the first one's outcome stays, unless the second one's is that the grant is revoked.
func (s *Store) EndRevoke(ctx context.Context, tenant, id string, outcome broker.RevokedUpstream, forget bool) error {
	shard, err := shardOf(id)
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if s.spool != nil {
		// What is erased is erased here too; of another process's it stays for a minute, sealed.
		if err := s.spool.forget(ctx, id, func(settledFile) bool { return true }); err != nil {
			return fmt.Errorf("end revocation: %w", err)
		}
	}
	var forgotten func() // what a step of this call erased, if the answer to that was lost
	for range revokeAttempts {
		conn, record, err := s.load(ctx, tenant, id)
		readable := err == nil
		switch {
		case errors.Is(err, broker.ErrNotFound):
			if forgotten != nil && len(record) == 0 {
				forgotten()
			}
			return nil
		case errors.Is(err, broker.ErrIntegrity):
			if conn, err = s.clearConnection(tenant, id, record, nil); err != nil {
				return fmt.Errorf("end revocation: %w", err)
			}
		case err != nil:
			return fmt.Errorf("end revocation: %w", err)
		}
		if conn.Status != broker.ConnectionRevoked {
			return nil
		}
		key := connectionKey(shard, id)
		write, err := s.randomID()
		if err != nil {
			return err
		}
		index := ""
		if readable && conn.SharedGrant != "" {
			if err := s.endHolding(ctx, conn.SharedGrant, holderOf(conn)); err != nil {
				return fmt.Errorf("end revocation: %w", err)
			}
		}
		if readable {
			index = s.subjectIndex(shard, conn)
		}
		writes, reads := s.forgetWrites(shard, conn.Tenant, conn.ID, index), []Read(nil)
		if !forget {
			kept := outcome
			if had := broker.RevokedUpstream(record[fieldOutcome]); had != "" && outcome != broker.RevokedDone {
				kept = had
			}
			if writes, err = s.eraseWrites(shard, conn, readable, kept, write); err != nil {
				return err
			}
			reads = []Read{{Key: key}}
		}
		r, err := s.trails.do(ctx, trailName{shard: shard, tenant: tenant}, write, Step{
			Checks: []Check{
				{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: write},
				{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: tenant},
				{Key: key, Field: fieldStatus, Kind: CheckEqual, Value: string(broker.ConnectionRevoked)},
				{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(conn.Generation, 10)},
			},
			Writes: writes,
			Reads:  reads,
		}, nil)
		if err != nil {
			return fmt.Errorf("end revocation: %w", err)
		}
		forgotten = func() {
			if forget {
				s.rememberErased(shard, conn, index, record, r)
			}
		}
		if r.Verdict == VerdictRefused {
			continue
		}
		if forget {
			forgotten()
			return nil
		}
		places := []Write{{Kind: WriteDelete, Key: alternatesKey(shard, id)}, {Kind: WriteSortedRemove, Key: revocationsKey(shard), Args: []string{id}}, s.indexMark(shard, id)}
		s.rememberIfRead(ctx, written{remembered: remembered{tenant: tenant, id: id, shard: shard, write: write, index: index, places: places}}, r)
		return nil
	}
	return fmt.Errorf("end revocation: %w", broker.ErrConflict)
}

// eraseWrites take the secrets out of a revoked record.
func (s *Store) eraseWrites(shard byte, conn broker.Connection, readable bool, outcome broker.RevokedUpstream, write string) ([]Write, error) {
	key := connectionKey(shard, conn.ID)
	fields := []string{fieldGeneration, strconv.FormatInt(conn.Generation+1, 10), fieldWrite, write}
	if readable {
		bare := conn
		bare.Tokens, bare.Renewable = nil, false
		var err error
		if fields, err = s.connectionFields(bare, conn.Generation+1, 0, write); err != nil {
			return nil, err
		}
	}
	if outcome != "" {
		fields = append(fields, fieldOutcome, string(outcome))
	}
	return []Write{
		{Kind: WriteHashSet, Key: key, Args: fields},
		{Kind: WriteHashDelete, Key: key, Args: []string{fieldRefresh, fieldOwner, fieldDeadline}},
		{Kind: WriteOnly, Key: key, Args: []string{fieldAccess}},
		{Kind: WriteDelete, Key: alternatesKey(shard, conn.ID)},
		{Kind: WriteSortedRemove, Key: revocationsKey(shard), Args: []string{conn.ID}},
		s.indexMark(shard, conn.ID),
	}, nil
}

// forgetWrites remove the record and whatever names it, and leave a trace for a while: that there was something of this id,
// and nothing else. The subject's index can't be found if the record does not open ("");
// readers pass over its dangling member.
func (s *Store) forgetWrites(shard byte, tenant, id, index string) []Write {
	tombstone := tombstoneKey(shard, id)
	writes := []Write{
		{Kind: WriteHashSet, Key: tombstone, Args: []string{fieldErased, "1"}},
		{Kind: WriteExpireIn, Key: tombstone, Args: []string{strconv.FormatInt(tombstoneLife.Milliseconds(), 10)}},
		{Kind: WriteDelete, Key: connectionKey(shard, id)},
		{Kind: WriteHashDelete, Key: issuedKey(shard, id), Args: []string{fieldIssued}}, // the rest goes when the index has let go of it
		s.indexMark(shard, id),
		{Kind: WriteDelete, Key: alternatesKey(shard, id)},
		{Kind: WriteSortedRemove, Key: revocationsKey(shard), Args: []string{id}},
		{Kind: WriteSortedRemove, Key: scheduleKey(shard), Args: []string{id}},
		{Kind: WriteSortedRemove, Key: tenantKey(shard, tenant), Args: []string{id}},
	}
	if index != "" {
		writes = append(writes, Write{Kind: WriteSortedRemove, Key: index, Args: []string{id}})
	}
	return writes
}

// DueRevocations implements broker.Revocations.
func (s *Store) DueRevocations(ctx context.Context, before time.Time, limit int) ([]broker.Connection, error) {
	due, err := s.due(ctx, revocationsKey, before, limit)
	if err != nil {
		return nil, err
	}
	var out []broker.Connection
	for _, d := range due {
		found, err := s.hashes(ctx, connectionKey(d.shard, d.id))
		if err != nil {
			return nil, err
		}
		record := found[0]
		conn, err := s.openConnection(string(record[fieldTenant]), d.id, record, nil)
		if errors.Is(err, broker.ErrIntegrity) {
			conn, err = s.clearConnection(string(record[fieldTenant]), d.id, record, nil)
		}
		switch {
		case err == nil && conn.Status == broker.ConnectionRevoked:
			out = append(out, conn)
		case errors.Is(err, broker.ErrNotFound):
			s.undue(ctx, revocationsKey(d.shard), connectionKey(d.shard, d.id), fieldTenant, d.id)
		case err != nil:
			s.cfg.Log.WarnContext(ctx, "unfinished revocation can't be read", "connection", d.id, "error", err)
		}
	}
	return out, nil
}

// dueItem is a member of a list by time.
type dueItem struct {
	shard byte
	id    string
	at    int64
}

// due reads the lists of all shards, earliest first.
func (s *Store) due(ctx context.Context, key func(byte) string, before time.Time, limit int) ([]dueItem, error) {
	queries := make([]ScoreQuery, shards)
	for i := range queries {
		queries[i] = ScoreQuery{Key: key(byte(i)), Max: before.UnixMilli() - 1, Limit: limit}
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]Scored, error) { return s.cfg.Backend.Scored(ctx, queries) })
	if err != nil {
		return nil, err
	}
	var out []dueItem
	for shard, members := range found {
		for _, m := range members {
			out = append(out, dueItem{shard: byte(shard), id: m.Member, at: m.Score})
		}
	}
	slices.SortFunc(out, func(a, b dueItem) int { return int(a.at - b.at) })
	return out[:min(len(out), limit)], nil
}

// undue takes a member off a list whose record is gone. The next run finds it again if this fails.
func (s *Store) undue(ctx context.Context, list, record, field, id string) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if _, err := s.trails.direct(ctx, Step{
		Checks: []Check{{Key: record, Field: field, Kind: CheckAbsent}},
		Writes: []Write{{Kind: WriteSortedRemove, Key: list, Args: []string{id}}},
	}); err != nil {
		s.cfg.Log.WarnContext(ctx, "dangling list member not removed", "error", err)
	}
}
