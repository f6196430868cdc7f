package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
)

// Threat 78: a tenant is erased while a refresh is under way. What the provider gave is revoked there, nobody tries for ever to store
// it, and the process can end.
func TestThreat78RefreshOfAnErasedTenant(t *testing.T) {
	for _, op := range []string{"CommitRefresh", "FailRefresh"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, _ := expired(t, 1)
				if op == "FailRefresh" {
					h.Provider.Before = func(context.Context, string) error {
						return &broker.UpstreamError{Class: broker.ClassUnsent, What: "refused"}
					}
				}
				tries := 0
				h.Store.Before = func(_ context.Context, at string) error {
					if at != op {
						return nil
					}
					tries++
					return fmt.Errorf("seal: %w", broker.ErrTenantErased)
				}
				revoked := len(h.Provider.Revoked)
				if _, err := h.Token("alice"); err == nil {
					t.Error("a token of an erased tenant")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				if err := h.Service.Drain(ctx); err != nil || tries != 1 {
					t.Errorf("%d tries, drained: %v", tries, err)
				}
				if n := len(h.Provider.Revoked) - revoked; op == "CommitRefresh" && n != 1 {
					t.Errorf("%d grants revoked at the provider", n)
				}
			})
		})
	}
}
