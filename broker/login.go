package broker

import (
	"context"
	"errors"
	"strings"
	"time"
)

// This file signs people in at their tenant's own OpenID Provider, to learn whether they are whom a client means by a subject. It
// knows nothing of what that is for: whoever needs it keeps a LoginRun in a record of its own, and goes
//
//	beginLogin ─▶ (the run is stored) ─▶ the browser signs in ─▶ FinishLogin finds the record by its state ─▶ checkLogin
//	   ─▶ (the used run is stored: of many callbacks one goes on) ─▶ redeemLogin ─▶ (the proven run is stored) ─▶ run.proves

// Logins speaks to the OpenID Providers of tenants, each named by the id of the client whose users it knows. Every method
// sends requests with a deadline of its own and the context's, follows no redirect, and repeats nothing. Errors are
// *UpstreamError, or ErrLoginRefused. Safe for concurrent use.
type Logins interface {
	// AuthorizationURL builds the authentication request (OpenID Connect Core section 3.1.2.1). It may ask for the provider's
	// metadata first.
	AuthorizationURL(ctx context.Context, client string, req LoginRequest) (Authorization, error)
	// Redeem redeems the code, once, and verifies the ID token that it gives in full (section 3.1.3.7): who signed in.
	// ErrLoginRefused: what came is no proof of anything.
	Redeem(ctx context.Context, client string, req LoginResponse) (Login, error)
}

// ErrLoginRefused: an OpenID Provider's answer holds no ID token that can be believed.
var ErrLoginRefused = errors.New("the sign-in gave no valid ID token")

// LoginRequest is one authentication request.
type LoginRequest struct {
	RedirectURI string
	State       Secret
	Nonce       Secret
	Verifier    Secret // PKCE; the URL carries its S256 challenge
	// Fresh: whoever is signed in there already must sign in again (prompt=login), so that another person can.
	Fresh bool
	// Silent: the provider shows nothing (prompt=none): it answers with who is signed in there, or that it would have to ask.
	Silent bool
}

// LoginResponse redeems a code.
type LoginResponse struct {
	RedirectURI string
	Code        Secret
	Nonce       Secret // that the ID token must carry
	Verifier    Secret
	Fingerprint string // Authorization.Fingerprint as the run began
}

// Login is who signed in.
type Login struct {
	Issuer string
	// Subject is the claim that the operator configured as the client's id of its users; never empty.
	Subject string
}

// LoginRun is one sign-in of one browser for one record, as that record keeps it: sealed, and with an end of life. The zero
// one stands for none.
type LoginRun struct {
	StateDigest string // empty once the state was used
	Browser     string // digest of the cookie of the browser that began it
	Nonce       Secret
	Verifier    Secret
	// Fingerprint, Issuer and IssuerRequired are as in Authorization.
	Fingerprint    string
	Issuer         string
	IssuerRequired bool
	// Until ends the run, and once it is Proven, the proof.
	Until  time.Time
	Proven bool
}

// LoginCallback is what the redirect of an OpenID Provider brought.
type LoginCallback struct {
	Client    string // from the path
	State     Secret
	Code      Secret
	Issuer    string // iss; empty when absent
	HasIssuer bool
	Error     string // the provider's error code; empty when absent
	// Cookie returns the browser's cookie of that name, or the zero Secret.
	Cookie func(name string) Secret
}

// LoginFinish is where a browser goes that signed in.
type LoginFinish struct {
	Location Secret // a provider's authorization URL; zero: Path counts
	Path     string // a page of ours
	// Visit: the sign-in was for "My connections", not for a consent. Also beside an error, as far as that is known.
	Visit bool
}

// loginPurpose tells by a state what kind of record it belongs to.
type loginPurpose string

const loginForConsent loginPurpose = "c"

// FinishLogin takes the redirect of a tenant's OpenID Provider. Errors are *Error; subject_mismatch: somebody else signed in
// than the one whom it is for.
func (s *Service) FinishLogin(ctx context.Context, cb LoginCallback) (LoginFinish, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.FinishLogin", "")
	finish, err := s.finishLogin(ctx, cb)
	end(err)
	return finish, err
}

func (s *Service) finishLogin(ctx context.Context, cb LoginCallback) (LoginFinish, error) {
	purpose, id, ok := loginRecordOf(cb.State)
	if !ok {
		return LoginFinish{}, errBadState()
	}
	switch purpose {
	case loginForConsent:
		return s.finishConsentLogin(ctx, id, cb)
	case loginForPortal:
		finish, err := s.finishPortalLogin(ctx, id, cb)
		finish.Visit = true
		return finish, err
	}
	return LoginFinish{}, errBadState()
}

// loginRecordOf is the purpose and the record that a state names; false if it can't be one of ours.
func loginRecordOf(state Secret) (loginPurpose, string, bool) {
	purpose, bound, _ := strings.Cut(state.Reveal(), ".") // no id has a dot in it
	id, ok := consentIDOf(NewSecret(bound))
	return loginPurpose(purpose), id, ok
}

// beginLogin begins a sign-in for the record of that id, in the browser with that cookie: what to keep, and where the browser
// goes. again: it did not go well before.
func (s *Service) beginLogin(ctx context.Context, client Client, purpose loginPurpose, id string, browser Secret, again bool) (LoginRun, Secret, error) {
	bound, err := s.ids().bound(id)
	if err != nil {
		return LoginRun{}, Secret{}, serverError(err)
	}
	return s.beginRun(ctx, s.partyOf(client), NewSecret(string(purpose)+"."+bound.Reveal()), browser, again)
}

// loginURI is the client's own redirect URI at its tenant's provider (RFC 9700 section 4.4.2).
func (s *Service) loginURI(client Client) string {
	return s.cfg.PublicURL + "/oauth2/login/" + client.ID
}

// partyOf is where the users of a client sign in.
func (s *Service) partyOf(client Client) loginParty {
	p := loginParty{whose: "a tenant's", setting: "under clients: login", client: client.ID, uri: s.loginURI(client)}
	if client.Login && s.cfg.Logins != nil {
		p.url = func(ctx context.Context, req LoginRequest) (Authorization, error) {
			return s.cfg.Logins.AuthorizationURL(ctx, client.ID, req)
		}
	}
	return p
}

// checkLogin tells whether a callback belongs to the run: state (once), browser and time. An absent value never matches.
// access_denied: it came in another browser.
func (s *Service) checkLogin(run LoginRun, cb LoginCallback, cookie string) error {
	switch {
	case !cb.State.MatchesDigest(run.StateDigest), run.Proven, !s.cfg.Now().Before(run.Until):
		return errBadState()
	case !cb.Cookie(cookie).MatchesDigest(run.Browser):
		return Errorf(CodeAccessDenied, "this sign-in was started in another browser; finish it there")
	}
	return nil
}

// redeemLogin goes from a callback that checkLogin let through to the proof that the person of that subject signed in. The
// caller has stored run.used() before: a code is sent once. subject_mismatch: somebody else signed in; login_failed: nobody did,
// or nothing shows who. Other errors say that it could not be done now.
func (s *Service) redeemLogin(ctx context.Context, client Client, run LoginRun, cb LoginCallback, subject string) (LoginRun, error) {
	party := s.partyOf(client)
	req, err := s.readAnswer(ctx, party, run, loginAnswer{Code: cb.Code, Issuer: cb.Issuer, HasIssuer: cb.HasIssuer, Error: cb.Error})
	if err != nil {
		return run, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	defer cancel()
	who, err := s.cfg.Logins.Redeem(ctx, client.ID, req)
	if err != nil {
		return run, s.loginFault(ctx, party, err)
	}
	// In constant time, though both are ids: whoever waits for the answer may have chosen one of them.
	if run.Issuer == "" || who.Issuer != run.Issuer || !NewSecret(who.Subject).Equal(NewSecret(subject)) {
		return run, Errorf(CodeSubjectMismatch, "the person who signed in is not the one whom this link was made for; nothing was connected")
	}
	run = run.used()
	run.Proven, run.Until = true, s.cfg.Now().UTC().Add(FlowLife)
	return run, nil
}

// used is the run without its state.
func (r LoginRun) used() LoginRun {
	r.StateDigest = ""
	return r
}

// proves tells whether the person proved who they are in that browser, and lately.
func (r LoginRun) proves(browser string, now time.Time) bool {
	return r.in(browser) && now.Before(r.Until)
}

// in tells whether the person proved who they are in that browser, however long ago.
func (r LoginRun) in(browser string) bool { return r.Proven && browser != "" && r.Browser == browser }
