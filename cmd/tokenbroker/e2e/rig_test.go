package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
	"tokenbroker/vault/vaulttest"
)

// rig is everything that one test runs: Redis, an authorization server, a configuration, and brokers as processes.
type rig struct {
	t        *testing.T
	dir      string
	server   *vaulttest.Redis // nil where it is more than one
	redisURL string
	provider *sandbox.Server
	front    *front // of the provider
	issuer   string
	key      string // API key of client acme-chat, tenant acme
	other    string // API key of client rival, tenant rival
	narrow   string // API key of client reader, tenant acme, ceiling files.read
	env      []string
	brokers  []*brokerProcess
	config   string              // path
	public   string              // public_url
	user     *syscall.Credential // whom brokers run as; nil: as the tests do
	main     string              // reserved address of the first broker
	rotation string              // what the configuration says of the provider; it does as sandbox.Config says
}

const dashboardToken = "dashboard-canary-4c1f0d7be2"

// newRig starts Redis and the provider and writes the configuration; start starts brokers.
func newRig(t *testing.T, change ...func(*sandbox.Config)) *rig {
	t.Helper()
	server := vaulttest.StartRedis(t, "--appendfsync", "everysec")
	r := newRigAt(t, server.URL(), change...)
	r.server = server
	return r
}

// newRigAt is newRig with a Redis that is there already, in whatever form.
func newRigAt(t *testing.T, redisURL string, change ...func(*sandbox.Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: vaulttest.Dir(t), redisURL: redisURL}
	r.key, r.other, r.narrow = "tb_acme-canary-8a6d5e1c", "tb_rival-canary-77f00c1d", "tb_reader-canary-5d0e3b9a"
	r.env = append(os.Environ(), "TOKENBROKER_KEK="+base64.StdEncoding.EncodeToString(randomBytes(t, 32)), "FILES_SECRET=secret-canary-1b7e44", "OTEL_SDK_DISABLED=false")
	r.main, r.rotation = freeAddress(t), "strict"
	r.public = "http://" + r.main

	address := freeAddress(t)
	r.issuer = "http://" + address
	cfg := sandbox.Config{
		Issuer: r.issuer, Random: rand.Reader, Now: time.Now, Record: true,
		Clients: []sandbox.Client{
			{ID: "files-client", Secret: "secret-canary-1b7e44", RedirectURIs: []string{r.public + "/oauth2/callback/files", r.public + "/oauth2/callback/other"}},
		},
		Auto: &sandbox.Auto{User: "alice", Decision: "allow"},
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if r.provider, err = sandbox.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.front = newFront(t, address, r.provider)
	t.Cleanup(func() { r.provider.Close() })

	r.run("keyset", "create", "--out", filepath.Join(r.dir, "keyset.json"), "--kek", "env:TOKENBROKER_KEK")
	r.writeConfig("")
	return r
}

func randomBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// handedOut counts the ports that freeAddress gave, so that it gives none twice.
var handedOut atomic.Int64

// freeAddress finds a port below those that the kernel gives to clients (ip(7), ip_local_port_range): a replica that is killed
// and started again finds its own still free.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := 12_000 + (int64(os.Getpid())*61+handedOut.Add(1))%20_000
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}

func hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// writeConfig writes the configuration of contract.md for this rig; extra is appended as it is.
func (r *rig) writeConfig(extra string) {
	r.t.Helper()
	r.config = filepath.Join(r.dir, "config.yaml")
	text := fmt.Sprintf(`listen: ${LISTEN}
ops_listen: ${OPS_LISTEN}
public_url: %[1]s
redis: ${REDIS}
keyset:
  file: keyset.json
  kek: env:TOKENBROKER_KEK
spool_dir: ${SPOOL}
log_level: debug
shutdown_delay: 100ms
dashboard:
  token_sha256: %[3]q
clients:
  - id: acme-chat
    name: Acme Chat
    tenant: acme
    key_sha256: [%[4]q]
    return_to: ["http://127.0.0.1:3000/done"]
    origins: ["http://127.0.0.1:3000"]
  - id: reader
    name: Acme Reader
    tenant: acme
    key_sha256: [%[5]q]
    scopes: [files.read]
  - id: rival
    name: Rival Chat
    tenant: rival
    key_sha256: [%[6]q]
    connectors: [files]
connectors:
  - id: files
    provider: rig
    client_id: files-client
    client_secret: ${FILES_SECRET}
    scopes: [files.read, files.write]
    default_scopes: [files.read]
  - id: other
    provider: rig
    client_id: files-client
    client_secret: ${FILES_SECRET}
    scopes: [files.read, files.write]
    default_scopes: [files.read]
providers:
  - id: rig
    name: Rig Files
    issuer: %[7]s
    authorization_endpoint: %[7]s/authorize
    token_endpoint: %[7]s/token
    revocation_endpoint: %[7]s/revoke
    userinfo_endpoint: %[7]s/userinfo
    token_endpoint_auth_method: client_secret_basic
    pkce: S256
    scope_separator: " "
    offline_scopes: [offline_access]
    rotation: %[2]s
`, r.public, r.rotation, hash(dashboardToken), hash(r.key), hash(r.narrow), hash(r.other), r.issuer) + extra
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// run runs a command of the program that must succeed.
func (r *rig) run(args ...string) string {
	r.t.Helper()
	out, code := r.try(args...)
	if code != 0 {
		r.t.Fatalf("tokenbroker %s: exit %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// try runs a command and returns what it printed and its exit status.
func (r *rig) try(args ...string) (string, int) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = r.dir
	cmd.Env = append(r.environment(), "LISTEN="+r.main, "OPS_LISTEN=127.0.0.1:0")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		r.t.Fatalf("run %v: %v", args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// environment is what a process of the program gets; what a later entry says holds.
func (r *rig) environment(more ...string) []string {
	return slices.Concat(r.env, []string{"REDIS=" + r.redisURL, "SPOOL=spool"}, more)
}

// brokerProcess is one replica.
type brokerProcess struct {
	rig   *rig
	env   []string
	cmd   *exec.Cmd
	since time.Time // when it was started last
	url   string
	ops   string
	log   *lockedBuffer
	done  chan struct{}
	state *os.ProcessState
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a replica and waits until it is ready.
func (r *rig) start(env ...string) *brokerProcess {
	r.t.Helper()
	p := r.launch(env...)
	p.waitReady(http.StatusOK)
	return p
}

// launch starts a replica without waiting. The first one has the public address.
func (r *rig) launch(env ...string) *brokerProcess {
	r.t.Helper()
	listen := r.main
	if len(r.brokers) > 0 {
		listen = freeAddress(r.t)
	}
	p := r.launchAt(listen, env...)
	r.brokers = append(r.brokers, p)
	return p
}

func (r *rig) launchAt(listen string, env ...string) *brokerProcess {
	r.t.Helper()
	ops := freeAddress(r.t)
	p := &brokerProcess{rig: r, url: "http://" + listen, ops: "http://" + ops, log: &lockedBuffer{}}
	p.env = r.environment(append(slices.Clone(env), "LISTEN="+listen, "OPS_LISTEN="+ops)...)
	p.exec()
	r.t.Cleanup(func() {
		p.stop()
		if r.t.Failed() {
			r.t.Logf("log of %s:\n%s", p.url, tail(p.log.String(), 8000))
		}
	})
	return p
}

// exec starts the process, the first time or again after its end: with the same configuration, environment and addresses.
func (p *brokerProcess) exec() {
	p.rig.t.Helper()
	cmd, done := exec.Command(binary, "serve", "--config", p.rig.config), make(chan struct{})
	cmd.Dir, cmd.Env = p.rig.dir, p.env
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if p.rig.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.rig.user}
	}
	p.since = time.Now()
	if err := cmd.Start(); err != nil {
		p.rig.t.Fatal(err)
	}
	p.cmd, p.done = cmd, done
	go func() {
		_ = cmd.Wait()
		p.state = cmd.ProcessState
		close(done)
	}()
}

func tail(s string, n int) string {
	if len(s) > n {
		return "..." + s[len(s)-n:]
	}
	return s
}

func (p *brokerProcess) waitReady(want int) {
	p.rig.t.Helper()
	p.rig.eventually(20*time.Second, "readyz of "+p.url, func() error {
		select {
		case <-p.done:
			p.rig.t.Fatalf("broker ended: %v\n%s", p.state, tail(p.log.String(), 4000))
		default:
		}
		resp, err := http.Get(p.ops + "/readyz")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != want {
			return fmt.Errorf("status %d", resp.StatusCode)
		}
		return nil
	})
}

// stop ends the replica in good order; it must exit with 0 unless it was killed.
func (p *brokerProcess) stop() {
	select {
	case <-p.done:
		return
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if code := p.state.ExitCode(); code != 0 {
			p.rig.t.Errorf("broker %s exited with %d after SIGTERM\n%s", p.url, code, tail(p.log.String(), 4000))
		}
	case <-time.After(60 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		p.rig.t.Errorf("broker %s did not end within 60 s of SIGTERM", p.url)
	}
}

// kill ends the replica at once.
func (p *brokerProcess) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// eventually polls until the condition holds.
func (r *rig) eventually(limit time.Duration, what string, condition func() error) {
	r.t.Helper()
	eventually(r.t, limit, what, condition)
}

func eventually(t *testing.T, limit time.Duration, what string, condition func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = condition(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}
