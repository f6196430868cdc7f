package broker

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// This file holds where refreshes go, and whether one may be sent now.

// mayTry keeps requests from a provider that just failed for this grant or for everybody, or that refuses our client.
func (r *refresher) mayTry(conn Connection) error {
	if wait := conn.retryIn(r.s.cfg.Now()); wait > 0 {
		if conn.Error == string(CodeProviderMisconfigured) {
			return misconfigured(errRefused)
		}
		return unavailable(wait, errors.New("the last refresh of this grant failed; the next try is due later"))
	}
	return shut(r.circuits.wait(r.line(conn)))
}

var (
	errCircuit = errors.New("the provider fails for everybody and is left alone for a moment")
	errRefused = errors.New("the provider refused our client a moment ago")
)

// shut is what a caller hears while nothing is sent for that trouble; nil without a wait.
func shut(wait time.Duration, why trouble) error {
	switch {
	case wait <= 0:
		return nil
	case why == troubleRefused:
		return misconfigured(errRefused)
	}
	return unavailable(wait, errCircuit)
}

// isFailing tells whether the token's refresh is known to fail; soon: it is due.
func (r *refresher) isFailing(conn Connection, soon bool) bool {
	if refused, _ := r.circuits.refused(r.line(conn)); refused || !conn.FailingSince.IsZero() {
		return true
	}
	wait, _ := r.circuits.wait(r.line(conn))
	return soon && wait > 0
}

// line is where the connection's refreshes go.
func (r *refresher) line(conn Connection) line {
	l := r.lineOf(conn.Connector)
	l.grant = grantOf(conn)
	l.renewed, _ = idleSpan(conn, 0)
	return l
}

// lineOf names the authorization server behind the connector, and the OAuth client there.
func (r *refresher) lineOf(connector string) line {
	c := r.s.connector(connector)
	return line{provider: cmp.Or(c.ProviderID, connector), client: cmp.Or(c.ClientKey, connector)}
}

// place gives the run a place in its lane, and waits for one if need be. The lease is taken behind that: whoever waits must not keep
// others from the grant, and its time must not run out meanwhile.
func (r *refresher) place(ctx context.Context, run refreshRun, conn Connection) (*place, error) {
	if err := r.mayTry(conn); err != nil {
		return nil, err
	}
	p, wait := r.lanes.enter(ctx, turn{
		key: r.line(conn).lane(), most: r.atOnce(conn.Connector), urgent: run.urgent, hurry: run.stall.hurry, killed: r.s.killed,
	})
	if p == nil {
		return nil, unavailable(wait, errQueue)
	}
	if err := r.mayTry(conn); err != nil { // it may have begun to fail meanwhile
		p.leave()
		return nil, err
	}
	return p, nil
}

// errQueue: nothing is wrong with the provider, but more want a new token than it gives at a time.
var errQueue = errors.New("too many refreshes wait for their turn at the provider")

// errNoPlace: what was found under the lease needs a request, and the run has no place for one.
var errNoPlace = errors.New("a request is needed, and there is no place for one yet")

// atOnce is how many refreshes of the connector's OAuth client may be under way in this process: its share of what the operator set for
// all replicas, one at least, or what is set for each process.
func (r *refresher) atOnce(connector string) int {
	most := r.s.cfg.RefreshesAtOnce
	if all := r.s.connector(connector).RefreshesAtOnce; all > 0 {
		most = min(most, max(1, all/max(1, int(r.s.replicas.Load()))))
	}
	return most
}
