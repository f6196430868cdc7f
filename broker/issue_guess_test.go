package broker_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// watched returns what was asked of the store since the last call.
func watched(h *brokertest.Harness) func() []string {
	var asked []string
	h.Store.Before = func(_ context.Context, operation string) error {
		asked = append(asked, operation)
		return nil
	}
	return func() []string {
		was := asked
		asked = nil
		return was
	}
}

// A valid token of a connection that was served before costs one call of the store, which records its event.
func TestOneCallForAKnownConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read files.write")
		asked := watched(h)
		first, err := h.Token("alice")
		if err != nil || !slices.Equal(asked(), []string{"OfSubject", "Release"}) {
			t.Fatalf("the first token: %v", err)
		}
		again, err := h.Token("alice")
		if got := asked(); err != nil || !slices.Equal(got, []string{"Release"}) {
			t.Fatalf("the second token: %v by %v", err, got)
		}
		if again.AccessToken.Reveal() != first.AccessToken.Reveal() || again.Connection != conn.ID || again.Account != first.Account || !again.Scopes.Equal(first.Scopes) || !again.ExpiresAt.Equal(first.ExpiresAt) {
			t.Errorf("another answer: %+v, first %+v", again, first)
		}
		entries := h.Store.Entries(broker.EventTokenIssued)
		if len(entries) != 2 || len(entries[1].Scopes) != 2 || entries[1].Connection != conn.ID || entries[1].Subject != "alice" || entries[1].Outcome != "ok" ||
			!entries[1].Scopes[0].Requested || entries[1].Scopes[1].Requested || entries[1].Scopes[0].ID == entries[0].Scopes[0].ID {
			t.Errorf("entries %+v", entries)
		}
		// What is not as plain as that is read first.
		long := 2 * time.Hour
		for name, req := range map[string]broker.TokenRequest{
			"another connection": {Connection: "AAAAAAAAAAAAAAAAAAAAAAAA"}, "a longer life": {MinTTL: &long}, "more scopes": {Scopes: broker.ParseScopes("files.admin")},
		} {
			req.Connector, req.Subject = "files", "alice"
			_, _ = h.Service.IssueToken(t.Context(), h.Caller(), req)
			if slices.Contains(asked(), "Release") {
				t.Errorf("%s: released on a guess", name)
			}
		}
	})
}

// What changed since a connection was served is noticed in the same call, nothing is recorded for nothing, and what it read
// serves the request.
func TestWrongGuess(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, h *brokertest.Harness, conn broker.Connection)
		code   broker.Code
		asked  []string // that must be among what the store was asked, in this order
	}{
		{"revoked", func(t *testing.T, h *brokertest.Harness, conn broker.Connection) {
			if _, err := h.Replicas[1].Disconnect(t.Context(), h.Caller(), conn.ID); err != nil {
				t.Fatal(err)
			}
		}, broker.CodeConsentRequired, nil},
		{"a second account", func(t *testing.T, h *brokertest.Harness, _ broker.Connection) {
			h.Provider.Account = broker.Account{ID: "u2", Name: "Alice at work"}
			h.Connect(t, "alice", "files.read")
		}, broker.CodeAccountSelectionRequired, nil},
		{"disabled", func(t *testing.T, h *brokertest.Harness, _ broker.Connection) {
			if err := h.Replicas[1].Disable(t.Context(), boss(), broker.Switch{Kind: broker.SwitchConnector, Name: "files"}, "an incident"); err != nil {
				t.Fatal(err)
			}
		}, broker.CodeAccessDenied, nil},
		{"refreshed", func(t *testing.T, h *brokertest.Harness, _ broker.Connection) {
			min := 61 * time.Minute // more than what is left
			h.Provider.Lifetime = 2 * time.Hour
			if _, err := h.Replicas[1].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", MinTTL: &min}); err != nil {
				t.Fatal(err)
			}
		}, "", []string{"Release", "OfSubject", "Release"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 2)
				defer drain(t, h)
				conn := h.Connect(t, "alice", "files.read")
				if _, err := h.Token("alice"); err != nil {
					t.Fatal(err)
				}
				guess, ok := h.Store.Guess("acme", "alice", "files")
				if !ok {
					t.Fatal("nothing is remembered")
				}
				tc.change(t, h, conn)
				h.Store.Remember("acme", "alice", "files", guess)
				issued := len(h.Store.Entries(broker.EventTokenIssued))
				asked := watched(h)
				_, err := h.Token("alice")
				if tc.code == "" && err != nil || tc.code != "" && broker.CodeOf(err) != tc.code {
					t.Fatalf("got %v, want %q", err, tc.code)
				}
				if n := len(h.Store.Entries(broker.EventTokenIssued)) - issued; n != 0 && tc.code != "" || n != 1 && tc.code == "" {
					t.Errorf("%d tokens are on record", n)
				}
				got := asked()
				if len(got) == 0 || got[0] != "Release" {
					t.Fatalf("no guess was made: %v", got)
				}
				if tc.asked != nil && !slices.Equal(got, tc.asked) {
					t.Errorf("the store was asked %v", got)
				}
			})
		})
	}
}

// A record that does not open when it comes back is an incident like any other, and is not asked for in this way again.
func TestGuessThatDoesNotOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		h.Store.Corrupt(conn.ID)
		for range 2 {
			if _, err := h.Token("alice"); broker.CodeOf(err) != broker.CodeServerError {
				t.Fatalf("got %v", err)
			}
		}
		if n := len(h.Store.Entries(broker.EventIntegrityFailed)); n != 2 {
			t.Errorf("%d incidents on record", n)
		}
	})
}
