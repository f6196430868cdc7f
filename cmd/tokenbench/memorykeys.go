package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// keyKind is a kind of key (package vault says what each is), with whose it is.
type keyKind struct {
	name  string // what follows the hash tag
	about string
	of    string // ofConnections, ofEvents, or "" for what is neither
}

const (
	ofConnections = "connection"
	ofEvents      = "event"
)

// keyKinds are those that a filled store has, the longest prefix first where one begins with another.
var keyKinds = []keyKind{
	{"c:", "record, sealed", ofConnections},
	{"i:", "last use, and where the index has it", ofConnections},
	{"s:", "index of a subject", ofConnections},
	{"l:", "index of a tenant", ofConnections},
	{"f", "schedule of refreshes", ofConnections},
	{"y:", "index by class and age", ofConnections},
	{"ci:", "index: its classes, and what is due", ofConnections},
	{"e", "history of the shard", ofConnections},
	{"a:", "audit stream", ofEvents},
	{"h:", "heads of its chains", ofEvents},
	{"t", "tenants with a stream", ofEvents},
	{"ax:m:", "how far the trail is indexed", ofEvents},
	{"ax:", "postings of the trail's index", ofEvents},
}

// kindOfKey finds the kind, the last one with an empty name where it is none of those.
func kindOfKey(key string) int {
	_, rest := seedKey(key)
	for i, k := range keyKinds {
		if rest == k.name || strings.HasSuffix(k.name, ":") && strings.HasPrefix(rest, k.name) {
			return i
		}
	}
	return len(keyKinds)
}

// keyMemory is what all keys of a kind take.
type keyMemory struct {
	keys  int64
	bytes int64
}

// memoryByKind asks for the memory of every key (MEMORY USAGE, all elements counted).
func memoryByKind(ctx context.Context, address string) ([]keyMemory, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to redis: %w", err)
	}
	defer conn.Close()
	answers := bufio.NewReaderSize(conn, 256<<10)
	ask := func(commands []byte) error {
		_ = conn.SetDeadline(time.Now().Add(wirePatience))
		_, err := conn.Write(commands)
		return err
	}
	found := make([]keyMemory, len(keyKinds)+1)
	for cursor := "0"; ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := ask(appendCommand(nil, "SCAN", cursor, "COUNT", "2000")); err != nil {
			return nil, err
		}
		reply, err := readAnswer(answers)
		if err != nil {
			return nil, err
		}
		parts, _ := reply.([]any)
		if len(parts) != 2 {
			return nil, fmt.Errorf("SCAN answers %T", reply)
		}
		keys, _ := parts[1].([]any)
		var commands []byte
		for _, key := range keys {
			commands = appendCommand(commands, "MEMORY", "USAGE", fmt.Sprint(key), "SAMPLES", "0")
		}
		if err := ask(commands); err != nil {
			return nil, err
		}
		for _, key := range keys {
			reply, err := readAnswer(answers)
			if err != nil {
				return nil, err
			}
			if bytes, ok := reply.(int64); ok {
				k := kindOfKey(fmt.Sprint(key))
				found[k].keys, found[k].bytes = found[k].keys+1, found[k].bytes+bytes
			}
		}
		if cursor = fmt.Sprint(parts[0]); cursor == "0" {
			return found, nil
		}
	}
}

// redisMemory is the whole of it, in bytes.
type redisMemory struct {
	used, startup int64
	tables        int64 // of the keys: not part of any key's own
	fragmentation float64
}

func memoryOf(ctx context.Context, address string) (m redisMemory, err error) {
	info, err := redisInfo(ctx, address, "memory")
	if err != nil {
		return m, err
	}
	m.used, _ = strconv.ParseInt(info["used_memory"], 10, 64)
	m.startup, _ = strconv.ParseInt(info["used_memory_startup"], 10, 64)
	m.fragmentation, _ = strconv.ParseFloat(info["mem_fragmentation_ratio"], 64)
	reply, err := askRedis(ctx, address, "MEMORY", "STATS")
	if err != nil {
		return m, err
	}
	stats, _ := reply.([]any)
	for i := 0; i+1 < len(stats); i += 2 {
		if name, _ := stats[i].(string); !strings.HasPrefix(name, "db.") {
			continue
		}
		parts, _ := stats[i+1].([]any)
		for k := 0; k+1 < len(parts); k += 2 {
			bytes, _ := parts[k+1].(int64)
			m.tables += bytes
		}
	}
	return m, nil
}
