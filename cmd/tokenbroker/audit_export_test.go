package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tokenbroker/vault/vaulttest"
)

// TestThreat71Export: an export is verified where there is nothing but the file and a public key, and a damaged one names the place.
func TestThreat71Export(t *testing.T) {
	t.Parallel()
	redis := vaulttest.StartRedis(t)
	s, key := signedSite(t, redis.URL(), "")
	p := s.serve()
	for range 40 {
		if status, body := p.post("/v1/tokens", `{"connector":"files","subject":"ann","scopes":["files.read"],"reason":"<&>"}`); status != http.StatusConflict {
			t.Fatalf("%d %s", status, body)
		}
	}
	p.signal(syscall.SIGTERM)
	p.end()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--out", "all.zst"}, "the archive is whole: 41 events in 41 entries; 41 are signed in"},
		{[]string{"--out", "some.zst", "--tenant", "acme", "--subject", "ann", "--type", "token.refused"}, "the archive is a selection, and as it was written: 40 events in 40 entries; 40 are signed in"},
		{[]string{"--out", "none.zst", "--since", "2100-01-01"}, "the archive is a selection, and as it was written: 0 events"},
	} {
		if status, stdout, stderr := s.run(append([]string{"audit", "export", "--config", "config.yaml"}, c.args...)...); status != exitFine {
			t.Fatalf("export: %d %s%s", status, stdout, stderr)
		}
		if status, stdout, stderr := s.run("audit", "verify", "--archive", c.args[1], "--key", key); status != exitFine || !strings.Contains(stdout, c.want) {
			t.Errorf("%v: %d %s%s", c.args, status, stdout, stderr)
		}
	}
	if status, _, stderr := s.run("audit", "export", "--config", "config.yaml", "--out", "all.zst"); status != exitFound || !strings.Contains(stderr, "exists already") {
		t.Errorf("over another file: %d %s", status, stderr)
	}
	// No event can have that type: nothing found would look as if there were none of those that were meant.
	status, _, stderr := s.run("audit", "export", "--config", "config.yaml", "--out", "slip.zst", "--type", "token.isued")
	if status != exitUsage || !strings.Contains(stderr, "token.issued") || strings.Contains(stderr, "token.isued") {
		t.Errorf("a type that no event has: %d %s", status, stderr)
	}
	packed, err := os.ReadFile(filepath.Join(s.dir, "all.zst"))
	if err != nil {
		t.Fatal(err)
	}
	if status, stdout, _ := s.run("audit", "verify", "--archive", "all.zst"); status != exitFine || !strings.Contains(stdout, "for want of --key") {
		t.Errorf("without a key: %d %s", status, stdout)
	}
	damaged := []byte(string(packed))
	damaged[len(damaged)/2] ^= 1
	s.write("damaged.zst", string(damaged))
	s.write("short.zst", string(packed[:len(packed)*2/3]))
	for _, name := range []string{"damaged.zst", "short.zst"} {
		if status, stdout, stderr := s.run("audit", "verify", "--archive", name, "--key", key); status != exitFound || !strings.Contains(stderr, "the first bad event is") || !strings.Contains(stderr, name) || !strings.Contains(stderr, "another copy") {
			t.Errorf("%s: %d %s%s", name, status, stdout, stderr)
		}
	}
}
