package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// The answer to the write that makes a consent await its completion is lost, and by the time that this is known the chat has
// completed it through another replica: the grant is the connection's, and stays.
func TestCompletedBeforeItsWriteIsKnown(t *testing.T) {
	ctx := context.Background()
	// overtake completes the consent elsewhere as soon as it awaits that, and loses the answer to the write that made it do so.
	overtake := func(h *brokertest.Harness, id string, complete func(other *broker.Service)) {
		done := false
		h.Store.After = func(_ context.Context, op string) error {
			if op != "UpdateConsent" || done {
				return nil
			}
			if v, err := h.Replicas[1].ConsentStatus(ctx, h.Caller(), id); err != nil || v.Status != broker.ConsentAwaitingCompletion {
				return nil
			}
			done = true
			complete(h.Replicas[1])
			return errBlink
		}
	}
	stays := func(t *testing.T, h *brokertest.Harness, subject string) {
		t.Helper()
		synctest.Wait()
		if len(h.Provider.Revoked) != 0 {
			t.Errorf("revoked at the provider: %v", h.Provider.Revoked)
		}
		time.Sleep(h.Provider.Lifetime + time.Second)
		if _, err := h.Token(subject); err != nil {
			t.Errorf("the connection's refresh: %v", err)
		}
	}
	t.Run("code", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 2)
			defer drain(t, h)
			link := newLink(t, h, broker.ConsentRequest{Subject: "alice"})
			cb := h.Start(t, link)
			overtake(h, link.ID, func(other *broker.Service) {
				page, err := other.FinishedConsent(ctx, link.ID, cb.Cookie) // the user has loaded it again
				if err != nil {
					t.Error(err)
				}
				if _, err := other.CompleteConsent(ctx, h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: page.UserCode}); err != nil {
					t.Error(err)
				}
			})
			if f, err := h.Service.FinishConsent(ctx, cb); err != nil || f.Status != broker.ConsentCompleted {
				t.Errorf("callback: %v, %v", f.Status, err)
			}
			stays(t, h, "alice")
		})
	})
	t.Run("device", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := television(t, 2)
			defer drain(t, h)
			view := beginDevice(t, h, "alice")
			overtake(h, view.ID, func(other *broker.Service) {
				if _, err := other.CompleteConsent(ctx, h.Caller(), view.ID, broker.Completion{Subject: "alice", Code: broker.NewSecret("WXYZ-0001")}); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(6 * time.Second)
			h.Service.Sweep(ctx)
			stays(t, h, "alice")
		})
	})
}
