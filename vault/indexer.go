package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

const (
	// followHold is for how long a process brings a shard's streams into the index before any other may go on with it; and
	// followShards how many it takes at once, so that some are left for others.
	followHold   = time.Minute
	followShards = 64
	// followChunk bounds how many entries of a stream are taken in one go, followStreams of how many streams, so that a list gets
	// what all of them have for it in one piece. They are read followReads streams at a time, and followPieces lists are written to
	// in one round trip: a millisecond or two of this process and of the store, for which a request for a token may have to wait.
	followChunk   = 64
	followStreams = 256
	followReads   = 4
	followPieces  = 128
	// followTimeout bounds one round.
	followTimeout = 30 * time.Second
	// followRest: after each such piece it rests that many times as long as the piece took.
	followRest = 2
	// restful is the most rounds that a stream in which nothing happens is left out, as a power of 2.
	restful = 3
	// indexSettled is how long ago a mark must have been reached to be relied on also when the store is no longer the one that it was
	// written to: a list, on another node, may have lost what was appended since. What a failover loses of a longer time, it
	// takes out of the index.
	indexSettled = time.Minute
)

// The fields of a mark (postingsMarkKey).
const (
	markAt    = "at"    // the id of the last entry that is in the index
	markRun   = "run"   // Backend.Identity when that was written
	markSafe  = "safe"  // what markAt was a while before: what is relied on behind a failover
	markSoon  = "soon"  // what becomes markSafe
	markSince = "since" // when markSoon was reached, in ms
)

// indexMark is how far a stream is in the index.
type indexMark struct {
	at, safe, soon streamID
	since          int64
	raw            string // markAt as it lies there, "" if there is none
}

// markOf reads a mark as it may be relied on in a store with this identity. What can't be read is where everything begins.
func markOf(fields map[string][]byte, identity string, now time.Time) indexMark {
	m := indexMark{raw: string(fields[markAt])}
	for id, field := range map[*streamID]string{&m.at: markAt, &m.safe: markSafe, &m.soon: markSoon} {
		*id, _ = parseStreamID(string(fields[field]))
	}
	m.since, _ = strconv.ParseInt(string(fields[markSince]), 10, 64)
	if string(fields[markRun]) != identity {
		m.at, m.soon, m.since = m.safe, m.safe, now.UnixMilli()
	}
	return m
}

// moved is the mark when everything up to at is in the index.
func (m indexMark) moved(at streamID, now time.Time) indexMark {
	m.at, m.raw = at, at.String()
	// The absolute value: whoever wrote it may have had another clock.
	if time.Duration(max(now.UnixMilli()-m.since, m.since-now.UnixMilli()))*time.Millisecond >= indexSettled {
		m.safe, m.soon, m.since = m.soon, at, now.UnixMilli()
	}
	return m
}

func (m indexMark) fields(run string) []string {
	return []string{markAt, m.at.String(), markRun, run, markSafe, m.safe.String(), markSoon, m.soon.String(), markSince, strconv.FormatInt(m.since, 10)}
}

// follower brings the streams into the index, in rounds.
type follower struct {
	store  *Store
	lists  Lists
	claims claims

	mu sync.Mutex // held by a round; what is below is its
	places
	tallies tallies
}

// keepIndex brings the index up to date now and then, until ctx ends.
func (s *Store) keepIndex(ctx context.Context) {
	failing := false
	for {
		more, err := s.indexTrail(ctx, rested)
		switch {
		case err != nil && ctx.Err() == nil && !failing:
			s.cfg.Log.WarnContext(ctx, "the index of the audit trail is not up to date; searching takes longer until it is", "error", err)
			failing = true
		case err == nil && failing:
			s.cfg.Log.InfoContext(ctx, "the index of the audit trail is brought up to date again")
			failing = false
		}
		pause := s.cfg.TrailIndexInterval
		if more && err == nil {
			pause = min(pause, time.Millisecond)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// IndexTrail brings what was appended to the audit trail into the index that SearchEvents reads, a part of it; more tells that
// there is more to do at once. Replicas share the shards. Run does so too, without haste; without it searching is slower, and finds the
// same.
func (s *Store) IndexTrail(ctx context.Context) (more bool, err error) {
	return s.indexTrail(ctx, func(context.Context, time.Time) {})
}

// pace waits after a piece of work that began then.
type pace func(ctx context.Context, began time.Time)

// rested leaves the processors and the store to requests for a while. Nobody waits for the index, while requests that meet a whole
// round without a break would be as late as the round is long.
func rested(ctx context.Context, began time.Time) { sleep(ctx, followRest*time.Since(began)) }

func (s *Store) indexTrail(ctx context.Context, rest pace) (more bool, err error) {
	if s.follower == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, followTimeout)
	defer cancel()
	f := s.follower
	f.mu.Lock()
	defer f.mu.Unlock()
	identity, err := s.identity(ctx)
	if err != nil {
		return false, fmt.Errorf("follow the audit trail: %w", err)
	}
	f.in(identity)
	f.store.lookForKeys(ctx)
	mine, more, err := f.claim(ctx)
	if err != nil {
		return false, fmt.Errorf("follow the audit trail: %w", err)
	}
	names, err := f.due(ctx, f.store, mine)
	for len(names) > 0 && err == nil {
		n := min(len(names), followStreams)
		var full bool
		full, err = f.index(ctx, names[:n], rest)
		more = more || full
		names = names[n:]
	}
	if err != nil {
		return false, fmt.Errorf("follow the audit trail: %w", err)
	}
	return more, nil
}

// claim takes shards that nobody has and returns those that are this process's; more: there may be others to take.
func (f *follower) claim(ctx context.Context) (mine []byte, more bool, err error) {
	var first [1]byte
	if _, err := io.ReadFull(f.store.cfg.Random, first[:]); err != nil {
		return nil, false, fmt.Errorf("choose shards: %w", err)
	}
	var try []byte
	now := f.store.cfg.Now()
	for i := range shards {
		if shard := first[0] + byte(i); f.claims.mine(shard, now) {
			mine = append(mine, shard)
		} else {
			try = append(try, shard)
			f.streams[shard] = nil // somebody else may have gone on with them
		}
	}
	more = len(try) > followShards
	try = try[:min(len(try), followShards)]
	got := make([]bool, len(try))
	err = errors.Join(atOnce(len(try), fewAtOnce, func(i int) (err error) {
		got[i], err = f.store.claim(ctx, &f.claims, postingsClaimKey(try[i]), try[i], followHold)
		return err
	})...)
	taken := false
	for i, yes := range got {
		if yes {
			mine, taken = append(mine, try[i]), true
		}
	}
	return mine, more && taken, err
}

// index brings the next entries of these streams into the index: first the lists, then the marks. A crash between leaves
// postings that are written again.
func (f *follower) index(ctx context.Context, names []trailName, rest pace) (more bool, err error) {
	batch := make(map[tally][]byte)
	ends := make(map[trailName]streamID)
	for some := range slices.Chunk(names, followReads) {
		began := time.Now()
		full, err := f.read(ctx, some, batch, ends)
		if err != nil {
			return false, err
		}
		more = more || full
		rest(ctx, began)
	}
	if err := f.write(ctx, batch, rest); err != nil {
		return false, err
	}
	return more, f.advance(ctx, f.store, ends)
}

// read adds the postings of the next entries of these streams to the batch, and where they end; more: one has still more of them.
func (f *follower) read(ctx context.Context, names []trailName, batch map[tally][]byte, ends map[trailName]streamID) (more bool, err error) {
	queries := make([]StreamQuery, len(names))
	for i, name := range names {
		queries[i] = StreamQuery{Key: streamKey(name.shard, name.tenant), From: "(" + f.of(name).mark.at.String(), To: "+", Limit: followChunk}
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return f.store.cfg.Backend.Streams(ctx, queries) })
	if err != nil {
		return false, err
	}
	for i, name := range names {
		stream := f.of(name)
		if len(found[i]) == 0 {
			stream.idle = min(stream.idle+1, restful)
			stream.skip = 1<<stream.idle - 1
			continue
		}
		stream.idle = 0
		full := len(found[i]) == followChunk
		for j, e := range found[i] {
			id, err := parseStreamID(e.ID)
			if err != nil {
				return false, fmt.Errorf("read audit trail: %w", err)
			}
			if !f.add(batch, name, id, e) {
				f.store.meetKeys(found[i][j:])
				full = false
				break // this stream stands, until the key is here; others go on
			}
			ends[name] = id
		}
		more = more || full
	}
	return more, nil
}

// add adds the postings of an entry. Of one that does not open, which verifying names, those are added that stand in clear. It adds none,
// and returns false, where the entry is sealed with a key that this process may have in a moment.
func (f *follower) add(batch map[tally][]byte, name trailName, id streamID, e StreamEntry) bool {
	_, entry, err := f.store.openEntry(name, e.TrailEntry)
	if errors.Is(err, broker.ErrKeyNotYet) {
		return false
	}
	if err != nil {
		clear, _, err := parseMeta(e.Meta)
		if err != nil {
			return true
		}
		entry = storedEntry{Type: clear.kind, Connector: clear.connector, Time: clear.time}
	}
	late := entry.Time >= 0 && uint64(entry.Time)+uint64(timeSlack.Milliseconds()) < id.ms
	seen := make(map[tally]bool, 8)
	for _, v := range valuesOf(entry, late) {
		key := tally{list: f.store.listOf(name.tenant, v.facet, v.text), day: dayOf(id.ms)}
		if !seen[key] {
			seen[key] = true
			batch[key] = postingOf(name.shard, id).append(batch[key])
		}
	}
	return true
}

// write appends the postings to their lists.
func (f *follower) write(ctx context.Context, batch map[tally][]byte, rest pace) error {
	shared := make(map[string][]byte)
	var pieces []ListPiece
	for key, postings := range batch {
		if f.tallies.add(key.list, key.day, len(postings)/ownSize) {
			pieces = append(pieces, ListPiece{Key: key.list.own(key.day), Bytes: string(postings)})
			continue
		}
		list := key.list.shared(key.day)
		for ; len(postings) > 0; postings = postings[ownSize:] {
			shared[list] = append(append(shared[list], key.list.tag()...), postings[:ownSize]...)
		}
	}
	for key, postings := range shared {
		pieces = append(pieces, ListPiece{Key: key, Bytes: string(postings)})
	}
	for len(pieces) > 0 {
		n := min(len(pieces), followPieces)
		began := time.Now()
		if err := f.lists.AppendLists(ctx, pieces[:n]); err != nil {
			return fmt.Errorf("append to the index: %w", err)
		}
		pieces = pieces[n:]
		rest(ctx, began)
	}
	return nil
}

// marks reads how far these streams are in the index, as the store is now. Without an index nothing is in it.
func (s *Store) marks(ctx context.Context, tenant string, of []byte) (map[byte]streamID, error) {
	out := make(map[byte]streamID, len(of))
	if s.follower == nil {
		return out, nil
	}
	identity, err := readPatiently(ctx, s.cfg.Backend.Identity)
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(of))
	for i, shard := range of {
		keys[i] = postingsMarkKey(shard, tenant)
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, err
	}
	for i, shard := range of {
		out[shard] = markOf(found[i], identity, s.cfg.Now()).at
	}
	return out, nil
}
