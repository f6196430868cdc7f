package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// redisServer is a redis-server of a measurement.
type redisServer struct {
	*process
	address string
	url     string
	dir     string
}

// AOF modes: appendfsync.
const (
	everySecond = "everysec"
	always      = "always"
)

// findRedis is the program, or an error that says where to get it.
func findRedis() (string, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", errors.New("redis-server is missing: apt-get install -y redis-server")
	}
	return program, nil
}

// startRedis starts a server with the settings of deploy/redis/redis.conf and an empty directory. more comes behind them.
func (b *bench) startRedis(ctx context.Context, fsync string, more ...string) (*redisServer, error) {
	dir, err := os.MkdirTemp(b.dir, "redis-")
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	args := slices.Concat([]string{b.redisConf}, redisArgs(dir, port, fsync), more)
	p, err := b.start("redis-server", dir, os.Environ(), b.redisProgram, args...)
	if err != nil {
		return nil, err
	}
	r := &redisServer{process: p, address: address, url: "redis://" + address + "/0", dir: dir}
	return r, p.waitFor(ctx, "ready", func(ctx context.Context) error {
		_, err := r.ask(ctx, "PING")
		return err
	})
}

// redisArgs are what a measurement has otherwise than the file.
func redisArgs(dir, port, fsync string) []string {
	return []string{
		"--bind", "127.0.0.1", "--port", port, "--dir", dir, "--appendfsync", fsync, "--maxmemory", "0",
		// A rewrite of the append-only file that fell into one round and not into another would be noise.
		"--auto-aof-rewrite-percentage", "0",
		"--loglevel", "warning",
	}
}

// ask sends one command on a connection of its own, for set-up and figures. What comes back is a string, an int64, nil, or a
// []any of those.
func (r *redisServer) ask(ctx context.Context, command ...string) (any, error) {
	return askRedis(ctx, r.address, command...)
}

// keys are those of a type (hash, stream, ...) that match the pattern.
func (r *redisServer) keys(ctx context.Context, kind, pattern string) ([]string, error) {
	var found []string
	for cursor := "0"; ; {
		reply, err := r.ask(ctx, "SCAN", cursor, "MATCH", pattern, "COUNT", "1000", "TYPE", kind)
		if err != nil {
			return nil, err
		}
		parts, ok := reply.([]any)
		if !ok || len(parts) != 2 {
			return nil, errors.New("SCAN answers something else")
		}
		names, _ := parts[1].([]any)
		for _, name := range names {
			found = append(found, fmt.Sprint(name))
		}
		if cursor = fmt.Sprint(parts[0]); cursor == "0" {
			return found, nil
		}
	}
}

// textBytes is how long all strings in a reply are together.
func textBytes(reply any) int {
	switch v := reply.(type) {
	case string:
		return len(v)
	case []any:
		sum := 0
		for _, part := range v {
			sum += textBytes(part)
		}
		return sum
	}
	return 0
}

// empty takes the server's files away, which may be large.
func (r *redisServer) empty() {
	r.stop()
	_ = os.RemoveAll(filepath.Clean(r.dir))
}
