package redisstore

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"tokenbroker/broker"
)

var _ broker.StoreHealth = (*Store)(nil)

// StoreReport implements broker.StoreHealth: INFO of every master, and CLUSTER SLOTS. What the user may not ask is left out, and
// said to be.
func (s *Store) StoreReport(ctx context.Context) (broker.StoreReport, error) {
	report := broker.StoreReport{Kind: "standalone"}
	switch s.target.scheme {
	case schemeCluster:
		report.Kind = "cluster"
	case schemeSentinel:
		report.Kind = "sentinel"
	}
	slots := s.slots(ctx)
	var mu sync.Mutex
	silent := false
	err := s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		info, err := sections(ctx, node, "server", "replication", "persistence", "memory", "clients", "stats")
		if err != nil {
			return err
		}
		one := nodeOf(info)
		one.Address = s.addressOf(node, info)
		one.Slots = slots[one.Address]
		mu.Lock()
		defer mu.Unlock()
		report.Nodes = append(report.Nodes, one)
		silent = silent || len(info) == 0
		if what := refuses(info); what != "" {
			report.Problems = append(report.Problems, one.Address+": "+what)
		}
		return nil
	})
	if err != nil && len(report.Nodes) == 0 {
		return report, fmt.Errorf("redis does not tell how it is: %w", s.advised(err))
	}
	if err != nil {
		report.Problems = append(report.Problems, "a master can't be reached: "+s.advised(err).Error())
	}
	if silent {
		report.Withheld = Denied{Wanted: []string{"info"}, user: s.user()}.String()
	}
	report.Problems = append(report.Problems, s.clusterReport(ctx, &report)...)
	slices.SortFunc(report.Nodes, func(a, b broker.StoreNode) int { return cmp.Compare(a.Address, b.Address) })
	if lasting, err := s.CheckDurability(ctx); err == nil && !silent {
		report.Volatile = lasting
	}
	if lost, err := s.CheckVersion(ctx); err == nil {
		report.Lost = lost
	}
	slices.Sort(report.Problems)
	report.Problems = slices.Compact(report.Problems)
	return report, nil
}

// addressOf is where the node is: a sentinel's client does not know it, and the server itself knows its port alone.
func (s *Store) addressOf(node redis.UniversalClient, info map[string]string) string {
	client, ok := node.(*redis.Client)
	if !ok {
		return ""
	}
	if s.target.scheme != schemeSentinel {
		return client.Options().Addr
	}
	return cmp.Or(s.servers.at(info["tcp_port"]), "the master that the sentinels name")
}

// nodeOf reads a master's INFO.
func nodeOf(info map[string]string) broker.StoreNode {
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(info[name], 10, 64) // what is not told is 0
		return n
	}
	node := broker.StoreNode{
		Version: info["redis_version"], Uptime: time.Duration(number("uptime_in_seconds")) * time.Second, Policy: info["maxmemory_policy"],
		UsedBytes: number("used_memory"), MaxBytes: number("maxmemory"), Clients: int(number("connected_clients")), Operations: number("instantaneous_ops_per_sec"),
		SaveStatus: info["rdb_last_bgsave_status"],
	}
	if at := number("rdb_last_save_time"); at > 0 {
		node.LastSave = time.Unix(at, 0).UTC()
	}
	switch info["aof_enabled"] {
	case "1":
		node.AppendOnly = "on"
		switch {
		case info["aof_last_write_status"] != "ok":
			node.AppendState = "its last write failed"
		case info["aof_last_bgrewrite_status"] == "err":
			node.AppendState = "its last rewrite failed"
		case info["aof_rewrite_in_progress"] == "1":
			node.AppendState = "being rewritten"
		default:
			node.AppendState = "ok"
		}
	case "0":
		node.AppendOnly = "off"
	}
	ahead := number("master_repl_offset")
	for i := range 64 { // slave0:ip=10.0.0.2,port=6379,state=online,offset=1,lag=0
		text, ok := info["slave"+strconv.Itoa(i)]
		if !ok {
			break
		}
		fields := map[string]string{}
		for part := range strings.SplitSeq(text, ",") {
			if name, value, found := strings.Cut(part, "="); found {
				fields[name] = value
			}
		}
		follower := broker.StoreFollower{Address: net.JoinHostPort(fields["ip"], fields["port"]), State: fields["state"]}
		if lag, err := strconv.ParseInt(fields["lag"], 10, 64); err == nil {
			follower.Lag = time.Duration(lag) * time.Second
		}
		if offset, err := strconv.ParseInt(fields["offset"], 10, 64); err == nil {
			follower.Behind = max(0, ahead-offset)
		}
		node.Replicas = append(node.Replicas, follower)
	}
	return node
}

// slots tells which slots each master of a cluster has, by its address; nothing where that can't be had.
func (s *Store) slots(ctx context.Context) map[string]string {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	//lint:ignore SA1019 CLUSTER SHARDS is of Redis 7 and a right of its own; CLUSTER SLOTS the client needs anyway, so every user that works has it
	ranges, err := cluster.ClusterSlots(ctx).Result()
	if err != nil {
		return nil
	}
	byNode := map[string][]string{}
	for _, r := range ranges {
		if len(r.Nodes) > 0 {
			text := strconv.Itoa(r.Start)
			if r.End != r.Start {
				text += "-" + strconv.Itoa(r.End)
			}
			byNode[r.Nodes[0].Addr] = append(byNode[r.Nodes[0].Addr], text)
		}
	}
	all := map[string]string{}
	for addr, list := range byNode {
		const most = 8
		if len(list) > most {
			list = append(list[:most:most], fmt.Sprintf("and %d ranges more", len(list)-most))
		}
		all[addr] = strings.Join(list, ", ")
	}
	return all
}

// clusterReport adds what a cluster says of itself as one.
func (s *Store) clusterReport(ctx context.Context, report *broker.StoreReport) []string {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	info, err := fieldsOfInfo(cluster.ClusterInfo(ctx).Result())
	if err != nil {
		return []string{"the cluster does not tell how it is"}
	}
	report.SlotsServed, _ = strconv.Atoi(info["cluster_slots_ok"])
	if err := s.clusterHealth(ctx); err != nil {
		return []string{err.Error()}
	}
	return nil
}
