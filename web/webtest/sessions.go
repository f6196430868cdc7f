package webtest

import (
	"context"
	"slices"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Sessions keeps sessions in memory, under the digests of their tokens as a real store does.
type Sessions struct {
	// Fail, if set, is what every call returns: a store that is down.
	Fail error

	mu     sync.Mutex
	byName map[string]session
}

type session struct {
	data   []byte
	expiry time.Time
}

// Session as broker.Sessions.
func (s *Sessions) Session(_ context.Context, token broker.Secret) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return nil, s.Fail
	}
	found, ok := s.byName[token.Digest()]
	if !ok || !time.Now().Before(found.expiry) {
		return nil, broker.ErrNotFound
	}
	return slices.Clone(found.data), nil
}

// SaveSession as broker.Sessions.
func (s *Sessions) SaveSession(_ context.Context, token broker.Secret, data []byte, expiry time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return s.Fail
	}
	if s.byName == nil {
		s.byName = map[string]session{}
	}
	s.byName[token.Digest()] = session{data: slices.Clone(data), expiry: expiry}
	return nil
}

// DeleteSession as broker.Sessions.
func (s *Sessions) DeleteSession(_ context.Context, token broker.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return s.Fail
	}
	delete(s.byName, token.Digest())
	return nil
}

// Len is how many sessions there are, expired ones included.
func (s *Sessions) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byName)
}
