package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tokenbroker/broker"
)

// An entry of the trail may be sealed with a key that the keyset file of this replica lacks because nobody has copied the file to it yet.
// Who passed the entry over would lose it for good, to a sink or to the index. So where it is possible that another replica has another
// keyset, the entry is waited for, for a while: whoever can write to the store can make an id up.

const (
	// keyWait is for how long an entry under a key that the keyset file lacks is waited for at most, since its key was first met here.
	keyWait = 10 * time.Minute
	// keyBeats is how long it takes until the heartbeats say which keyset each replica has that sealed something just now.
	keyBeats = 2*broker.BeatEvery + time.Second
	// keyLookEvery is the least time between two looks at them.
	keyLookEvery = 2 * time.Second
)

// absentKey is the error of a value whose key the keyset lacks: no state of the key is known, and none that was destroyed.
type absentKey struct{ id uint32 }

func (e absentKey) Error() string {
	return fmt.Sprintf("open: no key of id %d in the keyset: %v", e.id, broker.ErrIntegrity)
}
func (e absentKey) Unwrap() error { return broker.ErrIntegrity }

// keyWaits are the keys that entries name and this process lacks.
type keyWaits struct {
	mu sync.Mutex
	// since is when each of them was first met, at most maxKeyLooks; flood when the first one was that is not among them.
	since map[uint32]time.Time
	flood time.Time
	told  map[uint32]bool
	// looked is when the replicas were looked at last, and differ that one of them has, or may have, another keyset than this process had.
	looked time.Time
	differ bool
}

// first is when the key was first met.
func (k *keyWaits) first(id uint32, now time.Time) time.Time {
	if at, known := k.since[id]; known {
		return at
	}
	if len(k.since) < maxKeyLooks {
		if k.since == nil {
			k.since = make(map[uint32]time.Time)
		}
		k.since[id] = now
		return now
	}
	if k.flood.IsZero() {
		k.flood = now
	}
	return k.flood
}

func (k *keyWaits) meet(id uint32, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.first(id, now)
}

// wait tells whether an entry under that key is to be waited for.
func (k *keyWaits) wait(id uint32, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := k.first(id, now)
	switch {
	case now.Sub(first).Abs() >= keyWait:
		return false
	case k.looked.Before(first.Add(keyBeats)):
		return true // nobody can know yet
	}
	return k.differ
}

// pending tells that the replicas are to be looked at: a key is waited for.
func (k *keyWaits) pending(now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now.Sub(k.looked).Abs() < keyLookEvery {
		return false
	}
	for _, first := range k.since {
		if now.Sub(first).Abs() < keyWait {
			return true
		}
	}
	return !k.flood.IsZero() && now.Sub(k.flood).Abs() < keyWait
}

// tell tells, once for each key, that it is to be said.
func (k *keyWaits) tell(id uint32) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.told[id] || len(k.told) >= maxKeyLooks {
		return false
	}
	k.told = with(k.told, id)
	return true
}

// lookForKeys asks, where an entry waits for a key, whether all replicas have the keyset that this one has. Whoever goes through the trail
// does so first.
func (s *Store) lookForKeys(ctx context.Context) {
	now := s.cfg.Now()
	if s.cfg.ReloadKeyset == nil || !s.keyWaits.pending(now) {
		return
	}
	keys := s.cfg.Keyset.current.Load()
	all, _, err := s.AllReplicas(ctx)
	differ := err != nil
	for _, replica := range all {
		differ = differ || !replica.SealsWith(keys.primary, keys.digest) // also one that is silent: it may have sealed before
	}
	s.keyWaits.mu.Lock()
	defer s.keyWaits.mu.Unlock()
	s.keyWaits.looked, s.keyWaits.differ = now, differ
}

// keyOfTrail says what it means that something of the stream did not open. broker.ErrKeyNotYet: the key may come, and it is waited for.
func (s *Store) keyOfTrail(name trailName, sealed string, err error) error {
	id, _ := keyID([]byte(sealed))
	var absent absentKey
	waits := errors.Is(err, broker.ErrKeyNotYet)
	if !waits && errors.As(err, &absent) && s.cfg.ReloadKeyset != nil {
		if waits = s.keyWaits.wait(id, s.cfg.Now()); waits {
			err = fmt.Errorf("open: no key of id %d in the keyset, and another replica may have another keyset: %w", id, broker.ErrKeyNotYet)
		}
	}
	if waits && s.keyWaits.tell(id) {
		s.cfg.Log.Warn("an entry of the audit trail is sealed with a key that this replica does not have; its stream waits for a while. Copy the newest keyset file to all replicas",
			"stream", name.String(), "key", id)
	}
	return err
}

// meetKeys begins the wait for the keys of entries that come behind one that waits: made up ids are not waited for one after the other.
func (s *Store) meetKeys(entries []StreamEntry) {
	if s.cfg.ReloadKeyset == nil {
		return
	}
	keys, now := s.cfg.Keyset.current.Load(), s.cfg.Now()
	for _, e := range entries {
		if id, ok := entryKey(e.Body); ok && keys.openers[id] == nil && !keys.erasedKey(id) {
			s.seals.looks.meet(id)
			s.keyWaits.meet(id, now)
		}
	}
}
