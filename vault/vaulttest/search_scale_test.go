//go:build scale

package vaulttest_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// TestSearchScale measures the index of the audit trail: EVENTS of them (default 500,000) over thirty days, of one tenant, in one Redis.
// Nothing of it runs in CI. go test -tags scale -run TestSearchScale -v ./vault/vaulttest
func TestSearchScale(t *testing.T) {
	n := 500_000
	if text := os.Getenv("EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	server := vaulttest.StartRedis(t, "--appendonly", "no", "--save", "")
	backend, err := redisstore.New(redisstore.Config{URL: server.URL(), IOTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	keyset, err := vault.NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	s, err := vault.New(vault.Config{Backend: backend, Keyset: keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), RoundTrip: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: time.Minute})
	defer rdb.Close()
	memory := func() int {
		m := regexp.MustCompile(`used_memory:(\d+)`).FindStringSubmatch(rdb.Info(ctx, "memory").Val())
		used, _ := strconv.Atoi(m[1])
		return used
	}

	// Distinct entries are written by the vault, and copied to as many ids as it takes, in the thirty days before: what they are
	// sealed for is their stream, and not their id.
	const distinct = 10_000
	for i := 0; i < distinct; i += 100 {
		var entries []broker.Entry
		for j := i; j < i+100; j++ {
			e := broker.Entry{
				Type: broker.EventTokenIssued, Time: time.Now(), Tenant: "acme", Client: fmt.Sprintf("client-%d", j%4), Subject: fmt.Sprintf("user-%d@example.com", j), Outcome: "ok",
				Connector: []string{"drive", "drive", "slack", "crm"}[j%4], Connection: "cn-0123456789abcdef01-" + fmt.Sprint(j), RequestID: rand.Text()[:22], TraceID: "0af7651916cd43dd8448eb211c80319c",
				Actor: broker.Actor{Agent: fmt.Sprintf("agent-%d", j%200), Run: fmt.Sprintf("run-%s-%d", rand.Text()[:6], j/5)}, Reason: "look for the minutes of the meeting",
				Scopes: []broker.EventScope{{ID: rand.Text()[:24], Scope: fmt.Sprintf("https://www.googleapis.com/auth/scope-%d", j%12), Requested: true}},
			}
			if j%50 == 0 {
				e.Type, e.Outcome = broker.EventTokenRefused, "access_denied"
			}
			if j == 5000 {
				e.Actor.Agent, e.Scopes[0].Scope, e.Type = "agent-once", "scope-once", broker.EventIntegrityFailed
			}
			entries = append(entries, e)
		}
		if err := s.Append(ctx, entries...); err != nil {
			t.Fatal(err)
		}
	}
	type copyOf struct {
		stream string
		values map[string]any
	}
	var originals []copyOf
	keys := rdb.Keys(ctx, "tb:*:a:acme").Val()
	for _, key := range keys {
		for _, m := range rdb.XRange(ctx, key, "-", "+").Val() {
			originals = append(originals, copyOf{key, m.Values})
		}
		rdb.Del(ctx, key)
	}
	before := memory()
	begin := time.Now().AddDate(0, 0, -30).UnixMilli()
	step := float64(30*24*3600*1000) / float64(n)
	pipe := rdb.Pipeline()
	for i := range n {
		o := originals[(i*7919)%len(originals)]
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: o.stream, ID: fmt.Sprintf("%d-%d", begin+int64(float64(i)*step), i%3), Values: []any{"m", o.values["m"], "b", o.values["b"]}})
		if i%5000 == 4999 || i == n-1 {
			if _, err := pipe.Exec(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	streams := memory() - before
	t.Logf("%d events in %d streams: %d bytes an event", n, len(keys), streams/n)

	filters := []struct {
		name   string
		filter broker.EventFilter
	}{
		{"no filter", broker.EventFilter{}},
		{"an agent in 200", broker.EventFilter{Agent: "agent-17"}},
		{"a client in 4", broker.EventFilter{Client: "client-1"}},
		{"agent and client, never both", broker.EventFilter{Agent: "agent-17", Client: "client-2"}},
		{"one run", broker.EventFilter{Run: runOf(t, s, "agent-17")}},
		{"a type in 50", broker.EventFilter{Type: broker.EventTokenRefused}},
		{"a rare type", broker.EventFilter{Type: broker.EventIntegrityFailed}},
		{"one subject", broker.EventFilter{Subject: "user-77@example.com"}},
		{"nobody", broker.EventFilter{Agent: "nobody"}},
	}
	measure := func(when string) {
		for _, f := range filters {
			var took []time.Duration
			pages, events := 0, 0
			for range 15 {
				began := time.Now()
				page, err := s.SearchEvents(ctx, "acme", broker.EventSearch{Filter: f.filter, Limit: 50})
				if err != nil {
					t.Fatal(err)
				}
				took = append(took, time.Since(began))
				events = len(page.Events)
			}
			began := time.Now()
			for q := (broker.EventSearch{Filter: f.filter, Limit: 50}); pages < 40; {
				page, err := s.SearchEvents(ctx, "acme", q)
				if err != nil {
					t.Fatal(err)
				}
				pages++
				if q.Position = page.Next; page.Next == "" || f.filter == (broker.EventFilter{}) {
					break
				}
			}
			slices.Sort(took)
			t.Logf("%s: %-30s %3d events, median %7.1f ms, worst %7.1f ms; %d pages in %v", when, f.name, events, ms(took[len(took)/2]), ms(took[len(took)-1]), pages, time.Since(began).Round(time.Millisecond))
		}
	}
	measure("not indexed")
	before, began := memory(), time.Now()
	for quiet := 0; quiet < 8; quiet++ {
		more, err := s.IndexTrail(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if more {
			quiet = 0
		}
	}
	took := time.Since(began)
	t.Logf("indexed in %v, %.0f events a second; %.1f bytes an event, %.1f %% of the streams, %d keys", took.Round(time.Millisecond), float64(n)/took.Seconds(),
		float64(memory()-before)/float64(n), 100*float64(memory()-before)/float64(streams), len(rdb.Keys(ctx, "tb:*:ax:*").Val()))
	measure("indexed")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// runOf is a run of the agent.
func runOf(t *testing.T, s *vault.Store, agent string) string {
	t.Helper()
	q := broker.EventSearch{Filter: broker.EventFilter{Agent: agent}, Limit: 1}
	for {
		page, err := s.SearchEvents(context.Background(), "acme", q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Events) > 0 {
			return page.Events[0].Actor.Run
		}
		q.Position = page.Next
	}
}
