package broker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// While one decision is carried out, no other one is taken: the user is told where to look, and what is there stays.
func TestNoDecisionWhileOneIsCarriedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		_, link, b, _ := undecided(t, h)
		c, err := h.Store.Consent(t.Context(), link.ID)
		if err != nil {
			t.Fatal(err)
		}
		c.BusyUntil = time.Now().Add(10 * time.Second) // as the process that carries it out claims it
		if _, err := h.Store.UpdateConsent(t.Context(), c, nil); err != nil {
			t.Fatal(err)
		}
		for _, d := range []broker.Decision{broker.DecideKeep, broker.DecideReplace, broker.DecideRetry} {
			if _, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, d); broker.CodeOf(err) != broker.CodeSlowDown {
				t.Errorf("%s meanwhile: %v", d, err)
			}
		}
		if now, err := h.Store.Consent(t.Context(), link.ID); err != nil || now.Status != broker.ConsentAwaitingCompletion || now.Provisional == nil {
			t.Errorf("after that: %+v, %v", now, err)
		}
		if len(h.Provider.Revoked) != 0 {
			t.Error("the grant that is being decided on was revoked")
		}
		time.Sleep(10 * time.Second) // whoever claimed it is gone
		if finish, err := h.Service.DecideConsent(t.Context(), link.ID, b.Cookie, broker.DecideReplace); err != nil || finish.Status != broker.ConsentCompleted {
			t.Errorf("once the claim has run out: %+v, %v", finish, err)
		}
	})
}

// Another start makes the request at the provider void that stood behind the sign-in before it.
func TestAnotherLoginVoidsTheRequestBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		link, b := newLink(t, h, broker.ConsentRequest{Subject: "alice"}), brokertest.Browser{}
		to, err := signIn(t, h, b, link, "alice")
		if err != nil {
			t.Fatal(err)
		}
		if c, err := h.Store.Consent(t.Context(), link.ID); err != nil || c.StateDigest == "" || c.Verifier.IsZero() {
			t.Fatalf("before: %+v, %v", c, err)
		}
		before := b.Allowed(t, "files", to)
		again := b.Open(t, h.Service, link)
		if c, err := h.Store.Consent(t.Context(), link.ID); err != nil || c.StateDigest != "" || !c.Verifier.IsZero() || c.Login.Proven {
			t.Errorf("the provider's request is kept: %+v, %v", c, err)
		}
		if _, err := h.Service.FinishConsent(t.Context(), before); broker.CodeOf(err) != broker.CodeInvalidRequest || h.Provider.Exchanges != 0 {
			t.Errorf("the answer to the request before: %v", err)
		}
		if _, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, again, "alice")); err != nil {
			t.Errorf("the sign-in that counts: %v", err)
		}
	})
}

// Whoever follows a consent whose record goes, as its subject is erased, hears the end.
func TestFollowersOfAGoneConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "u"})
		var gone atomic.Bool
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "Consent" && gone.Load() {
				return broker.ErrNotFound
			}
			return nil
		}
		n := follow(t.Context(), h, h.Service, link.ID, "")
		time.Sleep(2 * time.Second)
		gone.Store(true)
		select {
		case err := <-n.ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the follower waits for a consent that is gone")
			h.Service.EndFollowing()
		}
		if got := n.list(); len(got) != 1 || got[0] != broker.ConsentPending {
			t.Errorf("heard %v", got)
		}
	})
}
