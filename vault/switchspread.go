package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// This file brings the table of kill switches to every shard, and brings back what a failover took of it: each replica remembers the
// newest table that it saw, and compares it with the store all the while.

const (
	// switchesEvery is how often each replica compares: one round trip that reads a few bytes of each shard.
	switchesEvery = 3 * time.Second
	// spreadAtOnce is how many shards are written at the same time.
	spreadAtOnce = 32
)

// followSwitches completes what whoever changed the table could not, until ctx ends.
func (s *Store) followSwitches(ctx context.Context) {
	tick := time.NewTicker(switchesEvery)
	defer tick.Stop()
	for trouble := 0; ; {
		err := s.SpreadSwitches(ctx)
		if err == nil {
			trouble = 0
		} else if ctx.Err() == nil && !errors.Is(err, broker.ErrConflict) {
			if trouble%10 == 0 {
				s.cfg.Log.WarnContext(ctx, "what is disabled could not be compared with all parts of the store; tried again", "error", err)
			}
			trouble++
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// SpreadSwitches does that once.
func (s *Store) SpreadSwitches(ctx context.Context) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	t, marks, err := s.lookAtSwitches(ctx)
	if err != nil || t.write == "" {
		return err
	}
	return s.spread(ctx, t, marks)
}

// lookAtSwitches returns the newest table, once the home has it, and the marks of all shards. What this process or a shard knows and
// the home does not was lost: it is written back, or, where somebody has made another one meanwhile, joined with that.
func (s *Store) lookAtSwitches(ctx context.Context) (*switchTable, []string, error) {
	keys := []string{switchesHomeKey(s.switchesHome())}
	for i := range shards {
		keys = append(keys, switchesKey(byte(i)))
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return nil, nil, err
	}
	home, spoilt, err := s.openHome(ctx, found[0])
	if err != nil {
		return nil, nil, err
	}
	marks := make([]string, shards)
	newest := home
	for i := range marks {
		if marks[i] = string(found[1+i][fieldWrite]); marks[i] == "" || marks[i] == home.write {
			continue
		}
		t, _ := s.switches.get(marks[i])
		if t == nil {
			if t, err = s.readTable(ctx, byte(i)); errors.Is(err, broker.ErrIntegrity) || errors.Is(err, broker.ErrNotFound) {
				spoilt = errors.Join(spoilt, err) // its copy is written anew
				continue
			} else if err != nil {
				return nil, nil, err
			}
			s.switches.note(t)
		}
		if newest, err = s.newer(newest, t); err != nil {
			return nil, nil, err
		}
	}
	_, mine := s.switches.get("")
	if newest, err = s.newer(newest, mine); err != nil {
		return nil, nil, err
	}
	there, named := found[0][fieldWrite]
	instead := string(there)
	switch {
	case newest == home && spoilt == nil:
		return newest, marks, nil
	case newest.write == "" && len(found[0]) > 0:
		// Nobody knows what is disabled. It may be this process that has the wrong keyset, so it makes no table in the place of that.
		return nil, nil, fmt.Errorf("switches: %w", spoilt)
	case newest.write == "" || spoilt != nil && newest.write == instead:
		// Shards of a table that nobody made, or one whose home does not open any more: a new one takes the place of both.
		if newest, err = s.anew(newest); err != nil {
			return nil, nil, err
		}
	}
	if newest != home {
		if err := s.writeHome(ctx, instead, named, newest); err != nil {
			return nil, nil, fmt.Errorf("bring back switches: %w", err)
		}
		s.cfg.Log.WarnContext(ctx, "the store had lost what operators disabled or enabled; it was written back", "version_found", home.version, "version", newest.version)
		s.count(CountHealed)
	}
	return newest, marks, nil
}

// openHome reads the table's home. What does not open counts as lost: else whoever spoils it would keep operators from disabling anything.
func (s *Store) openHome(ctx context.Context, record map[string][]byte) (home *switchTable, spoilt, err error) {
	if len(record) == 0 {
		return noSwitches, nil, nil
	}
	if err := checkFormat(string(record[fieldFormat]), switchesFormat); err != nil {
		return nil, nil, fmt.Errorf("switches: %w", err)
	}
	if home, _ = s.switches.get(string(record[fieldWrite])); home == nil || home.write == "" {
		switch home, err = s.openTable(record); {
		case errors.Is(err, broker.ErrIntegrity):
			s.cfg.Log.ErrorContext(ctx, "the table of what is disabled does not open: someone may have written to the store, or the keyset lacks a key", "error", err)
			return noSwitches, err, nil
		case err != nil:
			return nil, nil, err
		}
	}
	s.switches.note(home)
	return home, nil, nil
}

// anew is the same table as another write would have made it.
func (s *Store) anew(t *switchTable) (*switchTable, error) {
	write, err := s.randomID()
	if err != nil {
		return nil, err
	}
	next := t.next(write, t.version+1, t.off)
	return next, s.sealTable(next)
}

// newer is the table of two that came of the other, or what comes of both.
func (s *Store) newer(a, b *switchTable) (*switchTable, error) {
	switch {
	case a.write == b.write, b.before(a):
		return a, nil
	case a.before(b):
		return b, nil
	}
	write, err := s.randomID()
	if err != nil {
		return nil, err
	}
	t := a.next(write, max(a.version, b.version)+1, a.joined(b), append(b.history, b.write)...)
	return t, s.sealTable(t)
}

// spread brings the table to each shard that has not its mark, of those that were read. *broker.PartialError.
func (s *Store) spread(ctx context.Context, t *switchTable, marks []string) error {
	var without []byte
	for i, mark := range marks {
		if mark != t.write {
			without = append(without, byte(i))
		}
	}
	errs := slices.DeleteFunc(atOnce(len(without), spreadAtOnce, func(i int) error {
		return s.spreadTo(ctx, t, without[i], marks[without[i]])
	}), func(err error) bool { return err == nil })
	if len(errs) > 0 {
		return &broker.PartialError{Missing: len(errs), Of: shards, Cause: errs[0]}
	}
	return nil
}

// spreadTo writes the copy of one shard, unless a later one is there.
func (s *Store) spreadTo(ctx context.Context, t *switchTable, shard byte, mark string) error {
	sealed, err := s.sealedNow(t)
	if err != nil {
		return err
	}
	for range healAttempts {
		key := switchesKey(shard)
		r, err := s.trails.direct(ctx, Step{
			Checks: []Check{{Key: key, Field: fieldWrite, Kind: CheckApplied, Value: t.write}, switchCheck(shard, mark)},
			Writes: []Write{
				{Kind: WriteHashSet, Key: switchesBodyKey(shard), Args: []string{fieldWrite, t.write, fieldBody, sealed}},
				{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, switchesFormat, fieldVersion, strconv.FormatInt(t.version, 10), fieldWrite, t.write}},
			},
			Reads: []Read{{Key: key, Fields: []string{fieldWrite}}},
		})
		if err != nil {
			return err
		}
		if r.Verdict != VerdictRefused || len(r.Reads) == 0 {
			return nil
		}
		mark = string(r.Reads[0][fieldWrite])
		there, _ := s.switches.get(mark)
		if there == nil {
			if there, err = s.readTable(ctx, shard); err != nil {
				return err
			}
			s.switches.note(there)
		}
		if t.before(there) {
			return nil
		}
	}
	return broker.ErrConflict
}
