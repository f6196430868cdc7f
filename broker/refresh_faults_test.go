package broker_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// One grant's refused refresh must not stop the refreshes of everybody else on the connector.
func TestRefusedRefreshIsOneGrantsMatter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		alice := h.Connect(t, "alice", "files.read")
		h.Provider.Account.ID = "u2"
		h.Connect(t, "bob", "files.read")
		aliceToken := h.Store.RefreshToken(alice.ID)
		time.Sleep(h.Provider.Lifetime + time.Second)
		h.Provider.Before = func(_ context.Context, token string) error {
			if token == aliceToken {
				return &broker.UpstreamError{Class: broker.ClassRefused, Status: 400, What: "unknown code"}
			}
			return nil
		}
		_, _ = h.Token("alice")
		if _, err := h.Token("bob"); err != nil {
			t.Errorf("bob, after alice's refused refresh: %v", err)
		}
	})
}

// A narrowed token can't be had from a connection without a refresh token; that must not end the connection.
func TestNarrowingDoesNotEndAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Conns[0].Narrows = true
		h.Provider.NoRefreshToken = true
		conn := h.Connect(t, "alice", "files.read files.write")
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		ceiling := broker.ParseScopes("files.read")
		h.Client.Scopes = &ceiling
		_, err := h.Token("alice")
		if broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("a client with a ceiling: %v, want access_denied", err)
		}
		got, err := h.Service.GetConnection(t.Context(), h.Caller(), conn.ID)
		if err != nil || got.Status != broker.ConnectionActive {
			t.Errorf("connection is %s (%s), %v; its token lives on for an hour", got.Status, got.Error, err)
		}
	})
}

// Alternates that could not be tried say nothing about the grant.
func TestUntriedAlternatesAreNoVerdict(t *testing.T) {
	for _, tc := range []string{"in doubt", "store away"} {
		t.Run(tc, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, conn := expired(t, 2)
				defer drain(t, h)
				h.Provider.Rotation = brokertest.Grace
				var stopped atomic.Bool
				h.Store.Before = func(_ context.Context, op string) error {
					if op == "CommitRefresh" && stopped.CompareAndSwap(false, true) {
						time.Sleep(55 * time.Second)
					}
					return nil
				}
				done := make(chan error, 1)
				go func() { _, err := h.Token("alice"); done <- err }()
				time.Sleep(53 * time.Second)
				if _, err := h.Replicas[1].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"}); err != nil {
					t.Fatal(err)
				}
				<-done
				time.Sleep(5 * time.Second)
				synctest.Wait()
				current := h.Store.RefreshToken(conn.ID)
				h.Provider.KillToken(current)
				h.Store.Before = nil
				switch tc {
				case "in doubt":
					h.Provider.Before = func(_ context.Context, token string) error {
						if token != current {
							return &broker.UpstreamError{Class: broker.ClassUnsent, What: "connection refused"}
						}
						return nil
					}
				case "store away":
					h.Store.Before = func(_ context.Context, op string) error {
						if op == "Alternates" {
							return context.DeadlineExceeded
						}
						return nil
					}
				}
				time.Sleep(h.Provider.Lifetime)
				_, err := h.Token("alice")
				synctest.Wait()
				h.Provider.Before, h.Store.Before = nil, nil
				got, _ := h.Service.GetConnection(t.Context(), h.Caller(), conn.ID)
				if got.Status != broker.ConnectionActive {
					t.Errorf("status %s after %v: an alternate that works was never tried", got.Status, broker.CodeOf(err))
				}
			})
		})
	}
}

// The late refresh token of the account before must never serve the account that replaced it.
func TestAlternateOfTheReplacedAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		h.Provider.Rotation = brokertest.Grace
		h.Provider.FailRevocations(broker.ErrRevokeUnsupported)
		h.Provider.Before = func(context.Context, string) error { time.Sleep(5 * time.Second); return nil }
		done := make(chan error, 1)
		go func() { _, err := h.Token("alice"); done <- err }() // refreshes u1's grant
		time.Sleep(time.Second)
		// Meanwhile the user replaces u1 by u2.
		var second string
		func() {
			h2 := h.Provider
			_ = h2
		}()
		h.Provider.Account = broker.Account{ID: "u2", Name: "Bob"}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: conn.ID})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode, Replace: true}); err != nil {
			t.Fatal(err)
		}
		second = h.Store.RefreshToken(conn.ID)
		<-done
		synctest.Wait()
		var used string
		h.Provider.Before = func(_ context.Context, token string) error { used = token; return nil }
		h.Provider.Kill(second) // u2's grant ends at the provider
		time.Sleep(h.Provider.Lifetime + time.Second)
		token, err := h.Token("alice")
		if err == nil {
			t.Errorf("a token made with %s (u1's grant; u2's was %s) went out as account %s", used, second, token.Account.ID)
		}
	})
}

// A refresh that brought no access token is no success, and says why it brought none. The refresh token that it brought is
// what the next one uses.
func TestRefreshWithoutAccessToken(t *testing.T) {
	for reason, withheld := range map[string]*broker.UpstreamError{
		string(broker.ClassInDoubt): nil,
		string(broker.ClassRefused): {Class: broker.ClassRefused, What: "a token of another kind"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 1)
			p := &bare{Provider: h.Provider, withheld: withheld}
			s, err := broker.New(broker.Config{
				Connections: h.Store, Index: h.Store, Refreshes: h.Store, Schedule: h.Store, Shared: h.Store, Revocations: h.Store, Consents: h.Store, Portals: h.Store, Audit: h.Store, Search: h.Store, Placement: h.Store, Cursors: h.Store,
				Upstream: p, Connectors: h, PublicURL: "https://broker.example", Owner: "z",
				Client: func(id string) (broker.Client, bool) { return h.Client, id == h.Client.ID },
				Now:    time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			h.Connect(t, "alice", "files.read")
			time.Sleep(h.Provider.Lifetime + time.Second)
			for range 40 {
				_, err := s.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
				if broker.CodeOf(err) != broker.CodeProviderUnavailable {
					t.Errorf("whoever asks hears %v", err)
				}
				time.Sleep(250 * time.Millisecond)
			}
			ok, failed := len(h.Store.Entries(broker.EventTokenRefreshed)), h.Store.Entries(broker.EventTokenRefreshFailed)
			if ok != 0 || len(failed) == 0 || h.Provider.Calls > 8 {
				t.Errorf("%d token.refreshed, %d token.refresh_failed, %d calls in 10 s", ok, len(failed), h.Provider.Calls)
			}
			for _, entry := range failed {
				if entry.Reason != reason {
					t.Errorf("token.refresh_failed for %q, want %q", entry.Reason, reason)
				}
			}
			if h.Provider.Reuses > 0 {
				t.Errorf("%d used refresh tokens were sent again", h.Provider.Reuses)
			}
		})
	}
}

// The store blinks while a failed refresh is recorded.
func TestStoreAwayAtAFailedRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := expired(t, 1)
		defer drain(t, h)
		back := time.Now().Add(3 * time.Second)
		h.Provider.Before = func(context.Context, string) error {
			return &broker.UpstreamError{Class: broker.ClassUnsent, What: "refused"}
		}
		h.Store.Before = func(_ context.Context, op string) error {
			if (op == "FailRefresh" || op == "EndRefresh") && time.Now().Before(back) {
				return context.DeadlineExceeded
			}
			return nil
		}
		_, _ = h.Token("alice")
		h.Provider.Before = nil
		time.Sleep(4 * time.Second) // everything is well again
		began := time.Now()
		_, err := h.Token("alice")
		if took := time.Since(began); took > 2*time.Second || err != nil {
			t.Errorf("after %v: %v", took, err)
		}
	})
}

// In the soft band, while our client is refused, degraded says so.
func TestDegradedWhileOurClientIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		time.Sleep(h.Provider.Lifetime - 4*time.Minute)
		h.Provider.Before = func(context.Context, string) error {
			return &broker.UpstreamError{Class: broker.ClassClientRefused, What: "401"}
		}
		for range 3 {
			_, _ = h.Token("alice")
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if token, err := h.Token("alice"); err != nil || !token.Degraded {
			t.Errorf("its refresh is failing, degraded is %v (%v)", token.Degraded, err)
		}
	})
}

// A user who ended the grant at the provider is no fault of ours.
func TestOutcomeOfADeadGrant(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		h.Provider.Kill(h.Store.RefreshToken(conn.ID))
		_, _ = h.Token("alice")
	})
	var rm metricdata.ResourceMetrics
	_ = reader.Collect(context.Background(), &rm)
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			if m.Name != "tokenbroker.refreshes" {
				continue
			}
			for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
				if v, _ := p.Attributes.Value("outcome"); v.AsString() == "server_error" {
					t.Errorf("a dead grant counts as %s", v.AsString())
				}
			}
		}
	}
}

// The record moved on while its refresh token was found dead: its newer token is tried before anything is said.
func TestMovedOnBeforeAlternates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		var dead, moved atomic.Bool
		h.Provider.Before = func(context.Context, string) error {
			if dead.CompareAndSwap(false, true) {
				return &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 400, Code: "invalid_grant", What: "dead"}
			}
			return nil
		}
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "Alternates" && moved.CompareAndSwap(false, true) {
				return broker.ErrConflict
			}
			return nil
		}
		_, err := h.Token("alice")
		got, _ := h.Service.GetConnection(t.Context(), h.Caller(), conn.ID)
		if err != nil || !moved.Load() || got.Status != broker.ConnectionActive {
			t.Errorf("status %s, %v: the record that moved on was not looked at", got.Status, err)
		}
	})
}

// What does not open is put on record also if the caller's time ends before that, and he is answered in time.
func TestIntegrityFailureInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		h.Store.Before = func(_ context.Context, op string) error {
			switch op {
			case "Release":
				return broker.ErrIntegrity
			case "Append":
				time.Sleep(200 * time.Millisecond)
			}
			return nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := h.Service.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
		if took := time.Since(began); broker.CodeOf(err) != broker.CodeServerError || took > 100*time.Millisecond {
			t.Errorf("after %v: %v", took, err)
		}
		time.Sleep(time.Second)
		if n := len(h.Store.Entries(broker.EventIntegrityFailed)); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}
