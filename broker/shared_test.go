package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// workspace gives a harness whose provider hands one chain of refresh tokens to everybody, with that many subjects connected.
func workspace(t *testing.T, replicas, subjects int) (*brokertest.Harness, []broker.Connection) {
	t.Helper()
	h := brokertest.New(t, replicas)
	h.Conns[0].SharedGrants = "rig/client"
	h.Provider.OneChain = true
	var conns []broker.Connection
	for i := range subjects {
		conns = append(conns, h.Connect(t, fmt.Sprintf("person-%d", i), "files.read"))
		time.Sleep(time.Millisecond)
	}
	return h, conns
}

// Everybody in a workspace whose bot has one chain of refresh tokens: it is refreshed once for all of them, no refresh token
// is sent twice, and nobody has to consent again.
func TestSharedGrantIsRefreshedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 3, 20)
		defer drain(t, h)
		h.Provider.Before = func(context.Context, string) error { time.Sleep(2 * time.Second); return nil }
		for round := range 5 {
			time.Sleep(h.Provider.Lifetime + time.Second)
			h.Provider.Calls = 0
			var wait sync.WaitGroup
			for i := range 60 {
				wait.Go(func() {
					_, err := h.Replicas[i%3].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: fmt.Sprintf("person-%d", i%20)})
					if err != nil {
						t.Errorf("round %d, caller %d: %v", round, i, err)
					}
				})
			}
			wait.Wait()
			if h.Provider.Calls != 1 || h.Provider.Reuses != 0 {
				t.Fatalf("round %d: the provider counts %d refreshes and %d reused refresh tokens, want 1 and 0", round, h.Provider.Calls, h.Provider.Reuses)
			}
		}
	})
}

// A consent of another subject moves the chain on: those who were connected before go on with what it brought.
func TestConsentMovesASharedGrantOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 1)
		defer drain(t, h)
		h.Connect(t, "newcomer", "files.read") // person-0's refresh token is spent now
		time.Sleep(h.Provider.Lifetime + time.Second)
		for _, name := range []string{"person-0", "newcomer", "person-0"} {
			if _, err := h.Token(name); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if h.Provider.Reuses != 0 {
			t.Errorf("%d reused refresh tokens", h.Provider.Reuses)
		}
	})
}

// Whoever leaves takes only their own connection with them; the last one ends the grant at the provider.
func TestLastHolderRevokesASharedGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conns := workspace(t, 1, 3)
		defer drain(t, h)
		for i, want := range []broker.RevokedUpstream{broker.RevokedUnsupported, broker.RevokedUnsupported, broker.RevokedDone} {
			time.Sleep(h.Provider.Lifetime + time.Second)
			for _, conn := range conns[i:] {
				if _, err := h.Token(conn.Subject); err != nil {
					t.Fatalf("%s, after %d had left: %v", conn.Subject, i, err)
				}
			}
			got, err := h.Service.Disconnect(t.Context(), h.Caller(), conns[i].ID)
			if err != nil || got != want {
				t.Fatalf("disconnect %d: %s %v, want %s", i, got, err, want)
			}
		}
		if n := len(h.Provider.Revoked); n != 1 || h.Provider.Usable(h.Provider.Revoked[0]) {
			t.Errorf("%d revocations at the provider, want one, of the token that was good", n)
		}
	})
}

// A consent that nobody brings to its end must not take everybody else's grant with it.
func TestAbandonedConsentLeavesASharedGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := workspace(t, 1, 2)
		defer drain(t, h)
		_, link, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "stranger"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		h.Service.Sweep(t.Context())
		if len(h.Provider.Revoked) != 0 {
			t.Error("the grant of all was revoked with an abandoned consent")
		}
		for _, name := range []string{"person-0", "person-1"} {
			if _, err := h.Token(name); err != nil || h.Provider.Reuses != 0 {
				t.Errorf("%s, after somebody's abandoned consent moved the chain on: %v", name, err)
			}
		}
	})
}

// A process that dies with the lease on a shared grant keeps the others waiting no longer than its lease.
func TestSharedLeaseRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conns := workspace(t, 2, 2)
		defer drain(t, h)
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, _, err := h.Store.BeginRefresh(t.Context(), conns[0], "a replica that dies now", 45*time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Token("person-1"); err == nil {
			t.Error("somebody else's lease did not count")
		}
		time.Sleep(10 * time.Second)
		if _, err := h.Token("person-1"); err != nil {
			t.Errorf("after the lease: %v", err)
		}
	})
}
