package simulationtest

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// call is what a process waits for at a gate.
type call string

// The calls that leave a process.
const (
	callApply   call = "apply"
	callRead    call = "read"
	callRefresh call = "refresh"
	callRevoke  call = "revoke"
	callKeep    call = "disk write"
	callRemove  call = "disk remove"
	callLoad    call = "disk read"
)

// errKilled is what everything in a process that was killed is told. Nobody hears of it.
var errKilled = errors.New("the process was killed")

// gate is a call on its way out of a process: it waits until the scheduler carries it out, and again until the scheduler
// lets the answer through. What orders gates does not depend on which goroutine came first.
type gate struct {
	proc *process
	call call
	who  string // on whose behalf: a caller's name; "" in the background
	conn int    // which connection it is about, -1: none or several
	seq  int    // tells apart what is equal otherwise

	// run carries the call out. It is called once at most, by the scheduler, while everything else waits.
	run func(outcome)
	// what describes it, for the trace.
	what func() string

	ran      bool // carried out; the answer is on its way
	left     bool // whoever asked has given up
	ghost    bool // but it may still be carried out
	answered bool
	asked    time.Time
	until    time.Time // when the caller gives up; zero: never
	opened   chan struct{}
}

// outcome is how a call fares, as the scheduler decides it.
type outcome struct {
	fault fault
	part  int // faultAfter of several steps: how many were carried out
}

// fault is what goes wrong with a call.
type fault string

// The faults.
const (
	faultNone    fault = ""
	faultBefore  fault = "not carried out"
	faultAfter   fault = "carried out, answer lost"
	faultBusy    fault = "throttled"
	faultUnsent  fault = "not sent"
	faultRefused fault = "client refused"
)

func (g *gate) compare(other *gate) int {
	return cmp.Or(cmp.Compare(g.proc.index, other.proc.index), strings.Compare(string(g.call), string(other.call)),
		strings.Compare(g.who, other.who), cmp.Compare(g.conn, other.conn), cmp.Compare(g.seq, other.seq))
}

// ask waits at the gate. An error means that there is no answer: the context ended first, or the process. A process that is
// stopped notices neither answers nor the end of a context.
func (p *process) ask(ctx context.Context, g *gate) error {
	w := p.world
	g.proc, g.opened = p, make(chan struct{})
	g.until, _ = ctx.Deadline()
	g.asked = time.Now()
	w.mu.Lock()
	if p.dead {
		w.mu.Unlock()
		return errKilled
	}
	p.asked++
	g.seq = p.asked
	at, _ := slices.BinarySearchFunc(w.gates, g, (*gate).compare)
	w.gates = slices.Insert(w.gates, at, g)
	calm := w.calm
	w.mu.Unlock()
	if calm {
		w.knock() // nobody is kept waiting any more
	}
	select {
	case <-g.opened:
		return nil
	case <-p.killed:
		return errKilled
	case <-ctx.Done():
	}
	if err := p.thaw(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if g.answered {
		return nil
	}
	g.left = true
	return ctx.Err()
}

// thaw waits while the process is stopped.
func (p *process) thaw() error {
	for {
		p.world.mu.Lock()
		resumed, dead := p.resumed, p.dead
		p.world.mu.Unlock()
		if dead {
			return errKilled
		}
		if resumed == nil {
			return nil
		}
		select {
		case <-resumed:
		case <-p.killed:
		}
	}
}

// entry is a goroutine of a process that is about to call a port. The scheduler lets them through one at a time, in an
// order that does not depend on who came first: so what several of them do after one event that woke them all has an order.
type entry struct {
	proc *process
	port string
	who  string
	conn int
	seq  int
	pass chan struct{}
}

func (e *entry) compare(other *entry) int {
	return cmp.Or(cmp.Compare(e.proc.index, other.proc.index), strings.Compare(e.who, other.who), strings.Compare(e.port, other.port),
		cmp.Compare(e.conn, other.conn), cmp.Compare(e.seq, other.seq))
}

// enter waits until the scheduler lets the goroutine through. It does nothing once the process is dead.
func (p *process) enter(ctx context.Context, port string, conn int) {
	w := p.world
	e := &entry{proc: p, port: port, who: whoOf(ctx), conn: conn, pass: make(chan struct{})}
	w.mu.Lock()
	if p.dead {
		w.mu.Unlock()
		return
	}
	p.asked++
	e.seq = p.asked
	at, _ := slices.BinarySearchFunc(w.entries, e, (*entry).compare)
	w.entries = slices.Insert(w.entries, at, e)
	w.mu.Unlock()
	w.knock()
	select {
	case <-e.pass:
	case <-p.killed:
	}
}

// knock lets the scheduler look up while it lets time pass.
func (w *world) knock() {
	select {
	case w.arrived <- struct{}{}:
	default:
	}
}

// whoKey carries a caller's name through the service.
type whoKey struct{}

func whoOf(ctx context.Context) string {
	name, _ := ctx.Value(whoKey{}).(string)
	return name
}
