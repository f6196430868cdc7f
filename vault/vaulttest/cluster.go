package vaulttest

import (
	"crypto/tls"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Cluster is a Redis Cluster of three masters, which may have a replica each.
type Cluster struct {
	Nodes []*Redis // the masters, then the replicas in the same order, as it was at the start

	t testing.TB
}

// URL is the cluster's address as redisstore has it.
func (c *Cluster) URL() string { return "redis-cluster://" + strings.Join(c.Addrs(), ",") }

// Addrs are the addresses of its nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// StartCluster starts three masters, gives them the slots and waits until they agree.
func StartCluster(t testing.TB, args ...string) *Cluster { return startCluster(t, 3, nil, args) }

// StartClusterTLS starts three masters that speak nothing but TLS, and the way to speak with them.
func StartClusterTLS(t testing.TB, args ...string) (*Cluster, *tls.Config) {
	t.Helper()
	secure := newSecurity(t)
	return startCluster(t, 3, secure, args), secure.client
}

// StartClusterReplicas starts three masters with a replica each. The cluster replaces a master by itself, some 2 to 4 s
// after its end; until then the slots of the others are served.
func StartClusterReplicas(t testing.TB, args ...string) *Cluster {
	return startCluster(t, 6, nil, append([]string{
		// One replica of many writes must not be too old to vote itself in; none goes over to another master.
		"--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no", "--cluster-require-full-coverage", "no",
	}, args...))
}

const masters = 3

func startCluster(t testing.TB, nodes int, secure *security, args []string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	buses := make([]string, nodes)
	for i := range nodes {
		// The bus port is the port plus 10000 by default, which may be none; a free one is given instead.
		buses[i] = strconv.Itoa(freePort(t))
		c.Nodes = append(c.Nodes, startRedis(t, Dir(t), secure, append([]string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port", buses[i],
		}, args...)))
	}
	const slots = 16384
	for i, n := range c.Nodes {
		if i < masters {
			n.must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		}
		n.must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		if i > 0 {
			host, port, _ := net.SplitHostPort(n.Addr)
			c.Nodes[0].must("CLUSTER", "MEET", host, port, buses[i])
		}
	}
	for i, n := range c.Nodes[masters:] {
		id := c.Nodes[i].must("CLUSTER", "MYID")
		c.within(startPatience, "a replica gets to know its master", func() bool {
			_, err := n.ask("CLUSTER", "REPLICATE", id)
			return err == nil
		})
	}
	c.Whole()
	return c
}

// Whole waits until all nodes that live see the whole cluster, and replicas follow their masters.
func (c *Cluster) Whole() {
	c.t.Helper()
	c.within(startPatience, "the redis cluster comes together", func() bool {
		for _, n := range c.Nodes {
			if n.ended() {
				continue
			}
			info, err := n.ask("CLUSTER", "INFO")
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:"+strconv.Itoa(len(c.Nodes))) || !strings.Contains(info, "cluster_slots_ok:16384") {
				return false
			}
			replication, err := n.ask("INFO", "replication")
			if err != nil || strings.Contains(replication, "role:slave") && !linked(replication) {
				return false
			}
		}
		return c.count("slave")+c.count("master") == len(c.Nodes)
	})
}

// count is how many nodes the first one that lives lists with the flag.
func (c *Cluster) count(flag string) (n int) {
	for _, line := range c.lines() {
		if strings.Contains(line[2], flag) {
			n++
		}
	}
	return n
}

// lines are those of CLUSTER NODES, in fields: id, address, flags, master, ..., slots.
func (c *Cluster) lines() (lines [][]string) {
	for _, n := range c.Nodes {
		if n.ended() {
			continue
		}
		text, err := n.ask("CLUSTER", "NODES")
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) >= 8 {
				lines = append(lines, fields)
			}
		}
		return lines
	}
	return nil
}

// node finds a node by the address in CLUSTER NODES: HOST:PORT@BUS.
func (c *Cluster) node(address string) *Redis {
	address, _, _ = strings.Cut(address, "@")
	for _, n := range c.Nodes {
		if n.Addr == address {
			return n
		}
	}
	return nil
}

// MasterOf returns the node that serves the key's slot; it waits while there is none.
func (c *Cluster) MasterOf(key string) *Redis {
	c.t.Helper()
	slot, err := strconv.Atoi(c.alive().must("CLUSTER", "KEYSLOT", key))
	if err != nil {
		c.t.Fatal(err)
	}
	var found *Redis
	c.within(startPatience, "a master of the key", func() bool {
		for _, fields := range c.lines() {
			for _, held := range fields[8:] {
				first, last, ranged := strings.Cut(held, "-")
				from, err := strconv.Atoi(first)
				to := from
				if ranged && err == nil {
					to, err = strconv.Atoi(last)
				}
				if err == nil && from <= slot && slot <= to {
					found = c.node(fields[1])
				}
			}
		}
		return found != nil && !found.ended()
	})
	return found
}

// ReplicaOf returns the replica of a master, as soon as the node that is asked has heard of it.
func (c *Cluster) ReplicaOf(master *Redis) *Redis {
	c.t.Helper()
	var found *Redis
	c.within(startPatience, "the master has a replica", func() bool {
		id := master.must("CLUSTER", "MYID")
		for _, fields := range c.lines() {
			if fields[3] == id {
				found = c.node(fields[1])
			}
		}
		return found != nil
	})
	return found
}

// KillMasterOf kills the node that serves the key's slot and returns it.
func (c *Cluster) KillMasterOf(key string) *Redis {
	c.t.Helper()
	master := c.MasterOf(key)
	master.Kill()
	return master
}

// alive is a node that lives.
func (c *Cluster) alive() *Redis {
	for _, n := range c.Nodes {
		if !n.ended() {
			return n
		}
	}
	c.t.Fatal("no node of the cluster lives")
	return nil
}

func (c *Cluster) within(d time.Duration, what string, holds func() bool) {
	c.t.Helper()
	within(c.t, d, what, holds)
}

// within polls until the condition holds.
func within(t testing.TB, d time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(d); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// linked tells that a replica follows its master, from its INFO replication.
func linked(info string) bool { return strings.Contains(info, "master_link_status:up") }
