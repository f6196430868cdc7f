package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenbroker/vault/vaulttest"
)

// publishedSite is a signed site that has run, with three lines of checkpoints. Redis is gone, and the configuration is in other.yaml.
func publishedSite(t *testing.T) (s *site, key string, lines []string) {
	t.Helper()
	redis := vaulttest.StartRedis(t)
	s, key = signedSite(t, redis.URL(), "")
	p := s.serve()
	read := func() []string {
		content, err := os.ReadFile(filepath.Join(s.dir, "checkpoints.jsonl"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return strings.SplitAfter(strings.TrimSpace(string(content))+"\n", "\n")
	}
	for n := 1; n <= 2; n++ {
		if status, body := p.post("/v1/consents", `{"connector":"files","subject":"ann","scopes":["files.read"]}`); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		for end := time.Now().Add(patience); strings.Count(strings.Join(read(), ""), `"checkpoint"`) < n; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("no checkpoint is published")
			}
		}
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Fatalf("it ended with %d: %s", code, p.logged())
	}
	if lines = read(); len(lines) < 4 {
		t.Fatalf("%d lines were published", len(lines))
	}
	return s, key, lines
}

// TestThreat71PublishedAlone: who has the published checkpoints and the public key verifies them without Redis, keys or a configuration, and without
// taking the broker's word for what its key is.
func TestThreat71PublishedAlone(t *testing.T) {
	t.Parallel()
	s, key, lines := publishedSite(t)
	_, other := signedSite(t, "redis://127.0.0.1:1", "")
	config, err := os.ReadFile(filepath.Join(s.dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("one.jsonl", lines[0])
	s.write("rest.jsonl", strings.Join(lines[1:], ""))
	s.write("gap.jsonl", lines[0]+strings.Join(lines[2:], ""))
	s.write("late.jsonl", strings.Join(lines[1:], ""))
	s.write("changed.jsonl", strings.Replace(strings.Join(lines, ""), `"entries":1`, `"entries":2`, 1))
	s.write("none.jsonl", "")
	for _, name := range []string{"config.yaml", "keyset.json", "audit-key.json"} {
		if err := os.Remove(filepath.Join(s.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	const of = "http://127.0.0.1:8080"
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--checkpoints", "checkpoints.jsonl", "--key", key}, exitFine, "checkpoints of 1 log, signed by " + of + ", the last one at "},
		{[]string{"--checkpoints", "checkpoints.jsonl", "--key", key, "--installation", of}, exitFine, "the checkpoints are whole"},
		{[]string{"--checkpoints", "one.jsonl", "--checkpoints", "rest.jsonl", "--key", key}, exitFine, "the checkpoints are whole"},
		{[]string{"--checkpoints", "checkpoints.jsonl", "--key", key, "--installation", "https://other.example"}, exitFound, `is of the installation "` + of + `", which has the same key`},
		{[]string{"--checkpoints", "checkpoints.jsonl", "--key", other}, exitFound, "is not signed by a key that is known here"},
		{[]string{"--checkpoints", "gap.jsonl", "--key", key}, exitFound, "dropped: 1 checkpoint behind it are missing"},
		{[]string{"--checkpoints", "late.jsonl", "--key", key}, exitFound, "dropped: 1 checkpoint before it are missing"},
		{[]string{"--checkpoints", "changed.jsonl", "--key", key}, exitFound, "changed or forged"},
		{[]string{"--checkpoints", "none.jsonl", "--key", key}, exitFound, "there is no checkpoint in none.jsonl"},
		{[]string{"--checkpoints", "checkpoints.jsonl"}, exitUsage, "--checkpoints needs --key"},
	} {
		status, stdout, stderr := s.run(append([]string{"audit", "verify"}, c.args...)...)
		if status != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%v: %d %s%s", c.args, status, stdout, stderr)
		}
	}
	s.write("config.yaml", string(config))
}

// TestAuditVerifyCombinations: what would not do what it looks like is refused, and the help says which combinations there are.
func TestAuditVerifyCombinations(t *testing.T) {
	t.Parallel()
	s := &site{t: t, dir: vaulttest.Dir(t)}
	for _, args := range [][]string{
		{}, {"x"}, {"--key", "ed25519:AA"}, {"--config", "c", "--archive", "a"}, {"--config", "c", "--proof", "p"}, {"--archive", "a", "--proof", "p"},
		{"--archive", "a", "--checkpoints", "f"}, {"--archive", "a", "--strict"}, {"--archive", "a", "--unsigned"}, {"--config", "c", "--unsigned"}, {"--checkpoints", "f", "--strict"},
	} {
		if status, stdout, stderr := s.run(append([]string{"audit", "verify"}, args...)...); status != exitUsage || !strings.Contains(stderr, "--help") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d %s%s", args, status, stdout, stderr)
		}
	}
	status, help, _ := s.run("audit", "verify", "--help")
	for _, want := range []string{"--checkpoints FILE... --key KEY...", "--archive FILE...", "--proof FILE --key KEY...", "--config FILE [--checkpoints FILE...]"} {
		if status != exitFine || !strings.Contains(help, want) {
			t.Errorf("the help lacks %q: %d\n%s", want, status, help)
		}
	}
}

// TestThreat71KeyInTheWrongPlace: whoever gives the key does not take the one of the broker's machine for it.
func TestThreat71KeyInTheWrongPlace(t *testing.T) {
	t.Parallel()
	redis := vaulttest.StartRedis(t)
	s, own := signedSite(t, redis.URL(), "")
	_, other := signedSite(t, "redis://127.0.0.1:1", "")
	for _, c := range []struct {
		keys []string
		code int
		says string
	}{
		{[]string{other}, exitFound, "signs with another key than those given with --key"},
		{[]string{own}, exitFine, "the audit trail is whole"},
		{[]string{other, own}, exitFine, "the audit trail is whole"},
		{nil, exitFine, "the audit trail is whole"},
	} {
		args := []string{"audit", "verify", "--config", "config.yaml"}
		for _, key := range c.keys {
			args = append(args, "--key", key)
		}
		if status, stdout, stderr := s.run(args...); status != c.code || !strings.Contains(stdout+stderr, c.says) {
			t.Errorf("%v: %d %s%s", c.keys, status, stdout, stderr)
		}
	}
}
