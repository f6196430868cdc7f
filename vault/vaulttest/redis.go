package vaulttest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Redis is a redis-server process with its files in a directory of its own. It ends with the test.
type Redis struct {
	Addr string // HOST:PORT
	Dir  string

	t   testing.TB
	tls *tls.Config // nil: it speaks in clear
	// password is what it asks for, "" if for nothing.
	password string
	args     []string
	cmd      *exec.Cmd
	done     chan struct{}
	log      bytes.Buffer
}

// startPatience bounds how long a server may take to answer: CI machines are slow at times.
const startPatience = 20 * time.Second

// StartRedis starts a redis-server that appends to its file on every write, on a free port of 127.0.0.1; args are added to its
// command line. It waits until the server answers.
func StartRedis(t testing.TB, args ...string) *Redis {
	t.Helper()
	return startRedis(t, Dir(t), nil, args)
}

// Dir is a directory for the test's files, in memory where the machine has room for that: what a server or a spool syncs to
// its disk must not wait for what other tests build and write at the same time. It goes with the test.
func Dir(t testing.TB) string {
	t.Helper()
	const memory, enough = "/dev/shm", 512 << 20
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < enough {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(memory, "tokenbroker-test-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove the test's files: %v", err)
		}
	})
	return dir
}

func startRedis(t testing.TB, dir string, secure *security, args []string) *Redis {
	t.Helper()
	return startProcess(t, dir, secure, func(port int) []string {
		return slices.Concat(secure.listen(port), serverArgs(dir, args))
	})
}

// serverArgs are those of a server that keeps what it acknowledges; args come behind them and may take it back.
func serverArgs(dir string, args []string) []string {
	return append([]string{
		"--bind", "127.0.0.1", "--dir", dir, "--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
		// A replica starts to follow at once, not after the 5 s in which others might come too.
		"--repl-diskless-sync-delay", "0",
	}, args...)
}

// startProcess starts a redis-server with the arguments for a free port.
func startProcess(t testing.TB, dir string, secure *security, args func(port int) []string) *Redis {
	t.Helper()
	r := &Redis{Dir: dir, t: t}
	if secure != nil {
		r.tls, r.password = secure.client, secure.password
	}
	// A free port may be taken by another before the server has it; then it ends at once and the next port is tried.
	for range 10 {
		port := freePort(t)
		r.Addr, r.args = net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), args(port)
		if err := r.start(); err == nil {
			t.Cleanup(r.Kill)
			return r
		}
	}
	t.Fatalf("redis-server does not start:\n%s", r.log.String())
	return nil
}

// URL is the server's address as redisstore has it.
func (r *Redis) URL() string { return "redis://" + r.Addr + "/0" }

// Start starts the server again after Kill, on the same port and files.
func (r *Redis) Start() {
	r.t.Helper()
	if err := r.start(); err != nil {
		r.t.Fatalf("redis-server does not start again: %v\n%s", err, r.log.String())
	}
}

func (r *Redis) start() error {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		r.t.Fatal("redis-server is missing: run apt-get install -y redis-server")
	}
	r.cmd = exec.Command(program, r.args...)
	r.cmd.Stdout, r.cmd.Stderr = &r.log, &r.log
	// Should the test process be killed, the server goes too.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	r.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		// The signal at the parent's death comes when the thread that started the child ends, so it must stay.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}(r.cmd, r.done)
	if err := <-started; err != nil {
		return err
	}
	deadline := time.Now().Add(startPatience)
	for time.Now().Before(deadline) {
		// Who asks for a user first is there too.
		if reply, err := r.ask("PING"); err == nil && reply == "PONG" || refusedAs(err, "NOAUTH") {
			return nil
		}
		select {
		case <-r.done:
			return errors.New("it ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	r.Kill()
	return errors.New("it does not answer")
}

// Kill ends the server at once, as a crash does.
func (r *Redis) Kill() { r.signal(syscall.SIGKILL); <-r.done }

// Pause stops the server without closing its connections; Resume lets it go on.
func (r *Redis) Pause() { r.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (r *Redis) Resume() { r.signal(syscall.SIGCONT) }

func (r *Redis) signal(s syscall.Signal) {
	if !r.ended() {
		_ = r.cmd.Process.Signal(s)
	}
}

// ended tells that the server does not run.
func (r *Redis) ended() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// Files returns everything that the server has on disk: where no canary may be.
func (r *Redis) Files() []byte {
	r.t.Helper()
	var all []byte
	err := filepath.WalkDir(r.Dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		all = append(all, content...)
		return err
	})
	if err != nil {
		r.t.Fatalf("read files of redis: %v", err)
	}
	return all
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
