package main

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// town is a Redis with so many connections and events, and a broker on it. The scenarios that are about size share three of them:
// filling the large one takes minutes.
type town struct {
	connections, events int
	redis               *redisServer
	house               *house
	broker              *brokerServer
	filled              time.Duration // how long filling it took
	memory              redisMemory   // of Redis, once it was filled, before anything was asked
	kinds               []keyMemory   // by keyKinds
}

// kept is what does not end with a scenario. While it is open, what is started is kept.
type kept struct {
	open     bool
	children []*process
	towns    []*town
}

func (k *kept) end() {
	for _, p := range slices.Backward(k.children) {
		p.stop()
	}
	k.children, k.towns = nil, nil
}

// townSizes are the connections in the three. There are ten events for each.
func (b *bench) townSizes() [3]int {
	if b.options.Quick {
		return [3]int{1, 60, 600}
	}
	return [3]int{1, 10_000, 1_000_000}
}

const eventsEach = 10

// towns fills what is not filled yet. They end with the run.
func (b *bench) towns(ctx context.Context) ([]*town, error) {
	if len(b.kept.towns) > 0 {
		return b.kept.towns, nil
	}
	b.kept.open = true
	defer func() { b.kept.open = false }()
	provider, err := b.startProvider(ctx, time.Hour)
	if err != nil {
		return nil, err
	}
	for _, n := range b.townSizes() {
		t, err := b.fill(ctx, provider, n)
		if err != nil {
			return nil, fmt.Errorf("%d connections: %w", n, err)
		}
		b.kept.towns = append(b.kept.towns, t)
	}
	return b.kept.towns, nil
}

// fill makes a town. Redis begins to append to its file when it is filled, and has the settings of all measurements then.
func (b *bench) fill(ctx context.Context, provider *providerServer, connections int) (*town, error) {
	t := &town{connections: connections, events: connections * eventsEach}
	var err error
	if t.redis, err = b.startRedis(ctx, everySecond, "--appendonly", "no"); err != nil {
		return nil, err
	}
	if t.house, err = b.newHouse(t.redis.url, provider, ""); err != nil {
		return nil, err
	}
	keyset, err := t.house.keyset()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	spec := seedSpec{Redis: t.redis.url, Keyset: keyset, Connections: connections, Events: t.events, Now: began.UTC().Truncate(time.Millisecond), Log: b.say}
	if _, err := seed(ctx, spec); err != nil {
		return nil, err
	}
	t.filled = time.Since(began)
	if t.memory, err = memoryOf(ctx, t.redis.address); err != nil {
		return nil, err
	}
	if t.kinds, err = memoryByKind(ctx, t.redis.address); err != nil {
		return nil, err
	}
	if err := keepFile(ctx, t.redis.address, everySecond); err != nil {
		return nil, err
	}
	t.broker, err = b.startBroker(ctx, t.house)
	return t, err
}

// side is the town as one of those that are compared.
func (t *town) side() side {
	return side{name: thousands(int64(t.connections)) + " connections", address: t.broker.address, server: t.broker.process, redis: t.redis}
}
