package main

import (
	"net/http"
	"strings"
	"testing"

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
