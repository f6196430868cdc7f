package main

import (
	"context"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

const (
	// knownForms is the highest stored form that this program reads.
	knownForms = 2
	// formsAfter is how long every replica must have been one that reads it before it is written: a roll-out that is taken back
	// is so within that time, as a rule.
	formsAfter = 10 * time.Minute
)

// formGate tells when the newest stored form may be written: by the configuration, or as soon as no replica of an older version was
// seen for a while (broker/decisions/0024-compact-records.md). Once open it stays so.
type formGate struct {
	may  atomic.Bool
	hold bool // for good
	// replicas lists those that run, or did within the hour.
	replicas func(context.Context) ([]broker.Replica, time.Time, error)
	now      func() time.Time
	since    time.Time // when the older ones were gone
}

func newFormGate(form int, ephemeral bool, replicas func(context.Context) ([]broker.Replica, time.Time, error), now func() time.Time) *formGate {
	g := &formGate{hold: form == 1, replicas: replicas, now: now}
	g.may.Store(form == knownForms || ephemeral && !g.hold)
	return g
}

// open is vault.Config.Compact.
func (g *formGate) open() bool { return g.may.Load() }

// look is called after each heartbeat. true: it has just opened.
func (g *formGate) look(ctx context.Context) (opened bool, err error) {
	if g.hold || g.may.Load() {
		return false, nil
	}
	all, _, err := g.replicas(ctx)
	if err != nil {
		g.since = time.Time{}
		return false, err
	}
	for _, r := range all {
		// One that fell silent counts for as long as it is known: it may come back.
		if r.Forms < knownForms {
			g.since = time.Time{}
			return false, nil
		}
	}
	if g.since.IsZero() {
		g.since = g.now()
	}
	if len(all) == 0 || g.now().Sub(g.since) < formsAfter {
		return false, nil
	}
	g.may.Store(true)
	return true, nil
}
