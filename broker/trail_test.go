package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// An event names the request that it happened in, not the one that began it all.
func TestEventsNameTheirRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"}) // in request r1
		start, err := h.Service.StartConsent(broker.WithRequestID(t.Context(), "page-1"), brokertest.LinkSecret(link), noCookie)
		if err != nil {
			t.Fatal(err)
		}
		again, err := h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), func(string) broker.Secret { return start.Cookie })
		if err != nil {
			t.Fatal(err)
		}
		state, cookie := brokertest.Query(t, again.Location, "state"), again.Cookie
		finish, err := h.Service.FinishConsent(broker.WithRequestID(t.Context(), "page-2"), broker.Callback{
			Connector: "files", State: broker.NewSecret(state), Code: broker.NewSecret("c"), Cookie: func(string) broker.Secret { return cookie },
		})
		if err != nil {
			t.Fatal(err)
		}
		caller := h.Caller()
		caller.RequestID = "complete-1"
		if _, err := h.Service.CompleteConsent(t.Context(), caller, link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode}); err != nil {
			t.Fatal(err)
		}
		for event, want := range map[broker.EventType]string{
			broker.EventConsentCreated: "r1", broker.EventConsentStarted: "page-1", broker.EventConsentGranted: "page-2", broker.EventConsentCompleted: "complete-1",
		} {
			if got := h.Store.Entries(event); len(got) == 0 || got[0].RequestID != want {
				t.Errorf("%s: %v, want request %s", event, got, want)
			}
		}
	})
}

// A refusal about a connection names it, also where the caller did not.
func TestRefusalsNameTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read files.write")
		ceiling := broker.ParseScopes("files.read")
		h.Client.Scopes = &ceiling
		if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Fatal(err)
		}
		if got := h.Store.Entries(broker.EventTokenRefused); len(got) != 1 || got[0].Connection != conn.ID {
			t.Errorf("%+v, want connection %s", got, conn.ID)
		}
	})
}

// The trail does not read as if the provider had confirmed what it has not.
func TestUnconfirmedRevocationIsOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Provider.FailRevocations(&broker.UpstreamError{Class: broker.ClassInDoubt, Status: 500, What: "500"})
		outcome, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID)
		if err != nil || outcome != broker.RevokedFailed {
			t.Fatalf("%s, %v", outcome, err)
		}
		got := h.Store.Entries(broker.EventConnectionRevoked)
		if len(got) != 2 || got[1].Outcome != "revoked_upstream_failed" {
			t.Errorf("%+v", got)
		}
		if h.Store.RefreshToken(conn.ID) != "" {
			t.Error("the secrets are still stored")
		}
	})
}

// What a finished consent says of scopes and account is what is there: granted scopes, and no account that was erased.
func TestFinishedConsentTellsWhatIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		less := broker.ParseScopes("files.read offline_access")
		h.Provider.Report = &less
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Scopes: broker.ParseScopes("files.read files.write")})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode}); err != nil {
			t.Fatal(err)
		}
		if v := status(t, h, link.ID); v.Scopes.String() != "files.read" || v.Account == nil || v.Account.Name != "Alice" {
			t.Errorf("completed: scopes %q, account %v", v.Scopes, v.Account)
		}
		if _, err := h.Service.EraseSubject(t.Context(), h.Caller(), "alice"); err != nil {
			t.Fatal(err)
		}
		if v := status(t, h, link.ID); v.Account != nil {
			t.Errorf("an erased account is still told: %v", v.Account)
		}
	})
}

// A provider that fails while it redeems a code: the code can't be sent again, so the caller is told to start again.
func TestFailedExchangeStartsAgain(t *testing.T) {
	for class, want := range map[broker.Class]broker.Code{
		broker.ClassInDoubt: broker.CodeExpired, broker.ClassGrantDead: broker.CodeExpired, broker.ClassClientRefused: broker.CodeProviderMisconfigured,
		broker.ClassUnsent: broker.CodeProviderUnavailable, broker.ClassThrottled: broker.CodeProviderUnavailable,
	} {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 1)
			defer drain(t, h)
			link := newLink(t, h, broker.ConsentRequest{Subject: "alice", ReturnTo: "https://chat.example/done"})
			finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
			if err != nil {
				t.Fatal(err)
			}
			done := broker.Completion{Subject: "alice", Code: broker.NewSecret(brokertest.Query(t, finish.Location, "code"))}
			h.Provider.ExchangeErr = &broker.UpstreamError{Class: class, What: "test"}
			if _, err = h.Service.CompleteConsent(context.Background(), h.Caller(), link.ID, done); broker.CodeOf(err) != want {
				t.Errorf("%s: %v, want %s", class, err, want)
			}
			h.Provider.ExchangeErr = nil
			time.Sleep(time.Second)
			_, err = h.Service.CompleteConsent(context.Background(), h.Caller(), link.ID, done)
			if again := want == broker.CodeProviderUnavailable; (err == nil) != again {
				t.Errorf("%s, called again: %v", class, err)
			}
		})
	}
}
