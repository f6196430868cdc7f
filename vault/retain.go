package vault

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

// Retention says for how long the audit trail is kept. The zero value: for good. What is dropped is whole days (UTC), the oldest
// first, of all streams alike, and never anything of the last 24 hours.
type Retention struct {
	// Age is for how long events are kept at least; they are dropped within a day behind it. 0: age is no reason. Else a day at least.
	Age time.Duration
	// Entries is how many entries the whole trail may have: while it has more, its oldest day is dropped, of all tenants. An entry
	// has one event for each scope. 0: their number is no reason.
	Entries int64
	// Archived, if set, tells for each stream the id of the last entry that an archive has, "" if it has none: nothing behind it is
	// dropped, however old it is. An error: nothing is dropped this time.
	Archived func(ctx context.Context, streams []TrailStream) ([]string, error)
	// Archive, if set, makes a file of that name of what write writes, and returns when the disk has it, under its name, whole; after an
	// error of write nothing is left, and that error is returned. What is dropped was archived before (archive.go).
	Archive func(ctx context.Context, name string, write func(io.Writer) error) error
	// Interval is how often Run looks. Default 1 h.
	Interval time.Duration
}

// TrailStream names a stream of the audit trail.
type TrailStream struct {
	Tenant string
	Shard  byte
}

func (r Retention) on() bool { return r.Age > 0 || r.Entries > 0 }

func (r Retention) check() error {
	switch {
	case r.Age < 0 || r.Entries < 0:
		return fmt.Errorf("vault: retention must not be negative")
	case r.Age > 0 && r.Age < day:
		return fmt.Errorf("vault: events are kept for %v at least", day)
	}
	return nil
}

// Trimmer is what a Backend must offer beside, for events to be dropped. Every method is safe for concurrent use, honours the context's
// deadline and takes one round trip (on a cluster: one for each node, at the same time).
type Trimmer interface {
	// StreamLengths returns how many entries each stream has, 0 where there is none.
	StreamLengths(ctx context.Context, keys []string) ([]int64, error)
	// DeleteLists deletes the lists (Lists), wherever they lie; after an error some may be gone.
	DeleteLists(ctx context.Context, keys []string) error
}

const (
	day = 24 * time.Hour
	// trimStep is how many entries of a stream are dropped at once, which holds Redis up for less than a millisecond.
	trimStep = 250
	// trimStreams is of how many streams the oldest entry is asked for in one round trip.
	trimStreams = 256
	// retainHold is for how long a process trims before any other may go on with it.
	retainHold = time.Minute
	// retainTime bounds one round. What is left is gone on with in the next.
	retainTime = 30 * time.Second
	// trimRest: between two steps it rests that many times as long as the step took.
	trimRest = 2
)

// retainer drops what is older than events are kept.
type retainer struct {
	store   *Store
	trimmer Trimmer
	claims  claims

	mu   sync.Mutex // held by a round; what is below is its
	held map[trailName]string
	// behind: something that is due could not be dropped in this round.
	behind bool
	again  bool // what is behind can be gone on with at once
	// archived is up to where each stream is in an archive of this process.
	archived map[trailName]streamID
	oldest   uint64 // ms of the oldest entry that was due in this round

	told atomic.Pointer[Retained]
}

// keepTrail drops old events now and then, until ctx ends.
func (s *Store) keepTrail(ctx context.Context) {
	failing := false
	for {
		more, err := s.TrimTrail(ctx)
		if s.trimFailure.Store(nil); err != nil && ctx.Err() == nil {
			s.trimFailure.Store(&err)
		}
		switch {
		case err != nil && ctx.Err() == nil && !failing:
			s.cfg.Log.WarnContext(ctx, "events that are older than they are kept can't be dropped now; that is tried again", "error", err)
			failing = true
		case err == nil && failing:
			s.cfg.Log.InfoContext(ctx, "old events are dropped again")
			failing = false
		}
		pause := s.cfg.Retention.Interval
		if more || err != nil {
			pause = min(pause, retainHold/4)
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

// TrimTrail drops events that are older than Config.Retention keeps them, for half a minute at most; more tells that there is more to
// do. One replica at a time does it. Run calls it.
func (s *Store) TrimTrail(ctx context.Context) (more bool, err error) {
	r := s.retainer
	if r == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, retainTime)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	mine, err := r.mine(ctx)
	if !mine || err != nil {
		r.tell(mine, 0, false, err)
		return false, err
	}
	s.lookForKeys(ctx)
	more, below, err := r.round(ctx)
	r.tell(true, below, more, err)
	return more, err
}

// round drops what it can of what is due: what is older than below.
func (r *retainer) round(ctx context.Context) (more bool, below uint64, err error) {
	s := r.store
	names, err := s.indexedTrails(ctx)
	if err != nil {
		return false, 0, err
	}
	below, rule, err := r.below(ctx, names)
	if err != nil || below == 0 {
		return false, 0, err
	}
	r.behind, r.again, r.oldest = false, false, below
	var due []dueStream
	archiving := time.Now().Add(retainTime / 4)
	for len(names) > 0 {
		n := min(len(names), trimStreams)
		some, err := r.due(ctx, names[:n], below)
		if err != nil {
			return false, below, err
		}
		due, names = append(due, some...), names[n:]
		if r.store.cfg.Retention.Archive != nil && time.Now().After(archiving) && len(names) > 0 {
			r.behind, r.again = true, true // what is in files is dropped first
			break
		}
	}
	if s.signer != nil && len(due) > 0 {
		if err := s.signer.sayTrim(ctx, fromMillis(int64(below))); err != nil {
			return false, below, err
		}
	}
	from, err := r.markDay(ctx, r.oldest)
	if err != nil {
		return false, below, err
	}
	until := time.Now().Add(retainTime / 2)
	said := make(map[string]bool)
	for _, d := range due {
		if time.Now().After(until) {
			return true, below, nil
		}
		if going, err := r.stream(ctx, d, rule, said, until); going || err != nil {
			return going, below, err
		}
	}
	if r.behind || !r.claims.mine(0, s.cfg.Now()) {
		return r.again, below, nil
	}
	if s.signer != nil {
		if err := s.dropCheckpoints(ctx, fromMillis(int64(below))); err != nil {
			return false, below, err
		}
	}
	return false, below, r.dropShared(ctx, from, below)
}

// mine tells whether this process is the one that trims.
func (r *retainer) mine(ctx context.Context) (bool, error) {
	return r.store.claim(ctx, &r.claims, retainClaimKey(), 0, retainHold)
}

// below is the ms before which everything is to be dropped, the beginning of a day, and why; 0: nothing is. It goes by the earlier of
// two clocks, the store's and this process's: one of them that is wrong must not cost anything.
func (r *retainer) below(ctx context.Context, names []trailName) (below uint64, rule string, err error) {
	earliest, _, err := r.store.cfg.Backend.Clock(ctx)
	if err != nil {
		return 0, "", err
	}
	now := r.store.cfg.Now()
	if earliest.Before(now) {
		now = earliest
	}
	keep := r.store.cfg.Retention
	if keep.Age > 0 {
		below, rule = dayBegin(now.Add(-keep.Age)), fmt.Sprintf("age %d h", keep.Age/time.Hour)
	}
	if keep.Entries > 0 {
		full, err := r.oldestDay(ctx, names, keep.Entries)
		if err != nil {
			return 0, "", err
		}
		if full = min(full, dayBegin(now.Add(-day))); full > below {
			below, rule = full, fmt.Sprintf("entries %d", keep.Entries)
		}
	}
	return below, rule, nil
}

// dayBegin is the first ms of the day (UTC); 0 before 1970.
func dayBegin(at time.Time) uint64 {
	ms := uint64(max(0, at.UnixMilli()))
	return ms - ms%msPerDay
}

// oldestDay is the end of the trail's oldest day if the trail has more entries than that; else 0.
func (r *retainer) oldestDay(ctx context.Context, names []trailName, most int64) (uint64, error) {
	var total int64
	oldest := uint64(maxMs)
	for len(names) > 0 {
		some := names[:min(len(names), trimStreams)]
		names = names[len(some):]
		keys, queries := make([]string, len(some)), make([]StreamQuery, len(some))
		for i, name := range some {
			keys[i] = streamKey(name.shard, name.tenant)
			queries[i] = StreamQuery{Key: keys[i], From: "-", To: "+", Limit: 1}
		}
		lengths, err := readPatiently(ctx, func(ctx context.Context) ([]int64, error) { return r.trimmer.StreamLengths(ctx, keys) })
		if err != nil {
			return 0, err
		}
		first, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return r.store.cfg.Backend.Streams(ctx, queries) })
		if err != nil {
			return 0, err
		}
		for i, n := range lengths {
			total += n
			if len(first[i]) == 0 {
				continue
			}
			// A stream of which only what says that it was trimmed is left does not count as old.
			id, err := parseStreamID(first[i][0].ID)
			if m, _, merr := parseMeta(first[i][0].Meta); err == nil && (merr != nil || m.kind != string(broker.EventTrailTrimmed)) && r.held[some[i]] == "" {
				oldest = min(oldest, id.ms)
			}
		}
	}
	if total <= most || oldest == maxMs {
		return 0, nil
	}
	return oldest - oldest%msPerDay + msPerDay, nil
}

// dueStream is a stream with entries that are to be dropped: those up to an id.
type dueStream struct {
	name  trailName
	first uint64 // ms of its oldest entry
	below uint64
	to    string // as in StreamQuery.To
}

// due are those of the streams that have entries of before that time which may be dropped.
func (r *retainer) due(ctx context.Context, names []trailName, below uint64) ([]dueStream, error) {
	queries := make([]StreamQuery, len(names))
	to := "(" + streamID{ms: below}.String()
	for i, name := range names {
		queries[i] = StreamQuery{Key: streamKey(name.shard, name.tenant), From: "-", To: to, Limit: 1}
	}
	first, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return r.store.cfg.Backend.Streams(ctx, queries) })
	if err != nil {
		return nil, err
	}
	var due []dueStream
	var streams []TrailStream
	for i, name := range names {
		if len(first[i]) > 0 {
			id, err := parseStreamID(first[i][0].ID)
			if err == nil {
				r.oldest = min(r.oldest, id.ms)
			}
			due, streams = append(due, dueStream{name: name, first: id.ms, below: below, to: to}), append(streams, TrailStream{Tenant: name.tenant, Shard: name.shard})
		}
	}
	archived := r.store.cfg.Retention.Archived
	if len(due) > 0 && r.store.cfg.Retention.Archive != nil {
		return r.archive(ctx, due)
	}
	if archived == nil || len(due) == 0 {
		return due, nil
	}
	ids, err := archived(ctx, streams)
	if err == nil && len(ids) != len(due) {
		err = fmt.Errorf("%d answers for %d streams", len(ids), len(due))
	}
	if err != nil {
		return nil, fmt.Errorf("ask up to where the trail is archived: %w", err)
	}
	there := due[:0]
	for i, d := range due {
		if ids[i] == "" {
			r.behind = true
			continue
		}
		id, err := parseStreamID(ids[i])
		if err != nil {
			return nil, fmt.Errorf("ask up to where the trail is archived: %w", err)
		}
		if id.ms < below {
			d.to, r.behind = id.String(), true
		}
		there = append(there, d)
	}
	return there, nil
}

// stream drops what is due of a stream, step by step; more: time was up before its end.
func (r *retainer) stream(ctx context.Context, d dueStream, rule string, said map[string]bool, until time.Time) (more bool, err error) {
	for {
		began := time.Now()
		t, fault, err := r.prepare(ctx, d, rule)
		switch {
		case errors.Is(err, broker.ErrKeyNotYet): // it can be read in a while, and nothing is wrong with it
			r.behind = true
			return false, nil
		case err != nil:
			return false, err
		case fault != nil:
			r.hold(ctx, d.name, fault)
			r.behind = true // its day's shared lists stay with it
			return false, nil
		}
		delete(r.held, d.name)
		if t == nil {
			return false, nil
		}
		if !said[d.name.tenant] {
			if err := r.say(ctx, d, rule); err != nil {
				return false, err
			}
			said[d.name.tenant] = true
		}
		// Whoever stood still for long is not the one any more; and two at once would still do no harm.
		if mine, err := r.mine(ctx); !mine || err != nil {
			return false, err
		}
		if err := r.drop(ctx, t); err != nil {
			return false, err
		}
		if !t.full {
			return false, nil
		}
		if !sleep(ctx, max(time.Millisecond, trimRest*time.Since(began))) || time.Now().After(until) {
			return true, ctx.Err()
		}
	}
}

// hold says once that a stream is not trimmed: what is wrong with it must not vanish with its age.
func (r *retainer) hold(ctx context.Context, name trailName, fault *Fault) {
	if r.held[name] == fault.What {
		return
	}
	r.held[name] = fault.What
	r.store.cfg.Log.ErrorContext(ctx, "a stream of the audit trail is not trimmed, for it was tampered with; keep a copy and verify it (RUNBOOK, \"How long events are kept\")",
		"stream", name.String(), "entry", fault.Entry, "what", fault.What)
}

// say records that events of a tenant are dropped, before any is: once for each day up to which they are.
func (r *retainer) say(ctx context.Context, d dueStream, rule string) error {
	s := r.store
	home := trailName{shard: s.Shard(d.name.tenant, ""), tenant: d.name.tenant}
	id, err := s.randomID()
	if err != nil {
		return err
	}
	value := s.trimmedValue(d.name.tenant, d.below)
	drafts, err := s.drafts(home.tenant, []broker.Entry{{
		Type: broker.EventTrailTrimmed, Time: s.cfg.Now(), Tenant: home.tenant, Scopes: []broker.EventScope{{ID: id}}, Outcome: "ok",
		Reason: fmt.Sprintf("what was written before %s is dropped by the rule: %s", fromMillis(int64(d.below)).Format(time.DateOnly), rule),
	}})
	if err != nil {
		return err
	}
	key := trimmedKey(home.shard, home.tenant)
	_, err = s.trails.do(ctx, home, writeID("trimmed", "", int64(d.below), nil, id), Step{
		Checks: []Check{{Key: key, Field: fieldTrimmed, Kind: CheckNot, Value: value}},
		Writes: []Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldTrimmed, value}}},
	}, drafts)
	if err != nil {
		return fmt.Errorf("record that events are dropped: %w", err)
	}
	return nil
}

// fieldTrimmed holds up to when a tenant's trail is said to be dropped: ms, and a keyed hash, so that nobody who can write to the store
// can make an operator believe that what he took away was dropped in order.
const fieldTrimmed = "to"

func (s *Store) trimmedValue(tenant string, below uint64) string {
	return msText(below) + "." + hex.EncodeToString(s.seals.hash(16, "audit-trimmed", tenant, msText(below)))
}

// KeptSince implements broker.TrailRetention.
func (s *Store) KeptSince(ctx context.Context, tenant string) (time.Time, error) {
	found, err := s.hashes(ctx, trimmedKey(s.Shard(tenant, ""), tenant))
	if err != nil {
		return time.Time{}, err
	}
	value := string(found[0][fieldTrimmed])
	if value == "" {
		return time.Time{}, nil
	}
	below, good := parseTrimmed(value)
	if !good || subtle.ConstantTimeCompare([]byte(value), []byte(s.trimmedValue(tenant, below))) != 1 {
		return time.Time{}, fmt.Errorf("since when events are kept: %w", broker.ErrIntegrity)
	}
	return fromMillis(int64(below)), nil
}

var _ broker.TrailRetention = (*Store)(nil)
