package brokertest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Store keeps every port of the broker but Upstream and Connectors in memory, with the promises that ports.go makes.
type Store struct {
	Now func() time.Time
	// Before is called at the start of each operation, outside of the lock; an error is returned in its stead: the store
	// is down, or slow if it waits. nil: nothing.
	Before func(ctx context.Context, operation string) error
	// After is called when UpdateConsent or CompleteConsent was carried out; an error is returned in place of the answer: that
	// got lost. nil: nothing.
	After func(ctx context.Context, operation string) error
	// Verified, if set, answers VerifyTrail.
	Verified func(tenant, position string) broker.VerifiedTrail
	// NotIndexed, if set, tells what the index of connections has not seen yet.
	NotIndexed func(broker.Connection) bool
	// Kept is from when on events are kept.
	Kept time.Time
	// Leased is called when a lease was taken, before the caller hears of it: the place where a process may be stopped.
	Leased func()

	mu       sync.Mutex
	records  map[string]*record
	consents map[string]broker.Consent
	written  map[string]consentWrite // the last one of each consent
	once     map[string]time.Time
	portals  map[string]broker.Portal
	visited  map[string]portalWrite // the last write of each visit
	shared   map[string]*shared
	holdings map[string]*holding
	enlisted map[string]bool
	Trail    []broker.Entry
	fence    int64

	jobs    map[string]*job
	jobOnce map[string]string

	switches broker.SwitchTable
	guesses  map[string]guess

	connectors      map[string]broker.TenantConnector
	connectorWrites int
}

type record struct {
	conn       broker.Connection
	refresh    broker.Secret
	access     map[string]broker.Secret
	owner      string
	ownerFence int64
	until      time.Time
	alternates []alternate
	revokedAt  time.Time // begun, not ended
	outcome    broker.RevokedUpstream
	seq        int64
	corrupt    bool
	left       bool // its shared grant
}

type alternate struct {
	account string
	token   broker.Secret
}

// NewStore makes an empty one.
func NewStore(now func() time.Time) *Store {
	return &Store{Now: now, records: map[string]*record{}, consents: map[string]broker.Consent{}, written: map[string]consentWrite{}, once: map[string]time.Time{}, portals: map[string]broker.Portal{}, visited: map[string]portalWrite{}, shared: map[string]*shared{}, holdings: map[string]*holding{}, enlisted: map[string]bool{}, guesses: map[string]guess{}}
}

func (s *Store) enter(ctx context.Context, operation string) (func(), error) {
	if s.Before != nil {
		if err := s.Before(ctx, operation); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	return s.mu.Unlock, nil
}

func (s *Store) lost(ctx context.Context, operation string) error {
	if s.After == nil {
		return nil
	}
	return s.After(ctx, operation)
}

// Entries returns a copy of the trail so far, of those types if any are named.
func (s *Store) Entries(types ...broker.EventType) []broker.Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.Trail), func(e broker.Entry) bool {
		return len(types) > 0 && !slices.Contains(types, e.Type)
	})
}

// RefreshToken returns what the record holds, for assertions.
func (s *Store) RefreshToken(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.records[id]; r != nil {
		return r.refresh.Reveal()
	}
	return ""
}

// Corrupt makes the secrets of a record fail to open, as if they were swapped.
func (s *Store) Corrupt(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[id].corrupt = true
}

func (s *Store) own(tenant, id string) (*record, error) {
	r := s.records[id]
	if r == nil || r.conn.Tenant != tenant {
		return nil, broker.ErrNotFound
	}
	return r, nil
}

// OfSubject is part of broker.Connections.
func (s *Store) OfSubject(ctx context.Context, tenant, subject, connector string) ([]broker.Connection, error) {
	done, err := s.enter(ctx, "OfSubject")
	if err != nil {
		return nil, err
	}
	defer done()
	conns := s.ofSubject(tenant, subject, connector)
	s.remember(tenant, subject, connector, conns)
	return conns, nil
}

func (s *Store) ofSubject(tenant, subject, connector string) []broker.Connection {
	var found []*record
	for _, r := range s.records {
		if r.conn.Tenant == tenant && r.conn.Subject == subject && (connector == "" || r.conn.Connector == connector) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b *record) int { return cmp.Compare(a.seq, b.seq) })
	conns := make([]broker.Connection, len(found))
	for i, r := range found {
		conns[i] = r.conn
	}
	return conns
}

// Connection is part of broker.Connections.
func (s *Store) Connection(ctx context.Context, tenant, id string) (broker.Connection, error) {
	done, err := s.enter(ctx, "Connection")
	if err != nil {
		return broker.Connection{}, err
	}
	defer done()
	r, err := s.own(tenant, id)
	if err != nil {
		return broker.Connection{}, err
	}
	return r.conn, nil
}

// List is part of broker.Connections.
func (s *Store) List(ctx context.Context, tenant string, f broker.ConnectionFilter, position string, limit int) ([]broker.Connection, string, error) {
	done, err := s.enter(ctx, "List")
	if err != nil {
		return nil, "", err
	}
	defer done()
	var page []broker.Connection
	for _, r := range s.records {
		c := r.conn
		if c.Tenant == tenant && c.ID > position && (f.Connector == "" || f.Connector == c.Connector) && (f.Status == "" || f.Status == c.Status) {
			page = append(page, c)
		}
	}
	slices.SortFunc(page, func(a, b broker.Connection) int { return strings.Compare(a.ID, b.ID) })
	if len(page) > limit {
		return page[:limit], page[limit-1].ID, nil
	}
	return page, "", nil
}

// Release is part of broker.Connections.
func (s *Store) Release(ctx context.Context, conn broker.Connection, key string, entry broker.Entry) (broker.Secret, error) {
	done, err := s.enter(ctx, "Release")
	if err != nil {
		return broker.Secret{}, err
	}
	defer done()
	r, err := s.own(conn.Tenant, conn.ID)
	if err != nil {
		return broker.Secret{}, err
	}
	if r.conn.Generation != conn.Generation || r.conn.Status != broker.ConnectionActive || s.switches.Mark != conn.Switches {
		return broker.Secret{}, broker.ErrConflict
	}
	if r.corrupt {
		return broker.Secret{}, broker.ErrIntegrity
	}
	s.Trail = append(s.Trail, entry)
	r.conn.LastIssued = s.Now()
	return r.access[key], nil
}

// Establish is part of broker.Connections.
func (s *Store) Establish(ctx context.Context, conn broker.Connection, once string, until time.Time) (broker.Connection, error) {
	done, err := s.enter(ctx, "Establish")
	if err != nil {
		return broker.Connection{}, err
	}
	defer done()
	mark := strings.Join([]string{"establish", conn.Tenant, conn.Subject, once}, "\x00")
	if s.records[conn.ID] != nil || s.Now().Before(s.once[mark]) {
		return broker.Connection{}, broker.ErrConflict
	}
	s.once[mark] = until
	conn.Generation = 1
	s.records[conn.ID] = &record{conn: conn, seq: int64(len(s.records))}
	return conn, nil
}

// BeginRefresh is part of broker.Refreshes.
func (s *Store) BeginRefresh(ctx context.Context, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error) {
	asked := s.Now()
	done, err := s.enter(ctx, "BeginRefresh")
	if err != nil {
		return broker.Lease{}, broker.Secret{}, err
	}
	defer func() {
		done()
		if s.Leased != nil {
			s.Leased()
		}
	}()
	r, err := s.own(conn.Tenant, conn.ID)
	if err != nil {
		return broker.Lease{}, broker.Secret{}, err
	}
	dead := r.conn.Status == broker.ConnectionNeedsConsent && r.conn.SharedGrant != ""
	if r.conn.Generation != conn.Generation || r.conn.Status != broker.ConnectionActive && !dead {
		return broker.Lease{}, broker.Secret{}, broker.ErrConflict
	}
	if r.owner != "" && s.Now().Before(r.until) {
		return broker.Lease{}, broker.Secret{}, broker.ErrBusy
	}
	if r.corrupt {
		return broker.Lease{}, broker.Secret{}, broker.ErrIntegrity
	}
	got := broker.Lease{
		Tenant: conn.Tenant, Connection: conn.ID, Generation: conn.Generation, Owner: owner, Fence: s.fence + 1, Until: asked.Add(lease),
	}
	if err := s.lend(r, &got, s.Now().Add(lease)); err != nil {
		return broker.Lease{}, broker.Secret{}, err
	}
	s.fence++
	r.owner, r.ownerFence, r.until = owner, s.fence, s.Now().Add(lease)
	if newer := got.Shared.Newer; newer != nil {
		return got, newer.RefreshToken, nil
	}
	return got, r.refresh, nil
}

func (s *Store) leased(lease broker.Lease) (*record, error) {
	r, err := s.own(lease.Tenant, lease.Connection)
	if err != nil {
		return nil, err
	}
	if r.conn.Status == broker.ConnectionRevoked {
		return nil, broker.ErrNotFound
	}
	if r.conn.Generation != lease.Generation {
		return r, broker.ErrConflict
	}
	return r, nil
}

// CommitRefresh is part of broker.Refreshes.
func (s *Store) CommitRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, key string, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	done, err := s.enter(ctx, "CommitRefresh")
	if err != nil {
		return broker.Connection{}, err
	}
	defer done()
	r, err := s.leased(lease)
	if errors.Is(err, broker.ErrConflict) && r.conn.Error == broker.ErrorInvalidGrant && r.conn.Generation == lease.Generation+1 {
		err = nil // dead was the old refresh token alone
	}
	if errors.Is(err, broker.ErrConflict) && r.conn.Account.ID != conn.Account.ID {
		return broker.Connection{}, broker.ErrNotFound // another account's now
	}
	if errors.Is(err, broker.ErrConflict) && !grant.RefreshToken.IsZero() {
		r.alternates = append([]alternate{{conn.Account.ID, grant.RefreshToken}}, r.alternates...)
	}
	if err != nil {
		return broker.Connection{}, err
	}
	if lease.Shared.Name != "" {
		conn.SharedGeneration = s.commitShared(lease, conn, key, grant)
	}
	s.write(r, conn, key, grant, entries)
	s.giveBack(r, lease)
	return r.conn, nil
}

// write stores a grant under the lock.
func (s *Store) write(r *record, conn broker.Connection, key string, grant broker.Grant, entries []broker.Entry) {
	generation := r.conn.Generation
	r.conn = conn
	r.conn.Generation = generation + 1
	if !grant.RefreshToken.IsZero() {
		r.refresh = grant.RefreshToken
	} else if !conn.Renewable {
		r.refresh = broker.Secret{}
	}
	if r.access == nil {
		r.access = map[string]broker.Secret{}
	}
	r.access[key] = grant.AccessToken
	r.owner = ""
	s.Trail = append(s.Trail, entries...)
}

// FailRefresh is part of broker.Refreshes.
func (s *Store) FailRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, entries []broker.Entry) (broker.Connection, error) {
	done, err := s.enter(ctx, "FailRefresh")
	if err != nil {
		return broker.Connection{}, err
	}
	defer done()
	r, err := s.leased(lease)
	if err != nil {
		return broker.Connection{}, err
	}
	r.conn = conn
	r.conn.Generation = lease.Generation + 1
	r.owner = ""
	s.giveBack(r, lease)
	s.Trail = append(s.Trail, entries...)
	return r.conn, nil
}

// Alternates is part of broker.Refreshes.
func (s *Store) Alternates(ctx context.Context, lease broker.Lease, conn broker.Connection) ([]broker.Secret, error) {
	done, err := s.enter(ctx, "Alternates")
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := s.own(conn.Tenant, conn.ID)
	if err != nil {
		return nil, err
	}
	if lease.Owner != "" && r.conn.Generation != lease.Generation {
		return nil, broker.ErrConflict
	}
	var mine []broker.Secret
	for _, a := range r.alternates {
		if a.account == conn.Account.ID {
			mine = append(mine, a.token)
		}
	}
	return mine, nil
}

// EndRefresh is part of broker.Refreshes.
func (s *Store) EndRefresh(ctx context.Context, lease broker.Lease) error {
	done, err := s.enter(ctx, "EndRefresh")
	if err != nil {
		return err
	}
	defer done()
	if r, err := s.own(lease.Tenant, lease.Connection); err == nil && r.owner == lease.Owner && r.ownerFence == lease.Fence {
		r.owner = ""
		s.giveBack(r, lease)
	}
	return nil
}

// Shard is part of broker.Placement.
func (s *Store) Shard(tenant, subject string) byte {
	sum := sha256.Sum256([]byte(tenant + "\x00" + subject))
	return sum[0]
}

// SealCursor is part of broker.Cursors.
func (s *Store) SealCursor(purpose, position string) (string, error) {
	return purpose + "|" + position, nil
}

// OpenCursor is part of broker.Cursors.
func (s *Store) OpenCursor(purpose, cursor string) (string, error) {
	position, ok := strings.CutPrefix(cursor, purpose+"|")
	if !ok {
		return "", errors.New("not of this purpose")
	}
	return position, nil
}

// Append is part of broker.Audit.
func (s *Store) Append(ctx context.Context, entries ...broker.Entry) error {
	done, err := s.enter(ctx, "Append")
	if err != nil {
		return err
	}
	defer done()
	s.Trail = append(s.Trail, entries...)
	return nil
}

// Events is part of broker.Audit.
func (s *Store) Events(ctx context.Context, tenant string, f broker.EventFilter, position string, limit int) ([]broker.Event, string, error) {
	done, err := s.enter(ctx, "Events")
	if err != nil {
		return nil, "", err
	}
	defer done()
	from, _ := strconv.Atoi(position)
	var all []broker.Event
	for _, e := range s.Trail {
		if e.Tenant != tenant || (f.Subject != "" && f.Subject != e.Subject) || (f.Type != "" && f.Type != e.Type) {
			continue
		}
		for _, scope := range e.Scopes {
			all = append(all, broker.Event{ID: scope.ID, Time: e.Time, Type: e.Type, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject,
				Actor: e.Actor, Connector: e.Connector, Connection: e.Connection, Scope: scope.Scope, Requested: scope.Requested,
				Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal})
		}
	}
	all = all[min(from, len(all)):]
	if len(all) > limit {
		return all[:limit], strconv.Itoa(from + limit), nil
	}
	return all, "", nil
}
