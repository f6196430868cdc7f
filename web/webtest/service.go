package webtest

import (
	"context"
	"slices"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Link is the one that Service knows.
const Link = "Zm9yLXRlc3RzLW9ubHktbGluay0wMDE"

// Service answers each call with the function of its field; a nil one answers not_found. Safe for concurrent use once
// its fields are set.
type Service struct {
	Open      func(link broker.Secret) (broker.ConsentPage, error)
	Start     func(link broker.Secret, cookie func(string) broker.Secret) (broker.Start, error)
	Cancel    func(link broker.Secret, cookie func(string) broker.Secret) (broker.Finish, error)
	Finish    func(ctx context.Context, cb broker.Callback) (broker.Finish, error)
	SignIn    func(ctx context.Context, cb broker.LoginCallback) (broker.LoginFinish, error)
	Decide    func(ctx context.Context, id string, cookie func(string) broker.Secret, d broker.Decision) (broker.Finish, error)
	Again     func(id string, cookie func(string) broker.Secret) (broker.Finish, error)
	Status    func(link broker.Secret, known broker.ConsentStatus, wait time.Duration) (broker.LinkStatus, error)
	Record    func(op broker.Operator, t broker.EventType) error
	Visits    Visits
	Overviews Overviews
	Board     Accounts
	Switches  Switches
	Trail     Trail

	Operators Operators

	// FailLook is what RecordLook returns.
	FailLook error

	mu    sync.Mutex
	calls []string
}

func (s *Service) note(call string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
}

// Calls are the names of what was asked, in order.
func (s *Service) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Count tells how often that was asked.
func (s *Service) Count(call string) (n int) {
	for _, c := range s.Calls() {
		if c == call {
			n++
		}
	}
	return n
}

func nothing() error { return broker.Errorf(broker.CodeNotFound, "no such thing") }

// OpenLink as web.Service.
func (s *Service) OpenLink(_ context.Context, link broker.Secret) (broker.ConsentPage, error) {
	s.note("OpenLink")
	if s.Open == nil {
		return broker.ConsentPage{}, nothing()
	}
	return s.Open(link)
}

// StartConsent as web.Service.
func (s *Service) StartConsent(_ context.Context, link broker.Secret, cookie func(string) broker.Secret) (broker.Start, error) {
	s.note("StartConsent")
	if s.Start == nil {
		return broker.Start{}, nothing()
	}
	return s.Start(link, cookie)
}

// CancelConsent as web.Service.
func (s *Service) CancelConsent(_ context.Context, link broker.Secret, cookie func(string) broker.Secret) (broker.Finish, error) {
	s.note("CancelConsent")
	if s.Cancel == nil {
		return broker.Finish{}, nothing()
	}
	return s.Cancel(link, cookie)
}

// FinishConsent as web.Service.
func (s *Service) FinishConsent(ctx context.Context, cb broker.Callback) (broker.Finish, error) {
	s.note("FinishConsent")
	if s.Finish == nil {
		return broker.Finish{}, nothing()
	}
	return s.Finish(ctx, cb)
}

// FinishLogin as web.Service.
func (s *Service) FinishLogin(ctx context.Context, cb broker.LoginCallback) (broker.LoginFinish, error) {
	s.note("FinishLogin")
	if s.SignIn == nil {
		return broker.LoginFinish{}, nothing()
	}
	return s.SignIn(ctx, cb)
}

// DecideConsent as web.Service.
func (s *Service) DecideConsent(ctx context.Context, id string, cookie func(string) broker.Secret, d broker.Decision) (broker.Finish, error) {
	s.note("DecideConsent " + string(d))
	if s.Decide == nil {
		return broker.Finish{}, nothing()
	}
	return s.Decide(ctx, id, cookie, d)
}

// FinishedConsent as web.Service.
func (s *Service) FinishedConsent(_ context.Context, id string, cookie func(string) broker.Secret) (broker.Finish, error) {
	s.note("FinishedConsent")
	if s.Again == nil {
		return broker.Finish{}, nothing()
	}
	return s.Again(id, cookie)
}

// LinkStatus as web.Service.
func (s *Service) LinkStatus(_ context.Context, link broker.Secret, known broker.ConsentStatus, wait time.Duration) (broker.LinkStatus, error) {
	s.note("LinkStatus")
	if s.Status == nil {
		return broker.LinkStatus{}, nothing()
	}
	return s.Status(link, known, wait)
}

// NoteGuessing as web.Service.
func (s *Service) NoteGuessing(what broker.Guessing) { s.note("NoteGuessing " + string(what)) }

// RecordLook as web.Service.
func (s *Service) RecordLook(_ context.Context, _ broker.Operator, tenant, what string) error {
	s.note("RecordLook " + what + " of " + tenant)
	return s.FailLook
}

// RecordOperator as web.Service.
func (s *Service) RecordOperator(_ context.Context, op broker.Operator, t broker.EventType, _, _ string) error {
	s.note("RecordOperator " + string(t))
	if s.Record == nil {
		return nil
	}
	return s.Record(op, t)
}
