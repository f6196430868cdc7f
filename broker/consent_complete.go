package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// CompleteConsent is the client's proof that the person who consented is the one who asked: the subject is whoever is
// logged in at the client, and the code came to that person's browser or was typed in that person's chat. Only now is
// the provider's code redeemed (binding return), and only now does a connection exist.
//
// Errors are *Error: subject_mismatch, invalid_code, account_changed, expired, not_found, and those of the provider.
func (s *Service) CompleteConsent(ctx context.Context, caller Caller, id string, c Completion) (Connection, error) {
	ctx, end := s.telemetry.begin(WithRequestID(ctx, caller.RequestID), "broker.CompleteConsent", "")
	undo, err := s.asserted(ctx, caller, c.Proofs, &c.Subject, nil)
	var conn Connection
	if err != nil {
		err = s.unproven(ctx, caller, EventConsentFailed, err)
	} else {
		if conn, err = s.completeConsent(ctx, caller, id, c); err != nil {
			undo()
		}
	}
	end(err)
	return conn, err
}

func (s *Service) completeConsent(ctx context.Context, caller Caller, id string, c Completion) (Connection, error) {
	waits := newWaiter()
	// Detached from the first claim on: a client that leaves, or a replica that is ending, must not spend the code.
	return detachFrom(s, ctx, waits, func(ctx context.Context) (Connection, error) {
		ctx = context.WithValue(ctx, waiterKey{}, waits)
		consent, err := s.proven(ctx, caller, id, c)
		if err != nil {
			return Connection{}, err
		}
		var conn Connection
		if consent.Status == ConsentCompleted {
			conn, err = s.ownConnection(ctx, caller, consent.Result) // by a call whose caller never heard of it
		} else {
			conn, err = s.completeClaimed(ctx, caller, consent, c.Replace)
		}
		if err == nil && waits.settle() {
			s.spendCode(ctx, id)
		}
		return conn, err
	})
}

// spendCode takes the code out of a completed consent whose caller is being answered: a code works once. It stays there for
// a caller that was told to try again, so that the same call finds what came of it.
func (s *Service) spendCode(ctx context.Context, id string) {
	consent, err := s.loadConsent(ctx, id)
	if err == nil && !consent.CompletionCode.IsZero() {
		consent.CompletionCode = Secret{}
		_, err = s.updateConsent(ctx, consent)
	}
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the code of a completed consent stays until its time is up: called again with it, the same connection is the answer", "consent", id, "error", err)
	}
}

// proven checks subject and code, counts what is wrong, and claims the consent for one completing call.
func (s *Service) proven(ctx context.Context, caller Caller, id string, c Completion) (Consent, error) {
	for range releaseAttempts {
		consent, err := s.consentOf(ctx, caller, id)
		if err != nil {
			return Consent{}, err
		}
		if err := s.mayConsent(ctx, consent); err != nil {
			return Consent{}, s.disabled(ctx, consent, "completed", err)
		}
		if consent.Binding == BindingLogin {
			return Consent{}, s.consentTrouble(ctx, consent, "a completing call for a consent of binding login",
				Errorf(CodeInvalidRequest, "no completing call is needed with binding login: the user's sign-in completes the consent; look at its status"))
		}
		typed := typedCode(consent.Binding, c.Code)
		if consent.Status == ConsentCompleted && c.Subject == consent.Subject && typed.Equal(consent.CompletionCode) && s.cfg.Now().Before(consent.Deadline) {
			return consent, nil
		}
		if _, there := s.cfg.Connectors.Connector(consent.Connector); !there {
			return Consent{}, s.consentTrouble(ctx, consent, "completed after its connector was deleted",
				Errorf(CodeExpired, "the connector of this consent is gone; nothing can be connected with it any more"))
		}
		switch s.statusOf(consent) {
		case ConsentPending, ConsentStarted:
			return Consent{}, s.consentTrouble(ctx, consent, "completed before the user had finished",
				Errorf(CodeInvalidRequest, "the user has not finished at the provider yet; complete the consent when its status is awaiting_completion"))
		case ConsentAwaitingCompletion:
		default:
			return Consent{}, s.consentTrouble(ctx, consent, "completed after its end",
				Errorf(CodeExpired, "this consent is over (%s); a code works once, ask for a new consent", s.statusOf(consent)))
		}
		var wrong *Error
		switch {
		case c.Subject != consent.Subject:
			wrong = Errorf(CodeSubjectMismatch, "the person logged in is not the one whom this consent was made for; nothing was connected")
		case consent.Attempts >= MaxCodeAttempts:
			// Guessing goes on beside a call that is completing it: not even told whether this one is right.
			return Consent{}, &Error{Code: CodeTemporarilyUnavailable, Description: "another call is completing this consent", RetryAfter: time.Second}
		case !typed.Equal(consent.CompletionCode):
			wrong = Errorf(CodeInvalidCode, "this is not the code that the consent page showed; after %d wrong ones the consent ends", MaxCodeAttempts)
		case s.cfg.Now().Before(consent.BusyUntil):
			return Consent{}, &Error{Code: CodeTemporarilyUnavailable, Description: "another call is completing this consent", RetryAfter: time.Second}
		case consent.Provisional == nil && consent.ProviderCode.IsZero():
			// An earlier call took the provider's code and was cut off: there is nothing left to redeem.
			if _, err := s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, string(CodeExpired), "the provider's code was spent by a call that was cut off"); err != nil && CodeOf(err) != CodeNotFound {
				return Consent{}, err
			}
			return Consent{}, Errorf(CodeExpired, "the provider's code is spent; ask for a new consent")
		default:
			mine, err := s.claimed(consent)
			if err != nil {
				return Consent{}, err
			}
			if consent.Provisional == nil {
				// Taken out before it is sent: a code can be sent once, also if this process ends meanwhile.
				mine.ProviderCode = Secret{}
			}
			stored, err := s.takeClaim(ctx, consent, mine)
			if errors.Is(err, ErrConflict) {
				continue
			}
			if err != nil {
				return Consent{}, err
			}
			stored.ProviderCode = consent.ProviderCode
			return stored, nil
		}
		err = s.countWrong(ctx, consent, c.Subject, wrong)
		if errors.Is(err, ErrConflict) {
			continue // another attempt came in between: count again from there
		}
		return Consent{}, err
	}
	return Consent{}, &Error{Code: CodeTemporarilyUnavailable, Description: "too many calls for this consent at once", RetryAfter: time.Second}
}

// countWrong records a failed completion and ends the consent at the fifth.
func (s *Service) countWrong(ctx context.Context, consent Consent, subject string, wrong *Error) error {
	consent.Attempts++
	entry, err := s.consentEntry(ctx, consent, EventConsentFailed, consent.Scopes, string(wrong.Code), wrongAttempt(consent.Attempts))
	if err != nil {
		return serverError(err)
	}
	provisional := consent.Provisional
	// Whoever is completing it right now has proved to know the code: guesses beside that can't end it.
	over := consent.Attempts >= MaxCodeAttempts && !s.cfg.Now().Before(consent.BusyUntil)
	if over {
		consent = finished(consent, ConsentFailed, "too_many_attempts")
	}
	if _, err := s.updateConsent(ctx, consent, entry); err != nil {
		return err
	}
	if over && provisional != nil {
		s.dropConsent(ctx, consent, provisional)
	}
	return wrong
}

// wrongAttempt says in an event which wrong completing call it was.
func wrongAttempt(n int) string {
	return fmt.Sprintf("completing call %d of %d refused", n, MaxCodeAttempts)
}

// completeClaimed goes from a proven consent to its connection. Whatever happens, the claim ends.
func (s *Service) completeClaimed(ctx context.Context, caller Caller, consent Consent, replace bool) (Connection, error) {
	if consent.Provisional == nil {
		held, err := s.exchange(ctx, consent, s.redeem(consent, consent.ProviderCode, consent.CallbackParams))
		if err != nil {
			return Connection{}, s.completionFailed(ctx, consent, err)
		}
		held.Deadline = s.cfg.Now().UTC().Add(ProvisionalLife)
		consent = held
	}
	if !consent.Identified {
		identified, err := s.identify(ctx, consent)
		if err != nil {
			return Connection{}, s.identifyFailed(ctx, consent, err)
		}
		consent = identified
	}
	var replaced Secret // of an account that this one replaces; taken once
	for range releaseAttempts {
		old, err := s.target(ctx, caller, consent)
		if err != nil {
			s.unclaim(ctx, consent)
			return Connection{}, err
		}
		// An account that is not known is not the one that is (threat 4: absence is a mismatch).
		changed := old.Generation > 0 && old.Account.ID != "" && old.Account.ID != consent.Account.ID
		if changed && !replace {
			s.unclaim(ctx, consent)
			e := Errorf(CodeAccountChanged, "the user consented with another account than this connection's; ask whether that was meant, then call again with \"replace\": true")
			e.Accounts = []AccountChoice{{Connection: old.ID, Account: old.Account}, {Account: consent.Account}}
			return Connection{}, s.consentTrouble(ctx, consent, "the user consented with another account than the connection's", e)
		}
		if changed && replaced.IsZero() {
			replaced = s.replacedToken(ctx, old)
		}
		conn, err := s.connect(ctx, consent, old, changed, replaced)
		if errors.Is(err, ErrConflict) {
			// The connection was refreshed meanwhile, or a wrong code was counted: take the newer ones.
			if consent, err = s.stillClaimed(ctx, consent.BusyUntil, consent); err != nil {
				return Connection{}, storeError("store the connection", err)
			}
			continue
		}
		if err != nil {
			s.unclaim(ctx, consent)
			return Connection{}, storeError("store the connection", err)
		}
		return conn, nil
	}
	s.unclaim(ctx, consent)
	return Connection{}, &Error{Code: CodeTemporarilyUnavailable, Description: "the connection keeps changing; try again", RetryAfter: time.Second}
}

// completionFailed: the code could not be redeemed.
func (s *Service) completionFailed(ctx context.Context, consent Consent, cause error) error {
	var public *Error
	switch {
	case errors.As(cause, &public) && !errors.Is(cause, ErrConflict):
		return public // whether it was stored is not known, or another call has completed the consent
	case public != nil:
		// The provider's code is spent, and what it gave could not be kept: it was revoked, and this consent is over.
		if _, err := s.endClaimed(ctx, consent, ConsentFailed, string(public.Code), "the grant could not be stored"); err != nil {
			s.cfg.Log.WarnContext(ctx, "a consent whose code is spent could not be ended yet", "consent", consent.ID, "error", err)
		}
		return public
	}
	if class := ClassOf(cause); class == ClassUnsent || class == ClassThrottled {
		// The provider has not used it: the same call may be made again while the code lives.
		s.unclaim(ctx, consent)
		return s.upstreamFault(ctx, consent.Connector, cause)
	}
	fault := s.upstreamFault(ctx, consent.Connector, cause)
	if _, err := s.endClaimed(ctx, consent, ConsentFailed, string(fault.Code), "the provider did not redeem the code: "+string(ClassOf(cause))); err != nil {
		return err
	}
	if fault.Code == CodeProviderUnavailable {
		// A code may be used once (RFC 6749 section 4.1.2), so there is nothing that a repetition of this call could do.
		return Errorf(CodeExpired, "the provider failed while it redeemed its code, which works once; start again with a new consent").Because(cause)
	}
	return fault
}

// identifyFailed: it is not known whose account it is. The grant is kept, and the call may be repeated, unless the
// provider will not hear of that grant any more.
func (s *Service) identifyFailed(ctx context.Context, consent Consent, cause error) error {
	fault := s.upstreamFault(ctx, consent.Connector, cause)
	if fault.Code == CodeExpired {
		if _, err := s.endClaimed(ctx, consent, ConsentFailed, string(fault.Code), "the provider ended the grant before its account was known"); err != nil {
			return err
		}
		return fault
	}
	s.unclaim(ctx, consent)
	return s.consentTrouble(ctx, consent, "the account could not be looked up: "+string(ClassOf(cause)), fault)
}

// target is the connection that the consent renews: the named one, or the live one of the same account. A zero one: none.
func (s *Service) target(ctx context.Context, caller Caller, consent Consent) (Connection, error) {
	all, err := s.ofSubject(ctx, caller, consent.Subject, consent.Connector)
	if errors.Is(err, ErrIntegrity) && !errors.Is(err, ErrNewerFormat) {
		err = nil // what can't be read can't be renewed: this consent is how the user repairs it, with a connection of its own
	}
	if err != nil {
		return Connection{}, err
	}
	for _, c := range all {
		if consent.Connection != "" {
			if c.ID == consent.Connection {
				return c, nil
			}
			continue
		}
		if c.Status != ConnectionRevoked && !c.Direct && c.Account.ID == consent.Account.ID {
			return c, nil
		}
	}
	return Connection{}, nil
}

// connect stores the connection and ends the consent, in one step.
func (s *Service) connect(ctx context.Context, consent Consent, old Connection, changed bool, replaced Secret) (Connection, error) {
	now := s.cfg.Now().UTC()
	next, grant := connectionOf(consent, *consent.Provisional, old, changed, now)
	if next.ID == "" {
		var err error
		if next.ID, err = s.ids().record(next.Tenant, next.Subject); err != nil {
			return Connection{}, err
		}
	}
	var err error
	if next.SharedGeneration, err = s.spread(ctx, consent); err != nil {
		return Connection{}, err
	}
	next.SharedGrant = s.sharedGrant(next.Connector, next.Account)
	next = s.scheduled(next)
	done := finished(consent, ConsentCompleted, "")
	done.Result, done.CompletionCode = next.ID, consent.CompletionCode // until the caller is answered (spendCode)
	done.Scopes = consent.Scopes.Intersect(next.Scopes)                // what was granted of what was asked
	entry, err := s.consentEntry(ctx, done, EventConsentCompleted, next.Scopes, "ok", "")
	if err != nil {
		return Connection{}, err
	}
	entries := []Entry{entry}
	if lost := old.Scopes.Minus(next.Scopes); old.Status == ConnectionActive && !lost.Empty() {
		reduced, err := s.consentEntry(ctx, done, EventScopeReduced, lost, "scope_reduced", "the new consent grants fewer scopes")
		if err != nil {
			return Connection{}, err
		}
		entries = append(entries, reduced)
	}
	held := next
	held.Generation++ // as which the write makes it
	if err := s.hold(ctx, held); err != nil {
		return Connection{}, err // the consent counts in its place, and is still there
	}
	// One write for both: a crash before it leaves a proven consent that can be completed again after its claim ran out;
	// behind it, everything is done.
	stored, err := repeated(ctx, s, consent.BusyUntil, func(doubt bool) (Connection, error) {
		storeCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		defer cancel()
		stored, err := s.cfg.Consents.CompleteConsent(storeCtx, done, next, grant, entries)
		if !doubt || !errors.Is(err, ErrConflict) {
			return stored, err
		}
		now, err := s.loadConsent(ctx, done.ID)
		if err == nil && now.Status == ConsentCompleted && now.Result == done.Result {
			return s.reread(ctx, next) // an attempt before had done it
		}
		return Connection{}, cmp.Or(err, ErrConflict)
	})
	if err != nil {
		if errors.Is(err, ErrConflict) && next.Generation == 0 {
			if _, err := s.leaveShared(ctx, held); err != nil {
				s.cfg.Log.WarnContext(ctx, "a connection that was not made counts as a holder of its grant", "connection", next.ID, "error", err)
			}
		}
		return Connection{}, err
	}
	s.followers.wake(done.ID)
	s.leavePlaces(ctx, done)
	s.unmark(ctx, s.revokedTogether(next.Connector, next.Account), done.ID)
	s.listen(ctx, stored)
	s.telemetry.consent(ctx, done.Connector, done.Status)
	s.pulse.consent(done.Tenant, done.Connector, done.Status)
	if old.SharedGrant != next.SharedGrant || s.revokedTogether(old.Connector, old.Account) != s.revokedTogether(next.Connector, next.Account) {
		if _, err := s.leaveShared(ctx, old); err != nil {
			s.cfg.Log.WarnContext(ctx, "a connection with another account could not leave its old grant, which will stay at the provider", "connection", old.ID, "error", err)
		}
	}
	if !replaced.IsZero() && !s.HeldByOthers(ctx, old) {
		s.revokeUpstream(ctx, old.Connector, RevokeRequest{RefreshToken: replaced, Vars: old.Vars})
	}
	return stored, nil
}

// replacedToken takes the refresh token of an account that is being replaced, to revoke it: nobody will hold it any more.
func (s *Service) replacedToken(ctx context.Context, old Connection) Secret {
	if old.Status != ConnectionActive || !old.Renewable {
		return Secret{}
	}
	lease, token, err := s.refresher.beginRefresh(ctx, old)
	if err != nil {
		s.cfg.Log.WarnContext(ctx, "the grant of a replaced account stays at the provider until it ends there", "connection", old.ID, "error", err)
		return Secret{}
	}
	if lease.Shared.Name != "" {
		s.refresher.giveBack(ctx, lease) // others are waiting for it
	}
	return token
}

// connectionOf is the connection after the consent, a new one or the old one renewed, and the grant that it stores.
func connectionOf(consent Consent, grant Grant, old Connection, changed bool, now time.Time) (Connection, Grant) {
	next := old
	if old.Generation == 0 {
		next = Connection{Tenant: consent.Tenant, Subject: consent.Subject, Connector: consent.Connector, CreatedAt: now}
	}
	// Some providers give a refresh token at the first consent alone; the one we have then still works, if it is of the
	// same account and not known to be dead.
	same := old.Account.ID != "" && old.Account.ID == consent.Account.ID
	keeps := same && old.Renewable && old.Status != ConnectionRevoked && old.Error != ErrorInvalidGrant
	next.Renewable = !grant.RefreshToken.IsZero() || keeps
	if next.Renewable {
		grant = bounded(grant, now)
	}
	next.Client, next.Status, next.Error = consent.Client, ConnectionActive, ""
	next.FailingSince, next.RetryAt, next.Failures = time.Time{}, time.Time{}, 0
	next.Scopes = grantedScopes(consent, grant)
	if next.Account.ID == "" || changed || consent.Account.ID == next.Account.ID {
		next.Account = consent.Account
	}
	next.Extra, next.Vars, next.ClientGeneration = grant.Extra, grant.Vars, grant.ClientGeneration
	next.Lifetime, next.LastRefreshed, next.RefreshExpiry = grant.Lifetime, time.Time{}, grant.RefreshExpiry
	next.Tokens = []AccessTokenInfo{{Scopes: next.Scopes, ExpiresAt: grant.ExpiresAt, Never: grant.Never}}
	return next, grant
}
