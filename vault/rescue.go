package vault

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"tokenbroker/broker"
)

// rescueAttempts bounds how often rescue looks again because the record moved on.
const rescueAttempts = 4

// rescue stores a refresh after all that the record at first refused, where nothing that counts came in its place:
//
//   - The store lost writes since the lease was taken: what the provider gave is the grant's newest refresh token.
//   - The lease is not ours any more, and whoever had it since got no new refresh token: nothing at all, or the answer that
//     the old one, or what came of it, is dead. What came late is then the grant's newest refresh token, or the only one that
//     may live. That happens when a process dies between the provider's answer and the commit, and another one takes over
//     before the spool is replayed.
//
// false: that is not how things are.
func (s *Store) rescue(ctx context.Context, c commit) (broker.Connection, bool, error) {
	for range rescueAttempts {
		now, record, err := s.load(ctx, c.lease.Tenant, c.lease.Connection)
		var done broker.Connection
		var ok bool
		switch {
		case errors.Is(err, broker.ErrNotFound) && len(record) == 0:
			if s.tooOld(c) {
				return done, false, nil
			}
			done, ok, err = s.restore(ctx, c, nil)
		case errors.Is(err, broker.ErrNotFound), errors.Is(err, broker.ErrIntegrity), errors.Is(err, broker.ErrNewerFormat):
			return done, false, nil // there is nothing that could be read so
		case err != nil:
			return done, false, err
		case now.Status == broker.ConnectionRevoked, now.Account.ID != c.conn.Account.ID, consentedOf(record) > c.lease.Generation:
			return done, false, nil
		case now.Generation < c.lease.Generation && !now.LastRefreshed.After(c.conn.LastRefreshed):
			done, ok, err = s.restore(ctx, c, record)
		case s.helps(c, now, record) && c.unclaimed(now, record):
			done, ok, err = s.follow(ctx, c, now, record)
		default:
			return done, false, nil
		}
		if err != nil || ok {
			return done, ok, err
		}
	}
	return broker.Connection{}, false, nil
}

// outlives tells that the record has still the refresh token from which the commit came, whatever was written since. One
// that ended for another reason than that this token is dead does not come back.
func (c commit) outlives(now broker.Connection, record map[string][]byte) bool {
	alive := now.Status == broker.ConnectionActive || now.Status == broker.ConnectionNeedsConsent && now.Error == broker.ErrorInvalidGrant
	return alive && now.Generation >= c.lease.Generation && epochOf(record) <= c.lease.Generation
}

// helps tells that the record is better off with the commit: it outlives the record, or the record was called dead with
// another refresh token than the commit's, which nobody has tried then. With the same one an earlier attempt has stored it.
func (s *Store) helps(c commit, now broker.Connection, record map[string][]byte) bool {
	if now.Status != broker.ConnectionNeedsConsent || now.Error != broker.ErrorInvalidGrant || now.Generation < c.lease.Generation {
		return c.outlives(now, record)
	}
	token, err := s.openRefreshToken(now.Tenant, now.ID, epochOf(record), record[fieldRefresh])
	return err != nil || !c.grant.RefreshToken.Equal(token)
}

// unclaimed tells that nobody has a lease on the record who took it after the commit's, or that it came to nothing.
func (c commit) unclaimed(now broker.Connection, record map[string][]byte) bool {
	older := now.Generation == c.lease.Generation && versionOf(record, fieldFence) < c.lease.Fence // the store lost ours
	return now.Status == broker.ConnectionNeedsConsent || len(record[fieldOwner]) == 0 || older
}

// follow commits behind the record as it is now. false: somebody was quicker.
func (s *Store) follow(ctx context.Context, c commit, now broker.Connection, record map[string][]byte) (broker.Connection, bool, error) {
	lease := c.lease
	lease.Generation, lease.Fence = now.Generation, versionOf(record, fieldFence)
	next := granted(c.conn, c.token, c.grant)
	next.Generation = now.Generation + 1
	writes, err := s.tokenWrites(next, c.token, c.grant)
	if err != nil {
		return broker.Connection{}, false, err
	}
	id := c.id
	if now.Generation != c.lease.Generation {
		id = writeID("revive", lease.Connection, lease.Generation, c.entries, c.id)
	}
	r, err := s.leased(ctx, lease, next, next.Generation, id, writes, c.entries)
	if err != nil || leasedRefusal(r) != nil {
		return broker.Connection{}, false, err
	}
	return next, true, nil
}

// restore writes the record as the commit would have left it over what the store was set back to, or where nothing is left.
// Access tokens under other keys are gone: only the record had them. It repeats itself without harm.
func (s *Store) restore(ctx context.Context, c commit, seen map[string][]byte) (broker.Connection, bool, error) {
	shard, err := shardOf(c.lease.Connection)
	if err != nil {
		return broker.Connection{}, false, err
	}
	next := granted(c.conn, c.token, c.grant)
	next.Generation = c.lease.Generation + 1
	next.Tokens = slices.DeleteFunc(next.Tokens, func(t broker.AccessTokenInfo) bool { return t.Key != c.token || c.grant.AccessToken.IsZero() })
	drafts, err := s.drafts(next.Tenant, c.entries)
	if err != nil {
		return broker.Connection{}, false, err
	}
	fields, err := s.connectionFields(next, next.Generation, next.Generation, c.id)
	if err != nil {
		return broker.Connection{}, false, err
	}
	if len(seen[fieldConsented]) == 0 {
		// Which consent it was from nobody knows; it was before this refresh.
		fields = append(fields, fieldConsented, strconv.FormatInt(c.lease.Generation, 10))
	}
	tokens, err := s.tokenWrites(next, c.token, c.grant)
	if err != nil {
		return broker.Connection{}, false, err
	}
	key := connectionKey(shard, next.ID)
	step := Step{
		Checks: []Check{
			{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: c.id},
			{Key: tombstoneKey(shard, next.ID), Field: fieldErased, Kind: CheckAbsent},
			{Key: key, Field: fieldGeneration, Kind: CheckAbsent},
		},
		Writes: slices.Concat(
			[]Write{{Kind: WriteHashSet, Key: key, Args: fields}},
			[]Write{{Kind: WriteHashIncrement, Key: key, Args: []string{fieldFence, strconv.FormatInt(max(0, c.lease.Fence-versionOf(seen, fieldFence))+1, 10)}}},
			s.connectionIndexes(shard, next), tokens,
			[]Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline, fieldOutcome}}},
		),
		Reads: []Read{{Key: key}},
	}
	if len(seen) > 0 {
		step.Checks[2] = Check{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: string(seen[fieldGeneration])}
	}
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: next.Tenant}, writeID("restore", next.ID, versionOf(seen, fieldGeneration), nil, c.id), step, drafts)
	if err != nil || r.Verdict == VerdictRefused {
		return broker.Connection{}, false, err
	}
	if err := s.remember(ctx, s.writtenConnection(shard, next, c.id, c.entries, s.followWrites(shard, next)...), r); err != nil {
		return broker.Connection{}, false, err
	}
	if r.Verdict == VerdictDone {
		s.cfg.Log.WarnContext(ctx, "the store had lost writes of this connection; a refresh brings it back", "record", next.ID,
			"generation_found", versionOf(seen, fieldGeneration), "generation", next.Generation)
		s.count(CountHealed)
	}
	return next, true, nil
}
