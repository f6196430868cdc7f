package broker_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// limited is a provider that works on so many requests at a time, each for 200 ms, and answers 429 beyond.
type limited struct {
	at                         int
	mu                         sync.Mutex
	running, most, over, calls int
}

func (l *limited) before(context.Context, string) error {
	l.mu.Lock()
	l.calls++
	if l.running >= l.at {
		l.over++
		l.mu.Unlock()
		return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, What: "token endpoint answered 429"}
	}
	l.running++
	l.most = max(l.most, l.running)
	l.mu.Unlock()
	time.Sleep(200 * time.Millisecond)
	l.mu.Lock()
	l.running--
	l.mu.Unlock()
	return nil
}

// persistent asks until there is a token, and comes again when it is told to; it tells how often it was sent away.
func persistent(t *testing.T, h *brokertest.Harness, replica int, name string) (away int) {
	for {
		_, err := h.Replicas[replica].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: name})
		if err == nil {
			return away
		}
		var e *broker.Error
		if !errors.As(err, &e) || e.Code != broker.CodeProviderUnavailable || e.RetryAfter < time.Second || e.RetryAfter > time.Minute {
			t.Errorf("%s: %v", name, err)
			return away
		}
		if away++; away > 30 {
			t.Errorf("%s was sent away %d times", name, away)
			return away
		}
		time.Sleep(e.RetryAfter)
	}
}

// Two thousand tokens of one provider that ended, all asked for at once, at two replicas: the provider's limit, which nobody told us,
// is found with few refusals, everybody gets a token, and those of another provider wait for nothing.
func TestStormMeetsALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		other := brokertest.Files()
		other.ID, other.ProviderID, other.ClientKey = "mail", "another", "another"
		h.Conns = append(h.Conns, other)
		h.ConnectTo(t, "mail", "neighbour", "files.read")
		names := people(t, h, 2000)
		provider := &limited{at: 20}
		h.Provider.BeforeFor = func(ctx context.Context, connector string) error {
			if connector == "mail" {
				return nil
			}
			return provider.before(ctx, connector)
		}
		var group sync.WaitGroup
		var mu sync.Mutex
		away := 0
		began := time.Now()
		for i, name := range names {
			group.Go(func() {
				n := persistent(t, h, i%2, name)
				mu.Lock()
				away += n
				mu.Unlock()
			})
		}
		full := 3600 * time.Second
		for range 100 {
			asked := time.Now()
			if _, err := h.Replicas[0].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: "neighbour", MinTTL: &full}); err != nil {
				t.Errorf("at another provider: %v", err)
			}
			if took := time.Since(asked); took > 0 {
				t.Errorf("at another provider somebody waited %v", took)
			}
			time.Sleep(100 * time.Millisecond)
		}
		group.Wait()
		took := time.Since(began)
		t.Logf("%v, %d requests, %d of them beyond the limit, %d times sent away", took, provider.calls, provider.over, away)
		if provider.over > len(names)/10 {
			t.Errorf("%d of %d requests went beyond the provider's limit", provider.over, provider.calls)
		}
		// 20 at once of 200 ms each are 100 a second.
		if took > 60*time.Second {
			t.Errorf("2000 refreshes took %v, 20 s at the provider's own pace", took)
		}
		if h.Provider.Reuses != 0 {
			t.Errorf("%d refresh tokens were sent twice", h.Provider.Reuses)
		}
	})
}

// What the operator set for all replicas together is not exceeded, and what is set for each process neither.
func TestRefreshesAtOnce(t *testing.T) {
	for _, all := range []int{0, 6} {
		t.Run(fmt.Sprintf("for all: %d", all), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 3)
				defer drain(t, h)
				names := people(t, h, 300)
				h.Conns[0].RefreshesAtOnce = all
				for _, s := range h.Replicas {
					broker.SetShare(s, 10, 3)
				}
				want := 30
				if all > 0 {
					want = all
				}
				provider := &limited{at: 1000}
				h.Provider.Before = provider.before
				var group sync.WaitGroup
				for i, name := range names {
					group.Go(func() { persistent(t, h, i%3, name) })
				}
				group.Wait()
				if provider.most != want {
					t.Errorf("%d at once, want %d", provider.most, want)
				}
			})
		})
	}
}

// Where nothing comes back, whoever comes is told so at once, and nobody's wait leaves a lease behind: as soon as the provider is
// back another replica refreshes what was waiting here.
func TestLaneOfAHangingProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		names := people(t, h, 60)
		broker.SetShare(h.Replicas[0], 16, 1)
		release := make(chan struct{})
		var mu sync.Mutex
		arrived := 0
		h.Provider.Before = func(context.Context, string) error {
			mu.Lock()
			arrived++
			mu.Unlock()
			<-release
			return nil
		}
		var group sync.WaitGroup
		for _, name := range names[:50] {
			group.Go(func() { persistent(t, h, 0, name) })
		}
		time.Sleep(5 * time.Second)
		mu.Lock()
		if arrived != 16 {
			t.Errorf("%d requests at a provider that answers none", arrived)
		}
		mu.Unlock()
		asked := time.Now()
		if _, err := h.Replicas[0].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: names[55]}); broker.CodeOf(err) != broker.CodeProviderUnavailable {
			t.Errorf("behind a queue that does not move: %v", err)
		}
		if took := time.Since(asked); took > 0 {
			t.Errorf("told so after %v", took)
		}
		close(release)
		for _, name := range names[20:50] {
			if _, err := h.Replicas[1].IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: name}); err != nil {
				t.Errorf("%s at another replica: %v", name, err)
			}
		}
		group.Wait()
	})
}

// A provider that answers slowly but steadily has a long queue of early refreshes; those of another one are begun when they are due.
func TestEarlyQueueHoldsUpNoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		other := brokertest.Files()
		other.ID, other.ProviderID = "mail", "another"
		h.Conns = append(h.Conns, other)
		due := map[string]time.Time{}
		for i := range 300 {
			name := fmt.Sprintf("person-%d", i)
			h.Provider.Account.ID = name
			h.Connect(t, name, "files.read")
			if _, err := h.Token(name); err != nil {
				t.Fatal(err)
			}
			if i >= 20 {
				continue
			}
			id := h.ConnectTo(t, "mail", name, "files.read").ID
			if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: name}); err != nil {
				t.Fatal(err)
			}
			conn, err := h.Store.Connection(t.Context(), h.Caller().Client.Tenant, id)
			if err != nil {
				t.Fatal(err)
			}
			due[id] = conn.RefreshAt
		}
		broker.SetEarly(h.Service, 1)
		h.Provider.BeforeFor = func(_ context.Context, connector string) error {
			if connector == "files" {
				time.Sleep(2 * time.Second)
			}
			return nil
		}
		stop := background(t, h)
		time.Sleep(h.Provider.Lifetime - 4*time.Minute)
		stop()
		for _, e := range h.Store.Entries(broker.EventTokenRefreshed) {
			if at, there := due[e.Connection]; there {
				if late := e.Time.Sub(at); late > 12*time.Second {
					t.Errorf("refreshed %v after it was due", late)
				}
				delete(due, e.Connection)
			}
		}
		if len(due) > 0 {
			t.Errorf("%d were not refreshed ahead", len(due))
		}
	})
}
