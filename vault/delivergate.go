package vault

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// A sink that is released (Sink.Released) gets token.issued events before their tokens are handed out, and delivering leaves those out. Which
// ones had it is no matter of how the process is configured that delivers now: there may be a backlog of before, and replicas that hand
// tokens out without asking the sink. So it lies in the store since when all of them ask, and what is older is delivered. Some events come
// twice then, which their ids tell; none is missing.

const (
	// fieldReleased is since when, in ms by the store's clock, every replica asks the sink.
	fieldReleased = "released"
	// gateSlack is how long after all replicas were seen to ask the sink it begins: longer than a new one that does not may be unseen.
	gateSlack = time.Minute
)

// gates are the sinks that this process asks before it hands a token out.
func (s *Store) gates() (names []string) {
	for _, d := range s.deliveries {
		if d.to.Released {
			names = append(names, d.name)
		}
	}
	return names
}

// ungate forgets since when the sink is asked by all: this process does not ask it. Whatever it hands out behind that is delivered.
func (d *delivery) ungate(ctx context.Context) error {
	if d.to.Released || d.ungated {
		return nil
	}
	if err := d.forget(ctx); err != nil {
		return err
	}
	d.ungated = true
	return nil
}

func (d *delivery) forget(ctx context.Context) error {
	_, err := d.store.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteHashDelete, Key: sinkSinceKey(d.name), Args: []string{fieldReleased}}}})
	if err != nil {
		return fmt.Errorf("deliver events: %w", err)
	}
	return nil
}

// watchGates keeps since when all replicas ask the sink, as their heartbeats say.
func (d *delivery) watchGates(ctx context.Context) error {
	s := d.store
	now := s.cfg.Now()
	if !d.to.Released || now.Sub(d.gatesSeen).Abs() < broker.BeatEvery {
		return nil
	}
	all, at, err := s.AllReplicas(ctx)
	if err != nil {
		return fmt.Errorf("deliver events: %w", err)
	}
	// One that is silent may still hand tokens out, and one that can't be read, or none, tells nothing.
	if len(all) == 0 || slices.ContainsFunc(all, func(r broker.Replica) bool { return !slices.Contains(r.Gates, d.name) }) {
		err = d.forget(ctx)
	} else {
		key := sinkSinceKey(d.name)
		_, err = s.trails.direct(ctx, Step{
			Checks: []Check{{Key: key, Field: fieldReleased, Kind: CheckAbsent}},
			Writes: []Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldReleased, msText(uint64(max(0, at.Add(gateSlack).UnixMilli())))}}},
		})
	}
	if err != nil {
		return fmt.Errorf("deliver events: %w", err)
	}
	d.gatesSeen = now
	return nil
}

// released is the ms behind which token.issued events are at the sink already. It is read behind the entries that it is about: who hands
// tokens out without the sink has it forgotten first.
func (d *delivery) released(ctx context.Context) (uint64, error) {
	if !d.to.Released {
		return math.MaxUint64, nil
	}
	found, err := d.store.hashes(ctx, sinkSinceKey(d.name))
	if err != nil {
		return 0, fmt.Errorf("deliver events: %w", err)
	}
	ms, err := strconv.ParseUint(string(found[0][fieldReleased]), 10, 64)
	if err != nil {
		return math.MaxUint64, nil // there is none, or nobody can tell
	}
	return ms, nil
}
