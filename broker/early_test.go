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

// background runs the replicas' background work until the returned function is called.
func background(t *testing.T, h *brokertest.Harness) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	for _, s := range h.Replicas {
		go func() { _ = s.Run(ctx); done <- struct{}{} }()
	}
	return func() {
		cancel()
		for range h.Replicas {
			<-done
		}
	}
}

// Whoever uses a connection steadily never waits for its provider, even if that takes long, and each refresh happens once.
func TestGrantInUseIsRefreshedAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 3)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		stop := background(t, h)
		defer stop()
		h.Provider.Before = func(context.Context, string) error { time.Sleep(10 * time.Second); return nil }
		h.Provider.Calls = 0
		for i := range 12 * 12 { // half a day, every five minutes, without asking for more than the default
			began := time.Now()
			if _, err := h.Replicas[i%3].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 0 {
				t.Errorf("at %v: waited %v for the provider", time.Duration(i)*5*time.Minute, took)
			}
			time.Sleep(5 * time.Minute)
		}
		if h.Provider.Calls < 12 || h.Provider.Calls > 15 {
			t.Errorf("%d refreshes in half a day of one-hour tokens", h.Provider.Calls)
		}
		if h.Provider.Reuses != 0 {
			t.Errorf("%d refresh tokens were sent twice", h.Provider.Reuses)
		}
		early := 0
		for _, e := range h.Store.Entries(broker.EventTokenRefreshed) {
			if e.Reason != "" {
				early++
			}
		}
		if early < 12 {
			t.Errorf("%d refreshes say on record that nobody asked for them", early)
		}
	})
}

// Nobody uses it, and the provider has no limit for that: nothing is sent.
func TestUnusedGrantIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		stop := background(t, h)
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		stop()
		if h.Provider.Calls > 3 {
			t.Errorf("%d refreshes in a day in which nobody asked for a token", h.Provider.Calls)
		}
		if _, err := h.Token("alice"); err != nil {
			t.Errorf("when somebody asks again: %v", err)
		}
	})
}

// A grant that dies unless it is used within its provider's limit lives, though nobody uses it for long.
func TestIdleLimitIsMet(t *testing.T) {
	for _, answer := range []bool{false, true} {
		t.Run(fmt.Sprintf("limit in the answer: %v", answer), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 2)
				defer drain(t, h)
				const idle = 6 * time.Hour
				h.Provider.Idle = idle
				if answer {
					h.Provider.ReportRefreshExpiry = true
				} else {
					h.Conns[0].RefreshIdle = idle
				}
				h.Connect(t, "alice", "files.read")
				stop := background(t, h)
				time.Sleep(36 * time.Hour)
				stop()
				if h.Provider.Calls < 6 || h.Provider.Calls > 12 {
					t.Errorf("%d refreshes in 36 hours, with a limit of 6", h.Provider.Calls)
				}
				if _, err := h.Token("alice"); err != nil {
					t.Errorf("after six times its limit: %v", err)
				}
			})
		})
	}
}

// When many grants are due at once the provider gets no more than so many requests at a time, and a provider that hangs
// keeps no other's grants from being refreshed.
func TestEarlyRefreshesAreCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		other := brokertest.Files()
		other.ID, other.ProviderID = "mail", "another"
		h.Conns = append(h.Conns, other)
		for i := range 100 {
			name := fmt.Sprintf("person-%d", i)
			h.Provider.Account.ID = name
			h.Connect(t, name, "files.read")
			h.ConnectTo(t, "mail", name, "files.read")
			if _, err := h.Token(name); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: name}); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		running, most, mails := 0, 0, 0
		h.Provider.BeforeFor = func(ctx context.Context, connector string) error {
			mu.Lock()
			defer mu.Unlock()
			if connector == "mail" {
				mails++
				return nil
			}
			running++
			most = max(most, running)
			mu.Unlock()
			<-ctx.Done() // it hangs
			mu.Lock()
			running--
			return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "timeout"}
		}
		stop := background(t, h)
		time.Sleep(h.Provider.Lifetime - time.Second)
		stop()
		mu.Lock()
		defer mu.Unlock()
		if most == 0 || most > 16 {
			t.Errorf("%d requests at once to a provider that hangs", most)
		}
		if mails != 100 {
			t.Errorf("%d of 100 grants were refreshed at the provider that works", mails)
		}
	})
}

// What is revoked or dead is no longer looked after.
func TestRevokedLeavesTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); err != nil {
			t.Fatal(err)
		}
		stop := background(t, h)
		time.Sleep(2 * time.Hour)
		stop()
		if h.Provider.Calls != 0 {
			t.Errorf("%d refreshes of a revoked connection", h.Provider.Calls)
		}
	})
}

// A provider that ends the access token when it is refreshed: nobody who holds one loses it to a refresh ahead of need.
func TestRefreshEndsAccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		h.Conns[0].RefreshEndsAccess = true
		h.Connect(t, "alice", "files.read")
		stop := background(t, h)
		defer stop()
		var first broker.Token
		for i := range 11 { // nearly its hour, the soft band before its end included
			token, err := h.Token("alice")
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = token
			}
			if token.AccessToken != first.AccessToken {
				t.Fatalf("after %v there is another token", time.Duration(i)*5*time.Minute)
			}
			time.Sleep(5 * time.Minute)
		}
		if h.Provider.Calls != 0 {
			t.Errorf("%d refreshes while the token lived", h.Provider.Calls)
		}
		time.Sleep(10 * time.Minute)
		if token, err := h.Token("alice"); err != nil || token.AccessToken == first.AccessToken {
			t.Errorf("once it has ended: %v", err)
		}
	})
}

// A refresh token that lives for a moment is no reason for a stream of refreshes that nobody asked for.
func TestShortRefreshTokensAreNotKeptAlive(t *testing.T) {
	for _, idle := range []time.Duration{30 * time.Second, 4 * time.Minute} {
		t.Run(idle.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				h.Provider.Idle, h.Provider.ReportRefreshExpiry = idle, true
				h.Connect(t, "alice", "files.read")
				stop := background(t, h)
				time.Sleep(6 * time.Hour)
				stop()
				if h.Provider.Calls > 0 {
					t.Errorf("%d refreshes in six hours in which nobody asked for a token", h.Provider.Calls)
				}
			})
		})
	}
}

// Thousands of grants of one provider that are due in the same minutes are all refreshed in time, a few at a time, and none of them
// twice; a grant of another provider does not wait for them.
func TestEarlyRefreshesKeepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		other := brokertest.Files()
		other.ID, other.ProviderID = "mail", "another"
		h.Conns = append(h.Conns, other)
		const n = 2000
		for i := range n {
			name := fmt.Sprintf("person-%d", i)
			h.Provider.Account.ID = name
			h.Connect(t, name, "files.read")
			if _, err := h.Token(name); err != nil {
				t.Fatal(err)
			}
		}
		h.ConnectTo(t, "mail", "person-0", "files.read")
		if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: "person-0"}); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		running, most := 0, 0
		h.Provider.BeforeFor = func(context.Context, string) error {
			mu.Lock()
			running++
			most = max(most, running)
			mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			mu.Lock()
			running--
			mu.Unlock()
			return nil
		}
		stop := background(t, h)
		time.Sleep(h.Provider.Lifetime - 4*time.Minute) // one minute into the soft band
		stop()
		refreshed := map[string]int{}
		for _, e := range h.Store.Entries(broker.EventTokenRefreshed) {
			refreshed[e.Connection]++
		}
		if len(refreshed) != n+1 || h.Provider.Calls != n+1 {
			t.Errorf("%d of %d grants were refreshed before anybody had to ask, with %d requests", len(refreshed), n+1, h.Provider.Calls)
		}
		if most > 16+1 {
			t.Errorf("%d requests at once", most)
		}
	})
}

// A provider that answers, but slowly, has long queues; grants of another one do not stand in them.
func TestSlowProviderHoldsUpNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		other := brokertest.Files()
		other.ID, other.ProviderID = "mail", "another"
		h.Conns = append(h.Conns, other)
		const slow, quick = 1500, 500
		for i := range slow {
			name := fmt.Sprintf("person-%d", i)
			h.Provider.Account.ID = name
			h.Connect(t, name, "files.read")
			if _, err := h.Token(name); err != nil {
				t.Fatal(err)
			}
			if i >= quick {
				continue
			}
			h.ConnectTo(t, "mail", name, "files.read")
			if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: name}); err != nil {
				t.Fatal(err)
			}
		}
		h.Provider.BeforeFor = func(_ context.Context, connector string) error {
			if connector == "files" {
				time.Sleep(20 * time.Second)
			}
			return nil
		}
		stop := background(t, h)
		time.Sleep(h.Provider.Lifetime - 4*time.Minute)
		stop()
		refreshed := map[string]int{}
		for _, e := range h.Store.Entries(broker.EventTokenRefreshed) {
			refreshed[e.Connector]++
		}
		if refreshed["mail"] != quick || refreshed["files"] < 100 {
			t.Errorf("%d of %d at the quick provider, %d at the slow one", refreshed["mail"], quick, refreshed["files"])
		}
	})
}
