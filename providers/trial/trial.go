// Package trial tries a connector at its live provider and says what the provider really did, beside what the definition
// says: that is how a fact that nobody verified becomes one that somebody did.
//
// It spends what it is given: a refresh token is used twice on purpose, and the grants are revoked at the end.
package trial

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// Config is one trial.
type Config struct {
	Upstream   broker.Upstream
	Connector  broker.Connector
	Definition *providers.Definition // with its defaults: Registry.Definition
	// RedirectURI must be registered at the provider.
	RedirectURI string
	Scopes      broker.ScopeSet
	// Consent sends somebody to the authorization endpoint and returns the query of the callback. why says what the run is for.
	Consent func(ctx context.Context, authorization broker.Secret, why string) (url.Values, error)
	// SkipPKCE leaves out the second consent, which finds out whether the provider checks the verifier.
	SkipPKCE bool
	Random   io.Reader
	Now      func() time.Time
	// Found is called with each finding as it comes.
	Found func(Finding)
}

// Verdict is what a finding means.
type Verdict string

// The verdicts.
const (
	Agrees  Verdict = "as stated"
	Differs Verdict = "DIFFERS"
	Failed  Verdict = "FAILED"
	Noted   Verdict = "" // the definition says nothing about it
	Unknown Verdict = "not known"
)

// Finding is one fact about the provider.
type Finding struct {
	Fact    string // in words
	Key     string // of the definition; empty: none
	Stated  string // by the definition
	Seen    string // at the provider
	Verdict Verdict
	Advice  string // what to do about it; empty: nothing
}

// attempt runs one trial and keeps what it learned so far.
type attempt struct {
	Config
	bad      bool
	answered bool
}

// Run runs the trial. It returns whether the connector works as its definition says; an error is about the trial itself
// (nobody consented, the network).
func Run(ctx context.Context, cfg Config) (fine bool, err error) {
	a := &attempt{Config: cfg}
	if err := a.client(ctx); err != nil {
		return false, err
	}
	grant, err := a.consent(ctx)
	if err != nil || grant == nil {
		return false, err
	}
	newest := a.refreshes(ctx, *grant)
	if newest.RefreshToken.IsZero() && newest.AccessToken.IsZero() {
		// The used refresh token ended it: whether it can be revoked takes another one.
		again, err := a.another(ctx, "once more, to see whether a grant can be revoked")
		if err != nil || again == nil {
			return false, err
		}
		newest = *again
	}
	a.revocation(ctx, newest)
	if !a.SkipPKCE && a.Definition.PKCE == "S256" {
		if err := a.pkce(ctx); err != nil {
			return false, err
		}
	}
	return !a.bad, nil
}

func (a *attempt) found(f Finding) {
	a.bad = a.bad || f.Verdict == Differs || f.Verdict == Failed
	a.Found(f)
}

// is compares a stated value with the one seen.
func is(stated, seen string) Verdict {
	if stated == seen {
		return Agrees
	}
	return Differs
}

func (a *attempt) secret(n int) (broker.Secret, error) {
	raw := make([]byte, n)
	if _, err := io.ReadFull(a.Random, raw); err != nil {
		return broker.Secret{}, fmt.Errorf("read randomness: %w", err)
	}
	return broker.NewSecret(base64.RawURLEncoding.EncodeToString(raw)), nil
}

// flow is one authorization request.
type flow struct {
	authorization   broker.Authorization
	state, verifier broker.Secret
}

func (a *attempt) begin(ctx context.Context) (flow, error) {
	var f flow
	var err error
	if f.state, err = a.secret(32); err != nil {
		return f, err
	}
	if f.verifier, err = a.secret(32); err != nil {
		return f, err
	}
	f.authorization, err = a.Upstream.AuthorizationURL(ctx, a.Connector.ID, broker.AuthorizationRequest{
		RedirectURI: a.RedirectURI, State: f.state, Verifier: f.verifier, Scopes: a.Scopes,
	})
	if err != nil {
		return f, fmt.Errorf("make the authorization request: %w", err)
	}
	return f, nil
}

// client finds out, before anybody is asked, whether the token endpoint knows the OAuth client: a made-up code must fail
// because of the code.
func (a *attempt) client(ctx context.Context) error {
	f, err := a.begin(ctx)
	if err != nil {
		return err
	}
	code, err := a.secret(24)
	if err != nil {
		return err
	}
	_, err = a.Upstream.Exchange(ctx, a.Connector.ID, broker.ExchangeRequest{
		RedirectURI: a.RedirectURI, Code: code, Verifier: f.verifier, Scopes: a.Scopes, Fingerprint: f.authorization.Fingerprint,
	})
	finding := Finding{Fact: "OAuth client at the token endpoint", Seen: "accepted", Verdict: Agrees}
	switch broker.ClassOf(err) {
	case broker.ClassGrantDead:
	case broker.ClassClientRefused:
		finding.Seen, finding.Verdict = inWords(err), Failed
		finding.Advice = "check client_id and client_secret, and how the provider wants them (token_endpoint_auth_method)"
	default:
		finding.Seen, finding.Verdict = "a made-up code met: "+inWords(err), Unknown
		if err == nil {
			finding.Seen = "it took a made-up code"
		}
	}
	a.found(finding)
	return nil
}

// callback reads and checks the answer of the browser; a nil one was reported.
func (a *attempt) callback(ctx context.Context, f flow, why string) (url.Values, error) {
	q, err := a.Consent(ctx, f.authorization.URL, why)
	if err != nil {
		return nil, err
	}
	fail := func(seen, advice string) (url.Values, error) {
		a.found(Finding{Fact: "authorization response", Seen: seen, Verdict: Failed, Advice: advice})
		return nil, nil
	}
	if !broker.NewSecret(q.Get("state")).Equal(f.state) {
		return fail("it belongs to another request: state differs", "start again, and use the address that this run printed")
	}
	if code := q.Get("error"); code != "" {
		return fail("the error "+quoted(code), "invalid_scope: check the scopes; access_denied: the user or a policy refused; else the connector's client_id and redirect URI")
	}
	params := map[string]broker.Secret{}
	for name := range q {
		params[name] = broker.NewSecret(q.Get(name))
	}
	if err := a.Upstream.VerifyCallback(a.Connector.ID, params); err != nil {
		return fail("not what the definition demands: "+inWords(err), "check callback_signature and callback_expect")
	}
	a.issuer(q, f)
	if q.Get("code") == "" {
		return fail("neither a code nor an error", "")
	}
	return q, nil
}

// issuer compares iss (RFC 9207), in the first answer.
func (a *attempt) issuer(q url.Values, f flow) {
	if a.answered {
		return
	}
	a.answered = true
	seen, stated := "no iss", "not demanded"
	if f.authorization.IssuerRequired {
		stated = "required"
	}
	verdict := Agrees
	if q.Has("iss") {
		seen = "iss is the issuer"
		if q.Get("iss") != f.authorization.Issuer {
			seen, verdict = "another iss than the definition's issuer", Differs
		}
	} else if f.authorization.IssuerRequired {
		verdict = Differs
	}
	a.found(Finding{Fact: "iss in the callback", Key: "authorization_response_iss", Stated: stated, Seen: seen, Verdict: verdict})
}

func (a *attempt) exchange(ctx context.Context, f flow, q url.Values, verifier broker.Secret) (broker.Grant, error) {
	params := map[string]string{}
	for name := range q {
		if name != "code" && name != "state" {
			params[name] = q.Get(name)
		}
	}
	return a.Upstream.Exchange(ctx, a.Connector.ID, broker.ExchangeRequest{
		RedirectURI: a.RedirectURI, Code: broker.NewSecret(q.Get("code")), Verifier: verifier, Scopes: a.Scopes,
		Fingerprint: f.authorization.Fingerprint, CallbackParams: params,
	})
}

// consent runs the flow once and reports what it brought; nil: it brought nothing, and that was reported.
func (a *attempt) consent(ctx context.Context) (*broker.Grant, error) {
	f, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	q, err := a.callback(ctx, f, "to try the connector")
	if err != nil || q == nil {
		return nil, err
	}
	grant, err := a.exchange(ctx, f, q, f.verifier)
	if err != nil {
		a.found(Finding{Fact: "exchange of the code", Seen: inWords(err), Verdict: Failed, Advice: "check client_secret, the redirect URI as it is registered, and pkce"})
		return nil, nil
	}
	a.found(Finding{Fact: "redirect URI and code", Seen: "accepted", Verdict: Agrees})
	a.granted(grant)
	identified, err := a.Upstream.Identify(ctx, a.Connector.ID, grant)
	finding := Finding{Fact: "account", Key: "userinfo", Seen: "has a stable id", Verdict: Agrees}
	switch {
	case err != nil:
		finding.Seen, finding.Verdict = "could not be looked up: "+inWords(err), Failed
	case identified.Account.ID == "":
		finding.Seen, finding.Verdict = "nothing names it", Differs
		finding.Advice = "without an account several of one user can't be told apart: see userinfo, id_token and token_response.account"
	}
	a.found(finding)
	return &identified, nil
}

// another runs the flow without a word about what it brings; nil: it brought nothing, and that was reported.
func (a *attempt) another(ctx context.Context, why string) (*broker.Grant, error) {
	f, err := a.begin(ctx)
	if err != nil {
		return nil, err
	}
	q, err := a.callback(ctx, f, why)
	if err != nil || q == nil {
		return nil, err
	}
	grant, err := a.exchange(ctx, f, q, f.verifier)
	if err != nil {
		a.found(Finding{Fact: "another consent", Seen: inWords(err), Verdict: Failed})
		return nil, nil
	}
	return &grant, nil
}

// granted reports scopes, life and refresh token of a fresh grant.
func (a *attempt) granted(grant broker.Grant) {
	finding := Finding{Fact: "scopes", Key: "token_response.scope", Stated: "asked for: " + a.Scopes.String(), Seen: "not reported", Verdict: Noted}
	if grant.ScopesReported {
		finding.Seen, finding.Verdict = grant.Scopes.String(), Agrees
		if missing := a.Scopes.Minus(grant.Scopes); !missing.Empty() {
			finding.Verdict, finding.Advice = Differs, "not granted: "+missing.String()+"; unticked by whoever consented, spelled otherwise (scope_aliases), or not allowed for this client"
		}
	}
	a.found(finding)
	a.lifetime("life of the access token", grant)
	finding = Finding{Fact: "refresh token", Key: "offline_scopes", Seen: "there is one", Verdict: Agrees}
	if grant.RefreshToken.IsZero() {
		finding.Seen, finding.Verdict = "there is none", Differs
		finding.Advice = "without one the user must consent again when the access token ends: look at offline_scopes and authorization_params, and at the settings of the app"
	}
	a.found(finding)
}

func (a *attempt) lifetime(fact string, grant broker.Grant) {
	finding := Finding{Fact: fact, Key: "access_token_ttl", Seen: grant.Lifetime.Round(time.Second).String(), Verdict: Noted}
	switch {
	case grant.Never:
		finding.Seen, finding.Advice = "it never ends", "such tokens are not handed out (long_lived_token)"
	case grant.ExpiresAt.IsZero():
		finding.Seen = "not said"
	}
	if ttl := a.Definition.AccessTokenTTL; ttl > 0 {
		finding.Stated = (time.Duration(ttl) * time.Second).String() + " where the answer does not say"
	}
	a.found(finding)
}

// pkce runs a second consent and redeems its code with a wrong verifier: a provider that checks it refuses.
func (a *attempt) pkce(ctx context.Context) error {
	f, err := a.begin(ctx)
	if err != nil {
		return err
	}
	q, err := a.callback(ctx, f, "once more, to see whether the provider checks PKCE")
	if err != nil || q == nil {
		return err
	}
	wrong, err := a.secret(32)
	if err != nil {
		return err
	}
	grant, err := a.exchange(ctx, f, q, wrong)
	finding := Finding{Fact: "PKCE", Key: "pkce", Stated: "S256", Seen: "a wrong verifier is refused", Verdict: Agrees}
	switch {
	case err == nil:
		finding.Seen, finding.Verdict = "a wrong verifier passed: the challenge is ignored", Differs
		finding.Advice = "write down pkce: unknown, or ask the provider to switch it on for the app"
		_ = a.Upstream.Revoke(ctx, a.Connector.ID, broker.RevokeRequest{RefreshToken: grant.RefreshToken, AccessToken: grant.AccessToken, Vars: grant.Vars})
	case broker.ClassOf(err) == broker.ClassUnsent || broker.ClassOf(err) == broker.ClassThrottled || broker.ClassOf(err) == broker.ClassInDoubt:
		finding.Seen, finding.Verdict = inWords(err), Unknown
	}
	a.found(finding)
	return nil
}

// inWords is an upstream error without its chain: it never holds the provider's text.
func inWords(err error) string {
	if err == nil {
		return "no error"
	}
	var upstream *broker.UpstreamError
	if errors.As(err, &upstream) {
		return upstream.Error()
	}
	return err.Error()
}

// quoted keeps what came from outside to what an error code may look like (RFC 6749 section 4.1.2.1).
func quoted(code string) string {
	safe := make([]rune, 0, 64)
	for _, r := range code {
		if len(safe) == 64 {
			break
		}
		if r < 0x20 || r > 0x7e {
			r = '?'
		}
		safe = append(safe, r)
	}
	return string(safe)
}
