package vault

import (
	"context"
	"slices"
	"time"

	"tokenbroker/broker"
)

// steadyStore is the history that the store has had since a time, as watch found.
type steadyStore struct {
	identity string
	since    time.Time
}

// steadySince tells whether the store had no reason to lose what is remembered: it neither started nor changed its master since that was
// sent. Then whoever took it away has written to the store (threats.md, row 34), unless it is one that keeps its identity when it changes its
// master, as some that are rented do: what can't be made good again is not to be decided by that alone.
func (s *Store) steadySince(ctx context.Context, m *remembered) bool {
	steady := s.steady.Load()
	if steady == nil || steady.identity == "" || !steady.since.Before(m.sent) || s.unhealed.Load() {
		return false
	}
	// It may have changed after watch looked last.
	now, err := s.identity(ctx)
	return err == nil && now == steady.identity
}

// posesAsConsent tells that a record which looks like a consent that came instead of what is remembered is an older one: the generation of the last
// consent is in clear, and somebody raised it, that what is older be taken for newer. A consent brings its refresh token with it, and the sealed
// header says at which generation that came, as later refreshes do. One without a refresh token of its own keeps the one before: then it has an access token
// that ends later. Whatever else it may be is taken for
// a consent, or a revocation.
func posesAsConsent(m *remembered, record map[string][]byte) bool {
	is, ok := readHeader(record)
	was, known := parseHeaderOf(m.fields[fieldFormat], m.fields[fieldHeader])
	if !ok || !known || isRevoked(record) || len(record[fieldRefresh]) == 0 || is.RefreshEpoch >= consentedOf(record) || len(is.Tokens) == 0 {
		return false
	}
	for _, t := range is.Tokens {
		i := slices.IndexFunc(was.Tokens, func(had headerToken) bool { return had.Key == t.Key })
		if i < 0 || t.Never || was.Tokens[i].Never || t.Expires == 0 || t.Expires > was.Tokens[i].Expires {
			return false
		}
	}
	return true
}

// alarm is the entry for a record in whose place an older one, or none, lies for no reason that the store has; none where the store had one, or may
// have had. It goes with the write that puts the record right: a process that dies between the two would leave nothing that tells of it.
func (s *Store) alarm(ctx context.Context, m *remembered) ([]broker.Entry, error) {
	if m.consent || m.shared != "" || !s.steadySince(ctx, m) {
		return nil, nil
	}
	id, err := s.randomID()
	if err != nil {
		return nil, err
	}
	e := broker.Entry{
		Type: broker.EventIntegrityFailed, Time: s.cfg.Now().UTC(), Tenant: m.tenant, Connection: m.id, Scopes: []broker.EventScope{{ID: id}}, Outcome: "healed",
		Reason: "an older record, or none, lay in the place of the newest one",
	}
	if conn, err := s.rememberedConnection(m); err == nil {
		e.Subject, e.Connector, e.Client = conn.Subject, conn.Connector, conn.Client
	}
	return []broker.Entry{e}, nil
}

// withAlarm are the entries that go with a write which heals. Where there is an alarm the store has lost nothing, so what was told of the record before
// is there, and need not be told again.
func withAlarm(lost, alarm []broker.Entry) []broker.Entry {
	var all []broker.Entry
	for _, e := range lost {
		if len(alarm) == 0 || e.Type != broker.EventIntegrityFailed {
			all = append(all, e)
		}
	}
	return append(all, alarm...)
}

// alarmed says in the log what alarm has put on record.
func (s *Store) alarmed(ctx context.Context, m *remembered, alarm []broker.Entry) {
	if len(alarm) > 0 {
		s.cfg.Log.ErrorContext(ctx, "an older record lay in the place of the newest one, and the store had no reason to lose that: someone may have written to the store", "connection", m.id, "event", alarm[0].Scopes[0].ID)
	}
}
