package broker_test

import (
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func signInAt(t *testing.T, h *brokertest.Harness) (broker.PortalLink, brokertest.Browser, broker.Secret) {
	t.Helper()
	link, b := newPortal(t, h, "alice", ""), brokertest.Browser{}
	if link.Binding != broker.BindingLogin {
		t.Fatalf("binding %s", link.Binding)
	}
	return link, b, h.StartPortal(t, b, link).Location
}

func TestPortalByLogin(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Connect(t, "alice", "files.read")
		h.Client.Login = true
		link, b, location := signInAt(t, h)
		if got := sees(h, b, link.ID); got != "started" {
			t.Errorf("before the sign-in the page shows %q", got)
		}
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: broker.NewSecret("x")}); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("a completing call: %v", err)
		}
		finish, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, location, "alice"))
		if err != nil || finish.Path != "/portal/session/"+link.ID || !finish.Location.IsZero() {
			t.Fatalf("signed in: %+v, %v", finish, err)
		}
		if got := sees(h, b, link.ID); got != "open alice/files" || len(h.Store.Entries(broker.EventPortalOpened)) != 1 {
			t.Errorf("the page shows %q", got)
		}
		if _, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, location, "alice")); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the same answer again: %v", err)
		}
	})
}

func TestPortalLoginOfSomebodyElse(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Client.Login = true
		link, mallory, location := signInAt(t, h)
		alice := brokertest.Browser{}
		// Mallory lets Alice sign in at the address that belongs to Mallory's browser.
		if _, err := h.Service.FinishLogin(t.Context(), alice.SignedIn(t, location, "alice")); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("in another browser: %v", err)
		}
		late := mallory.SignedIn(t, location, "alice")
		late.Client = "other"
		if _, err := h.Service.FinishLogin(t.Context(), late); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("at another client's address: %v", err)
		}
		if finish, err := h.Service.FinishLogin(t.Context(), mallory.SignedIn(t, location, "mallory")); broker.CodeOf(err) != broker.CodeSubjectMismatch || !finish.Visit {
			t.Errorf("as somebody else: %+v, %v", finish, err)
		}
		if got := sees(h, mallory, link.ID); got != "not_found" || portalStatus(t, h, link.ID) != broker.PortalPending {
			t.Errorf("Mallory's browser sees %q", got)
		}
		// Nobody has proved anything, so Alice can use the link still; the fifth that fails ends it.
		again := h.StartPortal(t, alice, link).Location
		if !h.OpenID.Requests[len(h.OpenID.Requests)-1].Fresh {
			t.Error("who is signed in there already is not asked again")
		}
		for range broker.MaxCodeAttempts - 2 {
			if _, err := h.Service.FinishLogin(t.Context(), alice.SignedIn(t, again, "bob")); broker.CodeOf(err) != broker.CodeSubjectMismatch {
				t.Fatal(err)
			}
			again = h.StartPortal(t, alice, link).Location
		}
		if _, err := h.Service.FinishLogin(t.Context(), alice.SignedIn(t, again, "bob")); broker.CodeOf(err) != broker.CodeSubjectMismatch {
			t.Fatal(err)
		}
		if _, err := h.Service.StartPortal(t.Context(), brokertest.PortalSecret(link), alice.Cookie); broker.CodeOf(err) != broker.CodeNotFound || portalStatus(t, h, link.ID) != broker.PortalEnded {
			t.Errorf("after five: %v", err)
		}
		if n := len(h.Store.Entries(broker.EventPortalOpened)); n != 0 {
			t.Errorf("opened %d times", n)
		}
	})
}

// The code of the OpenID Provider is sent once, however often the browser comes with it, and not after its time.
func TestPortalLoginOnce(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Client.Login = true
		_, b, location := signInAt(t, h)
		slowly(h)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { _, _ = h.Service.FinishLogin(t.Context(), b.SignedIn(t, location, "alice")) })
		}
		wg.Wait()
		if n := len(h.OpenID.Redeemed); n != 1 || len(h.Store.Entries(broker.EventPortalOpened)) != 1 {
			t.Errorf("redeemed %d times", n)
		}
		_, b, location = signInAt(t, h)
		time.Sleep(broker.FlowLife)
		if _, err := h.Service.FinishLogin(t.Context(), b.SignedIn(t, location, "alice")); broker.CodeOf(err) != broker.CodeInvalidRequest || len(h.OpenID.Redeemed) != 1 {
			t.Errorf("after its time: %v", err)
		}
	})
}
