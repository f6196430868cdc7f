package broker_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// Threats 16, 68 and 70: what goes into the trail stays there, so whoever has nothing but a link must not write it full.
func TestALinkWritesLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withLogin(t, 1)
		defer drain(t, h)
		const often = 200
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		b := brokertest.Browser{}
		b.Open(t, h.Service, link)
		login := b.SignedIn(t, b.Open(t, h.Service, link), "alice")
		visitLink := newPortal(t, h, "alice", "")
		mine := brokertest.Browser{}
		h.StartPortal(t, mine, visitLink)
		before := len(h.Store.Entries())
		stranger := brokertest.Browser{}
		strange := login
		strange.Cookie = stranger.Cookie
		for range often {
			_, _ = h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), stranger.Cookie)
		}
		for range often {
			_, signIn := h.Service.FinishLogin(t.Context(), strange)
			_, start := h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), stranger.Cookie)
			_, cancel := h.Service.CancelConsent(t.Context(), brokertest.LinkSecret(link), stranger.Cookie)
			_, visit := h.Service.StartPortal(t.Context(), brokertest.PortalSecret(visitLink), stranger.Cookie)
			for name, err := range map[string]error{"sign-in": signIn, "start": start, "cancel": cancel, "visit": visit} {
				if broker.CodeOf(err) != broker.CodeAccessDenied {
					t.Fatalf("%s: %v", name, err)
				}
			}
		}
		kinds := map[string]int{} // none keeps another from being on record
		for _, e := range h.Store.Entries()[before:] {
			kinds[e.Reason]++
		}
		if n := len(h.Store.Entries()) - before; n < 4 || n > 20 || len(kinds) != 4 {
			t.Errorf("a browser without a cookie left %d entries: %v", n, kinds)
		}
		if _, err := h.Service.FinishLogin(t.Context(), login); err != nil {
			t.Errorf("the right browser behind all that: %v", err)
		}

		_, link, err = h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice"})
		if err != nil {
			t.Fatal(err)
		}
		before = len(h.Store.Entries())
		started, last := 0, error(nil)
		for range often {
			var start broker.Start
			if start, last = h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), b.Cookie); last == nil {
				b[start.CookieName] = start.Cookie
				started++
			}
		}
		if n := len(h.Store.Entries()) - before; started < 20 || started >= often || n != started+1 || broker.CodeOf(last) != broker.CodeNotFound {
			t.Errorf("started %d times, %d entries, then %v", started, n, last)
		}
	})
}

// Whoever has a link of a client with login can start it and give up as often as a link may be started, without being anybody. That costs
// its user this link: the next one is another.
func TestALinkStartedTooOftenIsOver(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Client.Login = true
		ask := func() broker.ConsentLink {
			t.Helper()
			_, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
			var e *broker.Error
			if !errors.As(err, &e) || e.Consent == nil {
				t.Fatalf("no consent is asked for: %v", err)
			}
			return e.Consent.Consent
		}
		link := ask()
		var err error
		for range 60 {
			var start broker.Start
			b := brokertest.Browser{}
			if start, err = h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), b.Cookie); err != nil {
				break
			}
			b[start.CookieName] = start.Cookie
			cb := b.SignedIn(t, start.Location, "mallory")
			cb.Code, cb.Error = broker.Secret{}, "server_error"
			if _, err := h.Service.FinishLogin(t.Context(), cb); broker.CodeOf(err) != broker.CodeProviderUnavailable {
				t.Fatal(err)
			}
		}
		if v := status(t, h, link.ID); broker.CodeOf(err) != broker.CodeNotFound || v.Status != broker.ConsentFailed || v.Error != "too_many_attempts" {
			t.Errorf("%v, and it is %+v", err, v)
		}
		next := ask()
		if _, err := h.Service.StartConsent(t.Context(), brokertest.LinkSecret(next), noCookie); err != nil || next.ID == link.ID {
			t.Errorf("the user asks again: %v, the same link %t", err, next.ID == link.ID)
		}
	})
}
