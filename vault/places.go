package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

// The stored form of limits that replicas share. Nothing in them is secret, and names (subjects and addresses among them) are keyed
// hashes, which also say in which shard a limit lies.
//
//	places   a sorted set with a TTL: what has a place, by the time in ms, by the store's clock, at which it ends by itself
//	uses     a hash with a TTL: n the number of uses
const (
	fieldUses = "n"
	// usesKept is how long a count is kept that nobody adds to, placesKept how long a list is kept behind its last place.
	usesKept   = 2 * time.Minute
	placesKept = time.Minute
	// sharedAtOnce bounds the round trips that are under way for one round of limits: each shard is one.
	sharedAtOnce = 16
)

func (s *Store) limitHash(kind string, name []string) []byte {
	return s.seals.hash(18, kind, name...)
}

// TakePlaces implements broker.Places. Lists are independent of one another, and lie in shards of their own: each is one step, all at
// the same time. A crash in between leaves places that end by themselves.
func (s *Store) TakePlaces(ctx context.Context, id string, life time.Duration, lists []broker.PlaceList) (int, error) {
	results, err := s.placeSteps(ctx, lists, func(key string, most int) Step {
		return Step{
			Checks: []Check{{Key: key, Kind: CheckFewer, Value: strconv.Itoa(most)}},
			Writes: []Write{
				{Kind: WritePlace, Key: key, Args: []string{strconv.FormatInt(max(1, life.Milliseconds()), 10), id}},
				// Ends of places differ by less than what one lives.
				{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt((broker.LinkLife + placesKept).Milliseconds(), 10)}},
			},
		}
	})
	if err != nil {
		return -1, fmt.Errorf("take places: %w", err)
	}
	full := -1
	var taken []broker.PlaceList
	for i, r := range results {
		switch {
		case r.Verdict != VerdictRefused:
			taken = append(taken, lists[i])
		case full < 0:
			full = i
		}
	}
	if full >= 0 && len(taken) > 0 {
		if err := s.LeavePlaces(ctx, id, taken); err != nil {
			return -1, err
		}
	}
	return full, nil
}

// LeavePlaces implements broker.Places.
func (s *Store) LeavePlaces(ctx context.Context, id string, lists []broker.PlaceList) error {
	if _, err := s.placeSteps(ctx, lists, func(key string, _ int) Step {
		return Step{Writes: []Write{{Kind: WriteSortedRemove, Key: key, Args: []string{id}}}}
	}); err != nil {
		return fmt.Errorf("leave places: %w", err)
	}
	return nil
}

func (s *Store) placeSteps(ctx context.Context, lists []broker.PlaceList, step func(key string, most int) Step) ([]Result, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	results, errs := make([]Result, len(lists)), make([]error, len(lists))
	var group sync.WaitGroup
	for i, list := range lists {
		group.Go(func() {
			results[i], errs[i] = s.trails.direct(ctx, step(placesKey(s.limitHash("places", list.Name)), list.Most))
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return results, nil
}

// ShareUses implements broker.SharedRates. It does not repeat anything: what was added twice would be missing to somebody.
func (s *Store) ShareUses(ctx context.Context, uses []broker.Uses) []broker.SharedUses {
	byShard := map[byte][]int{}
	steps := make([]Step, len(uses))
	for i, one := range uses {
		hash := s.limitHash("uses", one.Name)
		key := usesKey(hash)
		steps[i] = Step{
			Writes: []Write{
				{Kind: WriteHashIncrement, Key: key, Args: []string{fieldUses, strconv.FormatInt(one.N, 10)}},
				{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(usesKept.Milliseconds(), 10)}},
			},
			Reads: []Read{{Key: key, Fields: []string{fieldUses}}},
		}
		byShard[hash[0]] = append(byShard[hash[0]], i)
	}
	shared := make([]broker.SharedUses, len(uses))
	var group sync.WaitGroup
	seats := make(chan struct{}, sharedAtOnce)
	for _, of := range byShard {
		seats <- struct{}{}
		group.Go(func() {
			defer func() { <-seats }()
			some := make([]Step, len(of))
			for n, i := range of {
				some[n] = steps[i]
			}
			trip, cancel := context.WithTimeout(ctx, s.trails.ioTime)
			defer cancel()
			for n, r := range s.trails.apply(trip, some) {
				shared[of[n]] = usesShared(r)
			}
		})
	}
	group.Wait()
	return shared
}

func usesShared(r Result) broker.SharedUses {
	if r.Err == nil {
		total, err := strconv.ParseInt(string(r.Reads[0][fieldUses]), 10, 64)
		if err == nil {
			return broker.SharedUses{Total: total}
		}
		r.Err = err
	}
	// Where there was no connection, nothing was sent.
	var network *net.OpError
	unsent := errors.As(r.Err, &network) && network.Op == "dial"
	return broker.SharedUses{Err: fmt.Errorf("share uses: %w", r.Err), Unsent: unsent}
}
