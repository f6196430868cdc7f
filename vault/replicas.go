package vault

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// The stored form of what replicas say of themselves: for each a hash with a TTL, v format, a the store's time of the beat, b
// what it says, sealed, so that nobody who can write to the store can make one up; and an index of them by their own time. All
// in one shard: they are few. What a replica says that ended and left something in its spool is kept beside, in the same form and without a TTL.

const (
	replicaFormat = "1"
	replicaShard  = 0
	fieldBeat     = "a"
	// maxLeft bounds how many are read of those that left something.
	maxLeft = 1000
)

func replicaPlace(id string) []byte { return place("replica", "", id, fieldBody, replicaFormat) }
func leftPlace(id string) []byte    { return place("replica-left", "", id, fieldBody, replicaFormat) }

// Beat implements broker.Replicas.
func (s *Store) Beat(ctx context.Context, replica broker.Replica) error {
	text, err := json.Marshal(replica)
	if err != nil {
		return fmt.Errorf("write a heartbeat: %w", err)
	}
	sealed, err := s.seals.seal(text, replicaPlace(replica.ID))
	if err != nil {
		return err
	}
	now, key := s.cfg.Now(), replicaKey(replicaShard, replica.ID)
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if _, err := s.trails.direct(ctx, Step{Writes: []Write{
		{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, replicaFormat, fieldBody, sealed}},
		{Kind: WriteDeadline, Key: key, Args: []string{fieldBeat, "0"}},
		{Kind: WriteExpireIn, Key: key, Args: []string{strconv.FormatInt(broker.ReplicaKept.Milliseconds(), 10)}},
		{Kind: WriteSortedAdd, Key: replicasKey(replicaShard), Args: []string{strconv.FormatInt(now.UnixMilli(), 10), replica.ID}},
		{Kind: WriteSortedExpire, Key: replicasKey(replicaShard), Args: []string{"-inf", strconv.FormatInt(now.Add(-broker.ReplicaKept).UnixMilli(), 10)}},
		{Kind: WriteSortedTrim, Key: replicasKey(replicaShard), Args: []string{"0", strconv.Itoa(-broker.MaxReplicas - 1)}},
	}}); err != nil {
		return fmt.Errorf("write a heartbeat: %w", err)
	}
	return nil
}

// EndReplica implements broker.Replicas. What LeaveReplica kept goes too.
func (s *Store) EndReplica(ctx context.Context, id string) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if _, err := s.trails.direct(ctx, Step{Writes: []Write{
		{Kind: WriteDelete, Key: replicaKey(replicaShard, id)},
		{Kind: WriteSortedRemove, Key: replicasKey(replicaShard), Args: []string{id}},
		{Kind: WriteDelete, Key: leftKey(replicaShard, id)},
		{Kind: WriteSortedRemove, Key: leftsKey(replicaShard), Args: []string{id}},
	}}); err != nil {
		return fmt.Errorf("take back a heartbeat: %w", err)
	}
	return nil
}

// LeaveReplica keeps for good what the replica says last, in the place of its heartbeat: it has ended in order and left something in its
// spool, by OldSeals sealed with which keys. EndReplica, of whoever has that spool next, takes it back.
func (s *Store) LeaveReplica(ctx context.Context, replica broker.Replica) error {
	text, err := json.Marshal(replica)
	if err != nil {
		return fmt.Errorf("write what a replica left: %w", err)
	}
	sealed, err := s.seals.seal(text, leftPlace(replica.ID))
	if err != nil {
		return err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	key := leftKey(replicaShard, replica.ID)
	if _, err := s.trails.direct(ctx, Step{Writes: []Write{
		{Kind: WriteHashSet, Key: key, Args: []string{fieldFormat, replicaFormat, fieldBody, sealed}},
		{Kind: WriteDeadline, Key: key, Args: []string{fieldBeat, "0"}},
		{Kind: WriteSortedAdd, Key: leftsKey(replicaShard), Args: []string{strconv.FormatInt(s.cfg.Now().UnixMilli(), 10), replica.ID}},
		{Kind: WriteDelete, Key: replicaKey(replicaShard, replica.ID)},
		{Kind: WriteSortedRemove, Key: replicasKey(replicaShard), Args: []string{replica.ID}},
	}}); err != nil {
		return fmt.Errorf("write what a replica left: %w", err)
	}
	return nil
}

// LeftReplicas returns the last words of those that LeaveReplica was called for, at most maxLeft; Beat is when they ended.
func (s *Store) LeftReplicas(ctx context.Context) ([]broker.Replica, error) {
	all, _, err := s.readReplicas(ctx, leftsKey(replicaShard), func(id string) string { return leftKey(replicaShard, id) }, leftPlace, maxLeft)
	return all, err
}

// AllReplicas implements broker.Replicas.
func (s *Store) AllReplicas(ctx context.Context) ([]broker.Replica, time.Time, error) {
	return s.readReplicas(ctx, replicasKey(replicaShard), func(id string) string { return replicaKey(replicaShard, id) }, replicaPlace, broker.MaxReplicas)
}

// readReplicas reads the records of an index, and tells the store's time.
func (s *Store) readReplicas(ctx context.Context, index string, keyOf func(id string) string, placeOf func(id string) []byte, limit int) ([]broker.Replica, time.Time, error) {
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]Scored, error) {
		return s.cfg.Backend.Scored(ctx, []ScoreQuery{{Key: index, Max: math.MaxInt64, Limit: limit}})
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read heartbeats: %w", err)
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	step := Step{}
	for _, one := range found[0] {
		step.Reads = append(step.Reads, Read{Key: keyOf(one.Member)})
	}
	r, err := s.trails.direct(ctx, step) // a step, for it tells the store's time
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("read heartbeats: %w", err)
	}
	var all []broker.Replica
	for i, one := range found[0] {
		record := r.Reads[i]
		if len(record) == 0 {
			continue // it ended meanwhile
		}
		all = append(all, s.readReplica(one.Member, placeOf(one.Member), record))
	}
	slices.SortFunc(all, func(a, b broker.Replica) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID))
	})
	return all, r.Now, nil
}

// readReplica reads what a replica says of itself, sealed for that place; what does not open, or is another's, says nothing but that it is there.
func (s *Store) readReplica(id string, place []byte, record map[string][]byte) broker.Replica {
	replica := broker.Replica{}
	text, err := s.seals.open(record[fieldBody], place)
	if err == nil {
		err = json.Unmarshal(text, &replica)
	}
	if err != nil || string(record[fieldFormat]) != replicaFormat || replica.ID != id {
		replica = broker.Replica{ID: id, Unreadable: true}
	}
	if at, err := strconv.ParseInt(string(record[fieldBeat]), 10, 64); err == nil {
		replica.Beat = time.UnixMilli(at).UTC()
	}
	return replica
}
