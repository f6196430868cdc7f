package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

const (
	// alternateLife is how long a late refresh token is kept; maxAlternates how many are offered.
	alternateLife = time.Hour
	maxAlternates = 3
	// keepAttempts bounds how often keepAlternate looks again because the record moved on.
	keepAttempts = 5
	// fieldKept, among the alternates, counts how often one was put there: who calls a grant dead has to know them all.
	fieldKept = "n"
)

// errDeadMeanwhile: the grant was called dead before its alternate could be kept.
var errDeadMeanwhile = errors.New("the grant was called dead meanwhile")

// keepAlternate keeps the refresh token of a late commit for an hour, if it is of the account that the connection has
// now. ErrNotFound if there is no such connection any more: revoked, erased, or another account's. It repeats itself
// without harm.
func (s *Store) keepAlternate(ctx context.Context, c commit) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	for range keepAttempts {
		now, record, err := s.load(ctx, c.lease.Tenant, c.lease.Connection)
		switch {
		case errors.Is(err, broker.ErrIntegrity):
			now.Account = broker.Account{} // what does not open names no account
		case err != nil:
			return fmt.Errorf("keep alternate: %w", err)
		case s.calledDead(c, now, record):
			return errDeadMeanwhile
		}
		// A refresh never changes the account, so without a consent since the lease it is the same, known or not.
		consented, err := strconv.ParseInt(string(record[fieldConsented]), 10, 64)
		if err != nil {
			consented = math.MaxInt64
		}
		had, has := c.conn.Account.ID, now.Account.ID
		switch {
		case consented <= c.lease.Generation, has != "" && has == had:
		case has != "" && had != "":
			return fmt.Errorf("keep alternate: the connection is another account's now: %w", broker.ErrNotFound)
		default:
			// Of the same account or not: nobody knows. Used, it might serve the wrong one; revoked, it might end the new grant.
			s.cfg.Log.InfoContext(ctx, "late refresh token not kept: its account is not known to be the connection's", "connection", c.conn.ID)
			return nil
		}
		if kept, err := s.putAlternate(ctx, c, now, record); err != nil || kept {
			return err
		}
	}
	return errors.New("keep alternate: the connection keeps changing")
}

// putAlternate stores it if the record is still as it was seen: a consent behind that takes it away again, one before it must
// be looked at.
func (s *Store) putAlternate(ctx context.Context, c commit, now broker.Connection, seen map[string][]byte) (bool, error) {
	shard, err := shardOf(c.lease.Connection)
	if err != nil {
		return false, err
	}
	value, err := s.sealAlternate(c.conn, c.grant.RefreshToken)
	if err != nil {
		return false, err
	}
	fields := []string{c.id, value}
	record, key := connectionKey(shard, c.lease.Connection), alternatesKey(shard, c.lease.Connection)
	checks := []Check{
		{Key: record, Field: fieldTenant, Kind: CheckEqual, Value: c.lease.Tenant},
		{Key: record, Field: fieldStatus, Kind: CheckNot, Value: string(broker.ConnectionRevoked)},
		{Key: record, Field: fieldGeneration, Kind: CheckEqual, Value: string(seen[fieldGeneration])},
	}
	if c.outlives(now, seen) {
		fields = append(fields, s.successorOf(seen, c.id)...)
		if len(seen[fieldRefresh]) > 0 {
			// Which names the refresh token as it is sealed now.
			checks = append(checks, Check{Key: record, Field: fieldRefresh, Kind: CheckEqual, Value: string(seen[fieldRefresh])})
		}
	}
	r, err := s.trails.direct(ctx, Step{
		Checks: checks,
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: fields},
			{Kind: WriteHashIncrement, Key: key, Args: []string{fieldKept, "1"}},
			{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(alternateLife.Milliseconds(), 10)}},
		},
	})
	switch {
	case err != nil:
		return false, fmt.Errorf("keep alternate: %w", err)
	case r.Verdict == VerdictRefused && r.Refused < 2:
		return false, fmt.Errorf("keep alternate: %w", broker.ErrNotFound)
	}
	return r.Verdict != VerdictRefused, nil
}

// calledDead tells that the grant of the commit was called dead, though nobody has tried this refresh token, and that no
// consent came since.
func (s *Store) calledDead(c commit, now broker.Connection, record map[string][]byte) bool {
	return now.Status == broker.ConnectionNeedsConsent && s.helps(c, now, record) && now.Account.ID == c.conn.Account.ID && consentedOf(record) <= c.lease.Generation
}

// Alternates implements broker.Refreshes. The seal of each names the account whose it is; one that does not open for
// conn's is left out. FailRefresh, should it call the grant dead at conn's generation, makes sure that none was put there
// since.
func (s *Store) Alternates(ctx context.Context, lease broker.Lease, conn broker.Connection) ([]broker.Secret, error) {
	shard, err := shardOf(conn.ID)
	if err != nil {
		return nil, err
	}
	tokens, err := s.storeSpooled(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("alternates: %w", err)
	}
	found, err := s.hashes(ctx, alternatesKey(shard, conn.ID), connectionKey(shard, conn.ID))
	if err != nil {
		return nil, err
	}
	if record := found[1]; lease.Owner != "" && (string(record[fieldOwner]) != lease.Owner || versionOf(record, fieldGeneration) != lease.Generation) {
		return nil, fmt.Errorf("alternates: %w", broker.ErrConflict)
	}
	s.kept.put(epochKey{id: conn.ID, generation: conn.Generation}, string(found[0][fieldKept]))
	var values []string
	for field, v := range found[0] {
		// When they end is the store's to say: this clock may be wrong, or that of whoever put them there.
		if field != fieldKept && field != fieldSuccessor {
			values = append(values, string(v))
		}
	}
	others, err := s.heldElsewhere(ctx, lease)
	if err != nil {
		return nil, fmt.Errorf("alternates: %w", err)
	}
	tokens = append(tokens, others...)
	slices.Sort(values) // each begins with its end
	slices.Reverse(values)
	for _, v := range values[:min(maxAlternates, len(values))] {
		token, err := s.openAlternate(conn, []byte(v))
		if err != nil {
			s.cfg.Log.ErrorContext(ctx, "alternate refresh token does not open for this account", "connection", conn.ID, "error", err)
			continue
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// holdersAsked bounds how many of those who hold a grant are looked through for a newer refresh token.
const holdersAsked = 200

// heldElsewhere are refresh tokens that others who hold the grant have in their own records and that are newer than what its record
// has, newest first: what the store lost of that, and whoever wrote it can't bring back any more.
func (s *Store) heldElsewhere(ctx context.Context, lease broker.Lease) ([]broker.Secret, error) {
	if lease.Shared.Name == "" {
		return nil, nil
	}
	holders, err := s.HeldBy(ctx, lease.Shared.Name, holdersAsked)
	if err != nil {
		return nil, err
	}
	holders = slices.DeleteFunc(holders, func(c broker.Connection) bool {
		return c.ID == lease.Connection || c.SharedGrant != lease.Shared.Name || c.SharedGeneration <= lease.Shared.Generation || c.Status != broker.ConnectionActive
	})
	slices.SortFunc(holders, func(a, b broker.Connection) int { return cmp.Compare(b.SharedGeneration, a.SharedGeneration) })
	var tokens []broker.Secret
	for _, holder := range holders[:min(maxAlternates, len(holders))] {
		shard, err := shardOf(holder.ID)
		if err != nil {
			return nil, err
		}
		found, err := s.hashes(ctx, connectionKey(shard, holder.ID))
		if err != nil {
			return nil, err
		}
		if len(found[0][fieldRefresh]) == 0 || versionOf(found[0], fieldGeneration) != holder.Generation {
			continue // it moved on, and so did the grant
		}
		token, err := s.openRefresh(holder, found[0][fieldRefresh], found[0])
		if err != nil {
			s.cfg.Log.ErrorContext(ctx, "refresh token of another holder does not open", "connection", holder.ID, "error", err)
			continue
		}
		tokens = append(tokens, token)
	}
	return tokens, nil
}

// storeSpooled gives the store what waits in this process's spool for the connection, so that nobody else tries it at the same
// time: there is nothing but in trouble. What is settled comes back if the store was set back to before it. It returns the
// refresh tokens that can't go there, and are worth a try all the same. A file that can't be read is no reason to ask
// nobody for consent; a store that does not answer is.
func (s *Store) storeSpooled(ctx context.Context, conn broker.Connection) (tokens []broker.Secret, err error) {
	if s.spool == nil {
		return nil, nil
	}
	ids, done, err := s.spool.waiting(ctx)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "spool not looked through for a refresh token", "error", err)
	}
	read := func(id, suffix string) (commit, bool) {
		c, err := s.spool.readFile(ctx, id, suffix)
		same := err == nil && c.lease.Tenant == conn.Tenant && c.lease.Connection == conn.ID && c.conn.Account.ID == conn.Account.ID
		return c, same && !c.grant.RefreshToken.IsZero()
	}
	for _, id := range ids {
		c, ok := read(id, spoolSuffix)
		if !ok {
			continue
		}
		if _, err := s.replayCommit(ctx, c); err != nil {
			return nil, err
		}
	}
	_, here := s.spool.settledHere()
	for _, id := range done {
		if owner, own := here[id]; own && owner != conn.ID {
			continue // there are as many as refreshes in the last minute
		}
		c, ok := read(id, settledSuffix)
		if !ok {
			continue
		}
		if _, err := s.restoreIfBehind(ctx, c); err != nil {
			return nil, err
		}
		switch back, err := s.setBack(ctx, conn, c); {
		case err != nil:
			return nil, err
		case back:
			tokens = append(tokens, c.grant.RefreshToken)
		}
	}
	return tokens, nil
}

// setBack tells that the store has the record as conn is, with a refresh token from before the settled commit. Beside any other
// record the commit's token may be the record's own, or used.
func (s *Store) setBack(ctx context.Context, conn broker.Connection, c commit) (bool, error) {
	now, record, err := s.load(ctx, conn.Tenant, conn.ID)
	if errors.Is(err, broker.ErrNotFound) || errors.Is(err, broker.ErrIntegrity) || errors.Is(err, broker.ErrNewerFormat) {
		return false, nil
	}
	return err == nil && now.Generation == conn.Generation && consentedOf(record) <= c.lease.Generation && c.outlives(now, record), err
}

// keptCheck demands that there are no other alternates than those that Alternates found at that generation, if it was asked.
func (s *Store) keptCheck(shard byte, id string, generation int64) []Check {
	seen, asked := s.kept.get(epochKey{id: id, generation: generation})
	check := Check{Key: alternatesKey(shard, id), Field: fieldKept, Kind: CheckEqual, Value: seen}
	switch {
	case !asked:
		return nil
	case seen == "":
		check.Kind = CheckAbsent
	}
	return []Check{check}
}
