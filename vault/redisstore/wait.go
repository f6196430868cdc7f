package redisstore

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxWait is below what a round trip of the vault may take.
const maxWait = 500 * time.Millisecond

// waiter is what a step's confirmation takes.
type waiter struct {
	replicas int
	timeout  time.Duration
	disk     bool
}

// runConfirmed runs the calls and waits for replicas, on one connection: WAIT speaks of what was written on its own.
func (s *Store) runConfirmed(ctx context.Context, calls []call) (results []any, errs []error, confirmed bool) {
	failed := func(err error) ([]any, []error, bool) {
		errs := make([]error, len(calls))
		for i := range errs {
			errs[i] = clean(err)
		}
		return make([]any, len(calls)), errs, false
	}
	// All keys of one call share a slot. A cluster client would send WAIT, which has no key, to any node.
	var node *redis.Client
	switch client := s.client.(type) {
	case *redis.ClusterClient:
		var err error
		if node, err = client.MasterForKey(ctx, firstKey(calls)); err != nil {
			return failed(err)
		}
	case *redis.Client:
		node = client
	default:
		return failed(errors.New("a client of a kind that has no connections of its own"))
	}
	conn := node.Conn()
	defer func() { _ = conn.Close() }()
	results, errs = run(ctx, alone(conn), calls)
	for _, err := range errs {
		if err == nil {
			continue
		}
		if cluster, ok := s.client.(*redis.ClusterClient); ok {
			cluster.ReloadState(ctx) // the slot may have moved: a connection follows no redirection
		}
		return results, errs, false
	}
	reached, err := s.await(ctx, conn)
	return results, errs, err == nil && reached
}

// await asks for WAITAOF, or for WAIT where there is no such thing.
func (s *Store) await(ctx context.Context, conn *redis.Conn) (bool, error) {
	if s.wait.disk {
		counts, err := conn.WaitAOF(ctx, 1, s.wait.replicas, s.wait.timeout).Result()
		switch {
		case err == nil && len(counts) == 2:
			return counts[0] >= 1 && counts[1] >= int64(s.wait.replicas), nil
		case err == nil:
			return false, errAnswer
		case !redis.HasErrorPrefix(err, "unknown command"): // for which the protocol has no code of its own
			return false, clean(err)
		}
	}
	n, err := conn.Wait(ctx, s.wait.replicas, s.wait.timeout).Result()
	if err != nil {
		return false, clean(err)
	}
	return n >= int64(s.wait.replicas), nil
}
