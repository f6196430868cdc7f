package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

func testSpec(t *testing.T, server *vaulttest.Redis, connections, events int) seedSpec {
	t.Helper()
	keyset, err := vault.NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	return seedSpec{
		Redis: server.URL(), Keyset: keyset, Connections: connections, Events: events, Now: time.Now().UTC().Truncate(time.Millisecond), Log: t.Logf,
	}
}

// realStore is a store as the broker has it.
func realStore(t *testing.T, spec seedSpec) *vault.Store {
	t.Helper()
	backend, err := redisstore.New(redisstore.Config{URL: spec.Redis})
	if err != nil {
		t.Fatal(err)
	}
	store, err := vault.New(vault.Config{Backend: backend, Keyset: spec.Keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close(); _ = backend.Close() })
	return store
}

// TestSeedIsWhatAStoreIs reads a filled store by the broker's own code: every connection, every token, every event and its chain.
func TestSeedIsWhatAStoreIs(t *testing.T) {
	server := vaulttest.StartRedis(t, "--appendfsync", "no")
	spec := testSpec(t, server, 300, 6000)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	people, err := seed(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	store := realStore(t, spec)
	seen := map[string]bool{}
	for position := ""; ; {
		page, next, err := store.List(ctx, benchTenant, broker.ConnectionFilter{}, position, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			seen[c.ID] = true
		}
		if position = next; next == "" {
			break
		}
	}
	if len(seen) != spec.Connections {
		t.Errorf("%d connections are listed, want %d", len(seen), spec.Connections)
	}
	for i := range spec.Connections {
		conns, _, err := store.OfSubjectSwitched(ctx, benchTenant, subject(i), benchConnector)
		if err != nil || len(conns) != 1 || conns[0].ID != people.connection(i) {
			t.Fatalf("connection %d: %v, %v", i, conns, err)
		}
		if i%50 == 0 {
			secret, err := store.Release(ctx, conns[0], "", broker.Entry{Type: broker.EventTokenIssued, Time: time.Now(), Tenant: benchTenant, Subject: subject(i)})
			if err != nil || secret.Reveal() != accessToken(i) {
				t.Fatalf("token of connection %d: %v", i, err)
			}
		}
	}
	classes, err := store.Classes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	indexed := 0
	for _, c := range classes {
		indexed += c.Count
	}
	if indexed != spec.Connections {
		t.Errorf("%d connections are in the index, want %d", indexed, spec.Connections)
	}
	events := 0
	for position := ""; ; {
		page, next, err := store.Events(ctx, benchTenant, broker.EventFilter{}, position, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page {
			if e.RequestID != "" {
				events++
			}
		}
		if position = next; next == "" {
			break
		}
	}
	if events < spec.Events*99/100-768 || events > spec.Events {
		t.Errorf("%d events, want %d or a little fewer", events, spec.Events)
	}
	report, err := store.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Faults) > 0 {
		t.Errorf("the trail does not verify: %v", report.Faults[:min(5, len(report.Faults))])
	}
}

// TestSeedWritesWhatTheVaultWrites makes the same connections through a store on Redis and through the seeder, and compares all that
// lies in the two servers: keys by kind, fields, and the length of each value.
func TestSeedWritesWhatTheVaultWrites(t *testing.T) {
	const n = 40
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fast := vaulttest.StartRedis(t, "--appendfsync", "no")
	spec := testSpec(t, fast, n, n*6)
	if _, err := seed(ctx, spec); err != nil {
		t.Fatal(err)
	}
	slow := vaulttest.StartRedis(t, "--appendfsync", "no")
	spec.Redis = slow.URL()
	store := realStore(t, spec)
	s := &seeder{population: population{spec: spec, store: store}, backend: newSeedBackend(nil)}
	s.consent = func(ctx context.Context, c broker.Consent) (broker.Consent, error) {
		pending := c
		pending.Status, pending.Result, pending.Version = broker.ConsentAwaitingCompletion, "", 0
		made, err := store.CreateConsent(ctx, pending, "", nil)
		c.Version = made.Version
		return c, err
	}
	for i := range n {
		if err := s.connect(ctx, newSeedRandom(uint64(i)), i, spec.Now.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.FollowIndex(ctx); err != nil {
		t.Fatal(err)
	}
	for more := true; more; {
		var err error
		if more, err = store.IndexTrail(ctx); err != nil {
			t.Fatal(err)
		}
	}
	have, want := shapeOf(t, fast), shapeOf(t, slow)
	for kind, shape := range want {
		if have[kind] != shape {
			t.Errorf("%s\n seeded: %s\n   real: %s", kind, have[kind], shape)
		}
	}
	for kind := range have {
		if want[kind] == "" {
			t.Errorf("%s: a real store has no such key", kind)
		}
	}
}

// shapeOf describes what lies in a server that lasts, by kind of key.
func shapeOf(t *testing.T, server *vaulttest.Redis) map[string]string {
	t.Helper()
	found := map[string][]string{}
	for _, key := range replyTexts(t, server, "KEYS", "*") {
		_, rest := seedKey(key)
		if passing(rest) {
			continue
		}
		kind, _, _ := strings.Cut(rest, ":")
		found[kind] = append(found[kind], shapeOfKey(t, server, key))
	}
	out := map[string]string{}
	for kind, shapes := range found {
		slices.Sort(shapes)
		if kind == "ax" { // by the day, and a list's name is hashed with the keyset: only how much there is
			continue
		}
		out[kind] = fmt.Sprint(len(shapes), slices.Compact(shapes))
	}
	return out
}

func shapeOfKey(t *testing.T, server *vaulttest.Redis, key string) string {
	t.Helper()
	switch kind := replyTexts(t, server, "TYPE", key)[0]; kind {
	case "hash":
		var fields []string
		all := replyTexts(t, server, "HGETALL", key)
		for i := 0; i < len(all); i += 2 {
			if len(all[i]) > 15 { // a writer's head, a set's id
				all[i] = "*"
			}
			fields = append(fields, fmt.Sprintf("%s(%d)", all[i], (len(all[i+1])+16)/64)) // times take a byte more or less
		}
		slices.Sort(fields)
		return "hash " + strings.Join(slices.Compact(fields), " ")
	default:
		return kind
	}
}

func replyTexts(t *testing.T, server *vaulttest.Redis, args ...string) []string {
	t.Helper()
	reply, err := askRedis(t.Context(), server.Addr, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, ok := reply.([]any)
	if !ok {
		return []string{fmt.Sprint(reply)}
	}
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}
