package webtest

import (
	"context"
	"slices"
	"time"

	"tokenbroker/broker"
)

// Operators answers each call about operators' sign-ins with the function of its field; a nil one answers not_found.
type Operators struct {
	Begin  func(next string, fresh bool) (broker.OperatorStart, error)
	Finish func(cb broker.LoginCallback) (broker.OperatorSignedIn, error)
	// Recheck asks for the groups of a session anew.
	Recheck func(next string, again broker.OperatorAgain) (broker.OperatorStart, error)
	// Leave is where a browser signs out at the provider; nil: nowhere.
	Leave func(idToken broker.Secret) (broker.OperatorStart, error)
	// Roles are those of the configuration.
	Roles []broker.OperatorRole
	// Epochs, if set, is told the operators whose sessions EndOperatorSessions ends.
	Epochs broker.OperatorEpochs
	// Unclear is an operator whose epoch does not open.
	Unclear string
	// List, if set, is who is signed in.
	List broker.OperatorSessions
}

// BeginOperatorSignIn as web.Service.
func (s *Service) BeginOperatorSignIn(_ context.Context, next string, fresh bool) (broker.OperatorStart, error) {
	s.note("BeginOperatorSignIn " + next)
	if s.Operators.Begin == nil {
		return broker.OperatorStart{}, nothing()
	}
	return s.Operators.Begin(next, fresh)
}

// RecheckOperator as web.Service.
func (s *Service) RecheckOperator(_ context.Context, to string, again broker.OperatorAgain) (broker.OperatorStart, error) {
	s.note("RecheckOperator " + to)
	if s.Operators.Recheck == nil {
		return broker.OperatorStart{}, nothing()
	}
	return s.Operators.Recheck(to, again)
}

// FinishOperatorSignIn as web.Service.
func (s *Service) FinishOperatorSignIn(_ context.Context, cb broker.LoginCallback, _, _ string) (broker.OperatorSignedIn, error) {
	s.note("FinishOperatorSignIn")
	if s.Operators.Finish == nil {
		return broker.OperatorSignedIn{}, nothing()
	}
	return s.Operators.Finish(cb)
}

// SignOutAtProvider as web.Service.
func (s *Service) SignOutAtProvider(_ context.Context, idToken broker.Secret) (broker.OperatorStart, error) {
	s.note("SignOutAtProvider")
	if s.Operators.Leave == nil {
		return broker.OperatorStart{}, nil
	}
	return s.Operators.Leave(idToken)
}

// OperatorGrants as web.Service.
func (s *Service) OperatorGrants(groups []string) []broker.OperatorGrant {
	var grants []broker.OperatorGrant
	for _, r := range s.Operators.Roles {
		if slices.Contains(groups, r.Group) {
			grants = append(grants, r.OperatorGrant)
		}
	}
	return grants
}

// SignedInOperators as web.Service, with the real one's rules.
func (s *Service) SignedInOperators(ctx context.Context, op broker.Operator, position string, limit int) (all []broker.SignedInOperator, next string, err error) {
	s.note("SignedInOperators")
	if err := op.Check(broker.PermitOperators, broker.Everywhere); err != nil || s.Operators.List == nil {
		return nil, "", err
	}
	found, next, err := s.Operators.List.OperatorSessions(ctx, position, limit)
	for _, one := range found {
		in := broker.SignedInOperator{OperatorSession: one, Grants: s.OperatorGrants(one.Groups), Own: one.Operator == op.ID, Unclear: s.Operators.Unclear == one.Operator}
		if one.ByToken {
			in.Grants = []broker.OperatorGrant{{Role: broker.RoleAdmin}}
		}
		all = append(all, in)
	}
	return all, next, err
}

// EndOperatorSession as web.Service, with the real one's rules.
func (s *Service) EndOperatorSession(ctx context.Context, op broker.Operator, id, reason string) error {
	s.note("EndOperatorSession " + reason)
	if err := op.Check(broker.PermitOperators, broker.Everywhere); err != nil {
		return err
	}
	if err := broker.ValidateReason(reason); err != nil {
		return err
	}
	if _, err := s.Operators.List.OperatorSession(ctx, id); err != nil {
		return broker.Errorf(broker.CodeNotFound, "that session is over already")
	}
	return s.Operators.List.EndOperatorSession(ctx, id)
}

// EndOperatorSessions as web.Service, with the real one's rules.
func (s *Service) EndOperatorSessions(ctx context.Context, op broker.Operator, operator, reason string) error {
	s.note("EndOperatorSessions " + operator)
	if operator != op.ID {
		if err := op.Check(broker.PermitOperators, broker.Everywhere); err != nil {
			return err
		}
		if operator == "" {
			return broker.Errorf(broker.CodeInvalidRequest, "nobody")
		}
		if err := broker.ValidateReason(reason); err != nil {
			return err
		}
	}
	if s.Operators.Epochs == nil {
		return nil
	}
	return s.Operators.Epochs.SetOperatorEpoch(ctx, operator, time.Now().String(), time.Now().Add(time.Hour))
}
