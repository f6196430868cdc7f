package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The lease on a grant that several connections hold, and what is stored under it.

// takeShared takes the lease on the grant under the name of the connection's own. An attempt whose answer never came may
// have taken it all the same: the next one of this process ends that first.
func (s *Store) takeShared(ctx context.Context, conn broker.Connection, owner string, lease time.Duration) (got broker.SharedLease, left time.Duration, err error) {
	key := s.sharedKey(conn.SharedGrant)
	got = broker.SharedLease{Name: conn.SharedGrant, Owner: owner}
	if lost, ok := s.lostLeases.Load(key); ok {
		if _, err := s.trails.direct(ctx, Step{
			Checks: []Check{{Key: key, Field: fieldOwner, Kind: CheckEqual, Value: lost.(string)}},
			Writes: []Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}}},
		}); err != nil {
			return broker.SharedLease{}, 0, err
		}
		s.lostLeases.CompareAndDelete(key, lost)
	}
	step := func(format Check) (Result, error) {
		return s.trails.direct(ctx, Step{
			Settle: &Settle{Key: settleKeyOf(key), Pause: settlePause},
			Checks: []Check{
				{Key: key, Field: fieldOwner, Kind: CheckApplied, Value: owner},
				format,
				{Key: key, Field: fieldDeadline, Kind: CheckFree},
			},
			Writes: []Write{
				{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, sharedFormat, fieldOwner, owner}},
				{Kind: WriteHashIncrement, Key: key, Args: []string{fieldFence, "1"}},
				{Kind: WriteDeadline, Key: key, Args: []string{fieldDeadline, strconv.FormatInt(lease.Milliseconds(), 10)}},
			},
			Reads: []Read{{Key: key}},
		})
	}
	r, err := step(Check{Key: key, Field: fieldFormat, Kind: CheckEqual, Value: sharedFormat})
	if err == nil && r.Verdict == VerdictRefused && r.Refused == 1 {
		if len(r.Reads[0][fieldFormat]) > 0 {
			return broker.SharedLease{}, 0, fmt.Errorf("shared grant: %w", checkFormat(string(r.Reads[0][fieldFormat]), sharedFormat))
		}
		r, err = step(Check{Key: key, Field: fieldFormat, Kind: CheckAbsent}) // the store lost it
	}
	if err != nil {
		s.lostLeases.Store(key, owner)
		return broker.SharedLease{}, 0, err
	}
	if r.Verdict == VerdictRefused || r.Verdict == VerdictSettling {
		return broker.SharedLease{}, 0, broker.ErrBusy
	}
	// It may be older than what this process was given: then it is written back, and the lease with the older token is gone.
	got.Fence = versionOf(r.Reads[0], fieldFence)
	changed, err := s.healed(ctx, "", key, r.Reads[0])
	if err != nil {
		return broker.SharedLease{}, 0, errors.Join(err, s.endShared(ctx, got))
	}
	if changed {
		return broker.SharedLease{}, 0, broker.ErrBusy
	}
	now, err := s.openShared(conn.SharedGrant, r.Reads[0])
	if err != nil {
		return broker.SharedLease{}, 0, errors.Join(err, s.endShared(ctx, got))
	}
	got.Generation = now.generation
	if now.generation > conn.SharedGeneration {
		got.Newer = &now.grant
	}
	if now.generation > 0 {
		// Whoever wrote it may be gone when the store loses it, and what is taken over from it is in no other holder's record.
		if err := s.rememberShared(ctx, key, string(r.Reads[0][fieldWrite]), now.generation, nil, r); err != nil {
			s.cfg.Log.DebugContext(ctx, "what a holder takes over from its grant is not remembered", "connection", conn.ID, "error", err)
		}
	}
	if _, there := now.holders[conn.ID]; !there {
		// The store lost that. Without it somebody who leaves could end the grant for this one.
		if err := s.holdAgain(ctx, conn); err != nil {
			return broker.SharedLease{}, 0, errors.Join(err, s.endShared(ctx, got))
		}
	}
	deadline, err := strconv.ParseInt(string(r.Reads[0][fieldDeadline]), 10, 64)
	if err != nil {
		return broker.SharedLease{}, 0, fmt.Errorf("shared grant: deadline: %w", broker.ErrIntegrity)
	}
	return got, time.UnixMilli(deadline).Sub(r.Now), nil
}

// shareLease adds the lease on the grant to the connection's own.
func (s *Store) shareLease(ctx context.Context, got *broker.Lease, conn broker.Connection, lease time.Duration) error {
	asked := s.cfg.Now()
	shared, left, err := s.takeShared(ctx, conn, got.Owner, lease)
	if err != nil {
		return err
	}
	got.Shared = shared
	if until := asked.Add(left); until.Before(got.Until) {
		got.Until = until
	}
	return nil
}

// sharedLease is the stored form of a broker.SharedLease, for the spool. What is newer than the connection is not in it.
type sharedLease struct {
	Name       string `json:"n"`
	Generation int64  `json:"g"`
	Owner      string `json:"o"`
	Fence      int64  `json:"f"`
	Adopted    bool   `json:"a,omitempty"`
}

func storeSharedLease(l broker.SharedLease) *sharedLease {
	if l.Name == "" {
		return nil
	}
	return &sharedLease{Name: l.Name, Generation: l.Generation, Owner: l.Owner, Fence: l.Fence, Adopted: l.Adopted}
}

func (l *sharedLease) lease() broker.SharedLease {
	if l == nil {
		return broker.SharedLease{}
	}
	return broker.SharedLease{Name: l.Name, Generation: l.Generation, Owner: l.Owner, Fence: l.Fence, Adopted: l.Adopted}
}

// newest replaces tokens of a connection by those that another holder of its grant was given since.
func (s *Store) newest(ctx context.Context, conn broker.Connection, left *broker.Leftover) error {
	if conn.SharedGrant == "" || left.RefreshToken.IsZero() {
		return nil
	}
	now, err := s.readShared(ctx, conn.SharedGrant)
	if err != nil {
		return err
	}
	if now.generation > conn.SharedGeneration {
		left.RefreshToken, left.AccessToken = now.grant.RefreshToken, now.grant.AccessToken
	}
	return nil
}

// endShared gives the lease back, if it is still that one.
func (s *Store) endShared(ctx context.Context, lease broker.SharedLease) error {
	if lease.Name == "" {
		return nil
	}
	key := s.sharedKey(lease.Name)
	_, err := s.trails.direct(ctx, Step{
		Checks: []Check{
			{Key: key, Field: fieldOwner, Kind: CheckEqual, Value: lease.Owner},
			{Key: key, Field: fieldFence, Kind: CheckEqual, Value: strconv.FormatInt(lease.Fence, 10)},
		},
		Writes: []Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}}},
	})
	if err != nil {
		return fmt.Errorf("end lease on shared grant: %w", err)
	}
	return nil
}

// restoreShared brings back, from a commit that was settled, what the store lost of the grant that several connections hold: for the
// connection's record alone would leave the others with a refresh token that is used.
func (s *Store) restoreShared(ctx context.Context, c commit) error {
	shared := c.lease.Shared
	if shared.Name == "" || c.grant.RefreshToken.IsZero() {
		return nil
	}
	if shared.Adopted {
		// At the generation that it was taken over at.
		now, err := s.readShared(ctx, shared.Name)
		if err != nil {
			return err
		}
		if now.generation < shared.Generation {
			if err := s.putShared(ctx, shared.Name, now.generation, shared.Generation, c); err != nil {
				return err
			}
		}
	} else if _, err := s.commitShared(ctx, c); err != nil {
		return err
	}
	return nil
}

// putShared writes what the commit took over in the place of what the store was set back to. Somebody who was quicker stays.
func (s *Store) putShared(ctx context.Context, name string, seen, generation int64, c commit) error {
	fields, err := s.grantFields(name, generation, bare(c.grant), c.id)
	if err != nil {
		return err
	}
	key := s.sharedKey(name)
	r, err := s.trails.direct(ctx, Step{
		Settle: &Settle{Key: settleKeyOf(key)},
		Checks: []Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: c.id}, atGeneration(key, seen)},
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: fields},
			// Whoever has the lease got an older token with it.
			{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}},
		},
		Reads: []Read{{Key: key, Fields: sharedFields()}},
	})
	if err != nil {
		return fmt.Errorf("restore shared grant: %w", err)
	}
	if r.Verdict != VerdictRefused {
		return s.rememberShared(ctx, key, c.id, generation, fields, r)
	}
	return nil
}

// commitShared keeps what a refresh gave for all holders and ends the lease; it returns the generation that the
// connection's tokens are of then. It comes before the connection's own record: a crash in between leaves tokens that each
// holder takes over when it is next asked. Called again it finds its own write. Where a consent moved the grant on
// meanwhile, that stands, and the connection takes it over next.
func (s *Store) commitShared(ctx context.Context, c commit) (int64, error) {
	shared := c.lease.Shared
	if shared.Adopted {
		return shared.Generation, s.endShared(ctx, shared)
	}
	if c.grant.RefreshToken.IsZero() {
		return c.conn.SharedGeneration, s.endShared(ctx, shared) // the refresh token stays, so nobody else lost anything
	}
	kept := bare(c.grant)
	if c.token != "" {
		kept.AccessToken = broker.Secret{} // narrowed for one of them
	} else if info, ok := granted(c.conn, c.token, c.grant).Token(""); ok {
		kept.Scopes, kept.ScopesReported = info.Scopes, true // whoever takes it over may have been granted others
	}
	// A connection may know more than the record, which a failover can have put back.
	next := max(shared.Generation, c.conn.SharedGeneration, micros(c.grant.ObtainedAt)-1) + 1
	fields, err := s.grantFields(shared.Name, next, kept, c.id)
	if err != nil {
		return 0, err
	}
	key, seen := s.sharedKey(shared.Name), shared.Generation
	ours := []Check{{Key: key, Field: fieldOwner, Kind: CheckEqual, Value: shared.Owner}}
	end := []Write{{Kind: WriteHashDelete, Key: key, Args: []string{fieldOwner, fieldDeadline}}}
	for range sharedAgain {
		r, err := s.trails.direct(ctx, Step{
			Settle: &Settle{Key: settleKeyOf(key)},
			Checks: append([]Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: c.id}, atGeneration(key, seen)}, ours...),
			Writes: append([]Write{{Kind: WriteHashSet, Key: key, Args: fields}}, end...),
			Reads:  []Read{{Key: key, Fields: sharedFields()}},
		})
		if err != nil {
			return 0, fmt.Errorf("commit shared grant: %w", err)
		}
		if r.Verdict != VerdictRefused {
			if err := s.rememberShared(ctx, key, c.id, next, fields, r); err != nil {
				return 0, fmt.Errorf("commit shared grant: %w", err)
			}
			return next, nil
		}
		if r.Refused == 2 {
			ours, end = nil, nil // the lease is another's by now, or nobody's: it is not ours to end
			continue
		}
		now, err := s.readShared(ctx, shared.Name)
		if err != nil {
			return 0, fmt.Errorf("commit shared grant: %w", err)
		}
		if now.generation >= next {
			break // a consent, or our own write and somebody's behind it
		}
		seen = now.generation // the store lost what had been there: this is newer all the same
	}
	return c.conn.SharedGeneration, s.endShared(ctx, shared)
}
