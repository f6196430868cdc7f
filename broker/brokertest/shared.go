package brokertest

import (
	"context"
	"time"

	"tokenbroker/broker"
)

// shared is a grant that several connections hold.
type shared struct {
	grant      broker.Grant
	generation int64
	owner      string
	until      time.Time
	consents   map[string]int64 // the generation that each made
}

// lend takes the lease on the grant behind the record, for all its holders.
func (s *Store) lend(r *record, lease *broker.Lease, until time.Time) error {
	g := s.shared[r.conn.SharedGrant]
	if r.conn.SharedGrant == "" {
		return nil
	}
	if g == nil {
		g = &shared{consents: map[string]int64{}}
		s.shared[r.conn.SharedGrant] = g
	}
	if g.owner != "" && s.Now().Before(g.until) {
		return broker.ErrBusy
	}
	g.owner, g.until = lease.Owner+"/"+lease.Connection, until
	lease.Shared = broker.SharedLease{Name: r.conn.SharedGrant, Generation: g.generation, Owner: g.owner}
	if g.generation > r.conn.SharedGeneration {
		newer := g.grant
		lease.Shared.Newer = &newer
	}
	return nil
}

// giveBack ends that lease.
func (s *Store) giveBack(r *record, lease broker.Lease) {
	if g := s.shared[r.conn.SharedGrant]; g != nil && g.owner == lease.Shared.Owner {
		g.owner = ""
	}
}

// Spread is part of broker.SharedGrants.
func (s *Store) Spread(ctx context.Context, name, consent string, grant broker.Grant) (int64, error) {
	done, err := s.enter(ctx, "Spread")
	if err != nil {
		return 0, err
	}
	defer done()
	g := s.shared[name]
	if g == nil {
		g = &shared{consents: map[string]int64{}}
		s.shared[name] = g
	}
	if n, there := g.consents[consent]; there {
		return n, nil
	}
	made := grant.ObtainedAt.UnixMicro()
	if made >= g.generation {
		made = max(made, g.generation+1)
		g.grant, g.generation = bare(grant), made
	} else {
		made = 0
	}
	g.consents[consent] = made
	return made, nil
}

// Unmark is part of broker.SharedGrants.
func (s *Store) Unmark(ctx context.Context, name, consent string) error {
	done, err := s.enter(ctx, "Unmark")
	if err != nil {
		return err
	}
	defer done()
	if g := s.shared[name]; g != nil {
		delete(g.consents, consent)
	}
	delete(s.holding(name).consents, consent)
	return nil
}

func bare(grant broker.Grant) broker.Grant {
	grant.Account, grant.Extra, grant.Vars = broker.Account{}, nil, nil
	return grant
}

// commitShared keeps what a refresh gave for the grant's other holders and returns the generation of the record's tokens.
func (s *Store) commitShared(lease broker.Lease, conn broker.Connection, key string, grant broker.Grant) int64 {
	g := s.shared[lease.Shared.Name]
	switch {
	case lease.Shared.Adopted:
		return lease.Shared.Generation
	case g == nil, grant.RefreshToken.IsZero(), g.generation > lease.Shared.Generation:
		return conn.SharedGeneration
	}
	kept := bare(grant)
	if token, ok := conn.Token(key); ok {
		kept.Scopes, kept.ScopesReported = token.Scopes, true
	}
	if key != "" {
		kept.AccessToken = broker.Secret{}
	}
	g.grant, g.generation = kept, max(g.generation+1, grant.ObtainedAt.UnixMicro())
	return g.generation
}

// holders counts under the lock.
func (s *Store) holders(name string, beside broker.Holder) int {
	n := 0
	for id, since := range s.holding(name).connections {
		if id != beside.ID || since > beside.Generation {
			n++
		}
	}
	for id := range s.holding(name).consents {
		if id != beside.ID {
			n++
		}
	}
	for id, r := range s.records {
		if id != beside.ID && r.conn.SharedGrant == name && !r.left {
			n++
		}
	}
	if g := s.shared[name]; g != nil {
		for id := range g.consents {
			if id != beside.ID {
				n++
			}
		}
	}
	return n
}

// Holders is part of broker.SharedGrants.
func (s *Store) Holders(ctx context.Context, name string, beside broker.Holder) (int, error) {
	done, err := s.enter(ctx, "Holders")
	if err != nil {
		return 0, err
	}
	defer done()
	return s.holders(name, beside), nil
}

// Leave is part of broker.SharedGrants.
func (s *Store) Leave(ctx context.Context, name string, connection broker.Holder) (int, error) {
	done, err := s.enter(ctx, "Leave")
	if err != nil {
		return 0, err
	}
	defer done()
	if r := s.records[connection.ID]; r != nil && r.conn.SharedGrant == name {
		r.left = true
	}
	if since, there := s.holding(name).connections[connection.ID]; there && since <= connection.Generation {
		delete(s.holding(name).connections, connection.ID)
	}
	return s.holders(name, connection), nil
}

// Newest is part of broker.SharedGrants.
func (s *Store) Newest(ctx context.Context, name string) (int64, error) {
	done, err := s.enter(ctx, "Newest")
	if err != nil {
		return 0, err
	}
	defer done()
	if g := s.shared[name]; g != nil {
		return g.generation, nil
	}
	return 0, nil
}

// holding is who holds one of the grants that end together.
type holding struct {
	connections map[string]int64
	consents    map[string]bool
}

func (s *Store) holding(name string) *holding {
	if s.holdings[name] == nil {
		s.holdings[name] = &holding{connections: map[string]int64{}, consents: map[string]bool{}}
	}
	return s.holdings[name]
}

// Hold is part of broker.SharedGrants.
func (s *Store) Hold(ctx context.Context, name string, connection broker.Holder) error {
	done, err := s.enter(ctx, "Hold")
	if err != nil {
		return err
	}
	defer done()
	h := s.holding(name)
	h.connections[connection.ID] = max(h.connections[connection.ID], connection.Generation)
	return nil
}

// Mark is part of broker.SharedGrants.
func (s *Store) Mark(ctx context.Context, name, consent string) error {
	done, err := s.enter(ctx, "Mark")
	if err != nil {
		return err
	}
	defer done()
	s.holding(name).consents[consent] = true
	return nil
}

// Enlist is part of broker.SharedGrants.
func (s *Store) Enlist(ctx context.Context, client string, name func(broker.Connection) string) error {
	done, err := s.enter(ctx, "Enlist")
	if err != nil {
		return err
	}
	defer done()
	if s.enlisted[client] {
		return nil
	}
	for id, r := range s.records {
		if group := name(r.conn); group != "" && r.conn.Status != broker.ConnectionRevoked {
			s.holding(group).connections[id] = r.conn.Generation
		}
	}
	s.enlisted[client] = true
	return nil
}

// ForgetHolders makes the store one that was written before it counted who holds grants that end together.
func (s *Store) ForgetHolders() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.holdings)
	clear(s.enlisted)
}

// HeldBy is part of broker.SharedGrants.
func (s *Store) HeldBy(ctx context.Context, name string, limit int) ([]broker.Connection, error) {
	done, err := s.enter(ctx, "HeldBy")
	if err != nil {
		return nil, err
	}
	defer done()
	var out []broker.Connection
	for id := range s.holding(name).connections {
		if r := s.records[id]; r != nil && len(out) < limit {
			out = append(out, r.conn)
		}
	}
	return out, nil
}
