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
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// matrix kills replicas at random while users refresh at a provider that ends the grant if a refresh token is used twice.
type matrix struct {
	kills int
	users int
	pace  time.Duration // between two requests of a user
	rest  time.Duration // between two rounds of kills, at most
	seed  uint64
}

// matrixResult is what came of it.
type matrixResult struct {
	Kills, Twice int // processes killed; of them, killed again while they started
	Users        int
	Took         time.Duration
	Answers      map[string]int // status and error code: requests
	Latencies    []time.Duration
	Refreshes    int           // that the provider did
	Undelivered  int           // answers that no living process had read
	Unread       int           // answers of those, that lay unread in the kernel of the process as it was killed
	HungUp       int           // answers to a process that had stopped waiting
	Saved        int           // answers that were read, not yet stored, and came back out of the spool
	Unkept       int           // answers that were read and not yet in the spool
	UnkeptWithin time.Duration // from the answer to the kill, at most
	Lost         int           // grants for which a user was asked to consent again
	Reuses       int           // grants that the provider ended
}

func TestKillMatrix(t *testing.T) {
	t.Parallel()
	result := matrix{kills: 40, users: 50, pace: 2 * time.Second, rest: 200 * time.Millisecond, seed: rand.Uint64()}.run(t)
	result.Latencies = nil
	t.Logf("%+v", result)
}

// matrixRun is a run.
type matrixRun struct {
	matrix
	*rig
	t        *testing.T
	witness  *witness
	redis    *redisCLI
	replicas []*brokerProcess
	spools   []string
	random   *rand.Rand

	stop chan struct{}
	wait sync.WaitGroup
	lost chan *matrixUser

	mu     sync.Mutex
	result matrixResult
}

type matrixUser struct {
	name, conn string
	record     string        // key of the record
	renewed    chan struct{} // a new consent was given
	lost       atomic.Int64  // grants
}

func (m matrix) run(t *testing.T) matrixResult {
	t.Logf("seed %d", m.seed)
	run := &matrixRun{matrix: m, t: t, random: rand.New(rand.NewPCG(m.seed, 1)), stop: make(chan struct{}), lost: make(chan *matrixUser, m.users)}
	run.result = matrixResult{Users: m.users, Answers: map[string]int{}}
	names := make([]string, m.users)
	for i := range names {
		names[i] = fmt.Sprintf("user-%d", i)
	}
	run.rig = newRig(t, users(names...))
	run.redis = run.redisCLI()
	byName := map[string]*matrixUser{}
	run.witness = newWitness(t, run.provider, func(user string) (int64, int) {
		u := byName[user]
		if u == nil || u.record == "" {
			return 0, 0
		}
		gen, err := run.redis.rdb.HGet(t.Context(), u.record, "gen").Int64()
		if err != nil && t.Context().Err() == nil {
			t.Errorf("read a generation: %v", err)
		}
		return gen, int(u.lost.Load())
	})
	run.writeConfig("    timeout: 5\n")
	run.watched()
	for i := range 3 {
		run.spools = append(run.spools, filepath.Join(run.dir, fmt.Sprintf("spool-%d", i)))
		// What a refresh gave takes a while to Redis, so that replicas are killed on that way too.
		gate, delays := newGate(t, run.server.Addr), rand.New(rand.NewPCG(m.seed, uint64(i)+1000))
		var mu sync.Mutex
		gate.slow(func(args []string) time.Duration {
			if !commitsRefresh(args) {
				return 0
			}
			mu.Lock()
			defer mu.Unlock()
			return time.Duration(delays.Int64N(int64(60 * time.Millisecond)))
		})
		run.replicas = append(run.replicas, run.start("SPOOL="+run.spools[i], "REDIS="+gate.url()))
	}
	all := make([]*matrixUser, m.users)
	c := run.replicas[0].api(run.key)
	for i, name := range names {
		all[i] = &matrixUser{name: name, renewed: make(chan struct{}, 1)}
		byName[name] = all[i]
		all[i].conn = run.connect(c, name)
		all[i].record = run.redis.recordOf(all[i].conn)
	}
	// A provider takes some time, before the rotation and after it.
	run.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, When: sandbox.Before, Delay: 10 * time.Millisecond})
	run.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindLatency, When: sandbox.After, Delay: 15 * time.Millisecond})

	began := time.Now()
	for i, u := range all {
		random := rand.New(rand.NewPCG(m.seed, uint64(i)+2))
		run.wait.Go(func() { run.use(u, random) })
	}
	fates := run.killing(c)
	close(run.stop)
	// Whoever waits for a new consent is waited for, too.
	ended := make(chan struct{})
	go func() { run.wait.Wait(); close(ended) }()
	for open := true; open; {
		select {
		case u := <-run.lost:
			run.reconnect(c, u)
		case <-ended:
			open = false
		case <-time.After(2 * time.Minute):
			t.Fatal("a user is still waiting for an answer")
		}
	}
	run.result.Took = time.Since(began)
	run.settle(c, all)
	run.reckon(c, all, fates)
	return run.result
}

// watched sends the replicas' requests for tokens past the witness.
func (r *matrixRun) watched() {
	r.t.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	changed := strings.Replace(string(text), "token_endpoint: "+r.issuer+"/token\n", "token_endpoint: "+r.witness.url+"/token\n", 1)
	if changed == string(text) {
		r.t.Fatal("the configuration names no token endpoint")
	}
	if err := os.WriteFile(r.config, []byte(changed), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// connect runs a whole consent. On a machine that is busy with starting processes, one may fail; then it is begun anew.
func (r *matrixRun) connect(c *api, user string) string {
	r.t.Helper()
	for attempt := 0; ; attempt++ {
		b := newBrowser(r.t)
		b.hint = user
		consent := c.consent(user)
		if opened := b.get(consent.str("url")); opened.status == http.StatusOK {
			if started := b.post(consent.str("url"), opened.form()); started.status == http.StatusSeeOther {
				if end := b.follow(b.get(b.atProvider(started.location))); end.status == http.StatusOK {
					a, err := c.try("POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": user, "code": end.code(r.t)})
					if err == nil && a.status == http.StatusOK {
						return a.str("id")
					}
				}
			}
		}
		if attempt == 5 {
			r.t.Fatalf("%s can't consent", user)
		}
		time.Sleep(time.Second) // as Retry-After says
	}
}

// use is a user's chatbot: it asks for a token that only a refresh can give, and asks somewhere else if a replica is gone.
func (r *matrixRun) use(u *matrixUser, random *rand.Rand) {
	pause := time.Duration(random.Int64N(int64(r.pace))) // not all at once
	for {
		select {
		case <-r.stop:
			return
		case <-time.After(pause):
		}
		r.ask(u, random)
		pause = r.pace/2 + time.Duration(random.Int64N(int64(r.pace)))
	}
}

func (r *matrixRun) ask(u *matrixUser, random *rand.Rand) (ok bool) {
	began := time.Now()
	c := r.replicas[random.IntN(len(r.replicas))].api(r.key)
	a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": u.name, "min_ttl": 3600})
	r.mu.Lock()
	switch {
	case err != nil:
		r.result.Answers["no answer: the replica was killed"]++
	default:
		r.result.Answers[strings.TrimSpace(fmt.Sprint(a.status, " ", a.str("error")))]++
	}
	if err == nil && a.status == 200 {
		r.result.Latencies = append(r.result.Latencies, time.Since(began))
	}
	r.mu.Unlock()
	switch {
	case err != nil:
		return false
	case a.status == http.StatusOK:
		return true
	case a.status == http.StatusConflict && a.str("error") == "consent_required":
		r.mu.Lock()
		r.result.Lost++
		r.mu.Unlock()
		if a.str("reason") != "revoked" {
			r.t.Errorf("a lost grant is called %q: %s", a.str("reason"), a.raw)
		}
		r.lost <- u
		<-u.renewed
	case a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "":
	default:
		r.t.Errorf("unexpected answer: %d %s", a.status, a.raw)
	}
	return false
}

// killing is the killer's work, in rounds: it kills one replica or several at a random moment, starts them again, and lets
// those who lost a grant consent anew.
func (r *matrixRun) killing(c *api) (fates []fate) {
	r.t.Helper()
	for r.result.Kills < r.kills {
		time.Sleep(time.Duration(r.random.Int64N(int64(r.rest)))) // the moment is what is random
		n := []int{1, 1, 1, 1, 1, 1, 1, 2, 2, 3}[r.random.IntN(10)]
		victims := r.random.Perm(len(r.replicas))[:n]
		for _, i := range victims {
			fates = append(fates, r.witness.kill(r.replicas[i], r.spools[i]))
			r.result.Kills++
		}
		for _, i := range victims {
			r.replicas[i].exec()
			if r.random.IntN(8) == 0 { // while it starts, and brings back what its spool has
				time.Sleep(time.Duration(r.random.Int64N(int64(400 * time.Millisecond))))
				fates = append(fates, r.witness.kill(r.replicas[i], r.spools[i]))
				r.result.Kills, r.result.Twice = r.result.Kills+1, r.result.Twice+1
				r.replicas[i].exec()
			}
		}
		for _, i := range victims {
			r.replicas[i].waitReady(http.StatusOK)
		}
		for more := true; more; {
			select {
			case u := <-r.lost:
				r.reconnect(c, u)
			default:
				more = false
			}
		}
	}
	return fates
}

// reconnect is the user's new consent, which must be asked for once.
func (r *matrixRun) reconnect(c *api, u *matrixUser) {
	r.t.Helper()
	if conn := r.connect(c, u.name); conn != u.conn {
		r.t.Errorf("%s: the consent made another connection", u.name)
	}
	u.lost.Add(1)
	u.renewed <- struct{}{}
}

// settle gives every user a token: what was lost shows at the latest now.
func (r *matrixRun) settle(c *api, all []*matrixUser) {
	r.t.Helper()
	var wait sync.WaitGroup
	random := rand.New(rand.NewPCG(r.seed, 0))
	done := make(chan struct{})
	for _, u := range all {
		mine := rand.New(rand.NewPCG(random.Uint64(), 0))
		wait.Go(func() {
			for end := time.Now().Add(time.Minute); time.Now().Before(end); {
				if r.ask(u, mine) {
					return
				}
			}
			r.t.Errorf("%s gets no token any more", u.name)
		})
	}
	go func() { wait.Wait(); close(done) }()
	for {
		select {
		case u := <-r.lost:
			r.reconnect(c, u)
		case <-done:
			return
		}
	}
}

// reckon holds the losses to the answers that never arrived, one by one.
func (r *matrixRun) reckon(c *api, all []*matrixUser, fates []fate) {
	r.t.Helper()
	type grant struct {
		user  string
		epoch int
	}
	of := func(c *refreshCall) grant { return grant{c.user, c.epoch} }
	undelivered, unkept, lost := map[grant]int{}, map[grant]*refreshCall{}, map[*refreshCall]bool{}
	seen := map[*refreshCall]bool{}
	for _, f := range fates {
		for _, call := range f.undelivered {
			seen[call] = true
			undelivered[of(call)]++
			r.result.Undelivered++
		}
		r.result.Unread += f.unread
		for _, call := range f.unkept {
			if last := unkept[of(call)]; last == nil || last.answered.Before(call.answered) {
				unkept[of(call)] = call
			}
		}
	}
	r.witness.mu.Lock()
	for _, call := range r.witness.gone {
		if !seen[call] {
			undelivered[of(call)]++
			r.result.Undelivered++
			r.result.HungUp++
		}
	}
	late := map[grant]bool{}
	for _, call := range r.witness.late {
		late[of(call)] = !seen[call]
	}
	r.witness.mu.Unlock()
	for _, u := range all {
		n := int(u.lost.Load())
		for epoch := range n {
			g := grant{u.name, epoch}
			switch {
			case undelivered[g] == 1:
			case undelivered[g] == 0 && unkept[g] != nil:
				// Read by a process that was killed before it could keep it.
				lost[unkept[g]] = true
				r.result.Unkept++
			case undelivered[g] == 0 && late[g]:
				r.result.Undelivered++
				r.result.HungUp++
			default:
				r.t.Errorf("%s lost grant %d: %d of its answers were never read, and none was read by a process that was killed before its record changed", u.name, epoch, undelivered[g])
			}
		}
		if last := (grant{u.name, n}); undelivered[last] != 0 {
			r.t.Errorf("%s has a grant although %d answers of it were never read", u.name, undelivered[last])
		}
	}
	for _, f := range fates {
		saved := len(f.unkept)
		for _, call := range f.unkept {
			if lost[call] {
				saved--
				r.result.UnkeptWithin = max(r.result.UnkeptWithin, f.at.Sub(call.answered))
			}
		}
		r.result.Saved += saved
		// Files in the spool are of answers on their way into the record, or of ones just stored: the former must come back.
		if must := min(len(f.unkept), f.spool-f.stored); saved < must {
			r.t.Errorf("of %d answers in the spool of a killed process, %d came back", must, saved)
		}
	}
	stats := r.provider.Stats()
	r.result.Refreshes, r.result.Reuses = stats.Refreshes, stats.Reuses
	if r.result.Lost != r.result.Undelivered+r.result.Unkept || stats.Reuses != r.result.Lost {
		r.t.Errorf("lost %d, never read %d, read and not kept %d; the provider ended %d", r.result.Lost, r.result.Undelivered, r.result.Unkept, stats.Reuses)
	}
	// What the spool is there for: reading an answer takes no time, storing it in Redis does.
	if r.result.Kills >= 200 && r.result.Unkept > r.result.Saved/2 {
		r.t.Errorf("%d answers were read and lost, %d came back out of the spool", r.result.Unkept, r.result.Saved)
	}
	for code := range r.result.Answers {
		if strings.HasPrefix(code, "500") {
			r.t.Errorf("%d answers were %s", r.result.Answers[code], code)
		}
	}
	r.oneEventEach(c, all)
	for i, p := range r.replicas {
		p.stop()
		if files, _ := filepath.Glob(filepath.Join(r.spools[i], "*.spool")); len(files) > 0 {
			r.t.Errorf("%d files are left in the spool of replica %d", len(files), i)
		}
		if strings.Contains(p.log.String(), `"panic`) {
			r.t.Errorf("replica %d panicked", i)
		}
	}
	if out, code := r.try("audit", "verify", "--config", r.config); code != 0 {
		r.t.Errorf("the trail after %d kills: exit %d\n%s", r.result.Kills, code, out)
	}
	slices.Sort(r.result.Latencies)
}

// oneEventEach holds every loss to one needs_consent event.
func (r *matrixRun) oneEventEach(c *api, all []*matrixUser) {
	r.t.Helper()
	told := map[any]int{}
	for _, e := range c.events(url.Values{"type": {"connection.needs_consent"}, "scope": {"files.read"}}) {
		told[e["connection"]]++
	}
	for _, u := range all {
		if n := int(u.lost.Load()); told[u.conn] != n {
			r.t.Errorf("%s lost %d grants, and %d events say so", u.name, n, told[u.conn])
		}
	}
}
