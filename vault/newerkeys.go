package vault

import (
	"fmt"
	"sync"
	"time"

	"tokenbroker/broker"
)

// A value may name a key that this process lacks: another replica seals with one that was added since, or somebody made the value up.
// Which of both it is only the keyset file tells, as it was read after the value was met.

const (
	// refreshPause is the least time between two attempts to load a newer keyset.
	refreshPause = time.Second
	// maxKeyLooks bounds how many ids are remembered: whoever can write to the store can make them up.
	maxKeyLooks = 1000
)

// keyLooks are the attempts to load a newer keyset, and what is known from them.
type keyLooks struct {
	mu     sync.Mutex
	last   time.Time
	failed error // of the last attempt
	// met are ids that no key had since the last attempt, absent those that an attempt behind that did not bring.
	met, absent map[uint32]bool
}

// with adds an id to as many as are remembered; when there are too many all others are forgotten, and looked for again.
func with(ids map[uint32]bool, id uint32) map[uint32]bool {
	if len(ids) == 0 || len(ids) >= maxKeyLooks {
		ids = make(map[uint32]bool)
	}
	ids[id] = true
	return ids
}

// meet has the next attempt tell of the id too.
func (l *keyLooks) meet(id uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.absent[id] {
		l.met = with(l.met, id)
	}
}

// newerKeys asks for a newer keyset, at most once in a while, and returns the keys where that of the id was looked for since somebody
// met it. broker.ErrKeyNotYet: it was not, or the last attempt failed; the value may be in order, and whoever meets it gets that error
// until an attempt succeeds.
func (s *sealer) newerKeys(id uint32) (*primitives, error) {
	l := &s.looks
	l.mu.Lock()
	defer l.mu.Unlock()
	if keys := s.keyset.current.Load(); keys.openers[id] != nil || s.refresh == nil {
		return keys, nil
	}
	if !l.absent[id] {
		l.met = with(l.met, id)
	}
	if now := s.now(); now.Sub(l.last).Abs() >= refreshPause {
		if l.last, l.failed = now, s.refresh(); l.failed == nil {
			for met := range l.met {
				l.absent = with(l.absent, met)
			}
			l.met = nil
		}
	}
	keys := s.keyset.current.Load()
	switch {
	case keys.openers[id] != nil, l.absent[id] && l.failed == nil:
		return keys, nil
	case l.failed != nil:
		return nil, fmt.Errorf("open: no key of id %d in the keyset: reload keyset: %w: %w", id, l.failed, broker.ErrKeyNotYet)
	}
	return nil, fmt.Errorf("open: no key of id %d in the keyset as it was read last: %w", id, broker.ErrKeyNotYet)
}
