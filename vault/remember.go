package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"tokenbroker/broker"
)

// What goes into the memory (memory.go) once the store has acknowledged a write.

// written is a write of a record that the store acknowledged.
type written struct {
	remembered     // who and where; the rest is filled in
	read       int // which of the step's reads is the record
	entries    []broker.Entry
}

// errUnremembered: a write was carried out, and it is not known here what it left. Repeated as it was, it is found or made again.
var errUnremembered = errors.New("a write is not remembered")

// remember keeps what a write left of the record. Where somebody wrote behind it before that could be seen, it is what that left:
// whoever it was may be gone when the store loses both. errUnremembered: the record could not be read, or the store has lost
// the write since, so that nobody would bring it back.
func (s *Store) remember(ctx context.Context, w written, r Result) error {
	m := w.remembered
	var record map[string][]byte
	if w.read < len(r.Reads) && !r.overtaken {
		record = r.Reads[w.read]
	} else {
		// The answer was lost, and the chain of entries showed that the step was carried out; or it is older than the store.
		found, err := s.hashes(ctx, m.key())
		if err != nil {
			return fmt.Errorf("%w: %w", errUnremembered, err)
		}
		record = found[0]
	}
	own := writtenEntries{generation: m.generation, write: m.write, entries: w.entries}
	switch {
	case string(record[fieldWrite]) == m.write:
		m.take(record)
		own.generation, own.revoked = m.generation, m.status == broker.ConnectionRevoked
	case versionOf(record, m.versionField()) < m.generation:
		return fmt.Errorf("%w: the store has lost it", errUnremembered)
	case m.consent || !s.takeLater(&m, record):
		return nil // finished, and gone when nobody knows
	}
	m.stored, m.sent = r.Now, r.asked
	s.memory.put(&m, own)
	return nil
}

// takeLater takes what somebody else left of the record; false: it is none that could be brought back.
func (s *Store) takeLater(m *remembered, record map[string][]byte) bool {
	own := m.generation
	if m.shared != "" {
		m.take(record)
		return string(record[fieldFormat]) == sharedFormat
	}
	conn, err := s.clearConnection(m.tenant, m.id, record, nil)
	if err != nil || string(record[fieldTenant]) != m.tenant {
		return false
	}
	m.take(record)
	m.places = s.followWrites(m.shard, conn)
	open := Write{Kind: WriteSortedRemove, Key: revocationsKey(m.shard), Args: []string{m.id}}
	if m.status == broker.ConnectionRevoked && len(record[fieldOutcome]) == 0 {
		open = Write{Kind: WriteSortedAdd, Key: revocationsKey(m.shard), Args: []string{strconv.FormatInt(s.cfg.Now().UnixMilli(), 10), m.id}}
	}
	m.places = append(m.places, open)
	if m.consented > own || m.status == broker.ConnectionRevoked {
		m.places = append(m.places, Write{Kind: WriteDelete, Key: alternatesKey(m.shard, m.id)})
	}
	return true
}

// rememberIfRead is remember where repeating the write would be worse than to forget it.
func (s *Store) rememberIfRead(ctx context.Context, w written, r Result) {
	if err := s.remember(ctx, w, r); err != nil {
		s.cfg.Log.WarnContext(ctx, "a write is not remembered, so a failover may lose it", "record", w.id, "error", err)
	}
}

// rememberErased keeps that the record is gone.
func (s *Store) rememberErased(shard byte, conn broker.Connection, index string, record map[string][]byte, r Result) {
	s.memory.put(&remembered{
		tenant: conn.Tenant, id: conn.ID, shard: shard, generation: conn.Generation + 1, consented: consentedOf(record),
		status: broker.ConnectionRevoked, index: index, stored: r.Now, sent: r.asked,
	}, writtenEntries{})
}
