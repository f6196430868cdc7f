package broker_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// withLogin is a harness whose client's users sign in at their organisation.
func withLogin(t *testing.T, replicas int) *brokertest.Harness {
	h := brokertest.New(t, replicas)
	h.Client.Login = true
	return h
}

// signIn opens the link, signs in as that person, and returns where the browser goes then.
func signIn(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.ConsentLink, who string) (broker.Secret, error) {
	t.Helper()
	finish, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, b.Open(t, h.Service, link), who))
	return finish.Location, err
}

// throughLogin is a whole consent with a sign-in.
func throughLogin(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.ConsentLink, who string) broker.Finish {
	t.Helper()
	location, err := signIn(t, h, b, link, who)
	if err != nil {
		t.Fatalf("sign in: %v", err)
	}
	finish, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", location))
	if err != nil {
		t.Fatalf("finish consent: %v", err)
	}
	return finish
}

func TestLoginCompletesTheConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		view, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice", ReturnTo: "https://chat.example/done", State: "s&1"})
		if err != nil || view.Binding != broker.BindingLogin || link.Binding != broker.BindingLogin {
			t.Fatalf("%+v, %v", view, err)
		}
		b := brokertest.Browser{}
		location := b.Open(t, h.Service, link)
		if got := brokertest.Query(t, location, "redirect_uri"); got != "https://broker.example/oauth2/login/chat" {
			t.Errorf("redirect_uri %q", got)
		}
		login := b.SignedIn(t, location, "alice")
		to, err := h.Service.FinishLogin(t.Context(), login)
		if err != nil {
			t.Fatal(err)
		}
		if h.Provider.Exchanges != 0 || brokertest.Query(t, to.Location, "state") == brokertest.Query(t, location, "state") {
			t.Error("the provider's request is not one of its own")
		}
		if sent := h.OpenID.Redeemed[0]; !sent.Verifier.Equal(h.OpenID.Requests[0].Verifier) || !sent.Nonce.Equal(h.OpenID.Requests[0].Nonce) {
			t.Error("the code was not redeemed with what it was asked for with")
		}
		finish, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to.Location))
		if err != nil || finish.Status != broker.ConsentCompleted {
			t.Fatalf("%+v, %v", finish, err)
		}
		if got, want := finish.Location.Reveal(), "https://chat.example/done?consent="+link.ID+"&state=s%261"; got != want {
			t.Errorf("goes to %q, want %q: no code is in it, for nobody has to bring one", got, want)
		}
		if token, err := h.Token("alice"); err != nil || token.Account.Name != "Alice" {
			t.Errorf("no token for the one who signed in: %v", err)
		}
		if len(h.Store.Entries(broker.EventConsentSignedIn)) != 1 || len(h.Store.Entries(broker.EventConsentCompleted)) != 1 {
			t.Error("events are missing")
		}
		again, err := h.Service.FinishedConsent(t.Context(), link.ID, b.Cookie)
		if err != nil || again.Status != broker.ConsentCompleted || !again.Location.IsZero() || again.Account == nil {
			t.Errorf("shown again: %+v, %v", again, err)
		}
		// What was used is used.
		if _, err := h.Service.FinishLogin(t.Context(), login); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the sign-in's answer again: %v", err)
		}
		if _, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to.Location)); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the provider's answer again: %v", err)
		}
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: broker.NewSecret("x")})
		if broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("a completing call: %v", err)
		}
	})
}

// Threat 3: the link was made for mallory, and the victim, who is signed in at the organisation, opens it.
func TestThreat3ForwardedLinkWithLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "mallory"})
		victim := brokertest.Browser{}
		to, err := signIn(t, h, victim, link, "victim")
		if broker.CodeOf(err) != broker.CodeSubjectMismatch || !to.IsZero() {
			t.Fatalf("the victim goes on: %v", err)
		}
		if h.Provider.Exchanges != 0 {
			t.Error("the provider was asked")
		}
		entries := h.Store.Entries(broker.EventConsentFailed)
		if len(entries) != 1 || entries[0].Outcome != "subject_mismatch" || len(entries[0].Scopes) == 0 {
			t.Errorf("events %+v", entries)
		}
		if v := status(t, h, link.ID); v.Status != broker.ConsentPending {
			t.Errorf("status %s: the right person can't go on", v.Status)
		}
		// The next one to try has to sign in anew: this browser may be shared.
		right := brokertest.Browser{}
		if finish := throughLogin(t, h, right, link, "mallory"); finish.Status != broker.ConsentCompleted {
			t.Errorf("the right person ends at %s", finish.Status)
		}
		if h.OpenID.Requests[0].Fresh || !h.OpenID.Requests[1].Fresh {
			t.Error("after a wrong person the sign-in must be a fresh one, and only then")
		}
		wantNoToken(t, h, "victim")
	})
}

func TestFiveWrongPeopleEndTheConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		for i := range broker.MaxCodeAttempts {
			if v := status(t, h, link.ID); v.Status != broker.ConsentPending {
				t.Fatalf("after %d wrong people: %s", i, v.Status)
			}
			if _, err := signIn(t, h, brokertest.Browser{}, link, "bob"); broker.CodeOf(err) != broker.CodeSubjectMismatch {
				t.Fatal(err)
			}
		}
		if v := status(t, h, link.ID); v.Status != broker.ConsentFailed || v.Error != "too_many_attempts" {
			t.Errorf("after five: %+v", v)
		}
	})
}

// Each of these callbacks is refused, asks nobody, and leaves the sign-in to the browser that it belongs to.
func TestLoginCallbacksThatDontBelong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		b := brokertest.Browser{}
		location := b.Open(t, h.Service, link)
		state := brokertest.Query(t, location, "state")
		for name, spoil := range map[string]func(*broker.LoginCallback){
			"no state":        func(cb *broker.LoginCallback) { cb.State = broker.Secret{} },
			"half a state":    func(cb *broker.LoginCallback) { cb.State = broker.NewSecret(state[:len(state)-2]) },
			"other purpose":   func(cb *broker.LoginCallback) { cb.State = broker.NewSecret("x" + state[1:]) },
			"without purpose": func(cb *broker.LoginCallback) { cb.State = broker.NewSecret(state[2:]) },
			"another client":  func(cb *broker.LoginCallback) { cb.Client = "chat2" },
			"another browser": func(cb *broker.LoginCallback) { cb.Cookie = noCookie },
			"a cookie of none": func(cb *broker.LoginCallback) {
				cb.Cookie = func(string) broker.Secret { return broker.NewSecret("x") }
			},
		} {
			cb := b.SignedIn(t, location, "alice")
			spoil(&cb)
			_, err := h.Service.FinishLogin(t.Context(), cb)
			want := broker.CodeInvalidRequest
			if name == "another browser" || name == "a cookie of none" {
				want = broker.CodeAccessDenied
			}
			if broker.CodeOf(err) != want {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(h.OpenID.Redeemed) != 0 {
			t.Error("a code was redeemed")
		}
		// The state of the sign-in opens nothing at the provider's callback, and the other way round.
		if _, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", location)); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the sign-in's state at the provider's callback: %v", err)
		}
		to, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, location, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, to.Location, "alice")); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the provider's state at the sign-in's callback: %v", err)
		}
		// Threat 2: what the person who signed in is sent to the provider with is no use in another browser.
		if _, err := h.Service.FinishConsent(t.Context(), brokertest.Browser{}.Allowed(t, "files", to.Location)); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("another browser at the provider's callback: %v", err)
		}
		if h.Provider.Exchanges != 0 {
			t.Error("a code of the provider was redeemed")
		}
	})
}

// What goes wrong at the organisation costs another press on Continue; what looks like an attack counts.
func TestLoginFailures(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(*brokertest.Harness, *broker.LoginCallback)
		want  broker.Code
		count bool
	}{
		"given up": {func(_ *brokertest.Harness, cb *broker.LoginCallback) {
			cb.Error, cb.Code = "access_denied", broker.Secret{}
		}, broker.CodeLoginFailed, true},
		"provider down": {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Error = "server_error" }, broker.CodeProviderUnavailable, false},
		"misconfigured": {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Error = "invalid_scope" }, broker.CodeProviderMisconfigured, false},
		"no code":       {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Code = broker.Secret{} }, broker.CodeLoginFailed, true},
		"forged token":  {func(h *brokertest.Harness, _ *broker.LoginCallback) { h.OpenID.Fail = broker.ErrLoginRefused }, broker.CodeLoginFailed, true},
		"no answer": {func(h *brokertest.Harness, _ *broker.LoginCallback) {
			h.OpenID.Fail = &broker.UpstreamError{Class: broker.ClassInDoubt}
		}, broker.CodeProviderUnavailable, false},
		"client refused": {func(h *brokertest.Harness, _ *broker.LoginCallback) {
			h.OpenID.Fail = &broker.UpstreamError{Class: broker.ClassClientRefused}
		}, broker.CodeProviderMisconfigured, false},
		"code is dead": {func(h *brokertest.Harness, _ *broker.LoginCallback) {
			h.OpenID.Fail = &broker.UpstreamError{Class: broker.ClassGrantDead}
		}, broker.CodeLoginFailed, true},
		"another issuer": {func(_ *brokertest.Harness, cb *broker.LoginCallback) {
			cb.Issuer, cb.HasIssuer = "https://evil.example", true
		}, broker.CodeLoginFailed, true},
		"issuer is empty":         {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.HasIssuer = true }, broker.CodeLoginFailed, true},
		"issuer is gone":          {func(h *brokertest.Harness, _ *broker.LoginCallback) {}, broker.CodeLoginFailed, true}, // IssuerRequired below
		"token of another issuer": {func(h *brokertest.Harness, _ *broker.LoginCallback) { h.OpenID.Issuer = "https://evil.example" }, broker.CodeSubjectMismatch, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := withLogin(t, 1)
				defer drain(t, h)
				h.OpenID.IssuerRequired = name == "issuer is gone"
				link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
				b := brokertest.Browser{}
				cb := b.SignedIn(t, b.Open(t, h.Service, link), "alice")
				tt.spoil(h, &cb)
				to, err := h.Service.FinishLogin(t.Context(), cb)
				if broker.CodeOf(err) != tt.want || to.Visit {
					t.Fatalf("got %+v, %v, want %s", to, err, tt.want)
				}
				theirs := tt.want == broker.CodeProviderUnavailable || tt.want == broker.CodeProviderMisconfigured
				if e := new(broker.Error); !errors.As(err, &e) || e.AtLogin != theirs {
					t.Errorf("the page takes %v for a failure of the tenant's own provider: %v", err, !theirs)
				}
				if v := status(t, h, link.ID); v.Status != broker.ConsentPending {
					t.Errorf("status %s", v.Status)
				}
				if _, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, broker.NewSecret("https://x/?state="+cb.State.Reveal()), "alice")); broker.CodeOf(err) != broker.CodeInvalidRequest {
					t.Errorf("the state works again: %v", err)
				}
				h.OpenID.Issuer, h.OpenID.IssuerRequired = "", false
				finish := throughLogin(t, h, b, link, "alice")
				if finish.Status != broker.ConsentCompleted {
					t.Errorf("the next try ends at %s", finish.Status)
				}
				if fresh := h.OpenID.Requests[1].Fresh; fresh != tt.count {
					t.Errorf("counted %v, want %v", fresh, tt.count)
				}
			})
		})
	}
}

// A provider that fails before the browser is even sent there is told from the connector's.
func TestLoginFailsAtTheStart(t *testing.T) {
	for cause, want := range map[broker.Class]broker.Code{
		broker.ClassClientRefused: broker.CodeProviderMisconfigured, broker.ClassInDoubt: broker.CodeProviderUnavailable,
	} {
		in(t, func(t *testing.T, h *brokertest.Harness) {
			h.Client.Login = true
			consent, visit := newLink(t, h, broker.ConsentRequest{Subject: "alice"}), newPortal(t, h, "alice", "")
			h.OpenID.Fail = &broker.UpstreamError{Class: cause}
			_, err := h.Service.StartConsent(t.Context(), brokertest.LinkSecret(consent), noCookie)
			if e := new(broker.Error); !errors.As(err, &e) || e.Code != want || !e.AtLogin {
				t.Errorf("a consent: %v", err)
			}
			h.OpenID.Fail = &broker.UpstreamError{Class: cause}
			_, err = h.Service.StartPortal(t.Context(), brokertest.PortalSecret(visit), noCookie)
			if e := new(broker.Error); !errors.As(err, &e) || e.Code != want || !e.AtLogin {
				t.Errorf("a visit: %v", err)
			}
		})
	}
}

// The proof is of one start, in one browser, and short-lived.
func TestLoginProofEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		b := brokertest.Browser{}
		late := newLink(t, h, broker.ConsentRequest{Subject: "bob"})
		lateCallback := b.SignedIn(t, b.Open(t, h.Service, late), "bob")
		first := b.Open(t, h.Service, link)
		second := b.Open(t, h.Service, link) // the back button
		if _, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, first, "alice")); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("an earlier start's sign-in: %v", err)
		}
		to, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, second, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		b.Open(t, h.Service, link) // and back again, behind the sign-in
		if _, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to.Location)); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the proof outlived its start: %v", err)
		}
		last, err := signIn(t, h, b, link, "alice")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), noCookie); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("another browser took the consent over: %v", err)
		}
		time.Sleep(broker.FlowLife)
		if _, err := h.Service.FinishLogin(t.Context(), lateCallback); broker.CodeOf(err) != broker.CodeInvalidRequest || len(h.OpenID.Redeemed) != 2 {
			t.Errorf("a sign-in that took too long: %v", err)
		}
		if _, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", last)); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the proof lives on: %v", err)
		}
		if h.Provider.Exchanges != 0 {
			t.Error("a code was redeemed")
		}
		h.Service.Sweep(t.Context())
		if v := status(t, h, link.ID); v.Status != broker.ConsentExpired {
			t.Errorf("status %s", v.Status)
		}
	})
}

// Each step has its own ten minutes: who takes long to sign in has no less time at the provider.
func TestLoginLeavesTimeForTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		b := brokertest.Browser{}
		to := b.Open(t, h.Service, link)
		time.Sleep(broker.FlowLife - time.Second)
		next, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, to, "alice"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(broker.FlowLife - time.Second)
		h.Service.Sweep(t.Context())
		if finish, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", next.Location)); err != nil || finish.Status != broker.ConsentCompleted {
			t.Errorf("%+v, %v", finish, err)
		}
	})
}

// A proof that is not of this browser, or that is too old, does not count even where everything else fits.
func TestLoginProofIsCheckedAtTheProvidersCallback(t *testing.T) {
	for name, spoil := range map[string]func(*broker.Consent){
		"none":          func(c *broker.Consent) { c.Login = broker.LoginRun{} },
		"not proven":    func(c *broker.Consent) { c.Login.Proven = false },
		"other browser": func(c *broker.Consent) { c.Login.Browser = broker.NewSecret("other").Digest() },
		"too old":       func(c *broker.Consent) { c.Login.Until = time.Now() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := withLogin(t, 1)
				defer drain(t, h)
				link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
				b := brokertest.Browser{}
				to, err := signIn(t, h, b, link, "alice")
				if err != nil {
					t.Fatal(err)
				}
				c, err := h.Store.Consent(t.Context(), link.ID)
				if err != nil {
					t.Fatal(err)
				}
				spoil(&c)
				if _, err := h.Store.UpdateConsent(t.Context(), c, nil); err != nil {
					t.Fatal(err)
				}
				if _, err := h.Service.FinishConsent(t.Context(), b.Allowed(t, "files", to)); broker.CodeOf(err) != broker.CodeInvalidRequest {
					t.Errorf("went on: %v", err)
				}
				if h.Provider.Exchanges != 0 {
					t.Error("the code was redeemed")
				}
				wantNoToken(t, h, "alice")
			})
		})
	}
}

// A client with a login has no other binding, and no consents on other devices.
func TestLoginIsTheOnlyBinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Conns[0].Device = true
		before := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		h.Client.Login = true
		_, err := h.Token("alice")
		e, ok := err.(*broker.Error)
		if !ok || e.Consent == nil || e.Consent.Consent.Binding != broker.BindingLogin || e.Consent.Consent.ID == before.ID {
			t.Errorf("a link without a sign-in comes back: %v", err)
		}
		_, _, err = h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice", Device: true})
		if broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("a consent on another device: %v", err)
		}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		h.Client.Login = false // taken out of the configuration
		if _, err := h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), noCookie); broker.CodeOf(err) != broker.CodeProviderMisconfigured {
			t.Errorf("started without a sign-in: %v", err)
		}
	})
}
