package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// RunServers brings servers into the states in which they refuse writes: no write passes for done, Health says what to do,
// and afterwards everything goes on.
func RunServers(t *testing.T) {
	for _, c := range []struct {
		name   string
		args   []string
		broken func(*pair)
		mend   func(*pair)
		says   string // by Health
	}{
		{"no replica", []string{"--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"},
			func(p *pair) { p.replica.Pause() }, func(p *pair) { p.replica.Resume() }, "NOREPLICAS"},
		{"read-only", nil,
			func(p *pair) { must(p, p.master.Addr, "REPLICAOF", "127.0.0.1", "1") }, func(p *pair) { must(p, p.master.Addr, "REPLICAOF", "NO", "ONE") }, "it is a replica"},
		{"no memory", nil,
			func(p *pair) { must(p, p.master.Addr, "CONFIG", "SET", "maxmemory", "1") }, func(p *pair) { must(p, p.master.Addr, "CONFIG", "SET", "maxmemory", "0") }, "raise maxmemory"},
		{"no disk", []string{"--save", "3600 1000000", "--enable-protected-configs", "yes"}, brokenDisk, mendedDisk, "free or mend its disk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, c.args...)
			p.refuses(c.broken, c.mend, c.says)
		})
	}
}

// brokenDisk makes a snapshot fail, for want of a directory; the append-only file is open already.
func brokenDisk(p *pair) {
	p.Helper()
	if err := os.RemoveAll(p.master.Dir); err != nil {
		p.Fatal(err)
	}
	p.snapshots("err")
}

// snapshots makes them until one ends with the status.
func (p *pair) snapshots(status string) {
	p.Helper()
	p.within(startPatience, "a snapshot ends with "+status, func() bool {
		_, _ = Command(p.master.Addr, "BGSAVE") // one may be under way
		info, err := Command(p.master.Addr, "INFO", "persistence")
		return err == nil && infoField(info, "rdb_last_bgsave_status") == status
	})
}

func mendedDisk(p *pair) {
	p.Helper()
	must(p, p.master.Addr, "CONFIG", "SET", "dir", Dir(p))
	p.snapshots("ok")
}

func (p *pair) refuses(broken, mended func(*pair), says string) {
	backend, s := p.backend(), p.store()
	conn := p.connect(s, tenant(p.rig), "u", "files", "1")
	lease, _ := p.begin(s, conn, "x")
	err := backend.Health(p.ctx())
	if err != nil {
		p.Fatalf("before: %v", err)
	}
	broken(p)
	p.within(startPatience, "unhealthy", func() bool { err = backend.Health(p.ctx()); return err != nil })
	if !strings.Contains(err.Error(), says) {
		p.Fatalf("health: %v, want it to say %q", err, says)
	}
	short := func(do func(ctx context.Context) error) {
		p.Helper()
		ctx, cancel := contextWithTimeout(5 * time.Second)
		defer cancel()
		// It is tried again until its time is over, and then says why, not only that.
		if err := do(ctx); !errors.Is(err, redisstore.ErrUnavailable) {
			p.Fatalf("a write that the server refuses: %v", err)
		}
	}
	key := p.connKey(s, conn)
	before := p.snapshot(key)
	short(func(ctx context.Context) error {
		_, err := s.Release(ctx, conn, "", entry(broker.EventTokenIssued, conn, "a"))
		return err
	})
	short(func(ctx context.Context) error {
		_, err := s.CommitRefresh(ctx, lease, conn, "", p.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
		return err
	})
	short(func(ctx context.Context) error {
		_, err := s.BeginRevoke(ctx, tenant(p.rig), conn.ID, []broker.Entry{entry(broker.EventConnectionRevoked, conn)})
		return err
	})
	if after := p.snapshot(key); after != before {
		p.Fatal("a refused step left something behind")
	}
	mended(p)
	next := conn
	p.within(startPatience, "committed", func() bool {
		next, err = s.CommitRefresh(p.ctx(), lease, conn, "", p.grant("2"), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
		return err == nil
	})
	p.release(s, next, "2")
	if err := backend.Health(p.ctx()); err != nil {
		p.Fatalf("afterwards: %v", err)
	}
}

// RunSentinelLoss is RunHealing with sentinels that find out by themselves, the other process being asked first.
func RunSentinelLoss(t *testing.T, s *Sentinel) {
	r := newRig(t, Topology{URL: s.URL(), Addrs: []string{s.Replica.Addr}})
	writer, other := r.process(), r.process()
	conn := r.connect(writer, tenant(r), "u", "files", "1")
	r.refreshLost(s.Master, s.Replica, writer, other, conn)
}

// refreshLost loses a refresh of writer by a failover that the servers make themselves, and asks other for it.
func (r *rig) refreshLost(master, replica *Redis, writer, other *vault.Store, conn broker.Connection) {
	r.Helper()
	must(r, master.Addr, "WAIT", "1", "5000")
	r.within(startPatience, "replicated", func() bool {
		have, err := Command(replica.Addr, "HGET", r.connKey(writer, conn), "gen")
		return err == nil && have == "1" || refusedAs(err, "MOVED") // a cluster's replica does not tell
	})
	replica.Pause()
	must(r, master.Addr, "CLIENT", "KILL", "TYPE", "replica")
	r.refresh(writer, conn, "2")
	master.Kill()
	replica.Resume()
	began := time.Now()
	var lease broker.Lease
	r.within(2*startPatience, "a lease behind the failover", func() bool {
		ctx, cancel := contextWithTimeout(time.Second)
		defer cancel()
		now, err := other.Connection(ctx, conn.Tenant, conn.ID)
		if err != nil {
			return false
		}
		var token broker.Secret
		lease, token, err = other.BeginRefresh(ctx, now, "y", time.Minute)
		if err == nil && token.Reveal() != "canary-rt-2" {
			r.Fatalf("refresh token %q was handed out, the provider has seen it", token.Reveal())
		}
		return err == nil
	})
	r.Logf("back after %v", time.Since(began))
	if lease.Generation != 2 {
		r.Fatalf("lease at generation %d", lease.Generation)
	}
}

// RunClusterLoss kills one of the masters, with a refresh that its replica has not got. Those whose records lie elsewhere
// notice nothing; the others are back when the replica has taken over, and the refresh with them.
func RunClusterLoss(t *testing.T, c *Cluster) {
	r := newRig(t, Topology{URL: c.URL(), Addrs: c.Addrs()})
	writer, other := r.process(), r.process()
	conn := r.connect(writer, tenant(r), "u", "files", "1")
	master := c.MasterOf(r.connKey(writer, conn))
	var elsewhere []broker.Connection
	for i := 0; len(elsewhere) < 8; i++ {
		each := r.connect(writer, tenant(r), fmt.Sprintf("u%d", i), "files", fmt.Sprint(i))
		if c.MasterOf(r.connKey(writer, each)) != master {
			elsewhere = append(elsewhere, each)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { // others use their tokens all the while
		var slowest time.Duration
		for ctx.Err() == nil {
			for _, each := range elsewhere {
				began := time.Now()
				ctx, cancel := contextWithTimeout(5 * time.Second)
				_, err := other.Release(ctx, each, "", entry(broker.EventTokenIssued, each, "a"))
				cancel()
				slowest = max(slowest, time.Since(began))
				if err != nil {
					done <- fmt.Errorf("of a user whose master lives: %w", err)
					return
				}
			}
		}
		done <- nil
		r.Logf("slowest of the others: %v", slowest)
	}()
	r.refreshLost(master, c.ReplicaOf(master), writer, other, conn)
	stop()
	if err := <-done; err != nil {
		r.Fatal(err)
	}
	for _, n := range c.Nodes {
		if n == master {
			continue
		}
		stats, err := Command(n.Addr, "INFO", "errorstats")
		if err != nil || strings.Contains(stats, "CROSSSLOT") {
			r.Fatalf("error statistics: %s, %v", stats, err)
		}
	}
}

// RunConfirmed: what not enough replicas have in time stands, is counted, and stays in the spool; what they have does not.
func RunConfirmed(t *testing.T) {
	p := newPair(t)
	var counted []vault.Counted
	dir := Dir(t)
	s := p.store(withSpool(dir), func(vc *vault.Config, rc *redisstore.Config) {
		vc.Confirm, vc.Count = true, func(what vault.Counted) { counted = append(counted, what) }
		rc.WaitReplicas, rc.WaitTimeout, rc.WaitDisk = 1, 400*time.Millisecond, true // Redis 7.0 has no WAITAOF
	})
	files := func() int {
		all, err := os.ReadDir(dir)
		if err != nil {
			p.Fatal(err)
		}
		return len(all)
	}
	// The time that a replica has is bounded by the setting, and a machine that is busy with other tests may need more once. What is
	// confirmed leaves no file, and what is not is counted and leaves one, in every case.
	var conn broker.Connection
	kept := 0
	for attempt := 1; ; attempt++ {
		conn = p.connect(s, tenant(p.rig), fmt.Sprint("u", attempt), "files", "1")
		before := len(counted)
		conn = p.refresh(s, conn, "2")
		if len(counted) == before && files() == kept {
			break
		}
		kept++
		if len(counted) != before+1 || files() != kept || attempt == 10 {
			p.Fatalf("attempt %d to have it confirmed: counted %v, %d of them before, %d files", attempt, counted, before, files())
		}
	}
	counted = nil
	if have := must(p, p.replica.Addr, "HGET", p.connKey(s, conn), "gen"); have != "2" {
		p.Fatalf("confirmed, and the replica has generation %q", have)
	}
	p.replica.Pause()
	conn = p.refresh(s, conn, "3")
	if !slices.Equal(counted, []vault.Counted{vault.CountUnconfirmed}) || files() != kept+1 {
		p.Fatalf("not confirmed: counted %v, %d files", counted, files())
	}
	p.replica.Resume()
	p.release(s, conn, "3")
}
