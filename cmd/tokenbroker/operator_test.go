package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tokenbroker/vault/vaulttest"
)

// deniedRedis is a Redis with a user that has what deploy/redis/users.acl gives, and a way to change that.
func deniedRedis(t *testing.T) (url string, set func(rules ...string)) {
	t.Helper()
	users, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", "users.acl"))
	if err != nil {
		t.Fatal(err)
	}
	redis := vaulttest.StartRedis(t)
	set = func(rules ...string) {
		t.Helper()
		if _, err := vaulttest.Command(redis.Addr, append([]string{"ACL", "SETUSER", "tokenbroker"}, rules...)...); err != nil {
			t.Fatal(err)
		}
	}
	set(append(strings.Fields(regexp.MustCompile(`(?m)^user tokenbroker .*$`).FindString(string(users)))[2:], ">canary")...)
	return strings.Replace(redis.URL(), "redis://", "redis://tokenbroker:canary@", 1), set
}

// TestDeniedCommandIsNamed: at start it ends serve with the line that mends it; later /readyz says so, requests are refused
// for the time being and the log has the cause; mended, all goes on.
func TestDeniedCommandIsNamed(t *testing.T) {
	url, set := deniedRedis(t)
	s := newSite(t, url, "")
	set("-xadd")
	if status, _, stderr := s.run("serve", "--config", "config.yaml"); status != exitFound || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "ACL SETUSER tokenbroker +xadd") {
		t.Errorf("serve: %d %q", status, stderr)
	}
	set("+xadd")
	p := s.serve()
	const request = `{"connector":"files","subject":"u"}`
	if status, body := p.post("/v1/consents", request); status != http.StatusCreated {
		t.Fatalf("with all rights: %d %s", status, body)
	}
	set("-xadd")
	if status, checks := p.checks(); status != http.StatusServiceUnavailable || !strings.Contains(checks["permissions"], "may not run xadd: ACL SETUSER tokenbroker +xadd,") {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	if status, body := p.post("/v1/consents", `{"connector":"files","subject":"v"}`); status != http.StatusServiceUnavailable {
		t.Errorf("without xadd: %d %s", status, body)
	}
	if log := p.logged(); !strings.Contains(log, "the user may not run xadd") || strings.Contains(log, "canary") {
		t.Errorf("log:\n%s", log)
	}
	set("+xadd", "-info", "-set")
	if status, checks := p.checks(); status != http.StatusServiceUnavailable || !strings.Contains(checks["permissions"], "+set +info") {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	set("+info", "+set")
	if status, checks := p.checks(); status != http.StatusOK || checks["permissions"] != "ok" {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	if status, body := p.post("/v1/consents", `{"connector":"files","subject":"v"}`); status != http.StatusCreated {
		t.Errorf("with all rights again: %d %s", status, body)
	}
	// A step that was denied left nothing half done.
	if status, stdout, stderr := s.run("audit", "verify", "--config", "config.yaml"); status != exitFine {
		t.Errorf("audit verify: %d %s %s", status, stdout, stderr)
	}
}

// TestWrongPasswordIsNamed: it is no Redis that keeps nothing.
func TestWrongPasswordIsNamed(t *testing.T) {
	url, _ := deniedRedis(t)
	s := newSite(t, strings.Replace(url, "canary", "canary-wrong", 1), "")
	status, _, stderr := s.run("serve", "--config", "config.yaml")
	if status != exitFound || !strings.Contains(stderr, "refuses the user or the password") || strings.Contains(stderr, "allow_volatile") || strings.Contains(stderr, "canary") {
		t.Errorf("serve: %d %q", status, stderr)
	}
}

// TestWrongKindOfRedisIsNamed: a number of a database that is not there, and a server and a URL of which one is a cluster's.
func TestWrongKindOfRedisIsNamed(t *testing.T) {
	alone, cluster := vaulttest.StartRedis(t), vaulttest.StartCluster(t)
	for name, test := range map[string]struct{ url, says string }{
		"no such database":       {"redis://" + alone.Addr + "/99", "no database of that number"},
		"a cluster's URL":        {"redis-cluster://" + alone.Addr, "write redis:// in place of redis-cluster://"},
		"one server's URL":       {"redis://" + cluster.Addrs()[0], "write redis-cluster:// in place of redis://"},
		"a number, of a cluster": {"redis://" + cluster.Addrs()[0] + "/1", "write redis-cluster:// in place of redis://"},
	} {
		status, _, stderr := newSite(t, test.url, "").run("serve", "--config", "config.yaml")
		if status != exitFound || !strings.Contains(stderr, test.says) {
			t.Errorf("%s: %d %q, want %q", name, status, stderr, test.says)
		}
	}
}

// TestSpoolTrouble: a spool that can't be written to, and a token that waits in it, are told in /readyz and /metrics, and the
// process serves all the same.
func TestSpoolTrouble(t *testing.T) {
	s := newSite(t, vaulttest.StartRedis(t).URL(), "")
	p := s.serve()
	metric := func(line string) bool {
		_, metrics := p.get(p.ops+"/metrics", "")
		return strings.Contains(metrics, "\n"+line+"\n")
	}
	for _, line := range []string{"tokenbroker_spool_waiting 0", "tokenbroker_spool_oldest_seconds 0", "tokenbroker_spool_writable 1", "tokenbroker_spool_unreadable 0", `tokenbroker_store_events_total{event="spool_failed"} 0`} {
		if !metric(line) {
			_, metrics := p.get(p.ops+"/metrics", "")
			t.Errorf("/metrics lacks %s:\n%s", line, metrics)
		}
	}
	if status, checks := p.checks(); status != http.StatusOK || checks["spool"] != "ok" {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	s.write("spool/damaged.spool", "canary")
	eventually(t, "the damaged file is told", func() bool {
		status, checks := p.checks()
		return status == http.StatusOK && strings.Contains(checks["spool"], "1 file in spool_dir can't be read, damaged.spool the first")
	})
	if !metric("tokenbroker_spool_waiting 1") || !metric("tokenbroker_spool_unreadable 1") {
		t.Error("/metrics knows nothing of it")
	}
	if err := os.Rename(filepath.Join(s.dir, "spool"), filepath.Join(s.dir, "away")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a spool that is gone is told", func() bool {
		status, checks := p.checks()
		return status == http.StatusOK && strings.Contains(checks["spool"], "can't be")
	})
	if !metric("tokenbroker_spool_writable 0") {
		t.Error("/metrics knows nothing of it")
	}
	if err := os.Rename(filepath.Join(s.dir, "away"), filepath.Join(s.dir, "spool")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.dir, "spool", "damaged.spool")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is well again", func() bool { _, checks := p.checks(); return checks["spool"] == "ok" })
}

// TestOutageIsFewLines: a Redis that is away makes one line, and one when it is back.
func TestOutageIsFewLines(t *testing.T) {
	redis := vaulttest.StartRedis(t)
	p := newSite(t, redis.URL(), "log_level: debug\n").serve()
	logged := func(what string) int { return strings.Count(p.logged(), what) }
	redis.Kill()
	const sweep = `"level":"DEBUG","msg":"expired consents could not be read"`
	eventually(t, "the sweeps go on, at level debug", func() bool { return logged(sweep) >= 2 })
	redis.Start()
	eventually(t, "the end is told", func() bool { return logged(`"level":"INFO","msg":"redis can be used again","after":`) == 1 })
	if begins, warned, failed := logged(`"level":"ERROR","msg":"redis can't be used: `), logged(`"level":"WARN"`), logged(`"level":"ERROR"`); begins != 1 || warned != 0 || failed != 1 {
		t.Errorf("%d beginnings, %d warnings, %d errors:\n%s", begins, warned, failed, p.logged())
	}
}
