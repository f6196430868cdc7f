package brokertest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Shared is broker.SharedRates and broker.Places in memory, for any number of replicas.
type Shared struct {
	Now func() time.Time

	mu     sync.Mutex
	away   bool
	lost   bool
	uses   map[string]int64
	places map[string]map[string]time.Time
}

// NewShared makes an empty one.
func NewShared(now func() time.Time) *Shared {
	return &Shared{Now: now, uses: map[string]int64{}, places: map[string]map[string]time.Time{}}
}

var errAway = errors.New("the store is away")

// SetAway makes every call fail, or none.
func (s *Shared) SetAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// SetLost makes every call that takes or adds be carried out and lose its answer, or none.
func (s *Shared) SetLost(lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = lost
}

// SetBack takes so much from every count, as a failover may.
func (s *Shared) SetBack(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.uses {
		s.uses[name] -= n
	}
}

// Names are those of counts.
func (s *Shared) Names() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uses)
}

// ShareUses is part of broker.SharedRates.
func (s *Shared) ShareUses(_ context.Context, uses []broker.Uses) []broker.SharedUses {
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]broker.SharedUses, len(uses))
	for i, one := range uses {
		if s.away {
			results[i] = broker.SharedUses{Err: errAway, Unsent: true}
			continue
		}
		name := strings.Join(one.Name, "\x00")
		s.uses[name] += one.N
		if results[i].Total = s.uses[name]; s.lost {
			results[i] = broker.SharedUses{Err: errAway}
		}
	}
	return results
}

// Total is what all counts are together.
func (s *Shared) Total() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.uses {
		n += one
	}
	return n
}

// TakePlaces is part of broker.Places.
func (s *Shared) TakePlaces(_ context.Context, id string, life time.Duration, lists []broker.PlaceList) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return -1, errAway
	}
	for i, list := range lists {
		if s.held(list) >= list.Most {
			return i, nil
		}
	}
	for _, list := range lists {
		name := strings.Join(list.Name, "\x00")
		if s.places[name] == nil {
			s.places[name] = map[string]time.Time{}
		}
		s.places[name][id] = s.Now().Add(life)
	}
	if s.lost {
		return -1, errAway
	}
	return -1, nil
}

func (s *Shared) held(list broker.PlaceList) (n int) {
	for _, until := range s.places[strings.Join(list.Name, "\x00")] {
		if until.After(s.Now()) {
			n++
		}
	}
	return n
}

// LeavePlaces is part of broker.Places.
func (s *Shared) LeavePlaces(_ context.Context, id string, lists []broker.PlaceList) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return errAway
	}
	for _, list := range lists {
		delete(s.places[strings.Join(list.Name, "\x00")], id)
	}
	return nil
}

// Held is how many places are held, by the name's first part.
func (s *Shared) Held() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[string]int{}
	for name := range s.places {
		kind, _, _ := strings.Cut(name, "\x00")
		held[kind] += s.held(broker.PlaceList{Name: strings.Split(name, "\x00")})
	}
	return held
}
