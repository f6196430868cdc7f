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
)

// A wrong completing call while the right one is under way must not cost the grant.
func TestWrongCallDuringCompletion(t *testing.T) {
	for _, binding := range []broker.Binding{broker.BindingReturn, broker.BindingCode} {
		t.Run(string(binding), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 1)
				defer drain(t, h)
				req := broker.ConsentRequest{Subject: "alice"}
				if binding == broker.BindingReturn {
					req.ReturnTo = "https://chat.example/done"
				}
				link := newLink(t, h, req)
				finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
				if err != nil {
					t.Fatal(err)
				}
				code := finish.UserCode
				if binding == broker.BindingReturn {
					code = broker.NewSecret(brokertest.Query(t, finish.Location, "code"))
				}
				var ops atomic.Int32
				h.Store.Before = func(ctx context.Context, op string) error {
					// Between the claim and what follows it.
					if (op == "UpdateConsent" || op == "CompleteConsent") && ops.Add(1) == 2 {
						_, _ = h.Service.CompleteConsent(context.Background(), h.Caller(), link.ID, broker.Completion{Subject: "mallory", Code: code})
					}
					return nil
				}
				_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: code})
				if err != nil {
					t.Errorf("the right call: %v; revoked upstream: %d", err, len(h.Provider.Revoked))
				}
				h.Store.Before = nil
				_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: code})
				t.Logf("again: %v", err)
			})
		})
	}
}

// Cancelling in another tab while the account is looked up must not leave a grant that nobody holds.
func TestCancelDuringIdentify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		cb := h.Start(t, link)
		var updates atomic.Int32
		h.Store.Before = func(_ context.Context, op string) error {
			// 1: the state is used up; 2: the grant is kept; 3: awaiting completion. The look-up lies between 2 and 3.
			if op == "UpdateConsent" && updates.Add(1) == 3 {
				if _, err := h.Service.CancelConsent(context.Background(), brokertest.LinkSecret(link), cb.Cookie); broker.CodeOf(err) != broker.CodeSlowDown {
					t.Errorf("cancel: %v", err)
				}
			}
			return nil
		}
		_, err := h.Service.FinishConsent(t.Context(), cb)
		h.Store.Before = nil
		if v := status(t, h, link.ID); err != nil || v.Status != broker.ConsentAwaitingCompletion {
			t.Fatalf("status %s, callback got %v", v.Status, err)
		}
		time.Sleep(broker.ProvisionalLife + time.Second)
		h.Service.Sweep(t.Context())
		if len(h.Provider.Revoked) != 1 {
			t.Errorf("revoked %d: the grant lives on at the provider", len(h.Provider.Revoked))
		}
	})
}

// DELETE erases in any case.
func TestTamperedRecordCanBeDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		h.Store.Before = func(_ context.Context, op string) error {
			switch op {
			case "Connection":
				return broker.ErrIntegrity
			case "OfSubject":
				return &broker.UnreadableError{IDs: []string{conn.ID}, Cause: broker.ErrIntegrity}
			}
			return nil
		}
		if _, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); err != nil {
			t.Errorf("disconnect: %v", err)
		}
		if _, err := h.Service.EraseSubject(t.Context(), h.Caller(), "alice"); err != nil {
			t.Errorf("erase: %v", err)
		}
		if h.Store.RefreshToken(conn.ID) != "" {
			t.Error("the refresh token is still stored")
		}
	})
}

// A page whose last connection was erased meanwhile must not end the list.
func TestListGoesOnAfterAnErasedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		var ids []string
		for _, account := range []string{"u1", "u2", "u3"} {
			h.Provider.Account.ID = account
			ids = append(ids, h.Connect(t, "alice", "files.read").ID)
			time.Sleep(time.Second)
		}
		q := broker.ConnectionQuery{Subject: "alice", Limit: 1}
		_, next, err := h.Service.ListConnections(t.Context(), h.Caller(), q)
		if err != nil || next == "" {
			t.Fatal(err, next)
		}
		if err := h.Store.EndRevoke(t.Context(), "acme", ids[0], broker.RevokedDone, true); err != nil {
			t.Fatal(err)
		}
		q.Cursor, q.Limit = next, 10
		rest, _, err := h.Service.ListConnections(t.Context(), h.Caller(), q)
		if err != nil || len(rest) != 2 {
			t.Errorf("%d of 2 left, %v", len(rest), err)
		}
	})
}

// The filter and what is shown agree.
func TestStatusFilterOfATenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.NoRefreshToken = true
		h.Connect(t, "alice", "files.read")
		time.Sleep(h.Provider.Lifetime + time.Second)
		for _, subject := range []string{"", "alice"} {
			list, _, err := h.Service.ListConnections(t.Context(), h.Caller(), broker.ConnectionQuery{
				Subject: subject, Filter: broker.ConnectionFilter{Status: broker.ConnectionActive}, Limit: 10})
			if err != nil || len(list) != 0 {
				t.Errorf("subject %q, status=active: %d with status %s", subject, len(list), list[0].Status)
			}
			list, _, err = h.Service.ListConnections(t.Context(), h.Caller(), broker.ConnectionQuery{
				Subject: subject, Filter: broker.ConnectionFilter{Status: broker.ConnectionNeedsConsent}, Limit: 10})
			if err != nil || len(list) != 1 {
				t.Errorf("subject %q, status=needs_consent: %d of 1", subject, len(list))
			}
		}
	})
}

type slowRevoke struct{ *brokertest.Provider }

func (p slowRevoke) Revoke(ctx context.Context, connector string, req broker.RevokeRequest) error {
	select {
	case <-ctx.Done():
		return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "did not answer", Cause: ctx.Err()}
	case <-time.After(2 * time.Second):
		return p.Provider.Revoke(ctx, connector, req)
	}
}

// The process is told to end while the sweeper revokes a provisional grant.
func TestShutdownDuringSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		s, err := broker.New(broker.Config{
			Connections: h.Store, Index: h.Store, Refreshes: h.Store, Schedule: h.Store, Shared: h.Store, Revocations: h.Store, Consents: h.Store, Portals: h.Store, Audit: h.Store, Search: h.Store, Placement: h.Store, Cursors: h.Store,
			Upstream: slowRevoke{h.Provider}, Connectors: h, PublicURL: "https://broker.example", Owner: "z",
			Client: func(id string) (broker.Client, bool) { return h.Client, id == h.Client.ID },
			Now:    time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		if _, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(broker.ProvisionalLife + time.Second)
		ctx, stop := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Second); stop() }() // SIGTERM
		s.Sweep(ctx)
		// The next start.
		time.Sleep(5 * time.Minute)
		h.Service.Sweep(t.Context())
		if v := status(t, h, link.ID); len(h.Provider.Revoked) != 1 {
			t.Errorf("consent %s, revoked %d: the provisional grant lives on at the provider", v.Status, len(h.Provider.Revoked))
		}
	})
}

// Refused requests are recorded too.
func TestRefusedConsentRequestsAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		conn := h.Connect(t, "alice", "files.read")
		done := h.Store.Entries()
		n := len(done)
		check := func(what string, err error) {
			t.Helper()
			if err == nil {
				t.Errorf("%s was not refused", what)
			}
			if got := len(h.Store.Entries()); got == n {
				t.Errorf("%s refused (%s), no event", what, broker.CodeOf(err))
			} else {
				n = got
			}
		}
		_, _, err := h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice", Scopes: broker.ParseScopes("files.admin")})
		check("create: scope", err)
		_, _, err = h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "alice", ReturnTo: "https://evil.example"})
		check("create: return_to", err)
		_, _, err = h.Service.CreateConsent(t.Context(), h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "bob", Connection: conn.ID})
		check("create: foreign connection", err)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", Connection: conn.ID})
		cb := h.Start(t, link)
		n = len(h.Store.Entries())
		_, err = h.Service.StartConsent(t.Context(), brokertest.LinkSecret(link), noCookie)
		check("start: another browser", err)
		bent := cb
		bent.Cookie = noCookie
		_, err = h.Service.FinishConsent(t.Context(), bent)
		check("callback: another browser", err)
		h.Provider.Account.ID = "u2"
		finish, err := h.Service.FinishConsent(t.Context(), cb)
		if err != nil {
			t.Fatal(err)
		}
		n = len(h.Store.Entries())
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode})
		check("complete: account_changed", err)
		time.Sleep(broker.ProvisionalLife)
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode})
		check("complete: expired", err)
		other := h.Connect
		_ = other
	})
}

type bare struct {
	*brokertest.Provider
	withheld *broker.UpstreamError
}

func (p *bare) Refresh(ctx context.Context, c string, req broker.RefreshRequest) (broker.Grant, error) {
	g, err := p.Provider.Refresh(ctx, c, req)
	g.AccessToken, g.Withheld = broker.Secret{}, p.withheld
	return g, err
}

// A completing call that meets a draining replica must leave the code for the next one.
func TestCompleteOnADrainingReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", ReturnTo: "https://chat.example/done"})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Replicas[1].Drain(t.Context()); err != nil {
			t.Fatal(err)
		}
		done := broker.Completion{Subject: "alice", Code: broker.NewSecret(brokertest.Query(t, finish.Location, "code"))}
		_, err = h.Replicas[1].CompleteConsent(t.Context(), h.Caller(), link.ID, done)
		t.Logf("draining: %v", err)
		time.Sleep(time.Second)
		if _, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, done); err != nil {
			t.Errorf("the other replica, a second later: %v", err)
		}
	})
}

// What of a revoked record can still be opened is revoked upstream (ports.go, BeginRevoke).
func TestIdentifyRefusedLeavesAUsableConsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.IdentifyErr = &broker.UpstreamError{Class: broker.ClassGrantDead, Status: 401, Code: "invalid_token", What: "userinfo"}
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		n := len(h.Store.Entries())
		_, err = h.Service.CompleteConsent(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: finish.UserCode})
		v := status(t, h, link.ID)
		if broker.CodeOf(err) == broker.CodeExpired && v.Status == broker.ConsentAwaitingCompletion {
			t.Errorf("410 %v, and yet the consent is %s; new events: %d", err, v.Status, len(h.Store.Entries())-n)
		}
	})
}
