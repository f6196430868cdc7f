package broker_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

var errClientRefused = &broker.UpstreamError{Class: broker.ClassClientRefused, Status: 403, Code: "unauthorized_client", What: "refused"}

// refuse makes the provider refuse our client for the grants of those connections, as some do where a grant is over.
func refuse(h *brokertest.Harness, conns ...broker.Connection) (arrived func() int) {
	var n atomic.Int64 // refreshes ahead of need run beside each other
	bad := map[string]bool{}
	for _, conn := range conns {
		bad[h.Store.RefreshToken(conn.ID)] = true
	}
	h.Provider.Before = func(_ context.Context, token string) error {
		if bad[token] {
			n.Add(1)
			return errClientRefused
		}
		return nil
	}
	return func() int { return int(n.Load()) }
}

// as asks for a token of the subject in another tenant.
func as(h *brokertest.Harness, tenant, subject string) error {
	caller := h.Caller()
	caller.Client.Tenant = tenant
	_, err := h.Service.IssueToken(context.Background(), caller, broker.TokenRequest{Connector: "files", Subject: subject})
	return err
}

// A provider that calls our client refused for one user's grant: that user is told so, and nobody else is, in whatever tenant.
func TestOneRefusedGrantIsItsOwnTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Lifetime = 65 * time.Second
		alice := h.Connect(t, "alice", "files.read")
		h.Connect(t, "bob", "files.read")
		h.Client.Tenant = "other"
		h.Connect(t, "eve", "files.read")
		h.Client.Tenant = "acme"
		arrived := refuse(h, alice)
		kept := h.Store.RefreshToken(alice.ID)
		time.Sleep(h.Provider.Lifetime)
		for i := range 60 * 60 / 5 { // an hour, every five seconds
			if err := as(h, "acme", "alice"); broker.CodeOf(err) != broker.CodeProviderMisconfigured {
				t.Fatalf("the one who is refused: %v", err)
			}
			for tenant, subject := range map[string]string{"acme": "bob", "other": "eve"} {
				if err := as(h, tenant, subject); err != nil {
					t.Fatalf("%s of %s, after %d s: %v", subject, tenant, 5*i, err)
				}
			}
			time.Sleep(5 * time.Second)
		}
		if n := arrived(); n < 50 || n > 130 {
			t.Errorf("%d requests in an hour with the grant that is refused, want one each half minute", n)
		}
		conn, err := h.Service.GetConnection(t.Context(), h.Caller(), alice.ID)
		if err != nil || conn.Status != broker.ConnectionActive || conn.Generation != alice.Generation || h.Store.RefreshToken(alice.ID) != kept {
			t.Errorf("the connection was touched: %+v, %v", conn, err)
		}
		if n := len(h.Store.Entries(broker.EventTokenRefreshFailed)); n != arrived() {
			t.Errorf("%d token.refresh_failed for %d refusals", n, arrived())
		}
		if n := len(h.Log.Lines("refuses our OAuth client")); n != arrived() {
			t.Errorf("%d alarms for %d refusals", n, arrived())
		}
		// It is that grant alone also once it works again, or is another.
		h.Provider.Before = nil
		time.Sleep(40 * time.Second)
		if token, err := h.Token("alice"); err != nil || token.Degraded {
			t.Errorf("once the provider takes it: %v", err)
		}
	})
}

// Several such grants may be taken for the client's trouble once, until somebody is served: that shows that it is theirs, and then
// they shut nobody out any more, also where the others come rarely.
func TestRefusedGrantsAreRememberedAsTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Lifetime = 30 * time.Minute
		var bad []broker.Connection
		for i := range 3 {
			bad = append(bad, h.Connect(t, fmt.Sprintf("bad-%d", i), "files.read"))
		}
		h.Connect(t, "bob", "files.read")
		refuse(h, bad...)
		poll := func() {
			for _, conn := range bad {
				_ = as(h, "acme", conn.Subject)
			}
		}
		served, shut := 0, 0
		for range 10 {
			for began := time.Now(); time.Since(began) < h.Provider.Lifetime+time.Minute; time.Sleep(7 * time.Second) {
				poll()
			}
			for poll(); as(h, "acme", "bob") != nil; poll() {
				if served > 0 {
					shut++
				}
				time.Sleep(time.Second)
			}
			served++
		}
		if shut > 0 {
			t.Errorf("after the first of %d times bob was shut out %d times more", served, shut)
		}
	})
}

// The client_secret is really wrong: everybody hears of it, the provider of nearly nobody, and all is well soon after it is mended.
func TestWrongClientSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		names := people(t, h, 50)
		arrived := 0
		h.Provider.Before = func(context.Context, string) error { arrived++; return errClientRefused }
		for i := range 20 {
			for _, name := range names {
				if _, err := h.Token(name); broker.CodeOf(err) != broker.CodeProviderMisconfigured {
					t.Fatalf("while the client is refused: %v", err)
				}
			}
			if i == 0 && arrived != 2 {
				t.Errorf("%d requests until the client is left alone, want 2", arrived)
			}
			time.Sleep(3 * time.Second)
		}
		if arrived > 30 {
			t.Errorf("%d requests in a minute, for a thousand asked, with a client that is refused", arrived)
		}
		h.Provider.Before = nil
		mended, waiting := time.Now(), names
		for len(waiting) > 0 {
			if time.Since(mended) > 10*time.Second {
				t.Fatalf("%d of %d are still refused %v after it was mended", len(waiting), len(names), time.Since(mended))
			}
			var still []string
			for _, name := range waiting {
				if _, err := h.Token(name); err != nil {
					still = append(still, name)
				}
			}
			waiting = still
			time.Sleep(time.Second)
		}
	})
}

// What a provider holds against one OAuth client is that client's, on all connectors that use it; that it is down is everybody's.
func TestTroubleOfOneClient(t *testing.T) {
	throttled := &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: 30 * time.Second, What: "throttled"}
	for name, tc := range map[string]struct {
		err           error
		mates, others bool // are shut out
	}{
		"refused":   {errClientRefused, true, false},
		"throttled": {throttled, true, false},
		"down":      {down(t.Context(), ""), true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				h.Conns[0].ProviderID, h.Conns[0].ClientKey = "rig", "rig/one"
				for id, client := range map[string]string{"mate": "rig/one", "other": "rig/two"} {
					c := brokertest.Files()
					c.ID, c.ProviderID, c.ClientKey = id, "rig", client
					h.Conns = append(h.Conns, c)
					h.Provider.Account.ID = id
					h.ConnectTo(t, id, id, "files.read")
				}
				names := people(t, h, 8)
				arrived := map[string]int{}
				h.Provider.BeforeFor = func(_ context.Context, connector string) error {
					arrived[connector]++
					if connector == "files" {
						return tc.err
					}
					return nil
				}
				for _, name := range names {
					_, _ = h.Token(name)
				}
				for id, shut := range map[string]bool{"mate": tc.mates, "other": tc.others} {
					_, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: id, Subject: id})
					if (err != nil) != shut || (arrived[id] == 0) != shut {
						t.Errorf("the connector %q: %v after %d requests, want it shut out: %v", id, err, arrived[id], shut)
					}
				}
			})
		})
	}
}
