package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/vault"
)

// seedBackend is a vault.Backend that a store is filled through fast. The vault makes and seals everything as ever; what it wants
// to be written goes to Redis in plain commands, in the order of its steps, and nobody waits for the answers. Nothing but the seeder
// writes there, so every check holds. What the vault reads while it indexes what it has just written is answered from memory, and
// forgotten once it was indexed.
//
// What a real store would have lost again by the time that it has a million connections is not written: finished consents and
// claims, which have a TTL (seedPassing).
type seedBackend struct {
	vault.Backend // what is asked for rarely: who the store is, and its clock
	lists         vault.Lists
	// wires are the servers' by shard.
	wires [256]*seedWire
	// histories are the servers' own by shard, as vault.Settle has them.
	histories [256]string

	shards [256]seedShard
	// waiting counts entries and records that are not indexed yet.
	waiting atomic.Int64
	failed  atomic.Pointer[error]
}

var _ vault.Lists = (*seedBackend)(nil)

// seedShard is what the seeder knows of a shard.
type seedShard struct {
	mu      sync.Mutex
	ms      int64 // the next entry's time
	stride  int64 // between two entries
	last    map[string]seedID
	members map[string]bool
	hashes  map[string]map[string]string
	due     map[string]map[string]int64 // sorted sets of which members leave again
	streams map[string][]vault.StreamEntry
	busy    string // the record that is being written
	kept    bool   // it is indexed already, and its writer still reads it
}

type seedID struct{ ms, n int64 }

func (id seedID) String() string {
	return strconv.FormatInt(id.ms, 10) + "-" + strconv.FormatInt(id.n, 10)
}

// seedPassing are the kinds of keys that are gone when the seed's last minute is long over: consents, what must not be asked for
// twice at once, unfinished consents by subject and by deadline, and who looks after something for a minute.
var seedPassing = []string{"o:", "n:", "u:", "d", "v", "r", "x:", "k", "ci:k", "ax:k"}

func newSeedBackend(real vault.Backend) *seedBackend {
	b := &seedBackend{Backend: real}
	for i := range b.shards {
		b.shards[i].last, b.shards[i].members = map[string]seedID{}, map[string]bool{}
		b.shards[i].hashes, b.shards[i].due = map[string]map[string]string{}, map[string]map[string]int64{}
		b.shards[i].streams = map[string][]vault.StreamEntry{}
	}
	return b
}

// seedKey splits a key into its shard and what follows the hash tag.
func seedKey(key string) (shard byte, kind string) {
	raw, err := hex.DecodeString(key[len("tb:{"):][:2])
	if err != nil {
		return 0, key
	}
	return raw[0], key[len("tb:{00}:"):]
}

func passing(kind string) bool {
	return slices.ContainsFunc(seedPassing, func(p string) bool {
		return kind == p || strings.HasSuffix(p, ":") && strings.HasPrefix(kind, p)
	})
}

// at sets the time of the next entries of a shard, and how far they are apart, in ms.
func (b *seedBackend) at(shard byte, ms, stride int64) {
	s := &b.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ms, s.stride = ms, stride
}

// begin says which record of a shard is written next. It is remembered until end, however soon it is indexed: to its writer it
// must not seem lost by the store.
func (b *seedBackend) begin(shard byte, id string) {
	s := &b.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy, s.kept = id, false
}

func (b *seedBackend) end(shard byte) {
	s := &b.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept {
		s.drop(shard, s.busy)
	}
	s.busy, s.kept = "", false
}

// err is the first thing that went wrong.
func (b *seedBackend) err() error {
	if p := b.failed.Load(); p != nil {
		return *p
	}
	return nil
}

func (b *seedBackend) send(shard byte, args ...string) {
	if err := b.wires[shard].add(args...); err != nil {
		b.failed.CompareAndSwap(nil, &err)
	}
}

// flush waits for all answers.
func (b *seedBackend) flush() error {
	var flushed []*seedWire
	for _, w := range b.wires {
		if slices.Contains(flushed, w) {
			continue
		}
		flushed = append(flushed, w)
		if err := w.flush(); err != nil {
			return err
		}
	}
	return b.err()
}

// Apply implements vault.Backend.
func (b *seedBackend) Apply(_ context.Context, steps []vault.Step) []vault.Result {
	results := make([]vault.Result, len(steps))
	for i := range steps {
		results[i] = b.step(&steps[i])
	}
	return results
}

func (b *seedBackend) step(step *vault.Step) vault.Result {
	shard, ok := shardOfStep(step)
	if !ok {
		return vault.Result{Verdict: vault.VerdictDone, Now: time.Now()}
	}
	s := &b.shards[shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	r := vault.Result{Verdict: vault.VerdictDone, Now: time.Now()}
	if settle := step.Settle; settle != nil && s.hashes[settle.Key] == nil {
		b.hashSet(s, shard, settle.Key, []string{vault.SettleRun, b.histories[shard]})
	}
	if t := step.Trail; t != nil && len(t.Entries) > 0 {
		r.IDs = b.append(s, shard, t)
		r.Head, r.HeadID = t.Next, r.IDs[len(r.IDs)-1]
	}
	if use := step.Release; use != nil {
		b.hashSet(s, shard, use.UseKey, []string{use.UseField, use.UseValue})
		r.Reads = append(r.Reads, s.read(vault.Read{Key: use.Record, Fields: slices.Concat(vault.ReleaseFields().Fields, vault.ReleaseFields().Checks)}))
	}
	for _, w := range step.Writes {
		if err := b.write(s, shard, w); err != nil {
			return vault.Result{Err: err}
		}
	}
	for _, read := range step.Reads {
		r.Reads = append(r.Reads, s.read(read))
	}
	return r
}

func shardOfStep(step *vault.Step) (byte, bool) {
	var key string
	switch {
	case step.Trail != nil:
		key = step.Trail.Stream
	case len(step.Writes) > 0:
		key = step.Writes[0].Key
	default:
		return 0, false
	}
	shard, _ := seedKey(key)
	return shard, true
}

func (b *seedBackend) append(s *seedShard, shard byte, t *vault.TrailStep) (ids []string) {
	if !s.members[t.Member] {
		s.members[t.Member] = true
		b.send(shard, "SADD", t.Index, t.Member)
	}
	for _, e := range t.Entries {
		id := seedID{ms: s.ms}
		if last := s.last[t.Stream]; id.ms <= last.ms {
			id = seedID{ms: last.ms, n: last.n + 1}
		}
		s.ms += s.stride
		s.last[t.Stream] = id
		text := id.String()
		ids = append(ids, text)
		b.send(shard, "XADD", t.Stream, text, "m", e.Meta, "b", e.Body)
		s.streams[t.Stream] = append(s.streams[t.Stream], vault.StreamEntry{ID: text, TrailEntry: e})
	}
	b.waiting.Add(int64(len(ids)))
	b.send(shard, "HSET", t.Heads, t.Writer, t.Next, t.Writer+vault.HeadIDSuffix, ids[len(ids)-1])
	return ids
}

func (s *seedShard) read(read vault.Read) map[string][]byte {
	fields := make(map[string][]byte, len(s.hashes[read.Key]))
	for name, value := range s.hashes[read.Key] {
		if len(read.Fields) == 0 || slices.Contains(read.Fields, name) {
			fields[name] = []byte(value)
		}
	}
	return fields
}

func (b *seedBackend) hashSet(s *seedShard, shard byte, key string, args []string) {
	h := s.hashes[key]
	if h == nil {
		h = make(map[string]string, len(args)/2)
		s.hashes[key] = h
	}
	for i := 0; i+1 < len(args); i += 2 {
		h[args[i]] = args[i+1]
	}
	b.send(shard, append([]string{"HSET", key}, args...)...)
}

// write sends one change, unless it would change nothing: nothing is there that the seeder did not put there.
func (b *seedBackend) write(s *seedShard, shard byte, w vault.Write) error {
	_, kind := seedKey(w.Key)
	if passing(kind) {
		return nil
	}
	switch w.Kind {
	case vault.WriteHashSet:
		b.hashSet(s, shard, w.Key, w.Args)
	case vault.WriteHashDelete:
		b.hashDelete(s, shard, w.Key, slices.DeleteFunc(slices.Clone(w.Args), func(f string) bool { _, there := s.hashes[w.Key][f]; return !there }))
	case vault.WriteOnly:
		var gone []string
		for f := range s.hashes[w.Key] {
			if strings.HasPrefix(f, w.Args[0]) && !slices.Contains(w.Args[1:], f) {
				gone = append(gone, f)
			}
		}
		b.hashDelete(s, shard, w.Key, gone)
	case vault.WriteUnless:
		if have, there := s.hashes[w.Args[3]][w.Args[4]]; there && have == w.Args[0] {
			return nil
		}
		return b.write(s, shard, vault.Write{Kind: vault.WriteSortedAdd, Key: w.Key, Args: w.Args[1:3]})
	case vault.WriteSortedAdd:
		if kind == seedDue {
			b.addDue(s, shard, w.Key, w.Args)
			return nil
		}
		b.send(shard, append([]string{"ZADD", w.Key}, w.Args...)...)
	case vault.WriteSortedRemove:
		if kind == seedDue {
			b.removeDue(s, shard, w.Key, w.Args)
			return nil
		}
		b.send(shard, append([]string{"ZREM", w.Key}, w.Args...)...)
	case vault.WriteHashIncrement, vault.WriteExpireAt, vault.WriteExpireIn, vault.WritePersist, vault.WriteDelete:
		b.send(shard, append([]string{string(w.Kind), w.Key}, w.Args...)...)
	default:
		return fmt.Errorf("the seeder does not know the write %q", w.Kind)
	}
	return nil
}

func (b *seedBackend) hashDelete(s *seedShard, shard byte, key string, fields []string) {
	if len(fields) == 0 {
		return
	}
	for _, f := range fields {
		delete(s.hashes[key], f)
	}
	b.send(shard, append([]string{"HDEL", key}, fields...)...)
}
