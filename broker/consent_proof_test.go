package broker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// otherTail is the secret with its last character changed: the id that it begins with stays.
func otherTail(secret broker.Secret) broker.Secret {
	text := []byte(secret.Reveal())
	last := &text[len(text)-1]
	if *last == 'A' {
		*last = 'B'
	} else {
		*last = 'A'
	}
	return broker.NewSecret(string(text))
}

// Threat 16: a link begins with its consent's id, which clients, return_to and events show. Whoever knows that alone can't open, start or
// cancel the consent.
func TestThreat16TheIdAloneIsNoLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		guess := otherTail(brokertest.LinkSecret(link))
		_, opened := h.Service.OpenLink(t.Context(), guess)
		_, started := h.Service.StartConsent(t.Context(), guess, noCookie)
		_, cancelled := h.Service.CancelConsent(t.Context(), guess, noCookie)
		for what, err := range map[string]error{"opened": opened, "started": started, "cancelled": cancelled} {
			if broker.CodeOf(err) != broker.CodeNotFound {
				t.Errorf("%s by a link with another secret: %v", what, err)
			}
		}
		if v := status(t, h, link.ID); v.Status != broker.ConsentPending {
			t.Errorf("the consent is %s", v.Status)
		}
		if _, err := h.Service.OpenLink(t.Context(), brokertest.LinkSecret(link)); err != nil {
			t.Errorf("the right link afterwards: %v", err)
		}
	})
}

// The same of a visit to "My connections".
func TestThreat16TheIdAloneIsNoPortalLink(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		link := newPortal(t, h, "alice", "")
		guess := otherTail(brokertest.PortalSecret(link))
		_, opened := h.Service.OpenPortalLink(t.Context(), guess, noCookie)
		_, started := h.Service.StartPortal(t.Context(), guess, noCookie)
		for what, err := range map[string]error{"opened": opened, "started": started} {
			if broker.CodeOf(err) != broker.CodeNotFound {
				t.Errorf("%s by a link with another secret: %v", what, err)
			}
		}
		if _, err := h.Service.OpenPortalLink(t.Context(), brokertest.PortalSecret(link), noCookie); err != nil {
			t.Errorf("the right link afterwards: %v", err)
		}
	})
}

// Threat 6: where a provider announces that it names itself in its answers, one that does not is refused, and nobody hears of its code.
func TestThreat6MissingIssuer(t *testing.T) {
	for name, c := range map[string]struct {
		issuer string
		has    bool
		want   broker.ConsentStatus
	}{
		"missing": {"", false, broker.ConsentFailed}, "empty": {"", true, broker.ConsentFailed}, "another": {"https://evil.example", true, broker.ConsentFailed},
		"right": {"https://provider.example", true, broker.ConsentAwaitingCompletion},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				h.Provider.IssuerRequired = true
				link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
				cb := h.Start(t, link)
				cb.Issuer, cb.HasIssuer = c.issuer, c.has
				_, err := h.Service.FinishConsent(t.Context(), cb)
				refused := c.want == broker.ConsentFailed
				if refused != (broker.CodeOf(err) == broker.CodeInvalidRequest) || refused != (h.Provider.Exchanges == 0) {
					t.Errorf("%v, %d exchanges", err, h.Provider.Exchanges)
				}
				if v := status(t, h, link.ID); v.Status != c.want {
					t.Errorf("the consent is %s, %s", v.Status, v.Error)
				}
			})
		})
	}
}

// Threat 4: an account that the provider does not name is not the one that is connected.
func TestThreat4UnnamedAccountIsAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Provider.Account = broker.Account{}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: conn.ID})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode})
		if broker.CodeOf(err) != broker.CodeAccountChanged {
			t.Errorf("got %v, want account_changed", err)
		}
		if token, err := h.Token("alice"); err != nil || token.Account.ID != "u1" {
			t.Errorf("the account that was connected: %+v, %v", token.Account, err)
		}
	})
}

// Threat 47: what the store did not take is not called revoked, and nothing is half of it; the same call ends the connection later.
func TestThreat47NotRevokedWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "BeginRevoke" {
				return errors.New("down")
			}
			return nil
		}
		if outcome, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
			t.Errorf("disconnected without the store: %q, %v", outcome, err)
		}
		if len(h.Provider.Revoked) != 0 || len(h.Store.Entries(broker.EventConnectionRevoked)) != 0 {
			t.Error("it is revoked at the provider or on record, and lives on here")
		}
		if _, err := h.Token("alice"); err != nil {
			t.Errorf("the connection that lives on: %v", err)
		}
		h.Store.Before = nil
		if outcome, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); err != nil || outcome != broker.RevokedDone || len(h.Provider.Revoked) != 1 {
			t.Errorf("called again: %q, %v, %d revoked at the provider", outcome, err, len(h.Provider.Revoked))
		}
		wantNoToken(t, h, "alice")
	})
}
