package webtest

import (
	"context"
	"maps"
	"slices"
	"time"

	"tokenbroker/broker"
)

type listed struct {
	one   broker.OperatorSession
	until time.Time
}

// BeginOperatorSession as broker.OperatorSessions.
func (s *Sessions) BeginOperatorSession(_ context.Context, one broker.OperatorSession, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return s.Fail
	}
	if s.list == nil {
		s.list = map[string]listed{}
	}
	s.list[one.ID] = listed{one, until}
	return nil
}

// KeepOperatorSession as broker.OperatorSessions.
func (s *Sessions) KeepOperatorSession(_ context.Context, one broker.OperatorSession, until time.Time) error {
	return s.writeIn(one.Turn, one, until)
}

// RenewOperatorSession as broker.OperatorSessions.
func (s *Sessions) RenewOperatorSession(_ context.Context, one broker.OperatorSession, until time.Time) error {
	return s.writeIn(one.Turn-1, one, until)
}

func (s *Sessions) writeIn(turn int64, one broker.OperatorSession, until time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, ok := s.list[one.ID]
	switch {
	case s.Fail != nil:
		return s.Fail
	case !ok || !time.Now().Before(before.until) || before.one.Turn != turn:
		return broker.ErrNotFound
	}
	s.list[one.ID] = listed{one, until}
	return nil
}

// OperatorSession as broker.OperatorSessions.
func (s *Sessions) OperatorSession(_ context.Context, id string) (broker.OperatorSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return broker.OperatorSession{}, s.Fail
	}
	found, ok := s.list[id]
	if !ok || !time.Now().Before(found.until) {
		return broker.OperatorSession{}, broker.ErrNotFound
	}
	return found.one, nil
}

// OperatorSessions as broker.OperatorSessions.
func (s *Sessions) OperatorSessions(_ context.Context, position string, limit int) ([]broker.OperatorSession, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return nil, "", s.Fail
	}
	var all []broker.OperatorSession
	for _, id := range slices.Sorted(maps.Keys(s.list)) {
		if len(all) == limit {
			return all, all[limit-1].ID, nil
		}
		if id > position && time.Now().Before(s.list[id].until) {
			all = append(all, s.list[id].one)
		}
	}
	return all, "", nil
}

// EndOperatorSession as broker.OperatorSessions.
func (s *Sessions) EndOperatorSession(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return s.Fail
	}
	delete(s.list, id)
	return nil
}
