package broker

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// glanceKey is what makes two looks at the overview see the same.
type glanceKey struct {
	tenant   string
	span     Span
	accounts bool // the operator may see accounts there
}

// glance is what was read for an overview. It serves all who look at the same within vitalsAge, so that pages that stay open cost the
// store the same, however many they are. It is not changed any more.
type glance struct {
	at      time.Time
	buckets []BucketCounts // of the span
	minutes []BucketCounts // the last ones, for what needs attention
	newest  []Connection
	ending  []Connection // the first that ends, if one does within a day
	ends    int          // how many do
	missing []string
}

// glances keeps the last ones.
type glances struct {
	looks singleflight.Group
	mu    sync.Mutex
	all   map[glanceKey]glance
}

// maxGlances bounds them: so many tenants and spans are not looked at within seconds.
const maxGlances = 256

func (g *glances) kept(key glanceKey, now time.Time) (glance, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	last, ok := g.all[key]
	age := now.Sub(last.at)
	return last, ok && age >= 0 && age < vitalsAge
}

func (g *glances) keep(key glanceKey, one glance) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil || len(g.all) >= maxGlances {
		g.all = map[glanceKey]glance{}
	}
	g.all[key] = one
}

// glanceAt returns what is at most vitalsAge old. All who ask for the same at the same time share one look.
func (s *Service) glanceAt(ctx context.Context, key glanceKey) (glance, error) {
	if one, ok := s.glances.kept(key, s.cfg.Now()); ok {
		return one, nil
	}
	fresh := s.glances.looks.DoChan(fmt.Sprintf("%q %s %v", key.tenant, key.span, key.accounts), func() (any, error) {
		if !s.enter() {
			return nil, nil // the process ends
		}
		defer s.leave()
		// For all who wait, so not by the context of one of them.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*s.cfg.StoreTimeout)
		defer cancel()
		one := s.look(ctx, key)
		s.glances.keep(key, one)
		return one, nil
	})
	select {
	case r := <-fresh:
		one, _ := r.Val.(glance)
		return one, nil
	case <-ctx.Done():
		return glance{}, unavailable(time.Second, ctx.Err())
	}
}

// look reads all parts at the same time. What can't be read is named in missing.
func (s *Service) look(ctx context.Context, key glanceKey) glance {
	now := s.cfg.Now().UTC()
	one := glance{at: now}
	var mu sync.Mutex
	var parts sync.WaitGroup
	read := func(what string, do func() error) {
		parts.Go(func() {
			if err := do(); err != nil {
				s.cfg.Log.WarnContext(ctx, "a part of the overview could not be read", "part", what, "error", err)
				mu.Lock()
				defer mu.Unlock()
				one.missing = append(one.missing, what)
			}
		})
	}
	if s.cfg.Counters != nil {
		grain, n, _ := key.span.buckets()
		read("the counts", func() (err error) {
			one.buckets, err = s.cfg.Counters.Counts(ctx, key.tenant, grain, grain.Bucket(now).Add(-time.Duration(n-1)*grain.Length()), now.Add(time.Millisecond))
			return err
		})
		read("the last minutes", func() (err error) {
			one.minutes, err = s.cfg.Counters.Counts(ctx, key.tenant, GrainMinute, GrainMinute.Bucket(now).Add(time.Minute-lookBack), now.Add(time.Millisecond))
			return err
		})
	}
	if key.accounts {
		mine := func(tenant string) bool { return key.tenant == Everywhere || tenant == key.tenant }
		read("the newest accounts", func() error {
			newest, _, err := s.cfg.Index.NewestOf(ctx, func(c ConnectionClass) bool { return mine(c.Tenant) }, time.Time{}, time.Time{}, "", newestShown)
			for _, c := range newest {
				one.newest = append(one.newest, c.Effective(now))
			}
			return err
		})
		read("which grants end", func() (err error) {
			one.ending, one.ends, err = s.cfg.Index.Ending(ctx, mine, now.Add(endingWithin), 1)
			return err
		})
	}
	parts.Wait()
	slices.Sort(one.missing)
	return one
}
