package broker

import (
	"sync"
	"time"
)

const (
	// silencePause is how long the background leaves a provider alone that did not answer it so often in a row.
	silencePause = 30 * time.Second
	silenceAfter = 4
)

// silences are the providers that did not answer the background's requests (revocations of what nobody completed, polls for
// other devices). What else is due there is put off by its claim, at the cost of a write: else those who wait for a provider that
// answers would stand behind as many time-outs as anybody cares to make due.
type silences struct {
	mu  sync.Mutex
	all map[string]*silence // by line.provider
}

type silence struct {
	failures int
	until    time.Time
}

// note keeps whether the provider answered.
func (s *silences) note(provider string, now time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	silent := false
	if err != nil {
		class := ClassOf(err)
		silent = class == ClassUnsent || class == ClassInDoubt
	}
	if !silent {
		delete(s.all, provider)
		return
	}
	if s.all == nil {
		s.all = map[string]*silence{}
	}
	if s.all[provider] == nil {
		s.all[provider] = &silence{}
	}
	one := s.all[provider]
	if one.failures++; one.failures >= silenceAfter {
		one.until = now.Add(silencePause)
	}
}

// has tells whether the provider is left alone. After the pause it is asked again, by as many as work at the same time.
func (s *silences) has(provider string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.all[provider]
	return one != nil && now.Before(one.until)
}
