package broker

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// This file ends sessions of operators.

// LongestSession is the longest life of a session that may be configured. A sign-out everywhere is remembered that long.
const LongestSession = 7 * 24 * time.Hour

// OperatorEpochs keeps what ends all sessions of an operator at once. An epoch is a random text; sessions hold the one under which
// they began, and one that began under another than the present one is over. "" stands for none: nothing was ended within
// LongestSession, so no session is over by it.
type OperatorEpochs interface {
	// OperatorEpoch returns the present one.
	OperatorEpoch(ctx context.Context, operator string) (string, error)
	// SetOperatorEpoch makes it another one, until that time. Durable.
	SetOperatorEpoch(ctx context.Context, operator, epoch string, until time.Time) error
}

// SignOutOperator records the end of the session that the operator asks from. The session itself is the caller's to end.
func (s *Service) SignOutOperator(ctx context.Context, op Operator) error {
	if !op.MaySomewhere(PermitSignedIn) {
		return Errorf(CodeAccessDenied, "your role does not allow this")
	}
	return s.RecordOperator(ctx, op, EventOperatorSignedOut, "ok", "")
}

// EndOperatorSessions ends every session of an operator, on every replica with the next request: one's own, or with
// PermitOperators anybody's, for a reason. That there is such an operator is not known: they come from the provider.
func (s *Service) EndOperatorSessions(ctx context.Context, op Operator, operator, reason string) error {
	if operator == op.ID {
		if !op.MaySomewhere(PermitSignedIn) {
			return Errorf(CodeAccessDenied, "your role does not allow this")
		}
		reason = "own sessions"
	} else if err := op.Check(PermitOperators, Everywhere); err != nil {
		return err
	} else if operator == "" || len(operator) > 300 || !utf8.ValidString(operator) || strings.ContainsFunc(operator, isControl) {
		return Errorf(CodeInvalidRequest, "name the operator as events do")
	} else if err := ValidateReason(reason); err != nil {
		return err
	}
	if s.cfg.OperatorEpochs == nil {
		return serverError(errors.New("config lacks OperatorEpochs"))
	}
	epoch, err := s.ids().secret(secretBytes)
	if err != nil {
		return serverError(err)
	}
	if operator != op.ID {
		reason = firstBytes(operator+": "+reason, maxReason)
	}
	if err := s.RecordOperator(ctx, op, EventOperatorSessionsEnded, "ok", reason); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	if err := s.cfg.OperatorEpochs.SetOperatorEpoch(ctx, operator, epoch.Reveal(), s.cfg.Now().Add(LongestSession+time.Hour)); err != nil {
		return storeError("end the sessions", err)
	}
	return nil
}
