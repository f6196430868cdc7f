package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// stage is all that one comparison needs: the broker and the reference, each on a Redis of its own, so that the processor time
// of each side is its own; both with the same users.
type stage struct {
	fsync          string
	brokerRedis    *redisServer
	referenceRedis *redisServer
	provider       *providerServer
	house          *house
	broker         *brokerServer
	reference      *referenceServer
	pipelined      *referenceServer // with --auto-pipeline: a second one; otherwise nil
	pipelinedRedis *redisServer
	users          int
	recordBytes    int // of one record in the broker's Redis, sealed parts and clear ones
	eventBytes     int // of one entry of the audit trail there; the reference's are as large
	referenceBytes int // of one record in the reference's Redis
}

// newStage starts everything and makes the connections of users 0 to users-1.
func (b *bench) newStage(ctx context.Context, fsync string, users int) (*stage, error) {
	s := &stage{fsync: fsync, users: users}
	var err error
	if s.provider, err = b.startProvider(ctx, time.Hour); err != nil {
		return nil, err
	}
	if s.brokerRedis, err = b.startRedis(ctx, fsync); err != nil {
		return nil, err
	}
	if s.referenceRedis, err = b.startRedis(ctx, fsync); err != nil {
		return nil, err
	}
	if s.house, err = b.newHouse(s.brokerRedis.url, s.provider, ""); err != nil {
		return nil, err
	}
	store, closeStore, err := openStore(s.house)
	if err != nil {
		return nil, err
	}
	err = establish(ctx, store, users)
	closeStore()
	if err != nil {
		return nil, fmt.Errorf("establish connections: %w", err)
	}
	if s.broker, err = b.startBroker(ctx, s.house); err != nil {
		return nil, err
	}
	if s.recordBytes, s.eventBytes, err = b.sizes(ctx, s); err != nil {
		return nil, err
	}
	if s.reference, err = b.startReference(ctx, s.referenceRedis, users, s.eventBytes, false); err != nil {
		return nil, err
	}
	if b.options.AutoPipeline {
		if s.pipelinedRedis, err = b.startRedis(ctx, fsync); err != nil {
			return nil, err
		}
		if s.pipelined, err = b.startReference(ctx, s.pipelinedRedis, users, s.eventBytes, true); err != nil {
			return nil, err
		}
	}
	s.referenceBytes, err = s.referenceRedis.medianBytes(ctx, "string", "record:*", "GET")
	return s, err
}

// end stops the stage's processes and removes the files of Redis.
func (s *stage) end() {
	if s.pipelined != nil {
		s.pipelined.stop()
		s.pipelinedRedis.empty()
	}
	s.reference.stop()
	s.broker.stop()
	s.provider.stop()
	s.brokerRedis.empty()
	s.referenceRedis.empty()
}

// sizes looks at what the broker keeps: a record, and an entry of the audit trail for one request. It asks for some tokens
// first.
func (b *bench) sizes(ctx context.Context, s *stage) (record, event int, err error) {
	result, err := b.load(ctx, loadPlan{
		Address: s.broker.address, Connections: 8, Each: 200, Span: 30 * time.Second, Key: benchKey, Tokens: &tokenRequests{Count: s.users, Check: true},
	})
	if err == nil && (result.Requests == 0 || result.Checked == 0) {
		err = errors.Join(result.trouble(), errors.New("no token was right"))
	}
	if err != nil {
		return 0, 0, s.broker.failure("asked for the first tokens", err)
	}
	if len(result.Errors) > 0 { // of a machine that does much else; the loads count theirs
		b.say("first tokens: FAILED: %v; the broker said last: %s", result.Errors, s.broker.complaint())
	}
	if record, err = s.brokerRedis.medianBytes(ctx, "hash", "tb:{*}:c:*", "HGETALL"); err != nil {
		return 0, 0, err
	}
	// The newest entry of each stream, less its id.
	event, err = s.brokerRedis.medianBytes(ctx, "stream", "*", "XREVRANGE", "+", "-", "COUNT", "1")
	return record, event - len("1700000000000-0"), err
}

// medianBytes is the median size of what a command answers for keys of a type, a hundred of them.
func (r *redisServer) medianBytes(ctx context.Context, kind, pattern, command string, more ...string) (int, error) {
	keys, err := r.keys(ctx, kind, pattern)
	if err != nil {
		return 0, err
	}
	if len(keys) == 0 {
		return 0, fmt.Errorf("the broker's redis has no %s like %s", kind, pattern)
	}
	var sizes []int
	for _, key := range keys[:min(len(keys), 100)] {
		reply, err := r.ask(ctx, append([]string{command, key}, more...)...)
		if err != nil {
			return 0, err
		}
		sizes = append(sizes, textBytes(reply))
	}
	slices.Sort(sizes)
	return sizes[len(sizes)/2], nil
}
