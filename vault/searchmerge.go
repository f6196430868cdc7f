package vault

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"slices"
)

const (
	// mergeEntries bounds how many entries the sources of a window hold at the same time, about; mergeChunk those of one.
	mergeEntries = 1 << 14
	mergeChunk   = 512
)

// compare orders places by the ids of their entries, and those that are equal by their shards.
func (p eventPosition) compare(other eventPosition) int {
	return cmp.Or(cmp.Compare(p.id.ms, other.id.ms), cmp.Compare(p.id.n, other.id.n), cmp.Compare(p.shard, other.shard))
}

// found is an entry and where it lies.
type foundEntry struct {
	StreamEntry
	id    streamID
	shard byte
}

func (e foundEntry) compare(other foundEntry) int {
	return eventPosition{id: e.id, shard: e.shard}.compare(eventPosition{id: other.id, shard: other.shard})
}

// searchSource gives the entries of a window in order: those of a stream, from and to an id, or those at places of the index.
type searchSource struct {
	shard    byte
	from, to string
	day      int64
	places   []posting
	ended    bool // nothing is left to be read; there may still be entries
	entries  []foundEntry
}

// searchMerge merges the sources of a window.
type searchMerge struct {
	x       *search
	chunk   int
	taken   int // entries since more was read of all that had little left
	sources []*searchSource
	live    []*searchSource // a heap of those that have entries
}

func (m *searchMerge) Len() int { return len(m.live) }
func (m *searchMerge) Less(i, j int) bool {
	return (m.live[i].entries[0].compare(m.live[j].entries[0]) < 0) == m.x.q.Oldest
}
func (m *searchMerge) Swap(i, j int) { m.live[i], m.live[j] = m.live[j], m.live[i] }
func (m *searchMerge) Push(v any)    { m.live = append(m.live, v.(*searchSource)) }
func (m *searchMerge) Pop() any {
	last := m.live[len(m.live)-1]
	m.live = m.live[:len(m.live)-1]
	return last
}

// merge begins a window.
func (x *search) merge(ctx context.Context, w *window) (*searchMerge, error) {
	m := &searchMerge{x: x}
	var places []posting
	if w.lists != nil {
		var err error
		if places, err = x.places(ctx, w); err != nil {
			if err = x.without(ctx, err); err != nil {
				return nil, err
			}
			w.lists = nil
		}
	}
	from, to := msText(w.from), msText(w.to)
	for _, shard := range x.sources {
		src := &searchSource{shard: shard, from: from, to: to}
		if w.lists != nil {
			// What the index has of this stream comes from there.
			mark := x.marks[shard]
			if newest, known := x.newest[shard]; mark.ms > w.to || known && !mark.less(newest) {
				continue
			}
			if mark.ms >= w.from {
				src.from = "(" + mark.String()
			}
		}
		x.goOn(src)
		m.sources = append(m.sources, src)
	}
	m.chunk = min(mergeChunk, x.q.Limit/max(1, len(m.sources))+eventsSlack)
	if len(places) > 0 {
		m.sources = append(m.sources, &searchSource{day: w.day, places: places})
	}
	return m, m.fill(ctx)
}

// goOn lets a stream begin behind the position that the page goes on from.
func (x *search) goOn(src *searchSource) {
	if x.after == nil {
		return
	}
	bound := x.after.id.String()
	if x.q.Oldest {
		if lower, err := parseLower(src.from); err == nil && lower.less(x.after.id) {
			src.from = bound
		}
	} else if upper, err := parseLower(src.to); err == nil && !upper.less(streamID{ms: x.after.id.ms}) {
		src.to = bound
	}
}

// parseLower reads the end of a range as a stream id; of a ms it is the first in it.
func parseLower(text string) (streamID, error) {
	if text[0] == '(' {
		text = text[1:]
	}
	if !slices.Contains([]byte(text), '-') {
		text += "-0"
	}
	return parseStreamID(text)
}

// next returns the next entry, or no source at the end.
func (m *searchMerge) next(ctx context.Context) (*searchSource, foundEntry, error) {
	if len(m.live) == 0 {
		return nil, foundEntry{}, nil
	}
	src := m.live[0]
	e := src.entries[0]
	m.taken++
	switch src.entries = src.entries[1:]; {
	case len(src.entries) > 0:
		heap.Fix(m, 0)
	case src.ended:
		heap.Pop(m)
	default:
		return src, e, m.fill(ctx)
	}
	return src, e, nil
}

// fill reads more of those sources that have little left, in one round trip, until each has something or has ended.
func (m *searchMerge) fill(ctx context.Context) error {
	for {
		var queries []StreamQuery
		var asked []*searchSource
		var counts []int
		empty := false
		// Where few entries were taken, one source ran dry by chance, and the others have enough.
		few, least := m.taken < len(m.sources), 1
		if !few {
			m.taken, least = 0, max(1, m.chunk/2)
		}
		for _, src := range m.sources {
			if src.ended || len(src.entries) >= least {
				continue
			}
			more := m.queries(src)
			queries, asked, counts = append(queries, more...), append(asked, src), append(counts, len(more))
		}
		if len(queries) > 0 {
			found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return m.x.store.cfg.Backend.Streams(ctx, queries) })
			if err != nil {
				return err
			}
			for i, src := range asked {
				if err := m.take(src, found[:counts[i]]); err != nil {
					return err
				}
				found = found[counts[i]:]
				empty = empty || len(src.entries) == 0 && !src.ended
			}
		}
		if !few || empty {
			m.chunk = min(2*m.chunk, mergeChunk, max(8, mergeEntries/max(1, len(m.sources))))
		}
		if !empty {
			break
		}
		m.x.examined += len(queries) // whose entries are gone
	}
	m.live = m.live[:0]
	for _, src := range m.sources {
		if len(src.entries) > 0 {
			m.live = append(m.live, src)
		}
	}
	heap.Init(m)
	return nil
}

// queries are what to read next of a source.
func (m *searchMerge) queries(src *searchSource) []StreamQuery {
	newest := !m.x.q.Oldest
	if src.places == nil {
		return []StreamQuery{{Key: streamKey(src.shard, m.x.tenant), From: src.from, To: src.to, Limit: m.chunk, Newest: newest}}
	}
	var out []StreamQuery
	for i, p := range src.places[:m.group(src)] {
		if i > 0 && p.n == crowded && p == src.places[i-1] {
			continue
		}
		ms := uint64(src.day)*msPerDay + uint64(p.ms)
		q := StreamQuery{Key: streamKey(p.shard, m.x.tenant), From: streamID{ms: ms, n: uint64(p.n)}.String(), Limit: 1, Newest: newest}
		q.To = q.From
		if p.n == crowded {
			q.To, q.Limit = streamID{ms: ms, n: math.MaxUint64}.String(), 1<<16
		}
		out = append(out, q)
	}
	return out
}

// group is how many places are read next: never a part of those whose order shows in their ids only.
func (m *searchMerge) group(src *searchSource) int {
	n := min(m.chunk, len(src.places))
	for n < len(src.places) && src.places[n].n == crowded && src.places[n-1].n == crowded && src.places[n].ms == src.places[n-1].ms {
		n++
	}
	return n
}

// take gives a source what was read of it.
func (m *searchMerge) take(src *searchSource, found [][]StreamEntry) error {
	before := len(src.entries)
	add := func(shard byte, e StreamEntry) (foundEntry, error) {
		id, err := parseStreamID(e.ID)
		if err != nil {
			return foundEntry{}, fmt.Errorf("read audit trail: %w", err)
		}
		got := foundEntry{StreamEntry: e, id: id, shard: shard}
		src.entries = append(src.entries, got)
		return got, nil
	}
	if src.places == nil {
		for _, e := range found[0] {
			if _, err := add(src.shard, e); err != nil {
				return err
			}
			if m.x.q.Oldest {
				src.from = "(" + e.ID
			} else {
				src.to = "(" + e.ID
			}
		}
		src.ended = len(found[0]) < m.chunk
		return nil
	}
	n := m.group(src)
	for i, p := range src.places[:n] {
		for _, e := range found[i] {
			got, err := add(p.shard, e)
			if err != nil {
				return err
			}
			if m.x.marks[p.shard].less(got.id) {
				src.entries = src.entries[:len(src.entries)-1] // it comes with its stream
			}
		}
	}
	src.places = src.places[n:]
	src.ended = len(src.places) == 0
	slices.SortFunc(src.entries[before:], func(a, b foundEntry) int {
		if m.x.q.Oldest {
			return a.compare(b)
		}
		return b.compare(a)
	})
	return nil
}
