package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// limitedRig is a number of replicas with limits, and a clock that a test moves.
type limitedRig struct {
	*brokertest.Harness
	shared *brokertest.Shared
	now    time.Time
}

func newLimited(t *testing.T, n int, limits broker.Limits) *limitedRig {
	t.Helper()
	l := &limitedRig{now: time.Now()}
	l.shared = brokertest.NewShared(func() time.Time { return l.now })
	l.Harness = brokertest.NewWith(t, n, func(cfg *broker.Config) {
		cfg.Limits, cfg.SharedRates, cfg.Places, cfg.Now = limits, l.shared, l.shared, func() time.Time { return l.now }
	})
	return l
}

// admitted asks so often and tells how many requests were let through; what is refused must be slow_down with a time.
func admitted(t *testing.T, n int, ask func() error) (through int) {
	t.Helper()
	for range n {
		err := ask()
		var public *broker.Error
		switch {
		case err == nil:
			through++
		case !errors.As(err, &public) || public.Code != broker.CodeSlowDown || public.RetryAfter < time.Second:
			t.Fatalf("refused with %v", err)
		}
	}
	return through
}

// Threat 69: a client, a tenant and a subject get what their limits say, and nobody pays for another.
func TestThreat69LimitsOfRequests(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{
		Client: broker.Limit{Rate: 10, Burst: 20}, Tenant: broker.Limit{Rate: 15, Burst: 30}, Subject: broker.Limit{Rate: 1, Burst: 5},
		Clients: map[string]broker.Limit{"vip": {Rate: 100, Burst: 25}},
	})
	ask := func(client, tenant string) func() error {
		caller := broker.Caller{Client: broker.Client{ID: client, Tenant: tenant}}
		return func() error { return l.Service.AdmitRequest(caller) }
	}
	if got := admitted(t, 200, ask("chat", "acme")); got != 20 {
		t.Errorf("%d requests of a client at once, of 20", got)
	}
	// What the client was refused took nothing from its tenant, whose other client has the rest.
	if got := admitted(t, 200, ask("other", "acme")); got != 10 {
		t.Errorf("%d requests of the tenant's other client, of 10 that are left", got)
	}
	if got := admitted(t, 200, ask("vip", "elsewhere")); got != 25 {
		t.Errorf("%d requests of a client with a limit of its own, of 25", got)
	}
	l.now = l.now.Add(time.Second)
	if got := admitted(t, 200, ask("chat", "acme")); got != 10 {
		t.Errorf("%d requests a second later, of 10", got)
	}
	subject := func(tenant, subject string) func() error {
		caller := broker.Caller{Client: broker.Client{ID: "chat", Tenant: tenant}}
		return func() error { return l.Service.AdmitSubject(caller, subject) }
	}
	if got := admitted(t, 50, subject("acme", "u1")); got != 5 {
		t.Errorf("%d requests about a subject, of 5", got)
	}
	for _, other := range []func() error{subject("acme", "u2"), subject("rival", "u1"), subject("acme", "")} {
		if err := other(); err != nil {
			t.Errorf("another subject: %v", err)
		}
	}
	err := subject("acme", "u1")()
	var public *broker.Error
	if !errors.As(err, &public) || public.RetryAfter != time.Second {
		t.Errorf("one token comes each second: %+v", public)
	}
}

// Threat 69: however much a client and its tenant ask for, here and through other replicas, what its users agreed to can be completed: on
// credit, which is paid back before anything else is let through, and has an end.
func TestThreat69CompletionsAreRefusedLast(t *testing.T) {
	l := newLimited(t, 3, broker.Limits{Client: broker.Limit{Rate: 10, Burst: 20}, Tenant: broker.Limit{Rate: 10, Burst: 20}})
	request := func(s *broker.Service) func() error { return func() error { return s.AdmitRequest(l.Caller()) } }
	for range 6 { // all that others can do to the bucket of one replica
		for _, s := range l.Replicas {
			admitted(t, 100, request(s))
			if err := broker.FollowLimits(s); err != nil {
				t.Fatal(err)
			}
		}
		l.now = l.now.Add(500 * time.Millisecond)
	}
	if got := admitted(t, 20, request(l.Service)); got != 0 {
		t.Fatalf("%d requests are let through before anything is completed", got)
	}
	complete := func() error { return l.Service.AdmitCompletion(l.Caller()) }
	if got := admitted(t, 500, complete); got < 20 || got > 40 {
		t.Errorf("%d completions on credit, of 20 to 40", got)
	}
	if err := broker.FollowLimits(l.Service); err != nil {
		t.Fatal(err)
	}
	if got := admitted(t, 20, complete); got != 0 {
		t.Errorf("sharing paid for %d completions", got)
	}
	l.now = l.now.Add(time.Second)
	if got := admitted(t, 100, complete); got != 10 {
		t.Errorf("%d completions a second later, of 10", got)
	}
	l.now = l.now.Add(4 * time.Second)
	if got := admitted(t, 100, request(l.Service)); got != 0 {
		t.Errorf("%d requests before the credit is paid back", got)
	}
	l.now = l.now.Add(time.Second)
	if got := admitted(t, 100, request(l.Service)); got != 10 {
		t.Errorf("%d requests after it, of 10", got)
	}
}

// Replicas let through together what the limit says in the long run, whoever of them is asked, and at once no more than each its bucket.
func TestThreat69LimitsAreSharedAmongReplicas(t *testing.T) {
	const replicas, rate, burst = 3, 100, 200
	l := newLimited(t, replicas, broker.Limits{Client: broker.Limit{Rate: rate, Burst: burst}})
	through, first := 0, 0
	const seconds = 60
	for step := range 2 * seconds { // each half second, as the background has it
		for _, s := range l.Replicas {
			through += admitted(t, rate, func() error { return s.AdmitRequest(l.Caller()) })
		}
		for _, s := range l.Replicas {
			if err := broker.FollowLimits(s); err != nil {
				t.Fatal(err)
			}
		}
		if step == 0 {
			first = through
		}
		l.now = l.now.Add(500 * time.Millisecond)
	}
	if first > replicas*burst {
		t.Errorf("%d at once", first)
	}
	if most := replicas*burst + rate*seconds + replicas*rate; through > most || through < rate*seconds {
		t.Errorf("%d requests let through in %d s, of %d to %d", through, seconds, rate*seconds, most)
	}
}

// Without the store nobody is refused who was let through before, and limits still hold in each process.
func TestThreat69LimitsWithoutTheStore(t *testing.T) {
	const rate, burst = 10, 20
	l := newLimited(t, 2, broker.Limits{Client: broker.Limit{Rate: rate, Burst: burst}})
	l.shared.SetAway(true)
	for i, s := range l.Replicas {
		if got := admitted(t, 100, func() error { return s.AdmitRequest(l.Caller()) }); got != burst {
			t.Errorf("replica %d lets %d through at once", i, got)
		}
		if err := broker.FollowLimits(s); err == nil {
			t.Error("the store is not away")
		}
	}
	for range 20 {
		l.now = l.now.Add(time.Second)
		for i, s := range l.Replicas {
			if got := admitted(t, 100, func() error { return s.AdmitRequest(l.Caller()) }); got != rate {
				t.Errorf("replica %d lets %d through in a second", i, got)
			}
			_ = broker.FollowLimits(s)
		}
	}
	// When it is back, what happened meanwhile is no debt of hours.
	l.shared.SetAway(false)
	for range 2 {
		for _, s := range l.Replicas {
			if err := broker.FollowLimits(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.now = l.now.Add(burst/rate*2*time.Second + time.Second)
	if got := admitted(t, 100, func() error { return l.Service.AdmitRequest(l.Caller()) }); got < 1 {
		t.Error("nobody is let through after the store came back")
	}
}

// Threat 69: uses whose answer is lost are counted once, and are nobody else's; those that were not sent are told later.
func TestThreat69UsesAreCountedOnce(t *testing.T) {
	const rate, burst = 1, 200
	l := newLimited(t, 2, broker.Limits{Client: broker.Limit{Rate: rate, Burst: burst}})
	ask := func(n int) int {
		return admitted(t, n, func() error { return l.Replicas[0].AdmitRequest(l.Caller()) })
	}
	share := func() { _ = broker.FollowLimits(l.Replicas[0]) }
	through := ask(110)
	share()
	l.shared.SetLost(true)
	for range 5 {
		through += ask(5)
		share()
	}
	l.shared.SetLost(false)
	l.shared.SetAway(true)
	for range 5 {
		through += ask(5)
		share()
	}
	l.shared.SetAway(false)
	share()
	// The first ten came before the others are told of the bucket.
	if counted := l.shared.Total(); through != 160 || counted > 160 || counted < 50 {
		t.Errorf("%d uses are counted of %d", counted, through)
	}
	if left := ask(500); left != burst-through {
		t.Errorf("%d requests are let through then, of %d: own ones were taken for others'", left, burst-through)
	}
}

// Threat 69: a failover that sets counts back by a little takes nothing from anybody: the whole count is not what others did just now.
func TestThreat69CountsThatAreSetBack(t *testing.T) {
	const rate, burst = 100, 200
	l := newLimited(t, 2, broker.Limits{Client: broker.Limit{Rate: rate, Burst: burst}})
	round := func(n int) (through int) {
		for _, s := range l.Replicas {
			through += admitted(t, n, func() error { return s.AdmitRequest(l.Caller()) })
		}
		for _, s := range l.Replicas {
			if err := broker.FollowLimits(s); err != nil {
				t.Fatal(err)
			}
		}
		l.now = l.now.Add(500 * time.Millisecond)
		return through
	}
	round(burst)
	for range 40 { // a count that is long
		round(rate / 4)
	}
	l.shared.SetBack(rate)
	round(rate / 4)
	l.now = l.now.Add(500 * time.Millisecond)
	if got := round(rate / 4); got < rate/4 {
		t.Errorf("%d requests are let through after the count was set back", got)
	}
}

// Threat 68: neither the memory of a process nor what replicas share grows with the number of subjects that are asked about.
func TestThreat68BucketsAreBounded(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Subject: broker.Limit{Rate: 1, Burst: 4}})
	for i := range 50_000 {
		if err := l.Service.AdmitSubject(l.Caller(), fmt.Sprint("subject ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if have, most := broker.BucketsKept(l.Service); have > most {
		t.Errorf("%d buckets are kept, of %d", have, most)
	}
	if err := broker.FollowLimits(l.Service); err != nil || l.shared.Names() != 0 {
		t.Errorf("replicas were told of %d subjects that are far from their limit: %v", l.shared.Names(), err)
	}
	for i := range 5000 {
		admitted(t, 3, func() error { return l.Service.AdmitSubject(l.Caller(), fmt.Sprint("busy ", i)) })
	}
	if err := broker.FollowLimits(l.Service); err != nil || l.shared.Names() > 256 {
		t.Errorf("replicas were told of %d subjects in one round: %v", l.shared.Names(), err)
	}
}

// Threats 39 and 52: wrong keys are stopped by address and in all; a right one is not looked at here at all.
func TestThreat39WrongKeysAreSlowed(t *testing.T) {
	l := newLimited(t, 2, broker.Limits{Address: broker.Limit{Rate: 1, Burst: 10}, WrongKeys: broker.Limit{Rate: 1, Burst: 50}})
	wrong := func(address string) func() error { return func() error { return l.Service.AdmitWrongKey(address) } }
	if got := admitted(t, 100, wrong("192.0.2.1")); got != 10 {
		t.Errorf("%d wrong keys from one address", got)
	}
	// All addresses of a household are one.
	through := 0
	for i := range 100 {
		through += admitted(t, 1, wrong(fmt.Sprintf("2001:db8:1:2::%x", i)))
	}
	if through != 10 {
		t.Errorf("%d wrong keys from one network", through)
	}
	for i := range 1000 {
		through += admitted(t, 1, wrong(fmt.Sprintf("198.51.%d.%d", i/200, i%200)))
	}
	if through != 40 {
		t.Errorf("%d wrong keys from many addresses", through+10)
	}
	if err := l.Service.AdmitRequest(l.Caller()); err != nil {
		t.Errorf("a client with its right key: %v", err)
	}
}

// A flood of refusals leaves one event a minute for each limit and client, which counts them.
func TestThreat69RefusalsLeaveBoundedEvents(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Client: broker.Limit{Rate: 1, Burst: 1}, Address: broker.Limit{Rate: 1, Burst: 1}})
	began := l.now
	for range 150 { // seconds
		admitted(t, 100, func() error { return l.Service.AdmitRequest(l.Caller()) })
		admitted(t, 10, func() error { return l.Service.AdmitWrongKey("192.0.2.7") })
		if err := broker.FollowLimits(l.Service); err != nil {
			t.Fatal(err)
		}
		l.now = l.now.Add(time.Second)
	}
	if err := l.Service.Drain(context.Background()); err != nil {
		t.Fatal(err)
	}
	counted := map[string]int{}
	for _, e := range l.Store.Entries(broker.EventTokenRefused) {
		var limit, since string
		var n int
		if _, err := fmt.Sscanf(e.Reason, "limit %s %d refused since %s", &limit, &n, &since); err != nil || e.Outcome != "slow_down" || strings.Contains(e.Reason, "192.0.2.7") {
			t.Errorf("event %+v: %v", e, err)
		}
		if want := map[string][2]string{"client:": {"acme", "chat"}, "address:": {}}[limit]; want != [2]string{e.Tenant, e.Client} {
			t.Errorf("%s is of %q %q", limit, e.Tenant, e.Client)
		}
		if at, err := time.Parse(time.RFC3339, since); err != nil || at.Before(began.Add(-time.Second)) {
			t.Errorf("since %s", since)
		}
		counted[limit] += n
		counted[limit+"events"]++
	}
	if counted["client:events"] != 4 || counted["client:"] != 150*99 {
		t.Errorf("%d events of the client's limit with %d refusals, of 4 with %d", counted["client:events"], counted["client:"], 150*99)
	}
	if counted["address:events"] != 4 || counted["address:"] != 150*9 {
		t.Errorf("%d events of wrong keys with %d refusals, of 4 with %d", counted["address:events"], counted["address:"], 150*9)
	}
}

// Threat 52: what counts as one address.
func TestNetwork(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "2001:db8:1:2:ffff::": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "what?": "what?",
	} {
		if got := broker.Network(addr); got != want {
			t.Errorf("%s counts as %s, not %s", addr, got, want)
		}
	}
}

// Threat 69: what limits of subjects refused says whose it was: the first one's of each event, however many others there are.
func TestThreat69RefusalsNameTheSubject(t *testing.T) {
	l := newLimited(t, 1, broker.Limits{Subject: broker.Limit{Rate: 0.01, Burst: 1, Consents: 1}})
	for _, subject := range []string{"first", "second", "third"} {
		admitted(t, 3, func() error { return l.Service.AdmitSubject(l.Caller(), subject) })
		admitted(t, 3, func() error { _, err := l.consent("chat", "acme", subject, "192.0.2.1"); return err })
	}
	if err := broker.FollowLimits(l.Service); err != nil {
		t.Fatal(err)
	}
	events := l.Store.Entries(broker.EventTokenRefused)
	if len(events) != 2 {
		t.Errorf("%d events, of one for each limit", len(events))
	}
	for _, e := range events {
		if e.Subject != "first" || !strings.Contains(e.Reason, ": 6 refused") {
			t.Errorf("subject %q, reason %q", e.Subject, e.Reason)
		}
	}
}
