package broker_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func TestPolicy(t *testing.T) {
	ceiling := broker.ParseScopes("files.read")
	for _, tc := range []struct {
		name   string
		bend   func(h *brokertest.Harness)
		req    broker.TokenRequest
		code   broker.Code
		reason broker.ConsentReason
	}{
		{"fine", nil, broker.TokenRequest{}, "", ""},
		{"unknown connector", nil, broker.TokenRequest{Connector: "nope"}, broker.CodeNotFound, ""},
		{"scope not offered", nil, broker.TokenRequest{Scopes: broker.ParseScopes("files.admin")}, broker.CodeInvalidScope, ""},
		{"implied scope may be named", nil, broker.TokenRequest{Scopes: broker.ParseScopes("files.read offline_access")}, "", ""},
		{"scope missing", nil, broker.TokenRequest{Scopes: broker.ParseScopes("files.write")}, broker.CodeConsentRequired, broker.ReasonScopeMissing},
		{"connector not allowed", func(h *brokertest.Harness) { h.Client.Connectors = []string{"crm"} }, broker.TokenRequest{}, broker.CodeAccessDenied, ""},
		{"scope above the ceiling", func(h *brokertest.Harness) { h.Client.Scopes = &ceiling }, broker.TokenRequest{Scopes: broker.ParseScopes("files.write")}, broker.CodeAccessDenied, ""},
		{"within the ceiling", func(h *brokertest.Harness) { h.Client.Scopes = &ceiling }, broker.TokenRequest{}, "", ""},
		{"foreign connection", nil, broker.TokenRequest{Connection: "AAAAAAAAAAAAAAAAAAAAAAAA"}, broker.CodeNotFound, ""},
		{"return_to not registered", nil, broker.TokenRequest{ReturnTo: "https://chat.example/done/"}, broker.CodeInvalidRequest, ""},
		{"another tenant", func(h *brokertest.Harness) { h.Client.Tenant = "other" }, broker.TokenRequest{}, broker.CodeConsentRequired, broker.ReasonNeverConnected},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				h.Connect(t, "alice", "files.read")
				// A process that has served the connection before goes by what it remembers, and answers the same.
				if _, err := h.Token("alice"); err != nil {
					t.Fatal(err)
				}
				if tc.bend != nil {
					tc.bend(h)
				}
				if tc.req.Connector == "" {
					tc.req.Connector = "files"
				}
				tc.req.Subject = "alice"
				_, err := h.Service.IssueToken(t.Context(), h.Caller(), tc.req)
				var e *broker.Error
				switch {
				case tc.code == "" && err != nil, tc.code != "" && (!errors.As(err, &e) || e.Code != tc.code):
					t.Fatalf("got %v, want %q", err, tc.code)
				case tc.reason != "" && e.Consent.Reason != tc.reason:
					t.Errorf("reason %s, want %s", e.Consent.Reason, tc.reason)
				}
				if refused := len(h.Store.Entries(broker.EventTokenRefused)); (refused == 1) != (tc.code != "") {
					t.Errorf("%d refused entries", refused)
				}
			})
		})
	}
}

// A ceiling holds for what the token really carries: a grant that is wider is refused, or narrowed where the provider can.
func TestCeilingOnCarriedScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read files.write")
		ceiling := broker.ParseScopes("files.read")
		h.Client.Scopes = &ceiling
		if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Fatalf("a wider token reached the client: %v", err)
		}
		h.Conns[0].Narrows = true
		token, err := h.Token("alice")
		if err != nil || token.Scopes.String() != "files.read" {
			t.Fatalf("narrowed: %q, %v", token.Scopes, err)
		}
		// What counts is what the provider says that it gave.
		h.Client.Scopes = nil
		wide := broker.ParseScopes("files.read files.write")
		h.Provider.Report = &wide
		time.Sleep(2 * h.Provider.Lifetime)
		h.Client.Scopes = &ceiling
		if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("the provider did not narrow, and the token went out: %v", err)
		}
	})
}

func TestMinTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Lifetime = 30 * time.Second
		h.Connect(t, "alice", "files.read")
		ask := func(ttl time.Duration) (broker.Token, error) {
			return h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", MinTTL: &ttl})
		}
		_, err := ask(2 * time.Minute)
		if e, ok := err.(*broker.Error); !ok || e.Code != broker.CodeTTLUnavailable || e.MaxTTL != 30*time.Second {
			t.Fatalf("got %v", err)
		}
		for range 100 {
			_, _ = ask(2 * time.Minute)
		}
		if h.Provider.Calls > 5 {
			t.Errorf("asking for too much refreshed %d times", h.Provider.Calls)
		}
		if token, err := ask(30 * time.Second); err != nil || token.ExpiresIn != 30*time.Second {
			t.Errorf("exactly max_ttl: %v, %v", token.ExpiresIn, err)
		}
		// The provider may change its mind.
		time.Sleep(61 * time.Second)
		if _, err := ask(2 * time.Minute); broker.CodeOf(err) != broker.CodeTTLUnavailable {
			t.Fatalf("got %v", err)
		}
		h.Provider.Lifetime = time.Hour
		if token, err := ask(2 * time.Minute); err != nil || token.ExpiresIn != time.Hour {
			t.Errorf("after the provider's change: %v, %v", token.ExpiresIn, err)
		}
	})
}

// No event, no token.
func TestNoEventNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		h.Store.Before = func(ctx context.Context, op string) error {
			if op == "Release" {
				<-ctx.Done() // hangs
				return ctx.Err()
			}
			return nil
		}
		began := time.Now()
		token, err := h.Token("alice")
		if broker.CodeOf(err) != broker.CodeTemporarilyUnavailable || !token.AccessToken.IsZero() {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 250*time.Millisecond {
			t.Errorf("the answer took %v", took)
		}
	})
}

// A scope that the provider takes back on a refresh is gone for callers, and on record (threat 43).
func TestScopeReduced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read files.write")
		less := broker.ParseScopes("files.read")
		h.Provider.Report = &less
		time.Sleep(2 * h.Provider.Lifetime)
		if token, err := h.Token("alice"); err != nil || token.Scopes.String() != "files.read" {
			t.Fatalf("%q, %v", token.Scopes, err)
		}
		_, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Scopes: broker.ParseScopes("files.write")})
		if broker.CodeOf(err) != broker.CodeConsentRequired {
			t.Errorf("the lost scope: %v", err)
		}
		if got := h.Store.Entries(broker.EventScopeReduced); len(got) != 1 || got[0].Scopes[0].Scope != "files.write" {
			t.Errorf("events %v", got)
		}
	})
}

// The refresh itself takes the scope away that was asked for: no token without it, but the question to the user.
func TestScopeReducedByTheVeryRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read files.write")
		less := broker.ParseScopes("files.read")
		h.Provider.Report = &less
		time.Sleep(2 * h.Provider.Lifetime)
		_, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Scopes: broker.ParseScopes("files.write")})
		var e *broker.Error
		if !errors.As(err, &e) || e.Consent == nil || e.Consent.Reason != broker.ReasonScopeMissing || e.Consent.MissingScopes.String() != "files.write" {
			t.Errorf("got %v", err)
		}
		if len(h.Store.Entries(broker.EventTokenIssued)) != 0 {
			t.Error("a token was issued without the scope asked for")
		}
	})
}

func TestIntegrityFailureIsOnRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Store.Corrupt(conn.ID)
		if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeServerError {
			t.Errorf("got %v", err)
		}
		if len(h.Store.Entries(broker.EventIntegrityFailed)) != 1 || len(h.Store.Entries(broker.EventTokenIssued)) != 0 {
			t.Error("want one integrity.failed and no token.issued")
		}
	})
}

// One event for every scope that the token really carries; requested says which were asked for.
func TestEventsOfAToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read files.write")
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		events, _, err := h.Service.ListEvents(t.Context(), h.Caller(), broker.EventQuery{Filter: broker.EventFilter{Type: broker.EventTokenIssued}, Limit: 10})
		if err != nil || len(events) != 2 {
			t.Fatalf("%d events, %v", len(events), err)
		}
		for _, e := range events {
			if e.Requested != (e.Scope == "files.read") || e.Outcome != "ok" || e.Subject != "alice" || e.Client != "chat" || e.Connection == "" {
				t.Errorf("event %+v", e)
			}
		}
	})
}

// expires_in counts from when we asked: what a slow provider took of a token's life is not promised to anybody.
func TestMinTTLOfASlowProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Lifetime = time.Minute
		h.Connect(t, "alice", "files.read")
		takes := 20 * time.Second
		h.Provider.Before = func(context.Context, string) error { time.Sleep(takes); return nil }
		ask := func(ttl time.Duration) (broker.Token, error) {
			return h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", MinTTL: &ttl})
		}
		time.Sleep(30 * time.Second)
		_, err := ask(time.Minute)
		if e, ok := err.(*broker.Error); !ok || e.Code != broker.CodeTTLUnavailable || e.MaxTTL != 40*time.Second {
			t.Fatalf("a minute, of which 20 s were over: %v", err)
		}
		if token, err := ask(40 * time.Second); err != nil || token.ExpiresIn < 40*time.Second {
			t.Errorf("max_ttl: %v, %v", token.ExpiresIn, err)
		}
		before := h.Provider.Calls
		takes = 8 * time.Second
		for range 100 {
			if token, err := ask(time.Minute); broker.CodeOf(err) != broker.CodeTTLUnavailable {
				t.Fatalf("a minute, of which 8 s were over: %v, %v", token.ExpiresIn, err)
			}
		}
		if n := h.Provider.Calls - before; n > 8 {
			t.Errorf("%d refreshes one after the other for a min_ttl that the provider does not reach", n)
		}
		// The way there and back takes a moment with any provider.
		takes, h.Provider.Lifetime = 2*time.Second, time.Hour
		time.Sleep(2 * time.Minute)
		if token, err := ask(time.Hour); err != nil || token.ExpiresIn != time.Hour-takes {
			t.Errorf("its whole life, from a provider that took 2 s: %v, %v", token.ExpiresIn, err)
		}
	})
}

// Whoever keeps asking for a token that lives longer than this provider's does not have them made one after the other, also
// when the last one has ended.
func TestAskingForMoreThanThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Lifetime = 2 * time.Second
		h.Connect(t, "alice", "files.read")
		for range 600 {
			if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeTTLUnavailable {
				t.Fatalf("a token of two seconds for the default min_ttl: %v", err)
			}
			time.Sleep(time.Second)
		}
		if h.Provider.Calls > 45 {
			t.Errorf("%d refreshes in ten minutes, of which no caller had anything", h.Provider.Calls)
		}
		ttl := time.Second
		if token, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", MinTTL: &ttl}); err != nil || token.ExpiresIn < ttl {
			t.Errorf("for a min_ttl that it meets: %v, %v", token.ExpiresIn, err)
		}
	})
}
