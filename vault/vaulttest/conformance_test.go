package vaulttest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMiniredis(t *testing.T) {
	t.Parallel()
	vaulttest.Run(t, func(t testing.TB) vaulttest.Topology {
		m := miniredis.RunT(t)
		return vaulttest.Topology{URL: "redis://" + m.Addr(), Addrs: []string{m.Addr()}}
	})
}

func TestRedisServer(t *testing.T) {
	t.Parallel()
	vaulttest.Run(t, func(t testing.TB) vaulttest.Topology {
		r := vaulttest.StartRedis(t)
		return vaulttest.Topology{URL: r.URL(), Addrs: []string{r.Addr}, Redis: r}
	})
}

// TestTLS also logs in as the user of deploy/redis/users.acl, who may do no more than is needed.
func TestTLS(t *testing.T) {
	t.Parallel()
	vaulttest.Run(t, func(t testing.TB) vaulttest.Topology {
		users, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", "users.acl"))
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(vaulttest.Dir(t), "users.acl")
		if err := os.WriteFile(file, append(users, "user operator on >op ~* &* +@all\n"...), 0o600); err != nil {
			t.Fatal(err)
		}
		r := vaulttest.StartRedisTLS(t, "--aclfile", file, "--tls-auth-clients", "yes")
		operator := func(_ string, args ...string) (string, error) { return r.Command("operator", "op", args...) }
		if _, err := operator("", "ACL", "SETUSER", "tokenbroker", ">p:w"); err != nil {
			t.Fatal(err)
		}
		for user, args := range map[string][]string{"default": {"PING"}, "tokenbroker": {"SET", "other", "1"}} {
			if _, err := r.Command(user, "p:w", args...); err == nil {
				t.Fatalf("user %s may %v", user, args)
			}
		}
		store, err := redisstore.New(redisstore.Config{URL: r.URLAs("tokenbroker", "p:w"), TLS: r.Client})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		problems, err := store.CheckDurability(ctx)
		if err := errors.Join(err, store.Health(ctx)); err != nil || len(problems) > 0 {
			t.Fatalf("as this user: %v, %v", problems, err)
		}
		if id, err := store.Identity(ctx); err != nil || id == "" {
			t.Fatalf("identity: %q, %v", id, err)
		}
		return vaulttest.Topology{URL: r.URLAs("tokenbroker", "p:w"), TLS: r.Client, Addrs: []string{r.Addr}, Variant: true, Command: operator}
	})
}

// TestInfoForbidden: a server that tells nothing of itself can be used all the same, and is said to tell nothing.
func TestInfoForbidden(t *testing.T) {
	t.Parallel()
	r := vaulttest.StartRedis(t)
	if _, err := vaulttest.Command(r.Addr, "ACL", "SETUSER", "default", "-info"); err != nil {
		t.Fatal(err)
	}
	store, err := redisstore.New(redisstore.Config{URL: r.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := store.Health(ctx); err != nil {
		t.Errorf("health: %v", err)
	}
	problems, err := store.CheckDurability(ctx)
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0], "INFO") {
		t.Errorf("durability: %v, %v", problems, err)
	}
	if id, err := store.Identity(ctx); err != nil || id != "" {
		t.Errorf("identity: %q, %v", id, err)
	}
	settle := vault.Step{Settle: &vault.Settle{Key: "tb:{00}:e", Pause: time.Second}, Writes: []vault.Write{{Kind: vault.WriteHashSet, Key: "tb:{00}:x", Args: []string{"f", "v"}}}}
	if got := store.Apply(ctx, []vault.Step{settle})[0]; got.Err != nil || got.Verdict != vault.VerdictDone {
		t.Errorf("a step that would settle: %+v", got)
	}
	if _, err := vaulttest.Command(r.Addr, "ACL", "SETUSER", "default", "-set"); err != nil {
		t.Fatal(err)
	}
	if err := store.Health(ctx); err == nil || !strings.Contains(err.Error(), "users.acl") {
		t.Errorf("health without a command that is needed: %v", err)
	}
}

// TestDeployedUsers: a server with deploy/redis/redis.conf and users.acl has after a restart what it had before. Redis replays
// transactions, which is what scripts leave in its append-only file, as the user default: if that one may not write, they
// are dropped, and with them every grant.
func TestDeployedUsers(t *testing.T) {
	t.Parallel()
	users, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", "users.acl"))
	if err != nil {
		t.Fatal(err)
	}
	start := func(users string) (*vaulttest.RedisTLS, *redisstore.Store) {
		file := filepath.Join(vaulttest.Dir(t), "users.acl")
		if err := os.WriteFile(file, []byte(strings.Replace(users, "tokenbroker on resetpass", "tokenbroker on >p", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		r := vaulttest.StartRedisTLS(t, append(deployedSettings(t), "--aclfile", file)...)
		store, err := redisstore.New(redisstore.Config{URL: r.URLAs("tokenbroker", "p"), TLS: r.Client})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		return r, store
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	r, store := start(string(users))
	if reply, err := r.Command("", "", "PING"); err == nil {
		t.Fatalf("who has no name is answered %q", reply)
	}
	problems, err := store.CheckDurability(ctx)
	if err := errors.Join(err, store.Health(ctx)); err != nil || len(problems) > 0 {
		t.Fatalf("%v, %v", problems, err)
	}
	const key = "tb:{00}:x"
	write := vault.Step{Writes: []vault.Write{
		{Kind: vault.WriteHashSet, Key: key, Args: []string{"f", "v"}}, {Kind: vault.WriteHashSet, Key: key, Args: []string{"g", "w"}},
	}}
	if got := store.Apply(ctx, []vault.Step{write})[0]; got.Err != nil || got.Verdict != vault.VerdictDone {
		t.Fatalf("a write: %+v", got)
	}
	r.Kill()
	r.Start()
	var found []map[string][]byte
	for ctx.Err() == nil {
		if found, err = store.Hashes(ctx, []string{key}); err == nil {
			break
		}
	}
	if err != nil || string(found[0]["f"]) != "v" || string(found[0]["g"]) != "w" {
		t.Fatalf("after a restart: %q, %v", found, err)
	}
	// Where the user default may not write, serve refuses such a server, if it can find out.
	_, store = start(regexp.MustCompile(`(?m)^user default .*$`).ReplaceAllString(string(users), "user default off"))
	if problems, err := store.CheckDurability(ctx); err != nil || len(problems) != 1 || !strings.Contains(problems[0], "ACL SETUSER default") {
		t.Errorf("a server that drops transactions when it starts: %v, %v", problems, err)
	}
}

// TestDeployedSettings: a server with deploy/redis/redis.conf has nothing to be mended.
func TestDeployedSettings(t *testing.T) {
	t.Parallel()
	store, err := redisstore.New(redisstore.Config{URL: vaulttest.StartRedis(t, deployedSettings(t)...).URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	problems, err := store.CheckDurability(ctx)
	if err := errors.Join(err, store.Health(ctx)); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

// deployedSettings are those of deploy/redis/redis.conf, as arguments of a command line.
func deployedSettings(t *testing.T) []string {
	t.Helper()
	settings, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", "redis.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var args []string
	for line := range strings.Lines(string(settings)) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), " "); found && name[0] != '#' {
			args = append(args, "--"+name, strings.Trim(value, `"`))
		}
	}
	return args
}

func TestCluster(t *testing.T) {
	t.Parallel()
	testCluster(t, func(t testing.TB) *vaulttest.Cluster { return vaulttest.StartCluster(t) }, false)
}

// TestClusterReplicas also loses a master.
func TestClusterReplicas(t *testing.T) {
	t.Parallel()
	c := vaulttest.StartClusterReplicas(t)
	testCluster(t, func(testing.TB) *vaulttest.Cluster { return c }, true)
	vaulttest.RunClusterLoss(t, c)
}

func testCluster(t *testing.T, start func(testing.TB) *vaulttest.Cluster, variant bool) {
	var addrs []string
	vaulttest.Run(t, func(t testing.TB) vaulttest.Topology {
		c := start(t)
		addrs = c.Addrs()[:3]
		return vaulttest.Topology{URL: c.URL(), Addrs: addrs, Variant: variant}
	})
	for _, addr := range addrs {
		stats, err := vaulttest.Command(addr, "INFO", "errorstats")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(stats, "CROSSSLOT") {
			t.Errorf("an operation touched keys of several slots: %s", stats)
		}
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	sentinel := vaulttest.StartSentinel(t)
	vaulttest.Run(t, func(testing.TB) vaulttest.Topology {
		return vaulttest.Topology{URL: sentinel.URL(), Addrs: []string{sentinel.Master.Addr}, Variant: true}
	})
}

// TestSentinelFailover: the store goes on with the replica.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	vaulttest.RunFailover(t, vaulttest.StartSentinel(t))
}

func TestSentinelLoss(t *testing.T) {
	t.Parallel()
	vaulttest.RunSentinelLoss(t, vaulttest.StartSentinel(t))
}

func TestDurability(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	problems := func(url string) string {
		t.Helper()
		store, err := redisstore.New(redisstore.Config{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if err := store.Health(ctx); err != nil {
			t.Fatal(err)
		}
		found, err := store.CheckDurability(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(found, "; ")
	}
	if got := problems(vaulttest.StartRedis(t).URL()); got != "" {
		t.Errorf("a durable server: %s", got)
	}
	if got := problems(vaulttest.StartCluster(t).URL()); got != "" {
		t.Errorf("a durable cluster: %s", got)
	}
	got := problems(vaulttest.StartRedis(t, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru").URL())
	if !strings.Contains(got, "append-only file is off") || !strings.Contains(got, "allkeys-lru") {
		t.Errorf("a volatile server: %s", got)
	}
	replica := vaulttest.StartRedis(t, "--replicaof", "127.0.0.1 1")
	store, err := redisstore.New(redisstore.Config{URL: replica.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := store.Health(ctx); err == nil || !strings.Contains(err.Error(), "replica") {
		t.Errorf("health of a replica: %v", err)
	}
	replica.Kill()
	if err := store.Health(ctx); err == nil {
		t.Error("health of a dead server")
	}
}

func TestFaults(t *testing.T) { t.Parallel(); vaulttest.RunFaults(t) }

func TestHealing(t *testing.T) { t.Parallel(); vaulttest.RunHealing(t) }

func TestServers(t *testing.T) { t.Parallel(); vaulttest.RunServers(t) }

func TestConfirmed(t *testing.T) { t.Parallel(); vaulttest.RunConfirmed(t) }
