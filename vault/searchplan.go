package vault

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"

	"tokenbroker/broker"
)

const (
	// planDays is for how many days the lists are asked about at once.
	planDays = 32
	// rare is how many postings a list of a day may have for the entries to be looked at one by one: of a value that has more,
	// the streams of the day hold one soon wherever one begins. Some 700 kB.
	rare = 100_000
	// worthwhile is how many entries a second list must save to be read.
	worthwhile = 500
	// maxMs is a time that no entry has: the store's numbers end before.
	maxMs = math.MaxInt64
)

// window is a piece of time that is read in one way.
type window struct {
	from, to uint64 // ms, both included
	// lists has, for each value that the index is asked about, the two lists of the day; nil: the streams are read.
	lists []valueLists
	day   int64
}

type valueLists struct {
	id          listID
	own, shared int64 // bytes
}

// cost is about how many postings the lists have of the value.
func (v valueLists) cost() int64 { return v.own/ownSize + v.shared/sharedSize/8 }

// readable tells that the lists are short enough to be read.
func (v valueLists) readable() bool { return v.own <= rare*ownSize && v.shared <= rare*sharedSize }

// end is the position behind everything in the window.
func (w *window) end(oldest bool) eventPosition {
	if oldest {
		return eventPosition{id: streamID{ms: w.to, n: math.MaxUint64}, shard: shards - 1, event: lastEvent}
	}
	return eventPosition{id: streamID{ms: w.from}, event: lastEvent}
}

func msText(ms uint64) string { return strconv.FormatUint(ms, 10) }

// span is a piece of time of which the index is asked about the same values; none: the streams are read.
type span struct {
	from, to uint64
	values   []value
}

// searchPlan gives the windows in the order of the search.
type searchPlan struct {
	x     *search
	spans []span
	queue []*window
	// trusted is the time from which on the index is to be believed; nil: not asked for yet. What lies before the beginning of what is
	// kept was tampered with, and is kept for that: the lists of its days went with what was dropped.
	trusted *uint64
}

// plan finds out what there is to read.
func (x *search) plan(ctx context.Context) (*searchPlan, error) {
	f := x.filter
	main := span{to: maxMs, values: x.values}
	if !f.Since.IsZero() {
		main.from = uint64(max(0, f.Since.Add(-timeSlack).UnixMilli()))
	}
	p := &searchPlan{x: x}
	var one bool
	x.sources, one = x.store.eventShards(x.tenant, f)
	moment := uint64(maxMs)
	if x.q.Oldest && !one {
		var err error
		if moment, err = x.store.passedMoment(ctx); err != nil { // as in eventSources
			return nil, err
		}
	}
	p.spans = []span{main}
	if !f.Until.IsZero() {
		p.spans[0].to = uint64(max(0, f.Until.Add(timeSlack).UnixMilli()))
		// Few entries come that late, and the index has those.
		p.spans = append(p.spans, span{from: p.spans[0].to + 1, to: uint64(max(0, f.Until.Add(spoolSlack).UnixMilli())), values: []value{{facet: facetLate}}})
	}
	if x.store.follower == nil {
		for i := range p.spans {
			p.spans[i].values = nil
		}
	}
	if slices.ContainsFunc(p.spans, func(s span) bool { return len(s.values) > 0 }) {
		first, last, err := x.ends(ctx, f.Since.IsZero() && len(x.values) > 0)
		if err != nil {
			return nil, err
		}
		for i := range p.spans {
			if p.spans[i].to = min(p.spans[i].to, last); len(p.spans[i].values) > 0 {
				p.spans[i].from = max(p.spans[i].from, first)
			}
		}
		if x.marks, err = x.store.marks(ctx, x.tenant, x.sources); err != nil {
			return nil, err
		}
	}
	if !x.q.Oldest {
		slices.Reverse(p.spans)
	}
	for i := range p.spans {
		s := &p.spans[i]
		s.to = min(s.to, moment)
		switch {
		case x.after == nil:
		case x.q.Oldest && *x.after == (&window{to: x.after.id.ms}).end(true):
			s.from = max(s.from, x.after.id.ms+1) // else a page whose time is up at the end of a window would be followed by the same
		case x.q.Oldest:
			s.from = max(s.from, x.after.id.ms)
		case *x.after == (&window{from: x.after.id.ms}).end(false):
			if s.to = min(s.to, x.after.id.ms-1); x.after.id.ms == 0 {
				s.from, s.to = 1, 0 // that was all
			}
		default:
			s.to = min(s.to, x.after.id.ms)
		}
	}
	return p, nil
}

// ends asks for the newest entry of each stream, and for the oldest, if that is wanted too. Shards without one are left out of
// the search. first and last are the ms of the two ends of all; first is 0 if it was not asked for.
func (x *search) ends(ctx context.Context, oldest bool) (first, last uint64, err error) {
	var queries []StreamQuery
	for _, shard := range x.sources {
		queries = append(queries, StreamQuery{Key: streamKey(shard, x.tenant), From: "-", To: "+", Limit: 1, Newest: true})
	}
	if oldest {
		for _, shard := range x.sources {
			queries = append(queries, StreamQuery{Key: streamKey(shard, x.tenant), From: "-", To: "+", Limit: 1})
		}
		first = maxMs
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return x.store.cfg.Backend.Streams(ctx, queries) })
	if err != nil {
		return 0, 0, err
	}
	x.newest = make(map[byte]streamID)
	var there []byte
	for i, shard := range x.sources {
		if len(found[i]) == 0 {
			continue
		}
		id, err := parseStreamID(found[i][0].ID)
		if err != nil {
			return 0, 0, err
		}
		there, x.newest[shard], last = append(there, shard), id, max(last, id.ms)
		if oldest && len(found[len(x.sources)+i]) > 0 {
			if id, err = parseStreamID(found[len(x.sources)+i][0].ID); err != nil {
				return 0, 0, err
			}
			first = min(first, id.ms)
		}
	}
	x.sources = there
	return first, last, nil
}

// next returns the next window, nil at the end.
func (p *searchPlan) next(ctx context.Context) (*window, error) {
	for len(p.queue) == 0 {
		if len(p.spans) == 0 || len(p.x.sources) == 0 {
			return nil, nil
		}
		s := &p.spans[0]
		if s.from > s.to {
			p.spans = p.spans[1:]
			continue
		}
		if len(s.values) == 0 {
			p.queue = append(p.queue, &window{from: s.from, to: s.to})
			p.spans = p.spans[1:]
			continue
		}
		if err := p.days(ctx, s); err != nil {
			return nil, err
		}
	}
	w := p.queue[0]
	p.queue = p.queue[1:]
	return w, nil
}

// days plans the next days of a span, and takes them out of it.
func (p *searchPlan) days(ctx context.Context, s *span) error {
	if err := p.trust(ctx); err != nil {
		return err
	}
	var days []*window
	for len(days) < planDays && s.from <= s.to {
		w := &window{from: s.from, to: s.to}
		if p.x.q.Oldest {
			w.day = dayOf(s.from)
			w.to = min(w.to, uint64(w.day+1)*msPerDay-1)
			s.from = w.to + 1
		} else {
			w.day = dayOf(s.to)
			w.from = max(w.from, uint64(w.day)*msPerDay)
			if w.from == s.from {
				s.from = w.to + 1 // that was the last
			} else {
				s.to = w.from - 1
			}
		}
		days = append(days, w)
	}
	lists := make([]listID, len(s.values))
	var keys []string
	for i, v := range s.values {
		lists[i] = p.x.store.listOf(p.x.tenant, v.facet, v.text)
		for _, w := range days {
			keys = append(keys, lists[i].own(w.day), lists[i].shared(w.day))
		}
	}
	lengths, err := readPatiently(ctx, func(ctx context.Context) ([]int64, error) { return p.x.store.follower.lists.ListLengths(ctx, keys) })
	if err = p.x.without(ctx, err); err != nil {
		return err
	}
	for d, w := range days {
		var all []valueLists
		for i, id := range lists {
			if lengths == nil {
				break
			}
			at := 2 * (i*len(days) + d)
			all = append(all, valueLists{id: id, own: lengths[at], shared: lengths[at+1]})
		}
		if w.lists = choose(all); w.from < *p.trusted {
			w.lists = nil
		}
		if n := len(p.queue); n > 0 && w.lists == nil && p.queue[n-1].lists == nil {
			before := p.queue[n-1]
			before.from, before.to = min(before.from, w.from), max(before.to, w.to)
			continue
		}
		p.queue = append(p.queue, w)
	}
	return nil
}

func (p *searchPlan) trust(ctx context.Context) error {
	if p.trusted != nil {
		return nil
	}
	kept, err := p.x.store.KeptSince(ctx, p.x.tenant)
	if errors.Is(err, broker.ErrIntegrity) {
		kept, err = fromMillis(maxMs), nil
	}
	if err != nil {
		return err
	}
	from := uint64(max(0, kept.UnixMilli())) // the zero time is before 1970
	p.trusted = &from
	return nil
}

// without is the error of reading the index where that is the search's; nil: the streams are read instead, as nothing that is said of
// the index is known. The user may lack its commands, and a store that is away does not give the streams either.
func (x *search) without(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	x.store.cfg.Log.DebugContext(ctx, "the index of the audit trail can't be read; the search goes through the trail itself", "error", err)
	return nil
}

// choose takes the lists that are worth reading: the shortest, and others if that is long; none: the streams are read.
func choose(all []valueLists) []valueLists {
	all = slices.DeleteFunc(all, func(v valueLists) bool { return !v.readable() })
	if len(all) == 0 {
		return nil
	}
	slices.SortFunc(all, func(a, b valueLists) int { return int(a.cost() - b.cost()) })
	if all[0].cost() <= worthwhile {
		return all[:1]
	}
	return all
}

// places reads the window's lists: the places that are in all of them, in the order of the search, in the window, in the shards
// that are searched, and behind the position that the page goes on from.
func (x *search) places(ctx context.Context, w *window) ([]posting, error) {
	var heads []ListHead
	for _, v := range w.lists {
		heads = append(heads, ListHead{Key: v.id.own(w.day), Length: max(1, v.own)}, ListHead{Key: v.id.shared(w.day), Length: max(1, v.shared)})
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([]string, error) { return x.store.follower.lists.ListHeads(ctx, heads) })
	if err != nil {
		return nil, err
	}
	var places []posting
	for i, v := range w.lists {
		of := append(postingsIn(found[2*i], ""), postingsIn(found[2*i+1], v.id.tag())...)
		slices.SortFunc(of, posting.compare)
		if of = slices.Compact(of); i == 0 {
			places = of
			continue
		}
		places = slices.DeleteFunc(places, func(p posting) bool {
			_, both := slices.BinarySearchFunc(of, p, posting.compare)
			return !both
		})
	}
	begin := uint64(w.day) * msPerDay
	var in [shards]bool
	for _, shard := range x.sources {
		in[shard] = true
	}
	places = slices.DeleteFunc(places, func(p posting) bool {
		ms := begin + uint64(p.ms)
		here := eventPosition{id: streamID{ms: ms, n: uint64(p.n)}, shard: p.shard, event: lastEvent}
		return !in[p.shard] || ms < w.from || ms > w.to || p.n != crowded && (x.marks[p.shard].less(here.id) || x.after != nil && x.passed(here) && here.compare(*x.after) != 0)
	})
	if !x.q.Oldest {
		slices.Reverse(places)
	}
	return places, nil
}
