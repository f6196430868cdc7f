package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// PartialError is what Health says of a cluster of which some masters work: the users whose records lie there notice nothing.
type PartialError struct{ err error }

func (e *PartialError) Error() string { return "a part of " + e.err.Error() }

func (e *PartialError) Unwrap() error { return e.err }

// Health tells whether every master answers and takes writes, and if not, what to do about it; a *PartialError where some
// do. It writes to each, a key that lasts for a minute.
func (s *Store) Health(ctx context.Context) error {
	working, err := s.probe(ctx)
	if askErr := s.askHealth(ctx); askErr != nil && (err == nil || ctx.Err() == nil) {
		err = askErr // it knows more of the reason
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("redis is not usable: %w", s.advised(err))
	if working > 0 {
		return &PartialError{err: err}
	}
	return err
}

// askHealth asks the masters how they are.
func (s *Store) askHealth(ctx context.Context) error {
	err := s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		if err := node.Ping(ctx).Err(); err != nil {
			return err
		}
		all, err := sections(ctx, node, "replication", "persistence")
		if err != nil {
			return err
		}
		if what := refuses(all); what != "" {
			return errors.New(what)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.clusterHealth(ctx)
}

// refuses says why a server takes no writes, from its INFO; "" if nothing in it says so.
func refuses(info map[string]string) string {
	switch {
	case info["loading"] == "1":
		return "it is reading its data from disk: wait until it has"
	case info["role"] == "slave":
		return "it is a replica and takes no writes: let the address lead to the master, or make this one the master (REPLICAOF NO ONE)"
	case info["aof_enabled"] == "1" && info["aof_last_write_status"] != "ok":
		return "its append-only file can't be written, so it refuses writes (MISCONF): free or mend its disk"
	case info["min_slaves_good_slaves"] == "0":
		// The field is there only with min-replicas-to-write, which is 1 at least then.
		return "it has too few replicas that follow, so it refuses writes (NOREPLICAS): start them, or lower min-replicas-to-write"
	}
	return ""
}

// probe writes to every master: INFO may be forbidden, and does not tell of everything that makes a server refuse writes. Of
// a cluster it tells how many took it; one that hangs leaves time for the rest of Health.
func (s *Store) probe(ctx context.Context) (working int, err error) {
	keys, err := s.probeKeys(ctx)
	if err != nil {
		return 0, err
	}
	_, several := s.client.(*redis.ClusterClient)
	if several {
		if end, ok := ctx.Deadline(); ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
			defer cancel()
		}
	}
	pipe := s.client.Pipeline()
	cmds := make([]*redis.StatusCmd, len(keys))
	for i, key := range keys {
		cmds[i] = pipe.Set(ctx, key, "1", time.Minute)
	}
	_, err = pipe.Exec(ctx)
	for _, cmd := range cmds {
		if several && cmd.Err() == nil && cmd.Val() != "" {
			working++
		}
	}
	return working, err
}

// probeKey is a key of no meaning among those of the broker, which is all that its user may write to.
func probeKey(tag int) string { return fmt.Sprintf("tb:{%02x}:p", tag) }

func (s *Store) clusterHealth(ctx context.Context) error {
	cluster, ok := s.client.(*redis.ClusterClient)
	if !ok {
		return nil
	}
	info, err := fieldsOfInfo(cluster.ClusterInfo(ctx).Result())
	switch {
	case err != nil:
		return err
	case info["cluster_state"] == "fail":
		return errors.New("the cluster is down (cluster_state:fail): start the masters that are missing, or let their replicas take over; with cluster-require-full-coverage no, the others serve on meanwhile")
	case info["cluster_slots_ok"] != "" && info["cluster_slots_ok"] != "16384":
		return fmt.Errorf("only %s of 16384 slots of the cluster are served: start the masters that are missing, or let their replicas take over", info["cluster_slots_ok"])
	}
	return nil
}

// CheckDurability names what makes the store lose what it acknowledged: no append-only file, a disk that refuses it, or
// an eviction policy that throws records away. What a server does not tell (miniredis, a forbidden INFO) is a problem
// too: nobody can say that it keeps anything.
func (s *Store) CheckDurability(ctx context.Context) (problems []string, err error) {
	var mu sync.Mutex
	err = s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		info, err := sections(ctx, node, "persistence", "memory")
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case info["aof_enabled"] == "":
			problems = append(problems, "it does not tell whether it keeps anything (allow the user INFO)")
		case info["aof_enabled"] != "1":
			problems = append(problems, "its append-only file is off (set appendonly yes)")
		case info["aof_last_write_status"] != "ok":
			problems = append(problems, "its append-only file can't be written (aof_last_write_status)")
		}
		if forgets(ctx, node) {
			problems = append(problems, "its user default may not write, and as that user it carries out its append-only file when it starts, so that a restart drops every grant (ACL SETUSER default off resetpass ~* &* +@all, and ACL SAVE or the same in its file)")
		}
		if policy := info["maxmemory_policy"]; policy != "" && policy != "noeviction" {
			problems = append(problems, fmt.Sprintf("its eviction policy is %s (set maxmemory-policy noeviction)", policy))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("what redis keeps can't be seen: %w", s.advised(err))
	}
	slices.Sort(problems)
	return slices.Compact(problems), nil
}

// forgets tells that the server would drop transactions of its append-only file at its next start (redis/redis#14541). A
// server that may not say so is not known to.
func forgets(ctx context.Context, node redis.UniversalClient) bool {
	pipe := node.Pipeline()
	var verdicts []*redis.Cmd
	for _, command := range [][]any{{"hset", probeKey(0), "f", "v"}, {"xadd", probeKey(0), "*", "f", "v"}, {"del", probeKey(0)}} {
		verdicts = append(verdicts, pipe.Do(ctx, append([]any{"acl", "dryrun", "default"}, command...)...))
	}
	_, _ = pipe.Exec(ctx) // each has its own error
	return slices.ContainsFunc(verdicts, func(verdict *redis.Cmd) bool {
		text, err := verdict.Text()
		return err == nil && text != "OK"
	})
}

// Identity implements vault.Backend: the replication ids of all masters. A server that may not or can't tell has none.
func (s *Store) Identity(ctx context.Context) (string, error) {
	var mu sync.Mutex
	var ids []string
	err := s.eachMaster(ctx, func(ctx context.Context, node redis.UniversalClient) error {
		info, err := sections(ctx, node, "replication")
		if err != nil {
			return err
		}
		if id := info["master_replid"]; id != "" {
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, id)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("ask redis who it is: %w", clean(err))
	}
	slices.Sort(ids)
	return strings.Join(ids, ","), nil
}

// sections reads sections of INFO, in one round trip; what the server does not have or does not allow is left out.
func sections(ctx context.Context, node redis.UniversalClient, names ...string) (map[string]string, error) {
	pipe := node.Pipeline()
	cmds := make([]*redis.StringCmd, len(names))
	for i, name := range names {
		cmds[i] = pipe.Info(ctx, name) // several at once only Redis 7 has
	}
	_, execErr := pipe.Exec(ctx)
	all := make(map[string]string)
	for _, cmd := range cmds {
		text, err := cmd.Result() // each has its own error, but where they were never sent
		if err == nil && text == "" {
			err = execErr
		}
		fields, err := fieldsOfInfo(text, err)
		if err != nil {
			return nil, err
		}
		for name, value := range fields {
			all[name] = value
		}
	}
	return all, nil
}

// fieldsOfInfo reads an answer to INFO or CLUSTER INFO; none if the server has no such command or sections, or does not
// allow it.
func fieldsOfInfo(text string, err error) (map[string]string, error) {
	if withheld(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fields := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			fields[key] = value
		}
	}
	return fields, nil
}

// withheld tells that a server will not tell, now or later. Only that: a wrong password, or a sentinel that knows no such
// master, is no answer to the question.
func withheld(err error) bool {
	var answer redis.Error
	if errors.Is(err, redis.Nil) || !errors.As(err, &answer) {
		return false
	}
	denied := denialOf(answer)
	return denied != nil && (denied.command == "" || !slices.Contains(onConnect, denied.command)) ||
		redis.HasErrorPrefix(err, "unknown command") || redis.HasErrorPrefix(err, "section ") || redis.HasErrorPrefix(err, "unsupported section")
}

// onConnect are commands that a connection begins with: what they are denied is not about what is asked behind them.
var onConnect = []string{"auth", "hello", "select", "client|setinfo", "client|setname"}
