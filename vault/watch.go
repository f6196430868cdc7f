package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// watchInterval is how often the store is asked who it is.
	watchInterval = 250 * time.Millisecond
	// settlePause is how long no refresh token is sent in a shard after the store's history changed: every process that
	// remembers something lost has asked who the store is by then, and written it back.
	settlePause = time.Second
	// healBatch is how many records are read in one round trip, healsAtOnce how many are written back at the same time.
	healBatch   = 256
	healsAtOnce = 8
	// troubleEvery is how many rounds pass between two reports of one trouble: half a minute.
	troubleEvery = 120
)

// Counted is what Config.Count counts.
type Counted string

// What is counted.
const (
	CountHealed      Counted = "healed"      // an acknowledged write that the store had lost was written back
	CountUnconfirmed Counted = "unconfirmed" // a write was not confirmed by enough replicas in time
)

func (s *Store) count(what Counted) {
	if s.cfg.Count != nil {
		s.cfg.Count(what)
	}
}

// watch looks whether the store is still the one that it was, until ctx ends, and if not, heals all that is remembered.
func (s *Store) watch(ctx context.Context) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	known, failed, changed, trouble := "", false, false, 0
	var todo []string
	for {
		now, err := s.identity(ctx)
		if err != nil {
			failed = true
			s.unhealed.Store(true) // as far as anybody knows
		} else {
			// Without an identity, any error may have been a failover.
			if now != known || now == "" && failed {
				s.Changed()
				if known != "" || failed {
					s.index.doubt(s.cfg.Now())
				}
				todo, changed = s.memory.newest(), true
			}
			if steady := s.steady.Load(); steady == nil || steady.identity != now {
				s.steady.Store(&steadyStore{identity: now, since: s.cfg.Now()})
			}
			known, failed = now, false
			s.unhealed.Store(changed || len(todo) > 0)
			todo, err = s.healAll(ctx, todo)
			if changed && err == nil {
				err = s.healFromSpool(ctx)
			}
			changed = changed && err != nil
			s.unhealed.Store(changed || len(todo) > 0)
			switch {
			case err == nil:
				trouble = 0
			case ctx.Err() == nil && trouble%troubleEvery == 0:
				s.cfg.Log.WarnContext(ctx, "the store may have lost acknowledged writes, and does not let them be looked for; tried again until it does", "records", len(todo), "error", err)
				fallthrough
			default:
				trouble++
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *Store) identity(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
	defer cancel()
	return s.cfg.Backend.Identity(ctx)
}

// Changed says that the store may not be the one that it was: answers that are under way may be older than it, and what this
// process settled may be lost, until a Heal has succeeded.
func (s *Store) Changed() {
	s.unhealed.Store(true)
	s.trails.looks.Add(1)
}

// Heal compares all that this process remembers with the store, and what a process before it has left in the spool, and
// writes back what the store lost. Run does so by itself when the store's identity changes.
func (s *Store) Heal(ctx context.Context) error {
	if _, err := s.healAll(ctx, s.memory.newest()); err != nil {
		return err
	}
	err := s.healFromSpool(ctx)
	s.unhealed.Store(err != nil)
	return err
}

// healFromSpool is the part of ReplaySpool that brings back what was settled. It can't wait for the next one: once the pause
// after a failover is over, somebody uses the refresh token that the store went back to.
func (s *Store) healFromSpool(ctx context.Context) error {
	if s.spool == nil {
		return nil
	}
	_, settled, err := s.spool.waiting(ctx)
	if err != nil {
		return err
	}
	return s.replaySettled(ctx, settled)
}

// healAll looks after the records and returns those that it could not look after.
func (s *Store) healAll(ctx context.Context, ids []string) (left []string, err error) {
	for len(ids) > 0 {
		batch := ids[:min(healBatch, len(ids))]
		missed, batchErr := s.healBatch(ctx, batch)
		left, err = append(left, missed...), errors.Join(err, batchErr)
		ids = ids[len(batch):]
		if batchErr != nil {
			return append(left, ids...), err
		}
	}
	return left, err
}

func (s *Store) healBatch(ctx context.Context, ids []string) (left []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.RoundTrip)
	defer cancel()
	var all []*remembered
	var keys []string
	for _, id := range ids {
		if m := s.memory.get(id); m != nil {
			all, keys = append(all, m), append(keys, m.key())
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	found, err := s.hashes(ctx, keys...)
	if err != nil {
		return ids, err
	}
	places := make(chan struct{}, healsAtOnce)
	var group sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for i, m := range all {
		if m.find(found[i], s.cfg.Now()) == foundAsWritten {
			continue
		}
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			// As a reader does: whose tenant is erased, or what was only sealed anew, or is not this record at all, is not to be healed. Somebody
			// else may have been at it between: then it is looked at once more.
			again, err := s.healed(ctx, m.tenant, m.id, found[i])
			for attempt := 1; err == nil && again && attempt < healAttempts; attempt++ {
				var now []map[string][]byte
				if now, err = s.hashes(ctx, m.key()); err == nil {
					again, err = s.healed(ctx, m.tenant, m.id, now[0])
				}
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				left, errs = append(left, m.id), append(errs, fmt.Errorf("record %s: %w", m.id, err))
			}
		})
	}
	group.Wait()
	return left, errors.Join(errs...)
}
