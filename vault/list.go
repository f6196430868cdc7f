package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tokenbroker/broker"
)

const (
	// shardsPerTrip is how many shards a listing asks at once: enough for a page, but for tenants with a few hundred connections,
	// where all the others are counted next.
	shardsPerTrip = 32
	// listChunk is the most records that a listing reads at once, and listBudget the most that one page looks at, so that a
	// filter that passes few ends a page early instead of late.
	listChunk  = 256
	listBudget = 2048
)

// Tenants implements broker.Connections. A connection is written with its first event, in one step, which names the stream's tenant in
// its shard; the index of connections has it only when it was moved there.
func (s *Store) Tenants(ctx context.Context) ([]string, error) {
	trails, err := s.indexedTrails(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tenants: %w", err)
	}
	classes, err := s.Classes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the tenants: %w", err)
	}
	var all []string
	for _, name := range trails {
		all = append(all, name.tenant)
	}
	for _, c := range classes {
		all = append(all, c.Tenant)
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(tenant string) bool { return tenant == "" }), nil
}

// List implements broker.Connections: shard after shard, in each by id. A record that can't be read is left out and
// logged, so that one bad record does not hide the others.
//
// A page costs three round trips at most, where no filter makes it look at more than it shows: one or two count the connections in
// the next shards, and one reads just those that the page is to have. So it costs the same however many there are.
func (s *Store) List(ctx context.Context, tenant string, filter broker.ConnectionFilter, position string, limit int) ([]broker.Connection, string, error) {
	shard, after, err := parseListPosition(position)
	if err != nil {
		return nil, "", err
	}
	limit = max(1, limit)
	l := listing{store: s, tenant: tenant, shard: shard, after: after}
	var out []broker.Connection
	chunk := limit + 1 // one more, to know whether there are more
	for looked := 0; ; {
		items, err := l.next(ctx, chunk)
		if err != nil {
			return nil, "", err
		}
		if len(items) == 0 {
			return out, "", nil
		}
		for i, item := range items {
			conn, ok := s.listed(ctx, tenant, filter, item)
			if ok && len(out) == limit {
				return out, out[limit-1].ID, nil
			}
			if ok {
				out = append(out, conn)
			}
			if looked++; looked >= listBudget && len(out) < limit && (i < len(items)-1 || l.more()) {
				return out, item.Member, nil
			}
		}
		if len(out) < limit && filter.Connector+string(filter.Status) != "" {
			chunk = min(2*chunk, listChunk)
		} else {
			chunk = max(1, limit+1-len(out))
		}
	}
}

// listing reads a tenant's connections in the order of a listing.
type listing struct {
	store  *Store
	tenant string
	shard  int    // where to go on; shards: nowhere
	after  string // behind this one of that shard
	counts []int  // of the shards from shard on, as far as they were counted
}

// more tells that there may be more to read.
func (l *listing) more() bool { return l.shard < shards }

// count counts the connections of further shards.
func (l *listing) count(ctx context.Context) error {
	first := l.shard + len(l.counts)
	last := min(shards, first+shardsPerTrip)
	if len(l.counts) > 0 {
		last = shards
	}
	queries := make([]RangeQuery, 0, last-first)
	for n := first; n < last; n++ {
		q := RangeQuery{Key: tenantKey(byte(n), l.tenant)}
		if n == l.shard && l.after != "" {
			q.From = l.after + "\x00" // the least that is behind it
		}
		queries = append(queries, q)
	}
	counts, err := readPatiently(ctx, func(ctx context.Context) ([]int, error) { return l.store.cfg.Backend.Counts(ctx, queries) })
	if err != nil {
		return err
	}
	l.counts = append(l.counts, counts...)
	return nil
}

// counted is how many connections the counts say that there are.
func (l *listing) counted() (sum int) {
	for _, c := range l.counts {
		sum += c
	}
	return sum
}

// next reads some n records more; none at the end.
func (l *listing) next(ctx context.Context, n int) ([]Indexed, error) {
	for l.more() {
		for l.counted() < n && l.shard+len(l.counts) < shards {
			if err := l.count(ctx); err != nil {
				return nil, err
			}
		}
		items, err := l.read(ctx, n)
		if err != nil || len(items) > 0 {
			return items, err
		}
	}
	return nil, nil
}

// read reads some n records of the shards that were counted, and moves on behind them.
func (l *listing) read(ctx context.Context, n int) ([]Indexed, error) {
	var queries []IndexQuery
	var of []int // the queries' shards
	shard, after := l.shard, l.after
	for i := 0; i < len(l.counts) && n > 0; i++ {
		if l.counts[i] > 0 {
			// Not as many as were counted: of what was there all along none must be left out because another one came before it.
			queries = append(queries, IndexQuery{
				Index: tenantKey(byte(shard), l.tenant), Records: connectionPrefix(byte(shard)), Extra: issuedPrefix(byte(shard)), After: after, Limit: n,
			})
			of = append(of, shard)
		}
		n -= l.counts[i]
		shard, after = shard+1, ""
	}
	l.shard, l.after, l.counts = shard, "", l.counts[shard-l.shard:]
	if len(queries) == 0 {
		return nil, nil
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]Indexed, error) { return l.store.cfg.Backend.Indexed(ctx, queries) })
	if err != nil {
		return nil, err
	}
	var items []Indexed
	for i := range found {
		items = append(items, found[i]...)
		if len(found[i]) >= queries[i].Limit { // there may be more in this one
			l.shard, l.after, l.counts = of[i], found[i][len(found[i])-1].Member, nil
			break
		}
	}
	return items, nil
}

// listed opens a record, unless its clear header alone says that the filter leaves it out.
func (s *Store) listed(ctx context.Context, tenant string, filter broker.ConnectionFilter, item Indexed) (broker.Connection, bool) {
	if filter.Connector != "" && anotherConnectors(item.Record, filter.Connector) {
		return broker.Connection{}, false
	}
	conn, err := s.openConnection(tenant, item.Member, item.Record, item.Extra)
	if err != nil {
		if !errors.Is(err, broker.ErrNotFound) {
			s.cfg.Log.WarnContext(ctx, "connection left out of a listing", "connection", item.Member, "error", err)
		}
		return broker.Connection{}, false
	}
	return conn, (filter.Connector == "" || conn.Connector == filter.Connector) && (filter.Status == "" || conn.Status == filter.Status)
}

// parseListPosition: a position is the id of the last connection that the page before looked at, which says the shard too.
func parseListPosition(position string) (shard int, after string, err error) {
	if position == "" {
		return 0, "", nil
	}
	b, err := shardOf(position)
	if err != nil {
		return 0, "", fmt.Errorf("position is not one of ours: %w", broker.ErrNotFound)
	}
	return int(b), position, nil
}
