package vault

import (
	"container/heap"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"tokenbroker/broker"
)

const (
	// timeSlack is how much an event's own time may differ from the time in its entry's stream id, because of clocks;
	// spoolSlack is how much later it may have been appended, because it waited in the spool.
	timeSlack  = 5 * time.Minute
	spoolSlack = 24 * time.Hour
	// scanBudget bounds how many entries one page looks at, so that a rare filter ends a page early instead of late.
	scanBudget = 20000
	// eventsSlack is how many entries more of each stream are read for a page than it needs on average: with three, hardly a page
	// of hundreds of streams has to ask again.
	eventsSlack = 3
	// eventsChunk is the most entries of a stream that are read at once, and eventsHeld about the most of all.
	eventsChunk, eventsHeld = 512, 1 << 13
	// clockPatience bounds for how many milliseconds a reader waits for the clocks of a cluster to pass one another.
	clockPatience = 100
)

// eventPosition is the place of an event in the tenant's trail: entries in the order of their stream ids, and of their
// shards where those are equal.
type eventPosition struct {
	id    streamID
	shard byte
	event uint16 // within its entry
}

// lastEvent is a position behind all events of an entry.
const lastEvent = math.MaxUint16

func (p eventPosition) encode() string {
	b := binary.BigEndian.AppendUint64(nil, p.id.ms)
	b = binary.BigEndian.AppendUint64(b, p.id.n)
	b = append(b, p.shard)
	b = binary.BigEndian.AppendUint16(b, p.event)
	return base64.RawURLEncoding.EncodeToString(b)
}

func parseEventPosition(text string) (eventPosition, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != 19 {
		return eventPosition{}, fmt.Errorf("position is not one of ours: %w", broker.ErrNotFound)
	}
	return eventPosition{
		id:    streamID{ms: binary.BigEndian.Uint64(b), n: binary.BigEndian.Uint64(b[8:])},
		shard: b[16], event: binary.BigEndian.Uint16(b[17:]),
	}, nil
}

// from is where reading goes on in a shard after the position.
func (p eventPosition) from(shard byte) string {
	if shard < p.shard {
		return "(" + p.id.String()
	}
	return p.id.String()
}

// Events implements broker.Audit.
func (s *Store) Events(ctx context.Context, tenant string, filter broker.EventFilter, position string, limit int) ([]broker.Event, string, error) {
	limit = max(1, limit)
	var after *eventPosition
	if position != "" {
		p, err := parseEventPosition(position)
		if err != nil {
			return nil, "", err
		}
		after = &p
	}
	sources, to, err := s.eventSources(ctx, tenant, filter)
	if err != nil {
		return nil, "", err
	}
	m := &eventMerge{selection: s.selection(tenant, filter), to: to, chunk: limit/len(sources) + eventsSlack}
	start := "-"
	if !filter.Since.IsZero() {
		start = strconv.FormatInt(max(0, filter.Since.Add(-timeSlack).UnixMilli()), 10)
	}
	for _, shard := range sources {
		src := &eventSource{name: trailName{shard: shard, tenant: tenant}, from: start}
		if after != nil {
			src.from = after.from(shard)
		}
		m.sources = append(m.sources, src)
	}
	if err := m.fill(ctx, m.sources); err != nil {
		return nil, "", err
	}
	var out []broker.Event
	var last eventPosition
	for scanned := 0; ; scanned++ {
		src, entry, err := m.next(ctx)
		if err != nil {
			return nil, "", err
		}
		if src == nil {
			return out, "", nil
		}
		id, err := parseStreamID(entry.ID)
		if err != nil {
			return nil, "", fmt.Errorf("read audit trail: %w", err)
		}
		if scanned >= scanBudget {
			return out, last.encode(), nil
		}
		events, err := m.matching(src.name, entry)
		if errors.Is(err, broker.ErrKeyNotYet) {
			return nil, "", err // another replica has the key, and an answer without the entry would be none
		}
		if err != nil {
			// One bad entry must not hide the others; verify names it.
			s.cfg.Log.ErrorContext(ctx, "audit entry can't be read", "stream", src.name.String(), "entry", entry.ID, "error", err)
		}
		for i, e := range events {
			here := eventPosition{id: id, shard: src.name.shard, event: uint16(min(i, lastEvent-1))}
			if e == nil || after != nil && here.id == after.id && here.shard == after.shard && here.event <= after.event {
				continue
			}
			if len(out) == limit {
				return out, last.encode(), nil
			}
			out, last = append(out, *e), here
		}
		if len(out) < limit {
			last = eventPosition{id: id, shard: src.name.shard, event: lastEvent}
		}
	}
}

// eventShards are the shards in which the filter's events are; one: it is about a subject or a connection.
func (s *Store) eventShards(tenant string, filter broker.EventFilter) (of []byte, one bool) {
	if filter.Subject != "" {
		return []byte{s.Shard(tenant, filter.Subject)}, true
	}
	if shard, ok := broker.ShardOfID(filter.Connection); ok {
		return []byte{shard}, true
	}
	for i := range shards {
		of = append(of, byte(i))
	}
	return of, false
}

// eventSources are the shards to read and the stream id to read to.
func (s *Store) eventSources(ctx context.Context, tenant string, filter broker.EventFilter) (sources []byte, to string, err error) {
	end := uint64(math.MaxUint64)
	if !filter.Until.IsZero() {
		end = uint64(max(0, filter.Until.Add(spoolSlack).UnixMilli()))
	}
	sources, one := s.eventShards(tenant, filter)
	if !one {
		// Ids of one stream only grow, so one stream can be read to its end. Of several, one may get an entry in a
		// millisecond that was already read in another: a reader who goes on from there would never see it. So read
		// up to the present moment, and not before that is over on every node.
		moment, err := s.passedMoment(ctx)
		if err != nil {
			return nil, "", err
		}
		end = min(end, moment)
	}
	return sources, strconv.FormatUint(end, 10), nil
}

// passedMoment returns a millisecond that no node will give to an entry any more, and that everything appended before
// the call lies before or in. If the nodes' clocks are too far apart for both, the first holds.
func (s *Store) passedMoment(ctx context.Context) (uint64, error) {
	var moment, earliest, latest time.Time
	for range clockPatience {
		var err error
		if earliest, latest, err = s.cfg.Backend.Clock(ctx); err != nil {
			return 0, fmt.Errorf("read audit trail: %w", err)
		}
		if moment.IsZero() {
			moment = latest
		}
		if earliest.UnixMilli() > moment.UnixMilli() {
			return uint64(moment.UnixMilli()), nil
		}
		if !sleep(ctx, time.Millisecond) {
			return 0, fmt.Errorf("read audit trail: %w", context.DeadlineExceeded)
		}
	}
	return uint64(earliest.UnixMilli() - 1), nil
}

// eventSource is one stream on its way into the merge.
type eventSource struct {
	name    trailName
	from    string
	entries []StreamEntry
	id      streamID // of the first entry
	ended   bool
}

// eventMerge merges the streams of a tenant.
type eventMerge struct {
	selection
	to      string
	chunk   int
	taken   int // entries since more was read of all
	sources []*eventSource
	heap    eventHeap
}

// fill reads more of these sources, in one round trip, and puts those that had nothing and have something now on the heap.
func (m *eventMerge) fill(ctx context.Context, sources []*eventSource) error {
	var queries []StreamQuery
	for _, src := range sources {
		queries = append(queries, StreamQuery{Key: streamKey(src.name.shard, src.name.tenant), From: src.from, To: m.to, Limit: m.chunk})
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return m.store.cfg.Backend.Streams(ctx, queries) })
	if err != nil {
		return err
	}
	for i, src := range sources {
		waiting := len(src.entries) > 0
		src.entries, src.ended = append(src.entries, found[i]...), len(found[i]) < m.chunk
		if n := len(found[i]); n > 0 {
			src.from = "(" + found[i][n-1].ID
		}
		if waiting {
			continue // on the heap already
		}
		if err := m.push(src); err != nil {
			return err
		}
	}
	return nil
}

// refill reads more behind a source that has nothing left: of it alone, or, where the filter passes few, more and of all that are low.
func (m *eventMerge) refill(ctx context.Context, src *eventSource) error {
	if m.taken < len(m.sources) {
		return m.fill(ctx, []*eventSource{src})
	}
	m.taken, m.chunk = 0, max(m.chunk, min(2*m.chunk, eventsChunk, eventsHeld/len(m.sources)))
	return m.fill(ctx, m.low())
}

// low are the sources that may have more in the store and have little left here: they are read together, or a filter that passes
// few would cost a round trip for each of them.
func (m *eventMerge) low() (sources []*eventSource) {
	for _, src := range m.sources {
		if !src.ended && len(src.entries) < max(1, m.chunk/2) {
			sources = append(sources, src)
		}
	}
	return sources
}

func (m *eventMerge) push(src *eventSource) error {
	if len(src.entries) == 0 {
		return nil
	}
	id, err := parseStreamID(src.entries[0].ID)
	if err != nil {
		return fmt.Errorf("read audit trail: %w", err)
	}
	src.id = id
	heap.Push(&m.heap, src)
	return nil
}

// next returns the earliest entry, or no source at the end.
func (m *eventMerge) next(ctx context.Context) (*eventSource, StreamEntry, error) {
	if len(m.heap) == 0 {
		return nil, StreamEntry{}, nil
	}
	src := heap.Pop(&m.heap).(*eventSource)
	entry := src.entries[0]
	m.taken++
	src.entries = src.entries[1:]
	if len(src.entries) > 0 || src.ended {
		return src, entry, m.push(src)
	}
	return src, entry, m.refill(ctx, src)
}

// selection is which events a reader wants.
type selection struct {
	store  *Store
	filter broker.EventFilter
	tag    string // of the subject, "": of any
}

func (s *Store) selection(tenant string, f broker.EventFilter) selection {
	sel := selection{store: s, filter: f}
	if f.Subject != "" {
		sel.tag = s.auditTag(tenant, f.Subject)
	}
	return sel
}

// matching returns the entry's events, nil in the place of those that the filter leaves out.
func (s selection) matching(name trailName, e StreamEntry) ([]*broker.Event, error) {
	clear, _, err := parseMeta(e.Meta)
	if err != nil {
		return nil, err
	}
	f := s.filter
	at := fromMillis(clear.time)
	if f.Subject != "" && clear.tag != s.tag || f.Type != "" && clear.kind != string(f.Type) || f.Connector != "" && clear.connector != f.Connector ||
		!f.Since.IsZero() && at.Before(f.Since) || !f.Until.IsZero() && !at.Before(f.Until) {
		return nil, nil
	}
	_, entry, err := s.store.openEntry(name, e.TrailEntry)
	if errors.Is(err, broker.ErrTenantErased) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if f.Subject != "" && entry.Subject != f.Subject || f.Connection != "" && entry.Connection != f.Connection ||
		f.Client != "" && entry.Client != f.Client || f.Agent != "" && entry.Actor.Agent != f.Agent || f.Run != "" && entry.Actor.Run != f.Run ||
		f.Outcome != "" && entry.Outcome != f.Outcome {
		return nil, nil
	}
	events := entry.events()
	out := make([]*broker.Event, len(events))
	for i := range events {
		if f.Scope == "" || events[i].Scope == f.Scope {
			out[i] = &events[i]
		}
	}
	return out, nil
}

type eventHeap []*eventSource

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if h[i].id != h[j].id {
		return h[i].id.less(h[j].id)
	}
	return h[i].name.shard < h[j].name.shard
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(*eventSource)) }
func (h *eventHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
