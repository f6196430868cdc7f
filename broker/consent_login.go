package broker

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// A consent of binding "login": the person proves who they are at the tenant's own OpenID Provider before the consent goes on, so
// no completing call has to.
//
//	       start (cookie)             login callback, the right person          provider's callback
//	pending ─────────────▶ started ──────────────────────────────────▶ started ───────────────────────▶ completed
//	   ▲                      │                                                       │ another account than the connection's
//	   └── somebody else, five times: failed                                          ▼
//	                                                               awaiting_completion: the page asks ──▶ completed, denied
//
// The proof is one of the browser that started the consent and of that start; another start makes it void.

// toLogin gives the consent a sign-in of its own: what is to be stored, and where the browser goes.
func (s *Service) toLogin(ctx context.Context, consent Consent, browser Secret) (Consent, Secret, error) {
	client, ok := s.cfg.Client(consent.Client)
	if !ok {
		return Consent{}, Secret{}, errNoConsent()
	}
	run, location, err := s.beginLogin(ctx, client, loginForConsent, consent.ID, browser, consent.Attempts > 0)
	if err != nil {
		return Consent{}, Secret{}, err
	}
	// The provider is asked for nothing yet, and no state of an earlier start counts.
	consent.Login, consent.StateDigest, consent.Verifier = run, "", Secret{}
	return consent, location, nil
}

// finishConsentLogin takes the redirect of the tenant's OpenID Provider. Whatever goes wrong there costs another press on
// Continue, and nobody's account; a wrong person, or an answer that proves nothing, counts, and the fifth ends the consent.
//
// The first write uses up the state: of many callbacks one goes on. A crash behind it leaves a started consent with a claim,
// which runs out; then the same browser starts again. So it is behind the last write, whose state then nobody has.
func (s *Service) finishConsentLogin(ctx context.Context, id string, cb LoginCallback) (LoginFinish, error) {
	consent, err := s.loadConsent(ctx, id)
	if CodeOf(err) == CodeNotFound {
		return LoginFinish{}, errBadState()
	}
	if err != nil {
		return LoginFinish{}, err
	}
	client, known := s.cfg.Client(consent.Client)
	if !known || consent.Client != cb.Client || consent.Binding != BindingLogin || consent.Status != ConsentStarted {
		return LoginFinish{}, errBadState()
	}
	if err := s.checkLogin(consent.Login, cb, cookieName(consent.ID)); CodeOf(err) == CodeAccessDenied {
		return LoginFinish{}, s.strangeBrowser(ctx, consent, "the answer of the sign-in came in another browser than the consent was started in", err)
	} else if err != nil {
		return LoginFinish{}, err
	}
	if err := s.mayConsent(ctx, consent); err != nil {
		return LoginFinish{}, s.disabled(ctx, consent, "brought back from the sign-in", err)
	}
	mine, err := s.claimed(consent)
	if err != nil {
		return LoginFinish{}, err
	}
	mine.Login = mine.Login.used()
	mine, err = s.takeClaim(ctx, consent, mine)
	if errors.Is(err, ErrConflict) {
		return LoginFinish{}, errBadState()
	}
	if err != nil {
		return LoginFinish{}, err
	}
	run, err := s.redeemLogin(ctx, client, mine.Login, cb, consent.Subject)
	if err != nil {
		return LoginFinish{}, s.loginFailed(ctx, mine, "nobody signed in at the tenant's OpenID Provider, or nothing shows who", err)
	}
	next, location, err := s.toProvider(ctx, mine)
	if err != nil {
		return LoginFinish{}, s.loginFailed(ctx, mine, "the provider could not be asked behind the sign-in", err)
	}
	next.Login, next.Deadline, next.BusyUntil = run, run.Until, time.Time{}
	entry, err := s.consentEntry(ctx, next, EventConsentSignedIn, next.Scopes, "ok", "the user signed in at the tenant's own OpenID Provider")
	if err != nil {
		return LoginFinish{}, serverError(err)
	}
	_, err = s.insistOn(ctx, consentWrite{
		consent: next, entries: []Entry{entry}, claim: mine.BusyUntil, until: s.untilEnd(ctx),
		made: func(now Consent) bool { return now.StateDigest == next.StateDigest },
	})
	if errors.Is(err, ErrConflict) {
		return LoginFinish{}, errBadState()
	}
	if err != nil {
		return LoginFinish{}, err
	}
	return LoginFinish{Location: location}, nil
}

// loginFailed lets the link be started anew, in whatever browser: nobody has proved anything in this one. It returns cause.
//
// A crash before the write leaves the claim; the failure is not counted then, and the code that failed is spent.
func (s *Service) loginFailed(ctx context.Context, consent Consent, reason string, cause error) error {
	back, code := consent, CodeOf(cause)
	back.Status, back.Deadline, back.BusyUntil = ConsentPending, consent.CreatedAt.Add(LinkLife), time.Time{}
	back.Login, back.BrowserDigest, back.StateDigest, back.Verifier = LoginRun{}, "", "", Secret{}
	switch code {
	case CodeSubjectMismatch:
		reason = "somebody else signed in at the tenant's OpenID Provider than the one whom the link was made for"
		back.Attempts++
	case CodeLoginFailed:
		back.Attempts++
	}
	if back.Attempts >= MaxCodeAttempts {
		back = finished(back, ConsentFailed, "too_many_attempts")
	}
	entry, err := s.consentEntry(ctx, back, EventConsentFailed, consent.Scopes, string(code), reason)
	if err != nil {
		return serverError(err)
	}
	_, err = s.insistOn(ctx, consentWrite{
		consent: back, entries: []Entry{entry}, claim: consent.BusyUntil, until: s.untilEnd(ctx),
		made: func(now Consent) bool {
			return now.Attempts >= back.Attempts && now.Claim == back.Claim && now.BusyUntil.IsZero()
		},
	})
	if err != nil && !decided(err) {
		return err
	}
	return cause
}

// connectSignedIn redeems the code of a provider for a person who has signed in, and makes the connection.
//
// The first write uses up the state: of many callbacks one goes on. What a crash leaves behind each of them is as in
// exchangeProvisionally, but that the sign-in counts for nothing any more: the user starts again, and a grant that is in the
// consent by then is revoked.
func (s *Service) connectSignedIn(ctx context.Context, consent Consent, cb Callback) (Finish, error) {
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
		held, err := s.exchange(ctx, mine, s.redeem(mine, cb.Code, cb.Params))
		if err != nil {
			return s.exchangeFailed(ctx, mine, err)
		}
		// As it is to be kept if the connection can't be made now: the page asks, and the grant ends if nobody answers.
		held.Status, held.Deadline = ConsentAwaitingCompletion, s.cfg.Now().UTC().Add(ProvisionalLife)
		return s.settle(ctx, held, false)
	})
}

// settle makes the connection of a claimed consent whose grant is there, and tells how it is now. What keeps it from that and
// may pass is for the page to tell, where the user decides.
func (s *Service) settle(ctx context.Context, consent Consent, replace bool) (Finish, error) {
	client, ok := s.cfg.Client(consent.Client)
	if !ok || !client.Login || !mayUse(client, consent.Connector) {
		return s.endClaimed(ctx, consent, ConsentFailed, string(CodeAccessDenied), "the client or its login is gone from the configuration, or may not use the connector any more")
	}
	caller := Caller{Client: client, RequestID: cmp.Or(requestIDOf(ctx), consent.RequestID)}
	_, failed := s.completeClaimed(ctx, caller, consent, replace)
	now, err := s.loadConsent(context.WithoutCancel(ctx), consent.ID)
	switch {
	case err != nil:
		return Finish{}, cmp.Or(failed, err)
	case failed != nil && now.Status == ConsentStarted:
		return Finish{}, failed // not even that it waits could be stored
	}
	return s.finishOf(now), nil
}

// previousAccount is the account of the connection that the consent names, where a grant of another account waits to be
// confirmed.
func (s *Service) previousAccount(ctx context.Context, consent Consent) (*Account, error) {
	if consent.Connection == "" || consent.Provisional == nil || !consent.Identified || s.statusOf(consent) != ConsentAwaitingCompletion {
		return nil, nil
	}
	conn, err := s.reread(ctx, Connection{Tenant: consent.Tenant, ID: consent.Connection})
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrIntegrity):
		return nil, nil
	case err != nil:
		return nil, storeError("read the connection", err)
	case conn.Account.ID == "" || conn.Account.ID == consent.Account.ID:
		return nil, nil
	}
	return &conn.Account, nil
}

// Decision is what a user says on the page of an undecided consent.
type Decision string

// The decisions.
const (
	DecideReplace Decision = "replace" // the other account shall take the place of the one before
	DecideKeep    Decision = "keep"    // everything stays as it was
	DecideRetry   Decision = "retry"   // connect now what could not be connected before
)

// DecideConsent carries out what the user said on the page, in the browser that the consent is bound to. One that is over by then
// is shown as it is.
func (s *Service) DecideConsent(ctx context.Context, id string, cookie func(name string) Secret, d Decision) (Finish, error) {
	consent, err := s.loadConsent(ctx, id)
	if err != nil {
		return Finish{}, err
	}
	if consent.Binding != BindingLogin || !cookie(cookieName(consent.ID)).MatchesDigest(consent.BrowserDigest) {
		return Finish{}, errNoConsent()
	}
	switch status := s.statusOf(consent); {
	case status == ConsentStarted || s.cfg.Now().Before(consent.BusyUntil):
		return Finish{}, Errorf(CodeSlowDown, "this consent is being finished in another window")
	case status != ConsentAwaitingCompletion:
		return s.finishOf(consent), nil
	case !consent.Login.in(consent.BrowserDigest):
		return Finish{}, errNoConsent()
	case d == DecideKeep:
		return s.endFlow(ctx, consent, ConsentDenied, EventConsentDenied, "access_denied", "the user kept the account that was connected before")
	case d != DecideReplace && d != DecideRetry:
		return Finish{}, Errorf(CodeInvalidRequest, "this page has no such answer")
	}
	if err := s.mayConsent(ctx, consent); err != nil {
		return Finish{}, s.disabled(ctx, consent, "decided on", err)
	}
	if !s.mayStart(consent.ID) {
		return Finish{}, errNoConsent()
	}
	return detach(s, ctx, func(ctx context.Context) (Finish, error) {
		mine, err := s.claimed(consent)
		if err != nil {
			return Finish{}, err
		}
		// A crash behind this write leaves the claim, which runs out; then the user can decide again, until the grant ends.
		if mine, err = s.takeClaim(ctx, consent, mine); errors.Is(err, ErrConflict) {
			return Finish{}, Errorf(CodeSlowDown, "this consent is being finished in another window")
		} else if err != nil {
			return Finish{}, err
		}
		return s.settle(ctx, mine, d == DecideReplace)
	})
}
