package brokertest

import (
	"context"
	"net/url"
	"sync"
	"testing"

	"tokenbroker/broker"
)

// Issuer is that of OpenID.
const Issuer = "https://sso.acme.example"

// OpenID is the tenant's OpenID Provider of the harness: whoever redeems a code that it asked for is the one of that code.
type OpenID struct {
	mu sync.Mutex
	// Fail, if set, is what the next call of any method returns.
	Fail error
	// Issuer overrides that of the ID tokens.
	Issuer string
	// IssuerRequired: callbacks must carry iss.
	IssuerRequired bool
	// Requests are what was asked, Redeemed what was sent.
	Requests []broker.LoginRequest
	Redeemed []broker.LoginResponse
}

func (o *OpenID) failed() error {
	err := o.Fail
	o.Fail = nil
	return err
}

// AuthorizationURL is part of broker.Logins.
func (o *OpenID) AuthorizationURL(_ context.Context, client string, req broker.LoginRequest) (broker.Authorization, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.failed(); err != nil {
		return broker.Authorization{}, err
	}
	o.Requests = append(o.Requests, req)
	q := url.Values{"client_id": {client}, "state": {req.State.Reveal()}, "nonce": {req.Nonce.Reveal()}, "redirect_uri": {req.RedirectURI}}
	return broker.Authorization{
		URL: broker.NewSecret(Issuer + "/authorize?" + q.Encode()), Fingerprint: "sso of " + client, Issuer: Issuer, IssuerRequired: o.IssuerRequired,
	}, nil
}

// Redeem is part of broker.Logins: the code is the subject.
func (o *OpenID) Redeem(_ context.Context, client string, req broker.LoginResponse) (broker.Login, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.Redeemed = append(o.Redeemed, req)
	if err := o.failed(); err != nil {
		return broker.Login{}, err
	}
	if req.Fingerprint != "sso of "+client || req.Verifier.IsZero() || req.Nonce.IsZero() {
		return broker.Login{}, broker.ErrLoginRefused
	}
	who := broker.Login{Issuer: Issuer, Subject: req.Code.Reveal()}
	if o.Issuer != "" {
		who.Issuer = o.Issuer
	}
	return who, nil
}

// Browser is one browser: it keeps the cookies that it is given.
type Browser map[string]broker.Secret

// Cookie looks one up.
func (b Browser) Cookie(name string) broker.Secret { return b[name] }

// Open presses Continue on the page behind the link, and returns where the browser goes.
func (b Browser) Open(t testing.TB, s *broker.Service, link broker.ConsentLink) broker.Secret {
	t.Helper()
	start, err := s.StartConsent(context.Background(), LinkSecret(link), b.Cookie)
	if err != nil {
		t.Fatalf("start consent: %v", err)
	}
	b[start.CookieName] = start.Cookie
	return start.Location
}

// SignedIn is the callback that the tenant's OpenID Provider makes once that person has signed in.
func (b Browser) SignedIn(t testing.TB, location broker.Secret, who string) broker.LoginCallback {
	t.Helper()
	return broker.LoginCallback{
		Client: "chat", State: broker.NewSecret(Query(t, location, "state")), Code: broker.NewSecret(who), Cookie: b.Cookie,
	}
}

// Allowed is the callback of the connector's provider once the user has allowed it.
func (b Browser) Allowed(t testing.TB, connector string, location broker.Secret) broker.Callback {
	t.Helper()
	state := Query(t, location, "state")
	return broker.Callback{Connector: connector, State: broker.NewSecret(state), Code: broker.NewSecret("code-" + state), Cookie: b.Cookie}
}
