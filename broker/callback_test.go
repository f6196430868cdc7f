package broker_test

import (
	"testing"
	"testing/synctest"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// A callback that is not what this provider's must be (Shopify signs its own): the code is not used, and the consent is over.
func TestCallbackIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Signs = true
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		cb := h.Start(t, link)
		cb.Params = map[string]string{"signature": "forged"}
		if _, err := h.Service.FinishConsent(t.Context(), cb); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Fatalf("a forged callback: %v", err)
		}
		if v := status(t, h, link.ID); v.Status != broker.ConsentFailed || v.Error != "callback_mismatch" {
			t.Errorf("the consent is %s, %s", v.Status, v.Error)
		}
		if h.Provider.Exchanges != 0 {
			t.Error("the code was redeemed")
		}
		cb.Params = map[string]string{"signature": "signed"}
		if _, err := h.Service.FinishConsent(t.Context(), cb); err == nil {
			t.Error("the right answer came after the forged one, and counts")
		}
		wantNoToken(t, h, "alice")

		link = newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		cb = h.Start(t, link)
		cb.Params = map[string]string{"signature": "signed"}
		if _, err := h.Service.FinishConsent(t.Context(), cb); err != nil {
			t.Errorf("a signed callback: %v", err)
		}
	})
}

// The pages have the look of the client that asks, so they must know which it is: at the link and at the end.
func TestPagesNameTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		if page, err := h.Service.OpenLink(t.Context(), brokertest.LinkSecret(link)); err != nil || page.ClientID != h.Client.ID || page.ClientName != h.Client.Name {
			t.Errorf("the page is of client %q (%q): %v", page.ClientID, page.ClientName, err)
		}
		if finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil || finish.ClientID != h.Client.ID || finish.ClientName != h.Client.Name {
			t.Errorf("the end is of client %q (%q): %v", finish.ClientID, finish.ClientName, err)
		}
	})
}

// Providers have words of their own for a user who says no.
func TestDeniedInOtherWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Conns[0].DeniedCodes = []string{"said_no"}
		for code, want := range map[string]broker.ConsentStatus{"said_no": broker.ConsentDenied, "user_denied": broker.ConsentDenied, "no_such_word": broker.ConsentFailed} {
			link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
			cb := h.Start(t, link)
			cb.Code, cb.Error = broker.Secret{}, code
			if _, err := h.Service.FinishConsent(t.Context(), cb); err != nil {
				t.Fatal(err)
			}
			if v := status(t, h, link.ID); v.Status != want {
				t.Errorf("%s: the consent is %s, want %s", code, v.Status, want)
			}
		}
	})
}
