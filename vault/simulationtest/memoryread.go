package simulationtest

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/vault"
)

// live returns what lies under the key and has not ended.
func (m *Memory) live(key string, now int64) *value {
	v := m.data[key]
	if v == nil || v.expires != 0 && v.expires <= now {
		return &value{}
	}
	return v
}

func fieldsOf(v *value) map[string][]byte {
	fields := make(map[string][]byte, len(v.hash))
	for f, text := range v.hash {
		fields[f] = []byte(text)
	}
	return fields
}

// each answers every query from one moment.
func each[In, Out any](m *Memory, queries []In, one func(q In, now int64) Out) []Out {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now().UnixMilli()
	out := make([]Out, len(queries))
	for i, q := range queries {
		out[i] = one(q, now)
	}
	return out
}

// Hashes implements vault.Backend.
func (m *Memory) Hashes(_ context.Context, keys []string) ([]map[string][]byte, error) {
	return each(m, keys, func(key string, now int64) map[string][]byte { return fieldsOf(m.live(key, now)) }), nil
}

// Indexed implements vault.Backend.
func (m *Memory) Indexed(_ context.Context, queries []vault.IndexQuery) ([][]vault.Indexed, error) {
	return each(m, queries, m.indexed), nil
}

// indexed does what members.lua does.
func (m *Memory) indexed(q vault.IndexQuery, now int64) []vault.Indexed {
	var members []string
	for member := range m.live(q.Index, now).sorted {
		if q.After == "" || member > q.After {
			members = append(members, member)
		}
	}
	slices.Sort(members)
	if q.Limit > 0 {
		members = members[:min(q.Limit, len(members))]
	}
	var out []vault.Indexed
	if q.Beside != "" {
		out = append(out, vault.Indexed{Record: fieldsOf(m.live(q.Beside, now)), Extra: map[string][]byte{}})
	}
	for _, member := range members {
		found := vault.Indexed{Member: member, Record: fieldsOf(m.live(q.Records+member, now)), Extra: map[string][]byte{}}
		if q.Extra != "" {
			found.Extra = fieldsOf(m.live(q.Extra+member, now))
		}
		out = append(out, found)
	}
	return out
}

// Scored implements vault.Backend.
func (m *Memory) Scored(_ context.Context, queries []vault.ScoreQuery) ([][]vault.Scored, error) {
	return each(m, queries, func(q vault.ScoreQuery, now int64) []vault.Scored {
		var out []vault.Scored
		for member, score := range m.live(q.Key, now).sorted {
			if score <= q.Max {
				out = append(out, vault.Scored{Member: member, Score: score})
			}
		}
		slices.SortFunc(out, func(a, b vault.Scored) int {
			return cmp.Or(cmp.Compare(a.Score, b.Score), strings.Compare(a.Member, b.Member))
		})
		if q.Limit > 0 {
			out = out[:min(q.Limit, len(out))]
		}
		return out
	}), nil
}

// Ranges implements vault.Backend.
func (m *Memory) Ranges(_ context.Context, queries []vault.RangeQuery) ([][]string, error) {
	return each(m, queries, func(q vault.RangeQuery, now int64) []string {
		var out []string
		for member := range m.live(q.Key, now).sorted {
			if member >= q.From && (q.To == "" || member < q.To) {
				out = append(out, member)
			}
		}
		slices.Sort(out)
		if q.Reverse {
			slices.Reverse(out)
		}
		if q.Limit > 0 {
			out = out[:min(q.Limit, len(out))]
		}
		return out
	}), nil
}

// Counts implements vault.Backend.
func (m *Memory) Counts(ctx context.Context, queries []vault.RangeQuery) ([]int, error) {
	out := make([]int, len(queries))
	for i, q := range queries {
		q.Limit = 0
		found, err := m.Ranges(ctx, []vault.RangeQuery{q})
		if err != nil {
			return nil, err
		}
		out[i] = len(found[0])
	}
	return out, nil
}

// Dues implements vault.Backend.
func (m *Memory) Dues(_ context.Context, queries []vault.ScoreQuery) ([]int64, error) {
	return each(m, queries, func(q vault.ScoreQuery, now int64) (n int64) {
		for _, score := range m.live(q.Key, now).sorted {
			if score <= q.Max {
				n++
			}
		}
		return n
	}), nil
}

// Streams implements vault.Backend.
func (m *Memory) Streams(_ context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	for _, q := range queries {
		if _, _, err := bound(q.From, 0); err != nil {
			return nil, err
		}
		if _, _, err := bound(q.To, 0); err != nil {
			return nil, err
		}
	}
	return each(m, queries, func(q vault.StreamQuery, now int64) []vault.StreamEntry {
		from, without, _ := bound(q.From, 0)
		to, withoutEnd, _ := bound(q.To, 1<<62)
		var out []vault.StreamEntry
		entries := m.live(q.Key, now).stream
		if q.Newest {
			entries = slices.Clone(entries)
			slices.Reverse(entries)
		}
		for _, e := range entries {
			id, _, _ := bound(e.ID, 0)
			low, high := id.compare(from), id.compare(to)
			if low < 0 || low == 0 && without || high > 0 || high == 0 && withoutEnd {
				continue
			}
			if len(out) == q.Limit {
				break
			}
			out = append(out, e)
		}
		return out
	}), nil
}

func (id streamID) compare(other streamID) int {
	return cmp.Or(cmp.Compare(id.ms, other.ms), cmp.Compare(id.n, other.n))
}

// bound reads an end of a range. rest is the number within the ms where the text names none.
func bound(text string, rest int64) (id streamID, without bool, err error) {
	switch text {
	case "-":
		return streamID{}, false, nil
	case "+":
		return streamID{ms: 1 << 62, n: 1 << 62}, false, nil
	}
	text, without = strings.CutPrefix(text, "(")
	ms, n, found := strings.Cut(text, "-")
	if id.ms, err = strconv.ParseInt(ms, 10, 64); err != nil {
		return id, without, fmt.Errorf("memory: stream id: %w", err)
	}
	if id.n = rest; found {
		if id.n, err = strconv.ParseInt(n, 10, 64); err != nil {
			return id, without, fmt.Errorf("memory: stream id: %w", err)
		}
	}
	return id, without, nil
}

// Members implements vault.Backend.
func (m *Memory) Members(_ context.Context, keys []string) ([][]string, error) {
	return each(m, keys, func(key string, now int64) []string {
		var out []string
		for member := range m.live(key, now).set {
			out = append(out, member)
		}
		slices.Sort(out)
		return out
	}), nil
}

// Keys implements vault.Backend. Names with a slash are not in it: none of the simulation's has one.
func (m *Memory) Keys(_ context.Context, pattern string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now().UnixMilli()
	var out []string
	for key, v := range m.data {
		match, err := path.Match(pattern, key)
		if err != nil {
			return nil, fmt.Errorf("memory: pattern: %w", err)
		}
		if match && (v.expires == 0 || v.expires > now) {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Clock implements vault.Backend.
func (m *Memory) Clock(context.Context) (earliest, latest time.Time, err error) {
	now := m.now()
	return now, now, nil
}

// Identity implements vault.Backend.
func (m *Memory) Identity(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.identity(), nil
}

// fewer is vault.CheckFewer.
func (a *application) fewer(check vault.Check) bool {
	most, err := strconv.Atoi(check.Value)
	if v := a.get(check.Key); v != nil {
		for _, score := range v.sorted {
			if score > a.now {
				most--
			}
		}
	}
	return err == nil && most > 0
}
