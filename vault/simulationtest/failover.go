package simulationtest

import (
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// failover lets the store lose its last changes: acknowledged ones too. Processes notice that it is another one.
func (w *world) failover(*process) {
	n := w.memory.Lose(1 + w.rng.IntN(6))
	w.note("the store fails over and loses its last %d changes", n)
	w.failedOver, w.failed = true, time.Now()
	w.failures = append(w.failures, w.failed)
	for _, rec := range w.records {
		w.reread(rec)
	}
	if w.shared != nil {
		w.rereadShared()
	}
	var healing []*process
	for _, p := range w.live {
		if p.resumed == nil {
			p.heal()
			healing = append(healing, p)
		}
	}
	if !w.prompt {
		return
	}
	for range 1000 {
		w.settle()
		busy := false
		w.mu.Lock()
		for _, p := range healing {
			busy = busy || p.heals
		}
		w.mu.Unlock()
		if !busy {
			return
		}
		if !w.passFor("heal") {
			w.tick(time.Millisecond)
		}
	}
}

// passFor lets a gate of that name pass, without a fault.
func (w *world) passFor(who string) bool {
	w.mu.Lock()
	var g *gate
	for _, one := range w.gates {
		// What has entries goes by its stream's worker, which has no name.
		if (one.who == who || one.who == "") && one.call != callRefresh && !one.left && !one.proc.dead && one.proc.resumed == nil {
			g = one
			break
		}
	}
	if g == nil {
		w.mu.Unlock()
		return false
	}
	w.note("%s: %s", g.name(), g.what())
	if !g.ran {
		g.ran = true
		g.run(outcome{})
	}
	g.answered = true
	w.drop(g)
	w.mu.Unlock()
	close(g.opened)
	return true
}

// keepState remembers what a record is after the write that is named in it.
func (w *world) keepState(rec *record) {
	if v := w.memory.data[rec.key]; v != nil {
		w.states[v.hash["wid"]] = *rec
	}
}

// reread finds out what a record is since the store went back.
func (w *world) reread(rec *record) {
	had := rec.token
	fields := w.memory.live(rec.key, time.Now().UnixMilli()).hash
	was := w.states[fields["wid"]]
	rec.token, rec.grant = was.token, was.grant
	rec.status = broker.ConnectionStatus(fields["s"])
	rec.generation, _ = strconv.ParseInt(fields["gen"], 10, 64) // the vault's own number
	rec.fence, _ = strconv.ParseInt(fields["fen"], 10, 64)
	for _, t := range w.provider.all {
		if w.shared != nil || t.landed.IsZero() || t == rec.token || t.grant.conn != w.numberOf(rec) || t.generation <= rec.generation && t != had {
			continue
		}
		w.lost(t)
	}
	if had != nil && had != rec.token {
		w.note("    %s is not in the store any more", had.value)
	}
}

// lost notes that a failover took the refresh token back.
func (w *world) lost(t *token) {
	if t.told.IsZero() && t.settled.IsZero() {
		t.landed = time.Time{} // nobody was told, so nobody can remember it: as if the store had never had it
		return
	}
	t.takenBack = time.Now()
	if p := t.holder; !w.prompt || p == nil || p.dead || p.resumed != nil {
		t.excused = true
	}
}

// numberOf is which connection's record it is.
func (w *world) numberOf(rec *record) int { return slices.Index(w.records, rec) }

// failedBetween tells whether the store failed over in that time.
func (w *world) failedBetween(from, to time.Time) bool {
	return slices.ContainsFunc(w.failures, func(at time.Time) bool { return !at.Before(from) && at.Before(to) })
}
