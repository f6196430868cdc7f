package vaulttest

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// testPlaces is threat 68 at the store: lists have so many places and no more, whoever asks at the same time; who finds one of them
// full takes none; places end by themselves, and so do lists.
func testPlaces(r *rig) {
	// Clocks of replicas are minutes apart: the store's counts.
	clocked := func(off time.Duration) func(*vault.Config, *redisstore.Config) {
		return func(v *vault.Config, _ *redisstore.Config) { v.Now = func() time.Time { return time.Now().Add(off) } }
	}
	stores := []*vault.Store{r.store(clocked(2 * time.Minute)), r.store(clocked(-2 * time.Minute))}
	const most = 10
	wide := broker.PlaceList{Name: []string{"wide", tenant(r)}, Most: 3 * most}
	narrow := broker.PlaceList{Name: []string{"narrow", tenant(r), "someone"}, Most: most}
	life := time.Minute
	take := func(id string, lists ...broker.PlaceList) int {
		full, err := stores[len(id)%2].TakePlaces(r.ctx(), id, life, lists)
		if err != nil {
			r.Errorf("take: %v", err)
		}
		return full
	}
	var group sync.WaitGroup
	var taken atomic.Int64
	for i := range 3 * most {
		group.Go(func() {
			switch take(fmt.Sprint("place ", i), wide, narrow) {
			case -1:
				taken.Add(1)
			case 1:
			default:
				r.Error("the wrong list is full")
			}
		})
	}
	group.Wait()
	if taken.Load() != most {
		r.Errorf("%d of %d places taken", taken.Load(), most)
	}
	// Those that were refused took nothing of the other list either.
	for i := range 2 * most {
		if full := take(fmt.Sprint("another ", i), wide); full != -1 {
			r.Fatalf("the wide list is full after %d", most+i)
		}
	}
	if full := take("one more", wide, narrow); full != 0 {
		r.Errorf("full: %d", full)
	}
	// One that is given back is there for somebody else; twice changes nothing.
	for range 2 {
		if err := stores[0].LeavePlaces(r.ctx(), "another 3", []broker.PlaceList{wide}); err != nil {
			r.Errorf("leave: %v", err)
		}
	}
	if first, second := take("one more", wide), take("two more", wide); first != -1 || second != 0 {
		r.Errorf("after one left: %d, %d", first, second)
	}
	keys := r.keys("tb:{*}:lp:*")
	if len(keys) < 2 {
		r.Fatalf("keys %v", keys)
	}
	for _, key := range keys {
		if ttl := r.raw("PTTL", key); strings.HasPrefix(ttl, "-") || strings.Contains(key, tenant(r)) || strings.Contains(key, "someone") {
			r.Errorf("%s ends in %s ms", key, ttl)
		}
	}
	// Of places that end, whoever took them, each replica has as many more when their time is over, and not before.
	for i, other := range stores {
		brief := broker.PlaceList{Name: []string{"brief", tenant(r), fmt.Sprint(i)}, Most: most}
		took := time.Now()
		life = 700 * time.Millisecond
		for n := range most {
			if full, err := stores[1-i].TakePlaces(r.ctx(), fmt.Sprint("brief ", n), life, []broker.PlaceList{brief}); full != -1 || err != nil {
				r.Fatalf("place %d: %d, %v", n, full, err)
			}
		}
		r.within(20*time.Second, "the end of places that another replica took", func() bool {
			full, err := other.TakePlaces(r.ctx(), "later", time.Minute, []broker.PlaceList{brief})
			if err != nil {
				r.Error(err)
			}
			return full == -1
		})
		if passed := time.Since(took); passed < life-10*time.Millisecond { // the store counts whole milliseconds
			r.Errorf("places that last %v ended after %v, by the clock of another replica", life, passed)
		}
	}
}

// testUses adds up what replicas let through, by one trip to each server.
func testUses(r *rig) {
	a, b := r.store(), r.store()
	uses := func(n int64) []broker.Uses {
		var all []broker.Uses
		for i := range 40 {
			all = append(all, broker.Uses{Name: []string{"subject", tenant(r), fmt.Sprint("someone ", i)}, N: n + int64(i)})
		}
		return all
	}
	for round, s := range []*vault.Store{a, b, a} {
		shared := s.ShareUses(r.ctx(), uses(2))
		if len(shared) != 40 {
			r.Fatalf("share: %v", shared)
		}
		for i, one := range shared {
			if want := int64(round+1) * (2 + int64(i)); one != (broker.SharedUses{Total: want}) {
				r.Errorf("round %d: count %d is %+v, not %d", round, i, one, want)
			}
		}
	}
	keys := r.keys("tb:{*}:lu:*")
	if len(keys) < 40 {
		r.Errorf("%d keys", len(keys))
	}
	for _, key := range keys {
		if ttl := r.raw("PTTL", key); strings.HasPrefix(ttl, "-") || strings.Contains(key, "someone") {
			r.Errorf("%s ends in %s ms", key, ttl)
		}
	}
}
