package vaulttest

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Sentinel is a master with a replica and three sentinels that watch them, of which two must agree.
type Sentinel struct {
	Master, Replica *Redis // as they were at the start
	Watchers        []*Redis

	t      testing.TB
	secure *security
}

// SentinelPassword is what the sentinels of StartSentinelTLS ask for, ServerPassword what the servers do.
const SentinelPassword, ServerPassword = "watch:er", "s/erver"

// Client is how a client speaks TLS with all of them, nil: it does not.
func (s *Sentinel) Client() *tls.Config {
	if s.secure == nil {
		return nil
	}
	return s.secure.client
}

// URL names all sentinels, as redisstore has it.
func (s *Sentinel) URL() string {
	var addrs []string
	for _, w := range s.Watchers {
		addrs = append(addrs, w.Addr)
	}
	if s.secure != nil {
		return "redis-sentinel://:" + url.QueryEscape(ServerPassword) + "@" + strings.Join(addrs, ",") + "/main?tls=true"
	}
	return "redis-sentinel://" + strings.Join(addrs, ",") + "/main"
}

// StartSentinel starts the five and waits until the sentinels know one another and the replica, and the replica follows.
// args are for master and replica. A master that does not answer for half a second is replaced, some 1 to 3 s later.
func StartSentinel(t testing.TB, args ...string) *Sentinel { return startSentinel(t, nil, args) }

// StartSentinelTLS starts the same five, which speak nothing but TLS and ask everybody for a password.
func StartSentinelTLS(t testing.TB, args ...string) *Sentinel {
	t.Helper()
	secure := newSecurity(t)
	secure.password = ServerPassword
	return startSentinel(t, secure, args)
}

func startSentinel(t testing.TB, secure *security, args []string) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, secure: secure, Master: startRedis(t, Dir(t), secure, args)}
	host, port, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = startRedis(t, Dir(t), secure, append([]string{"--replicaof", host + " " + port}, args...))
	var watching *security
	more := ""
	if secure != nil {
		same := *secure
		same.password = SentinelPassword
		watching = &same
		more = fmt.Sprintf("sentinel auth-pass main %s\nsentinel sentinel-pass %s\n", ServerPassword, SentinelPassword)
	}
	for range 3 {
		dir := Dir(t)
		config := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("sentinel monitor main %s %s 2\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 5000\n%s", host, port, more)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w := startProcess(t, dir, watching, func(port int) []string {
			return append([]string{config, "--sentinel", "--bind", "127.0.0.1", "--dir", dir}, watching.listen(port)...)
		})
		s.Watchers = append(s.Watchers, w)
		// They ask around every 10 s, tell of themselves every 2 s, and do nothing for 30 s after a pause of their own of 2 s:
		// long for a test, and the last one likely on a slow machine.
		w.must("SENTINEL", "DEBUG", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "100", "TILT-PERIOD", "1000")
	}
	s.Whole()
	return s
}

// Whole waits until each sentinel sees the others, a master and a replica that follows it.
func (s *Sentinel) Whole() {
	s.t.Helper()
	within(s.t, startPatience, "the sentinels see one another, the master and its replica", func() bool {
		for _, w := range s.Watchers {
			master, err := w.ask("SENTINEL", "MASTER", "main")
			if err != nil || field(master, "num-other-sentinels") != "2" || field(master, "num-slaves") != "1" || field(master, "flags") != "master" {
				return false
			}
			replicas, err := w.ask("SENTINEL", "REPLICAS", "main")
			if err != nil || field(replicas, "master-link-status") != "ok" || field(replicas, "flags") != "slave" {
				return false
			}
		}
		return true
	})
}

// Current is the server that the sentinels call the master now, the one that lost its place otherwise.
func (s *Sentinel) Current() (master, other *Redis) {
	s.t.Helper()
	within(s.t, startPatience, "the sentinels name a master", func() bool {
		addr, err := s.Watchers[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
		if err != nil {
			return false
		}
		host, port, _ := strings.Cut(addr, "\n")
		switch net.JoinHostPort(host, port) {
		case s.Master.Addr:
			master, other = s.Master, s.Replica
		case s.Replica.Addr:
			master, other = s.Replica, s.Master
		}
		return master != nil
	})
	return master, other
}

// field finds a value in a list of names and values, a line each.
func field(text, name string) string {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		if lines[i] == name {
			return lines[i+1]
		}
	}
	return ""
}
