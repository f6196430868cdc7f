//go:build chaos

package e2e

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"tokenbroker/providers/sandbox"
	"tokenbroker/vault/vaulttest"
)

// harmReplicas does one thing to the replicas. It runs on the test's own goroutine.
func (w *chaosWorld) harmReplicas() {
	w.t.Helper()
	time.Sleep(time.Duration(w.random.Int64N(int64(2 * time.Second)))) // the moment is what is random
	i := w.random.IntN(len(w.replicas))
	p := w.replicas[i]
	switch w.random.IntN(6) {
	case 0, 1, 2:
		w.did("replica killed (SIGKILL)")
		p.kill()
		p.exec()
	case 3:
		w.did("two replicas killed (SIGKILL)")
		q := w.replicas[(i+1)%len(w.replicas)]
		p.kill()
		q.kill()
		p.exec()
		q.exec()
	case 4:
		w.did("replica stopped and continued (SIGSTOP)")
		p.pause()
		time.Sleep(time.Duration(w.random.Int64N(int64(14 * time.Second)))) // longer than a lease at times
		p.resume()
	case 5:
		w.did("replica replaced (SIGTERM)")
		p.signal(syscall.SIGTERM)
		select {
		case <-p.done:
			if code := p.state.ExitCode(); code != 0 {
				w.t.Errorf("a replica exited with %d after SIGTERM", code)
			}
		case <-time.After(90 * time.Second):
			w.t.Error("a replica did not end within 90 s of SIGTERM")
			p.kill()
		}
		p.exec()
	}
}

// harmProvider does one thing after another to the provider and to the way there.
func (w *chaosWorld) harmProvider(random *rand.Rand, calm <-chan struct{}) {
	odd := []string{`"3600"`, "3600.5", "3.6e3"} // of the same meaning, so that everybody still gets what is asked for
	for {
		wait(time.Second+time.Duration(random.Int64N(int64(4*time.Second))), calm)
		if isClosed(calm) {
			return
		}
		on := sandbox.TargetRefresh
		fault := []sandbox.Fault{
			{On: on, Kind: sandbox.KindStatus, Status: 429, RetryAfter: 1, Times: 20},
			{On: on, Kind: sandbox.KindStatus, Status: 503, Times: 20},
			{On: on, Kind: sandbox.KindStatus, Status: 500, When: sandbox.After, Times: 3},
			{On: on, Kind: sandbox.KindHTML, Times: 5},
			{On: on, Kind: sandbox.KindReset, Times: 3},
			{On: on, Kind: sandbox.KindLatency, Delay: 1500 * time.Millisecond, Times: 10},
			{On: on, Kind: sandbox.KindLatency, Delay: 2500 * time.Millisecond, Times: 3}, // longer than the broker waits
			{On: on, Kind: sandbox.KindExpiresIn, Value: odd[random.IntN(len(odd))], Times: 10},
			{On: on, Kind: sandbox.KindOmitRefresh, Times: 10},
			{}, {}, {}, {},
		}[random.IntN(13)]
		if fault.Kind != "" {
			w.did("provider: " + string(fault.Kind))
			if err := w.provider.Inject(fault); err != nil {
				w.t.Error(err)
			}
			continue
		}
		x := []toxic{
			{"latency", true, map[string]int64{"latency": 400, "jitter": 300}},
			{"timeout", random.IntN(2) == 0, map[string]int64{"timeout": 0}},
			{"reset_peer", true, map[string]int64{"timeout": 0}},
			{"limit_data", true, map[string]int64{"bytes": 200 + random.Int64N(300)}},
		}[random.IntN(4)]
		w.did("between replica and provider: " + x.kind)
		w.toIssuer[random.IntN(len(w.toIssuer))].with(x, 500*time.Millisecond+time.Duration(random.Int64N(int64(2*time.Second))), calm)
	}
}

// harmRedis does one thing after another to Redis and to the way there.
func (w *chaosWorld) harmRedis(random *rand.Rand, calm <-chan struct{}) {
	for {
		wait(2*time.Second+time.Duration(random.Int64N(int64(5*time.Second))), calm)
		if isClosed(calm) {
			return
		}
		switch {
		case w.single != nil:
			w.harmSingle(random, calm)
		case w.sentinel != nil:
			w.harmSentinel(random, calm)
		default:
			w.harmCluster(random, calm)
		}
	}
}

// out notes a time without Redis.
func (w *chaosWorld) out(kind string, from time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Done["redis: "+kind]++
	w.result.Outages = append(w.result.Outages, outage{kind, from, time.Now()})
}

func (w *chaosWorld) harmSingle(random *rand.Rand, calm <-chan struct{}) {
	some := func(most time.Duration) time.Duration { return time.Duration(random.Int64N(int64(most))) }
	began := time.Now()
	switch random.IntN(8) {
	case 0:
		w.single.Kill()
		wait(some(3*time.Second), calm)
		w.single.Start()
		w.out("killed and started again", began)
	case 1:
		w.single.Pause()
		wait(some(3*time.Second), calm)
		w.single.Resume()
		w.out("stopped and continued", began)
	case 2:
		w.command("CONFIG", "SET", "maxmemory", "1")
		wait(some(2*time.Second), calm)
		w.command("CONFIG", "SET", "maxmemory", "0")
		w.out("out of memory", began)
	case 3:
		w.command("REPLICAOF", "127.0.0.1", "1")
		wait(some(2*time.Second), calm)
		w.command("REPLICAOF", "NO", "ONE")
		w.out("read-only", began)
	case 4:
		w.did("redis: script cache flushed")
		w.command("SCRIPT", "FLUSH")
	default:
		x := []toxic{
			{"latency", true, map[string]int64{"latency": 60, "jitter": 50}},
			{"timeout", random.IntN(2) == 0, map[string]int64{"timeout": 0}},
			{"reset_peer", random.IntN(2) == 0, map[string]int64{"timeout": 0}},
			{"limit_data", true, map[string]int64{"bytes": random.Int64N(20_000)}},
			{"limit_data", false, map[string]int64{"bytes": random.Int64N(20_000)}},
		}[random.IntN(5)]
		w.did("between replica and redis: " + x.kind)
		w.toRedis[random.IntN(len(w.toRedis))].with(x, 500*time.Millisecond+some(2*time.Second), calm)
	}
}

func (w *chaosWorld) command(args ...string) {
	if _, err := vaulttest.Command(w.single.Addr, args...); err != nil {
		w.t.Errorf("%v: %v", args, err)
	}
}

func (w *chaosWorld) harmSentinel(random *rand.Rand, calm <-chan struct{}) {
	master, other := w.sentinel.Current()
	switch random.IntN(4) {
	case 0:
		w.did("redis: replica stopped and continued")
		other.Pause()
		wait(time.Duration(random.Int64N(int64(3*time.Second))), calm)
		other.Resume()
	case 1:
		began := time.Now()
		master.Pause() // for longer than the sentinels wait, at times: then the old master comes back as one
		wait(time.Duration(random.Int64N(int64(4*time.Second))), calm)
		master.Resume()
		w.out("master stopped and continued", began)
	default:
		began := time.Now()
		master.Kill()
		eventually(w.t, 60*time.Second, "another master", func() error {
			if now, _ := w.sentinel.Current(); now == master {
				return fmt.Errorf("still the old one")
			}
			return nil
		})
		w.out("failover", began)
		master.Start()
	}
	w.sentinel.Whole()
}

func (w *chaosWorld) harmCluster(random *rand.Rand, calm <-chan struct{}) {
	user := w.users[random.IntN(len(w.users))]
	conn := w.conns[user]
	key := ""
	for _, n := range w.cluster.Nodes {
		if found, err := vaulttest.Command(n.Addr, "KEYS", "*:c:"+conn); err == nil && found != "" {
			key = found
		}
	}
	if key == "" {
		w.t.Errorf("the record of %s is nowhere", user)
		return
	}
	if random.IntN(4) == 0 {
		began := time.Now()
		master := w.cluster.MasterOf(key)
		master.Pause()
		wait(time.Duration(random.Int64N(int64(4*time.Second))), calm)
		master.Resume()
		w.out("master stopped and continued", began)
	} else {
		began := time.Now()
		master := w.cluster.KillMasterOf(key)
		eventually(w.t, 60*time.Second, "another master of the slot", func() error {
			if w.cluster.MasterOf(key) == master {
				return fmt.Errorf("still the old one")
			}
			return nil
		})
		w.out("failover", began)
		master.Start()
	}
	w.cluster.Whole()
}
