package main

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenbroker/vault/vaulttest"
)

// TestAuditVerify drops an event behind the broker's back; verify must name the place and exit 1.
func TestAuditVerify(t *testing.T) {
	redis := vaulttest.StartRedis(t)
	s := newSite(t, redis.URL(), "")
	p := s.serve()
	for range 3 {
		status, body := p.post("/v1/consents", `{"connector":"files","subject":"canary-subject","scopes":["files.read"]}`)
		if status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
	}
	status, stdout, stderr := s.run("audit", "verify", "--config", "config.yaml")
	if status != exitFine || !strings.Contains(stdout, "the audit trail is whole") || strings.Contains(stdout, " 0 events") {
		t.Fatalf("status %d: %s%s", status, stdout, stderr)
	}
	keys, err := vaulttest.Command(redis.Addr, "KEYS", "tb:*:a:*")
	if err != nil || keys == "" {
		t.Fatalf("no stream: %v", err)
	}
	stream := strings.Fields(keys)[0]
	entries, err := vaulttest.Command(redis.Addr, "XRANGE", stream, "-", "+", "COUNT", "1")
	if err != nil {
		t.Fatal(err)
	}
	first := strings.Fields(entries)[0]
	if _, err := vaulttest.Command(redis.Addr, "XDEL", stream, first); err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr = s.run("audit", "verify", "--config", "config.yaml")
	if status != exitFound || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "first bad event") || strings.Contains(stdout+stderr, "canary") {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}

// signedSite is a site whose trail is signed every second, and published to a file.
func signedSite(t *testing.T, redisURL, more string) (s *site, key string) {
	t.Helper()
	s = newSite(t, redisURL, "audit: {signing_key: audit-key.json, checkpoint_every: 1s, publish: {file: checkpoints.jsonl}"+more+"}\n")
	status, key, stderr := s.run("audit", "key", "--create", "--file", "audit-key.json", "--kek", "env:TOKENBROKER_KEK")
	if status != exitFine || !strings.HasPrefix(key, "ed25519:") {
		t.Fatalf("audit key: %d %s%s", status, key, stderr)
	}
	return s, strings.TrimSpace(key)
}

// TestThreat71PublishedCheckpoints: a stream that is gone from Redis with all that tells of it, and the checkpoints that lie there, is
// missed by what was published.
func TestThreat71PublishedCheckpoints(t *testing.T) {
	t.Parallel()
	redis := vaulttest.StartRedis(t)
	s, key := signedSite(t, redis.URL(), "")
	p := s.serve()
	for i := range 3 {
		status, body := p.post("/v1/consents", `{"connector":"files","subject":"subject-`+strconv.Itoa(i)+`","scopes":["files.read"]}`)
		if status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
	}
	p.signal(syscall.SIGTERM)
	if code := p.end(); code != 0 {
		t.Fatalf("it ended with %d: %s", code, p.logged())
	}
	status, stdout, stderr := s.run("audit", "verify", "--config", "config.yaml", "--strict")
	if status != exitFine || !strings.Contains(stdout, "3 entries are as") || !strings.Contains(stdout, "of 1 log, signed") {
		t.Fatalf("untouched: status %d: %s%s", status, stdout, stderr)
	}
	published, err := os.ReadFile(filepath.Join(s.dir, "checkpoints.jsonl"))
	if err != nil || len(published) == 0 || strings.Contains(string(published), "subject-") {
		t.Fatalf("published: %v\n%s", err, published)
	}
	keys, err := vaulttest.Command(redis.Addr, "KEYS", "tb:*:a:*")
	if err != nil {
		t.Fatal(err)
	}
	stream := strings.Fields(keys)[0]
	for _, c := range [][]string{
		{"DEL", stream}, {"DEL", strings.Replace(stream, ":a:", ":h:", 1)}, {"SREM", stream[:len("tb:{00}:")] + "t", "acme"}, {"DEL", "tb:{00}:cp"},
	} {
		if _, err := vaulttest.Command(redis.Addr, c...); err != nil {
			t.Fatal(err)
		}
	}
	s.write("elsewhere.jsonl", string(published)+"\n{\"torn")
	if err := os.Remove(filepath.Join(s.dir, "checkpoints.jsonl")); err != nil {
		t.Fatal(err)
	}
	if status, stdout, _ := s.run("audit", "verify", "--config", "config.yaml"); status != exitFine {
		t.Errorf("with nothing left it should look whole: %s", stdout)
	}
	status, stdout, stderr = s.run("audit", "verify", "--config", "config.yaml", "--checkpoints", "elsewhere.jsonl", "--key", key)
	if status != exitFound || !strings.Contains(stderr, "tampered") || !strings.Contains(stderr, "nothing is left of a stream") || !strings.Contains(stdout, "1 line of elsewhere.jsonl") {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}

// TestCheckpointGauges: /metrics says which place lacks checkpoints, and how old the newest one is where it is.
func TestCheckpointGauges(t *testing.T) {
	t.Parallel()
	s, _ := signedSite(t, vaulttest.StartRedis(t).URL(), "")
	text, err := os.ReadFile(filepath.Join(s.dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("config.yaml", strings.Replace(string(text), "file: checkpoints.jsonl", "file: later/checkpoints.jsonl", 1))
	p := s.serve()
	if status, body := p.post("/v1/consents", `{"connector":"files","subject":"ann","scopes":["files.read"]}`); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	says := func(lines ...string) {
		t.Helper()
		var metrics string
		for end := time.Now().Add(2 * patience); ; time.Sleep(50 * time.Millisecond) {
			if _, metrics = p.get(p.ops+"/metrics", ""); !slices.ContainsFunc(lines, func(line string) bool { return !regexp.MustCompile("(?m)^" + line).MatchString(metrics) }) {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("it lacks one of %q:\n%s", lines, metrics)
			}
		}
	}
	const failing, age = "tokenbroker_audit_checkpoint_failing", "tokenbroker_audit_checkpoint_age_seconds"
	says(failing+`{.*place="file checkpoints.jsonl".*} 1`, failing+`{.*place="redis".*} 0`, failing+`{.*place="signing".*} 0`, age+`{.*place="redis".*} [0-9]`)
	if _, metrics := p.get(p.ops+"/metrics", ""); regexp.MustCompile(age + `{.*place="file`).MatchString(metrics) {
		t.Error("a checkpoint that is not there has an age")
	}
	if err := os.Mkdir(filepath.Join(s.dir, "later"), 0o700); err != nil {
		t.Fatal(err)
	}
	says(failing+`{.*place="file checkpoints.jsonl".*} 0`, age+`{.*place="file checkpoints.jsonl".*} [0-9]`)
}

// TestAuditKeys: keys can be added, the old ones still verify, and nothing but the public halves is ever printed.
func TestAuditKeys(t *testing.T) {
	t.Parallel()
	redis := vaulttest.StartRedis(t)
	s, first := signedSite(t, redis.URL(), "")
	consent := func(p *process) {
		t.Helper()
		if status, body := p.post("/v1/consents", `{"connector":"files","subject":"a","scopes":["files.read"]}`); status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		p.signal(syscall.SIGTERM)
		if code := p.end(); code != 0 {
			t.Fatalf("it ended with %d: %s", code, p.logged())
		}
	}
	consent(s.serve())
	status, both, stderr := s.run("audit", "key", "--rotate", "--file", "audit-key.json", "--kek", "env:TOKENBROKER_KEK")
	if status != exitFine || !strings.HasPrefix(both, first+"\n") || strings.Count(both, "ed25519:") != 2 {
		t.Fatalf("rotated: %d %q %q", status, both, stderr)
	}
	if status, listed, _ := s.run("audit", "key", "--file", "audit-key.json"); status != exitFine || listed != both {
		t.Errorf("listed: %d %q", status, listed)
	}
	if status, _, stderr := s.run("audit", "key", "--create", "--file", "audit-key.json", "--kek", "env:TOKENBROKER_KEK"); status != exitFound || !strings.Contains(stderr, "exists already") {
		t.Errorf("created over another: %d %q", status, stderr)
	}
	consent(s.serve())
	if status, stdout, stderr := s.run("audit", "verify", "--config", "config.yaml", "--strict"); status != exitFine || !strings.Contains(stdout, "of 2 logs, signed") {
		t.Errorf("with both: %d %q %q", status, stdout, stderr)
	}
	s.write("old.pub", first+"\n")
	text, err := os.ReadFile(filepath.Join(s.dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("plain.yaml", strings.Split(string(text), "audit:")[0])
	if status, _, stderr := s.run("audit", "verify", "--config", "plain.yaml", "--key", "old.pub"); status != exitFound || !strings.Contains(stderr, "is not signed by a key that is known here") {
		t.Errorf("with the old one alone: %d %q", status, stderr)
	}
}
