package broker

import (
	"sync"
	"time"
)

// trouble is a kind of trouble with a provider. Each has a circuit of its own, for each of those who have it together: what one
// OAuth client is throttled or refused for costs another client of the same provider nothing.
type trouble int

// The kinds of trouble.
const (
	troubleDown      trouble = iota // not reached, no answer in time, 5xx: everybody's who goes there
	troubleThrottled                // too many requests of this OAuth client (429, 503 with Retry-After)
	troubleRefused                  // the provider does not take this OAuth client (invalid_client and its like)
)

// terms are what it takes to believe that a trouble is not one grant's own, and how long nothing is sent then.
type terms struct {
	name string // in metrics and logs
	// The circuit opens after so many failures in a row, of so many different grants: one grant with which the provider has
	// trouble says nothing about the others.
	failures, grants int
	within           time.Duration // all of them; 0: however long it takes
	// How long it stays open: doubled with each probe that fails. A Retry-After may prolong that, up to a limit: it is the
	// provider's word about a moment, not a switch to turn it off for good.
	min, max time.Duration
	// known bounds the pause after a probe of a grant that has failed since the circuit opened: its trouble may be its own, and must
	// not keep the others out once the provider is back.
	known time.Duration
}

// Two grants are enough for a refused client, for each of them is held back by itself as well (refused.go).
var troubles = [...]terms{
	troubleDown:      {name: "down", failures: 5, grants: 3, min: time.Second, max: 15 * time.Second, known: 4 * time.Second},
	troubleThrottled: {name: "throttled", failures: 5, grants: 3, min: time.Second, max: 15 * time.Second, known: 4 * time.Second},
	troubleRefused:   {name: "client_refused", failures: 2, grants: 2, within: time.Minute, min: refusedPause, max: refusedPause, known: 2 * time.Second},
}

const (
	circuitAsked    = time.Minute // the most that a Retry-After prolongs it by
	circuitRemember = 1000        // grants that failed
	// circuitWait is what somebody who comes beside a probe is told to wait.
	circuitWait = time.Second
)

// verdict is what the outcome of a request says about one kind of trouble.
type verdict int

const (
	verdictNothing verdict = iota
	verdictFine
	verdictFailed
)

// says reads the outcome of a request. Any definite answer, a refusal too, shows that the provider is at work and takes
// requests of this client; that it takes the client itself shows only when it gives something, for it may look at the refresh token first.
func (t trouble) says(err error) verdict {
	class := Class("")
	if err != nil {
		class = ClassOf(err)
	}
	unanswered := class == ClassUnsent || class == ClassInDoubt
	switch {
	case t == troubleDown && unanswered, t == troubleThrottled && class == ClassThrottled, t == troubleRefused && class == ClassClientRefused:
		return verdictFailed
	case t == troubleDown, t == troubleThrottled && !unanswered, err == nil:
		return verdictFine
	}
	return verdictNothing
}

// line is where a refresh goes.
type line struct {
	provider string // Connector.ProviderID
	client   string // Connector.ClientKey
	grant    string
	renewed  time.Time // when the grant last brought a token, whoever asked for that
}

// circuitKey names those who have a trouble together.
type circuitKey struct {
	trouble          trouble
	provider, client string
}

func (l line) key(t trouble) circuitKey {
	if t == troubleDown {
		return circuitKey{trouble: t, provider: l.provider}
	}
	return circuitKey{trouble: t, provider: l.provider, client: l.client}
}

// circuits keep this process from sending refreshes to a provider that fails for everybody (faults.md, step 9): the
// provider gets the quiet to recover in, and callers hear at once that they should come back. None costs another anything. A
// library would do for counting; none lets the provider's Retry-After set the pause.
type circuits struct {
	mu       sync.Mutex
	now      func() time.Time
	jitter   func(time.Duration) time.Duration
	all      map[circuitKey]*circuit
	refusals refusals
}

// circuit is closed with a zero until. After until one request may probe, and its outcome decides.
type circuit struct {
	failures int // in a row
	grants   map[string]bool
	since    time.Time     // the first of them
	asked    time.Duration // the longest Retry-After since it began to fail
	opened   int           // in a row, without a success between
	until    time.Time
	probe    time.Time // one is out, and is given up then
}

func newCircuits(now func() time.Time, jitter func(time.Duration) time.Duration) *circuits {
	return &circuits{now: now, jitter: jitter, all: map[circuitKey]*circuit{}, refusals: newRefusals()}
}

// wait tells how long nothing should be sent, and for which trouble, without taking the place of a probe; 0: now is fine.
func (c *circuits) wait(l line) (time.Duration, trouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.longest(l)
}

// longest is wait under the lock. A refused client comes first: that is what the operator must hear of.
func (c *circuits) longest(l line) (time.Duration, trouble) {
	now := c.now()
	if refused := max(c.refusals.wait(l, now), c.all[l.key(troubleRefused)].wait(now)); refused > 0 {
		return refused, troubleRefused
	}
	down, throttled := c.all[l.key(troubleDown)].wait(now), c.all[l.key(troubleThrottled)].wait(now)
	if throttled > down {
		return throttled, troubleThrottled
	}
	return down, troubleDown
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

// isOpen also tells it of one whose time is over and that waits for its probe.
func (o *circuit) isOpen() bool { return o != nil && !o.until.IsZero() }

// open tells whether the trouble is known to be everybody's.
func (c *circuits) open(l line, t trouble) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[l.key(t)].isOpen()
}

// opened tells which circuits are open, and since when the trouble lasts.
func (c *circuits) opened() map[circuitKey]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all map[circuitKey]time.Time
	for key, o := range c.all {
		if o.isOpen() {
			if all == nil {
				all = map[circuitKey]time.Time{}
			}
			all[key] = o.since
		}
	}
	return all
}

// enter is asked right before a request is sent. Whoever enters an open circuit whose time is over is its probe, which must
// report within limit. With a wait, nothing may be sent.
func (c *circuits) enter(l line, limit time.Duration) (time.Duration, trouble) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait, why := c.longest(l)
	if wait > 0 {
		return wait, why
	}
	for t := range troubles {
		if o := c.all[l.key(trouble(t))]; o.isOpen() {
			o.probe = c.now().Add(limit)
		}
	}
	return 0, 0
}

// change is a circuit that opened or closed.
type change struct {
	trouble trouble
	opened  bool
}

// report notes how a request ended, and tells which circuits that opened or closed.
func (c *circuits) report(l line, err error) (changes []change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range troubles {
		t := trouble(i)
		key, said := l.key(t), t.says(err)
		if t == troubleRefused && said == verdictFailed && c.refusals.note(l, c.now(), c.jitter) {
			said = verdictNothing // that one's own trouble: others have been served since it began
		}
		o := c.all[key]
		switch {
		case said == verdictFailed && o == nil:
			o = &circuit{}
			c.all[key] = o
			fallthrough
		case said == verdictFailed:
			if c.failed(o, troubles[t], l.grant, retryAfter(err)) {
				changes = append(changes, change{t, true})
			}
		case said == verdictFine:
			delete(c.all, key)
			if t == troubleRefused {
				c.refusals.worked(l, c.now(), o)
			}
			if o.isOpen() {
				changes = append(changes, change{t, false})
			}
		case o != nil:
			o.probe = time.Time{} // it said nothing about this: the next one may
		}
	}
	return changes
}

// failed notes a failure, and tells whether that opened the circuit.
func (c *circuits) failed(o *circuit, terms terms, grant string, asked time.Duration) (opened bool) {
	now := c.now()
	if o.failures == 0 || terms.within > 0 && !o.isOpen() && now.Sub(o.since) > terms.within {
		*o = circuit{grants: map[string]bool{}, since: now}
	}
	o.failures++
	known := o.grants[grant]
	if len(o.grants) < circuitRemember {
		o.grants[grant] = true
	}
	probing := !o.probe.IsZero()
	if !probing || !known {
		o.asked = min(max(o.asked, asked), circuitAsked)
	}
	// What was under way when the circuit opened says nothing new; only a probe's failure keeps it open for longer.
	if o.failures < terms.failures || len(o.grants) < terms.grants || o.isOpen() && !probing {
		return false
	}
	pause := min(terms.min<<min(o.opened, 10), terms.max)
	pause = max(pause, o.asked)
	if probing && known {
		pause = min(pause, terms.known)
	}
	opened = o.opened == 0
	o.until, o.probe, o.asked = now.Add(pause+c.jitter(pause/4)), time.Time{}, 0
	o.opened++
	return opened
}
