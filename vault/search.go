package vault

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"tokenbroker/broker"
)

const (
	// searchTime and searchEntries bound the work for one page of SearchEvents: what is reached first.
	searchTime    = 100 * time.Millisecond
	searchEntries = 20000
	// searchLook is how many entries pass between two looks at the clock.
	searchLook = 32
)

var _ broker.AuditSearch = (*Store)(nil)

// search is one page of SearchEvents on its way.
type search struct {
	selection
	tenant   string
	q        broker.EventSearch
	after    *eventPosition // of q.Position; nil: from the beginning
	sources  []byte         // the shards to read
	values   []value        // that the filter asks for and the index has
	marks    map[byte]streamID
	newest   map[byte]streamID // of the streams in sources, at the beginning; nil: not asked for
	deadline time.Time
	examined int

	out  []broker.Event
	last eventPosition // up to which everything is in out
	full bool          // there is more, behind last
}

// SearchEvents implements broker.AuditSearch. It goes through the time that is asked for in windows. In each it reads either the
// streams, or, where the index says that few entries are worth a look, these and what is not in the index yet.
func (s *Store) SearchEvents(ctx context.Context, tenant string, q broker.EventSearch) (broker.EventPage, error) {
	q.Limit = max(1, q.Limit)
	x := &search{selection: s.selection(tenant, q.Filter), tenant: tenant, q: q, values: wanted(q.Filter), deadline: s.cfg.Now().Add(searchTime)}
	if q.Position != "" {
		p, err := parseEventPosition(q.Position)
		if err != nil {
			return broker.EventPage{}, err
		}
		x.after, x.last = &p, p
	}
	if err := x.run(ctx); err != nil {
		return broker.EventPage{}, fmt.Errorf("search the audit trail: %w", err)
	}
	page := broker.EventPage{Events: x.out}
	if x.full {
		page.Next, page.Reached = x.last.encode(), fromMillis(int64(min(x.last.id.ms, math.MaxInt64)))
	}
	return page, nil
}

func (x *search) run(ctx context.Context) error {
	plan, err := x.plan(ctx)
	if err != nil {
		return err
	}
	w, err := plan.next(ctx)
	for w != nil && err == nil {
		if err = x.window(ctx, w); err != nil || x.full {
			return err
		}
		x.last = w.end(x.q.Oldest)
		w, err = plan.next(ctx)
		if w != nil && x.spent() {
			x.full = true
			return err
		}
	}
	return err
}

// spent tells that the page's time is up.
func (x *search) spent() bool {
	return x.examined >= searchEntries || !x.store.cfg.Now().Before(x.deadline)
}

// window goes through a window until its end, or until the page is full or its time is up.
func (x *search) window(ctx context.Context, w *window) error {
	m, err := x.merge(ctx, w)
	if err != nil {
		return err
	}
	for {
		src, e, err := m.next(ctx)
		if err != nil || src == nil {
			return err
		}
		here := eventPosition{id: e.id, shard: e.shard, event: lastEvent}
		if x.after != nil && x.passed(here) {
			continue
		}
		if x.examined++; x.examined%searchLook == 0 && x.spent() {
			x.full = true
			return nil
		}
		name := trailName{shard: e.shard, tenant: x.tenant}
		events, err := x.matching(name, e.StreamEntry)
		if errors.Is(err, broker.ErrKeyNotYet) {
			return err // another replica has the key, and an answer without the entry would be none
		}
		if err != nil {
			// One bad entry must not hide the others; verify names it.
			x.store.cfg.Log.ErrorContext(ctx, "audit entry can't be read", "stream", name.String(), "entry", e.ID, "error", err)
		}
		for i, event := range events {
			here.event = uint16(min(i, lastEvent-1))
			if event == nil || x.after != nil && here.id == x.after.id && here.shard == x.after.shard && here.event <= x.after.event {
				continue
			}
			if len(x.out) == x.q.Limit {
				x.full = true
				return nil
			}
			x.out, x.last = append(x.out, *event), here
		}
		if len(x.out) < x.q.Limit {
			here.event = lastEvent
			x.last = here
		}
	}
}

// passed tells that an entry was on an earlier page, whole.
func (x *search) passed(here eventPosition) bool {
	c := here.compare(*x.after)
	if c == 0 {
		return x.after.event == lastEvent
	}
	return (c < 0) == x.q.Oldest
}
