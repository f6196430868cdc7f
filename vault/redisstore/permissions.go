package redisstore

import (
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

//go:embed probe.lua
var probeSource string

var probeScript = newScript(probeSource)

// needed are the commands that the store and its scripts send, each as it is sent, on a key of the broker's. deploy/redis/
// users.acl allows them, and a few more.
func needed(key string) [][]any {
	return [][]any{
		{"eval", "return 1", "1", key}, {"evalsha", probeScript.sha, "1", key}, {"time"},
		{"hget", key, "f"}, {"hmget", key, "f"}, {"hset", key, "f", "v"}, {"hdel", key, "f"}, {"hincrby", key, "f", "1"}, {"hkeys", key}, {"hgetall", key},
		{"pexpire", key, "1"}, {"pexpireat", key, "1"}, {"persist", key}, {"del", key},
		{"sadd", key, "m"}, {"smembers", key}, {"xadd", key, "*", "f", "v"}, {"xrange", key, "-", "+"}, {"xrevrange", key, "+", "-"},
		{"zadd", key, "0", "m"}, {"zrem", key, "m"}, {"zrangebylex", key, "-", "+"}, {"zrangebyscore", key, "0", "1"}, {"zcount", key, "0", "1"},
		{"zremrangebyrank", key, "0", "0"}, {"zremrangebyscore", key, "0", "0"},
		{"scan", "0"}, {"ping"}, {"set", key, "1", "px", "1"},
	}
}

// wanted are those without which the broker runs, and does less: all but the first are for what operators see.
func (s *Store) wanted(key string) [][]any {
	all := [][]any{
		{"info", "replication"}, {"zrevrangebylex", key, "+", "-"}, {"zlexcount", key, "-", "+"},
		{"append", key, "v"}, {"strlen", key}, {"getrange", key, "0", "1"},
		{"xlen", key}, {"xtrim", key, "MINID", "=", "0"},
	}
	if s.wait.replicas > 0 || s.wait.disk {
		all = append(all, []any{"wait", "1", "1"})
	}
	if s.wait.disk {
		all = append(all, []any{"waitaof", "1", "1", "1"})
	}
	return all
}

// Denied are commands that the store's user may not run, in no order of importance.
type Denied struct {
	Needed []string // without them operations fail
	Wanted []string // without them the store can't tell a failover, whether replicas have a write, or what the dashboard lists and finds, nor drop old events
	user   string
}

// String says what is denied and how to allow it; "" if nothing is.
func (d Denied) String() string {
	all := slices.Concat(d.Needed, d.Wanted)
	if len(all) == 0 {
		return ""
	}
	return fmt.Sprintf("the redis user %s may not run %s: %s", d.user, strings.Join(all, ", "), grant(d.user, "+"+strings.Join(all, " +")))
}

// grant is how an operator allows a user something.
func grant(user, rules string) string {
	return fmt.Sprintf("ACL SETUSER %s %s, and ACL SAVE or the same in the server's ACL file (deploy/redis/users.acl has the whole line)", user, rules)
}

// Permissions asks every master what the store's user may run, without running it. A server before Redis 7.0 does not tell.
func (s *Store) Permissions(ctx context.Context) (Denied, error) {
	denied := Denied{user: s.user()}
	var mu sync.Mutex
	// The key that makes a cluster send it to each master.
	keys, err := s.probeKeys(ctx)
	if err != nil {
		return denied, fmt.Errorf("what the user may do can't be seen: %w", s.advised(err))
	}
	var group sync.WaitGroup
	var failed error
	for _, key := range keys {
		group.Go(func() {
			needed, wanted, err := s.ask(ctx, key)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			denied.Needed, denied.Wanted = append(denied.Needed, needed...), append(denied.Wanted, wanted...)
		})
	}
	group.Wait()
	slices.Sort(denied.Needed)
	slices.Sort(denied.Wanted)
	denied.Needed, denied.Wanted = slices.Compact(denied.Needed), slices.Compact(denied.Wanted)
	if failed != nil && len(denied.Needed) == 0 {
		return denied, fmt.Errorf("what the user may do can't be seen: %w", failed)
	}
	return denied, nil
}

// ask asks the master that has the key.
func (s *Store) ask(ctx context.Context, key string) (needs, wants []string, err error) {
	must, may := needed(key), s.wanted(key)
	c := call{script: probeScript, keys: []string{key}}
	for _, command := range slices.Concat(must, may) {
		c.args = append(append(c.args, len(command)), command...)
	}
	// As it was answered, for the advice: run would keep the code alone.
	values, errs := runRaw(ctx, alone(s.client), []call{c})
	if errs[0] != nil {
		return nil, nil, s.advised(errs[0])
	}
	lists, ok := values[0].([]any)
	if !ok || len(lists) != 2 {
		return nil, nil, errAnswer
	}
	for i, list := range lists {
		names, ok := list.([]any)
		if !ok {
			return nil, nil, errAnswer
		}
		for _, name := range names {
			text, ok := name.(string)
			if !ok {
				return nil, nil, errAnswer
			}
			switch isNeeded := slices.ContainsFunc(must, func(c []any) bool { return c[0] == text }); {
			case isNeeded:
				needs = append(needs, text) // a command that is renamed away can't be run either
			case i == 0:
				wants = append(wants, text)
			}
		}
	}
	return needs, wants, nil
}

// user is who the store logs in as, at the servers.
func (s *Store) user() string {
	switch {
	case s.target.user == "":
		return "default"
	case !userName.MatchString(s.target.user):
		return "of the URL"
	}
	return s.target.user
}

var userName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// allow is what to do about a denial.
func (s *Store) allow(d *denial) string {
	switch {
	case d.command != "":
		return Denied{Needed: []string{d.command}, user: s.user()}.String()
	case d.keys:
		return fmt.Sprintf("the redis user %s may not use keys that begin with tb:: %s", s.user(), grant(s.user(), "~tb:*"))
	}
	return fmt.Sprintf("the redis user %s lacks a command that the broker needs: give it those of deploy/redis/users.acl", s.user())
}

// probeKeys are keys of no meaning, one on each master.
func (s *Store) probeKeys(ctx context.Context) ([]string, error) {
	cluster, several := s.client.(*redis.ClusterClient)
	if !several {
		return []string{probeKey(0)}, nil
	}
	var keys []string
	seen := make(map[*redis.Client]bool)
	for tag := range 256 { // so many that each master has some
		node, err := cluster.MasterForKey(ctx, probeKey(tag))
		if err != nil {
			return nil, err
		}
		if !seen[node] {
			seen[node], keys = true, append(keys, probeKey(tag))
		}
	}
	return keys, nil
}
