package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"tokenbroker/broker"
)

// indexRounds bounds how often one call of a reader asks the store for more.
const indexRounds = 16

// Classes implements broker.ConnectionIndex.
func (s *Store) Classes(ctx context.Context) ([]broker.ClassCount, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	sets, err := s.sets(ctx)
	if err != nil {
		return nil, err
	}
	var out []broker.ClassCount
	for _, set := range sets {
		if !set.class.Ending {
			out = append(out, broker.ClassCount{ConnectionClass: set.class.class(), Count: set.count})
		}
	}
	return out, nil
}

// NewestOf implements broker.ConnectionIndex. A position is the last member that was read.
func (s *Store) NewestOf(ctx context.Context, match func(broker.ConnectionClass) bool, since, until time.Time, position string, limit int) ([]broker.Connection, string, error) {
	var bounds RangeQuery
	if !since.IsZero() {
		bounds.From = stamp(since)
	}
	if !until.IsZero() {
		bounds.To = stamp(until)
	}
	if position != "" && (bounds.To == "" || position < bounds.To) {
		bounds.To = position
	}
	bounds.Reverse = true
	conns, next, err := s.ofClasses(ctx, match, bounds, limit)
	if err != nil {
		return nil, "", fmt.Errorf("list the newest connections: %w", err)
	}
	return conns, next, nil
}

// OldestOf implements broker.ConnectionIndex.
func (s *Store) OldestOf(ctx context.Context, match func(broker.ConnectionClass) bool, position string, limit int) ([]broker.Connection, string, error) {
	bounds := RangeQuery{}
	if position != "" {
		bounds.From = position + "\x00" // right behind it
	}
	conns, next, err := s.ofClasses(ctx, match, bounds, limit)
	if err != nil {
		return nil, "", fmt.Errorf("list the oldest connections: %w", err)
	}
	return conns, next, nil
}

func (s *Store) ofClasses(ctx context.Context, match func(broker.ConnectionClass) bool, bounds RangeQuery, limit int) ([]broker.Connection, string, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	sets, err := s.sets(ctx)
	if err != nil {
		return nil, "", err
	}
	var of []string
	for _, set := range sets {
		if !set.class.Ending && match(set.class.class()) {
			of = append(of, set.id)
		}
	}
	merge := newSetMerge(of, bounds, limit)
	var out []broker.Connection
	for last := ""; ; {
		if err := merge.fill(ctx, s.cfg.Backend); err != nil {
			return nil, "", err
		}
		found, more := merge.next(limit - len(out))
		conns, err := s.listedAt(ctx, found)
		if err != nil {
			return nil, "", err
		}
		for _, conn := range conns {
			if match(broker.ConnectionClassOf(conn, s.cfg.Now())) {
				out = append(out, conn)
			}
		}
		if len(found) > 0 {
			last = found[len(found)-1].member
		}
		switch {
		case !more:
			return out, "", nil
		case len(out) >= limit || merge.rounds >= indexRounds:
			return out, last, nil
		}
	}
}

// foundMember is a member and the set that it was found in.
type foundMember struct{ set, member string }

// setMerge goes through several sets in one order, and asks the store only for as much of each as the order needs.
type setMerge struct {
	sets   []*mergedSet
	bounds RangeQuery
	rounds int
}

type mergedSet struct {
	id      string
	found   []string // not taken yet
	want    int
	bound   string // where the next part begins; "": where the bounds say
	through bool   // the store has no more
}

// newSetMerge begins with few members of each set if there are many of them.
func newSetMerge(sets []string, bounds RangeQuery, limit int) *setMerge {
	m := &setMerge{bounds: bounds}
	for _, id := range sets {
		m.sets = append(m.sets, &mergedSet{id: id, want: min(limit+1, max(4, 2*limit/len(sets)))})
	}
	return m
}

// fill asks for more of every set of which nothing is left, in one round trip.
func (m *setMerge) fill(ctx context.Context, backend Backend) error {
	var queries []RangeQuery
	var of []*mergedSet
	for _, set := range m.sets {
		if len(set.found) > 0 || set.through {
			continue
		}
		q := m.bounds
		q.Key, q.Limit = classKey(setShard(set.id), set.id), set.want
		switch {
		case set.bound == "":
		case q.Reverse:
			q.To = set.bound
		default:
			q.From = set.bound + "\x00"
		}
		queries, of = append(queries, q), append(of, set)
	}
	m.rounds++
	if len(queries) == 0 {
		return nil
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]string, error) { return backend.Ranges(ctx, queries) })
	if err != nil {
		return err
	}
	for i, members := range found {
		of[i].through = len(members) < of[i].want
		of[i].want *= 2
		if of[i].found = members; len(members) > 0 {
			of[i].bound = members[len(members)-1]
		}
	}
	return nil
}

// next takes members in order, at most limit, each once, as far as all sets are known; more: there may be others.
func (m *setMerge) next(limit int) (found []foundMember, more bool) {
	for {
		var first *mergedSet
		for _, set := range m.sets {
			switch {
			case len(set.found) == 0 && !set.through:
				return found, true // what comes next may be there
			case len(set.found) == 0:
			case first == nil || m.before(set.found[0], first.found[0]):
				first = set
			}
		}
		if first == nil {
			return found, false
		}
		if len(found) > 0 && found[len(found)-1].member == first.found[0] {
			first.found = first.found[1:] // on its way from one class to another
			continue
		}
		if len(found) == limit {
			return found, true
		}
		found = append(found, foundMember{set: first.id, member: first.found[0]})
		first.found = first.found[1:]
	}
}

func (m *setMerge) before(a, b string) bool {
	if m.bounds.Reverse {
		return a > b
	}
	return a < b
}

// listedAt reads the records of members. What does not belong where it was found is marked as due.
func (s *Store) listedAt(ctx context.Context, found []foundMember) ([]broker.Connection, error) {
	var keys []string
	var at []foundMember
	for _, f := range found {
		if shard, err := shardOf(memberID(f.member)); err == nil {
			id := memberID(f.member)
			at, keys = append(at, f), append(keys, connectionKey(shard, id), issuedKey(shard, id))
		}
	}
	if len(at) == 0 {
		return nil, nil
	}
	records, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, err
	}
	var conns []broker.Connection
	for i, f := range at {
		id := memberID(f.member)
		record := records[2*i]
		conn, ok := s.listed(ctx, string(record[fieldTenant]), broker.ConnectionFilter{}, Indexed{Member: id, Record: record, Extra: records[2*i+1]})
		switch here := indexPlace(f.set + f.member[:stampLen]); {
		case !ok && len(record) > 0: // unreadable, and logged
		case !ok || !slices.Contains(justPlaces(s.placesOf(conn)), here):
			s.misplaced(ctx, id, here)
			fallthrough
		default:
			if ok {
				conns = append(conns, conn)
			}
		}
	}
	return conns, nil
}

// misplaced notes that the record lies where it does not belong, for followIndex. If that fails, the next reader does it.
func (s *Store) misplaced(ctx context.Context, id string, at indexPlace) {
	shard, err := shardOf(id)
	if err != nil {
		return
	}
	r := s.cfg.Backend.Apply(ctx, []Step{{Writes: s.indexRemark(shard, id, []indexPlace{at})}})[0]
	if r.Err != nil {
		s.cfg.Log.DebugContext(ctx, "a connection in the wrong place of the index is left there", "connection", id, "error", r.Err)
	}
}

// Ending implements broker.ConnectionIndex.
func (s *Store) Ending(ctx context.Context, tenant func(string) bool, before time.Time, limit int) ([]broker.Connection, int, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	sets, err := s.sets(ctx)
	if err != nil {
		return nil, 0, err
	}
	var of []string
	var queries []RangeQuery
	for _, set := range sets {
		if set.class.Ending && tenant(set.class.Tenant) {
			of = append(of, set.id)
			queries = append(queries, RangeQuery{Key: classKey(setShard(set.id), set.id), To: stamp(before)})
		}
	}
	if len(of) == 0 {
		return nil, 0, nil
	}
	counts, err := readPatiently(ctx, func(ctx context.Context) ([]int, error) { return s.cfg.Backend.Counts(ctx, queries) })
	if err != nil {
		return nil, 0, fmt.Errorf("count what ends: %w", err)
	}
	total := 0
	for _, n := range counts {
		total += n
	}
	merge := newSetMerge(of, RangeQuery{To: stamp(before)}, limit)
	var out []broker.Connection
	for more := true; more && len(out) < limit && merge.rounds < indexRounds; {
		if err := merge.fill(ctx, s.cfg.Backend); err != nil {
			return nil, 0, fmt.Errorf("list what ends: %w", err)
		}
		var found []foundMember
		found, more = merge.next(limit - len(out))
		conns, err := s.listedAt(ctx, found)
		if err != nil {
			return nil, 0, fmt.Errorf("list what ends: %w", err)
		}
		for _, conn := range conns {
			end := conn.ExpiresAt()
			if c := conn.Effective(s.cfg.Now()); c.Status == broker.ConnectionActive && !end.IsZero() && end.Before(before) {
				out = append(out, conn)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b broker.Connection) int {
		return cmp.Or(a.ExpiresAt().Compare(b.ExpiresAt()), cmp.Compare(a.ID, b.ID))
	})
	return out, total, nil
}
