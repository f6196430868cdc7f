package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// This file tells administrators who is signed in at the dashboard, and ends one session of somebody.

// OperatorSession is a session at the dashboard as others may see it: nothing of it opens one.
type OperatorSession struct {
	ID       string // NewOperatorSessionID; not the session's token
	Operator string // Operator.ID
	Name     string // for people; "": not known
	Groups   []string
	ByToken  bool
	Epoch    string // of the operator as it began (OperatorEpochs)
	Since    time.Time
	Seen     time.Time // when a page was asked for last, to the minute
	// Turn counts how often it went on under another cookie, when the provider had been asked anew who is there (RecheckOperator).
	// What is of an earlier turn is over.
	Turn int64
}

// OperatorSessions keeps the list of sessions, sealed. A session that is not in it any more is over.
type OperatorSessions interface {
	// BeginOperatorSession puts one on the list, until that time. Durable.
	BeginOperatorSession(ctx context.Context, one OperatorSession, until time.Time) error
	// KeepOperatorSession writes one that is there, in the same turn. ErrNotFound: it was ended meanwhile, or is in a later one.
	KeepOperatorSession(ctx context.Context, one OperatorSession, until time.Time) error
	// RenewOperatorSession writes one that is there, in the turn before one.Turn: of several callers one is told no error. ErrNotFound as
	// in KeepOperatorSession. Durable.
	RenewOperatorSession(ctx context.Context, one OperatorSession, until time.Time) error
	// OperatorSession returns one. ErrNotFound.
	OperatorSession(ctx context.Context, id string) (OperatorSession, error)
	// OperatorSessions pages through them, newest first. Those that can't be read are left out. Position as in Connections.List.
	OperatorSessions(ctx context.Context, position string, limit int) ([]OperatorSession, string, error)
	// EndOperatorSession ends it, on every replica with the next request; no error if there is none. Durable.
	EndOperatorSession(ctx context.Context, id string) error
}

// NewOperatorSessionID makes an id. Later ones sort before earlier ones.
func NewOperatorSessionID(now time.Time, random io.Reader) (string, error) {
	return ids{random: random}.job(now)
}

// SignedInOperator is a session with what its operator may now.
type SignedInOperator struct {
	OperatorSession
	Grants []OperatorGrant
	Own    bool // of whoever asks
	// Unclear: the operator's epoch does not open, so nobody can tell whether the session is over. It opens no page until it does, or
	// until another epoch is set (EndOperatorSessions).
	Unclear bool
}

// SignedInOperators pages through who is signed in, newest first; next is "" on the last page. A page can have fewer than limit.
func (s *Service) SignedInOperators(ctx context.Context, op Operator, position string, limit int) (all []SignedInOperator, next string, err error) {
	if err := op.Check(PermitOperators, Everywhere); err != nil {
		return nil, "", err
	}
	if s.cfg.OperatorSessions == nil || s.cfg.OperatorEpochs == nil {
		return nil, "", nil
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorViewed, Connection{}, "who is signed in")); err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	found, next, err := s.cfg.OperatorSessions.OperatorSessions(ctx, position, limit)
	if err != nil {
		return nil, "", storeError("list the sessions", err)
	}
	epochs, unclear := map[string]string{}, map[string]bool{}
	for _, one := range found {
		epoch, known := epochs[one.Operator]
		if !known {
			if epoch, err = s.cfg.OperatorEpochs.OperatorEpoch(ctx, one.Operator); err != nil {
				if !errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrKeyNotYet) && !errors.Is(err, ErrNewerFormat) {
					return nil, "", storeError("list the sessions", err)
				}
				s.cfg.Log.WarnContext(ctx, "the epoch of an operator does not open: their sessions open no page until it does, or until all of them are ended anew", "operator", one.Operator, "error", err)
				unclear[one.Operator] = true
			}
			epochs[one.Operator] = epoch
		}
		if !unclear[one.Operator] && epoch != "" && epoch != one.Epoch {
			continue // all of this operator's were ended since it began
		}
		in := SignedInOperator{OperatorSession: one, Grants: s.OperatorGrants(one.Groups), Own: one.Operator == op.ID, Unclear: unclear[one.Operator]}
		if one.ByToken {
			in.Grants = []OperatorGrant{{Role: RoleAdmin}}
		}
		all = append(all, in)
	}
	return all, next, nil
}

// EndOperatorSession ends one session, on every replica with the next request. not_found: it is over already.
func (s *Service) EndOperatorSession(ctx context.Context, op Operator, id, reason string) error {
	if err := op.Check(PermitOperators, Everywhere); err != nil {
		return err
	}
	reason, err := operatorReason(reason)
	if err != nil {
		return err
	}
	if s.cfg.OperatorSessions == nil {
		return serverError(errors.New("config lacks OperatorSessions"))
	}
	ctx, cancel := context.WithTimeout(ctx, 4*s.cfg.StoreTimeout)
	defer cancel()
	one, err := s.cfg.OperatorSessions.OperatorSession(ctx, id)
	switch {
	case errors.Is(err, ErrNotFound):
		return Errorf(CodeNotFound, "that session is over already")
	case err != nil:
		return storeError("read the session", err)
	}
	began := one.Since.UTC().Format("2006-01-02 15:04")
	if err := s.RecordOperator(ctx, op, EventOperatorSessionsEnded, "ok", firstBytes(fmt.Sprintf("%s, the session of %s: %s", one.Operator, began, reason), maxReason)); err != nil {
		return err
	}
	if err := s.cfg.OperatorSessions.EndOperatorSession(ctx, id); err != nil {
		return storeError("end the session", err)
	}
	return nil
}
