package vault

import (
	"context"
	"fmt"
	"slices"
)

// Report is what a walk over the whole audit trail found.
type Report struct {
	Streams int
	Entries int
	Events  int
	// Faults in the order of the streams; empty: nothing was changed, dropped or reordered. Of a stream, each loss that the
	// trail itself tells of, and then the first thing else that is wrong: what lies behind that one is not looked at.
	Faults []Fault
}

// Fault is something that is wrong with a stream. Event names it; where that can't be read or is gone, After and Before
// name the nearest ones that can, and are empty where there is none.
type Fault struct {
	Stream string // which stream (no secret, no subject)
	Entry  string // the stream id of the bad entry, or of the last good one before a gap; empty if there is none
	Event  string // the id of the bad entry's first event
	After  string // the id of the last good event before what is bad or missing
	Before string // the id of the first readable event behind it
	What   string // changed, dropped, reordered or forged, in a sentence
	// Lost: the end of a chain is missing, with its head, of which a later entry says that it was there. A crash or a
	// failover of the store does that; so does somebody who sets it back.
	Lost bool
}

// Verify walks the whole audit trail and names what is wrong with each stream. It can be run while others append. Which
// streams there are it learns both from their index and from the keys of the store, so it takes its time.
//
// What it can't see, because nothing tells of it any more: a stream that is gone whole, out of the index too; and the
// entries of a process that has ended, if they are gone together with its head, or with what is behind an older copy of
// it, and no other process began to write into that stream after them (see meta.found).
func (s *Store) Verify(ctx context.Context) (Report, error) {
	var report Report
	streams, err := s.trailNames(ctx)
	if err != nil {
		return report, fmt.Errorf("verify: %w", err)
	}
	for _, stream := range streams {
		w := &walk{store: s, name: stream.name, writers: make(map[string]*writerWalk)}
		fault, err := w.run(ctx) // after which w.lost is known
		if err != nil {
			return report, fmt.Errorf("verify %s: %w", w.name, err)
		}
		if fault == nil && !stream.indexed {
			fault = &Fault{What: "dropped: the index of streams does not name this one any more"}
		}
		report.Streams++
		report.Entries += w.entries
		report.Events += w.events
		for _, lost := range w.lost {
			lost.Stream = w.name.String()
			report.Faults = append(report.Faults, lost)
		}
		if fault != nil {
			fault.Stream = w.name.String()
			report.Faults = append(report.Faults, *fault)
		}
	}
	return report, nil
}

// foundTrail is a stream of which the store knows something.
type foundTrail struct {
	name    trailName
	indexed bool
}

// trailNames lists the streams, by shard and tenant. The keys are read before the index: a stream that appears meanwhile
// is in the index then.
func (s *Store) trailNames(ctx context.Context) ([]foundTrail, error) {
	keys, err := readPatiently(ctx, func(ctx context.Context) ([]string, error) { return s.cfg.Backend.Keys(ctx, trailPattern) })
	if err != nil {
		return nil, err
	}
	indexed := make(map[trailName]bool)
	for _, key := range keys {
		if name, ok := parseTrailKey(key); ok {
			indexed[name] = false
		}
	}
	indexes := make([]string, shards)
	for i := range indexes {
		indexes[i] = trailsKey(byte(i))
	}
	tenants, err := readPatiently(ctx, func(ctx context.Context) ([][]string, error) { return s.cfg.Backend.Members(ctx, indexes) })
	if err != nil {
		return nil, err
	}
	for shard, members := range tenants {
		for _, tenant := range members {
			indexed[trailName{shard: byte(shard), tenant: tenant}] = true
		}
	}
	out := make([]foundTrail, 0, len(indexed))
	for name, yes := range indexed {
		out = append(out, foundTrail{name: name, indexed: yes})
	}
	slices.SortFunc(out, func(a, b foundTrail) int { return a.name.compare(b.name) })
	return out, nil
}
