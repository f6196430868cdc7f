package redisstore

import (
	"context"
	"crypto/rand"
	"strconv"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// call is one run of a script. Its arguments are pointers to strings, which go-redis takes: a string itself would be copied to
// a place of its own, each.
type call struct {
	script *script
	keys   []string
	args   []any    // behind the keys
	texts  []string // what arguments point to; when it is full another one begins
	// whole: args are all that is sent, with what stands before the keys and the keys, of which the first is first.
	whole bool
	first string
}

// front is what stands before the keys.
const front = 3

// newWhole begins a call with so many arguments behind these keys.
func newWhole(script *script, n int, keys ...string) call {
	c := call{script: script, args: make([]any, front, front+len(keys)+n), texts: make([]string, 0, len(keys)+n), whole: true, first: keys[0]}
	c.args[2] = len(keys)
	c.text(keys...)
	return c
}

func (c *call) text(texts ...string) {
	for _, text := range texts {
		if len(c.texts) == cap(c.texts) {
			c.texts = make([]string, 0, 32)
		}
		c.texts = append(c.texts, text)
		c.args = append(c.args, &c.texts[len(c.texts)-1])
	}
}

func (c *call) number(n int) { c.args = append(c.args, n) }

// key adds the number of a key, from 1 on.
func (c *call) key(key string) {
	for i, have := range c.keys {
		if have == key {
			c.number(i + 1)
			return
		}
	}
	c.keys = append(c.keys, key)
	c.number(len(c.keys))
}

// command is the call as go-redis sends it.
func (c *call) command(ctx context.Context, withSource bool) *redis.Cmd {
	args, keys := c.args, len(c.keys)
	if !c.whole {
		args = make([]any, front, front+len(c.keys)+len(c.args))
		args[2] = len(c.keys)
		for i := range c.keys {
			args = append(args, &c.keys[i])
		}
		args = append(args, c.args...)
	} else {
		keys = 1
	}
	args[0], args[1] = "evalsha", &c.script.sha
	if withSource {
		args[0], args[1] = "eval", &c.script.source
	}
	cmd := redis.NewCmd(ctx, args...)
	if keys > 0 {
		cmd.SetFirstKeyPos(front)
	}
	return cmd
}

// firstKey is the first key of the calls; "" if they have none.
func firstKey(calls []call) string {
	for i := range calls {
		switch c := &calls[i]; {
		case c.whole:
			return c.first
		case len(c.keys) > 0:
			return c.keys[0]
		}
	}
	return ""
}

// echoes are what answers are told apart by: no two of this store are the same, nor of two stores by more than chance.
type echoes struct {
	of string
	n  atomic.Uint64
}

func newEchoes() *echoes { return &echoes{of: rand.Text()[:12]} }

func (e *echoes) next() string { return e.of + strconv.FormatUint(e.n.Add(1), 36) }
