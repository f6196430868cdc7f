package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// After a rotation all records are sealed anew with the key that is primary then, so that the one before can be deleted
// (broker/decisions/0029-keys.md). One process at a time goes through them, slowly; how far it came is kept, so that another one
// goes on from there. Each value is exchanged by comparing it, byte for byte, with the one that was read: whoever wrote meanwhile
// has sealed with the new key, and is not overwritten. Nothing else of the record changes, so nobody else notices.

const (
	// resealLook is how often it is asked whether there is something to do.
	resealLook = 5 * time.Second
	// resealConfirm is how long behind a pass that left nothing another one makes sure: what was sealed just before the key was
	// exchanged may have been written behind it. resealAgain is how soon a pass that left something is repeated.
	resealConfirm = time.Minute
	resealAgain   = 15 * time.Second
	resealPage    = 100
	// resealHold is how long whoever goes through the records may be silent before another one goes on.
	resealHold = 10 * time.Second
	// resealRest is the pause after each page as a multiple of what it took.
	resealRest = 2
)

// errKeysChanged: another pass is due, with other keys.
var errKeysChanged = errors.New("the keys that seal were exchanged meanwhile")

// resealState is how far a pass came.
type resealState struct {
	Target string    `json:"t,omitempty"` // the primary keys that it is about
	Others bool      `json:"o,omitempty"` // the connections are through
	Index  string    `json:"i,omitempty"` // the index of connections, or the key, that was looked at last
	After  string    `json:"a,omitempty"` // the last of its members
	Passes int       `json:"p,omitempty"` // in a row that left nothing, with this one
	Count  SealCount `json:"c"`
}

// SealCount is what a walk over all sealed records counted. Times are in ms.
type SealCount struct {
	Began   int64 `json:"b,omitempty"`
	Ended   int64 `json:"e,omitempty"`
	Records int   `json:"n,omitempty"`
	// Resealed are the records that were sealed anew.
	Resealed int `json:"r,omitempty"`
	// ByKey are the records that have something sealed by the key of that id, Left those of them where another key would seal it
	// now. One record may count for several keys.
	ByKey map[uint32]int `json:"k,omitempty"`
	Left  map[uint32]int `json:"l,omitempty"`
	// Erased are the records of tenants whose keyset was destroyed, by the keys that sealed them. Nobody reads them, and nobody seals them
	// anew: they are in none of the others, and no key is kept for them.
	Erased map[uint32]int `json:"x,omitempty"`
}

func newSealCount(now time.Time) SealCount {
	return SealCount{Began: now.UnixMilli(), ByKey: map[uint32]int{}, Left: map[uint32]int{}, Erased: map[uint32]int{}}
}

// target names the keys that seal now.
func (p *primitives) target() string {
	parts := []string{strconv.FormatUint(uint64(p.primary), 10)}
	for _, tenant := range slices.Sorted(maps.Keys(p.tenants)) {
		parts = append(parts, strconv.FormatUint(uint64(p.tenants[tenant].primary), 10))
	}
	return strings.Join(parts, ",")
}

// alone tells that there never was more than one key for records: nothing can be sealed with another.
func (p *primitives) alone() bool {
	return len(p.tenants)+len(p.erased) == 0 && len(p.list.Records) == 1
}

// keepSealed seals anew what is not sealed with the primary key, until ctx ends.
func (s *Store) keepSealed(ctx context.Context) {
	tick := time.NewTicker(s.cfg.ResealInterval)
	defer tick.Stop()
	waits := ""
	for trouble := 0; ; {
		s.ResealMemory(ctx)
		wait, err := s.resealIfDue(ctx)
		switch {
		case err == nil, errors.Is(err, errWalkTaken), errors.Is(err, errKeysChanged):
			trouble = 0
		case ctx.Err() == nil && trouble%troubleRounds == 0:
			s.cfg.Log.WarnContext(ctx, "records could not be sealed anew, and will be", "error", err)
			fallthrough
		default:
			trouble++
		}
		if wait != waits && wait != "" {
			s.cfg.Log.InfoContext(ctx, "records are not sealed anew yet", "reason", wait)
		}
		waits = wait
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// resealIfDue makes a pass if one is due and every replica seals with the same key; wait says why not.
func (s *Store) resealIfDue(ctx context.Context) (wait string, err error) {
	keys := s.cfg.Keyset.current.Load()
	state, done, err := s.readReseal(ctx)
	if err != nil || !s.resealDue(keys, state, done) {
		return "", err
	}
	if wait, err = s.sealersDiffer(ctx); wait != "" || err != nil {
		return wait, err
	}
	return "", s.reseal(ctx, resealRest)
}

func (s *Store) resealDue(keys *primitives, state, done resealState) bool {
	age := s.cfg.Now().Sub(fromMillis(done.Count.Ended)).Abs()
	switch {
	case state.Count.Began > 0:
		return true // somebody did not come to the end
	case done.Target != keys.target():
		return !keys.alone() || done.Target != ""
	case len(done.Count.Left) > 0:
		return age > resealAgain
	}
	return done.Passes < 2 && age > resealConfirm
}

// sealersDiffer says, in words, which replicas do not seal as this one; "": all do. Until then what one sealed anew another would
// seal back.
func (s *Store) sealersDiffer(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*s.cfg.RoundTrip)
	defer cancel()
	all, now, err := s.AllReplicas(ctx)
	if err != nil {
		return "", err
	}
	keys := s.cfg.Keyset.current.Load()
	live, differ := 0, []string(nil)
	for _, r := range all {
		if r.Silent(now) {
			continue
		}
		if live++; !r.SealsWith(keys.primary, keys.digest) {
			differ = append(differ, r.Name())
		}
	}
	switch {
	case len(differ) > 0:
		return "other keys than here seal in " + strings.Join(differ, ", "), nil
	case live == 0:
		return "no replica has said yet with which key it seals", nil
	}
	return "", nil
}

// Reseal makes a pass at once and without a rest, whatever other replicas do. Run does it by itself, slowly.
func (s *Store) Reseal(ctx context.Context) error { return s.reseal(ctx, 0) }

func (s *Store) readReseal(ctx context.Context) (state, done resealState, err error) {
	trip, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
	defer cancel()
	found, err := s.hashes(trip, resealKey())
	if err != nil {
		return state, done, fmt.Errorf("read how far sealing anew is: %w", err)
	}
	// What can't be read is begun anew.
	if json.Unmarshal(found[0][fieldWalkState], &state) != nil {
		state = resealState{}
	}
	if json.Unmarshal(found[0][fieldWalkDone], &done) != nil {
		done = resealState{}
	}
	return state, done, nil
}

// reseal makes a pass, or goes on with the one that somebody left.
func (s *Store) reseal(ctx context.Context, rest time.Duration) error {
	owner, err := s.randomID()
	if err != nil {
		return err
	}
	w := &sealWalk{store: s, hold: &walkHold{store: s, key: resealKey(), owner: owner}, rest: rest, since: s.cfg.Now(), keys: s.cfg.Keyset.current.Load(), shared: map[string]bool{}}
	if err := w.hold.take(ctx); err != nil {
		return err
	}
	state, done, err := s.readReseal(ctx)
	if err != nil {
		return err
	}
	if w.state = state; state.Count.Began == 0 || state.Target != w.keys.target() {
		w.state = resealState{Target: w.keys.target(), Count: newSealCount(s.cfg.Now())}
	}
	for _, counts := range []*map[uint32]int{&w.state.Count.ByKey, &w.state.Count.Left, &w.state.Count.Erased} {
		if *counts == nil {
			*counts = map[uint32]int{}
		}
	}
	if err := w.run(ctx); err != nil {
		return err
	}
	count := w.state.Count
	count.Ended = s.cfg.Now().UnixMilli()
	next := resealState{Target: w.state.Target, Count: count}
	if len(count.Left) == 0 {
		if next.Passes = 1; done.Target == next.Target {
			next.Passes += done.Passes
		}
	}
	text, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode what was sealed anew: %w", err)
	}
	if err := w.hold.save(ctx, []Write{
		{Kind: WriteHashSet, Key: resealKey(), Args: []string{fieldWalkDone, string(text)}},
		{Kind: WriteHashDelete, Key: resealKey(), Args: []string{fieldWalkState, fieldOwner, fieldDeadline}},
	}); err != nil {
		return err
	}
	s.cfg.Log.InfoContext(ctx, "all records were looked through for what another key than the primary one has sealed",
		"records", count.Records, "sealed_anew", count.Resealed, "left", len(count.Left) > 0)
	return nil
}

// CountSeals goes through all sealed records and changes nothing.
func (s *Store) CountSeals(ctx context.Context) (SealCount, error) {
	w := &sealWalk{store: s, since: s.cfg.Now(), keys: s.cfg.Keyset.current.Load(), state: resealState{Count: newSealCount(s.cfg.Now())}, erased: map[string]string{}}
	if err := w.run(ctx); err != nil {
		return SealCount{}, err
	}
	w.state.Count.Ended = s.cfg.Now().UnixMilli()
	return w.state.Count, nil
}

// AskReseal makes the next look begin a pass, whatever the last one said.
func (s *Store) AskReseal(ctx context.Context) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	_, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteHashSet, Key: resealKey(), Args: []string{fieldWalkDone, `{"t":"asked for"}`}}}})
	if err != nil {
		return fmt.Errorf("ask for records to be sealed anew: %w", err)
	}
	return nil
}

// Resealing tells how far sealing anew is.
func (s *Store) Resealing(ctx context.Context) (broker.Resealing, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	state, done, err := s.readReseal(ctx)
	if err != nil {
		return broker.Resealing{}, err
	}
	keys := s.cfg.Keyset.current.Load()
	out := broker.Resealing{Needed: s.resealDue(keys, state, done) || done.Target != "" && done.Target != keys.target() || len(done.Count.Left) > 0}
	if state.Count.Began > 0 {
		out.Running, out.Current = true, state.Count.progress()
	}
	if done.Count.Ended > 0 {
		out.Last = done.Count.progress()
	}
	if done.Target == keys.target() {
		out.Passes = done.Passes
	}
	return out, nil
}

func (c SealCount) progress() broker.SealProgress {
	return broker.SealProgress{Began: fromMillis(c.Began), Ended: fromMillis(c.Ended), Records: c.Records, Resealed: c.Resealed, ByKey: c.ByKey, Left: c.Left, Erased: c.Erased}
}
