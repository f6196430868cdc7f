package simulationtest

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// editing is a backend that changes steps on their way.
type editing struct {
	vault.Backend
	edit func(*vault.Step)
}

// Apply implements vault.Backend.
func (e editing) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	edited := make([]vault.Step, len(steps))
	for i, step := range steps {
		step.Checks, step.Writes = slices.Clone(step.Checks), slices.Clone(step.Writes)
		e.edit(&step)
		edited[i] = step
	}
	return e.Backend.Apply(ctx, edited)
}

func edited(edit func(*vault.Step)) Plant {
	return Plant{Backend: func(b vault.Backend) vault.Backend { return editing{b, edit} }}
}

// writes tells whether the step sets the field of a connection, to that value if one is given.
func writes(step *vault.Step, field string, value ...string) bool {
	return slices.ContainsFunc(step.Writes, func(w vault.Write) bool {
		kind, _ := keyParts(w.Key)
		text, ok := argument(w.Args, field)
		return kind == "c" && w.Kind == vault.WriteHashSet && ok && (len(value) == 0 || text == value[0])
	})
}

// unchecked drops checks of these fields. CheckApplied stays: it recognises a step that was carried out before.
func unchecked(step *vault.Step, fields ...string) {
	for i, c := range step.Checks {
		if c.Kind != vault.CheckApplied && slices.Contains(fields, c.Field) {
			// Its place stays, for the vault goes by the number of a refused check.
			step.Checks[i] = vault.Check{Key: c.Key, Field: "never there", Kind: vault.CheckAbsent}
		}
	}
}

// refreshes are those of a process with something else in the place of a part of it.
type refreshes struct {
	broker.Refreshes
	begin      func(ctx context.Context, inner broker.Refreshes, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error)
	alternates func(ctx context.Context, inner broker.Refreshes, lease broker.Lease, conn broker.Connection) ([]broker.Secret, error)
	unlocks    bool // whatever became of a refresh, its lease is given back
}

// CommitRefresh is part of broker.Refreshes.
func (r refreshes) CommitRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, key string, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	next, err := r.Refreshes.CommitRefresh(ctx, lease, conn, key, grant, entries)
	if r.unlocks {
		_ = r.EndRefresh(ctx, lease)
	}
	return next, err
}

// FailRefresh is part of broker.Refreshes.
func (r refreshes) FailRefresh(ctx context.Context, lease broker.Lease, conn broker.Connection, entries []broker.Entry) (broker.Connection, error) {
	next, err := r.Refreshes.FailRefresh(ctx, lease, conn, entries)
	if r.unlocks {
		_ = r.EndRefresh(ctx, lease)
	}
	return next, err
}

// BeginRefresh is part of broker.Refreshes.
func (r refreshes) BeginRefresh(ctx context.Context, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error) {
	if r.begin == nil {
		return r.Refreshes.BeginRefresh(ctx, conn, owner, lease)
	}
	return r.begin(ctx, r.Refreshes, conn, owner, lease)
}

// Alternates is part of broker.Refreshes.
func (r refreshes) Alternates(ctx context.Context, lease broker.Lease, conn broker.Connection) ([]broker.Secret, error) {
	if r.alternates == nil {
		return r.Refreshes.Alternates(ctx, lease, conn)
	}
	return r.alternates(ctx, r.Refreshes, lease, conn)
}

// forgetful is a disk that says it has kept what it has not, or loses it at once.
type forgetful struct {
	vault.SpoolFiles
	loses bool
}

// Write implements vault.SpoolFiles.
func (f forgetful) Write(ctx context.Context, name string, content []byte) error {
	if !strings.HasSuffix(name, ".spool") {
		return f.SpoolFiles.Write(ctx, name, content)
	}
	if !f.loses {
		return nil
	}
	if err := f.SpoolFiles.Write(ctx, name, content); err != nil {
		return err
	}
	return f.Remove(ctx, name)
}

// share makes it a plan of connections that hold one grant.
func share(p *Plan) { *p = p.Share() }

// ofShared tells whether the step sets the field of a shared grant.
func ofShared(step *vault.Step, field string) bool {
	return slices.ContainsFunc(step.Writes, func(w vault.Write) bool {
		kind, _ := keyParts(w.Key)
		_, ok := argument(w.Args, field)
		return kind == "g" && w.Kind == vault.WriteHashSet && ok
	})
}

// lonely is a store in which nobody sees who else holds a grant.
type lonely struct{ vault.Backend }

// Hashes is part of vault.Backend.
func (l lonely) Hashes(ctx context.Context, keys []string) ([]map[string][]byte, error) {
	found, err := l.Backend.Hashes(ctx, keys)
	for _, record := range found {
		maps.DeleteFunc(record, func(field string, _ []byte) bool { return strings.HasPrefix(field, "m:") })
	}
	return found, err
}

// TestFindsPlantedBugs: each of these is found within so many schedules.
func TestFindsPlantedBugs(t *testing.T) {
	within := number(t, "SIMULATION_PLANTED", 20_000)
	tests := []struct {
		name  string
		plant Plant
		// tune, for what takes several things to go wrong at once, makes those more likely.
		tune func(*Plan)
	}{
		{name: "a lease shorter than the call", plant: Plant{Refreshes: func(inner broker.Refreshes) broker.Refreshes {
			return refreshes{Refreshes: inner, begin: func(ctx context.Context, inner broker.Refreshes, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error) {
				const short = 2 * time.Second
				got, token, err := inner.BeginRefresh(ctx, conn, owner, short)
				got.Until = got.Until.Add(lease - short)
				return got, token, err
			}}
		}}},
		{name: "no look at the time before the call", plant: Plant{Refreshes: func(inner broker.Refreshes) broker.Refreshes {
			return refreshes{Refreshes: inner, begin: func(ctx context.Context, inner broker.Refreshes, conn broker.Connection, owner string, lease time.Duration) (broker.Lease, broker.Secret, error) {
				got, token, err := inner.BeginRefresh(ctx, conn, owner, lease)
				got.Until = got.Until.Add(time.Hour)
				return got, token, err
			}}
		}}, tune: func(p *Plan) { p.Replicas, p.Conns, p.Stops, p.Hurry, p.Kills = 2, 1, 2, 80, 0 }},
		{name: "a lease that binds nobody", plant: edited(func(step *vault.Step) {
			if writes(step, "own") {
				unchecked(step, "dl")
			}
		})},
		{name: "an unlock of whoever has the lease", plant: Plant{
			Backend: func(b vault.Backend) vault.Backend {
				return editing{b, func(step *vault.Step) {
					if len(step.Writes) == 1 && step.Writes[0].Kind == vault.WriteHashDelete && slices.Contains(step.Writes[0].Args, "own") {
						unchecked(step, "own")
					}
				}}
			},
			Refreshes: func(inner broker.Refreshes) broker.Refreshes { return refreshes{Refreshes: inner, unlocks: true} },
		}},
		{name: "a delete on invalid_grant", plant: edited(func(step *vault.Step) {
			if writes(step, "s", string(broker.ConnectionNeedsConsent)) {
				unchecked(step, "gen", "fen", "own", "n")
				for _, c := range step.Checks {
					if kind, _ := keyParts(c.Key); kind == "c" {
						step.Writes = append(step.Writes, vault.Write{Kind: vault.WriteHashDelete, Key: c.Key, Args: []string{"rt"}})
						break
					}
				}
			}
		})},
		{name: "a commit without a compare", plant: edited(func(step *vault.Step) {
			if writes(step, "rt") {
				unchecked(step, "gen", "fen")
			}
		})},
		{name: "alternates that nobody tries", plant: Plant{Refreshes: func(inner broker.Refreshes) broker.Refreshes {
			return refreshes{Refreshes: inner, alternates: func(ctx context.Context, inner broker.Refreshes, lease broker.Lease, conn broker.Connection) ([]broker.Secret, error) {
				_, err := inner.Alternates(ctx, lease, conn)
				return nil, err
			}}
		}}},
		{name: "alternates that come while the grant is called dead", plant: edited(func(step *vault.Step) { unchecked(step, "n") }),
			tune: func(p *Plan) { p.Rotation, p.Family, p.Conns, p.Stops, p.Delays = rotationStrict, false, 1, 2, 200 }},
		{name: "a token without its event", plant: edited(func(step *vault.Step) {
			if step.Trail != nil && slices.ContainsFunc(step.Trail.Entries, func(e vault.TrailEntry) bool { return strings.Contains(e.Meta, string(broker.EventTokenIssued)) }) {
				step.Trail = nil
			}
		})},
		{name: "a token of a record that moved on", plant: edited(func(step *vault.Step) {
			if step.Trail != nil && slices.ContainsFunc(step.Trail.Entries, func(e vault.TrailEntry) bool { return strings.Contains(e.Meta, string(broker.EventTokenIssued)) }) {
				unchecked(step, "gen", "s", "at:")
			}
		})},
		{name: "a revocation that a late commit undoes", plant: edited(func(step *vault.Step) {
			if writes(step, "rt") || writes(step, "s", string(broker.ConnectionActive)) {
				unchecked(step, "s", "gen", "fen")
			}
		})},
		{name: "a disk that keeps nothing", plant: Plant{Spool: func(f vault.SpoolFiles) vault.SpoolFiles { return forgetful{SpoolFiles: f} }}},
		{name: "a lease on a shared grant that binds nobody", tune: share, plant: edited(func(step *vault.Step) {
			if ofShared(step, "own") {
				unchecked(step, "dl")
			}
		})},
		{name: "a shared grant that its holders keep for themselves", tune: share, plant: edited(func(step *vault.Step) {
			if ofShared(step, "g") {
				step.Writes = slices.DeleteFunc(step.Writes, func(w vault.Write) bool { _, ok := argument(w.Args, "g"); return ok })
			}
		})},
		{name: "a holder who ends the grant of all", tune: share, plant: Plant{Backend: func(b vault.Backend) vault.Backend { return lonely{b} }}},
		{name: "a spool that is emptied too soon", plant: Plant{Spool: func(f vault.SpoolFiles) vault.SpoolFiles { return forgetful{SpoolFiles: f, loses: true} }}},
	}
	quick(t)
	s := New(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for seed := uint64(1); seed <= within; seed++ {
				plan := Draw(seed, false)
				if test.tune != nil {
					test.tune(&plan)
				}
				r := s.Run(t, plan, test.plant, false)
				if len(r.Wrong) > 0 {
					t.Logf("found by seed %d: %s", seed, r.Wrong[0])
					return
				}
			}
			t.Errorf("not found within %d schedules", within)
		})
	}
}
