package broker_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// expired gives a harness with one connection whose access token has ended.
func expired(t *testing.T, replicas int) (*brokertest.Harness, broker.Connection) {
	h := brokertest.New(t, replicas)
	conn := h.Connect(t, "alice", "files.read")
	time.Sleep(h.Provider.Lifetime + time.Second)
	return h, conn
}

func drain(t *testing.T, h *brokertest.Harness) {
	t.Helper()
	for _, s := range h.Replicas {
		if err := s.Drain(t.Context()); err != nil {
			t.Errorf("drain: %v", err)
		}
	}
}

// Many callers on several replicas, and a provider slower than any of them would like: one refresh, one token.
func TestOneRefreshForEverybody(t *testing.T) {
	for _, latency := range []time.Duration{time.Second, 3 * time.Second, 11 * time.Second, 29 * time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := expired(t, 3)
				defer drain(t, h)
				h.Provider.Before = func(context.Context, string) error { time.Sleep(latency); return nil }
				tokens := make([]broker.Token, 300)
				var wg sync.WaitGroup
				for i := range tokens {
					wg.Go(func() {
						var err error
						tokens[i], err = h.Replicas[i%3].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
						if err != nil {
							t.Errorf("caller %d: %v", i, err)
						}
					})
				}
				wg.Wait()
				if h.Provider.Calls != 1 {
					t.Errorf("the provider was asked %d times, want once", h.Provider.Calls)
				}
				for i := range tokens {
					if tokens[i].AccessToken.Reveal() != tokens[0].AccessToken.Reveal() {
						t.Fatalf("caller %d got another token than caller 0", i)
					}
				}
				if got := len(h.Store.Entries(broker.EventTokenIssued)); got != 300 {
					t.Errorf("%d token.issued entries, want 300", got)
				}
			})
		})
	}
}

// A caller that leaves in the middle of a refresh must not take the new refresh token with it.
func TestCallerLeavesMidRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		h.Provider.Before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if _, err := h.Service.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"}); err == nil {
			t.Fatal("the caller left, and yet got a token")
		}
		time.Sleep(2 * time.Second)
		if _, err := h.Token("alice"); err != nil {
			t.Fatalf("next caller: %v", err)
		}
		if h.Provider.Calls != 1 {
			t.Errorf("the provider was asked %d times, want once", h.Provider.Calls)
		}
		if !h.Provider.Usable(h.Store.RefreshToken(conn.ID)) {
			t.Error("the record does not hold the newest refresh token")
		}
	})
}

// The store is away when the provider has answered: the new refresh token is kept and stored as soon as it can be. A blink of
// it costs the caller nothing but the wait; in a longer outage they are told soon.
func TestStoreAwayBetweenAnswerAndCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		until := time.Now().Add(2 * time.Second)
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "CommitRefresh" && time.Now().Before(until) {
				return errors.New("connection refused")
			}
			return nil
		}
		if _, err := h.Token("alice"); err != nil {
			t.Fatalf("the caller should have waited: %v", err)
		}
		if h.Provider.Calls != 1 || !h.Provider.Usable(h.Store.RefreshToken(conn.ID)) {
			t.Errorf("calls %d, record holds a usable token: %v", h.Provider.Calls, h.Provider.Usable(h.Store.RefreshToken(conn.ID)))
		}

		time.Sleep(h.Provider.Lifetime)
		began := time.Now()
		until = began.Add(time.Minute)
		for range 3 { // whoever comes meanwhile is told at once
			_, err := h.Token("alice")
			if took := time.Since(began); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable || took > 5*time.Second {
				t.Errorf("in an outage: %v after %v", err, took)
			}
		}
		time.Sleep(time.Minute)
		if _, err := h.Token("alice"); err != nil || h.Provider.Calls != 2 || h.Provider.Reuses != 0 {
			t.Errorf("after it: %v, %d calls", err, h.Provider.Calls)
		}
	})
}

// The store hangs instead of saying no: those who wait are told just as soon.
func TestStoreHangsBetweenAnswerAndCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		until := time.Now().Add(time.Minute)
		h.Store.Before = func(ctx context.Context, op string) error {
			if op == "CommitRefresh" && time.Now().Before(until) {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		began := time.Now()
		_, err := h.Token("alice")
		if took := time.Since(began); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable || took > 3*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		time.Sleep(2 * time.Minute)
		if _, err := h.Token("alice"); err != nil || h.Provider.Calls != 1 || !h.Provider.Usable(h.Store.RefreshToken(conn.ID)) {
			t.Errorf("once it is back: %v, %d calls", err, h.Provider.Calls)
		}
	})
}

// A provider that ends the grant when a refresh token is used twice never sees that happen.
func TestStrictProviderSurvivesAThousandRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 2)
		defer drain(t, h)
		for i := range 1000 {
			if _, err := h.Replicas[i%2].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"}); err != nil {
				t.Fatalf("refresh %d: %v", i, err)
			}
			time.Sleep(h.Provider.Lifetime + time.Second)
		}
		if h.Provider.Reuses != 0 || h.Provider.Refreshes != 1000 || !h.Provider.Usable(h.Store.RefreshToken(conn.ID)) {
			t.Errorf("refreshes %d, reuses %d", h.Provider.Refreshes, h.Provider.Reuses)
		}
	})
}

// A holder that was stopped beyond its lease comes back late: its refresh token is kept as an alternate, and saves the
// grant when the current one turns out dead.
func TestLateHolderLeavesAnAlternate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 2)
		defer drain(t, h)
		h.Provider.Rotation = brokertest.Grace
		var commits atomic.Int32
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "CommitRefresh" && commits.Add(1) == 1 {
				time.Sleep(55 * time.Second) // beyond the lease: as SIGSTOP would
			}
			return nil
		}
		done := make(chan error, 1)
		go func() { _, err := h.Token("alice"); done <- err }()
		time.Sleep(53 * time.Second)
		if _, err := h.Replicas[1].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"}); err != nil {
			t.Fatalf("the other replica, after the lease: %v", err)
		}
		<-done
		time.Sleep(5 * time.Second)
		h.Provider.Rotation = brokertest.Strict
		h.Provider.KillToken(h.Store.RefreshToken(conn.ID))
		time.Sleep(h.Provider.Lifetime)
		if _, err := h.Token("alice"); err != nil {
			t.Fatalf("the alternate should have saved the grant: %v", err)
		}
		if !h.Provider.Usable(h.Store.RefreshToken(conn.ID)) {
			t.Error("the record does not hold a usable refresh token")
		}
	})
}

func TestWhatAFailedRefreshMeans(t *testing.T) {
	fault := func(class broker.Class) error { return &broker.UpstreamError{Class: class, What: "test"} }
	for _, tc := range []struct {
		name   string
		err    error
		code   broker.Code
		status broker.ConnectionStatus
	}{
		{"client refused", fault(broker.ClassClientRefused), broker.CodeProviderMisconfigured, broker.ConnectionActive},
		{"unsent", fault(broker.ClassUnsent), broker.CodeProviderUnavailable, broker.ConnectionActive},
		{"throttled", fault(broker.ClassThrottled), broker.CodeProviderUnavailable, broker.ConnectionActive},
		{"in doubt", fault(broker.ClassInDoubt), broker.CodeProviderUnavailable, broker.ConnectionActive},
		{"refused", fault(broker.ClassRefused), broker.CodeProviderUnavailable, broker.ConnectionActive},
		{"grant dead", fault(broker.ClassGrantDead), broker.CodeConsentRequired, broker.ConnectionNeedsConsent},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, conn := expired(t, 1)
				defer drain(t, h)
				before := h.Store.RefreshToken(conn.ID)
				h.Provider.Before = func(context.Context, string) error { return tc.err }
				_, err := h.Token("alice")
				if broker.CodeOf(err) != tc.code {
					t.Errorf("error %v, want %s", err, tc.code)
				}
				got, err := h.Service.GetConnection(t.Context(), h.Caller(), conn.ID)
				if err != nil || got.Status != tc.status {
					t.Errorf("status %s (%v), want %s", got.Status, err, tc.status)
				}
				if h.Store.RefreshToken(conn.ID) != before {
					t.Error("the refresh token was touched: no failure may delete it")
				}
				if len(h.Store.Entries(broker.EventTokenRefreshFailed)) != 1 {
					t.Error("the failure left no token.refresh_failed entry")
				}
				// When the provider is well again, so is the connection, unless its grant is over.
				h.Provider.Before = nil
				time.Sleep(time.Minute)
				if _, err := h.Token("alice"); (err == nil) != (tc.status == broker.ConnectionActive) {
					t.Errorf("after the provider's recovery: %v", err)
				}
			})
		})
	}
}

// A provider that fails is not asked again by every caller, but soon enough that its recovery is noticed.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := expired(t, 2)
		defer drain(t, h)
		calls := 0
		h.Provider.Before = func(context.Context, string) error {
			calls++
			return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "500"}
		}
		for i := range 600 { // ten a second for a minute, on two replicas
			_, err := h.Replicas[i%2].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
			var e *broker.Error
			if !errors.As(err, &e) || e.Code != broker.CodeProviderUnavailable || e.RetryAfter <= 0 {
				t.Fatalf("while it fails: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if calls < 5 || calls > 12 {
			t.Errorf("the failing provider was asked %d times in a minute", calls)
		}
		h.Provider.Before = nil
		time.Sleep(31 * time.Second)
		if _, err := h.Token("alice"); err != nil {
			t.Errorf("after its recovery: %v", err)
		}
	})
}

// A process that is stopped between taking the lease and sending must not send when it goes on: by then another one may
// have the lease.
func TestStoppedBeforeSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		stops := 0
		h.Store.Leased = func() {
			if stops++; stops == 1 {
				time.Sleep(30 * time.Second)
			}
		}
		first := time.Time{}
		h.Provider.Before = func(context.Context, string) error { first = time.Now(); return nil }
		began := time.Now()
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		if stops != 2 || first.Sub(began) < 30*time.Second || h.Provider.Calls != 1 {
			t.Errorf("%d leases, %d calls: want a second lease before the only call", stops, h.Provider.Calls)
		}
		if !h.Provider.Usable(h.Store.RefreshToken(conn.ID)) {
			t.Error("the grant is lost")
		}
	})
}

// While the provider is down, a token that is still valid is served, marked; whoever insists on min_ttl is refused.
func TestDegradedWhileStillValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		time.Sleep(h.Provider.Lifetime - 30*time.Second)
		h.Provider.Before = func(context.Context, string) error {
			return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "500"}
		}
		token, err := h.Token("alice")
		if err != nil || !token.Degraded || token.ExpiresIn > 30*time.Second {
			t.Fatalf("token %+v, %v: want the old one, degraded", token, err)
		}
		minTTL := time.Minute
		_, err = h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", MinTTL: &minTTL})
		if broker.CodeOf(err) != broker.CodeProviderUnavailable {
			t.Errorf("a stated min_ttl got %v", err)
		}
		h.Provider.Before = nil
		time.Sleep(time.Minute)
		if token, err = h.Token("alice"); err != nil || token.Degraded {
			t.Errorf("after recovery: degraded %v, %v", token.Degraded, err)
		}
	})
}

// Near its end a token is refreshed in the background, once, while everybody gets the old one.
func TestSoftBand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		first, _ := h.Token("alice")
		time.Sleep(h.Provider.Lifetime - 4*time.Minute)
		h.Provider.Before = func(context.Context, string) error { time.Sleep(3 * time.Second); return nil }
		for range 10 {
			began := time.Now()
			token, err := h.Token("alice")
			if err != nil || token.AccessToken.Reveal() != first.AccessToken.Reveal() || time.Since(began) > 0 {
				t.Fatalf("in the soft band nobody waits: %v after %v", err, time.Since(began))
			}
		}
		time.Sleep(5 * time.Second)
		token, err := h.Token("alice")
		if err != nil || token.AccessToken.Reveal() == first.AccessToken.Reveal() || h.Provider.Calls != 1 {
			t.Errorf("%v, calls %d, still the old token: %v", err, h.Provider.Calls, token.AccessToken.Reveal() == first.AccessToken.Reveal())
		}
	})
}

// Disconnecting while a refresh is under way: no token afterwards, and the late grant is revoked too (threat 48).
func TestDisconnectBeatsRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		h.Provider.Before = func(context.Context, string) error { time.Sleep(3 * time.Second); return nil }
		done := make(chan error, 1)
		go func() { _, err := h.Token("alice"); done <- err }()
		time.Sleep(time.Second)
		h.Provider.FailRevocations(broker.ErrRevokeUnsupported) // so that the old token still refreshes at the provider
		if _, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); err != nil {
			t.Fatal(err)
		}
		h.Provider.FailRevocations(nil)
		if err := <-done; broker.CodeOf(err) != broker.CodeConsentRequired {
			t.Errorf("the waiting caller got %v", err)
		}
		synctest.Wait()
		if len(h.Provider.Revoked) != 1 {
			t.Errorf("revoked upstream: %v, want the late refresh token", h.Provider.Revoked)
		}
		if h.Store.RefreshToken(conn.ID) != "" {
			t.Error("a revoked connection holds a refresh token again")
		}
	})
}
