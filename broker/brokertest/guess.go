package brokertest

import (
	"context"
	"strings"

	"tokenbroker/broker"
)

// guess is what the Store remembers for Guess.
type guess struct {
	conn  broker.Connection
	table broker.SwitchTable
}

// remember is called with what OfSubject found.
func (s *Store) remember(tenant, subject, connector string, conns []broker.Connection) {
	key := strings.Join([]string{tenant, subject, connector}, "\n")
	delete(s.guesses, key)
	if len(conns) != 1 || connector == "" {
		return
	}
	token, ok := conns[0].Token("")
	if ok && !token.Never && !conns[0].Direct && conns[0].Status == broker.ConnectionActive && token.Scopes.Equal(conns[0].Scopes) {
		s.guesses[key] = guess{conn: conns[0], table: s.switches}
	}
}

// Guess is part of broker.Guesses.
func (s *Store) Guess(tenant, subject, connector string) (broker.Guess, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.guesses[strings.Join([]string{tenant, subject, connector}, "\n")]
	if !ok {
		return broker.Guess{}, false
	}
	token, _ := g.conn.Token("")
	return broker.Guess{
		Tenant: tenant, Subject: subject, Connector: connector, Connection: g.conn.ID, Scopes: g.conn.Scopes, ExpiresAt: token.ExpiresAt, Table: g.table,
		Seen: g.conn.Generation,
	}, true
}

// Remember puts back what Guess returned earlier, as another process would remember it.
func (s *Store) Remember(tenant, subject, connector string, g broker.Guess) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn := broker.Connection{ID: g.Connection, Scopes: g.Scopes, Generation: g.Seen.(int64), Tokens: []broker.AccessTokenInfo{{Scopes: g.Scopes, ExpiresAt: g.ExpiresAt}}}
	s.guesses[strings.Join([]string{tenant, subject, connector}, "\n")] = guess{conn: conn, table: g.Table}
}

// ReleaseGuessed is part of broker.Guesses. To Before it is the same operation as Release.
func (s *Store) ReleaseGuessed(ctx context.Context, g broker.Guess, entry broker.Entry) (broker.Connection, broker.Secret, error) {
	done, err := s.enter(ctx, "Release")
	if err != nil {
		return broker.Connection{}, broker.Secret{}, err
	}
	conns := s.ofSubject(g.Tenant, g.Subject, g.Connector)
	if len(conns) != 1 || conns[0].ID != g.Connection || conns[0].Generation != g.Seen || conns[0].Status != broker.ConnectionActive || s.switches.Mark != g.Table.Mark {
		done()
		wrong := &broker.WrongGuess{Read: true}
		wrong.All, wrong.Table, wrong.Err = s.OfSubjectSwitched(ctx, g.Tenant, g.Subject, g.Connector)
		return broker.Connection{}, broker.Secret{}, wrong
	}
	defer done()
	r := s.records[g.Connection]
	s.Trail = append(s.Trail, entry)
	if r.corrupt {
		return broker.Connection{}, broker.Secret{}, broker.ErrIntegrity
	}
	r.conn.LastIssued = s.Now()
	return r.conn, r.access[""], nil
}
