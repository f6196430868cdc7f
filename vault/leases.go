package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

// maxBegins bounds how many attempts of unknown outcome are remembered: of some 250 bytes each.
const maxBegins = 4096

// begins remembers the attempts to take a lease whose answer never came. The store may have carried one out, or do so
// when it wakes: the lease is then this process's own, and would keep it from refreshing for as long as it lasts if the
// next attempt came under another name.
type begins struct {
	mu  sync.Mutex
	all map[beginKey]begin
}

// beginKey is what an attempt is for. Whatever writes the record moves its generation or ends the lease, so a lease of
// this name is good for the whole of it.
type beginKey struct {
	tenant, connection string
	generation         int64
	holder             string
}

// begin is an attempt.
type begin struct {
	owner string
	until time.Time // the end that the lease has if the first request under this name was the one that took it
	busy  bool      // a call is making it right now
}

// enter starts an attempt: the one of unknown outcome if there is one, else the fresh one. false while another call of this
// process makes one: two calls under one name would both believe that they hold the lease.
func (b *begins) enter(key beginKey, fresh begin) (begin, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	try, there := b.all[key]
	switch {
	case try.busy:
		return begin{}, false
	case !there:
		try = fresh
	}
	try.busy = true
	b.all[key] = try
	return try, true
}

// leave ends an attempt. Only one whose outcome is unknown is remembered.
func (b *begins) leave(key beginKey, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known {
		delete(b.all, key)
		return
	}
	try := b.all[key]
	try.busy = false
	b.all[key] = try
	if len(b.all) <= maxBegins {
		return
	}
	var oldest *beginKey
	for k, other := range b.all {
		if !other.busy && (oldest == nil || other.until.Before(b.all[*oldest].until)) {
			oldest = &k
		}
	}
	delete(b.all, *oldest) // there is one: the entry of key at least
}

// BeginRefresh implements broker.Refreshes. A crash behind it leaves a lease that ends by itself. The token is the zero
// Secret if conn is not Renewable and the record has none. ErrBusy also while another call of this process is asking for
// the same lease.
func (s *Store) BeginRefresh(ctx context.Context, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	got, record, beside, err := s.takeLease(ctx, conn, owner, lease)
	if err != nil {
		return broker.Lease{}, broker.Secret{}, fmt.Errorf("begin refresh: %w", err)
	}
	sealed, there := record[fieldRefresh]
	if !there && !conn.Renewable {
		return got, broker.Secret{}, nil
	}
	if conn.SharedGrant != "" {
		if err := s.shareLease(ctx, &got, conn, lease); err != nil {
			// The caller's time may be over: the connection's lease must not stay for that.
			fresh, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RoundTrip)
			defer cancel()
			return broker.Lease{}, broker.Secret{}, fmt.Errorf("begin refresh: %w", errors.Join(err, s.EndRefresh(fresh, got)))
		}
		if newer := got.Shared.Newer; newer != nil && !newer.RefreshToken.IsZero() {
			return got, newer.RefreshToken, nil
		}
	}
	token, err := s.openRefresh(conn, sealed, record)
	if err != nil {
		// Nothing will be sent with this lease. If it can't be given back now, it ends by itself.
		if endErr := s.EndRefresh(ctx, got); endErr != nil {
			err = errors.Join(err, endErr)
		}
		return broker.Lease{}, broker.Secret{}, fmt.Errorf("begin refresh: %w", err)
	}
	if conn.SharedGrant == "" {
		changed, err := s.promote(ctx, got, conn, token, record, beside)
		if changed {
			err = broker.ErrConflict
		} else if err != nil {
			err = errors.Join(err, s.EndRefresh(ctx, got))
		}
		if err != nil {
			return broker.Lease{}, broker.Secret{}, fmt.Errorf("begin refresh: %w", err)
		}
	}
	return got, token, nil
}

// refreshable is the status in which the record may be refreshed: active, or called dead if others hold its grant too.
func refreshable(conn broker.Connection) broker.ConnectionStatus {
	if conn.SharedGrant != "" && conn.Status == broker.ConnectionNeedsConsent && conn.Error == broker.ErrorInvalidGrant {
		return conn.Status
	}
	return broker.ConnectionActive
}

// openRefresh opens the refresh token of a record that is active and at conn's generation.
func (s *Store) openRefresh(conn broker.Connection, sealed []byte, record map[string][]byte) (broker.Secret, error) {
	h, ok := readHeader(record)
	if !ok {
		return broker.Secret{}, fmt.Errorf("header: %w", broker.ErrIntegrity)
	}
	_, err := s.openPrivate(conn.Tenant, conn.ID, refreshable(conn), h, record)
	if err != nil {
		return broker.Secret{}, err
	}
	s.epochs.put(epochKey{id: conn.ID, generation: conn.Generation}, h.RefreshEpoch)
	return s.openRefreshToken(conn.Tenant, conn.ID, h.RefreshEpoch, sealed)
}

// takeLease returns the lease, what openRefresh needs of the record, and the alternates beside it.
func (s *Store) takeLease(ctx context.Context, conn broker.Connection, holder string, lease time.Duration) (got broker.Lease, record, beside map[string][]byte, err error) {
	shard, err := shardOf(conn.ID)
	if err != nil {
		return broker.Lease{}, nil, nil, err
	}
	// The caller read what the store had before it lost something, or before a write of this process just now.
	if m := s.memory.get(conn.ID); m != nil && m.generation > conn.Generation {
		return broker.Lease{}, nil, nil, broker.ErrConflict
	}
	// The holder's name alone would make two attempts of one process look the same, and one could end the other's lease.
	nonce, err := s.randomID()
	if err != nil {
		return broker.Lease{}, nil, nil, err
	}
	until := s.cfg.Now().Add(lease)
	attempt := beginKey{tenant: conn.Tenant, connection: conn.ID, generation: conn.Generation, holder: holder}
	try, alone := s.begins.enter(attempt, begin{owner: holder + "/" + nonce, until: until})
	if !alone {
		return broker.Lease{}, nil, nil, broker.ErrBusy
	}
	known := false
	defer func() { s.begins.leave(attempt, known) }()
	key := connectionKey(shard, conn.ID)
	r, err := s.trails.direct(ctx, Step{
		// After a failover the record may be an older one, whose refresh token the provider knows as used.
		Settle: &Settle{Key: settleKey(shard), Pause: settlePause},
		Checks: []Check{
			{Key: key, Field: fieldOwner, Kind: CheckApplied, Value: try.owner},
			{Key: key, Field: fieldTenant, Kind: CheckEqual, Value: conn.Tenant},
			{Key: key, Field: fieldFormat, Kind: CheckAtMost, Value: connectionFormat},
			{Key: key, Field: fieldGeneration, Kind: CheckEqual, Value: strconv.FormatInt(conn.Generation, 10)},
			{Key: key, Field: fieldStatus, Kind: CheckEqual, Value: string(refreshable(conn))},
			{Key: key, Field: fieldDeadline, Kind: CheckFree},
		},
		Writes: []Write{
			{Kind: WriteHashSet, Key: key, Args: []string{fieldOwner, try.owner}},
			{Kind: WriteHashIncrement, Key: key, Args: []string{fieldFence, "1"}},
			{Kind: WriteDeadline, Key: key, Args: []string{fieldDeadline, strconv.FormatInt(lease.Milliseconds(), 10)}},
		},
		Reads: []Read{{Key: key, Fields: []string{fieldFence, fieldRefresh, fieldFormat, fieldHeader, fieldPrivate}}, {Key: alternatesKey(shard, conn.ID)}},
	})
	if err != nil {
		return broker.Lease{}, nil, nil, err
	}
	if r.Verdict == VerdictSettling {
		return broker.Lease{}, nil, nil, broker.ErrBusy // an attempt before this one may have taken it all the same
	}
	known = true
	switch r.Verdict {
	case VerdictRefused:
		return broker.Lease{}, nil, nil, []error{1: broker.ErrNotFound, 2: broker.ErrNewerFormat, 3: broker.ErrConflict, 4: broker.ErrConflict, 5: broker.ErrBusy}[r.Refused]
	case VerdictApplied:
		until = try.until // taken by a request before this one, perhaps by the very first
	}
	fence, err := strconv.ParseInt(string(r.Reads[0][fieldFence]), 10, 64)
	if err != nil {
		return broker.Lease{}, nil, nil, fmt.Errorf("fence: %w", broker.ErrIntegrity)
	}
	return broker.Lease{
		Tenant: conn.Tenant, Connection: conn.ID, Generation: conn.Generation, Owner: try.owner, Fence: fence, Until: until,
	}, r.Reads[0], r.Reads[1], nil
}
