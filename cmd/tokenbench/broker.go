package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tokenbroker/vault"
)

// house is what the replicas of one measurement share: keys, configuration, Redis, provider.
type house struct {
	dir      string
	kek      string // base64
	redisURL string
	provider *providerServer
	replicas int
}

// brokerServer is a replica, running.
type brokerServer struct {
	*process
	address string
	ops     string
	ready   time.Duration // from the start of the process to /readyz saying yes
}

// buildBroker builds the program as make build does.
func (b *bench) buildBroker(ctx context.Context) (string, error) {
	out := filepath.Join(b.dir, "tokenbroker")
	args := []string{"build"}
	environment := os.Environ()
	if !b.options.FastBuild {
		args = append(args, "-trimpath", "-ldflags", "-s -w -X main.version=bench -X main.commit=bench")
		environment = append(environment, "CGO_ENABLED=0")
	}
	if b.options.Profile {
		args = append(args, "-tags", "profile")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", out, "tokenbroker/cmd/tokenbroker")...)
	cmd.Env = environment
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the broker: %w\n%s", err, text)
	}
	return out, nil
}

// newHouse makes keys and a configuration; more is appended to it.
func (b *bench) newHouse(redisURL string, provider *providerServer, more string) (*house, error) {
	dir, err := os.MkdirTemp(b.dir, "broker-")
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	h := &house{dir: dir, kek: base64.StdEncoding.EncodeToString(raw), redisURL: redisURL, provider: provider}
	kek, err := vault.NewKEK(raw, "the bench")
	if err != nil {
		return nil, err
	}
	content, err := vault.CreateKeyset(kek, time.Now())
	if err != nil {
		return nil, err
	}
	if err := vault.CreateKeysetFile(filepath.Join(dir, "keyset.json"), content); err != nil {
		return nil, err
	}
	return h, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(configuration(provider.address)+more), 0o600)
}

// keyset is what the replicas open records with.
func (h *house) keyset() (*vault.Keyset, error) {
	content, err := vault.ReadKeysetFile(filepath.Join(h.dir, "keyset.json"))
	if err != nil {
		return nil, err
	}
	kek, err := vault.ParseKEK("env:KEK", func(string) string { return h.kek })
	if err != nil {
		return nil, err
	}
	return vault.OpenKeyset(content, kek)
}

// configuration has everything switched on: several tenants and clients, ceilings of scopes, a spool, the dashboard, the
// access log at its default level. Metrics and spans are always made; OTLP sends them only where variables say so.
func configuration(provider string) string {
	digest := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	list := "[" + strings.Join(benchScopes(), ", ") + "]"
	return fmt.Sprintf(`listen: ${LISTEN}
ops_listen: ${OPS_LISTEN}
public_url: http://127.0.0.1
redis: ${REDIS}
keyset: {file: keyset.json, kek: "env:TOKENBROKER_KEK"}
spool_dir: ${SPOOL}
shutdown_delay: 0s
limits: {client: &wide {rate: 10000000, pending_consents: 10000000}, tenant: *wide, subject: {rate: 10000000}, address: {pending_consents: 10000000}}
dashboard:
  token_sha256: %[1]s
clients:
  - id: %[2]s
    name: Acme Chat
    tenant: %[3]s
    key_sha256: [%[4]s]
    connectors: [%[5]s, other]
    scopes: %[6]s
    return_to: ["http://127.0.0.1:3000/done"]
    origins: ["http://127.0.0.1:3000"]
  - id: rival
    tenant: rival
    key_sha256: [%[7]s]
connectors:
  - {id: %[5]s, provider: bench, client_id: %[8]s, client_secret: "${PROVIDER_SECRET}", scopes: %[6]s, default_scopes: [files.read]}
  - {id: other, provider: bench, client_id: %[8]s, client_secret: "${PROVIDER_SECRET}", scopes: %[6]s, default_scopes: [files.read]}
providers:
  - id: bench
    name: Bench Files
    issuer: http://%[9]s
    authorization_endpoint: http://%[9]s/authorize
    token_endpoint: http://%[9]s/token
    revocation_endpoint: http://%[9]s/revoke
    userinfo_endpoint: http://%[9]s/userinfo
    token_endpoint_auth_method: client_secret_basic
    pkce: S256
    scope_separator: " "
    offline_scopes: [offline_access]
    rotation: strict
`, digest(dashboardToken), benchClient, benchTenant, digest(benchKey), benchConnector, list, digest("tb_rival"), providerClient, provider)
}

// startBroker starts a replica and waits until it is ready.
func (b *bench) startBroker(ctx context.Context, h *house, env ...string) (*brokerServer, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	ops, err := freeAddress()
	if err != nil {
		return nil, err
	}
	h.replicas++
	all := append(os.Environ(), "TOKENBROKER_KEK="+h.kek, "PROVIDER_SECRET="+h.provider.secret, "LISTEN="+address, "OPS_LISTEN="+ops,
		"REDIS="+h.redisURL, fmt.Sprintf("SPOOL=spool-%d", h.replicas))
	if b.options.Profile {
		dir := filepath.Join(h.dir, profileDir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		all = append(all, "TOKENBROKER_PROFILE_DIR="+dir)
	}
	p, err := b.start("broker", h.dir, append(all, env...), b.brokerProgram, "serve", "--config", "config.yaml")
	if err != nil {
		return nil, err
	}
	s := &brokerServer{process: p, address: address, ops: ops}
	err = p.waitFor(ctx, "ready", func(ctx context.Context) error { return getOK(ctx, "http://"+ops+"/readyz") })
	s.ready = time.Since(p.since)
	return s, err
}
