package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tokenbroker/vault/vaulttest"
)

// TestServeOverTLS: a Redis with a certificate of a private CA, that asks for ours and for a user with no more than the
// commands that are needed. Without the CA's file the process says what is missing.
func TestServeOverTLS(t *testing.T) {
	users, err := os.ReadFile(filepath.Join("..", "..", "deploy", "redis", "users.acl"))
	if err != nil {
		t.Fatal(err)
	}
	acl := filepath.Join(vaulttest.Dir(t), "users.acl")
	text := strings.Replace(string(users), "user tokenbroker on resetpass", "user tokenbroker on >canary-redis-password", 1)
	if err := os.WriteFile(acl, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	redis := vaulttest.StartRedisTLS(t, "--tls-auth-clients", "yes", "--aclfile", acl)
	url := redis.URLAs("tokenbroker", "canary-redis-password")

	s := newSite(t, url, fmt.Sprintf("redis_tls: {ca_file: %q, cert_file: %q, key_file: %q}\n", redis.CAFile, redis.CertFile, redis.KeyFile))
	p := s.serve()
	eventually(t, "ready", func() bool { status, _ := p.checks(); return status == http.StatusOK })
	if status, body := p.post("/v1/consents", `{"connector":"files","subject":"a{b}c"}`); status != http.StatusCreated {
		t.Errorf("%d %s", status, body)
	}
	if status, body := p.get(p.api+"/v1/events", testKey); status != http.StatusOK || !strings.Contains(body, "consent.created") {
		t.Errorf("%d %s", status, body)
	}
	if status, stdout, stderr := s.run("audit", "verify", "--config", "config.yaml"); status != exitFine {
		t.Errorf("audit verify: %d %s%s", status, stdout, stderr)
	}
	if strings.Contains(p.logged(), "canary") {
		t.Error("a password is in the log")
	}

	bare := newSite(t, url, "").serve()
	eventually(t, "what is missing", func() bool {
		status, checks := bare.checks()
		return status == http.StatusServiceUnavailable && strings.Contains(checks["redis"], "CA")
	})
}
