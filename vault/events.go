package vault

import (
	"container/heap"
	"context"
	"encoding/base64"
	"encoding/binary"
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
	m := &eventMerge{store: s, tenant: tenant, filter: filter, to: to, chunk: 2*limit/len(sources) + 8}
	if filter.Subject != "" {
		m.tag = s.auditTag(tenant, filter.Subject)
	}
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

// eventSources are the shards to read and the stream id to read to.
func (s *Store) eventSources(ctx context.Context, tenant string, filter broker.EventFilter) (sources []byte, to string, err error) {
	end := uint64(math.MaxUint64)
	if !filter.Until.IsZero() {
		end = uint64(max(0, filter.Until.Add(spoolSlack).UnixMilli()))
	}
	switch {
	case filter.Subject != "":
		sources = []byte{s.Shard(tenant, filter.Subject)}
	case filter.Connection != "":
		shard, ok := broker.ShardOfID(filter.Connection)
		if ok {
			sources = []byte{shard}
			break
		}
		fallthrough
	default:
		for i := range shards {
			sources = append(sources, byte(i))
		}
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
	store   *Store
	tenant  string
	filter  broker.EventFilter
	tag     string
	to      string
	chunk   int
	sources []*eventSource
	heap    eventHeap
}

// fill reads more of these sources, in one round trip, and puts those that have something on the heap.
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
		src.entries, src.ended = found[i], len(found[i]) < m.chunk
		if err := m.push(src); err != nil {
			return err
		}
	}
	m.chunk = min(2*m.chunk, 512)
	return nil
}

func (m *eventMerge) push(src *eventSource) error {
	if len(src.entries) == 0 {
		return nil
	}
	id, err := parseStreamID(src.entries[0].ID)
	if err != nil {
		return fmt.Errorf("read audit trail: %w", err)
	}
	src.id, src.from = id, "("+src.entries[len(src.entries)-1].ID
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
	src.entries = src.entries[1:]
	if len(src.entries) > 0 || src.ended {
		return src, entry, m.push(src)
	}
	return src, entry, m.fill(ctx, []*eventSource{src})
}

// matching returns the entry's events, nil in the place of those that the filter leaves out.
func (m *eventMerge) matching(name trailName, e StreamEntry) ([]*broker.Event, error) {
	clear, _, err := parseMeta(e.Meta)
	if err != nil {
		return nil, err
	}
	f := m.filter
	at := fromMillis(clear.time)
	if f.Subject != "" && clear.tag != m.tag || f.Type != "" && clear.kind != string(f.Type) || f.Connector != "" && clear.connector != f.Connector ||
		!f.Since.IsZero() && at.Before(f.Since) || !f.Until.IsZero() && !at.Before(f.Until) {
		return nil, nil
	}
	_, entry, err := m.store.openEntry(name, e.TrailEntry)
	if err != nil {
		return nil, err
	}
	if f.Subject != "" && entry.Subject != f.Subject || f.Connection != "" && entry.Connection != f.Connection {
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
