package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// connect finds which server has which shard.
func (b *seedBackend) connect(ctx context.Context, redisURL string) (wires []*seedWire, err error) {
	u, err := url.Parse(redisURL)
	if err != nil {
		return nil, fmt.Errorf("redis URL: %w", err)
	}
	addresses := strings.Split(u.Host, ",")
	owners, err := shardOwners(ctx, addresses[0], u.Scheme == "redis-cluster")
	if err != nil {
		return nil, err
	}
	known := map[string]*seedWire{}
	histories := map[string]string{}
	for i, address := range owners {
		w := known[address]
		if w == nil {
			if w, err = dialWire(ctx, address); err != nil {
				return wires, err
			}
			known[address], wires = w, append(wires, w)
			if histories[address], err = infoValue(ctx, address, "replication", "master_replid"); err != nil {
				return wires, err
			}
		}
		b.wires[i], b.histories[i] = w, histories[address]
	}
	return wires, nil
}

// shardOwners are the addresses of the servers by shard.
func shardOwners(ctx context.Context, address string, cluster bool) (owners [256]string, err error) {
	if !cluster {
		for i := range owners {
			owners[i] = address
		}
		return owners, nil
	}
	reply, err := askRedis(ctx, address, "CLUSTER", "SLOTS")
	if err != nil {
		return owners, err
	}
	ranges, _ := reply.([]any)
	for _, part := range ranges {
		fields, _ := part.([]any)
		if len(fields) < 3 {
			continue
		}
		first, _ := fields[0].(int64)
		last, _ := fields[1].(int64)
		node, _ := fields[2].([]any)
		if len(node) < 2 {
			continue
		}
		host, _ := node[0].(string)
		port, _ := node[1].(int64)
		for i := range owners {
			if slot := int64(keySlot(fmt.Sprintf("%02x", i))); first <= slot && slot <= last {
				owners[i] = net.JoinHostPort(host, strconv.FormatInt(port, 10))
			}
		}
	}
	for _, owner := range owners {
		if owner == "" {
			return owners, errors.New("redis cluster: a slot without a server")
		}
	}
	return owners, nil
}

// keySlot is the slot of a hash tag: CRC-16/XMODEM of it (Redis Cluster specification).
func keySlot(tag string) int {
	crc := uint16(0)
	for i := range len(tag) {
		crc ^= uint16(tag[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % 16384)
}

// askRedis sends one command on a connection of its own and returns the answer.
func askRedis(ctx context.Context, address string, args ...string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, wirePatience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to redis: %w", err)
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(end)
	}
	if _, err := conn.Write(appendCommand(nil, args...)); err != nil {
		return nil, fmt.Errorf("write to redis: %w", err)
	}
	return readAnswer(bufio.NewReader(conn))
}

// redisInfo reads one section of INFO.
func redisInfo(ctx context.Context, address, section string) (map[string]string, error) {
	reply, err := askRedis(ctx, address, "INFO", section)
	if err != nil {
		return nil, err
	}
	text, _ := reply.(string)
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			all[name] = value
		}
	}
	return all, nil
}

func infoValue(ctx context.Context, address, section, name string) (string, error) {
	all, err := redisInfo(ctx, address, section)
	return all[name], err
}

// keepFile makes a filled server append to a file from now on, as a broker demands, and waits until it does.
func keepFile(ctx context.Context, address, fsync string) error {
	for _, setting := range [][2]string{{"appendfsync", fsync}, {"appendonly", "yes"}} {
		if _, err := askRedis(ctx, address, "CONFIG", "SET", setting[0], setting[1]); err != nil {
			return err
		}
	}
	for {
		info, err := redisInfo(ctx, address, "persistence")
		if err != nil {
			return err
		}
		if info["aof_enabled"] == "1" && info["aof_rewrite_in_progress"] == "0" && info["aof_rewrite_scheduled"] == "0" {
			if info["aof_last_bgrewrite_status"] != "ok" {
				return errors.New("redis could not write its file")
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
