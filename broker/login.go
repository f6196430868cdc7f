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
	if !client.Login || s.cfg.Logins == nil {
		return LoginRun{}, Secret{}, atLogin(misconfigured(errors.New("the client has no login in the configuration any more")))
	}
	bound, err := s.ids().bound(id)
	if err != nil {
		return LoginRun{}, Secret{}, serverError(err)
	}
	state := NewSecret(string(purpose) + "." + bound.Reveal())
	nonce, err := s.ids().secret(secretBytes)
	if err != nil {
		return LoginRun{}, Secret{}, serverError(err)
	}
	verifier, err := s.ids().secret(32) // 32 octets, as RFC 7636 section 4.1 recommends
	if err != nil {
		return LoginRun{}, Secret{}, serverError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	defer cancel()
	auth, err := s.cfg.Logins.AuthorizationURL(ctx, client.ID, LoginRequest{
		RedirectURI: s.loginURI(client), State: state, Nonce: nonce, Verifier: verifier, Fresh: again,
	})
	if err != nil {
		return LoginRun{}, Secret{}, s.loginFault(ctx, client, err)
	}
	return LoginRun{
		StateDigest: state.Digest(), Browser: browser.Digest(), Nonce: nonce, Verifier: verifier,
		Fingerprint: auth.Fingerprint, Issuer: auth.Issuer, IssuerRequired: auth.IssuerRequired, Until: s.cfg.Now().UTC().Add(FlowLife),
	}, auth.URL, nil
}

// loginURI is the client's own redirect URI at its tenant's provider (RFC 9700 section 4.4.2).
func (s *Service) loginURI(client Client) string {
	return s.cfg.PublicURL + "/oauth2/login/" + client.ID
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
	if (run.IssuerRequired && !cb.HasIssuer) || (cb.HasIssuer && cb.Issuer != run.Issuer) {
		return run, Errorf(CodeLoginFailed, "this answer does not come from the provider that was asked; start again") // RFC 9207 section 2.4
	}
	if !client.Login || s.cfg.Logins == nil {
		return run, atLogin(misconfigured(errors.New("the client has no login in the configuration any more")))
	}
	switch cb.Error {
	case "":
	case "access_denied", "login_required", "interaction_required", "consent_required", "account_selection_required":
		return run, Errorf(CodeLoginFailed, "the sign-in was given up; start again")
	case "server_error", "temporarily_unavailable":
		return run, atLogin(unavailable(time.Second, errors.New("the OpenID Provider answered with "+cb.Error)))
	default:
		// No alarm: whoever has the link can write this answer.
		s.cfg.Log.WarnContext(ctx, "a tenant's OpenID Provider refused the authentication request, if the browser tells the truth: check client_id, redirect URI and scopes under clients: login",
			"client", client.ID, "redirect_uri", s.loginURI(client))
		return run, atLogin(misconfigured(errors.New("the OpenID Provider refused the authentication request")))
	}
	if cb.Code.IsZero() {
		return run, Errorf(CodeLoginFailed, "the answer holds neither a code nor an error; start again")
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.UpstreamTimeout)
	defer cancel()
	who, err := s.cfg.Logins.Redeem(ctx, client.ID, LoginResponse{
		RedirectURI: s.loginURI(client), Code: cb.Code, Nonce: run.Nonce, Verifier: run.Verifier, Fingerprint: run.Fingerprint,
	})
	if err != nil {
		return run, s.loginFault(ctx, client, err)
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

// loginFault is what people see of a failure at a tenant's provider.
func (s *Service) loginFault(ctx context.Context, client Client, cause error) *Error {
	switch class := ClassOf(cause); {
	case errors.Is(cause, ErrLoginRefused):
		s.cfg.Log.WarnContext(ctx, "a sign-in at a tenant's OpenID Provider proved nothing", "client", client.ID, "error", cause)
		return Errorf(CodeLoginFailed, "the sign-in could not be verified; start again").Because(cause)
	case class == ClassClientRefused, class == ClassRefused:
		s.cfg.Log.ErrorContext(ctx, "a tenant's OpenID Provider refuses our client or request: see error; check issuer, client_id, client_secret and the redirect URI under clients: login",
			"client", client.ID, "redirect_uri", s.loginURI(client), "error", cause)
		return atLogin(misconfigured(cause))
	case class == ClassGrantDead:
		return Errorf(CodeLoginFailed, "the sign-in took too long or was used already; start again").Because(cause)
	}
	s.cfg.Log.WarnContext(ctx, "a tenant's OpenID Provider failed", "client", client.ID, "error", cause)
	return atLogin(unavailable(max(time.Second, retryAfter(cause)), cause))
}

// atLogin says whose failure it is, so that nobody goes looking at the provider of a connector.
func atLogin(e *Error) *Error {
	e.AtLogin = true
	return e
}
