package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// people connects that many accounts and lets their tokens end.
func people(t *testing.T, h *brokertest.Harness, n int) []string {
	t.Helper()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("person-%d", i))
		h.Provider.Account.ID = "account-" + names[i]
		h.Connect(t, names[i], "files.read")
	}
	time.Sleep(h.Provider.Lifetime + time.Second)
	return names
}

func down(context.Context, string) error {
	return &broker.UpstreamError{Class: broker.ClassInDoubt, Status: 503, What: "token endpoint answered 503"}
}

// A provider that fails for everybody is left alone but for one who tries, however many users come.
func TestCircuitSparesADownProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		names := people(t, h, 200)
		h.Provider.Before = down
		before := h.Provider.Calls
		arrived := 0
		h.Provider.Before = func(ctx context.Context, token string) error { arrived++; return down(ctx, token) }
		for range 3 { // three times within the minute, all of them
			for _, name := range names {
				_, err := h.Token(name)
				var e *broker.Error
				if !errors.As(err, &e) || e.Code != broker.CodeProviderUnavailable || e.RetryAfter < time.Second {
					t.Fatalf("while the provider is down: %v", err)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		if arrived > 15 {
			t.Errorf("a down provider got %d requests in a minute", arrived)
		}
		h.Provider.Before = nil
		time.Sleep(31 * time.Second) // beyond the longest pause
		for _, name := range names {
			if _, err := h.Token(name); err != nil {
				t.Fatalf("after its recovery: %v", err)
			}
		}
		if got := h.Provider.Calls - before; got != len(names) {
			t.Errorf("%d refreshes after its recovery, want one for each of %d", got, len(names))
		}
	})
}

// Another provider's users notice nothing, not even a moment's delay.
func TestCircuitIsOneProviders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		other := brokertest.Files()
		other.ID, other.ProviderID = "mail", "another"
		h.Conns = append(h.Conns, other)
		names := people(t, h, 10)
		for _, name := range names[:5] {
			h.ConnectTo(t, "mail", name, "files.read")
		}
		time.Sleep(h.Provider.Lifetime + time.Second)
		h.Provider.BeforeFor = func(ctx context.Context, connector string) error {
			if connector == "files" {
				return down(ctx, "")
			}
			return nil
		}
		for _, name := range names {
			_, _ = h.Token(name)
		}
		for _, name := range names[:5] {
			began := time.Now()
			if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: name}); err != nil {
				t.Errorf("at the provider that works: %v", err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("at the provider that works it took %v longer", took)
			}
		}
	})
}

// One user's trouble is that user's alone, however often they come back.
func TestOneBadGrantOpensNoCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		people(t, h, 2)
		arrived := 0
		h.Provider.Before = func(ctx context.Context, token string) error { arrived++; return down(ctx, token) }
		for arrived < 8 {
			_, _ = h.Token("person-0")
			time.Sleep(10 * time.Millisecond)
		}
		h.Provider.Before = nil
		if _, err := h.Token("person-1"); err != nil {
			t.Errorf("for another user of a provider that answers: %v", err)
		}
	})
}

// The provider's Retry-After holds for everybody once it throttles everybody, and all who wait do not come at once.
func TestCircuitHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		names := people(t, h, 20)
		var mu sync.Mutex
		var arrived []time.Time
		h.Provider.Before = func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			arrived = append(arrived, time.Now())
			return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: 40 * time.Second, What: "throttled"}
		}
		for _, name := range names {
			_, _ = h.Token(name)
		}
		if len(arrived) != 5 {
			t.Errorf("%d requests until it was left alone, want 5", len(arrived))
		}
		last := arrived[len(arrived)-1]
		for range 39 {
			time.Sleep(time.Second)
			_, err := h.Token(names[len(names)-1])
			var e *broker.Error
			if !errors.As(err, &e) || e.RetryAfter <= 0 {
				t.Fatalf("during the pause: %v", err)
			}
		}
		if len(arrived) != 5 {
			t.Errorf("%d requests, the last %v after it asked for 40 s", len(arrived), arrived[len(arrived)-1].Sub(last))
		}
	})
}

// A token that is still good is handed out while the circuit is open, and says that its refresh is failing.
func TestDegradedWhileTheCircuitIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		names := people(t, h, 6)
		h.Provider.Account.ID = "fresh"
		h.Connect(t, "fresh", "files.read")
		time.Sleep(h.Provider.Lifetime - 4*time.Minute)
		h.Provider.Before = down
		for _, name := range names {
			_, _ = h.Token(name)
		}
		token, err := h.Token("fresh")
		if err != nil || !token.Degraded {
			t.Errorf("degraded %v, %v", token.Degraded, err)
		}
		if !strings.HasPrefix(token.AccessToken.Reveal(), "at-") {
			t.Error("no token")
		}
	})
}
