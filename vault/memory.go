package vault

import (
	"container/list"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

const (
	// memoryRecords and memoryLife bound what a process remembers: some 3 KB for each record. The life must exceed every lag
	// of a replica that could still become the master.
	memoryRecords = 10_000
	memoryLife    = 15 * time.Minute
	// memoryWrites bounds the writes of one record whose entries are remembered.
	memoryWrites = 8
)

// memory is what this process wrote and the store acknowledged: the record as each last write left it, sealed as it was.
// A failover may lose acknowledged writes; heal.go brings them back from here.
type memory struct {
	now func() time.Time

	mu       sync.RWMutex
	all      map[string]*list.Element // of *remembered, by the record's id
	order    *list.List               // the last written at the back
	subjects map[string]map[string]bool
}

// remembered is a record as a write left it. It is not changed any more.
type remembered struct {
	tenant, id string
	consent    bool   // else a connection,
	shared     string // or a grant that several connections hold: its key, which is its id too
	shard      byte
	generation int64 // or the consent's version
	write      string
	// fields without the lease; nil: the record was erased.
	fields map[string]string
	// places put the record where it belongs, beside its own key.
	places []Write
	index  string    // of a connection: the key of its subject's index
	until  time.Time // of a consent: its end of life
	// entries of the last writes of this process, oldest first.
	entries []writtenEntries
	at      time.Time // when this was remembered
	sent    time.Time // before that, when the write was sent; zero: nobody knows
	stored  time.Time // by the store's clock
	// broughtBack: the write was itself one that healed.
	broughtBack bool

	// Of a connection.
	status    broker.ConnectionStatus
	consented int64
	epoch     int64
	fence     int64
}

// writtenEntries are the entries that the write recorded which made that generation.
type writtenEntries struct {
	generation int64
	write      string
	revoked    bool // the connection, or it was so already
	at         time.Time
	entries    []broker.Entry
}

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, all: make(map[string]*list.Element), order: list.New(), subjects: make(map[string]map[string]bool)}
}

// key is where the record lies.
func (m *remembered) key() string {
	if m.shared != "" {
		return m.shared
	}
	if m.consent {
		return consentKey(m.shard, m.id)
	}
	return connectionKey(m.shard, m.id)
}

// versionField is the field that each write of the record raises.
func (m *remembered) versionField() string {
	if m.consent {
		return fieldVersion
	}
	return fieldGeneration
}

// carries tells that there is a refresh token in it.
func (m *remembered) carries() bool { return m.fields[fieldRefresh] != "" && m.epoch > 0 }

// take fills in the record as it was read.
func (m *remembered) take(record map[string][]byte) {
	m.fields = make(map[string]string, len(record))
	for name, value := range record {
		switch name {
		case fieldOwner, fieldDeadline, fieldFence:
			if !m.consent {
				continue // a lease is nothing to bring back
			}
		}
		if m.shared != "" && !slices.Contains(sharedFields(), name) {
			continue // who holds it is not a matter of its generation
		}
		m.fields[name] = string(value)
	}
	m.generation, m.write = versionOf(record, m.versionField()), string(record[fieldWrite])
	if !m.consent && m.shared == "" {
		m.status, m.consented, m.epoch = broker.ConnectionStatus(record[fieldStatus]), consentedOf(record), epochOf(record)
		m.fence = versionOf(record, fieldFence)
	}
}

// versionOf reads a number; 0 if it is none.
func versionOf(record map[string][]byte, field string) int64 {
	n, err := strconv.ParseInt(string(record[field]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// consentedOf is the generation that the last consent made, 0 if the record does not say.
func consentedOf(record map[string][]byte) int64 { return versionOf(record, fieldConsented) }

// epochOf reads the epoch of the refresh token in the header, which the caller has found genuine or only reads from.
func epochOf(record map[string][]byte) int64 {
	h, _ := readHeader(record)
	return h.RefreshEpoch
}

// get returns what is remembered of the record, nil if nothing is.
func (m *memory) get(id string) *remembered {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.all[id]
	if e == nil {
		return nil
	}
	r := e.Value.(*remembered)
	if m.now().Sub(r.at) > memoryLife {
		return nil
	}
	return r
}

// ofSubject lists the connections that are remembered under a subject's index.
func (m *memory) ofSubject(index string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if len(m.subjects[index]) == 0 {
		return nil
	}
	ids := make([]string, 0, len(m.subjects[index]))
	for id := range m.subjects[index] {
		ids = append(ids, id)
	}
	return ids
}

// newest lists all that is remembered, the last written first: what a failover loses is what was written last.
func (m *memory) newest() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
	ids := make([]string, 0, m.order.Len())
	for e := m.order.Back(); e != nil; e = e.Prev() {
		ids = append(ids, e.Value.(*remembered).id)
	}
	return ids
}

// put remembers the record, and what this process's own write recorded. What is older than what is remembered already was
// overtaken on its way here.
func (m *memory) put(r *remembered, own writtenEntries) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.at = m.now()
	if had := m.all[r.id]; had != nil {
		old := had.Value.(*remembered)
		// A lower generation by a later write: the record goes on from where a failover left it. Not so if that write brought
		// back what was remembered when it began: then what was written between is what is missing now.
		if r.generation < old.generation && (r.broughtBack || !r.stored.After(old.stored)) {
			return
		}
		again := r.write == old.write
		if r.index == "" {
			r.index = old.index
		}
		r.entries = nil
		for _, w := range old.entries {
			if (again || w.generation < r.generation) && r.at.Sub(w.at) <= memoryLife {
				r.entries = append(r.entries, w)
			}
		}
		m.drop(had)
	}
	known := slices.ContainsFunc(r.entries, func(w writtenEntries) bool {
		return w.write == own.write && firstEvent(w.entries) == firstEvent(own.entries)
	})
	if len(own.entries) > 0 && !known {
		own.at = r.at
		r.entries = append(r.entries, own)
	}
	if n := len(r.entries) - memoryWrites; n > 0 {
		r.entries = append([]writtenEntries(nil), r.entries[n:]...)
	}
	m.all[r.id] = m.order.PushBack(r)
	if r.index != "" {
		if m.subjects[r.index] == nil {
			m.subjects[r.index] = make(map[string]bool, 1)
		}
		m.subjects[r.index][r.id] = true
	}
	m.expire()
}

// firstEvent tells what a write recorded from what a repetition of it, to heal, recorded beside.
func firstEvent(entries []broker.Entry) string {
	if len(entries) == 0 || len(entries[0].Scopes) == 0 {
		return ""
	}
	return entries[0].Scopes[0].ID
}

// forget drops exactly this.
func (m *memory) forget(r *remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.all[r.id]; e != nil && e.Value == r {
		m.drop(e)
	}
}

func (m *memory) expire() {
	for e := m.order.Front(); e != nil; e = m.order.Front() {
		if m.order.Len() <= memoryRecords && m.now().Sub(e.Value.(*remembered).at) <= memoryLife {
			return
		}
		m.drop(e)
	}
}

func (m *memory) drop(e *list.Element) {
	r := m.order.Remove(e).(*remembered)
	delete(m.all, r.id)
	if ids := m.subjects[r.index]; ids != nil {
		if delete(ids, r.id); len(ids) == 0 {
			delete(m.subjects, r.index)
		}
	}
}

// lostEntries are the entries of writes behind that generation.
func (m *remembered) lostEntries(behind int64) []broker.Entry {
	var all []broker.Entry
	for _, w := range m.entries {
		if w.generation > behind {
			all = append(all, w.entries...)
		}
	}
	return all
}

// revocationEntries are the entries of the revocation.
func (m *remembered) revocationEntries() []broker.Entry {
	var all []broker.Entry
	for _, w := range m.entries {
		if w.revoked {
			all = append(all, w.entries...)
		}
	}
	return all
}

// connector is the id of a connection's connector, "" if it is not known any more.
func (m *remembered) connector() string {
	h, _ := parseHeaderOf(m.fields[fieldFormat], m.fields[fieldHeader])
	return h.Connector
}

// moved is the same at another generation, by another write: for a record that went on without it.
func (m *remembered) moved(generation int64, write string) *remembered {
	next := *m
	next.fields = maps.Clone(m.fields)
	next.generation, next.write = generation, write
	next.fields[fieldGeneration], next.fields[fieldWrite] = strconv.FormatInt(generation, 10), write
	return &next
}
