package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// seedSpec says what a Redis is filled with.
type seedSpec struct {
	Redis       string        // redis://HOST:PORT/0, or redis-cluster://
	Keyset      *vault.Keyset // the broker's
	Connections int           // of users 0 and on
	Events      int           // at least six for each connection: how it came to be, and one token
	Now         time.Time
	Log         func(format string, args ...any) // progress; may be nil
}

// seedSpan is over what time the events are spread, until now.
const seedSpan = 30 * 24 * time.Hour

// seedGarbage is how much garbage there may be while a store is filled, in percent of what is in use.
const seedGarbage = 400

// seedAppend is how many entries are appended in one step.
const seedAppend = 64

// population is who is in a filled store. It remembers nothing but how many there are.
type population struct {
	spec  seedSpec
	store *vault.Store
}

// connection is the id of the i-th one's connection.
func (p *population) connection(i int) string {
	r := mathrand.NewPCG(0x746f6b656e, uint64(i))
	var raw [24]byte
	for k := 0; k < len(raw); k += 8 {
		binary.LittleEndian.PutUint64(raw[k:], r.Uint64())
	}
	raw[0] = p.store.Shard(benchTenant, subject(i)) ^ raw[17]
	return base64.RawURLEncoding.EncodeToString(raw[:18])
}

// seeder fills a store.
type seeder struct {
	population
	backend *seedBackend
	began   time.Time
	ofShard [256][]uint32 // who is in a shard
	// consent, if set, makes the consent before it is completed: for a store that checks.
	consent func(context.Context, broker.Consent) (broker.Consent, error)
}

// seed fills the Redis, which must be empty. A million connections with ten million events take some minutes.
func seed(ctx context.Context, spec seedSpec) (*population, error) {
	if spec.Connections < 1 || spec.Events < spec.Connections*2*len(benchScopes()) {
		return nil, errors.New("seed: too few connections, or too few events for them")
	}
	if spec.Log == nil {
		spec.Log = func(string, ...any) {}
	}
	real, err := redisstore.New(redisstore.Config{URL: spec.Redis, IOTimeout: 30 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer real.Close()
	backend := newSeedBackend(real)
	backend.lists = real
	wires, err := backend.connect(ctx, spec.Redis)
	defer func() {
		for _, w := range wires {
			w.close()
		}
	}()
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	store, err := vault.New(vault.Config{
		Backend: backend, Keyset: spec.Keyset, RoundTrip: time.Minute, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer store.Close()
	// There is much garbage and little that stays.
	defer debug.SetGCPercent(debug.SetGCPercent(seedGarbage))
	s := &seeder{population: population{spec: spec, store: store}, backend: backend, began: time.Now()}
	if err := s.run(ctx); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	return &s.population, nil
}

// seedWriters write at the same time, each into shards of its own, so that the events of one shard come in their order.
const seedWriters = 4

func (s *seeder) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range s.spec.Connections {
		shard := s.store.Shard(benchTenant, subject(i))
		s.ofShard[shard] = append(s.ofShard[shard], uint32(i))
	}
	written := make(chan struct{})
	var group sync.WaitGroup
	errs := make([]error, seedWriters+2)
	guard := func(i int, do func() error) {
		group.Go(func() {
			if errs[i] = do(); errs[i] != nil {
				cancel()
			}
		})
	}
	guard(seedWriters, func() error { return s.keep(ctx, written, s.store.FollowIndex) })
	guard(seedWriters+1, func() error {
		return s.keep(ctx, written, func(ctx context.Context) error { _, err := s.store.IndexTrail(ctx); return err })
	})
	var writers sync.WaitGroup
	for w := range seedWriters {
		writers.Add(1)
		guard(w, func() error { defer writers.Done(); return s.write(ctx, w) })
	}
	writers.Wait()
	s.spec.Log("seed: all written after %s, indexing the rest", time.Since(s.began).Round(time.Second))
	close(written)
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := s.backend.flush(); err != nil {
		return err
	}
	s.spec.Log("seed: %d connections and %d events in %s", s.spec.Connections, s.spec.Events, time.Since(s.began).Round(time.Second))
	return nil
}

// keep indexes until everything is written and indexed.
func (s *seeder) keep(ctx context.Context, written <-chan struct{}, index func(context.Context) error) error {
	for {
		if err := index(ctx); err != nil {
			return err
		}
		done := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-written:
			done = true
		case <-time.After(20 * time.Millisecond):
		}
		if done && s.backend.waiting.Load() == 0 {
			return nil
		}
	}
}

// seedAhead is how far writing may be ahead of indexing.
const seedAhead = 200_000

// room waits until indexing is not too far behind.
func (s *seeder) room(ctx context.Context) error {
	for s.backend.waiting.Load() > seedAhead {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return errors.Join(ctx.Err(), s.backend.err())
}

// write fills the shards of one writer: first the connections, one after another through the first half of the time, then the
// other events through the second.
func (s *seeder) write(ctx context.Context, writer int) error {
	r := newSeedRandom(uint64(writer))
	half := seedSpan.Milliseconds() / 2
	start := s.spec.Now.Add(-seedSpan).UnixMilli()
	for shard := writer; shard < len(s.ofShard); shard += seedWriters {
		for n, i := range s.ofShard[shard] {
			if n%64 == 0 {
				if err := s.room(ctx); err != nil {
					return err
				}
			}
			at := start + half*int64(i)/int64(s.spec.Connections)
			if err := s.connect(ctx, r, int(i), time.UnixMilli(at).UTC()); err != nil {
				return err
			}
		}
	}
	entries := (s.spec.Events - s.spec.Connections*2*len(benchScopes())) / len(benchScopes())
	for shard := writer; shard < len(s.ofShard); shard += seedWriters {
		if err := s.events(ctx, r, byte(shard), entries*len(s.ofShard[shard])/s.spec.Connections, start+half, half-time.Minute.Milliseconds()); err != nil {
			return err
		}
	}
	return nil
}

// connect makes the i-th connection as a consent does, and lets its token out once.
func (s *seeder) connect(ctx context.Context, r *seedRandom, i int, at time.Time) error {
	user, id := subject(i), s.connection(i)
	obtained := s.spec.Now.Add(-time.Duration(r.IntN(3600)) * time.Second)
	expires := obtained.Add(tokenLife)
	conn := broker.Connection{
		ID: id, Tenant: benchTenant, Subject: user, Connector: benchConnector, Client: benchClient, Status: broker.ConnectionActive,
		Scopes: broker.NewScopeSet(benchScopes()...), Renewable: true, CreatedAt: at, LastRefreshed: obtained, Lifetime: tokenLife,
		RefreshAt: expires.Add(-5*time.Minute - time.Duration(r.IntN(600))*time.Second),
		Account:   accountOf(i),
	}
	consent := broker.Consent{
		ID: id, Tenant: conn.Tenant, Client: conn.Client, Subject: user, Connector: conn.Connector, Scopes: conn.Scopes, Binding: broker.BindingCode,
		Status: broker.ConsentCompleted, Result: id, Deadline: at.Add(time.Minute), CreatedAt: at, Version: 4,
	}
	if s.consent != nil {
		var err error
		if consent, err = s.consent(ctx, consent); err != nil {
			return err
		}
	}
	shard := s.store.Shard(conn.Tenant, user)
	s.backend.at(shard, at.UnixMilli(), 1000)
	s.backend.begin(shard, id)
	defer s.backend.end(shard)
	conn, err := s.store.CompleteConsent(ctx, consent, conn, broker.Grant{
		AccessToken: broker.NewSecret(accessToken(i)), RefreshToken: broker.NewSecret(refreshToken(i)), ObtainedAt: obtained, ExpiresAt: expires, Lifetime: tokenLife,
	}, []broker.Entry{s.entry(r, broker.EventConsentCompleted, i, id, at)})
	if err != nil {
		return err
	}
	_, err = s.store.Release(ctx, conn, "", s.entry(r, broker.EventTokenIssued, i, id, at.Add(time.Second)))
	return err
}

// events appends so many entries to a shard's stream: tokens issued to two hundred agents for its connections.
func (s *seeder) events(ctx context.Context, r *seedRandom, shard byte, n int, from, span int64) error {
	of := s.ofShard[shard]
	for done := 0; done < n && len(of) > 0; {
		if err := s.room(ctx); err != nil {
			return err
		}
		stride := span / int64(n)
		first := from + int64(done)*stride
		s.backend.at(shard, first, stride)
		batch := make([]broker.Entry, min(seedAppend, n-done))
		for k := range batch {
			i := int(of[r.IntN(len(of))])
			batch[k] = s.entry(r, broker.EventTokenIssued, i, s.connection(i), time.UnixMilli(first+int64(k)*stride).UTC())
		}
		if err := s.store.Append(ctx, batch...); err != nil {
			return err
		}
		done += len(batch)
	}
	return nil
}

func (s *seeder) entry(r *seedRandom, kind broker.EventType, i int, id string, at time.Time) broker.Entry {
	e := broker.Entry{
		Type: kind, Time: at, Tenant: benchTenant, Client: benchClient, Subject: subject(i), Connector: benchConnector, Connection: id, Outcome: "ok",
		Actor:  broker.Actor{Agent: "agent-" + strconv.Itoa(r.IntN(200)), Run: "run-" + strconv.Itoa(r.IntN(50_000))},
		Reason: "summarise the quarterly numbers", RequestID: r.text(32), TraceID: r.hex(16),
	}
	for k, scope := range benchScopes() {
		e.Scopes = append(e.Scopes, broker.EventScope{ID: r.text(24), Scope: scope, Requested: k == 0})
	}
	return e
}
