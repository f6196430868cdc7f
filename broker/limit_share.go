package broker

import (
	"context"
	"time"
)

// SharedRates adds up what all replicas use of limits. It is for the background alone: no request waits for it.
type SharedRates interface {
	// ShareUses adds to each count and tells what became of each, in the same order: counts lie on several servers. A count that nobody
	// adds to is forgotten after some minutes, and begins at 0 again. The names are kept from whoever reads the store.
	ShareUses(ctx context.Context, uses []Uses) []SharedUses
}

// SharedUses is what became of one limit's uses.
type SharedUses struct {
	Total int64 // the count then
	Err   error
	// Unsent, with Err: they were certainly not added. Otherwise nobody knows.
	Unsent bool
}

// Uses are those of one limit, since this process shared them last.
type Uses struct {
	Name []string
	N    int64
}

const (
	// shareEvery is how often replicas tell one another what they let through.
	shareEvery = 500 * time.Millisecond
	// shareMost bounds how many limits of one kind are shared in a round. What does not fit has its turn in another one.
	shareMost = 256
)

// shareUses tells the replicas what this one let through, and takes from its buckets what they did. Without the store each process goes
// by its own buckets, which is what it does between two rounds as well.
func (s *Service) shareUses(ctx context.Context) error {
	if s.cfg.SharedRates == nil {
		return nil
	}
	var failed error
	for _, kind := range s.limiter.kinds {
		told := kind.toShare(s.cfg.Now())
		if len(told) == 0 {
			continue
		}
		uses := make([]Uses, len(told))
		for i, one := range told {
			uses[i] = Uses{Name: []string{string(one.key.kind), one.key.tenant, one.key.name}, N: one.n}
		}
		shareCtx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
		results := s.cfg.SharedRates.ShareUses(shareCtx, uses)
		cancel()
		if err := kind.shared(told, results, s.cfg.Now()); err != nil {
			failed = err
		}
	}
	return failed
}

// toldUses are uses on their way to the others.
type toldUses struct {
	key limitKey
	b   *bucket
	n   int64
}

// toShare takes the uses of buckets near their end. One that is far from it again, and was not used, is shared no more.
func (s *buckets) toShare(now time.Time) []toldUses {
	s.mu.Lock()
	defer s.mu.Unlock()
	var told []toldUses
	for key, b := range s.hot {
		b.refill(now)
		if b.used == 0 && !b.isNearEnd() {
			delete(s.hot, key)
			continue
		}
		if len(told) == shareMost {
			break // maps begin anywhere, so nobody is always the last
		}
		told = append(told, toldUses{key: key, b: b, n: b.used})
		b.used = 0
	}
	return told
}

// shared takes from the buckets what others used meanwhile; the error is one of those that were not shared.
func (s *buckets) shared(told []toldUses, results []SharedUses, now time.Time) (failed error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, one := range told {
		b, result := one.b, results[i]
		if result.Err != nil {
			failed = result.Err
			b.notShared(one.n, result.Unsent)
			continue
		}
		others := result.Total - one.n - b.told
		switch {
		case b.told < 0:
			others = 0 // what they did before is of another time
		case result.Total < b.told+one.n:
			// The count began anew, or a failover set it back: then it is of any size, and says nothing of what others did just now.
			others = 0
		}
		others = max(0, others-b.unsure)
		b.told, b.unsure = result.Total, 0
		b.refill(now)
		b.tokens = max(b.tokens-float64(others), min(b.tokens, -float64(b.limit.Burst)))
	}
	return failed
}

// notShared keeps uses that nobody heard of, as many as a bucket holds: what happened long ago is of no use to others. Those that may
// have been added all the same are not told again, which would count them twice, and are not taken for others' later.
func (b *bucket) notShared(n int64, unsent bool) {
	if unsent {
		b.used = min(b.used+n, int64(b.limit.Burst))
		return
	}
	b.unsure += n
}

// followLimits shares uses until ctx ends. Nothing else is done here: whatever waits for the store longer than a round must not keep
// replicas from hearing of one another.
func (s *Service) followLimits(ctx context.Context) {
	ticker := time.NewTicker(shareEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := s.shareUses(ctx); err != nil && !failing && ctx.Err() == nil {
			failing = true
			s.cfg.Log.WarnContext(ctx, "limits can't be shared with other replicas; until they can, each goes by what it lets through itself", "error", err)
		} else if err == nil {
			failing = false
		}
	}
}

// everyRound does something, round for round, until ctx ends. A round that takes long has the next one begin late, and none pile up.
func everyRound(ctx context.Context, do func(context.Context)) {
	ticker := time.NewTicker(shareEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		do(ctx)
	}
}
