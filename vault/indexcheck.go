package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// The slow check of the index goes through the records of all tenants and puts each where it belongs, which also takes in what
// was written before there was an index, and then through the index, and marks what lies there and should not. One process at a
// time does that; how far it came is kept, so that another one goes on from there.

const (
	// checkEvery is how long after a check the next one begins, checkLook how often it is asked whether that is now.
	checkEvery = 6 * time.Hour
	checkLook  = 10 * time.Second
	// checkStart is how long after the start of a process there is a check in any case.
	checkStart = 5 * time.Minute
	// checkHold is how long whoever checks may be silent before another one takes over.
	checkHold = 30 * time.Second
	// checkFind is how long it may take to find the indexes of all tenants.
	checkFind = 10 * time.Minute
	checkPage = 200
	// checkRest is the pause after each page as a multiple of what it took, and at least so long.
	checkRest, checkLeast = 3, 20 * time.Millisecond

	fieldWalkState = "state" // JSON of walkState
	fieldWalkDone  = "done"  // JSON of walkCount, of the last check that came to its end
)

// walkState is how far the check came.
type walkState struct {
	Index string    `json:"i,omitempty"` // the key of the tenant's index, or the set, that is looked at
	After string    `json:"a,omitempty"` // the last member that was
	Sets  bool      `json:"s,omitempty"` // the records are through
	Count walkCount `json:"c"`
}

// walkCount is what was counted. Times are in ms.
type walkCount struct {
	Began      int64          `json:"b,omitempty"`
	Ended      int64          `json:"e,omitempty"`
	Records    int            `json:"n,omitempty"`
	ByKey      map[uint32]int `json:"k,omitempty"`
	Unreadable int            `json:"u,omitempty"`
}

// errWalkTaken: another process goes on with the check.
var errWalkTaken = errors.New("another process checks the index")

// checkIndex checks the index now and then, until ctx ends.
func (s *Store) checkIndex(ctx context.Context) {
	// While versions are exchanged, an older one may write behind this one's start, and knows of no index.
	s.index.doubt(s.cfg.Now().Add(checkStart))
	tick := time.NewTicker(checkLook)
	defer tick.Stop()
	for trouble := 0; ; {
		err := s.checkIfDue(ctx)
		switch {
		case err == nil, errors.Is(err, errWalkTaken):
			trouble = 0
		case ctx.Err() == nil && trouble%troubleRounds == 0:
			s.cfg.Log.WarnContext(ctx, "the index of connections could not be checked, and will be", "error", err)
			fallthrough
		default:
			trouble++
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Store) checkIfDue(ctx context.Context) error {
	state, done, err := s.readWalk(ctx)
	if err != nil {
		return err
	}
	now := s.cfg.Now()
	fresh := done.Ended > 0 && now.Sub(fromMillis(done.Began)).Abs() < checkEvery && !s.index.mayLack(now, fromMillis(done.Began))
	if state.Count.Began == 0 && fresh {
		return nil
	}
	return s.walkIndex(ctx, checkRest)
}

// CheckIndex checks the index at once and without a rest. Run does it by itself, slowly.
func (s *Store) CheckIndex(ctx context.Context) error { return s.walkIndex(ctx, 0) }

func (s *Store) readWalk(ctx context.Context) (state walkState, done walkCount, err error) {
	trip, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
	defer cancel()
	found, err := s.hashes(trip, indexWalkKey())
	if err != nil {
		return state, done, fmt.Errorf("read how far the check is: %w", err)
	}
	// What can't be read is begun anew.
	if json.Unmarshal(found[0][fieldWalkState], &state) != nil {
		state = walkState{}
	}
	if json.Unmarshal(found[0][fieldWalkDone], &done) != nil {
		done = walkCount{}
	}
	return state, done, nil
}

// indexWalk is one run of the check.
type indexWalk struct {
	store *Store
	owner string
	rest  time.Duration
	state walkState
	// since the last note: when that was, and how much was looked at.
	since time.Time
	seen  int
}

func (s *Store) walkIndex(ctx context.Context, rest time.Duration) error {
	owner, err := s.randomID()
	if err != nil {
		return err
	}
	w := &indexWalk{store: s, owner: owner, rest: rest, since: s.cfg.Now()}
	if err := w.take(ctx); err != nil {
		return err
	}
	if err := w.run(ctx); err != nil {
		// Whoever goes on need not wait until the hold ends. If this fails it does.
		_ = w.save(context.WithoutCancel(ctx), []Write{{Kind: WriteHashDelete, Key: indexWalkKey(), Args: []string{fieldOwner, fieldDeadline}}})
		return err
	}
	return nil
}

// run goes on from where the check is.
func (w *indexWalk) run(ctx context.Context) (err error) {
	s := w.store
	if w.state, _, err = s.readWalk(ctx); err != nil {
		return err
	}
	if w.state.Count.Began == 0 {
		w.state = walkState{Count: walkCount{Began: s.cfg.Now().UnixMilli(), ByKey: map[uint32]int{}}}
	}
	if w.state.Count.ByKey == nil {
		w.state.Count.ByKey = map[uint32]int{}
	}
	if !w.state.Sets {
		if err := w.records(ctx); err != nil {
			return err
		}
		w.state = walkState{Sets: true, Count: w.state.Count}
		w.state.Count.Ended = s.cfg.Now().UnixMilli()
	}
	if err := w.sets(ctx); err != nil {
		return err
	}
	text, err := json.Marshal(w.state.Count)
	if err != nil {
		return fmt.Errorf("encode what the check counted: %w", err)
	}
	return w.save(ctx, []Write{
		{Kind: WriteHashSet, Key: indexWalkKey(), Args: []string{fieldWalkDone, string(text)}},
		{Kind: WriteHashDelete, Key: indexWalkKey(), Args: []string{fieldWalkState, fieldOwner, fieldDeadline}},
	})
}

func (w *indexWalk) take(ctx context.Context) error {
	key := indexWalkKey()
	return w.step(ctx, Step{
		Checks: []Check{{Key: key, Field: fieldOwner, Kind: CheckApplied, Value: w.owner}, {Key: key, Field: fieldDeadline, Kind: CheckFree}},
		Writes: append([]Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldOwner, w.owner}}}, w.hold(checkFind)), // at first it looks for what there is
	})
}

func (w *indexWalk) hold(d time.Duration) Write {
	return Write{Kind: WriteDeadline, Key: indexWalkKey(), Args: []string{fieldDeadline, strconv.FormatInt(d.Milliseconds(), 10)}}
}

func (w *indexWalk) save(ctx context.Context, writes []Write) error {
	return w.step(ctx, Step{Checks: []Check{{Key: indexWalkKey(), Field: fieldOwner, Kind: CheckEqual, Value: w.owner}}, Writes: writes})
}

func (w *indexWalk) step(ctx context.Context, step Step) error {
	ctx, cancel := context.WithTimeout(ctx, 5*w.store.cfg.RoundTrip)
	defer cancel()
	r, err := w.store.trails.direct(ctx, step)
	if err != nil {
		return fmt.Errorf("note how far the check is: %w", err)
	}
	if r.Verdict == VerdictRefused {
		return errWalkTaken
	}
	return nil
}

// page is called behind each page, of so many. Where that makes a whole one with those before it, it notes how far it is and
// rests: most indexes of a tenant in a shard are short.
func (w *indexWalk) page(ctx context.Context, index, after string, items int) error {
	w.state.Index, w.state.After = index, after
	took := w.store.cfg.Now().Sub(w.since)
	if w.seen += items; w.seen < checkPage && took < checkHold/6 {
		return ctx.Err()
	}
	defer func() { w.seen, w.since = 0, w.store.cfg.Now() }()
	text, err := json.Marshal(w.state)
	if err != nil {
		return fmt.Errorf("encode how far the check is: %w", err)
	}
	if err := w.save(ctx, []Write{{Kind: WriteHashSet, Key: indexWalkKey(), Args: []string{fieldWalkState, string(text)}}, w.hold(checkHold)}); err != nil {
		return err
	}
	if w.rest == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(max(checkLeast, min(w.rest*took, checkHold/3)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// records goes through the tenants' indexes of the shards.
func (w *indexWalk) records(ctx context.Context) error {
	s := w.store
	keysCtx, cancel := context.WithTimeout(ctx, checkFind)
	indexes, err := s.cfg.Backend.Keys(keysCtx, tenantIndexes)
	cancel()
	if err != nil {
		return fmt.Errorf("find the tenants' indexes: %w", err)
	}
	slices.Sort(indexes)
	for _, index := range indexes {
		shard, _, ok := parseTenantKey(index)
		if !ok || index < w.state.Index {
			continue
		}
		after := ""
		if index == w.state.Index {
			after = w.state.After
		}
		for more := true; more; {
			query := IndexQuery{Index: index, Records: connectionPrefix(shard), Extra: issuedPrefix(shard), After: after, Limit: checkPage}
			trip, cancel := context.WithTimeout(ctx, 5*s.cfg.RoundTrip)
			found, err := readPatiently(trip, func(ctx context.Context) ([][]Indexed, error) { return s.cfg.Backend.Indexed(ctx, []IndexQuery{query}) })
			cancel()
			if err != nil {
				return fmt.Errorf("read records: %w", err)
			}
			var moves []*indexMove
			for _, item := range found[0] {
				w.count(item.Record)
				moves = append(moves, s.indexMove(shard, item.Member, item.Record, item.Extra))
				after = item.Member
			}
			if _, err := s.moveAll(ctx, shard, moves); err != nil {
				return err
			}
			more = len(found[0]) == checkPage
			if err := w.page(ctx, index, after, len(found[0])); err != nil {
				return err
			}
		}
	}
	return nil
}

// count notes which keys have sealed something of the record.
func (w *indexWalk) count(record map[string][]byte) {
	if len(record) == 0 {
		return
	}
	c := &w.state.Count
	c.Records++
	if checkFormat(string(record[fieldFormat]), connectionFormat) != nil {
		c.Unreadable++
	}
	var ids []uint32
	for field, value := range record {
		if field != fieldPrivate && field != fieldRefresh && !strings.HasPrefix(field, fieldAccess) {
			continue
		}
		bare, _ := packedSeal(value)
		if id, ok := keyID(bare); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
			c.ByKey[id]++
		}
	}
}

// sets goes through the index, marks what should not be there, and takes empty sets off the registry.
func (w *indexWalk) sets(ctx context.Context) error {
	s := w.store
	keys := make([]string, shards)
	for i := range keys {
		keys[i] = classesKey(byte(i))
	}
	registry, err := s.hashes(ctx, keys...)
	if err != nil {
		return fmt.Errorf("read the classes: %w", err)
	}
	var sets []string
	added := make(map[string]string)
	for shard, fields := range registry {
		for set := range fields {
			if len(set) == setIDLen && setShard(set) == byte(shard) {
				sets = append(sets, set)
				added[set] = string(fields[addedField(set)])
			}
		}
	}
	slices.Sort(sets)
	for _, set := range sets {
		if set < w.state.Index {
			continue
		}
		after := ""
		if set == w.state.Index {
			after = w.state.After
		}
		for empty, more := after == "", true; more; {
			query := RangeQuery{Key: classKey(setShard(set), set), From: after, Limit: checkPage}
			if after != "" {
				query.From += "\x00"
			}
			found, err := readPatiently(ctx, func(ctx context.Context) ([][]string, error) { return s.cfg.Backend.Ranges(ctx, []RangeQuery{query}) })
			if err != nil {
				return fmt.Errorf("read the index: %w", err)
			}
			if empty = empty && len(found[0]) == 0; empty {
				if err := w.drop(ctx, set, added[set]); err != nil {
					return err
				}
				break // nothing to note
			}
			if err := w.members(ctx, set, found[0]); err != nil {
				return err
			}
			if more = len(found[0]) == checkPage; len(found[0]) > 0 {
				after = found[0][len(found[0])-1]
			}
			if err := w.page(ctx, set, after, len(found[0])); err != nil {
				return err
			}
		}
	}
	return nil
}

// members marks the members that lie in the set and, as far as is noted beside their records, should not.
func (w *indexWalk) members(ctx context.Context, set string, members []string) error {
	s := w.store
	var keys, of []string
	for _, member := range members {
		if shard, err := shardOf(memberID(member)); err == nil {
			keys, of = append(keys, issuedKey(shard, memberID(member))), append(of, member)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	beside, err := s.hashes(ctx, keys...)
	if err != nil {
		return fmt.Errorf("read what is noted beside the records: %w", err)
	}
	for i, member := range of {
		if here := indexPlace(set + member[:stampLen]); !slices.Contains(splitPlaces(string(beside[i][fieldPlaces])), here) {
			s.misplaced(ctx, memberID(member), here)
		}
	}
	return nil
}

// drop takes a set off the registry, if nothing was added to it since it was found empty.
func (w *indexWalk) drop(ctx context.Context, set, added string) error {
	key := classesKey(setShard(set))
	ctx, cancel := context.WithTimeout(ctx, 5*w.store.cfg.RoundTrip)
	defer cancel()
	if _, err := w.store.trails.direct(ctx, Step{
		Checks: []Check{{Key: key, Field: addedField(set), Kind: CheckEqual, Value: added}},
		Writes: []Write{{Kind: WriteHashDelete, Key: key, Args: []string{set, addedField(set)}}},
	}); err != nil {
		return fmt.Errorf("forget an empty class: %w", err)
	}
	return nil
}

// SealedBy implements broker.ConnectionIndex.
func (s *Store) SealedBy(ctx context.Context) (broker.Seals, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	_, done, err := s.readWalk(ctx)
	if err != nil {
		return broker.Seals{}, err
	}
	resealing, err := s.Resealing(ctx)
	if err != nil {
		return broker.Seals{}, err
	}
	return broker.Seals{
		Records: done.Records, At: fromMillis(done.Ended), ByKey: done.ByKey, Unreadable: done.Unreadable, Primary: s.cfg.Keyset.current.Load().primary,
		Resealing: resealing,
	}, nil
}
