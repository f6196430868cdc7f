package e2e

import (
	"bufio"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// redisCLI is somebody who can write to the broker's Redis.
type redisCLI struct {
	t   *testing.T
	rdb *redis.Client
}

func (r *rig) redisCLI() *redisCLI {
	r.t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: r.server.Addr, Protocol: 2})
	r.t.Cleanup(func() { _ = rdb.Close() })
	return &redisCLI{t: r.t, rdb: rdb}
}

func (c *redisCLI) do(args ...any) any {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := c.rdb.Do(ctx, args...).Result()
	if err != nil && err != redis.Nil {
		c.t.Fatalf("redis %v: %v", args[0], err)
	}
	return v
}

func (c *redisCLI) keys() []string {
	c.t.Helper()
	keys, err := c.rdb.Keys(context.Background(), "*").Result()
	if err != nil {
		c.t.Fatal(err)
	}
	return keys
}

// recordOf finds the hash whose name holds the connection's id and that has sealed fields.
func (c *redisCLI) recordOf(connection string) string {
	c.t.Helper()
	for _, key := range c.keys() {
		if strings.Contains(key, connection) && c.rdb.Type(context.Background(), key).Val() == "hash" && len(c.hash(key)) > 3 {
			return key
		}
	}
	c.t.Fatalf("no record of connection %s", connection)
	return ""
}

func (c *redisCLI) hash(key string) map[string]string {
	c.t.Helper()
	h, err := c.rdb.HGetAll(context.Background(), key).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	return h
}

// sealed tells a Tink ciphertext by its first byte and length.
func (c *redisCLI) sealed(value string) bool { return len(value) > 33 && value[0] == 1 }

func (c *redisCLI) set(key, field, value string) { c.t.Helper(); c.do("HSET", key, field, value) }

func (c *redisCLI) dump(key string) string {
	c.t.Helper()
	s, err := c.rdb.Dump(context.Background(), key).Result()
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *redisCLI) restore(key, dumped string) {
	c.t.Helper()
	c.do("RESTORE", key, "0", dumped, "REPLACE")
}

func (c *redisCLI) save() { c.t.Helper(); c.do("SAVE") }

func (c *redisCLI) dir() string {
	c.t.Helper()
	v, _ := c.do("CONFIG", "GET", "dir").([]any)
	return v[1].(string)
}

// monitor records every command that Redis gets, until the returned function is called.
func (c *redisCLI) monitor() func() []byte {
	c.t.Helper()
	conn, err := net.Dial("tcp", c.rdb.Options().Addr)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := conn.Write([]byte("MONITOR\r\n")); err != nil {
		c.t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	if line, err := reader.ReadString('\n'); err != nil || !strings.HasPrefix(line, "+OK") {
		c.t.Fatalf("monitor: %q %v", line, err)
	}
	done := make(chan []byte, 1)
	go func() {
		var all []byte
		for {
			line, err := reader.ReadBytes('\n')
			all = append(all, line...)
			if err != nil {
				done <- all
				return
			}
		}
	}()
	return func() []byte {
		_ = conn.Close()
		return <-done
	}
}

type streamEntry struct {
	ID     string
	Values []any
}

func (c *redisCLI) longestStream() string {
	c.t.Helper()
	var best string
	var length int64
	for _, key := range c.keys() {
		if c.rdb.Type(context.Background(), key).Val() != "stream" {
			continue
		}
		if n := c.rdb.XLen(context.Background(), key).Val(); n > length {
			best, length = key, n
		}
	}
	if length < 5 {
		c.t.Fatalf("no stream of five entries or more")
	}
	return best
}

func (c *redisCLI) entries(stream string) []streamEntry {
	c.t.Helper()
	rows, _ := c.do("XRANGE", stream, "-", "+").([]any)
	var out []streamEntry
	for _, row := range rows {
		pair := row.([]any)
		out = append(out, streamEntry{ID: pair[0].(string), Values: pair[1].([]any)})
	}
	return out
}

// rebuild writes the stream anew under the same ids, each with the values of entry pick(i); the entry at changed gets a
// bit of its last value flipped.
func (c *redisCLI) rebuild(stream string, entries []streamEntry, pick func(int) int, changed int) {
	c.t.Helper()
	c.do("DEL", stream)
	for i, e := range entries {
		args := []any{"XADD", stream, e.ID}
		values := append([]any(nil), entries[pick(i)].Values...)
		if i == changed {
			last := []byte(values[len(values)-1].(string))
			last[len(last)-1] ^= 1
			values[len(values)-1] = string(last)
		}
		c.do(append(args, values...)...)
	}
}
