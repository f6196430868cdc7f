package redisstore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"tokenbroker/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		url  string
		want target
	}{
		{"redis://127.0.0.1:6379/0", target{scheme: schemePlain, addrs: []string{"127.0.0.1:6379"}}},
		{"redis://localhost", target{scheme: schemePlain, addrs: []string{"localhost:6379"}}},
		{"redis://[::1]:7000", target{scheme: schemePlain, addrs: []string{"[::1]:7000"}}},
		{"redis://::1", target{scheme: schemePlain, addrs: []string{"[::1]:6379"}}},
		{"redis://redis_1.internal.:7000", target{scheme: schemePlain, addrs: []string{"redis_1.internal.:7000"}}},
		{"redis://[::1]/3", target{scheme: schemePlain, addrs: []string{"[::1]:6379"}, db: 3}},
		{"rediss://user:p%40ss@redis.example.com:6380/2", target{scheme: schemeTLS, addrs: []string{"redis.example.com:6380"}, user: "user", password: "p@ss", db: 2, tls: true}},
		{"redis://:secret@h?db=4", target{scheme: schemePlain, addrs: []string{"h:6379"}, password: "secret", db: 4}},
		{"redis-sentinel://a:26379,b,c:1/mymaster", target{scheme: schemeSentinel, addrs: []string{"a:26379", "b:26379", "c:1"}, master: "mymaster"}},
		{"redis-sentinel://a/m%2F1/", target{scheme: schemeSentinel, addrs: []string{"a:26379"}, master: "m/1"}},
		{"redis-sentinel://u:p@a/m?db=5&tls=true", target{scheme: schemeSentinel, addrs: []string{"a:26379"}, master: "m", user: "u", password: "p", db: 5, tls: true}},
		{"redis-cluster://a:7000,b:7001", target{scheme: schemeCluster, addrs: []string{"a:7000", "b:7001"}}},
		{"redis-cluster://u:p@a:7000/0?tls=true", target{scheme: schemeCluster, addrs: []string{"a:7000"}, user: "u", password: "p", tls: true}},
	} {
		got, err := parseURL(c.url)
		if err != nil {
			t.Errorf("%s: %v", c.url, err)
			continue
		}
		if strings.Join(got.addrs, ",") != strings.Join(c.want.addrs, ",") || got.scheme != c.want.scheme || got.master != c.want.master ||
			got.user != c.want.user || got.password != c.want.password || got.db != c.want.db || got.tls != c.want.tls {
			t.Errorf("%s: %+v, want %+v", c.url, got, c.want)
		}
	}
	for _, c := range []struct{ url, says string }{
		{"127.0.0.1:6379", "must begin"}, {"http://x", "unknown redis URL scheme"}, {"redis://", "no host"}, {"redis://a,b", "several hosts"}, {"redis://a:0", "port"},
		{"redis://a:x", "port"}, {"redis://a/x", "number"}, {"redis-sentinel://a", "no master"}, {"redis-sentinel://a/m/3", "behind the master's name"}, {"redis-sentinel://a/m/3/x", "behind the master's name"}, {"redis-cluster://a/1", "only the database 0"},
		{"redis://u:canary@[bad/0", "a host"}, {"redis://[bad]/0", "a host"}, {"redis://[bad]:6379", "a host"}, {"redis://bad]:6379", "a host"},
		{"redis://[::1", "a host"}, {"redis://[127.0.0.1]", "a host"}, {"redis://a:1:2", "a host"}, {"redis://a b", "a host"}, {"redis://:6379", "a host"},
		{"redis-cluster://a,[b/0", "a host"}, {"redis://[::1]:0", "port"},
		{"redis://canary%zz@h", "can't be read"}, {"redis://:canary@h?timeout=1", "unknown option"}, {"redis://a/-1", "number"},
	} {
		err := CheckURL(c.url)
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, want it to say %q and no password", c.url, err, c.says)
		}
		if _, err := New(Config{URL: c.url}); err == nil {
			t.Errorf("%s: a store was made", c.url)
		}
	}
}

// TestThreat76ForeignRelease: nor is it where a token is released, or where a subject's records are read.
func TestThreat76ForeignRelease(t *testing.T) {
	step := &vault.Step{Trail: &vault.TrailStep{Next: "n"}, Release: &vault.ReleaseStep{}}
	held := make([]any, len(released.Fields))
	for i := range held {
		held[i] = "b"
	}
	answer := []any{"echo of another", "done", "1-1", held}
	if _, err := decodeRelease(answer, step, "mine"); !errors.Is(err, errForeign) {
		t.Errorf("another's release: %v", err)
	}
	answer[0] = "mine"
	if r, err := decodeRelease(answer, step, "mine"); err != nil || r.Verdict != vault.VerdictDone {
		t.Errorf("own release: %+v, %v", r, err)
	}
	for _, echo := range []any{"echo of another", "", nil, int64(1)} {
		if _, err := decodeIndexed([]any{echo, []any{}}, "mine"); !errors.Is(err, errForeign) {
			t.Errorf("another's records (%v): %v", echo, err)
		}
	}
	if found, err := decodeIndexed([]any{"mine", []any{}}, "mine"); err != nil || len(found) != 0 {
		t.Errorf("own records: %v, %v", found, err)
	}
}

// TestForeignAnswer: an answer to another request is never taken (threats.md, row 76).
func TestForeignAnswer(t *testing.T) {
	answer := []any{"echo of another", "done", "0", "1", "", "", []any{}, []any{}}
	if _, err := decode(answer, &vault.Step{}, "mine"); !errors.Is(err, errForeign) {
		t.Errorf("another's answer: %v", err)
	}
	answer[0] = "mine"
	if r, err := decode(answer, &vault.Step{}, "mine"); err != nil || r.Verdict != vault.VerdictDone {
		t.Errorf("own answer: %+v, %v", r, err)
	}
	for i := range answer {
		odd := append([]any(nil), answer...)
		odd[i] = int64(1)
		if _, err := decode(odd, &vault.Step{}, "mine"); err == nil {
			t.Errorf("an answer with a number in place %d was taken", i)
		}
	}
}

// TestErrorsHideArguments: a server's error may quote what it was sent.
func TestErrorsHideArguments(t *testing.T) {
	m := miniredis.RunT(t)
	s, err := New(Config{URL: "redis://" + m.Addr()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m.SetError("ERR something about canary")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, readErr := s.Hashes(ctx, []string{"k"})
	applyErr := s.Apply(ctx, []vault.Step{{}})[0].Err
	for _, err := range []error{readErr, applyErr, s.Health(ctx)} {
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("error: %v", err)
		}
	}
	m.SetError("LOADING canary")
	if _, err := s.Hashes(ctx, []string{"k"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("while it loads: %v", err)
	}
	m.SetError("")
	if err := s.Health(ctx); err != nil {
		t.Errorf("health of miniredis: %v", err)
	}
	problems, err := s.CheckDurability(ctx)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0], "does not tell") {
		t.Errorf("durability of miniredis: %v, %v", problems, err)
	}
	// A wrong type: refused, not carried out in part.
	if err := m.Set("k", "x"); err != nil {
		t.Fatal(err)
	}
	r := s.Apply(ctx, []vault.Step{{Checks: []vault.Check{{Key: "k", Field: "f", Kind: vault.CheckEqual, Value: "v"}}}})[0]
	if r.Err == nil {
		t.Errorf("a check of a key of another type: %+v", r)
	}
}

// TestServerBack: a server that was away, for more requests than the pool has places, is used as soon as it is back.
func TestServerBack(t *testing.T) {
	m := miniredis.RunT(t)
	s, err := New(Config{URL: "redis://" + m.Addr(), PoolSize: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	m.Close()
	for range 40 {
		if _, err := s.Hashes(ctx, []string{"k"}); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Fatalf("without a server: %v", err)
		}
	}
	if err := m.Restart(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Hashes(ctx, []string{"k"}); err != nil {
		t.Fatalf("the server is back: %v", err)
	}
}

// TestWaitSettings: a wait that is longer than a round trip may take would never be confirmed.
func TestWaitSettings(t *testing.T) {
	for _, cfg := range []Config{{WaitReplicas: -1}, {WaitReplicas: 1, WaitTimeout: time.Second}, {WaitReplicas: 1, WaitTimeout: -1}} {
		cfg.URL = "redis://h"
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}

// TestOptions: go-redis repeats nothing, honours deadlines and reads from masters only.
func TestOptions(t *testing.T) {
	for _, url := range []string{"redis://h", "redis-sentinel://h/m", "redis-cluster://h"} {
		client, err := open(Config{URL: url}, &dialled{})
		if err != nil {
			t.Fatal(err)
		}
		switch c := client.(type) {
		case *redis.Client:
			o := c.Options()
			if !o.ContextTimeoutEnabled || o.MaxRetries != 0 || o.ReadTimeout > time.Second || o.DialTimeout > time.Second || o.DialerRetries != 1 {
				t.Errorf("%s: options %+v", url, o)
			}
		case *redis.ClusterClient:
			o := c.Options()
			if !o.ContextTimeoutEnabled || o.MaxRetries > 0 || o.ReadTimeout > time.Second || o.DialTimeout > time.Second || o.ReadOnly || o.RouteByLatency || o.RouteRandomly {
				t.Errorf("%s: options %+v", url, o)
			}
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	}
}
