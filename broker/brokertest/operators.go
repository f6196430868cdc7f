package brokertest

import (
	"cmp"
	"context"
	"net/url"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
)

// OperatorsIssuer is that of Operators.
const OperatorsIssuer = "https://sso.operators.example"

// Operators are the operators' OpenID Provider of the harness, and the store of what a sign-in there needs: whoever redeems a code
// is the person of that code.
type Operators struct {
	mu sync.Mutex
	// People by their code.
	People map[string]broker.OperatorIdentity
	// Fail, if set, is what the next call at the provider returns, FailStore what every call of the store does.
	Fail, FailStore error
	// FailEpochs is what OperatorEpoch returns for an operator.
	FailEpochs     map[string]error
	IssuerRequired bool
	// EndsSessions: the provider has an end_session_endpoint.
	EndsSessions bool
	Redeemed     []broker.LoginResponse
	requests     map[string]broker.LoginRequest // by nonce

	runs   map[string]broker.OperatorRun
	epochs map[string]string
	list   map[string]broker.OperatorSession
}

// OperatorRoles are the roles of the harness.
func OperatorRoles() []broker.OperatorRole {
	return []broker.OperatorRole{
		{Group: "sre", OperatorGrant: broker.OperatorGrant{Role: broker.RoleOperator}},
		{Group: "support", OperatorGrant: broker.OperatorGrant{Role: broker.RoleViewer, Tenant: "acme"}},
		{Group: "sre", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAuditor, Tenant: "acme"}},
		{Group: "root", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAdmin}},
	}
}

// AuthorizationURL is part of broker.OperatorLogins.
func (o *Operators) AuthorizationURL(_ context.Context, req broker.LoginRequest) (broker.Authorization, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.failed(); err != nil {
		return broker.Authorization{}, err
	}
	if o.requests == nil {
		o.requests = map[string]broker.LoginRequest{}
	}
	o.requests[req.Nonce.Reveal()] = req
	q := url.Values{"state": {req.State.Reveal()}, "redirect_uri": {req.RedirectURI}}
	switch {
	case req.Silent:
		q.Set("prompt", "none")
	case req.Fresh:
		q.Set("prompt", "login")
	}
	return broker.Authorization{
		URL: broker.NewSecret(OperatorsIssuer + "/authorize?" + q.Encode()), Fingerprint: "operators", Issuer: OperatorsIssuer, IssuerRequired: o.IssuerRequired,
	}, nil
}

func (o *Operators) failed() error {
	err := o.Fail
	o.Fail = nil
	return err
}

// Redeem is part of broker.OperatorLogins.
func (o *Operators) Redeem(_ context.Context, req broker.LoginResponse) (broker.OperatorIdentity, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.Redeemed = append(o.Redeemed, req)
	if err := o.failed(); err != nil {
		return broker.OperatorIdentity{}, err
	}
	asked, ok := o.requests[req.Nonce.Reveal()]
	if !ok || !asked.Verifier.Equal(req.Verifier) || asked.RedirectURI != req.RedirectURI || req.Fingerprint != "operators" {
		return broker.OperatorIdentity{}, broker.ErrLoginRefused
	}
	who, ok := o.People[req.Code.Reveal()]
	if !ok {
		return broker.OperatorIdentity{}, &broker.UpstreamError{Class: broker.ClassGrantDead, What: "no such code"}
	}
	if who.Issuer == "" {
		who.Issuer = OperatorsIssuer
	}
	return who, nil
}

// LogoutURL is part of broker.OperatorLogins.
func (o *Operators) LogoutURL(_ context.Context, req broker.OperatorLogout) (broker.Secret, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.failed(); err != nil || !o.EndsSessions {
		return broker.Secret{}, err
	}
	q := url.Values{"state": {req.State.Reveal()}, "post_logout_redirect_uri": {req.RedirectURI}, "id_token_hint": {req.IDToken.Reveal()}}
	return broker.NewSecret(OperatorsIssuer + "/end?" + q.Encode()), nil
}

// CreateSignIn is part of broker.OperatorSignIns.
func (o *Operators) CreateSignIn(_ context.Context, state broker.Secret, run broker.OperatorRun) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.FailStore != nil {
		return o.FailStore
	}
	if o.runs == nil {
		o.runs = map[string]broker.OperatorRun{}
	}
	o.runs[state.Digest()] = run
	return nil
}

// SignIn is part of broker.OperatorSignIns.
func (o *Operators) SignIn(_ context.Context, state broker.Secret) (broker.OperatorRun, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	run, ok := o.runs[state.Digest()]
	switch {
	case o.FailStore != nil:
		return broker.OperatorRun{}, o.FailStore
	case !ok || !time.Now().Before(run.Until):
		return broker.OperatorRun{}, broker.ErrNotFound
	}
	return run, nil
}

// UseSignIn is part of broker.OperatorSignIns.
func (o *Operators) UseSignIn(_ context.Context, state broker.Secret) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.FailStore != nil {
		return o.FailStore
	}
	if _, ok := o.runs[state.Digest()]; !ok {
		return broker.ErrNotFound
	}
	delete(o.runs, state.Digest())
	return nil
}

// OperatorEpoch is part of broker.OperatorEpochs.
func (o *Operators) OperatorEpoch(_ context.Context, operator string) (string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.epochs[operator], cmp.Or(o.FailStore, o.FailEpochs[operator])
}

// SetOperatorEpoch is part of broker.OperatorEpochs.
func (o *Operators) SetOperatorEpoch(_ context.Context, operator, epoch string, _ time.Time) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.FailStore != nil {
		return o.FailStore
	}
	if o.epochs == nil {
		o.epochs = map[string]string{}
	}
	o.epochs[operator] = epoch
	return nil
}

// BeginAsOperator presses the button of the sign-in page, and returns the callback that the provider makes for that code.
func (b Browser) BeginAsOperator(t testing.TB, s *broker.Service, to, code string) broker.LoginCallback {
	t.Helper()
	start, err := s.BeginOperatorSignIn(t.Context(), to, false)
	if err != nil {
		t.Fatalf("begin the sign-in: %v", err)
	}
	b[start.CookieName] = start.Cookie
	return broker.LoginCallback{State: broker.NewSecret(Query(t, start.Location, "state")), Code: broker.NewSecret(code), Cookie: b.Cookie}
}
