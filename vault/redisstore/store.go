package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"tokenbroker/vault"
)

// Config is where Redis is and how long it may take.
type Config struct {
	// URL: redis://, rediss://, redis-sentinel://HOST:PORT,.../MASTER or redis-cluster://HOST:PORT,... ; user and password
	// before an @; ?db=N and, for the last two, ?tls=true.
	URL string
	// TLS, if set, is used wherever the URL asks for TLS. Default: verify with the system's roots, TLS 1.2 at least.
	TLS *tls.Config
	// SentinelUser and SentinelPassword are for the sentinels themselves, which have users of their own; empty: they ask
	// nobody who they are. The user and the password of the URL are for the servers.
	SentinelUser, SentinelPassword string
	// DialTimeout bounds connecting. Default 1 s.
	DialTimeout time.Duration
	// IOTimeout bounds each read and write. Default 800 ms. A context that ends earlier counts.
	IOTimeout time.Duration
	// PoolSize is the number of connections to each node. Default 16.
	PoolSize int
	// WaitReplicas is how many replicas must have a step with vault.Step.Confirm for it to be confirmed (WAIT). 0, without
	// WaitDisk: every one is, without being asked about.
	WaitReplicas int
	// WaitTimeout bounds that. Default 100 ms, at most 500 ms.
	WaitTimeout time.Duration
	// WaitDisk also demands that it is in the append-only files of the master and of those replicas (WAITAOF, Redis 7.2 and
	// later; an older one is asked for WAIT alone).
	WaitDisk bool
}

// Store implements vault.Backend over Redis.
type Store struct {
	client  redis.UniversalClient
	target  target // what the URL says
	servers *dialled
	wait    waiter
	ways    *ways
	echoes  *echoes
}

var _ vault.Backend = (*Store)(nil)

// New parses the URL and makes a Store. It connects when it is first used; Health asks whether it can.
func New(cfg Config) (*Store, error) {
	if cfg.WaitTimeout == 0 {
		cfg.WaitTimeout = 100 * time.Millisecond
	}
	if cfg.WaitReplicas < 0 || cfg.WaitTimeout < 0 || cfg.WaitTimeout > maxWait {
		return nil, fmt.Errorf("redis: the number of replicas to wait for must not be negative, and the time at most %v", maxWait)
	}
	target, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	servers := &dialled{}
	client, err := open(cfg, servers)
	if err != nil {
		return nil, err
	}
	return &Store{
		client: client, target: target, servers: servers, wait: waiter{replicas: cfg.WaitReplicas, timeout: cfg.WaitTimeout, disk: cfg.WaitDisk},
		ways: newWays(client, poolSize(cfg)), echoes: newEchoes(),
	}, nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.client.Close() }

// scriptAttempts bounds how often calls are sent because the server had forgotten the script.
const scriptAttempts = 3

// send makes one round trip. sent as together.do has it.
type send func(ctx context.Context, cmds []redis.Cmder) (err error, sent bool)

// run sends the calls in one round trip, in order, and again those whose script the server does not know (they were not
// carried out): go-redis does that for single calls only, not in a pipeline. results[i] is nil if errs[i] is not.
func run(ctx context.Context, trip send, calls []call) (results []any, errs []error) {
	results, errs = runRaw(ctx, trip, calls)
	for i, err := range errs {
		if err != nil {
			errs[i] = clean(err)
		}
	}
	return results, errs
}

// runRaw is run with errors as they came: they may quote arguments.
func runRaw(ctx context.Context, trip send, calls []call) (results []any, errs []error) {
	results, errs = make([]any, len(calls)), make([]error, len(calls))
	var pending []int // by number; at first they are all
	for attempt, left := 0, len(calls); left > 0; attempt, left = attempt+1, len(pending) {
		number := func(n int) int {
			if attempt == 0 {
				return n
			}
			return pending[n]
		}
		cmds := make([]redis.Cmder, left)
		for n := range cmds {
			// With its source the second time, which also puts it into the cache of just the node that lacks it.
			cmds[n] = calls[number(n)].command(ctx, attempt > 0)
		}
		execErr, sent := trip(ctx, cmds)
		if !sent {
			for n := range cmds {
				errs[number(n)] = execErr
			}
			return results, errs
		}
		var unknown []int
		for n := range cmds {
			i := number(n)
			value, err := cmds[n].(*redis.Cmd).Result()
			if err == nil && value == nil && execErr != nil {
				err = execErr
			}
			switch {
			case err == nil:
				results[i] = value
			case redis.HasErrorPrefix(err, "NOSCRIPT") && attempt < scriptAttempts:
				unknown = append(unknown, i)
			default:
				errs[i] = err
			}
		}
		pending = unknown
	}
	return results, errs
}

// Apply implements vault.Backend.
func (s *Store) Apply(ctx context.Context, steps []vault.Step) []vault.Result {
	results := make([]vault.Result, len(steps))
	calls := make([]call, len(steps))
	echoes := make([]string, len(steps))
	confirm := false
	for i := range steps {
		var err error
		echoes[i] = s.echoes.next()
		if calls[i], err = encode(&steps[i], echoes[i]); err != nil {
			for k := range results {
				results[k].Err = err // nothing was sent
			}
			return results
		}
		confirm = confirm || steps[i].Confirm
	}
	var values []any
	var errs []error
	confirmed := confirm && s.wait.replicas == 0 && !s.wait.disk
	if confirm && !confirmed {
		values, errs, confirmed = s.runConfirmed(ctx, calls)
	} else {
		values, errs = run(ctx, s.ways.to(ctx, firstKey(calls)), calls)
	}
	for i := range steps {
		if errs[i] != nil {
			results[i] = vault.Result{Err: errs[i]}
			continue
		}
		r, err := decode(values[i], &steps[i], echoes[i])
		if err != nil {
			r = vault.Result{Err: err}
		}
		switch r.Verdict {
		case vault.VerdictDone, vault.VerdictRepeated, vault.VerdictApplied:
			r.Confirmed = steps[i].Confirm && confirmed
		}
		results[i] = r
	}
	return results
}

// encode lays a step out as its script reads it.
func encode(step *vault.Step, echo string) (call, error) {
	if step.Release != nil {
		return encodeRelease(step, echo)
	}
	c := call{script: stepScript}
	c.text(kindApply, echo)
	c.number(len(step.Reads))
	for _, r := range step.Reads {
		c.key(r.Key)
		c.number(len(r.Fields))
		c.text(r.Fields...)
	}
	if settle := step.Settle; settle == nil {
		c.number(0)
	} else {
		c.number(1)
		c.key(settle.Key)
		c.number(int(settle.Pause.Milliseconds()))
	}
	if t := step.Trail; t == nil {
		c.number(0)
	} else {
		c.number(len(t.Entries))
		c.key(t.Stream)
		c.key(t.Heads)
		c.key(t.Index)
		c.text(t.Member, t.Writer, t.Head, t.Next)
		for _, e := range t.Entries {
			c.text(e.Meta, e.Body)
		}
	}
	c.number(len(step.Checks))
	for _, k := range step.Checks {
		c.key(k.Key)
		c.text(k.Field, string(k.Kind), k.Value)
	}
	c.number(len(step.Writes))
	for _, w := range step.Writes {
		c.text(string(w.Kind))
		c.key(w.Key)
		c.number(len(w.Args))
		c.text(w.Args...)
	}
	return c, nil
}

var errAnswer = errors.New("redis: answer has not the shape that the script gives")

// errForeign means that a connection handed out the answer to another request (CVE-2025-29923 was such a case).
var errForeign = errors.New("redis: answer belongs to another request")

// decode reads what the step's script answers.
func decode(value any, step *vault.Step, echo string) (vault.Result, error) {
	if step.Release != nil {
		return decodeRelease(value, step, echo)
	}
	parts, ok := value.([]any)
	if !ok || len(parts) != 8 {
		return vault.Result{}, errAnswer
	}
	var texts [6]string
	for i := range texts {
		if texts[i], ok = parts[i].(string); !ok {
			return vault.Result{}, errAnswer
		}
	}
	if texts[0] != echo {
		return vault.Result{}, errForeign
	}
	refused, err := strconv.Atoi(texts[2])
	if err != nil {
		return vault.Result{}, errAnswer
	}
	now, err := strconv.ParseInt(texts[3], 10, 64)
	if err != nil {
		return vault.Result{}, errAnswer
	}
	r := vault.Result{Verdict: vault.Verdict(texts[1]), Refused: refused, Now: time.UnixMilli(now), Head: texts[4], HeadID: texts[5]}
	ids, ok := parts[6].([]any)
	if !ok {
		return vault.Result{}, errAnswer
	}
	for _, id := range ids {
		text, ok := id.(string)
		if !ok {
			return vault.Result{}, errAnswer
		}
		r.IDs = append(r.IDs, text)
	}
	reads, ok := parts[7].([]any)
	if !ok {
		return vault.Result{}, errAnswer
	}
	for _, read := range reads {
		fields, err := fieldsOf(read)
		if err != nil {
			return vault.Result{}, err
		}
		r.Reads = append(r.Reads, fields)
	}
	return r, nil
}

// fieldsOf makes a map of a list of names and values.
func fieldsOf(value any) (map[string][]byte, error) {
	list, ok := value.([]any)
	if !ok || len(list)%2 != 0 {
		return nil, errAnswer
	}
	fields := make(map[string][]byte, len(list)/2)
	for i := 0; i < len(list); i += 2 {
		name, ok1 := list[i].(string)
		text, ok2 := list[i+1].(string)
		if !ok1 || !ok2 {
			return nil, errAnswer
		}
		fields[name] = []byte(text)
	}
	return fields, nil
}
