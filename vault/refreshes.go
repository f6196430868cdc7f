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

// EndRefresh implements broker.Refreshes.
func (s *Store) EndRefresh(ctx context.Context, lease broker.Lease) error {
	shard, err := shardOf(lease.Connection)
	if err != nil {
		return err
	}
	key := connectionKey(shard, lease.Connection)
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := s.endShared(ctx, lease.Shared); err != nil {
		return fmt.Errorf("end refresh: %w", err)
	}
	_, err = s.trails.direct(ctx, Step{
		Checks: []Check{
			{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: lease.Tenant},
			{Key: key, Field: fieldOwner, Kind: CheckEqual, Value: lease.Owner},
		},
		Writes: []Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}}},
	})
	if err != nil {
		return fmt.Errorf("end refresh: %w", err)
	}
	return nil
}

// commit is everything that storing a refreshed grant takes; it is also what the spool keeps.
type commit struct {
	id      string
	lease   broker.Lease
	conn    broker.Connection
	token   string
	grant   broker.Grant
	entries []broker.Entry
	settled time.Time // in the spool: when the store had it; zero: not yet
}

// CommitRefresh implements broker.Refreshes. Durable writes in order: the spool file (a crash behind it: replayed at the
// next start), the record with its entries in one step (a crash behind it: the replay finds its own write), then the
// file goes, or becomes one that can only heal.
//
// The token's scopes in the record are those that the grant reports; else those that conn lists for that key; else, for
// key "", conn's, and for another key none: what is not known to be narrow must not pass for it.
func (s *Store) CommitRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, tokenKey string, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	c := commit{lease: lease, conn: conn, token: tokenKey, grant: grant, entries: entries}
	c.id = writeID("commit", lease.Connection, lease.Generation, entries, lease.Owner)
	kept := false
	if s.spool != nil {
		release, err := s.spool.keep(ctx, c)
		if err != nil {
			// The store may well take it: not being able to keep it twice is no reason to lose it.
			s.cfg.Log.ErrorContext(ctx, "refreshed token not spooled", "connection", conn.ID, "error", err)
			s.count(CountSpoolFailed)
		} else {
			defer release()
			kept = true
		}
	}
	done, err := s.commit(ctx, c)
	if kept && !settled(err) {
		return done, fmt.Errorf("%w: %w", err, broker.ErrSpooled)
	}
	confirmed := false
	if err == nil && s.cfg.Confirm {
		confirmed = s.confirm(ctx, done)
	}
	if s.spool != nil && settled(err) {
		if kept && err == nil && !confirmed && !grant.RefreshToken.IsZero() {
			if err := s.spool.settle(ctx, c, s.cfg.Now()); err != nil {
				s.cfg.Log.WarnContext(ctx, "spool file not marked as settled", "connection", conn.ID, "error", err)
			}
		} else if err := s.spool.drop(ctx, c.id); err != nil {
			s.cfg.Log.WarnContext(ctx, "spool file not removed", "connection", conn.ID, "error", err)
		}
	}
	return done, err
}

// confirm asks whether enough replicas have the connection's last write, which the store acknowledged. It stands in any
// case; what is not confirmed can be lost by a failover, and is then brought back by who remembers it.
func (s *Store) confirm(ctx context.Context, conn broker.Connection) bool {
	shard, err := shardOf(conn.ID)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
	defer cancel()
	generation := strconv.FormatInt(conn.Generation, 10)
	// A small write behind ours on the same connection to the store: whoever has that has ours too.
	r := s.cfg.Backend.Apply(ctx, []Step{{
		Checks:  []Check{{Key: connectionKey(shard, conn.ID), Field: fieldGeneration, Kind: CheckEqual, Value: generation}},
		Writes:  []Write{{Kind: WriteHashSet, Key: settleKey(shard), Args: []string{fieldConfirm, conn.ID}}},
		Confirm: true,
	}})[0]
	switch {
	case r.Err == nil && r.Confirmed:
		return true
	case r.Err == nil && r.Verdict == VerdictRefused:
		return false // written again already, or lost already
	}
	s.cfg.Log.WarnContext(ctx, "not enough replicas have confirmed a write in time; it stands", "connection", conn.ID, "error", r.Err)
	s.count(CountUnconfirmed)
	return false
}

// settled tells that it is decided what becomes of a commit, so that repeating it changes nothing.
func settled(err error) bool {
	return err == nil || errors.Is(err, broker.ErrConflict) || errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrTenantErased)
}

func (s *Store) commit(ctx context.Context, c commit) (broker.Connection, error) {
	if c.lease.Shared.Name != "" {
		var err error
		if c.conn.SharedGeneration, err = s.commitShared(ctx, c); err != nil {
			return broker.Connection{}, fmt.Errorf("commit refresh: %w", err)
		}
	}
	next := granted(c.conn, c.token, c.grant)
	next.Generation = c.lease.Generation + 1
	epoch := next.Generation
	if c.grant.RefreshToken.IsZero() {
		var err error
		if epoch, err = s.refreshEpoch(ctx, c.lease); err != nil {
			return broker.Connection{}, fmt.Errorf("commit refresh: %w", err)
		}
	}
	writes, err := s.tokenWrites(next, c.token, c.grant)
	if err != nil {
		return broker.Connection{}, err
	}
	shard, err := shardOf(c.lease.Connection)
	if err != nil {
		return broker.Connection{}, err
	}
	r, err := s.leased(ctx, c.lease, next, epoch, c.id, writes, c.entries, ownerCheck(shard, c.lease))
	if err != nil {
		return broker.Connection{}, fmt.Errorf("commit refresh: %w", err)
	}
	err = leasedRefusal(r)
	for again := err != nil && !c.grant.RefreshToken.IsZero(); again; {
		rescued, ok, rescueErr := s.rescue(ctx, c)
		if rescueErr != nil {
			return broker.Connection{}, fmt.Errorf("commit refresh: %w", rescueErr)
		}
		if ok {
			return rescued, nil
		}
		if !errors.Is(err, broker.ErrConflict) {
			break
		}
		// Too late: somebody else's refresh or consent is there already. Ours is kept beside it, in case theirs is dead.
		keepErr := s.keepAlternate(ctx, c)
		if again = errors.Is(keepErr, errDeadMeanwhile) && ctx.Err() == nil; keepErr != nil && !again {
			return broker.Connection{}, fmt.Errorf("commit refresh: %w", keepErr)
		}
	}
	if err != nil {
		return broker.Connection{}, fmt.Errorf("commit refresh: %w", err)
	}
	return next, nil
}

// FailRefresh implements broker.Refreshes.
func (s *Store) FailRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, entries []broker.Entry) (broker.Connection, error) {
	next := stored(conn)
	next.Generation = lease.Generation + 1
	if err := s.endShared(ctx, lease.Shared); err != nil {
		return broker.Connection{}, fmt.Errorf("fail refresh: %w", err)
	}
	epoch, err := s.refreshEpoch(ctx, lease)
	if err != nil {
		return broker.Connection{}, fmt.Errorf("fail refresh: %w", err)
	}
	shard, err := shardOf(lease.Connection)
	if err != nil {
		return broker.Connection{}, fmt.Errorf("fail refresh: %w", err)
	}
	checks := []Check{ownerCheck(shard, lease)}
	if next.Status == broker.ConnectionNeedsConsent {
		checks = append(checks, s.keptCheck(shard, lease.Connection, lease.Generation)...)
	}
	r, err := s.leased(ctx, lease, next, epoch, writeID("fail", lease.Connection, lease.Generation, entries, lease.Owner), nil, entries, checks...)
	if err != nil {
		return broker.Connection{}, fmt.Errorf("fail refresh: %w", err)
	}
	if r.Verdict == VerdictRefused && r.Refused == refusedKept {
		// A late commit has left a refresh token since they were tried. The record is as it was, so the lease is ours still.
		if err := s.EndRefresh(ctx, lease); err != nil {
			s.cfg.Log.WarnContext(ctx, "a refresh lease could not be given back", "connection", conn.ID, "error", err)
		}
	}
	if err := leasedRefusal(r); err != nil {
		return broker.Connection{}, fmt.Errorf("fail refresh: %w", err)
	}
	return next, nil
}

// refreshEpoch is the epoch of the refresh token that the record has at the lease's generation: known to whoever took the
// lease. ErrConflict or ErrNotFound if the record moved on or is gone: it refuses the write that this is for, and should a
// failover set it back before that write comes, the epoch would be another's. A record that does not open gets no epoch: what
// lies there as its refresh token may be anything, and does not open after that write.
func (s *Store) refreshEpoch(ctx context.Context, lease broker.Lease) (int64, error) {
	if epoch, ok := s.epochs.get(epochKey{id: lease.Connection, generation: lease.Generation}); ok {
		return epoch, nil
	}
	_, record, err := s.load(ctx, lease.Tenant, lease.Connection)
	switch {
	case errors.Is(err, broker.ErrNewerFormat), errors.Is(err, broker.ErrIntegrity):
		return 0, nil
	case err != nil:
		return 0, err
	case versionOf(record, fieldGeneration) != lease.Generation:
		return 0, broker.ErrConflict
	}
	return epochOf(record), nil
}

// leased writes the connection if the lease still counts. It does so also when the lease has run out and nobody else
// took one: a late answer of the provider is as good.
func (s *Store) leased(ctx context.Context, lease broker.Lease, next broker.Connection, epoch int64, id string, writes []Write, entries []broker.Entry, checks ...Check) (Result, error) {
	shard, err := shardOf(lease.Connection)
	if err != nil {
		return Result{}, err
	}
	if next.ID != lease.Connection || next.Tenant != lease.Tenant {
		return Result{}, errors.New("the lease is for another connection")
	}
	drafts, err := s.drafts(next.Tenant, entries)
	if err != nil {
		return Result{}, err
	}
	fields, err := s.connectionFields(next, next.Generation, epoch, id)
	if err != nil {
		return Result{}, err
	}
	key := connectionKey(shard, next.ID)
	fence := Check{Key: key, Field: fieldFence, Kind: CheckEqual, Value: strconv.FormatInt(lease.Fence, 10)}
	if lease.Fence == 0 {
		fence.Kind = CheckAbsent // a failover took every lease back that there was
	}
	step := Step{
		Checks: append([]Check{
			{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: id},
			{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: lease.Tenant},
			{Key: key, Field: fieldFormat, Kind: CheckAtMost, Value: connectionFormat},
			{Key: key, Field: fieldStatus, Kind: CheckNot, Value: string(broker.ConnectionRevoked)},
			{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(lease.Generation, 10)},
			fence,
		}, checks...),
		Writes: slices.Concat(
			[]Write{{Kind: WriteHashSet, Key: key, Args: fields}}, s.followWrites(shard, next), writes,
			[]Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}}},
		),
		Reads: []Read{{Key: key}},
	}
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: next.Tenant}, id, step, drafts)
	if err == nil && r.Verdict != VerdictRefused {
		err = s.remember(ctx, s.writtenConnection(shard, next, id, entries, s.followWrites(shard, next)...), r)
	}
	return r, err
}

// writtenConnection is a write of a connection, by which it got to these places beside its indexes.
func (s *Store) writtenConnection(shard byte, conn broker.Connection, write string, entries []broker.Entry, places ...Write) written {
	return written{
		remembered: remembered{
			tenant: conn.Tenant, id: conn.ID, shard: shard, generation: conn.Generation, write: write, index: s.subjectIndex(shard, conn), places: places,
		},
		entries: entries,
	}
}

// ownerCheck demands that the lease is that owner's: after a failover that lost it, another one may have the same fence.
func ownerCheck(shard byte, lease broker.Lease) Check {
	return Check{Key: connectionKey(shard, lease.Connection), Field: fieldOwner, Kind: CheckEqual, Value: lease.Owner}
}

// refusedKept is FailRefresh's check of the alternates, behind those of leased and the one of the owner.
const refusedKept = 7

// leasedRefusal says what a refused check of leased means.
func leasedRefusal(r Result) error {
	if r.Verdict != VerdictRefused {
		return nil
	}
	return []error{1: broker.ErrNotFound, 2: broker.ErrNewerFormat, 3: broker.ErrNotFound, 4: broker.ErrConflict, 5: broker.ErrConflict, 6: broker.ErrConflict, refusedKept: broker.ErrConflict}[r.Refused]
}

// granted is the connection once the grant is in it.
func granted(conn broker.Connection, tokenKey string, grant broker.Grant) broker.Connection {
	next := conn
	next.Tokens = slices.Clone(conn.Tokens)
	next.Renewable = conn.Renewable || !grant.RefreshToken.IsZero()
	if grant.Lifetime > 0 {
		next.Lifetime = grant.Lifetime
	}
	if !grant.AccessToken.IsZero() {
		info := broker.AccessTokenInfo{Key: tokenKey, ExpiresAt: grant.ExpiresAt, Never: grant.Never}
		known := slices.IndexFunc(next.Tokens, func(t broker.AccessTokenInfo) bool { return t.Key == tokenKey })
		switch {
		case grant.ScopesReported:
			info.Scopes = grant.Scopes
		case known >= 0:
			info.Scopes = next.Tokens[known].Scopes
		case tokenKey == "":
			info.Scopes = conn.Scopes
		}
		if known >= 0 {
			next.Tokens[known] = info
		} else {
			next.Tokens = append(next.Tokens, info)
		}
	}
	return stored(next)
}

// tokenWrites seals the grant's tokens into the record of conn, which granted made, for the write that makes conn's
// generation, and removes tokens that conn does not list.
func (s *Store) tokenWrites(conn broker.Connection, tokenKey string, grant broker.Grant) ([]Write, error) {
	shard, err := shardOf(conn.ID)
	if err != nil {
		return nil, err
	}
	key := connectionKey(shard, conn.ID)
	var fields []string
	if !grant.RefreshToken.IsZero() {
		sealed, err := s.sealRefresh(conn.Tenant, conn.ID, conn.Generation, grant.RefreshToken)
		if err != nil {
			return nil, err
		}
		fields = append(fields, fieldRefresh, sealed)
	}
	if info, ok := conn.Token(tokenKey); ok && !grant.AccessToken.IsZero() {
		sealed, err := s.sealAccess(conn.Tenant, conn.ID, info, grant.AccessToken)
		if err != nil {
			return nil, err
		}
		fields = append(fields, fieldAccess+tokenKey, sealed)
	}
	keep := []string{fieldAccess}
	for _, t := range conn.Tokens {
		keep = append(keep, fieldAccess+t.Key)
	}
	var writes []Write
	if len(fields) > 0 {
		writes = append(writes, Write{Kind: WriteHashSet, Key: key, Args: fields})
	}
	return append(writes, Write{Kind: WriteOnly, Key: key, Args: keep}), nil
}
