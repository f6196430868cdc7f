package broker

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"time"
)

// This file is the browser's half of a consent: the link, the start, the callback. The browser proves nothing about who
// the chat's user is; that is what the completing call is for.

// OpenLink shows what a link asks for. It changes nothing, so that previews and mail scanners do no harm. An unknown, an
// expired and a used link look the same: not_found.
func (s *Service) OpenLink(ctx context.Context, link Secret) (ConsentPage, error) {
	consent, err := s.byLink(ctx, link)
	if err != nil {
		return ConsentPage{}, err
	}
	connector, ok := s.connectorsOf(ctx, consent.Tenant).Connector(consent.Connector)
	if !ok {
		return ConsentPage{}, errNoConsent()
	}
	client, ok := s.cfg.Client(consent.Client)
	if !ok {
		return ConsentPage{}, errNoConsent()
	}
	if err := s.mayConsent(ctx, consent); err != nil {
		return ConsentPage{}, err
	}
	page := ConsentPage{
		ConsentID: consent.ID, ClientID: client.ID, ClientName: client.Name, Origins: client.Origins, Connector: connector, Renewal: consent.Connection != "",
		Binding: consent.Binding, Status: consent.Status, Expires: consent.CreatedAt.Add(LinkLife),
	}
	if consent.Connection != "" {
		conn, err := s.reread(ctx, Connection{Tenant: consent.Tenant, ID: consent.Connection})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return ConsentPage{}, storeError("read the connection", err)
		}
		if conn.Account != (Account{}) {
			page.Account = &conn.Account
		}
	}
	for _, info := range connector.Scopes {
		if consent.Scopes.Has(info.Name) {
			page.Scopes = append(page.Scopes, PageScope{ScopeInfo: info, New: page.Renewal && consent.Added.Has(info.Name)})
		}
	}
	if len(page.Scopes) == 0 && connector.Whole != nil {
		page.Scopes = append(page.Scopes, PageScope{ScopeInfo: *connector.Whole})
	}
	return page, nil
}

// byLink finds the consent of a link that can still be used.
func (s *Service) byLink(ctx context.Context, link Secret) (Consent, error) {
	id, ok := consentIDOf(link)
	if !ok {
		return Consent{}, errNoConsent()
	}
	consent, err := s.loadConsent(ctx, id)
	if err != nil {
		return Consent{}, err
	}
	alive := s.cfg.Now().Before(consent.CreatedAt.Add(LinkLife)) && (consent.Status == ConsentPending || consent.Status == ConsentStarted)
	if !link.Equal(consent.Link) || !alive {
		return Consent{}, errNoConsent()
	}
	return consent, nil
}

// StartConsent binds the consent to this browser and makes the authorization request. The same browser may start again
// (the back button): the earlier state is void then. Another browser may not.
func (s *Service) StartConsent(ctx context.Context, link Secret, cookie func(name string) Secret) (Start, error) {
	consent, err := s.byLink(ctx, link)
	if err != nil {
		return Start{}, err
	}
	browser, err := s.ids().secret(32)
	if err != nil {
		return Start{}, serverError(err)
	}
	if consent.Status == ConsentStarted {
		if !cookie(cookieName(consent.ID)).MatchesDigest(consent.BrowserDigest) {
			return Start{}, s.strangeBrowser(ctx, consent, "a second browser tried to start it",
				Errorf(CodeAccessDenied, "this link was already opened in another browser; ask for a new one in the chat"))
		}
		if s.cfg.Now().Before(consent.BusyUntil) {
			return Start{}, Errorf(CodeSlowDown, "this consent is being finished in another window")
		}
	}
	if err := s.mayConsent(ctx, consent); err != nil {
		return Start{}, s.disabled(ctx, consent, "started", err)
	}
	if !s.mayStart(consent.ID) {
		// Over, and not just refused: a link that is pending is handed out again to who asks for a new one.
		if _, err := s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, "too_many_attempts", "it was started too often"); err != nil {
			return Start{}, err
		}
		return Start{}, errNoConsent()
	}
	abandoned := consent.Provisional // of a callback that was cut off behind its exchange
	consent.Provisional, consent.Account, consent.Identified, consent.BusyUntil = nil, Account{}, false, time.Time{}
	consent.Status, consent.Deadline = ConsentStarted, s.cfg.Now().UTC().Add(FlowLife)
	consent.BrowserDigest = browser.Digest()
	next, age := s.toProvider, FlowLife+ProvisionalLife
	if consent.Binding == BindingLogin {
		next, age = func(ctx context.Context, c Consent) (Consent, Secret, error) { return s.toLogin(ctx, c, browser) }, 2*FlowLife+ProvisionalLife
	}
	consent, location, err := next(ctx, consent)
	if err != nil {
		return Start{}, err
	}
	target, err := url.Parse(location.Reveal())
	if err != nil {
		return Start{}, serverError(errors.New("the authorization URL is not a URL"))
	}
	entry, err := s.consentEntry(ctx, consent, EventConsentStarted, consent.Scopes, "ok", "")
	if err != nil {
		return Start{}, serverError(err)
	}
	// A crash after this write leaves a started consent whose state nobody has: the link works again in no browser, and
	// the chat hands out a new one.
	write := consentWrite{consent: consent, entries: []Entry{entry}, until: s.untilEnd(ctx), made: func(now Consent) bool { return now.BrowserDigest == consent.BrowserDigest }}
	if _, err := s.insistOn(ctx, write); err != nil {
		if errors.Is(err, ErrConflict) {
			return Start{}, Errorf(CodeAccessDenied, "this link is being opened in another window; go on there, or ask for a new one in the chat")
		}
		return Start{}, err
	}
	s.dropDetached(ctx, consent, abandoned)
	return Start{
		ConsentID: consent.ID, Location: location, Destination: target.Scheme + "://" + target.Host,
		CookieName: cookieName(consent.ID), Cookie: browser, MaxAge: age,
	}, nil
}

// toProvider gives the consent a new authorization request at its provider: what is to be stored, and where the browser goes.
func (s *Service) toProvider(ctx context.Context, consent Consent) (Consent, Secret, error) {
	state, err := s.ids().bound(consent.ID)
	if err != nil {
		return Consent{}, Secret{}, serverError(err)
	}
	verifier, err := s.ids().secret(32) // 32 octets, as RFC 7636 section 4.1 recommends
	if err != nil {
		return Consent{}, Secret{}, serverError(err)
	}
	upCtx, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	defer cancel()
	auth, err := s.cfg.Upstream.AuthorizationURL(upCtx, consent.Connector, AuthorizationRequest{
		RedirectURI: s.redirectURI(consent.Connector), State: state, Verifier: verifier, Scopes: consent.Scopes,
	})
	if err != nil {
		return Consent{}, Secret{}, s.upstreamFault(ctx, consent.Connector, err)
	}
	consent.StateDigest, consent.Verifier = state.Digest(), verifier
	consent.Fingerprint, consent.Issuer, consent.IssuerRequired = auth.Fingerprint, auth.Issuer, auth.IssuerRequired
	return consent, auth.URL, nil
}

// cookieName is the binding cookie of one consent, so that two consents in one browser do not disturb each other.
func cookieName(consentID string) string { return "tb-" + consentID }

// CancelConsent ends the consent from the page: the user said no before going to the provider.
//
// Once it was started, only the browser that did so may cancel it.
func (s *Service) CancelConsent(ctx context.Context, link Secret, cookie func(name string) Secret) (Finish, error) {
	consent, err := s.byLink(ctx, link)
	if err != nil {
		return Finish{}, err
	}
	if consent.Status == ConsentStarted && !cookie(cookieName(consent.ID)).MatchesDigest(consent.BrowserDigest) {
		return Finish{}, s.strangeBrowser(ctx, consent, "a second browser tried to cancel it",
			Errorf(CodeAccessDenied, "this link was already opened in another browser; cancel it there"))
	}
	if s.cfg.Now().Before(consent.BusyUntil) {
		return Finish{}, Errorf(CodeSlowDown, "this consent is being finished in another window")
	}
	return s.endFlow(ctx, consent, ConsentDenied, EventConsentDenied, "access_denied", "the user cancelled on the consent page")
}

// endFlow ends a consent that brought nothing, and tells the browser where to go. A grant that it held is revoked.
//
// Whoever does not hold the claim on the consent writes what it has read, or nothing: a grant that came in between must
// not be overwritten unseen. not_found: it moved on.
func (s *Service) endFlow(ctx context.Context, consent Consent, status ConsentStatus, t EventType, code, reason string) (Finish, error) {
	return s.endUnder(ctx, time.Time{}, consent, status, t, code, reason)
}

// endClaimed is endFlow for the holder of the claim.
func (s *Service) endClaimed(ctx context.Context, consent Consent, status ConsentStatus, code, reason string) (Finish, error) {
	return s.endUnder(ctx, consent.BusyUntil, consent, status, EventConsentFailed, code, reason)
}

func (s *Service) endUnder(ctx context.Context, claim time.Time, consent Consent, status ConsentStatus, t EventType, code, reason string) (Finish, error) {
	entry, err := s.consentEntry(ctx, consent, t, consent.Scopes, code, reason)
	if err != nil {
		return Finish{}, serverError(err)
	}
	ended, err := s.updateUnder(ctx, claim, finished(consent, status, code), entry)
	if errors.Is(err, ErrConflict) {
		return Finish{}, errNoConsent()
	}
	if err != nil {
		return Finish{}, err
	}
	if consent.Provisional != nil {
		s.dropConsent(context.WithoutCancel(ctx), consent, consent.Provisional)
	}
	return s.finishOf(ended), nil
}

// finished is the consent at its end, without anything that only a running one needs.
func finished(c Consent, status ConsentStatus, code string) Consent {
	c.Status, c.Error = status, code
	c.StateDigest, c.Verifier, c.ProviderCode, c.CompletionCode = "", Secret{}, Secret{}, Secret{}
	c.CallbackParams, c.Provisional, c.BusyUntil, c.Device, c.Login = nil, nil, time.Time{}, DeviceFlow{}, LoginRun{}
	c.Account = Account{} // the connection has it, if there is one; erasing that must erase it everywhere
	return c
}

// FinishConsent takes the provider's redirect. Everything is checked before the provider hears of the code: state (once),
// connector, browser, deadline and issuer. An absent value never matches.
func (s *Service) FinishConsent(ctx context.Context, cb Callback) (Finish, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.FinishConsent", cb.Connector)
	finish, err := s.finishConsent(ctx, cb)
	end(err)
	return finish, err
}

func (s *Service) finishConsent(ctx context.Context, cb Callback) (Finish, error) {
	id, ok := consentIDOf(cb.State)
	if !ok {
		return Finish{}, errBadState()
	}
	consent, err := s.loadConsent(ctx, id)
	if err != nil {
		if CodeOf(err) == CodeNotFound {
			return Finish{}, errBadState()
		}
		return Finish{}, err
	}
	// One redirect URI per connector, and the flow remembers which it began with: a code of one provider can't be carried
	// to another's token endpoint (RFC 9700 section 4.4.2).
	if consent.Status != ConsentStarted || !cb.State.MatchesDigest(consent.StateDigest) || consent.Connector != cb.Connector {
		return Finish{}, errBadState()
	}
	if !cb.Cookie(cookieName(consent.ID)).MatchesDigest(consent.BrowserDigest) {
		return Finish{}, s.strangeBrowser(ctx, consent, "the provider's answer came in another browser than the consent was started in",
			Errorf(CodeAccessDenied, "this consent was started in another browser; finish it there"))
	}
	if !s.cfg.Now().Before(consent.Deadline) {
		return Finish{}, errBadState()
	}
	if consent.Binding == BindingLogin && !consent.Login.proves(consent.BrowserDigest, s.cfg.Now()) {
		return Finish{}, errBadState() // not the start that the sign-in was for, or too long ago
	}
	if (consent.IssuerRequired && !cb.HasIssuer) || (cb.HasIssuer && consent.Issuer != "" && cb.Issuer != consent.Issuer) {
		if _, err := s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, "issuer_mismatch", "the answer names another issuer than the provider's, or none (RFC 9207)"); err != nil {
			return Finish{}, err
		}
		return Finish{}, Errorf(CodeInvalidRequest, "this answer does not come from the provider that was asked; start again from the chat")
	}
	if err := s.mayConsent(ctx, consent); err != nil {
		return Finish{}, s.disabled(ctx, consent, "brought back by the browser", err)
	}
	if cb.Error != "" {
		return s.providerError(ctx, consent, cb.Error)
	}
	if err := s.cfg.Upstream.VerifyCallback(consent.Connector, cb.all()); err != nil {
		s.cfg.Log.WarnContext(ctx, "a provider's callback is not what it has to be", "connector", consent.Connector, "error", err)
		if _, err := s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, "callback_mismatch", "the answer lacks the provider's signature, or is about another account"); err != nil {
			return Finish{}, err
		}
		return Finish{}, Errorf(CodeInvalidRequest, "this answer is not the one that the provider was asked for; start again from the chat")
	}
	if cb.Code.IsZero() {
		return Finish{}, Errorf(CodeInvalidRequest, "the provider's answer holds neither a code nor an error; start again from the chat")
	}
	switch consent.Binding {
	case BindingReturn:
		return s.awaitReturn(ctx, consent, cb)
	case BindingLogin:
		return s.connectSignedIn(ctx, consent, cb)
	}
	return s.exchangeProvisionally(ctx, consent, cb)
}

func errBadState() *Error {
	return Errorf(CodeInvalidRequest, "this answer belongs to no consent that is under way, or was used already; start again from the chat")
}

// providerError ends the flow on an error answer (RFC 6749 section 4.1.2.1). Its text is never shown or kept.
func (s *Service) providerError(ctx context.Context, consent Consent, code string) (Finish, error) {
	if slices.Contains(s.connector(consent.Connector).DeniedCodes, code) {
		code = "access_denied"
	}
	switch code {
	case "access_denied", "user_denied", "user_cancelled_login", "user_cancelled_authorize", "consent_required", "interaction_required", "login_required":
		return s.endFlow(ctx, consent, ConsentDenied, EventConsentDenied, "access_denied", "the user refused at the provider")
	case "server_error", "temporarily_unavailable":
		return s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, string(CodeProviderUnavailable), "the provider failed")
	}
	// No alarm: whoever has the link can write this answer.
	s.cfg.Log.WarnContext(ctx, "the provider refused the authorization request, if the browser tells the truth: check the connector's client_id, redirect URI and scopes", "connector", consent.Connector)
	return s.endFlow(ctx, consent, ConsentFailed, EventConsentFailed, string(CodeProviderMisconfigured), "the provider refused the authorization request")
}

// awaitReturn keeps the provider's code unexchanged, and sends the browser back to the client, which knows who is logged
// in there. Only its completing call redeems the code. The write uses up the state: one of many callbacks wins.
func (s *Service) awaitReturn(ctx context.Context, consent Consent, cb Callback) (Finish, error) {
	code, err := s.ids().secret(32)
	if err != nil {
		return Finish{}, serverError(err)
	}
	consent.Status, consent.Deadline = ConsentAwaitingCompletion, s.cfg.Now().UTC().Add(ReturnCodeLife)
	consent.StateDigest, consent.ProviderCode, consent.CallbackParams, consent.CompletionCode = "", cb.Code, cb.Params, code
	stored, err := s.insistOn(ctx, consentWrite{consent: consent, until: s.untilEnd(ctx), made: func(now Consent) bool { return code.Equal(now.CompletionCode) }})
	if errors.Is(err, ErrConflict) {
		return Finish{}, errBadState()
	}
	if err != nil {
		return Finish{}, err
	}
	return s.finishOf(stored), nil
}

// FinishedConsent shows a consent that went through its callback again, to the browser that it is bound to.
func (s *Service) FinishedConsent(ctx context.Context, id string, cookie func(name string) Secret) (Finish, error) {
	consent, err := s.loadConsent(ctx, id)
	if err != nil {
		return Finish{}, err
	}
	if !cookie(cookieName(consent.ID)).MatchesDigest(consent.BrowserDigest) {
		return Finish{}, errNoConsent()
	}
	finish := s.finishOf(consent)
	if account, err := s.accountOf(ctx, consent); err != nil {
		return Finish{}, err
	} else if account != (Account{}) {
		finish.Account = &account
	}
	if finish.Previous, err = s.previousAccount(ctx, consent); err != nil {
		return Finish{}, err
	}
	if consent.Binding == BindingReturn || consent.Binding == BindingLogin {
		finish.Location = Secret{} // it was given once, to the callback
	}
	return finish, nil
}

// finishOf is what the browser gets to see of a consent that was through its callback.
func (s *Service) finishOf(c Consent) Finish {
	f := Finish{ConsentID: c.ID, Status: s.statusOf(c), Binding: c.Binding, Error: c.Error}
	if client, ok := s.cfg.Client(c.Client); ok {
		f.ClientID, f.ClientName, f.Origins = client.ID, client.Name, client.Origins
	}
	f.Connector, _ = s.cfg.Connectors.Connector(c.Connector)
	if c.Account != (Account{}) {
		account := c.Account
		f.Account = &account
	}
	if f.Status == ConsentAwaitingCompletion && c.Binding == BindingCode {
		f.UserCode = c.CompletionCode
	}
	if c.ReturnTo != "" && !f.Undecided() {
		f.Location = returnLocation(c)
	}
	return f
}

// returnLocation is return_to with the outcome.
func returnLocation(c Consent) Secret {
	var code Secret
	if c.Status == ConsentAwaitingCompletion {
		code = c.CompletionCode
	}
	return returnTo(c.ReturnTo, "consent", c.ID, code, c.Error, c.State)
}

// returnTo is a client's address with what came of it, in the terms of RFC 6749 section 4.1.2: a code or else an error. kind
// names the parameter of the id.
func returnTo(address, kind, id string, code Secret, failure, state string) Secret {
	target, err := url.Parse(address)
	if err != nil {
		return Secret{} // can't be: the configuration was checked
	}
	query := target.Query()
	query.Set(kind, id)
	if !code.IsZero() {
		query.Set("code", code.Reveal())
	} else if failure != "" {
		query.Set("error", failure)
	}
	if state != "" {
		query.Set("state", state)
	}
	target.RawQuery = query.Encode()
	return NewSecret(target.String())
}
