//go:build chaos

package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
	"tokenbroker/vault/vaulttest"
)

// chaosUsers refresh all the time, each as soon as it was answered and some more.
const (
	chaosUsers    = 40
	chaosPace     = 300 * time.Millisecond
	chaosDeadline = 45 * time.Second // the longest that any request may take: a lease, a request to the provider, and some more
)

// TestChaos is the long run behind `make chaos`. TOKENBROKER_CHAOS_KILLS (1000) bounds its first part,
// TOKENBROKER_CHAOS_SECONDS (120) each topology; TOKENBROKER_CHAOS_SEED repeats a run, as far as processes can be repeated.
// TOKENBROKER_CHAOS_REPORT names the file that the numbers go to; left out: they are only logged.
func TestChaos(t *testing.T) {
	seed := setting(t, "TOKENBROKER_CHAOS_SEED", rand.Uint64())
	kills := setting(t, "TOKENBROKER_CHAOS_KILLS", 1000)
	duration := time.Duration(setting(t, "TOKENBROKER_CHAOS_SECONDS", 120)) * time.Second
	report := chaosReport{seed: seed, began: time.Now()}
	if kills > 0 {
		t.Run("kills", func(t *testing.T) {
			r := matrix{kills: int(kills), users: 50, pace: 2 * time.Second, rest: time.Second, seed: seed}.run(t)
			report.kills = &r
		})
	}
	t.Run("redis alone", func(t *testing.T) { report.alone = redisReturns(t) })
	for i, name := range []string{"standalone", "sentinel", "cluster"} {
		t.Run(name, func(t *testing.T) {
			w := newChaosWorld(t, name, seed+uint64(i)+1)
			report.worlds = append(report.worlds, w.run(duration))
		})
	}
	report.failed = t.Failed()
	text := report.markdown()
	t.Log("\n" + text)
	if file := os.Getenv("TOKENBROKER_CHAOS_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// chaosWorld is one topology with everything that can go wrong around it.
type chaosWorld struct {
	*rig
	t        *testing.T
	name     string
	random   *rand.Rand // of the replicas' fate
	replicas []*brokerProcess
	users    []string
	conns    map[string]string

	single   *vaulttest.Redis
	sentinel *vaulttest.Sentinel
	cluster  *vaulttest.Cluster
	toRedis  []*toxicProxy // one for each replica; standalone only: clients of the others learn the servers' own addresses
	toIssuer []*toxicProxy // one for each replica

	stop chan struct{}
	wait sync.WaitGroup

	mu     sync.Mutex
	result chaosResult
	seen   []crowdAnswer
}

// outage is a time in which Redis was gone.
type outage struct {
	kind     string
	from, to time.Time
}

// chaosResult is what came of it.
type chaosResult struct {
	Name       string
	Took       time.Duration
	Done       map[string]int // faults by kind
	Answers    map[string]int
	Latencies  []time.Duration // of answers with a token
	Refreshes  int
	Grace      int // refresh tokens that came once more within the grace: answers that got lost
	Reuses     int
	Grants     int
	Lost       int
	Healed     int // writes that Redis had lost, written back
	Outages    []outage
	Recoveries map[string][]time.Duration // by kind of outage: of each user, until its next token
	Slowest    time.Duration
}

func newChaosWorld(t *testing.T, name string, seed uint64) *chaosWorld {
	t.Helper()
	w := &chaosWorld{t: t, name: name, random: rand.New(rand.NewPCG(seed, 7)), stop: make(chan struct{}), conns: map[string]string{}}
	w.result = chaosResult{Name: name, Done: map[string]int{}, Answers: map[string]int{}, Recoveries: map[string][]time.Duration{}}
	store := ""
	switch name {
	case "standalone":
		w.single = vaulttest.StartRedis(t, "--appendfsync", "everysec")
		store = w.single.URL()
	case "sentinel":
		w.sentinel = vaulttest.StartSentinel(t, "--appendfsync", "everysec")
		store = w.sentinel.URL()
	case "cluster":
		w.cluster = vaulttest.StartClusterReplicas(t, "--appendfsync", "everysec")
		store = w.cluster.URL()
	}
	// A provider as FAPI 2.0 wants it: a refresh token whose answer got lost passes once more. There, nothing may be lost.
	w.rig = newRigAt(t, store, crowdUsers(chaosUsers), func(c *sandbox.Config) {
		c.Rotation, c.GraceWindow = sandbox.RotationGrace, 5*time.Minute
	})
	w.rotation = "grace"
	w.writeConfig("    timeout: 2\n")
	w.edit("token_endpoint: "+w.issuer+"/token\n", "token_endpoint: ${TOKEN}/token\n")
	w.env = append(w.env, "TOKEN="+w.issuer) // for commands of the program, which read the configuration too
	for i := range 3 {
		issuer := newToxicProxy(t, fmt.Sprintf("issuer-%d", i), strings.TrimPrefix(w.issuer, "http://"))
		w.toIssuer = append(w.toIssuer, issuer)
		env := []string{fmt.Sprintf("SPOOL=spool-%d", i), "TOKEN=http://" + issuer.addr}
		if w.single != nil {
			redis := newToxicProxy(t, fmt.Sprintf("redis-%d", i), w.single.Addr)
			w.toRedis = append(w.toRedis, redis)
			env = append(env, "REDIS=redis://"+redis.addr+"/0")
		}
		w.replicas = append(w.replicas, w.start(env...))
	}
	c := w.replicas[0].api(w.key)
	for i := range chaosUsers {
		user := fmt.Sprintf("user-%d", i)
		b := newBrowser(t)
		b.hint = user
		w.users = append(w.users, user)
		w.conns[user] = c.connect(b, user)
	}
	return w
}

// did counts a fault.
func (w *chaosWorld) did(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.result.Done[what]++
}

func (w *chaosWorld) run(duration time.Duration) chaosResult {
	w.t.Helper()
	began := time.Now()
	seed := w.random.Uint64()
	for i, user := range w.users {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		w.wait.Go(func() {
			for !isClosed(w.stop) {
				w.ask(user, w.replicas[random.IntN(len(w.replicas))])
				wait(time.Duration(random.Int64N(int64(2*chaosPace))), w.stop)
			}
		})
	}
	calm := make(chan struct{}) // closed when no new fault begins
	var faults sync.WaitGroup
	faults.Go(func() { w.harmProvider(rand.New(rand.NewPCG(seed, 101)), calm) })
	faults.Go(func() { w.harmRedis(rand.New(rand.NewPCG(seed, 102)), calm) })
	for time.Since(began) < duration {
		w.harmReplicas()
	}
	close(calm)
	faults.Wait()
	w.provider.ClearFaults()
	for _, p := range w.replicas {
		p.waitReady(http.StatusOK)
	}
	time.Sleep(2 * time.Second) // some undisturbed work, as a last look at how it runs
	close(w.stop)
	w.wait.Wait()
	w.result.Took = time.Since(began)
	w.settle()
	w.reckon()
	return w.result
}

func (w *chaosWorld) ask(user string, p *brokerProcess) bool {
	began := time.Now()
	a, err := p.api(w.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": user, "min_ttl": 3600})
	took := time.Since(began)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, crowdAnswer{user: user, at: began, took: took, status: a.status})
	w.result.Slowest = max(w.result.Slowest, took)
	if err != nil {
		w.result.Answers["no answer: the replica was killed or stopped"]++
		return false
	}
	w.result.Answers[strings.TrimSpace(fmt.Sprint(a.status, " ", a.str("error")))]++
	switch {
	case a.status == http.StatusOK:
		w.result.Latencies = append(w.result.Latencies, took)
		return true
	case a.str("error") == "consent_required":
		w.result.Lost++
		w.t.Errorf("%s is asked to consent again: %s", user, a.raw)
	case a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "":
		w.t.Errorf("%s: %d %s", user, a.status, a.raw)
	}
	if took > chaosDeadline {
		w.t.Errorf("%s: answered after %v", user, took)
	}
	return false
}

// settle gives every user a token from every replica.
func (w *chaosWorld) settle() {
	w.t.Helper()
	var all sync.WaitGroup
	for _, user := range w.users {
		all.Go(func() {
			for i, p := range w.replicas {
				ok := false
				for end := time.Now().Add(time.Minute); !ok && time.Now().Before(end); {
					if ok = w.ask(user, p); !ok {
						time.Sleep(100 * time.Millisecond)
					}
				}
				if !ok {
					w.t.Errorf("%s gets no token from replica %d any more", user, i)
				}
			}
		})
	}
	all.Wait()
}

func (w *chaosWorld) reckon() {
	w.t.Helper()
	stats := w.provider.Stats()
	w.result.Refreshes, w.result.Grace, w.result.Reuses, w.result.Grants = stats.Refreshes, stats.GraceReuses, stats.Reuses, len(stats.Grants)
	for _, g := range stats.Grants {
		if g.Revoked != "" {
			w.t.Errorf("the provider ended a grant: %+v", g)
		}
	}
	if events := w.replicas[0].api(w.key).events(url.Values{"type": {"connection.needs_consent"}}); len(events) != 0 {
		w.t.Errorf("%d events say that a user must consent again", len(events))
	}
	for i, p := range w.replicas {
		p.stop()
		text := p.log.String()
		w.result.Healed += strings.Count(text, "the store had lost an acknowledged write; it was written back")
		if strings.Contains(text, `"panic`) {
			w.t.Errorf("replica %d panicked", i)
		}
		if files, _ := filepath.Glob(filepath.Join(w.dir, fmt.Sprintf("spool-%d", i), "*.spool")); len(files) > 0 {
			w.t.Errorf("%d files are left in the spool of replica %d", len(files), i)
		}
	}
	out, code := w.try("audit", "verify", "--config", w.config)
	if code != 0 && (w.single != nil || strings.Contains(out, "tampered")) {
		w.t.Errorf("the trail: exit %d\n%s", code, tail(out, 2000))
	}
	slices.Sort(w.result.Latencies)
	slices.SortFunc(w.seen, func(a, b crowdAnswer) int { return a.at.Compare(b.at) })
	for _, o := range w.result.Outages {
		from := o.to
		if o.kind == "failover" {
			from = o.from // nobody says when it is over: from the death of the master
		}
		first := map[string]time.Duration{}
		for _, a := range w.seen {
			if _, known := first[a.user]; !known && a.status == 200 && a.at.Add(a.took).After(from) && a.at.After(o.from) {
				first[a.user] = a.at.Add(a.took).Sub(from)
			}
		}
		for _, d := range first {
			w.result.Recoveries[o.kind] = append(w.result.Recoveries[o.kind], d)
		}
	}
	for _, all := range w.result.Recoveries {
		slices.Sort(all)
	}
}
