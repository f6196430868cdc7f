package redisstore_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// rights are what deploy/redis/users.acl gives the broker's user.
func rights(t *testing.T) []string {
	t.Helper()
	users, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", "users.acl"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^user tokenbroker .*$`).FindString(string(users))
	return strings.Fields(line)[2:]
}

// asUser is a server with the user, a store that logs in as that user, and a way to change the user's rights.
func asUser(t *testing.T, cfg redisstore.Config) (*redisstore.Store, func(rules ...string), *vaulttest.Redis) {
	t.Helper()
	r := vaulttest.StartRedis(t)
	set := func(rules ...string) {
		t.Helper()
		if _, err := vaulttest.Command(r.Addr, append([]string{"ACL", "SETUSER", "tokenbroker"}, rules...)...); err != nil {
			t.Fatal(err)
		}
	}
	set(append(rights(t), ">pw")...)
	cfg.URL = strings.Replace(r.URL(), "redis://", "redis://tokenbroker:pw@", 1)
	s, err := redisstore.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, set, r
}

// TestPermissions: whatever the user lacks is named, and how to allow it; with the rights of users.acl it is nothing.
func TestPermissions(t *testing.T) {
	s, set, _ := asUser(t, redisstore.Config{WaitReplicas: 1})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if denied, err := s.Permissions(ctx); err != nil || denied.String() != "" {
		t.Fatalf("with the rights of users.acl: %q, %v", denied, err)
	}
	// These are for some topologies, for a database other than 0, and for one check of durability.
	special := []string{"+select", "+command", "+cluster|slots", "+cluster|info", "+acl|dryrun"}
	tried := 0
	for _, right := range rights(t) {
		command, ok := strings.CutPrefix(right, "+")
		if !ok || slices.Contains(special, right) {
			continue
		}
		tried++
		set("-" + command)
		denied, err := s.Permissions(ctx)
		text := denied.String()
		if err != nil {
			text = err.Error() // the asking itself needs it
			if !errors.Is(err, redisstore.ErrRefused) {
				t.Errorf("without %s: %v", command, err)
			}
		}
		if !strings.Contains(text, "tokenbroker may not run "+command+":") || !strings.Contains(text, "ACL SETUSER tokenbroker +"+command+",") {
			t.Errorf("without %s: %q", command, text)
		}
		if optional := slices.Contains([]string{"info", "wait", "zrevrangebylex", "zlexcount", "append", "strlen", "getrange", "xlen", "xtrim"}, command); err == nil && optional == slices.Contains(denied.Needed, command) {
			t.Errorf("without %s: needed %q, wanted %q", command, denied.Needed, denied.Wanted)
		}
		set("+" + command)
	}
	if tried < 20 {
		t.Errorf("only %d commands were tried", tried)
	}
	set("-xadd", "-hset")
	if denied, err := s.Permissions(ctx); err != nil || !slices.Equal(denied.Needed, []string{"hset", "xadd"}) {
		t.Errorf("without two: %q, %v", denied, err)
	}
	set("+xadd", "+hset", "resetkeys", "~other:*")
	if _, err := s.Permissions(ctx); !errors.Is(err, redisstore.ErrRefused) || !strings.Contains(err.Error(), "ACL SETUSER tokenbroker ~tb:*") {
		t.Errorf("without the keys: %v", err)
	}
}

// TestPermissionsAreComplete: what the scripts run and what a step may ask for are among the commands that are asked about.
func TestPermissionsAreComplete(t *testing.T) {
	source, err := os.ReadFile("permissions.go")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(map[string]bool)
	for _, match := range regexp.MustCompile(`\{"([a-z]+)"`).FindAllStringSubmatch(string(source), -1) {
		asked[match[1]] = true
	}
	called := regexp.MustCompile(`call\('([A-Z]+)'`)
	written := regexp.MustCompile(`WriteKind = "([A-Z]+)"`)
	found := 0
	for file, form := range map[string]*regexp.Regexp{"apply.lua": called, "members.lua": called, "release.lua": called, "refused.lua": called, filepath.Join("..", "backend.go"): written} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range form.FindAllStringSubmatch(string(text), -1) {
			found++
			if !asked[strings.ToLower(match[1])] {
				t.Errorf("%s runs %s, and nobody asks whether it may", file, match[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d commands were found", found)
	}
}

// TestDeniedStepLeavesNothing: a script that fails is not undone, so a step of which any part is denied, also its last,
// writes nothing: neither half of the audit chain.
func TestDeniedStepLeavesNothing(t *testing.T) {
	s, set, server := asUser(t, redisstore.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	step := vault.Step{
		Trail: &vault.TrailStep{Stream: "tb:{00}:stream", Heads: "tb:{00}:heads", Index: "tb:{00}:index", Member: "m", Writer: "w", Next: "n1",
			Entries: []vault.TrailEntry{{Meta: "1", Body: "b"}, {Meta: "2", Body: "b"}}},
		Writes: []vault.Write{
			{Kind: vault.WriteHashSet, Key: "tb:{00}:record", Args: []string{"f", "v"}},
			{Kind: vault.WriteSortedAdd, Key: "tb:{00}:sorted", Args: []string{"0", "m"}},
			{Kind: vault.WritePlace, Key: "tb:{00}:places", Args: []string{"60000", "m"}},
			{Kind: vault.WriteOnly, Key: "tb:{00}:record", Args: []string{"a"}},
			{Kind: vault.WriteDeadline, Key: "tb:{00}:record", Args: []string{"d", "1000"}},
			{Kind: vault.WriteExpireIn, Key: "tb:{00}:record", Args: []string{"60000"}},
		},
	}
	for _, command := range []string{"sadd", "xadd", "hset", "zadd", "zremrangebyscore", "hkeys", "hdel", "pexpire"} {
		set("-" + command)
		r := s.Apply(ctx, []vault.Step{step})[0]
		if r.Err == nil || !strings.Contains(r.Err.Error(), "NOPERM") || !strings.Contains(r.Err.Error(), command) {
			t.Errorf("without %s: %+v", command, r)
		}
		if size, err := vaulttest.Command(server.Addr, "DBSIZE"); err != nil || size != "0" {
			keys, _ := vaulttest.Command(server.Addr, "KEYS", "*")
			t.Fatalf("without %s there are %s keys: %s, %v", command, size, keys, err)
		}
		set("+" + command)
	}
	if r := s.Apply(ctx, []vault.Step{step})[0]; r.Err != nil || r.Verdict != vault.VerdictDone || len(r.IDs) != 2 {
		t.Errorf("with all: %+v", r)
	}
}

// TestDeniedReleaseLeavesNoHalf: the same of a step that lets a token out, which asks for its rights but once.
func TestDeniedReleaseLeavesNoHalf(t *testing.T) {
	s, set, server := asUser(t, redisstore.Config{})
	vaulttest.RunReleaseDenied(t, s, vaulttest.Topology{URL: server.URL(), Addrs: []string{server.Addr}}, set)
}

// TestRefusedIsNamed: a server that answers and refuses is told from one that keeps nothing, or tells nothing.
func TestRefusedIsNamed(t *testing.T) {
	clear, secure := vaulttest.StartRedis(t), vaulttest.StartRedisTLS(t)
	if _, err := vaulttest.Command(clear.Addr, "ACL", "SETUSER", "u", "on", ">pw", "~*", "+@all"); err != nil {
		t.Fatal(err)
	}
	guarded := vaulttest.StartRedis(t)
	if _, err := vaulttest.Command(guarded.Addr, "ACL", "SETUSER", "default", ">canary"); err != nil {
		t.Fatal(err)
	}
	sentinel := vaulttest.StartSentinel(t)
	ask := func(cfg redisstore.Config) (problems []string, err error) {
		t.Helper()
		cfg.IOTimeout = 10 * time.Second
		s, err := redisstore.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return s.CheckDurability(ctx)
	}
	unknown := regexp.MustCompile(`/[^/]+$`).ReplaceAllString(sentinel.URL(), "/nosuch")
	for _, c := range []struct {
		cfg     redisstore.Config
		says    string
		refused bool
	}{
		{redisstore.Config{URL: "redis://u:canary@" + clear.Addr}, "refuses the user or the password", true},
		{redisstore.Config{URL: "redis://nobody:canary@" + clear.Addr}, "refuses the user or the password", true},
		{redisstore.Config{URL: guarded.URL()}, "wants a user and a password", true},
		{redisstore.Config{URL: unknown}, `knows no master of the name "nosuch"`, true},
		{redisstore.Config{URL: secure.URL()}, "redis_tls", false},
		{redisstore.Config{URL: "redis://" + secure.Addr}, "rediss://", false},
		{redisstore.Config{URL: "redis://127.0.0.1:1"}, "can't be reached (127.0.0.1:1)", false},
	} {
		problems, err := ask(c.cfg)
		if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, redisstore.ErrRefused) != c.refused || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v, %v; want it to say %q, refused: %v", c.cfg.URL, problems, err, c.says, c.refused)
		}
	}
}

// TestHangIsNamed: what hangs is said in words, not as the name of an error.
func TestHangIsNamed(t *testing.T) {
	r := vaulttest.StartRedis(t)
	s, err := redisstore.New(redisstore.Config{URL: r.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r.Pause()
	defer r.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Health(ctx); err == nil || !strings.Contains(err.Error(), "does not answer in time") || strings.Contains(err.Error(), "deadline") {
		t.Errorf("a server that hangs: %v", err)
	}
}
