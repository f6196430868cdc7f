package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// pair is a master and a replica behind an address that follows the master, as a service in front of both does.
type pair struct {
	*rig
	master, replica *Redis
	front           *Proxy
}

func newPair(t testing.TB, args ...string) *pair {
	t.Helper()
	p := &pair{master: StartRedis(t, args...)}
	host, port, _ := net.SplitHostPort(p.master.Addr)
	p.replica = StartRedis(t, append([]string{"--replicaof", host + " " + port}, args...)...)
	within(t, startPatience, "the replica follows", func() bool {
		// Linked, it still takes up to a second until it gets the first write.
		n, err := command(p.master.Addr, nil, [][]string{{"SET", "first", "1"}, {"WAIT", "1", "1000"}})
		return err == nil && n == "1"
	})
	p.front = StartProxy(t, p.master.Addr)
	p.rig = newRig(t, Topology{URL: "redis://" + p.front.Addr + "/0", Addrs: []string{p.front.Addr}})
	return p
}

// replicated waits until the replica has all that was written.
func (p *pair) replicated() {
	p.Helper()
	offset := func(addr string) string {
		info, err := Command(addr, "INFO", "replication")
		if err != nil {
			return fmt.Sprint(err)
		}
		return infoField(info, "master_repl_offset")
	}
	p.within(startPatience, "the replica has all", func() bool { return offset(p.master.Addr) == offset(p.replica.Addr) })
}

// lose carries out what the master acknowledges and its replica never sees, kills the master, and makes the replica the
// master (faults.md: "Failover loses acked write").
func (p *pair) lose(do func()) {
	p.Helper()
	p.replicated()
	p.replica.Pause()
	must(p, p.master.Addr, "CLIENT", "KILL", "TYPE", "replica")
	do()
	p.master.Kill()
	p.replica.Resume()
	must(p, p.replica.Addr, "REPLICAOF", "NO", "ONE")
	p.front.Switch(p.replica.Addr)
}

// infoField finds a value in an answer to INFO.
func infoField(info, name string) string {
	_, rest, _ := strings.Cut(info, "\n"+name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

// process is a store that runs, as in a process of the broker.
func (r *rig) process(change ...func(*vault.Config, *redisstore.Config)) *vault.Store {
	r.Helper()
	s := r.store(change...)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx); err != nil {
			r.Errorf("run: %v", err)
		}
	})
	r.Cleanup(func() { stop(); running.Wait() })
	return s
}

// begin takes the lease as the refresher does: it asks again while the lease is another's or the shard settles.
func (r *rig) begin(s *vault.Store, conn broker.Connection, owner string) (broker.Lease, string) {
	r.Helper()
	for deadline := time.Now().Add(startPatience); ; time.Sleep(5 * time.Millisecond) {
		lease, token, err := s.BeginRefresh(r.ctx(), conn, owner, time.Minute)
		switch {
		case err == nil:
			return lease, token.Reveal()
		case errors.Is(err, broker.ErrConflict):
			if conn, err = s.Connection(r.ctx(), conn.Tenant, conn.ID); err != nil {
				r.Fatalf("read again: %v", err)
			}
		case time.Now().After(deadline) || !errors.Is(err, broker.ErrBusy) && r.ctx().Err() != nil:
			r.Fatalf("begin: %v", err)
		}
	}
}

// refresh commits a refresh without asking who the shard belongs to.
func (r *rig) refresh(s *vault.Store, conn broker.Connection, tokens string) broker.Connection {
	r.Helper()
	lease, _ := r.begin(s, conn, "x")
	conn.LastRefreshed = time.Now().UTC()
	next, err := s.CommitRefresh(r.ctx(), lease, conn, "", r.grant(tokens), []broker.Entry{entry(broker.EventTokenRefreshed, conn)})
	if err != nil {
		r.Fatalf("commit: %v", err)
	}
	return next
}

// now reads a connection until the store answers.
func (r *rig) now(s *vault.Store, conn broker.Connection) broker.Connection {
	r.Helper()
	var read broker.Connection
	r.within(startPatience, "the store answers", func() bool {
		var err error
		read, err = s.Connection(r.ctx(), conn.Tenant, conn.ID)
		if errors.Is(err, broker.ErrNotFound) {
			r.Fatalf("the connection is gone")
		}
		return err == nil
	})
	return read
}

// events counts the tenant's events of a kind; none may be there twice.
func (r *rig) events(s *vault.Store, kind broker.EventType) int {
	r.Helper()
	ids := make(map[string]bool)
	all := r.allEvents(s, tenant(r), broker.EventFilter{Type: kind}, 1000)
	for _, e := range all {
		if ids[e.ID] {
			r.Fatalf("event %s is there twice", e.ID)
		}
		ids[e.ID] = true
	}
	return len(all)
}
