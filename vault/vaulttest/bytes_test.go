package vaulttest_test

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// TestBytesPerConnection writes CONNECTIONS connections (default 1,000) with tokens as providers give them, lets each token out
// once, and says what that takes of Redis: by kind of key, as MEMORY USAGE has it, and in all, as used_memory has it. Sorted sets
// take most from some 50,000 connections on, when they are too long to be packed.
//
//	CONNECTIONS=50000 go test -run TestBytesPerConnection -v ./vault/vaulttest
func TestBytesPerConnection(t *testing.T) {
	n := 1000
	if text := os.Getenv("CONNECTIONS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	server := vaulttest.StartRedis(t, append(deployedSettings(t), "--appendonly", "no", "--maxmemory", "0")...)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr, ReadTimeout: time.Minute})
	defer rdb.Close()
	ctx := t.Context()
	used := func() int {
		m := regexp.MustCompile(`used_memory:(\d+)`).FindStringSubmatch(rdb.Info(ctx, "memory").Val())
		bytes, _ := strconv.Atoi(m[1])
		return bytes
	}
	backend, err := redisstore.New(redisstore.Config{URL: server.URL(), IOTimeout: 30 * time.Second, DialTimeout: 30 * time.Second})
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
	if _, err := s.Connection(ctx, "acme", "none"); err == nil {
		t.Fatal("a connection of no id")
	}
	empty := used()

	var group sync.WaitGroup
	const writers = 8
	failed := make(chan error, writers)
	for w := range writers {
		group.Go(func() {
			for i := w; i < n; i += writers {
				if err := seedOne(ctx, s, i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
	// What a consent leaves goes by itself within a quarter of an hour; here it goes now.
	for _, kind := range []string{"o", "u", "n", "d"} {
		drop(t, rdb, "tb:{??}:"+kind+":*", "tb:{??}:"+kind)
	}
	if err := s.CheckIndex(ctx); err != nil {
		t.Fatal(err)
	}
	total := used() - empty

	perKind, encodings, count := map[string]int64{}, map[string]map[string]int{}, map[string]int{}
	kinds := regexp.MustCompile(`^tb:\{..\}:([a-z]+(:[a-z])?)`)
	all := rdb.Scan(ctx, 0, "*", 1000).Iterator()
	for all.Next(ctx) {
		m := kinds.FindStringSubmatch(all.Val())
		kind := m[1]
		if len(kind) > 2 && kind[1] == ':' { // the letter behind the colon is of an id
			kind = kind[:1]
		}
		count[kind]++
		perKind[kind] += rdb.MemoryUsage(ctx, all.Val(), 0).Val()
		if encodings[kind] == nil {
			encodings[kind] = map[string]int{}
		}
		encodings[kind][rdb.ObjectEncoding(ctx, all.Val()).Val()]++
	}
	if err := all.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d connections; bytes for each:", n)
	for _, kind := range slices.SortedFunc(maps.Keys(perKind), func(a, b string) int { return int(perKind[b] - perKind[a]) }) {
		before := used()
		drop(t, rdb, "tb:{??}:"+kind, "tb:{??}:"+kind+":*")
		t.Logf("%-5s %7.1f   by deleting %7.1f   %7d keys  %v", kind, float64(perKind[kind])/float64(n), float64(before-used())/float64(n), count[kind], encodings[kind])
	}
	t.Logf("in all %7.1f", float64(total)/float64(n))
}

func drop(t *testing.T, rdb *redis.Client, patterns ...string) {
	t.Helper()
	for _, pattern := range patterns {
		found := rdb.Scan(t.Context(), 0, pattern, 1000).Iterator()
		var keys []string
		for found.Next(t.Context()) {
			keys = append(keys, found.Val())
		}
		if found.Err() != nil {
			t.Fatal(found.Err())
		}
		for some := range slices.Chunk(keys, 1000) {
			if err := rdb.Del(t.Context(), some...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// opaque is a text of n characters as tokens are made of.
func opaque(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)[:n]
}

// jwt is a token as an OpenID provider makes access tokens: 950 bytes.
func jwt() string { return opaque(100) + "." + opaque(506) + "." + opaque(342) }

func seedOne(ctx context.Context, s *vault.Store, i int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	now := time.Now().UTC()
	id := func(subject string) string {
		raw := make([]byte, 18)
		_, _ = rand.Read(raw)
		raw[0] = s.Shard("acme", subject) ^ raw[17]
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	subject := fmt.Sprintf("user-%d@example.com", i)
	scopes := broker.NewScopeSet("https://www.googleapis.com/auth/drive.readonly", "https://www.googleapis.com/auth/calendar.events", "https://www.googleapis.com/auth/gmail.send")
	consent := broker.Consent{
		ID: id(subject), Tenant: "acme", Client: "chat", Subject: subject, Connector: "google-drive", Scopes: scopes, Binding: broker.BindingCode,
		Link: broker.NewSecret(opaque(32)), Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(broker.LinkLife), CreatedAt: now, State: opaque(32),
	}
	consent, err := s.CreateConsent(ctx, consent, "", nil)
	if err != nil {
		return err
	}
	conn := broker.Connection{
		ID: id(subject), Tenant: "acme", Subject: subject, Connector: "google-drive", Client: "chat", Status: broker.ConnectionActive, Scopes: scopes,
		Renewable: true, CreatedAt: now, LastRefreshed: now, Lifetime: time.Hour, RefreshAt: now.Add(50 * time.Minute),
		Account: broker.Account{ID: fmt.Sprintf("1098765432100%08d", i), Name: "Maria Musterfrau", Email: subject},
	}
	consent.Status, consent.Result = broker.ConsentCompleted, conn.ID
	conn, err = s.CompleteConsent(ctx, consent, conn, broker.Grant{
		AccessToken: broker.NewSecret(jwt()), RefreshToken: broker.NewSecret(opaque(150)), ObtainedAt: now, ExpiresAt: now.Add(time.Hour), Lifetime: time.Hour,
	}, []broker.Entry{{Type: broker.EventConsentCompleted, Time: now, Tenant: "acme", Subject: subject, Connector: "google-drive", Connection: conn.ID, Scopes: []broker.EventScope{{ID: opaque(24)}}}})
	if err != nil {
		return err
	}
	issued := broker.Entry{
		Type: broker.EventTokenIssued, Time: now, Tenant: "acme", Client: "chat", Subject: subject, Connector: "google-drive", Connection: conn.ID, Outcome: "ok",
		RequestID: opaque(22), TraceID: "0af7651916cd43dd8448eb211c80319c", Actor: broker.Actor{Agent: "agent-1"},
	}
	for _, scope := range scopes.All() {
		issued.Scopes = append(issued.Scopes, broker.EventScope{ID: opaque(24), Scope: scope, Requested: true})
	}
	_, err = s.Release(ctx, conn, "", issued)
	return err
}
