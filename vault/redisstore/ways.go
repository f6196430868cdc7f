package redisstore

import (
	"context"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// ways are the ways to nodes that concurrent callers share (together.go).
type ways struct {
	client redis.UniversalClient
	places int // of a node's pool
	single *together

	mu    sync.Mutex
	nodes map[string]*together // of a cluster, by address
}

// maxNodes bounds how many nodes are remembered, those among them that have left the cluster.
const maxNodes = 256

func newWays(client redis.UniversalClient, places int) *ways {
	w := &ways{client: client, places: places, nodes: make(map[string]*together)}
	w.single = w.way()
	return w
}

func (w *ways) way() *together {
	return &together{exec: func(ctx context.Context, cmds []redis.Cmder) error { return exec(ctx, w.client, cmds) }, few: tripsAtOnce, most: w.places}
}

// to is the way to the node that has the key; where that is not known, or there is no key, one of the caller's own. What is sent
// goes through the client of the whole cluster, which follows redirections: the node says only who goes together.
func (w *ways) to(ctx context.Context, key string) send {
	cluster, several := w.client.(*redis.ClusterClient)
	if !several && w.single != nil {
		return w.single.do
	}
	if !several || key == "" {
		return alone(w.client)
	}
	node, err := cluster.MasterForKey(ctx, key)
	if err != nil {
		return alone(w.client)
	}
	addr := node.Options().Addr
	w.mu.Lock()
	defer w.mu.Unlock()
	way := w.nodes[addr]
	if way == nil {
		if len(w.nodes) >= maxNodes {
			clear(w.nodes) // those who are on a way come back on it
		}
		way = w.way()
		w.nodes[addr] = way
	}
	return way.do
}

// pipeliner is a client or one of its connections.
type pipeliner interface{ Pipeline() redis.Pipeliner }

// alone is a way of the caller's own.
func alone(client pipeliner) send {
	return func(ctx context.Context, cmds []redis.Cmder) (err error, sent bool) {
		return exec(ctx, client, cmds), true
	}
}

// exec makes one round trip. Each command has its own error; the joint one only matters for those that were never sent.
func exec(ctx context.Context, client pipeliner, cmds []redis.Cmder) error {
	pipe := client.Pipeline()
	_ = pipe.BatchProcess(ctx, cmds...)
	_, err := pipe.Exec(ctx)
	return err
}

// fewHashes is how many hashes are read along with what others ask for: a token's. Lists have a way of their own.
const fewHashes = 4

// sameSlot tells whether all keys have the hash tag of the first.
func sameSlot(keys []string) bool {
	if len(keys) == 0 {
		return false
	}
	end := strings.IndexByte(keys[0], '}')
	for _, key := range keys[1:] {
		if end < 0 || !strings.HasPrefix(key, keys[0][:end+1]) {
			return false
		}
	}
	return true
}
