package vault

import (
	"context"
	"errors"
)

// places is how far somebody who goes through the audit streams has come in each: as marks in the store, each beside its stream, and
// as this process knows them.
type places struct {
	key      func(shard byte, tenant string) string // of a mark
	identity string                                 // Backend.Identity; the store's marks are read anew when it changes
	streams  [shards]map[string]*followed           // by tenant; nil: not read yet
}

// followed is a stream of a shard that is this process's for the moment.
type followed struct {
	mark indexMark
	idle int  // in so many rounds nothing was found
	skip int  // so many rounds it is left out
	full bool // there was more than was asked for
}

// in tells it which history the store has now.
func (p *places) in(identity string) {
	if identity != p.identity {
		p.identity, p.streams = identity, [shards]map[string]*followed{}
	}
}

// due are the streams of these shards that are to be looked at in this round.
func (p *places) due(ctx context.Context, s *Store, mine []byte) ([]trailName, error) {
	keys := make([]string, len(mine))
	for i, shard := range mine {
		keys[i] = trailsKey(shard)
	}
	tenants, err := readPatiently(ctx, func(ctx context.Context) ([][]string, error) { return s.cfg.Backend.Members(ctx, keys) })
	if err != nil {
		return nil, err
	}
	var names, fresh []trailName
	var marks []string
	for i, shard := range mine {
		if p.streams[shard] == nil {
			p.streams[shard] = make(map[string]*followed)
		}
		for _, tenant := range tenants[i] {
			name := trailName{shard: shard, tenant: tenant}
			switch known := p.streams[shard][tenant]; {
			case known == nil:
				fresh, marks = append(fresh, name), append(marks, p.key(shard, tenant))
			case known.skip > 0:
				known.skip--
				continue
			}
			names = append(names, name)
		}
	}
	if len(fresh) == 0 {
		return names, nil
	}
	found, err := s.hashes(ctx, marks...)
	if err != nil {
		return nil, err
	}
	for i, name := range fresh {
		p.streams[name.shard][name.tenant] = &followed{mark: markOf(found[i], p.identity, s.cfg.Now())}
	}
	return names, nil
}

func (p *places) of(name trailName) *followed { return p.streams[name.shard][name.tenant] }

// advance moves the marks, unless somebody else did.
func (p *places) advance(ctx context.Context, s *Store, ends map[trailName]streamID) error {
	var names [shards][]trailName
	var moved []byte
	for name := range ends {
		if names[name.shard] == nil {
			moved = append(moved, name.shard)
		}
		names[name.shard] = append(names[name.shard], name)
	}
	results := make([][]Result, len(moved))
	now := s.cfg.Now()
	atOnce(len(moved), fewAtOnce, func(i int) error { // each result has its own error
		var steps []Step
		for _, name := range names[moved[i]] {
			key, was := p.key(name.shard, name.tenant), p.of(name).mark
			check := Check{Key: key, Field: markAt, Kind: CheckEqual, Value: was.raw}
			if was.raw == "" {
				check = Check{Key: key, Field: markAt, Kind: CheckAbsent}
			}
			steps = append(steps, Step{Checks: []Check{check}, Writes: []Write{{Kind: WriteHashSet, Key: key, Args: was.moved(ends[name], now).fields(p.identity)}}})
		}
		trip, cancel := context.WithTimeout(ctx, s.cfg.RoundTrip)
		defer cancel()
		results[i] = s.trails.apply(trip, steps)
		return nil
	})
	var errs []error
	for i, shard := range moved {
		for j, name := range names[shard] {
			r := results[i][j]
			if r.Err != nil {
				errs = append(errs, r.Err)
			}
			if r.Err != nil || r.Verdict != VerdictDone {
				delete(p.streams[shard], name.tenant) // it is read again
				continue
			}
			p.of(name).mark = p.of(name).mark.moved(ends[name], now)
		}
	}
	return errors.Join(errs...)
}
