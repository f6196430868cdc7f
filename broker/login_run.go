package broker

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// This file is what every sign-in at an OpenID Provider has in common, of a tenant's users (login.go) and of operators
// (operator_signin.go): how one begins, what of an answer is looked at before its code is sent, and what people see of a failure.

// loginParty is where somebody signs in.
type loginParty struct {
	whose   string // provider, in the log: "a tenant's"
	setting string // where the operator configured it: "under clients: login"
	client  string // of the API whose users sign in there; empty: operators do
	uri     string // our redirect URI there
	silent  bool   // LoginRequest.Silent
	// url is as Logins.AuthorizationURL; nil: the login is not configured any more.
	url func(ctx context.Context, req LoginRequest) (Authorization, error)
}

func (p loginParty) about(more ...any) []any {
	attrs := []any{slog.String("redirect_uri", p.uri)}
	if p.client != "" {
		attrs = append(attrs, slog.String("client", p.client))
	}
	return append(attrs, more...)
}

func (p loginParty) gone() error {
	return atLogin(misconfigured(errors.New("the login " + p.setting + " is not in the configuration any more")))
}

// beginRun begins a sign-in under that state, in the browser with that cookie: what to keep, and where the browser goes.
func (s *Service) beginRun(ctx context.Context, party loginParty, state, browser Secret, again bool) (LoginRun, Secret, error) {
	if party.url == nil {
		return LoginRun{}, Secret{}, party.gone()
	}
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
	auth, err := party.url(ctx, LoginRequest{RedirectURI: party.uri, State: state, Nonce: nonce, Verifier: verifier, Fresh: again, Silent: party.silent})
	if err != nil {
		return LoginRun{}, Secret{}, s.loginFault(ctx, party, err)
	}
	return LoginRun{
		StateDigest: state.Digest(), Browser: browser.Digest(), Nonce: nonce, Verifier: verifier,
		Fingerprint: auth.Fingerprint, Issuer: auth.Issuer, IssuerRequired: auth.IssuerRequired, Until: s.cfg.Now().UTC().Add(FlowLife),
	}, auth.URL, nil
}

// loginAnswer is what a callback says, of a run that it was found to belong to.
type loginAnswer struct {
	Code      Secret
	Issuer    string // iss; empty when absent
	HasIssuer bool
	Error     string // the provider's error code; empty when absent
}

// readAnswer goes from a callback to what redeems its code. login_failed: nobody signed in.
func (s *Service) readAnswer(ctx context.Context, party loginParty, run LoginRun, answer loginAnswer) (LoginResponse, error) {
	if (run.IssuerRequired && !answer.HasIssuer) || (answer.HasIssuer && answer.Issuer != run.Issuer) {
		return LoginResponse{}, Errorf(CodeLoginFailed, "this answer does not come from the provider that was asked; start again") // RFC 9207 section 2.4
	}
	if party.url == nil {
		return LoginResponse{}, party.gone()
	}
	switch answer.Error {
	case "":
	case "access_denied", "login_required", "interaction_required", "consent_required", "account_selection_required":
		return LoginResponse{}, Errorf(CodeLoginFailed, "the sign-in was given up; start again")
	case "server_error", "temporarily_unavailable":
		return LoginResponse{}, atLogin(unavailable(time.Second, errors.New("the OpenID Provider answered with "+answer.Error)))
	default:
		// No alarm: whoever began the sign-in can write this answer.
		s.cfg.Log.WarnContext(ctx, party.whose+" OpenID Provider refused the authentication request, if the browser tells the truth: check client_id, redirect URI and scopes "+party.setting, party.about()...)
		return LoginResponse{}, atLogin(misconfigured(errors.New("the OpenID Provider refused the authentication request")))
	}
	if answer.Code.IsZero() {
		return LoginResponse{}, Errorf(CodeLoginFailed, "the answer holds neither a code nor an error; start again")
	}
	return LoginResponse{RedirectURI: party.uri, Code: answer.Code, Nonce: run.Nonce, Verifier: run.Verifier, Fingerprint: run.Fingerprint}, nil
}

// loginFault is what people see of a failure at a tenant's provider.
func (s *Service) loginFault(ctx context.Context, party loginParty, cause error) *Error {
	switch class := ClassOf(cause); {
	case errors.Is(cause, ErrLoginRefused):
		s.cfg.Log.WarnContext(ctx, "a sign-in at "+party.whose+" OpenID Provider proved nothing", party.about("error", cause)...)
		return Errorf(CodeLoginFailed, "the sign-in could not be verified; start again").Because(cause)
	case class == ClassClientRefused, class == ClassRefused:
		s.cfg.Log.ErrorContext(ctx, party.whose+" OpenID Provider refuses our client or request: see error; check issuer, client_id, client_secret and the redirect URI "+party.setting, party.about("error", cause)...)
		return atLogin(misconfigured(cause))
	case class == ClassGrantDead:
		return Errorf(CodeLoginFailed, "the sign-in took too long or was used already; start again").Because(cause)
	}
	s.cfg.Log.WarnContext(ctx, party.whose+" OpenID Provider failed", party.about("error", cause)...)
	return atLogin(unavailable(max(time.Second, retryAfter(cause)), cause))
}

// atLogin says whose failure it is, so that nobody goes looking at the provider of a connector.
func atLogin(e *Error) *Error {
	e.AtLogin = true
	return e
}
