package simulationtest

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// world is one schedule under way. Its scheduler is the goroutine that made it: it acts while all others wait, and they
// act while it waits.
type world struct {
	plan   Plan // what is left of it
	drawn  Plan
	plant  Plant
	rng    *rand.Rand
	keyset *vault.Keyset
	began  time.Time

	memory    *Memory
	shared    *sharedRecord // nil: each connection has a grant of its own
	setup     *vault.Store  // beside the gates
	provider  *provider
	conns     []broker.Connection // as they were at first
	numbers   map[string]int      // of connections
	processes []*process
	live      []*process // by replica
	closing   sync.WaitGroup
	arrived   chan struct{}

	mu           sync.Mutex
	gates        []*gate
	entries      []*entry
	records      []*record
	leased       map[leaseName]time.Time
	spooledFiles map[string]*committing
	consents     map[string]*grant // what a consent gives, by its id
	beside       map[string]*token // by their fields among the alternates
	states       map[string]record // of records, by the write that made them
	callers      []*caller
	waiting      int       // callers under way
	late         int       // callers who come after a lease may have ended, beside the plan's
	finished     []*caller // answered, and not looked at yet
	issued       int       // events that say so
	answered     int       // tokens

	disconnects [maxConns]bool // somebody wanted it
	failedOver  bool           // acknowledged writes were lost
	failed      time.Time      // the last time
	failures    []time.Time
	crossed     bool // what nobody waited for any more was carried out behind a failover
	prompt      bool // who remembers what was lost writes it back before anything else happens
	jumped      bool // a clock was put elsewhere
	calm        bool // no trouble any more
	outage      bool
	tracing     bool
	trace       []string
	wrong       []string
	result      Result
}

// leaseName names a lease of a connection.
type leaseName struct {
	conn  int
	fence int64
}

// record is what the simulation knows of a connection's record in the store.
type record struct {
	generation int64
	status     broker.ConnectionStatus
	token      *token // its refresh token
	grant      *grant // the last consent's
	key        string // where it lies
	beside     string // and its alternates
	revoked    int    // how often it became revoked
	fence      int64
}

// caller is somebody who asks for a token.
type caller struct {
	number   int
	name     string
	conn     int
	proc     *process
	deadline time.Time
	leave    func()
	ended    time.Time
	token    broker.Token
	err      error
}

// Result is what became of a schedule.
type Result struct {
	Plan  Plan
	Steps int
	// Wrong are the invariants that did not hold; empty: all did.
	Wrong []string
	Trace []string
	Tally Tally
}

// Tally counts what happened.
type Tally struct {
	Tokens      int // that callers got
	Refreshes   int // that the provider carried out
	Undelivered int // answers with a new refresh token that no process ever received
	Lost        int // grants that were lost, each explained by one of:
	LostAnswer  int // the provider's answer never arrived
	LostKilled  int // its process was killed before a disk or the store had the grant
	LostOnDisk  int // its process was killed, and the next one gave the store what the disk had after the lease only
	LostStopped int // its process was stopped for longer than its lease
	LostStore   int // the store did not take it before the lease ended
	// A failover took it back, and nobody who remembered it could write it back in time; or it took back who had the lease.
	LostFailover int
	LostConsent  int // another holder's refresh came between a consent, which ended its refresh token, and the store
	Hasty        int // consent was asked for while another process held a usable refresh token
	Saved        int // grants that came back from that
}

// String is how a run ends.
func (t Tally) String() string {
	return fmt.Sprintf("%d tokens answered, %d refreshes at the provider, %d answers with a refresh token undelivered; %d grants lost, each explained: "+
		"answer undelivered %d, process killed before it was kept %d, kept on its disk and too late %d, process stopped beyond its lease %d, store away beyond the lease %d, "+
		"taken back by a failover %d, spent by another one's consent %d; consent asked for while another process held a usable refresh token %d, back without the user %d",
		t.Tokens, t.Refreshes, t.Undelivered, t.Lost, t.LostAnswer, t.LostKilled, t.LostOnDisk, t.LostStopped, t.LostStore, t.LostFailover, t.LostConsent, t.Hasty, t.Saved)
}

func (t *Tally) add(o Tally) {
	t.Tokens += o.Tokens
	t.Refreshes += o.Refreshes
	t.Undelivered += o.Undelivered
	t.Lost += o.Lost
	t.LostAnswer += o.LostAnswer
	t.LostKilled += o.LostKilled
	t.LostOnDisk += o.LostOnDisk
	t.LostStopped += o.LostStopped
	t.LostStore += o.LostStore
	t.LostFailover += o.LostFailover
	t.LostConsent += o.LostConsent
	t.Hasty += o.Hasty
	t.Saved += o.Saved
}

// number is which connection has the id, -1 if none.
func (w *world) number(id string) int {
	if n, ok := w.numbers[id]; ok {
		return n
	}
	return -1
}

func (w *world) violate(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
	w.note("WRONG: "+format, args...)
}

func (w *world) note(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%9.3fs  ", time.Since(w.began).Seconds())+fmt.Sprintf(format, args...))
	}
}

// settle lets everything go on until all wait: for the scheduler, or for time to pass. Then it lets those through that
// are about to call a port, one by one.
func (w *world) settle() {
	for {
		synctest.Wait()
		w.mu.Lock()
		at := slices.IndexFunc(w.entries, func(e *entry) bool { return e.proc.dead || e.proc.resumed == nil })
		if at < 0 {
			w.hear()
			w.mu.Unlock()
			return
		}
		e := w.entries[at]
		w.entries = slices.Delete(w.entries, at, at+1)
		w.mu.Unlock()
		close(e.pass)
	}
}

// hear looks at the answers that callers got since, in an order that does not depend on who was quicker in the same moment.
func (w *world) hear() {
	slices.SortFunc(w.finished, func(a, b *caller) int {
		return cmp.Or(a.ended.Compare(b.ended), cmp.Compare(a.number, b.number))
	})
	for _, c := range w.finished {
		w.waiting--
		w.told(c)
	}
	w.finished = w.finished[:0]
}

// tick lets time pass.
func (w *world) tick(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			w.settle()
			return
		case <-w.arrived:
			w.settle()
		}
	}
}

// maxSteps ends a schedule that would not end by itself.
const maxSteps = 600

// run is the whole schedule.
func (w *world) run() {
	defer func() { w.result.Plan, w.result.Wrong, w.result.Trace = w.drawn, w.wrong, w.trace }()
	w.drawn, w.late = w.plan, 3
	w.note("%v", w.plan)
	for i := range w.plan.Replicas {
		var d *disk
		if w.plan.Spool {
			d = newDisk()
		}
		if w.live = append(w.live, nil); w.start(i, d) == nil {
			return
		}
	}
	// Callers come at all ages of a token.
	w.tick(time.Duration(w.rng.IntN(int(lifetime + 20*time.Second))))
	for w.result.Steps < maxSteps && !w.over() && len(w.wrong) == 0 {
		w.result.Steps++
		w.tick(100*time.Microsecond + time.Duration(w.rng.IntN(1_400_000)))
		w.step()
	}
	w.end()
}

// over tells whether there is nothing left to do.
func (w *world) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.plan.Callers == 0 && w.waiting == 0 && len(w.gates) == 0
}

// clear forgets gates that nobody stands at any more. A write that was sent may stay on its way.
func (w *world) clear() {
	w.gates = slices.DeleteFunc(w.gates, func(g *gate) bool {
		if !g.left && !g.proc.dead || g.ghost {
			return false
		}
		if g.call == callApply && !g.ran && !w.calm && w.rng.IntN(4) == 0 {
			g.ghost = true
			w.note("%s: gave up on %s, which may still be carried out", g.proc.name, g.what())
			return false
		}
		return true
	})
}

// pick lets one gate pass, or fail.
func (w *world) pick() bool {
	w.mu.Lock()
	w.clear()
	var able []*gate
	for _, g := range w.gates {
		switch {
		case g.ran && g.proc.resumed != nil:
		case g.call == callRefresh && !g.ran && !g.until.IsZero() && time.Now().After(g.until):
			// A request to a provider is there before its time is up, or never.
		default:
			able = append(able, g)
		}
	}
	if len(able) == 0 {
		w.mu.Unlock()
		return false
	}
	g := able[w.rng.IntN(len(able))]
	if !g.ran {
		o := w.fare(g)
		// Written down before it happens: what it does to the records is written behind it.
		w.note("%s: %s%s", g.name(), g.what(), o)
		g.ran = true
		w.crossed = w.crossed || g.ghost && g.asked.Before(w.failed)
		g.run(o)
		if g.ghost {
			w.drop(g)
			w.mu.Unlock()
			return true
		}
		if g.proc.resumed != nil || !w.calm && w.rng.IntN(1000) < w.plan.Delays {
			w.note("%s: the answer is on its way", g.name())
			w.mu.Unlock()
			return true
		}
	} else {
		w.note("%s: %s: the answer arrives", g.name(), g.what())
	}
	g.answered = true
	w.drop(g)
	if !w.calm && w.plan.Stops > 0 && w.rng.IntN(50) == 0 {
		// Stopped with the answer in its hands: it goes no further than to the end of the port's method.
		w.plan.Stops--
		w.note("%s: stops behind that", g.proc.name)
		w.stop(g.proc)
	}
	w.mu.Unlock()
	close(g.opened)
	return true
}

func (w *world) drop(g *gate) {
	w.gates = slices.DeleteFunc(w.gates, func(other *gate) bool { return other == g })
}

func (g *gate) name() string {
	if g.who == "" {
		return g.proc.name
	}
	return g.proc.name + " for " + g.who
}

func (o outcome) String() string {
	if o.fault == faultNone {
		return ""
	}
	return ": " + strings.ToUpper(string(o.fault))
}

// fare decides how a call fares.
func (w *world) fare(g *gate) outcome {
	if w.calm {
		return outcome{}
	}
	part := w.rng.IntN(64)
	chance := 0
	var faults []fault
	switch g.call {
	case callApply, callRead:
		if w.outage {
			return outcome{fault: faultBefore}
		}
		chance, faults = w.plan.StoreFaults, []fault{faultBefore, faultAfter}
		if g.call == callRead {
			faults = faults[:1]
		}
	case callRefresh:
		chance, faults = w.plan.ProviderFaults, []fault{faultBefore, faultAfter, faultAfter, faultBusy, faultUnsent, faultUnsent, faultRefused}
	case callRevoke:
		chance, faults = w.plan.ProviderFaults, []fault{faultBefore, faultAfter}
	case callKeep, callRemove, callLoad:
		chance, faults = w.plan.DiskFaults, []fault{faultBefore}
	}
	if w.rng.IntN(1000) >= chance {
		return outcome{part: part}
	}
	return outcome{fault: oneOf(w.rng, faults...), part: part}
}
