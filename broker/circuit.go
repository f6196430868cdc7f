package broker

import (
	"sync"
	"time"
)

// The circuit of a provider opens after so many failures in a row, of so many different grants: one grant with which the
// provider has trouble says nothing about the others.
const (
	circuitFailures = 5
	circuitGrants   = 3
	// How long it stays open: doubled with each probe that fails. A Retry-After may prolong that, up to a limit: it is the
	// provider's word about a moment, not a switch to turn it off for good.
	circuitMin, circuitMax = time.Second, 15 * time.Second
	circuitAsked           = time.Minute
	// circuitKnown bounds the pause after a probe of a grant that has failed since the circuit opened: its trouble may be its own,
	// and must not keep the others out once the provider is back.
	circuitKnown    = 4 * time.Second
	circuitRemember = 1000 // such grants
	// circuitWait is what somebody who comes beside a probe is told to wait.
	circuitWait = time.Second
)

// circuits keep this process from sending refreshes to a provider that fails for everybody (faults.md, step 9): the
// provider gets the quiet to recover in, and callers hear at once that they should come back. One for each provider, so that
// none costs another anything. A library would do for counting; none lets the provider's Retry-After set the pause.
type circuits struct {
	mu     sync.Mutex
	now    func() time.Time
	jitter func(time.Duration) time.Duration
	all    map[string]*circuit // by Connector.ProviderID
}

// circuit is closed with a zero until. After until one request may probe, and its outcome decides.
type circuit struct {
	failures int // in a row
	grants   map[string]bool
	asked    time.Duration // the longest Retry-After since it began to fail
	opened   int           // in a row, without a success between
	until    time.Time
	probe    time.Time // one is out, and is given up then
}

func newCircuits(now func() time.Time, jitter func(time.Duration) time.Duration) *circuits {
	return &circuits{now: now, jitter: jitter, all: map[string]*circuit{}}
}

// wait tells how long nothing should be sent, without taking the place of a probe; 0: now is fine.
func (c *circuits) wait(provider string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[provider].wait(c.now())
}

func (o *circuit) wait(now time.Time) time.Duration {
	switch {
	case o == nil || o.until.IsZero():
		return 0
	case now.Before(o.until):
		return o.until.Sub(now)
	case now.Before(o.probe):
		return circuitWait
	}
	return 0
}

// enter is asked right before a request is sent. Whoever enters an open circuit whose time is over is its probe, which must
// report within limit. With a wait, nothing may be sent.
func (c *circuits) enter(provider string, limit time.Duration) (wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o, now := c.all[provider], c.now()
	if wait = o.wait(now); wait == 0 && o != nil && !o.until.IsZero() {
		o.probe = now.Add(limit)
	}
	return wait
}

// report notes how a request ended, and tells whether that opened or closed the circuit.
func (c *circuits) report(provider, grant string, err error) (opened, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !providerFailed(err) {
		o := c.all[provider]
		delete(c.all, provider)
		return false, o != nil && !o.until.IsZero()
	}
	o := c.all[provider]
	if o == nil {
		o = &circuit{grants: map[string]bool{}}
		c.all[provider] = o
	}
	now := c.now()
	o.failures++
	known := o.grants[grant]
	if len(o.grants) < circuitRemember {
		o.grants[grant] = true
	}
	probing := !o.probe.IsZero()
	if !probing || !known {
		o.asked = min(max(o.asked, retryAfter(err)), circuitAsked)
	}
	// What was under way when the circuit opened says nothing new; only a probe's failure keeps it open for longer.
	if o.failures < circuitFailures || len(o.grants) < circuitGrants || (!o.until.IsZero() && !probing) {
		return false, false
	}
	pause := min(circuitMin<<min(o.opened, 10), circuitMax)
	pause = max(pause, o.asked)
	if probing && known {
		pause = min(pause, circuitKnown)
	}
	opened = o.opened == 0
	o.until, o.probe, o.asked = now.Add(pause+c.jitter(pause/4)), time.Time{}, 0
	o.opened++
	return opened, false
}

// providerFailed tells whether the provider did not do its work, for whatever reason of its own or of the way to it. Any
// definite answer, a refusal too, shows that it is at work.
func providerFailed(err error) bool {
	if err == nil {
		return false
	}
	switch ClassOf(err) {
	case ClassUnsent, ClassInDoubt, ClassThrottled:
		return true
	}
	return false
}
