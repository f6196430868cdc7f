package simulationtest

import (
	"context"
	"time"

	"tokenbroker/broker"
)

// afterAll is long enough for every lease, token, pause after a failure and deadline to be over.
const afterAll = 2*lifetime + leaseLasts

// end brings everything in order, asks once more for each connection, and looks whether the promises were kept.
func (w *world) end() {
	w.mu.Lock()
	w.calm, w.outage = true, false
	w.mu.Unlock()
	w.note("from here on nothing fails")
	for _, p := range w.live {
		w.mu.Lock()
		p.offset = 0
		stopped := p.resumed != nil
		w.mu.Unlock()
		if stopped {
			w.resume(p)
		}
	}
	if w.failedOver {
		for _, p := range w.live {
			p.heal()
		}
	}
	w.pump(afterAll)
	for range 2 { // a second round finds what the first one left to be handed over
		for _, p := range w.live {
			p.replay()
		}
		w.pump(afterAll)
	}
	if len(w.wrong) == 0 {
		for conn := range w.plan.Conns {
			w.last(conn)
		}
	}
	for _, g := range w.provider.grants {
		for _, t := range g.tokens {
			if t.made != nil && t.made.dropped {
				w.result.Tally.Undelivered++
			}
		}
	}
	if len(w.wrong) == 0 {
		w.verify()
	}
	for _, p := range w.live {
		p.shut()
	}
	closed := make(chan struct{})
	go func() { w.closing.Wait(); close(closed) }()
	for patience := 0; patience < 1000; patience++ {
		w.pump(time.Second)
		select {
		case <-closed:
			return
		default:
		}
	}
	w.violate("a process did not end")
}

// pump lets everything that is under way go on for so long.
func (w *world) pump(d time.Duration) {
	for end := time.Now().Add(d); ; {
		w.settle()
		if w.pick() {
			w.tick(100 * time.Microsecond)
			continue
		}
		left := time.Until(end)
		if left <= 0 {
			return
		}
		w.tickUntilGate(left)
	}
}

// tickUntilGate lets time pass, until something waits at a gate.
func (w *world) tickUntilGate(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		w.mu.Lock()
		gates := len(w.gates)
		w.mu.Unlock()
		if gates > 0 {
			return
		}
		select {
		case <-timer.C:
			w.settle()
			return
		case <-w.arrived:
			w.settle()
		}
	}
}

// lastTries is how often somebody asks who is told to come back, every 100 s. A clock that was wrong may have put a refresh
// off for a quarter of an hour (broker.Connection.RetryAt).
const lastTries, triesAfterJump = 3, 10

// last asks for a token of the connection, which has to be refreshed for that.
func (w *world) last(conn int) {
	var c *caller
	tries := lastTries
	if w.jumped {
		tries = triesAfterJump
	}
	for i := range tries {
		c = w.ask(conn, w.live[i%len(w.live)], time.Minute, nil)
		w.pump(time.Minute)
		switch {
		case c.ended.IsZero():
			w.violate("connection %d: the last caller is not answered", conn)
			return
		case c.err == nil:
			w.finally(conn, c)
			return
		case broker.CodeOf(c.err) == broker.CodeConsentRequired:
			w.finally(conn, c)
			return
		}
		w.pump(40 * time.Second)
	}
	w.violate("connection %d: with everything in order again there is still no token: %v", conn, c.err)
}

// verify walks through the audit trail, of every fourth schedule: it takes as long as some steps. A failover takes entries
// away, and nothing else may be wrong then, unless it let an old write through: that one then lies where it was not before.
func (w *world) verify() {
	if w.plan.Seed%4 != 0 || w.crossed {
		return
	}
	report, err := w.setup.Verify(context.Background())
	if err != nil {
		w.violate("verify the trail: %v", err)
	}
	for _, f := range report.Faults {
		if !w.failedOver || !f.Lost {
			w.violate("the trail: %+v", f)
		}
	}
}
