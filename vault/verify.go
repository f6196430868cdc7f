package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"tokenbroker/broker"
)

// Report is what a walk over the whole audit trail found.
type Report struct {
	Streams int
	Entries int
	Events  int
	// Dropped is how many more entries there had been, which were dropped because of their age (Config.Retention).
	Dropped int
	// Alarms is how many events there are of records that did not belong where they lay (integrity.failed), FirstAlarm one of them: no
	// fault of the trail, which tells of them.
	Alarms     int
	FirstAlarm string
	// Erased are those of the Entries that can't be read, as the keyset of their tenant was destroyed. Their places in the chain hold.
	Erased int
	// Faults in the order of the streams; empty: nothing was changed, dropped or reordered. Of a stream, each loss that the
	// trail itself tells of, and then the first thing else that is wrong: what lies behind that one is not looked at.
	Faults []Fault
	// Signed is what VerifySigned found; else nil.
	Signed *SignedReport
}

// Fault is something that is wrong with a stream.
type Fault = broker.TrailFault

// Verify walks the whole audit trail and names what is wrong with each stream. It can be run while others append. Which
// streams there are it learns both from their index and from the keys of the store, so it takes its time.
//
// What it can't see, because nothing tells of it any more: a stream that is gone whole, out of the index too; and the
// entries of a process that has ended, if they are gone together with its head, or with what is behind an older copy of
// it, and no other process began to write into that stream after them (see meta.found).
func (s *Store) Verify(ctx context.Context) (Report, error) { return s.verifyAll(ctx, nil) }

// verifyAll walks through all streams, and compares them with what is signed, unless that is nil.
func (s *Store) verifyAll(ctx context.Context, signed *signedTrail) (Report, error) {
	var report Report
	s.lookForKeys(ctx)
	streams, err := s.trailNames(ctx)
	if err != nil {
		return report, fmt.Errorf("verify: %w", err)
	}
	if signed != nil {
		streams = signed.withSigned(streams)
	}
	for _, stream := range streams {
		if err := s.verifyStream(ctx, stream, signed, &report); err != nil {
			return report, fmt.Errorf("verify %s: %w", stream.name, err)
		}
	}
	return report, nil
}

// overtaken is how often a stream is walked again because it was trimmed meanwhile. That is so at its beginning alone.
const overtaken = 10

func (s *Store) walkOf(name trailName) *walk {
	return &walk{store: s, name: name, writers: make(map[string]*writerWalk), cut: &cut{}}
}

// verifyStream walks one stream and adds what it finds.
func (s *Store) verifyStream(ctx context.Context, stream foundTrail, signed *signedTrail, report *Report) error {
	begin := func() *walk {
		w := s.walkOf(stream.name)
		if signed != nil {
			w.signed = signed.of(stream.name)
		}
		return w
	}
	w := begin()
	fault, err := w.run(ctx) // after which w.lost is known
	for again := 0; err == nil && (fault != nil || len(w.lost) > 0) && again < overtaken; again++ {
		// What was dropped meanwhile, because of its age, may be all that is missing.
		same, serr := w.sameCut(ctx)
		if err = serr; same || err != nil {
			break
		}
		w = begin()
		fault, err = w.run(ctx)
	}
	if err != nil {
		return err
	}
	if fault == nil && !stream.indexed {
		fault = &Fault{What: "dropped: the index of streams does not name this one any more"}
	}
	if w.signed != nil {
		if fault == nil {
			if fault, err = w.signedFault(ctx); err != nil {
				return err
			}
		}
		if w.signed.unsigned > 0 && signed.report.Unsigned == 0 {
			signed.report.FirstUnsigned = w.signed.first
			signed.report.FirstUnsigned.Stream = w.name.String()
		}
		signed.report.Unsigned += w.signed.unsigned
	}
	if report.Alarms += w.alarms; report.FirstAlarm == "" {
		report.FirstAlarm = w.alarm
	}
	report.Streams++
	report.Entries += w.entries
	report.Events += w.events
	report.Dropped += int(w.cut.Entries)
	report.Erased += w.erased
	for _, lost := range w.lost {
		lost.Stream = w.name.String()
		report.Faults = append(report.Faults, lost)
	}
	if fault != nil {
		fault.Stream = w.name.String()
		report.Faults = append(report.Faults, *fault)
	}
	return nil
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
	names, err := s.indexedTrails(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		indexed[name] = true
	}
	out := make([]foundTrail, 0, len(indexed))
	for name, yes := range indexed {
		out = append(out, foundTrail{name: name, indexed: yes})
	}
	slices.SortFunc(out, func(a, b foundTrail) int { return a.name.compare(b.name) })
	return out, nil
}

// indexedTrails lists the streams that the index of streams names, by shard and tenant.
func (s *Store) indexedTrails(ctx context.Context) ([]trailName, error) {
	indexes := make([]string, shards)
	for i := range indexes {
		indexes[i] = trailsKey(byte(i))
	}
	tenants, err := readPatiently(ctx, func(ctx context.Context) ([][]string, error) { return s.cfg.Backend.Members(ctx, indexes) })
	if err != nil {
		return nil, err
	}
	var out []trailName
	for shard, members := range tenants {
		for _, tenant := range members {
			out = append(out, trailName{shard: byte(shard), tenant: tenant})
		}
	}
	slices.SortFunc(out, trailName.compare)
	return out, nil
}

var _ broker.TrailVerifier = (*Store)(nil)

// begun is the position behind what VerifyTrail does first. No other one is: they begin with a shard in hexadecimal digits, and behind
// that is any name that a tenant can have.
const begun = "*"

// VerifyTrail implements broker.TrailVerifier. First it walks through the keys of the store, for streams that the index does not
// name; then it goes from stream to stream as the index has them.
func (s *Store) VerifyTrail(ctx context.Context, tenant, position string, budget time.Duration) (broker.VerifiedTrail, error) {
	var report Report
	var todo []foundTrail
	after := trailName{}
	s.lookForKeys(ctx)
	next := func(done trailName) string { return hex.EncodeToString([]byte{done.shard}) + done.tenant }
	names, err := s.indexedTrails(ctx)
	if err != nil {
		return broker.VerifiedTrail{}, fmt.Errorf("verify: %w", err)
	}
	names = slices.DeleteFunc(names, func(n trailName) bool { return tenant != "" && n.tenant != tenant })
	out := broker.VerifiedTrail{Total: len(names)}
	switch {
	case position == "":
		all, err := s.trailNames(ctx)
		if err != nil {
			return out, fmt.Errorf("verify: %w", err)
		}
		todo = slices.DeleteFunc(all, func(t foundTrail) bool { return t.indexed || tenant != "" && t.name.tenant != tenant })
	case position != begun:
		raw, err := hex.DecodeString(position[:min(2, len(position))])
		if err != nil || len(raw) != 1 {
			return out, fmt.Errorf("position is not one of ours: %w", broker.ErrNotFound)
		}
		after = trailName{shard: raw[0], tenant: position[2:]}
		names = slices.DeleteFunc(names, func(n trailName) bool { return n.compare(after) <= 0 })
		fallthrough
	default:
		for _, n := range names {
			todo = append(todo, foundTrail{name: n, indexed: true})
		}
	}
	until := s.cfg.Now().Add(budget)
	for i, stream := range todo {
		if i > 0 && position != "" && !s.cfg.Now().Before(until) {
			out.Next = next(todo[i-1].name)
			break
		}
		err := s.verifyStream(ctx, stream, nil, &report)
		if i > 0 && position != "" && errors.Is(err, broker.ErrKeyNotYet) { // what was done is done; that one begins the next part
			out.Next = next(todo[i-1].name)
			break
		}
		if err != nil {
			return out, fmt.Errorf("verify %s: %w", stream.name, err)
		}
	}
	if position == "" && len(names) > 0 {
		out.Next = begun
	}
	out.Streams, out.Entries, out.Events, out.Faults = report.Streams, report.Entries, report.Events, report.Faults
	return out, nil
}
