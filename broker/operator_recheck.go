package broker

import (
	"context"
	"errors"
)

// This file decides what becomes of a session, once the operators' provider has said anew who is there and in which groups.

// finishRecheck is finishOperatorSignIn of a run of RecheckOperator. The session goes on only if the provider said who is there, and
// then by a step of the caller's that looks once more: who left meanwhile, or was ended, does not come back by it. It stays as it was where
// the provider said nothing. login_failed by ErrOvertaken; by ErrSignInNeeded: somebody must sign in.
func (s *Service) finishRecheck(ctx context.Context, party loginParty, run OperatorRun, cb LoginCallback, requestID, traceID string) (OperatorSignedIn, error) {
	over := OperatorSignedIn{To: run.To}
	if s.cfg.OperatorSessions == nil || s.cfg.OperatorEpochs == nil {
		return over, serverError(errors.New("config lacks OperatorSessions or OperatorEpochs"))
	}
	if err := s.goesOn(ctx, run.Again); err != nil {
		return over, err
	}
	who, err := s.finishOperatorSignIn(ctx, party, run, cb, requestID, traceID)
	code := CodeOf(err)
	if err == nil || code == CodeProviderUnavailable || code == CodeTemporarilyUnavailable {
		return who, err
	}
	store, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	if endErr := s.cfg.OperatorSessions.EndOperatorSession(store, run.Again.Session); endErr != nil {
		return over, storeError("end the session before", endErr)
	}
	if code == CodeLoginFailed && !errors.Is(err, ErrGroupsElsewhere) {
		err = Errorf(CodeLoginFailed, "the provider does not say without a question that it is the same person; sign in again").Because(ErrSignInNeeded)
	}
	return who, err
}

// goesOn is the error where the session is not as it was when the provider was asked. That saves a code, and an event of a sign-in that
// comes to nothing; it decides nothing, for the session may end behind it.
func (s *Service) goesOn(ctx context.Context, again OperatorAgain) error {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	one, err := s.cfg.OperatorSessions.OperatorSession(ctx, again.Session)
	epoch := ""
	if err == nil {
		epoch, err = s.cfg.OperatorEpochs.OperatorEpoch(ctx, one.Operator)
	}
	switch {
	case errors.Is(err, ErrNotFound), err == nil && (one.Operator != again.Operator || one.Turn != again.Turn || epoch != "" && epoch != again.Epoch):
		return Errorf(CodeLoginFailed, "the session ended or went on meanwhile").Because(ErrOvertaken)
	case err != nil:
		return storeError("read the session before", err)
	}
	return nil
}
