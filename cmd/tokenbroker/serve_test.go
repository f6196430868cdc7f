package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tokenbroker/vault/vaulttest"
)

const (
	testKEK = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
	testKey = "tb_test-key-of-acme"
	// patience bounds every wait: a test that waits so long has failed.
	patience = 20 * time.Second
)

// site is a folder with a configuration and a keyset, for brokers that run as processes.
type site struct {
	t   *testing.T
	dir string
}

// newSite writes the configuration for that Redis; more is appended to it.
func newSite(t *testing.T, redisURL, more string) *site {
	t.Helper()
	s := &site{t: t, dir: vaulttest.Dir(t)}
	digest := sha256.Sum256([]byte(testKey))
	s.write("config.yaml", fmt.Sprintf(`listen: 127.0.0.1:0
ops_listen: 127.0.0.1:0
public_url: http://127.0.0.1:8080
redis: %s
keyset: {file: keyset.json, kek: env:TOKENBROKER_KEK}
spool_dir: spool
shutdown_delay: 300ms
clients:
  - {id: acme-chat, tenant: acme, key_sha256: [%s]}
connectors:
  - {id: files, provider: rig, client_id: abc, client_secret: "${FILES_SECRET}", scopes: [files.read]}
providers:
  - id: rig
    name: Rig Files
    authorization_endpoint: http://127.0.0.1:1/auth
    token_endpoint: http://127.0.0.1:1/token
    token_endpoint_auth_method: client_secret_basic
%s`, redisURL, hex.EncodeToString(digest[:]), more))
	if status, _, stderr := s.run("keyset", "create", "--out", "keyset.json", "--kek", "env:TOKENBROKER_KEK"); status != 0 {
		t.Fatalf("keyset create: %d %s", status, stderr)
	}
	return s
}

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "tokenbroker", args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "TOKENBROKER_KEK="+testKEK, "FILES_SECRET=canary-files-secret")
	return cmd
}

// run runs a command to its end, which must come.
func (s *site) run(args ...string) (status int, stdout, stderr string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := s.command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// process is a running broker.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	api, ops string
	done     chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

// serve starts a broker and waits until it listens.
func (s *site) serve() *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: s.command(s.t.Context(), "serve", "--config", "config.yaml"), done: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	listening := make(chan struct{})
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			var line struct {
				Msg    string `json:"msg"`
				Listen string `json:"listen"`
				Ops    string `json:"ops_listen"`
			}
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" {
				p.api, p.ops = "http://"+line.Listen, "http://"+line.Ops
				close(listening)
			}
			p.mu.Lock()
			p.log.WriteString(lines.Text() + "\n")
			p.mu.Unlock()
		}
		_ = p.cmd.Wait()
	}()
	s.t.Cleanup(func() { _ = p.cmd.Process.Kill(); <-p.done })
	select {
	case <-listening:
	case <-p.done:
		s.t.Fatalf("serve ended:\n%s", p.logged())
	case <-time.After(patience):
		s.t.Fatalf("serve does not listen:\n%s", p.logged())
	}
	return p
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// get returns status and body; status 0 is no answer.
func (p *process) get(url, key string) (int, string) { return p.send(http.MethodGet, url, key, "") }

// post sends JSON to the API with the client's key.
// post calls the API; a store that a busy machine holds up is asked again, as the contract says, twice at most.
func (p *process) post(path, body string) (status int, answer string) {
	for range 3 {
		status, answer = p.send(http.MethodPost, p.api+path, testKey, body)
		if status != http.StatusServiceUnavailable || !strings.Contains(answer, "temporarily_unavailable") {
			break
		}
		time.Sleep(time.Second) // Retry-After
	}
	return status, answer
}

func (p *process) send(method, url, key, text string) (int, string) {
	r, err := http.NewRequestWithContext(p.t.Context(), method, url, strings.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	if text != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, ""
	}
	return answer.StatusCode, string(body)
}

// checks returns what /readyz says.
func (p *process) checks() (status int, checks map[string]string) {
	status, body := p.get(p.ops+"/readyz", "")
	var answer struct{ Checks map[string]string }
	_ = json.Unmarshal([]byte(body), &answer)
	return status, answer.Checks
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// wantJSON holds every line of the log to be JSON, those of libraries among them.
func (p *process) wantJSON() {
	p.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(p.logged()), "\n") {
		if !json.Valid([]byte(line)) {
			p.t.Errorf("no JSON: %s", line)
		}
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the end and returns the exit status.
func (p *process) end() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the process does not end:\n%s", p.logged())
	}
	return p.cmd.ProcessState.ExitCode()
}

func TestServe(t *testing.T) {
	redis := vaulttest.StartRedis(t)
	s := newSite(t, redis.URL(), "log_level: debug\n")
	p := s.serve()
	if status, _ := p.get(p.ops+"/healthz", ""); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	if status, checks := p.checks(); status != http.StatusOK || checks["redis"] != "ok" || checks["durability"] != "ok" || checks["keyset"] != "ok" {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	if status, _ := p.get(p.api+"/v1/connectors", ""); status != http.StatusUnauthorized {
		t.Errorf("without a key: %d", status)
	}
	if status, body := p.get(p.api+"/v1/connectors", testKey); status != http.StatusOK || !strings.Contains(body, `"files"`) {
		t.Errorf("with a key: %d %s", status, body)
	}
	if status, body := p.get(p.api+"/v1/events", testKey); status != http.StatusOK {
		t.Errorf("events: %d %s", status, body)
	}
	if status, _ := p.get(p.api+"/connect/canary-link?code=canary-code", ""); status != http.StatusNotFound {
		t.Errorf("an unknown link: %d", status)
	}
	for _, path := range []string{"/", "/healthz", "/readyz", "/metrics", "/debug/pprof/", "/canary-path"} {
		if status, _ := p.get(p.api+path, ""); status != http.StatusNotFound {
			t.Errorf("%s on the public address: %d", path, status)
		}
	}
	_, metrics := p.get(p.ops+"/metrics", "")
	for _, want := range []string{`http_route="/v1/connectors"`, `http_route="/connect/:link"`, "go_goroutines"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("/metrics lacks %s", want)
		}
	}
	// A key that was added while the process runs is taken up.
	if status, _, stderr := s.run("keyset", "rotate", "--file", "keyset.json", "--kek", "env:TOKENBROKER_KEK"); status != 0 {
		t.Errorf("rotate: %s", stderr)
	}
	eventually(t, "the rotated keyset is read", func() bool { return strings.Contains(p.logged(), "keyset read again") })
	// One that can't be opened is told, and the keys in memory go on working.
	rotated, err := os.ReadFile(filepath.Join(s.dir, "keyset.json"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("keyset.json", "{}")
	eventually(t, "the broken keyset is refused", func() bool { return strings.Contains(p.logged(), "keys in memory still are") })
	if status, body := p.post("/v1/consents", `{"connector":"files","subject":"canary"}`); status != http.StatusCreated {
		t.Errorf("with a broken keyset file: %d %s", status, body)
	}
	s.write("keyset.json", string(rotated))

	// SIGTERM: not ready first, while requests are still answered; further signals change nothing; then status 0.
	p.signal(syscall.SIGTERM)
	eventually(t, "/readyz says draining", func() bool { status, checks := p.checks(); return status == 503 && checks["draining"] != "ok" })
	if status, _ := p.get(p.api+"/v1/connectors", testKey); status != http.StatusOK {
		t.Errorf("while draining: %d", status)
	}
	p.signal(syscall.SIGTERM)
	p.signal(os.Interrupt)
	if status := p.end(); status != exitFine {
		t.Errorf("exit status %d:\n%s", status, p.logged())
	}

	log := p.logged()
	p.wantJSON()
	for _, secret := range []string{"canary", testKey, testKEK} {
		if strings.Contains(log, secret) || strings.Contains(metrics, secret) {
			t.Errorf("%s is in the log or the metrics:\n%s", secret, log)
		}
	}
	if !strings.Contains(log, `"route":"/connect/:link"`) || !strings.Contains(log, `"trace_id"`) {
		t.Errorf("no access log:\n%s", log)
	}
	if status, stdout, stderr := s.run("audit", "verify", "--config", "config.yaml"); status != 0 || !strings.Contains(stdout, "the audit trail is whole") {
		t.Errorf("audit verify: %d %s %s", status, stdout, stderr)
	}
}

// TestServeRefuses: what makes serving impossible is one line that says what to do, and status 1.
func TestServeRefuses(t *testing.T) {
	volatile := vaulttest.StartRedis(t, "--appendonly", "no")
	evicting := vaulttest.StartRedis(t, "--maxmemory-policy", "allkeys-lru")
	durable := vaulttest.StartRedis(t)
	running := newSite(t, durable.URL(), "").serve()
	taken := strings.TrimPrefix(running.api, "http://")
	for _, c := range []struct {
		name, redis, want string
		change            func(*site)
	}{
		{"no append-only file", volatile.URL(), "append-only file is off", nil},
		{"eviction", evicting.URL(), "allkeys-lru", nil},
		{"no keyset", durable.URL(), "keyset create", func(s *site) { _ = os.Remove(filepath.Join(s.dir, "keyset.json")) }},
		{"open keyset", durable.URL(), "chmod 600", func(s *site) { _ = os.Chmod(filepath.Join(s.dir, "keyset.json"), 0o644) }},
		{"clear keyset", durable.URL(), "keyset", func(s *site) {
			s.write("keyset.json", `{"primaryKeyId":1,"key":[{"keyData":{"typeUrl":"t","value":"canary","keyMaterialType":"SYMMETRIC"},"status":"ENABLED","keyId":1,"outputPrefixType":"TINK"}]}`)
		}},
		{"address in use", durable.URL(), "cannot listen on " + taken + ": address already in use; ", func(s *site) {
			text, _ := os.ReadFile(filepath.Join(s.dir, "config.yaml"))
			s.write("config.yaml", strings.Replace(string(text), "listen: 127.0.0.1:0", "listen: "+taken, 1))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, c.redis, "log_level: error\n")
			if c.change != nil {
				c.change(s)
			}
			status, stdout, stderr := s.run("serve", "--config", "config.yaml")
			if status != exitFound || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.want) || strings.Contains(stderr, "canary") {
				t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
			}
		})
	}
}

func TestServeAcceptsVolatileWhenTold(t *testing.T) {
	p := newSite(t, vaulttest.StartRedis(t, "--appendonly", "no").URL(), "allow_volatile_redis: true\n").serve()
	if status, checks := p.checks(); status != http.StatusOK {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	if !strings.Contains(p.logged(), "append-only file is off") {
		t.Errorf("no warning:\n%s", p.logged())
	}
}

// TestServeOutlastsRedis: a Redis that is down at start, dies later, and comes back.
func TestServeOutlastsRedis(t *testing.T) {
	redis := vaulttest.StartRedis(t)
	redis.Kill()
	s := newSite(t, redis.URL(), "")
	p := s.serve()
	down := func() {
		t.Helper()
		if status, _ := p.get(p.ops+"/healthz", ""); status != http.StatusOK {
			t.Errorf("/healthz: %d", status)
		}
		if status, checks := p.checks(); status != http.StatusServiceUnavailable || checks["redis"] == "ok" {
			t.Errorf("/readyz: %d %v", status, checks)
		}
		began := time.Now()
		if status, body := p.get(p.api+"/v1/connections", testKey); status != http.StatusServiceUnavailable || !strings.Contains(body, "temporarily_unavailable") {
			t.Errorf("a request: %d %s", status, body)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the refusal took %s", took)
		}
	}
	up := func() {
		t.Helper()
		eventually(t, "/readyz is fine again", func() bool { status, _ := p.checks(); return status == http.StatusOK })
		if status, body := p.get(p.api+"/v1/connections", testKey); status != http.StatusOK {
			t.Errorf("a request: %d %s", status, body)
		}
	}
	down()
	redis.Start()
	up()
	redis.Kill()
	down()
	redis.Start()
	up()
	// One that forgets its append-only file is not ready, and /readyz says so.
	if _, err := vaulttest.Command(redis.Addr, "CONFIG", "SET", "appendonly", "no"); err != nil {
		t.Fatal(err)
	}
	if status, checks := p.checks(); status != http.StatusServiceUnavailable || !strings.Contains(checks["durability"], "append-only") || checks["redis"] != "ok" {
		t.Errorf("/readyz: %d %v", status, checks)
	}
	redis.Pause()
	began := time.Now()
	if status, _ := p.checks(); status != http.StatusServiceUnavailable || time.Since(began) > 2*time.Second {
		t.Errorf("/readyz with a redis that hangs: %d after %s", status, time.Since(began))
	}
	redis.Resume()
	redis.Kill()
	p.signal(syscall.SIGTERM)
	p.wantJSON()
	if status := p.end(); status != exitFine {
		t.Errorf("exit status %d without redis:\n%s", status, p.logged())
	}
	if status, _, stderr := s.run("audit", "verify", "--config", "config.yaml"); status != exitFound || strings.Count(stderr, "\n") != 1 {
		t.Errorf("audit verify without redis: %d %q", status, stderr)
	}
}
