package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// Redis comes back, and nothing else is wrong: everybody's next refresh works within two seconds, of which one is the pause
// in which no refresh token is sent after the store's history may have changed.
func TestRedisReturns(t *testing.T) {
	t.Parallel()
	for kind, took := range redisReturns(t) {
		t.Logf("%s: until a user's next refresh: median %v, slowest of %d %v", kind, took[len(took)/2], len(took), took[len(took)-1])
		if median := took[len(took)/2]; median > 2*time.Second+patience { // patience is for the machine
			t.Errorf("%s: %v", kind, median)
		}
	}
}

// redisReturns takes Redis away in several ways while twenty users refresh at three replicas, and measures for each user how
// long after its return the next refresh works; sorted.
func redisReturns(t *testing.T) map[string][]time.Duration {
	t.Helper()
	r := newRig(t, crowdUsers(20))
	r.writeConfig(patient)
	crowd := newCrowd(r, 20, r.start("SPOOL=spool-a"), r.start("SPOOL=spool-b"), r.start("SPOOL=spool-c"))
	redis := r.redisCLI()
	crowd.begin(150 * time.Millisecond)
	out := map[string][]time.Duration{}
	for kind, outage := range map[string][2]func(){
		"killed and started again": {r.server.Kill, r.server.Start},
		"stopped and continued":    {r.server.Pause, r.server.Resume},
		"out of memory":            {func() { redis.do("CONFIG", "SET", "maxmemory", "1") }, func() { redis.do("CONFIG", "SET", "maxmemory", "0") }},
		"read-only":                {func() { redis.do("REPLICAOF", "127.0.0.1", "1") }, func() { redis.do("REPLICAOF", "NO", "ONE") }},
	} {
		before := crowd.refused()
		outage[0]()
		r.eventually(20*time.Second, "everybody notices that redis is "+kind, func() error {
			if n := crowd.refused() - before; n < 10 {
				return fmt.Errorf("%d refusals", n)
			}
			return nil
		})
		outage[1]()
		back := time.Now()
		r.eventually(60*time.Second, "everybody's next refresh after redis was "+kind, func() error {
			out[kind] = crowd.next(back)
			if n := len(out[kind]); n < len(crowd.names) {
				return fmt.Errorf("%d users", n)
			}
			return nil
		})
	}
	crowd.end()
	crowd.nobodyAsked()
	return out
}

// refused counts refusals.
func (c *crowd) refused() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.seen {
		if a.status != 200 {
			n++
		}
	}
	return n
}

// next is how long after that moment each user got a token, as far as they did.
func (c *crowd) next(from time.Time) []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := map[string]time.Duration{}
	for _, a := range c.seen {
		took := a.at.Add(a.took).Sub(from)
		if known, ok := first[a.user]; a.status == 200 && took > 0 && (!ok || took < known) {
			first[a.user] = took
		}
	}
	var all []time.Duration
	for _, took := range first {
		all = append(all, took)
	}
	slices.Sort(all)
	return all
}
