package simulationtest

import (
	"slices"
	"time"

	"tokenbroker/broker"
)

// finally looks at a connection after everything: it can be refreshed, or cannot for a reason.
func (w *world) finally(conn int, c *caller) {
	rec := w.records[conn]
	g := rec.grant
	if c.err == nil && rec.status == broker.ConnectionActive && w.usableFor(conn) {
		return
	}
	switch {
	case rec.status == broker.ConnectionRevoked:
		if c.err == nil {
			w.violate("connection %d: a token of a revoked connection", conn)
		}
		return // somebody wanted that
	case g == nil:
		w.violate("connection %d: no consent made it", conn)
		return
	case g.why == "ended by the user":
		return
	case g.why == "revoked" && w.failedOver && (w.disconnects[conn] || w.jumped):
		return // the store has forgotten that it was disconnected, or completed before its time was up by a wrong clock
	case g.why == "revoked":
		w.violate("connection %d: its grant %d was revoked by us and it was never disconnected", conn, g.n)
		return
	case rec.status == broker.ConnectionActive && !w.jumped:
		w.violate("connection %d: it is active, and its refresh token is dead", conn)
		return
	case rec.status == broker.ConnectionActive && slices.ContainsFunc(w.alternates(conn), w.provider.usable):
		return // who asks once the token has ended, by clocks that were right when it was stored, finds that one
	}
	for _, t := range g.tokens {
		if w.provider.usable(t) && w.reachable(t) && !w.overlapsConsent(t) {
			w.violate("connection %d: consent is asked for, and %s is usable and can be reached", conn, t.value)
			return
		}
	}
	tally := &w.result.Tally
	tally.Lost++
	for _, t := range g.tokens {
		if t.made == nil {
			continue
		}
		if n := w.reason(t, tally); n != nil {
			*n++
			return
		}
	}
	for _, t := range g.tokens {
		for _, s := range t.sends {
			if s.lease != nil && w.failedBetween(s.lease.at, s.at) {
				tally.LostFailover++ // it was not the only one any more that might use the token
				return
			}
		}
	}
	if w.whileConsenting(g) {
		tally.LostConsent++
		return
	}
	if w.shared != nil && slices.ContainsFunc(g.tokens, func(t *token) bool { return t.excused }) {
		tally.LostFailover++ // what a consent gave
		return
	}
	w.violate("connection %d: grant %d was lost for no reason", conn, g.n)
}

// reason tells why a refresh token never became the connection's in time; nil: it did, or there was no reason.
func (w *world) reason(t *token, tally *Tally) *int {
	s := t.made
	if s.dropped {
		return &tally.LostAnswer
	}
	lawful := s.lease.at.Add(leaseLasts)
	switch {
	case t.excused, t.landed.IsZero() && !t.settled.IsZero() && w.failedBetween(t.begun, time.Now()), t.takenBack.IsZero() && w.failedBetween(s.lease.at, lawful):
		return &tally.LostFailover
	}
	if !t.landed.IsZero() && t.landed.Before(lawful) && t.takenBack.IsZero() {
		return nil
	}
	switch {
	case !s.proc.killedAt.IsZero() && s.proc.killedAt.Before(lawful) && !t.spooled.IsZero():
		return &tally.LostOnDisk
	case !s.proc.killedAt.IsZero() && s.proc.killedAt.Before(lawful):
		return &tally.LostKilled
	case s.proc.stoppedBetween(s.lease.at, lawful):
		return &tally.LostStopped
	case !t.begun.IsZero() && (t.settled.IsZero() || !t.settled.Before(lawful)):
		return &tally.LostStore
	}
	return nil
}
