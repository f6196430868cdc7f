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
	// Meanwhile, if set, happens between the reading of a session and its keeping.
	Meanwhile func()

	mu     sync.Mutex
	byName map[string]session
	epochs map[string]string
	list   map[string]listed
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

// KeepSession as broker.Sessions.
func (s *Sessions) KeepSession(ctx context.Context, token broker.Secret, data []byte, expiry time.Time) error {
	if _, err := s.Session(ctx, token); err != nil {
		return err
	}
	if s.Meanwhile != nil {
		s.Meanwhile()
	}
	s.mu.Lock()
	_, ok := s.byName[token.Digest()]
	s.mu.Unlock()
	if !ok {
		return broker.ErrNotFound
	}
	return s.SaveSession(ctx, token, data, expiry)
}

// OperatorEpoch as broker.OperatorEpochs.
func (s *Sessions) OperatorEpoch(_ context.Context, operator string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epochs[operator], s.Fail
}

// SetOperatorEpoch as broker.OperatorEpochs.
func (s *Sessions) SetOperatorEpoch(_ context.Context, operator, epoch string, _ time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return s.Fail
	}
	if s.epochs == nil {
		s.epochs = map[string]string{}
	}
	s.epochs[operator] = epoch
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
