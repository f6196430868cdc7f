package vault

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"tokenbroker/broker"
)

// trimming is one step on its way: entries of a stream that are dropped together, with what says so.
type trimming struct {
	name   trailName
	was    *cut
	next   storedCut
	upto   streamID
	checks []Check  // the heads that are dropped are still those
	heads  []string // their fields
	lists  []string // the own lists of the posting index that name these entries
	full   bool     // there may be more to drop
}

// prepare reads the next entries that are due and verifies them as Verify would: what is wrong in them is a fault, and nothing is dropped
// then. nil: nothing is due.
func (r *retainer) prepare(ctx context.Context, d dueStream, rule string) (*trimming, *Fault, error) {
	s := r.store
	w := s.walkOf(d.name)
	heads, raw, at, fault, err := w.beside(ctx)
	if err != nil || fault != nil {
		return nil, fault, err
	}
	w.begin(at)
	w.want(heads)
	from := "-"
	if at.version > 0 {
		from = "(" + at.upto.String()
	}
	query := StreamQuery{Key: streamKey(d.name.shard, d.name.tenant), From: from, To: d.to, Limit: trimStep}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) {
		return s.cfg.Backend.Streams(ctx, []StreamQuery{query})
	})
	if err != nil || len(found[0]) == 0 {
		return nil, nil, err
	}
	t := &trimming{name: d.name, was: at, full: len(found[0]) == trimStep}
	lists := make(map[string]bool)
	only := true // nothing but what says that the trail was trimmed: that alone is never a reason
	// An id is no proof of age: of a chain's last entry nothing attests it, so whoever writes to the store could give a fresh one an
	// old id, and have it dropped here, with a cut that says so. Its own time is sealed, and never later than its id by more than clocks differ.
	var fresh *Fault
	w.seen = func(good goodEntry) {
		id, entry := good.id, good.entry
		if entry.Time > int64(id.ms)+timeSlack.Milliseconds() && entry.Type != string(broker.EventTrailTrimmed) && fresh == nil {
			fresh = &Fault{Entry: id.String(), After: w.last, What: "reordered: the entry is later than its stream id says"}
		}
		t.upto, only = id, only && entry.Type == string(broker.EventTrailTrimmed)
		s.listsOf(lists, d.name.tenant, id, entry)
	}
	for _, e := range found[0] {
		if fault, err := w.entry(e); fault != nil || err != nil {
			return nil, fault, err
		}
		if fresh != nil {
			return nil, fresh, nil
		}
	}
	if only && !t.full {
		return nil, nil, nil
	}
	t.lists = slices.Sorted(maps.Keys(lists))
	now, _, err := s.cfg.Backend.Clock(ctx)
	if err != nil {
		return nil, nil, err
	}
	t.next = storedCut{
		Upto: t.upto.String(), Entries: at.Entries + uint64(w.entries), Events: at.Events + uint64(w.events), Losses: at.Losses + uint64(len(w.lost)),
		Rule: rule, At: now.UnixMilli(),
	}
	return t, t.chains(w, heads, raw), nil
}

// listsOf adds the lists that are the entry's values' own.
func (s *Store) listsOf(lists map[string]bool, tenant string, id streamID, entry storedEntry) {
	if s.follower == nil {
		return
	}
	for _, v := range valuesOf(entry, true) {
		lists[s.listOf(tenant, v.facet, v.text).own(dayOf(id.ms))] = true
	}
}

// chains says where each chain stands behind the step. One that has nothing left goes, with its head.
func (t *trimming) chains(w *walk, heads map[string]foundHead, raw map[string][]byte) *Fault {
	gone := maps.Clone(t.was.gone)
	maps.DeleteFunc(gone, func(_ goneName, g goneChain) bool { return g.at+goneKept < t.upto.ms })
	if gone == nil {
		gone = make(map[goneName]goneChain)
	}
	ended := func(name string, writer *writerWalk) {
		gone[goneNameOf(name)] = goneChain{seq: max(writer.at.seq, writer.lost), at: uint64(t.next.At)}
	}
	for _, name := range slices.Sorted(slices.Values(w.order)) {
		writer := w.writers[name]
		if writer.gone || writer.at.seq == 0 {
			continue
		}
		head, there := heads[name]
		fault := &Fault{Entry: writer.lastID, After: writer.lastEvent}
		switch {
		case there && head.forged:
			fault.What = "forged: the head of a chain is not one of ours"
			return fault
		case !there && writer.resumed:
			ended(name, writer)
			continue
		case !there:
			fault.What = "dropped: the head of a chain is missing, and perhaps entries before it"
			return fault
		case head.seq < writer.at.seq && !writer.resumed:
			fault.What = "changed: the head of a chain is older than its entries"
			return fault
		case head.seq == writer.at.seq:
			// Unless somebody goes on with it at this moment: then the step is refused.
			t.checks = append(t.checks, Check{Key: headsKey(t.name.shard, t.name.tenant), Field: name, Kind: CheckEqual, Value: string(raw[name])})
			t.heads = append(t.heads, name, name+HeadIDSuffix)
			ended(name, writer)
			continue
		}
		at := writer.places[writer.at.seq]
		t.next.Writers = append(t.next.Writers, storedWriter{
			Writer: name, Seq: writer.at.seq, Link: writer.at.link[:], ID: at.id.String(), Resumed: writer.resumed, Lost: writer.lost,
		})
	}
	t.next.Gone = packGone(gone)
	return nil
}

// drop carries out the step. Lists of the index first: a crash behind that leaves entries that searching by a value does not find for as
// long as it takes somebody to go on. Then, in one step of the store, the cut, the heads and the entries: all of it or nothing, so a
// failover loses all of it or nothing too.
func (r *retainer) drop(ctx context.Context, t *trimming) error {
	s := r.store
	for lists := t.lists; len(lists) > 0; {
		n := min(len(lists), followPieces)
		if err := r.trimmer.DeleteLists(ctx, lists[:n]); err != nil {
			return fmt.Errorf("drop lists of the index: %w", err)
		}
		lists = lists[n:]
	}
	id, err := s.randomID()
	if err != nil {
		return err
	}
	version := t.was.version + 1
	sealed, err := s.sealCut(t.name, version, t.next)
	if err != nil {
		return err
	}
	key := cutKey(t.name.shard, t.name.tenant)
	step := Step{
		Checks: append(versionChecks(key, cutFormat, t.was.version, id), t.checks...),
		Writes: []Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, cutFormat, fieldVersion, strconv.FormatInt(version, 10), fieldWrite, id, fieldBody, sealed}}},
	}
	if len(t.heads) > 0 {
		step.Writes = append(step.Writes, Write{Kind: WriteHashDelete, Key: headsKey(t.name.shard, t.name.tenant), Args: t.heads})
	}
	first := streamID{ms: t.upto.ms, n: t.upto.n + 1}
	step.Writes = append(step.Writes, Write{Kind: WriteStreamTrim, Key: streamKey(t.name.shard, t.name.tenant), Args: []string{"MINID", "=", first.String()}})
	res, err := s.trails.direct(ctx, step)
	if err != nil {
		return fmt.Errorf("drop old events: %w", err)
	}
	// A chain goes on at this moment, or another process is at work: the next round looks again.
	r.behind = r.behind || res.Verdict == VerdictRefused
	return nil
}

// The shared lists of the posting index are of all tenants' streams: those of a day go when no stream has anything of it any more. A mark
// says which is the first day that may still have some.

const fieldDay = "d"

// markDay sets the mark where there is none: to the oldest day that there is, before anything of it is dropped.
func (r *retainer) markDay(ctx context.Context, oldest uint64) (day int64, err error) {
	res, err := r.store.trails.direct(ctx, Step{
		Checks: []Check{{Key: retainDayKey(), Field: fieldDay, Kind: CheckAbsent}},
		Writes: []Write{{Kind: WriteHashSet, Key: retainDayKey(), Args: []string{fieldDay, strconv.FormatInt(dayOf(oldest), 10)}}},
	})
	if err != nil || res.Verdict != VerdictRefused {
		return dayOf(oldest), err
	}
	found, err := r.store.hashes(ctx, retainDayKey())
	if err != nil {
		return 0, err
	}
	// One that somebody set to something else costs a search, or memory.
	day, err = strconv.ParseInt(string(found[0][fieldDay]), 10, 64)
	if err != nil || day < 0 || day > maxMs/msPerDay {
		day = dayOf(oldest)
	}
	return max(day, dayOf(oldest)-forgottenDays), nil
}

// forgottenDays bounds how far behind the oldest entry the mark is believed.
const forgottenDays = 400

// dropShared deletes the shared lists of the days from the mark on and before that time.
func (r *retainer) dropShared(ctx context.Context, from int64, below uint64) error {
	for day := from; day < dayOf(below); day++ {
		keys := make([]string, 0, 4*shards)
		for shard := range shards {
			for part := range 4 {
				keys = append(keys, listID{0: byte(shard), 1: byte(part << 6)}.shared(day))
			}
		}
		if err := r.trimmer.DeleteLists(ctx, keys); err != nil {
			return fmt.Errorf("drop lists of the index: %w", err)
		}
		if _, err := r.store.trails.direct(ctx, Step{
			Writes: []Write{{Kind: WriteHashSet, Key: retainDayKey(), Args: []string{fieldDay, strconv.FormatInt(day+1, 10)}}},
		}); err != nil {
			return err
		}
	}
	return nil
}

// parseTrimmed reads the ms of trimmedValue.
func parseTrimmed(value string) (below uint64, good bool) {
	text, _, _ := strings.Cut(value, ".")
	below, err := strconv.ParseUint(text, 10, 63)
	return below, err == nil
}
