package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// This file redeems codes and keeps what they give, before anybody may have it.

// exchangeProvisionally redeems the code at once (codes live as short as 30 seconds) and keeps the grant out of reach until
// the code shown to the user was typed in the chat (binding code). After ten minutes without it, the grant is revoked.
//
// The first write uses up the state: of many callbacks one goes on. A crash behind it loses the code, and the user starts
// again; a crash between the exchange and the second write leaves a grant at the provider that nobody holds.
func (s *Service) exchangeProvisionally(ctx context.Context, consent Consent, cb Callback) (Finish, error) {
	// From here on the user's closing the page changes nothing.
	return detach(s, ctx, func(ctx context.Context) (Finish, error) {
		mine, err := s.claimed(consent)
		if err != nil {
			return Finish{}, err
		}
		mine.StateDigest = ""
		mine, err = s.takeClaim(ctx, consent, mine)
		if errors.Is(err, ErrConflict) {
			return Finish{}, errBadState()
		}
		if err != nil {
			return Finish{}, err
		}
		code, err := s.ids().userCode()
		if err != nil {
			return Finish{}, serverError(err)
		}
		held, err := s.exchange(ctx, mine, s.redeem(mine, cb.Code, cb.Params))
		if err != nil {
			return s.exchangeFailed(ctx, mine, err)
		}
		held.CompletionCode = code
		waiting, err := s.awaitCompletion(ctx, held, func(now Consent) bool { return code.Equal(now.CompletionCode) })
		if errors.Is(err, ErrConflict) {
			return Finish{}, errNoConsent()
		}
		if err != nil {
			// Perhaps written, perhaps not: the grant lies in the consent either way, and ends with it.
			return Finish{}, err
		}
		return s.finishOf(waiting), nil
	})
}

// awaitCompletion keeps what a claimed consent was given until the chat completes it. made tells by the stored consent that this
// was written. ErrConflict: it was ended meanwhile, and the grant with it.
func (s *Service) awaitCompletion(ctx context.Context, held Consent, made func(now Consent) bool) (Consent, error) {
	if identified, err := s.identify(ctx, held); err == nil {
		held = identified
	} else {
		// The account is asked for again at completion; the grant is kept until then.
		s.cfg.Log.WarnContext(ctx, "the account of a new grant could not be looked up yet", "connector", held.Connector, "error", err)
	}
	claim := held.BusyUntil
	held.Status, held.Deadline, held.BusyUntil = ConsentAwaitingCompletion, s.cfg.Now().UTC().Add(ProvisionalLife), time.Time{}
	waiting, err := s.insistOn(ctx, consentWrite{
		consent: held, claim: claim, until: claim,
		// Completed: somebody was quicker than this process knew of its own write, and the code is spent.
		made: func(now Consent) bool { return made(now) || now.Status == ConsentCompleted },
	})
	if errors.Is(err, ErrConflict) {
		// Whoever ended it has revoked what it saw, and revoking twice does no harm.
		s.dropConsent(ctx, held, held.Provisional)
	}
	return waiting, err
}

// redeem is the request that redeems a code.
func (s *Service) redeem(consent Consent, code Secret, params map[string]string) func(context.Context) (Grant, error) {
	return func(ctx context.Context) (Grant, error) {
		return s.cfg.Upstream.Exchange(ctx, consent.Connector, ExchangeRequest{
			RedirectURI: s.redirectURI(consent.Connector), Code: code, Verifier: consent.Verifier, Scopes: consent.Scopes,
			Fingerprint: consent.Fingerprint, CallbackParams: params,
		})
	}
}

// exchange redeems a code and keeps the grant, sealed, in the consent: before anything else that could fail.
func (s *Service) exchange(ctx context.Context, consent Consent, redeem func(context.Context) (Grant, error)) (Consent, error) {
	upCtx, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	defer cancel()
	sent := s.cfg.Now()
	grant, err := redeem(upCtx)
	if err != nil {
		return consent, err
	}
	grant.ObtainedAt = sent
	granted := grantedScopes(consent, grant)
	// Those who hold the same grant go on with this consent's tokens, whatever becomes of the consent: theirs are spent.
	consent.Provisional, consent.Account = &grant, grant.Account
	s.spreadOn(ctx, consent)
	s.markOn(ctx, consent)
	var entries []Entry
	add := func(t EventType, scopes ScopeSet, outcome, reason string) error {
		entry, err := s.consentEntry(ctx, consent, t, scopes, outcome, reason)
		entries = append(entries, entry)
		return err
	}
	if err := add(EventConsentGranted, granted, "ok", ""); err != nil {
		return consent, serverError(err)
	}
	if refused := consent.Scopes.Minus(granted); !refused.Empty() {
		if err := add(EventConsentDenied, refused, "not_granted", "the provider granted fewer scopes than were asked for"); err != nil {
			return consent, serverError(err)
		}
	}
	consent.Verifier, consent.ProviderCode, consent.CallbackParams = Secret{}, Secret{}, nil
	// The process may be all that has the grant: it does not give up on a store that hangs, and never takes an error for a no.
	now, err := s.insistOn(ctx, consentWrite{
		consent: consent, entries: entries, claim: consent.BusyUntil, until: s.cfg.Now().Add(ProvisionalLife + revokePatience),
		made: func(now Consent) bool {
			return now.Provisional != nil && now.Provisional.AccessToken.Equal(grant.AccessToken)
		},
	})
	switch {
	case err == nil:
		return now, nil
	case errors.Is(err, ErrConflict) && now.Status == ConsentCompleted && now.BrowserDigest == consent.BrowserDigest:
		// It was written after all, and by the time that this was known somebody had completed the consent with it.
		return consent, storeError("store the consent", errors.New("another call has completed it"))
	case errors.Is(err, ErrConflict), CodeOf(err) == CodeNotFound:
		// The consent was ended meanwhile. What it can't keep must not live on at the provider.
		s.dropConsent(ctx, consent, &grant)
		return consent, storeError("store the consent", ErrConflict)
	}
	s.cfg.Log.ErrorContext(ctx, "the grant of a consent could not be stored before the process had to end; if it was written all the same, the consent still has it",
		"consent", consent.ID, "error", err)
	return consent, err
}

// grantedScopes are the scopes of a fresh grant: as reported, else as asked (RFC 6749 section 5.1).
func grantedScopes(consent Consent, grant Grant) ScopeSet {
	if grant.ScopesReported {
		return grant.Scopes
	}
	return consent.Scopes
}

// identifyTimeout bounds the look-up of an account: somebody waits, and has waited for the exchange before.
const identifyTimeout = 10 * time.Second

// identify looks up whose account the provisional grant belongs to. The consent it returns is not yet stored.
func (s *Service) identify(ctx context.Context, consent Consent) (Consent, error) {
	if consent.Identified || consent.Provisional == nil {
		return consent, nil
	}
	upCtx, cancel := context.WithTimeout(ctx, min(identifyTimeout, s.cfg.UpstreamTimeout))
	defer cancel()
	grant, err := s.cfg.Upstream.Identify(upCtx, consent.Connector, *consent.Provisional)
	if err != nil {
		return consent, err
	}
	consent.Provisional, consent.Account, consent.Identified = &grant, grant.Account, true
	s.spreadOn(ctx, consent)
	s.markOn(ctx, consent)
	return consent, nil
}

// exchangeFailed ends the consent after a failed exchange. A code can be sent once, so there is nothing to repeat.
func (s *Service) exchangeFailed(ctx context.Context, consent Consent, cause error) (Finish, error) {
	var public *Error
	if errors.As(cause, &public) {
		return Finish{}, cause // the store, not the provider
	}
	fault := s.upstreamFault(ctx, consent.Connector, cause)
	return s.endClaimed(ctx, consent, ConsentFailed, string(fault.Code), "the provider did not redeem the code: "+string(ClassOf(cause)))
}

// upstreamFault is what a caller sees of a provider's failure outside of a refresh.
func (s *Service) upstreamFault(ctx context.Context, connector string, cause error) *Error {
	switch ClassOf(cause) {
	case ClassClientRefused, ClassRefused:
		s.cfg.Log.ErrorContext(ctx, "the provider refuses our OAuth client or request, or its definition lacks something: see error; check the connector's client_id, client_secret, redirect URI and scopes",
			"connector", connector, "error", cause)
		return misconfigured(cause)
	case ClassGrantDead:
		return Errorf(CodeExpired, "the provider did not accept its code any more; start again with a new consent").Because(cause)
	}
	s.cfg.Log.WarnContext(ctx, "a provider failed", "connector", connector, "error", cause)
	var upstream *UpstreamError
	after := time.Second
	if errors.As(cause, &upstream) && upstream.RetryAfter > after {
		after = upstream.RetryAfter
	}
	return unavailable(after, cause)
}

// detach runs work that outlives the request, and waits for it as long as the request lasts.
func detach[T any](s *Service, ctx context.Context, work func(context.Context) (T, error)) (T, error) {
	return detachFrom(s, ctx, newWaiter(), work)
}

// detachFrom is detach for work that can tell the waiter when there is nothing to wait for.
func detachFrom[T any](s *Service, ctx context.Context, waits *waiter, work func(context.Context) (T, error)) (T, error) {
	type outcome struct {
		val T
		err error
	}
	var none T
	if !s.enter() {
		return none, &Error{Code: CodeTemporarilyUnavailable, Description: "this replica is shutting down; retry", RetryAfter: time.Second}
	}
	done := make(chan outcome, 1)
	go func() {
		defer s.leave()
		var o outcome
		// A panic must not end the process while grants of others are being stored.
		defer func() {
			if p := recover(); p != nil {
				s.cfg.Log.Error("detached work panicked", "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
				o = outcome{err: serverError(errors.New("detached work panicked"))}
			}
			done <- o
		}()
		o.val, o.err = work(context.WithoutCancel(ctx))
	}()
	var early error
	select {
	case o := <-done:
		return o.val, o.err
	case <-waits.c:
		early = storeError("store the consent", errStalled)
	case <-ctx.Done():
		early = (&Error{Code: CodeTemporarilyUnavailable, Description: "the request ended before the work did; look at the consent's status", RetryAfter: time.Second}).Because(ctx.Err())
	}
	if !waits.settle() {
		o := <-done // but for a moment it is there
		return o.val, o.err
	}
	return none, early
}

// dropDetached is dropConsent behind the answer: nobody waits for it, but Drain does.
func (s *Service) dropDetached(ctx context.Context, consent Consent, grant *Grant) {
	if grant == nil {
		return
	}
	if !s.enter() {
		s.dropConsent(context.WithoutCancel(ctx), consent, grant) // the replica is ending: now or never
		return
	}
	go func() {
		defer s.leave()
		s.dropConsent(context.WithoutCancel(ctx), consent, grant)
	}()
}
