package broker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// Whoever is to be shown a link waits no longer than it said, also while the store takes its time to make one; and the link is
// made all the same.
func TestLinkWithinDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "CreateConsent" {
				time.Sleep(800 * time.Millisecond)
			}
			return nil
		}
		ask := func(patience time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			began := time.Now()
			_, err := h.Service.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice"})
			return time.Since(began), err
		}
		if took, err := ask(300 * time.Millisecond); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable || took > 300*time.Millisecond {
			t.Errorf("answered %v after %v", err, took)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		if took, err := ask(300 * time.Millisecond); broker.CodeOf(err) != broker.CodeConsentRequired || took > 0 {
			t.Errorf("the second time: %v after %v", err, took)
		}
	})
}
