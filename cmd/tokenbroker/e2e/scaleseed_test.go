//go:build scale

package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// seeder fills a store with connections and events through the vault itself, so that they are what a broker would have written.
type seeder struct {
	t     *testing.T
	store *vault.Store
	now   time.Time
	mu    sync.Mutex
	conns []broker.Connection // without tokens; the ones whose events are made
	rare  broker.Connection   // the one connection with an error that no other has
}

// The seed's rarest actor, client and scope: what an auditor looks for among ten million events.
const (
	rareAgent = "agent-once"
	rareScope = "files.write"
)

func (r *rig) seeder() *seeder {
	r.t.Helper()
	content, err := vault.ReadKeysetFile(filepath.Join(r.dir, "keyset.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	kek, err := vault.ParseKEK("env:TOKENBROKER_KEK", func(name string) string {
		for _, pair := range r.env {
			if v, ok := cutName(pair, name); ok {
				return v
			}
		}
		return ""
	})
	if err != nil {
		r.t.Fatal(err)
	}
	keyset, err := vault.OpenKeyset(content, kek)
	if err != nil {
		r.t.Fatal(err)
	}
	backend, err := redisstore.New(redisstore.Config{URL: r.redisURL, IOTimeout: 20 * time.Second, PoolSize: 32})
	if err != nil {
		r.t.Fatal(err)
	}
	store, err := vault.New(vault.Config{
		Backend: backend, Keyset: keyset, RoundTrip: 20 * time.Second, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { store.Close(); _ = backend.Close() })
	return &seeder{t: r.t, store: store, now: time.Now().UTC().Truncate(time.Millisecond)}
}

func cutName(pair, name string) (string, bool) {
	if len(pair) > len(name) && pair[:len(name)] == name && pair[len(name)] == '=' {
		return pair[len(name)+1:], true
	}
	return "", false
}

// parallel does n pieces of work, some at a time, and says now and then how far it is.
func (s *seeder) parallel(what string, n, workers int, do func(ctx context.Context, i int) error) {
	s.t.Helper()
	var next, done atomic.Int64
	var group sync.WaitGroup
	var failed atomic.Value
	began := time.Now()
	stop := make(chan struct{})
	go func() {
		tick := time.NewTicker(20 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				fmt.Fprintf(os.Stderr, "%s: %d of %d, %.0f a second\n", what, done.Load(), n, float64(done.Load())/time.Since(began).Seconds())
			}
		}
	}()
	for range workers {
		group.Go(func() {
			for failed.Load() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
				if err := do(ctx, i); err != nil {
					failed.Store(err)
				}
				cancel()
				done.Add(1)
			}
		})
	}
	group.Wait()
	close(stop)
	if err, ok := failed.Load().(error); ok {
		s.t.Fatalf("%s: %v", what, err)
	}
	s.t.Logf("%s: %d in %s", what, n, time.Since(began).Round(time.Second))
}

func (s *seeder) id(tenant, subject string) string {
	raw := make([]byte, 18)
	_, _ = io.ReadFull(rand.Reader, raw)
	raw[0] = s.store.Shard(tenant, subject) ^ raw[17]
	return base64.RawURLEncoding.EncodeToString(raw)
}

// connections makes n of them: nine of ten of tenant acme, over two years, most of them active.
func (s *seeder) connections(n int) {
	s.t.Helper()
	every := max(1, n/200_000) // whose events are made
	s.parallel("connections", n, 96, func(ctx context.Context, i int) error {
		tenant, client := "acme", "acme-chat"
		if i%10 == 9 {
			tenant, client = "rival", "rival"
		}
		subject := fmt.Sprintf("user-%07d@example.com", i)
		made := s.now.Add(-time.Duration(mathrand.Int64N(int64(2 * 365 * 24 * time.Hour)))).Truncate(time.Millisecond)
		conn := broker.Connection{
			ID: s.id(tenant, subject), Tenant: tenant, Subject: subject, Connector: "files", Client: client, Status: broker.ConnectionActive,
			Scopes: broker.NewScopeSet("files.read"), Renewable: true, CreatedAt: made, LastRefreshed: s.now, Lifetime: time.Hour,
			Account: broker.Account{ID: fmt.Sprintf("acc-%d", i), Name: fmt.Sprintf("User %d", i), Email: subject},
		}
		if i%3 == 1 && tenant == "acme" {
			conn.Connector = "other"
		}
		if i%5 == 1 {
			conn.Scopes = broker.NewScopeSet("files.read", "files.write")
		}
		switch {
		case i == n/2:
			conn.Status, conn.Error = broker.ConnectionNeedsConsent, "seed_rare"
		case i%50 == 7:
			conn.Status, conn.Error = broker.ConnectionNeedsConsent, broker.ErrorInvalidGrant
		case i%50 == 8:
			conn.Status, conn.Error = broker.ConnectionNeedsConsent, broker.ErrorExpired
		}
		consent, err := s.store.CreateConsent(ctx, broker.Consent{
			ID: s.id(tenant, subject), Tenant: tenant, Client: client, Subject: subject, Connector: conn.Connector, Scopes: conn.Scopes, Binding: broker.BindingCode,
			Link: broker.NewSecret("seed"), Status: broker.ConsentAwaitingCompletion, Deadline: s.now.Add(time.Minute), CreatedAt: s.now, State: "seed",
		}, "", nil)
		if err != nil {
			return err
		}
		consent.Status, consent.Result = broker.ConsentCompleted, conn.ID
		conn, err = s.store.CompleteConsent(ctx, consent, conn, broker.Grant{
			AccessToken: broker.NewSecret("canary-access-" + rand.Text() + rand.Text()), RefreshToken: broker.NewSecret("canary-refresh-" + rand.Text() + rand.Text()),
			ObtainedAt: s.now, ExpiresAt: s.now.Add(time.Hour), Lifetime: time.Hour,
		}, []broker.Entry{s.entry(broker.EventConsentCompleted, conn)})
		if err != nil {
			return err
		}
		if i%every == 0 || i == n/2 {
			conn.Tokens = nil
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			if i == n/2 {
				s.rare = conn
			}
			s.mu.Unlock()
		}
		return nil
	})
}

// events appends entries until there are n events: tokens issued to two hundred agents for the connections that are remembered.
func (s *seeder) events(n int) {
	s.t.Helper()
	byShard := map[string][]broker.Connection{} // of one stream each
	for _, c := range s.conns {
		key := fmt.Sprint(c.Tenant, s.store.Shard(c.Tenant, c.Subject))
		byShard[key] = append(byShard[key], c)
	}
	var streams [][]broker.Connection
	for _, conns := range byShard {
		streams = append(streams, conns)
	}
	const batch = 256
	const perEntry = 2.5 // events, on average
	s.parallel("batches of events", int(float64(n)/perEntry/batch), 64, func(ctx context.Context, i int) error {
		conns := streams[i%len(streams)]
		entries := make([]broker.Entry, batch)
		for k := range entries {
			c := conns[mathrand.IntN(len(conns))]
			e := s.entry(broker.EventTokenIssued, c)
			e.Actor = broker.Actor{Agent: fmt.Sprintf("agent-%d", mathrand.IntN(200)), Run: fmt.Sprintf("run-%d", mathrand.IntN(50_000))}
			e.Reason = "summarise the quarterly numbers"
			for j := range 2 + k%2 {
				e.Scopes = append(e.Scopes, broker.EventScope{ID: rand.Text(), Scope: []string{"files.read", "offline_access", "files.list"}[j], Requested: j == 0})
			}
			entries[k] = e
		}
		if i%100 == 50 { // few and far between
			entries[0].Actor.Agent = rareAgent
			entries[0].Scopes[0].Scope = rareScope
		}
		return s.store.Append(ctx, entries...)
	})
}

func (s *seeder) entry(kind broker.EventType, conn broker.Connection) broker.Entry {
	e := broker.Entry{
		Type: kind, Time: time.Now().UTC(), Tenant: conn.Tenant, Client: conn.Client, Subject: conn.Subject, Connector: conn.Connector,
		Connection: conn.ID, Outcome: "ok", RequestID: "req-" + rand.Text(), Actor: broker.Actor{Agent: "seed"},
	}
	if kind != broker.EventTokenIssued {
		e.Scopes = []broker.EventScope{{ID: rand.Text(), Scope: "files.read", Requested: true}}
	}
	return e
}
