package vault

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

// A failover can take back an acknowledged write of a tenant's connector, as of any other record (heal.go). Nothing of it depends
// on a provider, so what its writer does is simple: it compares whenever it sees that something changed, and writes back what is
// behind, unless the connector was deleted since.

// connectorWrites are this process's writes of tenants' connectors, as long as a failover could still take them back.
type connectorWrites struct {
	mu  sync.Mutex
	all map[string]connectorWrite // by the connector's id
}

// connectorWrite is the last one of a connector.
type connectorWrite struct {
	tenant, id string
	version    int64 // that it left; of a deletion, one more than what it found
	deleted    bool
	write      string
	writes     []Write
	events     []versionEvents // of it and those before it
	at         time.Time
}

type versionEvents struct {
	version int64
	entries []broker.Entry
}

// put remembers a write.
func (m *connectorWrites) put(w connectorWrite, entries []broker.Entry, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, had := range m.all {
		if now.Sub(had.at) > memoryLife {
			delete(m.all, id)
		}
	}
	for _, e := range m.all[w.id].events {
		if e.version < w.version {
			w.events = append(w.events, e)
		}
	}
	w.events, w.at = append(w.events, versionEvents{version: w.version, entries: entries}), now
	w.events = w.events[max(0, len(w.events)-memoryWrites):]
	if m.all == nil {
		m.all = make(map[string]connectorWrite)
	}
	m.all[w.id] = w
}

// get returns the last write of the connector, if it is remembered.
func (m *connectorWrites) get(id string, now time.Time) (connectorWrite, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, ok := m.all[id]
	return w, ok && now.Sub(w.at) <= memoryLife
}

// ids lists the connectors of which a write is remembered.
func (m *connectorWrites) ids() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.all))
}

// missing tells whether the store, which has the connector at that version (0: it has none), lost the write.
func (w connectorWrite) missing(has int64) bool { return has < w.version && (has > 0 || !w.deleted) }

func (m *connectorWrites) forget(w connectorWrite) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all[w.id].write == w.write {
		delete(m.all, w.id)
	}
}

// healConnectors compares the connectors of which a write is remembered with the store.
func (s *Store) healConnectors(ctx context.Context) error {
	var writes []connectorWrite
	var keys []string
	for _, id := range s.connectors.ids() {
		if w, ok := s.connectors.get(id, s.cfg.Now()); ok {
			writes, keys = append(writes, w), append(keys, connectorKey(s.connectorShard(w.tenant), id))
		}
	}
	if len(writes) == 0 {
		return nil
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return err
	}
	for i, w := range writes {
		if _, err := s.healConnector(ctx, w.tenant, w.id, found[i]); err != nil {
			return err
		}
	}
	return nil
}

// healConnector writes back what the store lost of this process's writes of the connector, and tells whether there was anything:
// then the record is to be read again.
func (s *Store) healConnector(ctx context.Context, tenant, id string, record map[string][]byte) (healed bool, err error) {
	has := versionOf(record, fieldVersion)
	w, ok := s.connectors.get(id, s.cfg.Now())
	if !ok || w.tenant != tenant || !w.missing(has) {
		return false, nil
	}
	var lost []broker.Entry
	for _, e := range w.events {
		if e.version > has {
			lost = append(lost, e.entries...)
		}
	}
	drafts, err := s.drafts(w.tenant, lost)
	if err != nil {
		return false, err
	}
	shard := s.connectorShard(w.tenant)
	key := connectorKey(shard, w.id)
	checks := []Check{
		{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: w.write},
		{Key: tombstoneKey(shard, w.id), Field: fieldErased, Kind: CheckAbsent},
		{Key: key, Field: fieldVersion, Kind: CheckAbsent},
	}
	if has > 0 {
		checks[2] = Check{Key: key, Field: fieldVersion, Kind: CheckEqual, Value: strconv.FormatInt(has, 10)}
	}
	r, err := s.trails.do(ctx, trailName{shard: shard, tenant: w.tenant}, writeID("heal-connector", w.id, has, nil, w.write),
		Step{Checks: checks, Writes: w.writes}, drafts)
	if err != nil {
		return false, fmt.Errorf("heal a connector: %w", err)
	}
	switch {
	case r.Verdict == VerdictRefused && r.Refused == 1:
		s.connectors.forget(w) // deleted since
	case r.Verdict == VerdictDone:
		s.cfg.Log.WarnContext(ctx, "the store had lost an acknowledged write of a tenant's connector; it was written back", "connector", w.id, "version_found", has, "version", w.version)
		s.count(CountHealed)
	}
	return true, nil
}
