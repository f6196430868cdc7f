package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// Threat 69: a tenant that asks about any number of subjects takes the limits of another tenant's from nobody: buckets that are forgotten would be
// full again.
func TestThreat69SubjectsOfATenantAreItsOwn(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Subject: broker.Limit{Rate: 0.001, Burst: 3}})
	subject := func(tenant, subject string) func() error {
		caller := broker.Caller{Client: broker.Client{ID: "chat", Tenant: tenant}}
		return func() error { return l.Service.AdmitSubject(caller, subject) }
	}
	const quiet = 500
	for i := range quiet {
		if got := admitted(t, 5, subject("quiet", fmt.Sprint(i))); got != 3 {
			t.Fatalf("%d requests about a subject, of 3", got)
		}
	}
	_, most := broker.BucketsKept(l.Service)
	for i := range 3 * most {
		if err := subject("loud", fmt.Sprint(i))(); err != nil {
			t.Fatal(err)
		}
	}
	if have, most := broker.BucketsKept(l.Service); have > most {
		t.Errorf("%d buckets are kept, of %d", have, most)
	}
	for i := range quiet {
		if got := admitted(t, 3, subject("quiet", fmt.Sprint(i))); got != 0 {
			t.Fatalf("%d requests about subject %d after another tenant's flood, of none", got, i)
		}
	}
	// The flood's own latest subjects are known, too, and a third tenant has room.
	admitted(t, 2, subject("loud", fmt.Sprint(3*most-1)))
	if got := admitted(t, 3, subject("loud", fmt.Sprint(3*most-1))); got != 0 {
		t.Errorf("%d requests about the flood's last subject", got)
	}
	for i := range quiet {
		admitted(t, 3, subject("late", fmt.Sprint(i)))
	}
	if got := admitted(t, 3, subject("late", "0")); got != 0 {
		t.Errorf("%d requests about a third tenant's first subject, of none", got)
	}
}

// Threats 69 and 73: replicas whose clocks are minutes apart let no more through together than those whose clocks agree, and shut nobody out for
// longer: neither by rate nor by places.
func TestThreat69SkewedClocks(t *testing.T) {
	const rate, burst, seconds = 10, 20, 30
	total := map[string]int{}
	for name, skew := range map[string]time.Duration{"agree": 0, "differ": 2 * time.Minute} {
		l := &limitedRig{now: time.Now()}
		l.shared = brokertest.NewShared(func() time.Time { return l.now })
		off := -skew
		l.Harness = brokertest.NewWith(t, 2, func(cfg *broker.Config) {
			mine := off
			cfg.Limits, cfg.SharedRates, cfg.Places = broker.Limits{Client: broker.Limit{Rate: rate, Burst: burst, Consents: 1000}, Subject: broker.Limit{Consents: 4}}, l.shared, l.shared
			cfg.Now = func() time.Time { return l.now.Add(mine) }
			off = skew
		})
		for range 2 * seconds {
			for _, s := range l.Replicas {
				total[name] += admitted(t, rate, func() error { return s.AdmitRequest(l.Caller()) })
			}
			for _, s := range l.Replicas {
				if err := broker.FollowLimits(s); err != nil {
					t.Fatal(err)
				}
			}
			l.now = l.now.Add(500 * time.Millisecond)
		}
		for i, s := range l.Replicas {
			subject := fmt.Sprint("subject ", i)
			consent := func(s *broker.Service) func() error {
				return func() error {
					_, _, err := s.CreateConsent(t.Context(), l.Caller(), broker.ConsentRequest{Connector: "files", Subject: subject})
					return err
				}
			}
			other := l.Replicas[1-i]
			l.now = l.now.Add(time.Minute)
			if got := admitted(t, 3, consent(s)); got != 3 {
				t.Fatalf("clocks %s: %d consents of 3", name, got)
			}
			if got := admitted(t, 3, consent(other)); got != 1 {
				t.Errorf("clocks %s: %d consents at the other replica, of 1", name, got)
			}
			l.now = l.now.Add(broker.LinkLife - time.Second)
			if got := admitted(t, 3, consent(other)); got != 0 {
				t.Errorf("clocks %s: %d consents at the other replica before any link has ended", name, got)
			}
			l.now = l.now.Add(2 * time.Second)
			if got := admitted(t, 8, consent(other)); got != 4 {
				t.Errorf("clocks %s: %d consents at the other replica when all links have ended, of 4", name, got)
			}
		}
	}
	if total["agree"] != total["differ"] || total["agree"] > 2*burst+rate*seconds+2*rate {
		t.Errorf("let through: %v", total)
	}
}

// Threat 69: a store that takes no events keeps replicas from hearing of one another's uses for not a moment.
func TestThreat69SharingGoesOnBesideEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := brokertest.NewShared(time.Now)
		h := brokertest.NewWith(t, 2, func(cfg *broker.Config) {
			cfg.Limits, cfg.SharedRates = broker.Limits{Client: broker.Limit{Rate: 1, Burst: 100}}, shared
			cfg.AuditTimeout = time.Hour
		})
		h.Store.Before = func(ctx context.Context, operation string) error {
			if operation != "Append" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		for _, s := range h.Replicas {
			go func() { ended <- s.Run(ctx) }()
		}
		// One that is refused has an event waiting, which hangs from then on.
		admitted(t, 101, func() error { return h.Replicas[0].AdmitRequest(h.Caller()) })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		before := shared.Total()
		admitted(t, 60, func() error { return h.Replicas[1].AdmitRequest(h.Caller()) })
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if after := shared.Total(); after < before+5 {
			t.Errorf("while an event hangs, %d uses are shared, %d before", after, before)
		}
		time.Sleep(90 * time.Second) // what the other one let through is paid for by now, where it was heard of
		if got := admitted(t, 200, func() error { return h.Replicas[0].AdmitRequest(h.Caller()) }); got > 95 {
			t.Errorf("%d requests are let through by who heard nothing of the other replica", got)
		}
		cancel()
		for range h.Replicas {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

// Threat 69: a store that takes no event is asked for one a round, however many limits refuse, and at the end as well. Nothing of it is lost.
func TestThreat69RefusalsWaitForTheStore(t *testing.T) {
	clients := map[string]broker.Limit{}
	for i := range 50 {
		clients[fmt.Sprint("client ", i)] = broker.Limit{Rate: 0.001, Burst: 1}
	}
	l := newLimited(t, 1, broker.Limits{Clients: clients})
	for id := range clients {
		caller := broker.Caller{Client: broker.Client{ID: id, Tenant: "acme"}}
		admitted(t, 3, func() error { return l.Service.AdmitRequest(caller) })
	}
	asked := 0
	l.Store.Before = func(_ context.Context, operation string) error {
		if operation != "Append" {
			return nil
		}
		asked++
		return errors.New("the store is away")
	}
	for range 4 {
		if err := broker.FollowLimits(l.Service); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 4 {
		t.Errorf("%d events were tried in 4 rounds", asked)
	}
	l.Store.Before = nil
	if err := l.Service.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if events := l.Store.Entries(broker.EventTokenRefused); len(events) != len(clients) {
		t.Errorf("%d events of %d clients", len(events), len(clients))
	}
}
