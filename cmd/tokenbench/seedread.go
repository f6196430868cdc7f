package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tokenbroker/vault"
)

// What the seeder's store is asked while it indexes what it has just written.

// seedDue is the kind of key that says what is due in the index of connections: nothing is, once the seeder is done.
const seedDue = "ci:d"

// addDue keeps what is due to itself, but for what is due again later, when the record turns: then Redis is told, and the record is
// done with.
func (b *seedBackend) addDue(s *seedShard, shard byte, key string, args []string) {
	for i := 0; i+1 < len(args); i += 2 {
		score, err := strconv.ParseInt(args[i], 10, 64)
		if err != nil {
			b.failed.CompareAndSwap(nil, &err)
			return
		}
		id := args[i+1]
		if _, again := s.due[key][id]; again && score > s.due[key][id] {
			b.send(shard, "ZADD", key, args[i], id)
			b.forget(s, key, id)
			continue
		}
		if s.due[key] == nil {
			s.due[key] = make(map[string]int64)
		}
		s.due[key][id] = score
		b.waiting.Add(1)
	}
}

func (b *seedBackend) removeDue(s *seedShard, _ byte, key string, ids []string) {
	for _, id := range ids {
		b.forget(s, key, id)
	}
}

// forget drops all that is remembered of a record: it is in the index.
func (b *seedBackend) forget(s *seedShard, key, id string) {
	if _, there := s.due[key][id]; !there {
		return
	}
	delete(s.due[key], id)
	b.waiting.Add(-1)
	if id == s.busy {
		s.kept = true
		return
	}
	shard, _ := seedKey(key)
	s.drop(shard, id)
}

func (s *seedShard) drop(shard byte, id string) {
	prefix := fmt.Sprintf("tb:{%02x}:", shard)
	delete(s.hashes, prefix+"c:"+id)
	delete(s.hashes, prefix+"i:"+id)
}

// seeded answers each query from what is remembered of its shard.
func seeded[In, Out any](b *seedBackend, queries []In, key func(In) string, one func(s *seedShard, q In) Out) ([]Out, error) {
	out := make([]Out, len(queries))
	for i, q := range queries {
		shard, _ := seedKey(key(q))
		s := &b.shards[shard]
		s.mu.Lock()
		out[i] = one(s, q)
		s.mu.Unlock()
	}
	return out, b.err()
}

// Hashes implements vault.Backend.
func (b *seedBackend) Hashes(_ context.Context, keys []string) ([]map[string][]byte, error) {
	return seeded(b, keys, func(k string) string { return k }, func(s *seedShard, key string) map[string][]byte { return s.read(vault.Read{Key: key}) })
}

// Members implements vault.Backend.
func (b *seedBackend) Members(_ context.Context, keys []string) ([][]string, error) {
	return seeded(b, keys, func(k string) string { return k }, func(s *seedShard, _ string) (members []string) {
		for m := range s.members {
			members = append(members, m)
		}
		return members
	})
}

// Scored implements vault.Backend: what is due.
func (b *seedBackend) Scored(_ context.Context, queries []vault.ScoreQuery) ([][]vault.Scored, error) {
	return seeded(b, queries, func(q vault.ScoreQuery) string { return q.Key }, func(s *seedShard, q vault.ScoreQuery) (out []vault.Scored) {
		for id, score := range s.due[q.Key] {
			if score <= q.Max {
				out = append(out, vault.Scored{Member: id, Score: score})
			}
		}
		slices.SortFunc(out, func(a, b vault.Scored) int {
			return cmp.Or(cmp.Compare(a.Score, b.Score), strings.Compare(a.Member, b.Member))
		})
		if q.Limit > 0 {
			out = out[:min(q.Limit, len(out))]
		}
		return out
	})
}

// Streams implements vault.Backend: entries that are not indexed yet. Whoever asks has indexed all before From.
func (b *seedBackend) Streams(_ context.Context, queries []vault.StreamQuery) ([][]vault.StreamEntry, error) {
	return seeded(b, queries, func(q vault.StreamQuery) string { return q.Key }, func(s *seedShard, q vault.StreamQuery) []vault.StreamEntry {
		entries := s.streams[q.Key]
		from := parseSeedID(strings.TrimPrefix(q.From, "("))
		n := 0
		for n < len(entries) && !from.before(parseSeedID(entries[n].ID)) {
			n++
		}
		b.waiting.Add(-int64(n))
		if entries = entries[n:]; n > 0 {
			s.streams[q.Key] = slices.Clone(entries)
			entries = s.streams[q.Key]
		}
		return slices.Clone(entries[:min(q.Limit, len(entries))])
	})
}

func parseSeedID(text string) (id seedID) {
	ms, n, _ := strings.Cut(text, "-")
	id.ms, _ = strconv.ParseInt(ms, 10, 64)
	id.n, _ = strconv.ParseInt(n, 10, 64)
	return id
}

func (id seedID) before(other seedID) bool {
	return cmp.Or(cmp.Compare(id.ms, other.ms), cmp.Compare(id.n, other.n)) < 0
}

// AppendLists implements vault.Lists.
func (b *seedBackend) AppendLists(_ context.Context, pieces []vault.ListPiece) error {
	for _, p := range pieces {
		shard, _ := seedKey(p.Key)
		b.send(shard, "APPEND", p.Key, p.Bytes)
	}
	return b.err()
}

// ListLengths implements vault.Lists.
func (b *seedBackend) ListLengths(ctx context.Context, keys []string) ([]int64, error) {
	return b.lists.ListLengths(ctx, keys)
}

// ListHeads implements vault.Lists.
func (b *seedBackend) ListHeads(ctx context.Context, heads []vault.ListHead) ([]string, error) {
	return b.lists.ListHeads(ctx, heads)
}
