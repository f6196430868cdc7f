package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"tokenbroker/broker"
)

var _ broker.Guesses = (*Store)(nil)

// seen is what a guess stands on: where the subject's connections lie and what must be found there.
type seen struct {
	shard byte
	query IndexQuery
	state string
}

// Guess implements broker.Guesses.
func (s *Store) Guess(tenant, subject, connector string) (broker.Guess, bool) {
	shard := s.Shard(tenant, subject)
	is, ok := s.guesses.get(tenant, subject, connector, shard)
	if !ok {
		return broker.Guess{}, false
	}
	query := s.switchedSubject(shard, tenant, subject)
	if s.doubted(tenant, connector, query.Index, is) {
		return broker.Guess{}, false
	}
	newest := s.switches.latest()
	return broker.Guess{
		Tenant: tenant, Subject: subject, Connector: connector, Connection: is.id, Scopes: is.scopes, ExpiresAt: is.expires,
		Table: broker.SwitchTable{Mark: newest.write, Version: newest.version, Off: newest.off},
		Seen:  seen{shard: shard, query: query, state: is.state},
	}, true
}

// doubted tells that this process wrote something of the connection, or under the subject's index, of which the guess does not know. The
// store may have lost it since, and be again as the guess has it: readers bring it back (healed, missing). A revocation of which this
// process had not read the connection before is remembered without its index, so the connection is asked for by its id too.
func (s *Store) doubted(tenant, connector, index string, is guessed) bool {
	if m := s.memory.get(is.id); m != nil && m.tenant == tenant && (m.status != broker.ConnectionActive || writeHash(m.write) != is.write) {
		return true
	}
	for _, id := range s.memory.ofSubject(index) {
		m := s.memory.get(id)
		switch {
		case m == nil || m.tenant != tenant || id == is.id:
		case m.connector() == "" || m.connector() == connector:
			return true
		}
	}
	return false
}

// note remembers what was read of the subject, if a single active connection is all that it has to the connector.
func (s *Store) note(tenant, subject, connector string, items []Indexed, conns []broker.Connection) {
	if connector == "" || len(conns) != 1 {
		return
	}
	conn := conns[0]
	token, ok := conn.Token("")
	if !ok || token.Never || conn.Direct || conn.Status != broker.ConnectionActive || !token.Scopes.Equal(conn.Scopes) {
		s.guesses.forget(tenant, subject, connector)
		return
	}
	members, write := make([]string, len(items)), ""
	for i, item := range items {
		if members[i] = item.Member; item.Member == conn.ID {
			write = string(item.Record[fieldWrite])
		}
	}
	s.guesses.put(tenant, subject, connector, guessed{
		id: conn.ID, state: StateDigest(members, write), write: writeHash(write), scopes: conn.Scopes, expires: token.ExpiresAt,
	})
}

// ReleaseGuessed implements broker.Guesses, in one round trip.
func (s *Store) ReleaseGuessed(ctx context.Context, guess broker.Guess, entry broker.Entry) (broker.Connection, broker.Secret, error) {
	fail := func(err error) (broker.Connection, broker.Secret, error) {
		return broker.Connection{}, broker.Secret{}, fmt.Errorf("release token: %w", err)
	}
	at, ok := guess.Seen.(seen)
	if !ok {
		return fail(errors.New("the guess is not one of this store"))
	}
	drafts, err := s.drafts(guess.Tenant, []broker.Entry{entry})
	if err != nil {
		return fail(err)
	}
	step := Step{Release: &ReleaseStep{
		Index: at.query.Index, State: at.state, Record: connectionKey(at.shard, guess.Connection),
		// Of the tenant, and active. The form is that of the write that State names, which was read.
		Values:   []string{guess.Tenant, string(broker.ConnectionActive)},
		Switches: switchesKey(at.shard), Mark: guess.Table.Mark,
		// In a key of its own: what changes with every use must never share a write with credentials.
		UseKey: issuedKey(at.shard, guess.Connection), UseField: fieldIssued, UseValue: strconv.FormatInt(millis(s.cfg.Now()), 10),
		Instead: at.query,
	}}
	r, err := s.trails.do(ctx, trailName{shard: at.shard, tenant: guess.Tenant}, "", step, drafts)
	if err != nil {
		return fail(err)
	}
	if r.Verdict == VerdictRefused {
		return broker.Connection{}, broker.Secret{}, s.instead(ctx, guess, at, r.Instead)
	}
	if len(r.Reads) == 0 {
		// Its answer was lost, and the chain showed that the step was carried out: the entry says of more than is handed out.
		return broker.Connection{}, broker.Secret{}, &broker.WrongGuess{}
	}
	conn, token, err := s.openReleased(guess, at, r)
	if err != nil {
		s.guesses.forget(guess.Tenant, guess.Subject, guess.Connector)
		return fail(err)
	}
	return conn, token, nil
}

// openReleased opens what the step read: of the record that it found, or, if it was carried out before, of what it has become.
func (s *Store) openReleased(guess broker.Guess, at seen, r Result) (broker.Connection, broker.Secret, error) {
	record := r.Reads[0]
	conn, _, err := s.openRecord(guess.Tenant, guess.Connection, record, nil)
	if err != nil {
		return conn, broker.Secret{}, err
	}
	info, ok := conn.Token("")
	switch {
	case r.Verdict == VerdictRepeated && (!ok || conn.Status != broker.ConnectionActive || !info.Scopes.Equal(guess.Scopes) || info.Never ||
		info.ExpiresAt.Before(guess.ExpiresAt) || s.switches.latest().write != guess.Table.Mark):
		return conn, broker.Secret{}, &broker.WrongGuess{} // it moved on before the answer came
	case ok && conn.Subject == guess.Subject && conn.Connector != guess.Connector:
		// The seal says that it is genuine: two of the subject's connections met in all bits of a guess.
		s.guesses.forget(guess.Tenant, guess.Subject, guess.Connector)
		return conn, broker.Secret{}, &broker.WrongGuess{}
	case !ok || conn.Subject != guess.Subject || conn.Connector != guess.Connector || !info.Scopes.Equal(guess.Scopes):
		return conn, broker.Secret{}, fmt.Errorf("another record than its version says: %w", broker.ErrIntegrity)
	}
	token, err := s.openAccess(guess.Tenant, guess.Connection, info, record[fieldAccess])
	return conn, token, err
}

// instead is what OfSubjectSwitched would say, by what the refused step read.
func (s *Store) instead(ctx context.Context, guess broker.Guess, at seen, found []Indexed) error {
	wrong := &broker.WrongGuess{Read: true}
	items, beside, err := s.indexed(ctx, guess.Tenant, at.query, found)
	if err == nil {
		wrong.Table, err = s.switches.standing(ctx, s, at.shard, beside)
	}
	if err != nil {
		wrong.Err = err
		return wrong
	}
	wrong.All, wrong.Err = s.openSubject(guess.Tenant, guess.Subject, guess.Connector, items)
	return wrong
}
