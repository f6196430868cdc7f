package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"sync"

	"tokenbroker/broker"
)

// What a process remembers of its writes (memory.go) it may have to write back, and it remembers them as they were sealed. So after
// a rotation it seals them anew, as others do with the records. What waits in its spool is sealed when the store gets it, and until
// then with the key of its time: whoever wants to delete that key asks first (Replica.OldSeals).

// oldSeals are counted by this process, by the key that sealed them.
type oldSeals struct {
	mu     sync.Mutex
	files  map[string]uint32 // of the spool, by name: a file is never changed
	now    map[uint32]int
	target string // the keys that seal, as of the last count
	done   bool   // it was counted
}

// OldSeals counts what this process keeps that another key has sealed than the one that would now.
func (s *Store) OldSeals() map[uint32]int {
	s.oldSeals.mu.Lock()
	defer s.oldSeals.mu.Unlock()
	return maps.Clone(s.oldSeals.now)
}

// OldSealsCounted tells that this process has counted them, or has no spool: nothing of what a process before it left there is missing.
func (s *Store) OldSealsCounted() bool {
	s.oldSeals.mu.Lock()
	defer s.oldSeals.mu.Unlock()
	return s.oldSeals.done || s.spool == nil || s.cfg.ResealInterval < 0
}

// SpoolSeals counts what lies in the spool by the keys that sealed it, that of now included. waiting is how much of it the store does not
// have yet, as far as the spool knows.
func (s *Store) SpoolSeals(ctx context.Context) (byKey map[uint32]int, waiting int, err error) {
	byKey = map[uint32]int{}
	if s.spool == nil {
		return byKey, 0, nil
	}
	names, err := s.spool.files.List(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("read spool: %w", err)
	}
	for _, name := range names {
		waits := strings.HasSuffix(name, spoolSuffix)
		if !waits && !strings.HasSuffix(name, settledSuffix) {
			continue
		}
		sealed, err := s.spool.files.Read(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if waits {
			waiting++
		}
		if id, ok := keyID(sealed); ok && err == nil {
			byKey[id]++
		}
	}
	return byKey, waiting, nil
}

// ResealMemory seals anew what this process remembers, and counts what it keeps besides. Run does it by itself.
func (s *Store) ResealMemory(ctx context.Context) {
	keys := s.cfg.Keyset.current.Load()
	s.oldSeals.mu.Lock()
	was := s.oldSeals.target
	s.oldSeals.target = keys.target()
	alone := was == keys.target() && keys.alone()
	s.oldSeals.done = s.oldSeals.done || alone
	s.oldSeals.mu.Unlock()
	if alone {
		return // the usual case
	}
	old := map[uint32]int{}
	s.memory.exchange(func(m *remembered) *remembered { return s.remembersAnew(keys, m, old) })
	s.connectors.exchange(func(writes []Write) []Write { return s.writesAnew(keys, writes, old) })
	s.jobs.exchange(func(writes []Write) []Write { return s.writesAnew(keys, writes, old) })
	s.spooledSeals(ctx, keys, old)
	s.oldSeals.mu.Lock()
	defer s.oldSeals.mu.Unlock()
	s.oldSeals.now, s.oldSeals.done = old, true
}

// fieldsAnew are the sealed fields of a record that another key would seal now, sealed with that. What can't be is counted.
func (s *Store) fieldsAnew(keys *primitives, key string, record map[string][]byte, by beside, old map[uint32]int) map[string]string {
	var anew map[string]string
	for _, v := range s.sealsIn(key, record, by) {
		id, ok := v.keyOf(record[v.field])
		if !ok || v.settledBy(keys, id) {
			continue
		}
		sealed, err := s.seals.again(v, record[v.field])
		if err != nil {
			old[id]++
			continue
		}
		if anew == nil {
			anew = make(map[string]string)
		}
		anew[v.field] = sealed
	}
	return anew
}

// remembersAnew is what is remembered, sealed anew; the same if nothing is to be done.
func (s *Store) remembersAnew(keys *primitives, m *remembered, old map[uint32]int) *remembered {
	record := make(map[string][]byte, len(m.fields))
	for name, value := range m.fields {
		record[name] = []byte(value)
	}
	by := beside{}
	if m.shared != "" {
		by.name, _ = s.sharedNames.get(m.shared)
	}
	anew := s.fieldsAnew(keys, m.key(), record, by, old)
	if len(anew) == 0 {
		return m
	}
	next := *m
	next.fields = maps.Clone(m.fields)
	maps.Copy(next.fields, anew)
	return &next
}

// writesAnew does that with writes.
func (s *Store) writesAnew(keys *primitives, writes []Write, old map[uint32]int) []Write {
	var next []Write
	for i, w := range writes {
		if w.Kind != WriteHashSet || !hasSeals(w.Key) {
			continue
		}
		record := make(map[string][]byte, len(w.Args)/2)
		for j := 0; j+1 < len(w.Args); j += 2 {
			record[w.Args[j]] = []byte(w.Args[j+1])
		}
		anew := s.fieldsAnew(keys, w.Key, record, beside{}, old)
		if len(anew) == 0 {
			continue
		}
		if next == nil {
			next = append(next, writes...)
		}
		args := append([]string(nil), w.Args...)
		for j := 0; j+1 < len(args); j += 2 {
			if sealed, ok := anew[args[j]]; ok {
				args[j+1] = sealed
			}
		}
		next[i].Args = args
	}
	if next == nil {
		return writes
	}
	return next
}

// spoolAtOnce is how many files of the spool are sealed anew at once: each costs the disk two waits.
const spoolAtOnce = 200

// spooledSeals seals anew what waits in the spool, and counts what it could not.
func (s *Store) spooledSeals(ctx context.Context, keys *primitives, old map[uint32]int) {
	if s.spool == nil {
		return
	}
	names, err := s.spool.files.List(ctx)
	if err != nil {
		return // /readyz tells of it
	}
	known := make(map[string]uint32, len(names))
	anew := 0
	for _, name := range names {
		record, ok := strings.CutSuffix(name, spoolSuffix)
		if !ok {
			if record, ok = strings.CutSuffix(name, settledSuffix); !ok {
				continue
			}
		}
		v := sealedValue{inside: true, place: spoolPlace(record)}
		id, ok := s.oldSeals.files[name]
		if ok && v.settledBy(keys, id) {
			known[name] = id
			continue
		}
		sealed, err := s.spool.files.Read(ctx, name)
		if err != nil {
			continue // gone meanwhile
		}
		if id, ok = keyID(sealed); !ok {
			continue
		}
		if !v.settledBy(keys, id) && anew < spoolAtOnce {
			if now, ok := s.replaceSpooled(ctx, name, v, sealed); ok {
				id, anew = now, anew+1
			}
		}
		if known[name] = id; keys.openers[id] == nil || keys.openers[id].primary != id {
			old[id]++
		}
	}
	s.oldSeals.files = known // this goroutine's alone
}

// replaceSpooled puts a file's content, sealed anew, in its place, and tells the key that sealed it. A file that its commit removes
// at this moment comes back, and is replayed in vain, as after a crash.
func (s *Store) replaceSpooled(ctx context.Context, name string, v sealedValue, sealed []byte) (uint32, bool) {
	files, ok := s.spool.files.(interface {
		Replace(ctx context.Context, name string, content []byte) error
	})
	if !ok {
		return 0, false
	}
	anew, err := s.seals.again(v, sealed)
	if err != nil {
		return 0, false
	}
	if anew != string(sealed) {
		if err := files.Replace(ctx, name, []byte(anew)); err != nil {
			return 0, false // the next time; /readyz tells of a disk that can't be written to
		}
	}
	return keyID([]byte(anew))
}

// exchange puts in the place of each that is remembered what next makes of it.
func (m *memory) exchange(next func(*remembered) *remembered) {
	for _, id := range m.newest() {
		m.mu.RLock()
		var was *remembered
		if e := m.all[id]; e != nil {
			was = e.Value.(*remembered)
		}
		m.mu.RUnlock()
		if was == nil {
			continue
		}
		if is := next(was); is != was {
			m.replace(was, is)
		}
	}
}

func (m *connectorWrites) exchange(next func([]Write) []Write) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range m.all {
		w.writes = next(w.writes)
		m.all[id] = w
	}
}

func (m *jobWrites) exchange(next func([]Write) []Write) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range m.all {
		w.writes = next(w.writes)
		m.all[id] = w
	}
}

// sameGrant tells that the record has the refresh token that is remembered, and is active as that is: what the store lost of it is
// a failure, or an access token.
func (s *Store) sameGrant(m *remembered, record map[string][]byte) bool {
	return m.carries() && m.status == broker.ConnectionActive && broker.ConnectionStatus(record[fieldStatus]) == broker.ConnectionActive &&
		consentedOf(record) == m.consented && (string(record[fieldRefresh]) == m.fields[fieldRefresh] || s.sameRefresh(m, record))
}

// sameRefresh tells that the record has the refresh token that is remembered, under whatever seals.
func (s *Store) sameRefresh(m *remembered, record map[string][]byte) bool {
	had, err := s.openRefreshToken(m.tenant, m.id, m.epoch, []byte(m.fields[fieldRefresh]))
	if err != nil {
		return false
	}
	has, err := s.openRefreshToken(m.tenant, m.id, epochOf(record), record[fieldRefresh])
	return err == nil && has.Equal(had)
}

// sealedAnew tells that a record which looks as if it had another refresh token than the one that is remembered has the same one,
// sealed anew. That is remembered then, so that the next reader need not open both.
func (s *Store) sealedAnew(m *remembered, record map[string][]byte) bool {
	if !s.sameRefresh(m, record) {
		return false
	}
	next := *m
	next.fields = maps.Clone(m.fields)
	next.fields[fieldRefresh] = string(record[fieldRefresh])
	s.memory.replace(m, &next)
	return true
}

// replace puts next in the place of exactly this.
func (m *memory) replace(was, next *remembered) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.all[was.id]; e != nil && e.Value == was {
		e.Value = next
	}
}
