package vaulttest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/redisstore"
	"tokenbroker/vault/vaulttest"
)

// TestStarters: the topologies are what they are said to be, and replace a master that dies by themselves.
func TestStarters(t *testing.T) {
	healthy := func(t *testing.T, cfg redisstore.Config) error {
		t.Helper()
		store, err := redisstore.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		return store.Health(ctx)
	}
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		s := vaulttest.StartSentinel(t)
		if err := healthy(t, redisstore.Config{URL: s.URL()}); err != nil {
			t.Fatal(err)
		}
		s.Master.Kill()
		began := time.Now()
		for {
			if now, _ := s.Current(); now == s.Replica {
				break
			}
			if time.Since(began) > 30*time.Second {
				t.Fatal("the sentinels do not replace the master")
			}
		}
		t.Logf("replaced after %v", time.Since(began))
		s.Master.Start()
		s.Whole()
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		c := vaulttest.StartClusterReplicas(t)
		if err := healthy(t, redisstore.Config{URL: c.URL()}); err != nil {
			t.Fatal(err)
		}
		replica := c.ReplicaOf(c.MasterOf("x"))
		began := time.Now()
		dead := c.KillMasterOf("x")
		if now := c.MasterOf("x"); now != replica {
			t.Fatalf("the master is now %v, not its replica", now)
		}
		t.Logf("replaced after %v", time.Since(began))
		dead.Start()
		c.Whole()
		partlyUsable(t, c)
	})
	t.Run("sentinel with TLS and passwords", func(t *testing.T) {
		t.Parallel()
		s := vaulttest.StartSentinelTLS(t)
		known := redisstore.Config{URL: s.URL(), TLS: s.Client(), SentinelPassword: vaulttest.SentinelPassword}
		if err := healthy(t, known); err != nil {
			t.Fatal(err)
		}
		unknown := known
		unknown.SentinelPassword = ""
		if err := healthy(t, unknown); err == nil {
			t.Fatal("the sentinels answer who has no password of theirs")
		}
		s.Master.Kill()
		for began := time.Now(); ; {
			if now, _ := s.Current(); now == s.Replica {
				break
			}
			if time.Since(began) > 30*time.Second {
				t.Fatal("the sentinels do not replace the master")
			}
		}
		if err := healthy(t, known); err != nil {
			t.Fatalf("with the next master: %v", err)
		}
	})
	t.Run("cluster with TLS", func(t *testing.T) {
		t.Parallel()
		c, client := vaulttest.StartClusterTLS(t)
		if err := healthy(t, redisstore.Config{URL: c.URL() + "?tls=true", TLS: client}); err != nil {
			t.Fatal(err)
		}
		if err := healthy(t, redisstore.Config{URL: c.URL(), TLS: client}); err == nil {
			t.Fatal("the nodes take who speaks in clear")
		}
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		s := vaulttest.StartRedisTLS(t, "--tls-auth-clients", "yes", "--requirepass", "p")
		if err := healthy(t, redisstore.Config{URL: s.URLAs("default", "p"), TLS: s.Client}); err != nil {
			t.Fatal(err)
		}
		if err := healthy(t, redisstore.Config{URL: s.URLAs("default", "p")}); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Fatalf("a CA that nobody knows: %v", err)
		}
		bare := s.Client.Clone()
		bare.Certificates = nil
		if err := healthy(t, redisstore.Config{URL: s.URLAs("default", "p"), TLS: bare}); err == nil {
			t.Fatal("a client without a certificate was let in")
		}
		if reply, err := s.Command("default", "p", "PING"); err != nil || reply != "PONG" {
			t.Fatalf("PING: %q, %v", reply, err)
		}
	})
}

// partlyUsable: while one master hangs and nobody has taken over yet, the others serve, and Health says so within the time
// that a probe has. In the end somebody does, and everything is well.
func partlyUsable(t *testing.T, c *vaulttest.Cluster) {
	t.Helper()
	store, err := redisstore.New(redisstore.Config{URL: c.URL()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	health := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 800*time.Millisecond)
		defer cancel()
		return store.Health(ctx)
	}
	until := func(what string, holds func(error) bool) {
		t.Helper()
		var err error
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if err = health(); holds(err) {
				return
			}
		}
		t.Fatalf("%s: %v", what, err)
	}
	var partial *redisstore.PartialError
	master := c.MasterOf("x")
	until("before", func(err error) bool { return err == nil })
	master.Pause()
	until("one master hangs", func(err error) bool { return errors.As(err, &partial) })
	master.Resume()
	until("afterwards", func(err error) bool { return err == nil })
}
