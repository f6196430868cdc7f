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

// Erasing a subject beside a running completion: whoever is second, the grant does not live on with nobody holding it.
func TestEraseBesideCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.ExchangeTakes = 2 * time.Second
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice", ReturnTo: "https://chat.example/done"})
		finish, err := h.Service.FinishConsent(t.Context(), h.Start(t, link))
		if err != nil {
			t.Fatal(err)
		}
		completed := make(chan error, 1)
		var armed atomic.Bool
		h.Store.Before = func(_ context.Context, op string) error {
			// The eraser has read the consent, and writes only after the exchange has stored its grant.
			if op == "UpdateConsent" && armed.CompareAndSwap(true, false) {
				time.Sleep(200 * time.Millisecond)
			}
			return nil
		}
		go func() {
			_, err := h.Service.CompleteConsent(context.Background(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: broker.NewSecret(brokertest.Query(t, finish.Location, "code"))})
			completed <- err
		}()
		time.Sleep(1900 * time.Millisecond) // the exchange is in flight
		armed.Store(true)
		if _, err := h.Service.EraseSubject(t.Context(), h.Caller(), "alice"); err != nil {
			t.Fatal(err)
		}
		<-completed
		synctest.Wait()
		if conns, _, err := h.Service.ListConnections(t.Context(), h.Caller(), broker.ConnectionQuery{Subject: "alice", Limit: 10}); err != nil || len(conns) != 0 {
			t.Errorf("an erased subject has %d connections, %v", len(conns), err)
		}
		if len(h.Provider.Revoked) == 0 {
			t.Error("the grant lives on at the provider, and nobody holds it")
		}
	})
}

// Erasing while the replica is ending revokes all the same, before it says that it is done.
func TestEraseBesideDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
		if _, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil {
			t.Fatal(err)
		}
		drained := make(chan error, 1)
		h.Store.Before = func(_ context.Context, op string) error {
			if op == "UpdateConsent" {
				go func() { drained <- h.Service.Drain(context.Background()) }()
				time.Sleep(time.Millisecond)
			}
			return nil
		}
		if _, err := h.Service.EraseSubject(t.Context(), h.Caller(), "alice"); err != nil || len(h.Provider.Revoked) != 1 {
			t.Errorf("%v, revoked %d", err, len(h.Provider.Revoked))
		}
		if err := <-drained; err != nil {
			t.Error(err)
		}
	})
}

// Grants of a provider that can't be told don't keep the sweeper from everything that comes after them.
func TestSweepGoesPastADownProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		for i := range 120 {
			link := newLink(t, h, broker.ConsentRequest{Subject: fmt.Sprint("u", i)})
			if _, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		newLink(t, h, broker.ConsentRequest{Subject: "bob"})
		h.Provider.FailRevocations(&broker.UpstreamError{Class: broker.ClassUnsent, What: "down"})
		time.Sleep(20 * time.Minute)
		for range 4 {
			h.Service.Sweep(t.Context())
			time.Sleep(time.Second)
		}
		ended := 0
		for _, e := range h.Store.Entries(broker.EventConsentFailed) {
			if e.Subject == "bob" {
				ended++
			}
		}
		if ended != 1 {
			t.Errorf("%d ends of the link behind them", ended)
		}
		h.Provider.FailRevocations(nil)
		time.Sleep(5 * time.Minute)
		h.Service.Sweep(t.Context())
		h.Service.Sweep(t.Context())
		if len(h.Provider.Revoked) != 120 {
			t.Errorf("%d of 120 revoked once the provider is back", len(h.Provider.Revoked))
		}
	})
}

// A provider that does not answer costs the others a few time-outs, however many of its grants are due: theirs are put off, and a
// grant that nobody completed elsewhere is revoked within a minute.
func TestSilentProviderHoldsUpNoOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		slow := h.Conns[0]
		slow.ID, slow.ProviderID, slow.ClientKey = "slow", "slow", "slow/client"
		h.Conns = append(h.Conns, slow)
		for i := range 400 {
			link := newLink(t, h, broker.ConsentRequest{Connector: "slow", Subject: fmt.Sprint("u", i)})
			cb := h.Start(t, link)
			cb.Connector = "slow"
			if _, err := h.Service.FinishConsent(t.Context(), cb); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		link := newLink(t, h, broker.ConsentRequest{Subject: "bob"})
		if _, err := h.Service.FinishConsent(t.Context(), h.Start(t, link)); err != nil {
			t.Fatal(err)
		}
		h.Provider.BeforeRevoke = func(ctx context.Context, connector string) error {
			if connector != "slow" {
				return nil
			}
			<-ctx.Done()
			return &broker.UpstreamError{Class: broker.ClassInDoubt, What: "did not answer", Cause: ctx.Err()}
		}
		time.Sleep(broker.ProvisionalLife)
		due := time.Now()
		for len(h.Provider.Revoked) == 0 && time.Since(due) < time.Hour {
			h.Service.Sweep(t.Context())
			time.Sleep(5 * time.Second)
		}
		if took := time.Since(due); len(h.Provider.Revoked) != 1 || took > time.Minute {
			t.Errorf("%d grants of the provider that answers are revoked, after %v", len(h.Provider.Revoked), took)
		}
		h.Provider.BeforeRevoke = nil
		for range 40 {
			time.Sleep(time.Minute)
			h.Service.Sweep(t.Context())
		}
		if n := len(h.Provider.Revoked); n != 401 {
			t.Errorf("%d of 401 revoked once the provider answers again", n)
		}
	})
}
