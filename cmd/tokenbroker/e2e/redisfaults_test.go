package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long a client waits for an answer while Redis is unwell: requests are answered, never left hanging. The
// machine's own slowness is in it.
const patience = 5 * time.Second

// unwell asks for everything while Redis can't do its work. What needs a write is refused as the contract says; what only reads
// may be served.
func unwell(t *testing.T, c *api, subject, conn string) {
	t.Helper()
	for _, call := range []struct {
		method, path string
		body         any
		writes       bool
	}{
		{"POST", "/v1/tokens", object{"connector": "files", "subject": subject}, true},
		{"POST", "/v1/consents", object{"connector": "files", "subject": subject}, true},
		{"GET", "/v1/connections", nil, false},
		{"GET", "/v1/connections/" + conn, nil, false},
		{"GET", "/v1/events", nil, false},
	} {
		began := time.Now()
		a, err := c.try(call.method, call.path, call.body)
		took := time.Since(began)
		switch {
		case err != nil:
			t.Errorf("%s %s: %v", call.method, call.path, err)
		case took > patience:
			t.Errorf("%s %s: answered after %v", call.method, call.path, took)
		case a.status == 200 && !call.writes:
		case a.status != 503 || a.str("error") != "temporarily_unavailable" || a.header.Get("Retry-After") == "":
			t.Errorf("%s %s: %d, Retry-After %q: %s", call.method, call.path, a.status, a.header.Get("Retry-After"), a.raw)
		}
	}
}

// ready is what /readyz says.
func (p *brokerProcess) ready() (status int, checks map[string]string) {
	p.rig.t.Helper()
	resp, err := http.Get(p.ops + "/readyz")
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	var answer struct{ Checks map[string]string }
	_ = json.NewDecoder(resp.Body).Decode(&answer)
	return resp.StatusCode, answer.Checks
}

// serves waits until a token comes again, and tells how long that took.
func (r *rig) serves(c *api, subject, conn string) time.Duration {
	r.t.Helper()
	began := time.Now()
	r.eventually(20*time.Second, "a token after redis is well again", func() error {
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": subject})
		if err != nil || a.status != 200 || a.str("connection") != conn {
			return fmt.Errorf("%v: %d %s", err, a.status, a.str("error"))
		}
		return nil
	})
	return time.Since(began)
}

// Redis refuses: out of memory, read-only, its disk full. Each time a refresh is under way, and the provider has rotated.
func TestRedisRefuses(t *testing.T) {
	t.Parallel()
	ills := map[string]struct {
		harm, heal func(*redisCLI)
		named      string // what /readyz says of it; "": it may not notice
	}{
		"out of memory": {
			func(c *redisCLI) { c.do("CONFIG", "SET", "maxmemory", "1") },
			func(c *redisCLI) { c.do("CONFIG", "SET", "maxmemory", "0") }, "",
		},
		"read-only": {
			func(c *redisCLI) { c.do("REPLICAOF", "127.0.0.1", "1") },
			func(c *redisCLI) { c.do("REPLICAOF", "NO", "ONE") }, "replica",
		},
		"disk full": {
			// A snapshot that can't be written makes a server with save points refuse every write (MISCONF).
			func(c *redisCLI) {
				if err := os.Mkdir(filepath.Join(c.dir(), "dump.rdb"), 0o700); err != nil {
					c.t.Fatal(err)
				}
				c.do("CONFIG", "SET", "save", "3600 1000000")
				c.do("BGSAVE")
				eventually(c.t, 20*time.Second, "the snapshot fails", func() error {
					if info, _ := c.do("INFO", "persistence").(string); !strings.Contains(info, "rdb_last_bgsave_status:err") {
						return fmt.Errorf("not yet")
					}
					return nil
				})
			},
			func(c *redisCLI) { c.do("CONFIG", "SET", "stop-writes-on-bgsave-error", "no") }, "",
		},
	}
	r := newRig(t)
	r.writeConfig(quick)
	redis := r.redisCLI()
	g := newGate(t, r.server.Addr)
	p := r.start("REDIS="+g.url(), "SPOOL=spool-refused")
	c := p.api(r.key)
	conn := c.connect(newBrowser(t), "alice")
	refreshes := 0
	for name, ill := range ills {
		t.Run(name, func(t *testing.T) {
			c := c.within(t)
			before := c.token("alice").str("access_token")
			trap := g.set(holdCommand, 1, commitsRefresh)
			asked := make(chan answer, 1)
			go func() {
				a, _ := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
				asked <- a
			}()
			g.wantCaught(trap, "the commit")
			refreshes++
			ill.harm(redis)
			trap.open()
			unwell(t, c, "alice", conn)
			if status, checks := p.ready(); ill.named != "" && (status != 503 || !strings.Contains(checks["redis"], ill.named)) {
				t.Errorf("/readyz: %d %v", status, checks)
			}
			if files, _ := filepath.Glob(filepath.Join(r.dir, "spool-refused", "*.spool")); len(files) != 1 {
				t.Errorf("%d files in the spool while redis refuses the refreshed token, want 1", len(files))
			}
			ill.heal(redis)
			took := r.serves(c, "alice", conn)
			t.Logf("served again after %v", took)
			if took > 2*time.Second+patience {
				t.Errorf("served again after %v", took)
			}
			r.eventually(20*time.Second, "the refreshed token", func() error {
				if c.token("alice").str("access_token") == before {
					return fmt.Errorf("still the old one")
				}
				return nil
			})
			if a := <-asked; a.status != 200 && (a.status != 503 || a.header.Get("Retry-After") == "") {
				t.Errorf("whoever asked meanwhile: %d %s", a.status, a.raw)
			}
			if g := r.grant("alice"); g.Refreshes != refreshes || g.Failures != 0 || g.Revoked != "" {
				t.Errorf("the provider's view: %+v, want %d refreshes", g, refreshes)
			}
		})
	}
	c.refreshed("alice")
	p.stop()
	if out, code := r.try("audit", "verify", "--config", r.config); code != 0 {
		t.Errorf("the trail: exit %d\n%s", code, out)
	}
}

// An answer of Redis that is lost, once for each kind of write: it takes effect once, and whoever asked gets what is due.
func TestRedisLosesAnAnswer(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newGate(t, r.server.Addr)
	p := r.start("REDIS=" + g.url())
	c := p.api(r.key)
	const subject = "alice"
	b := newBrowser(t)
	lose := func(what string, match func([]string) bool) {
		trap := g.set(loseAnswer, 1, match)
		t.Cleanup(func() {
			if !isClosed(trap.caught) {
				t.Errorf("nothing was lost of: %s", what)
			}
		})
	}
	lose("a new consent", writesConsent)
	consent := c.consent(subject)
	lose("the link's use", writesConsent)
	authorize := b.start(consent.str("url")).location
	callback := b.atProvider(authorize)
	lose("the state's use", writesConsent)
	end := b.follow(b.get(callback))
	lose("the code's use", writesConsent)
	conn := c.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": subject, "code": end.code(t)}).str("id")
	if n := r.provider.Stats().TokenRequests["authorization_code"]; n != 1 {
		t.Errorf("the provider's code was sent %d times", n)
	}
	if again := b.get(callback); again.status < 400 || again.status > 499 {
		t.Errorf("a state works twice: %d", again.status)
	}

	lose("a token's release", releasesToken)
	token := c.token(subject).str("access_token")
	if events := c.events(url.Values{"type": {"token.issued"}, "scope": {"files.read"}}); len(events) != 1 {
		t.Errorf("%d token.issued events for one token: %v", len(events), events)
	}
	redis := r.redisCLI()
	for i, step := range []struct {
		what  string
		match func([]string) bool
	}{{"the lease", beginsRefresh}, {"the refreshed token", commitsRefresh}} {
		generation := redis.generation(conn)
		lose(step.what, step.match)
		fresh := c.refreshed(subject).str("access_token")
		if fresh == token {
			t.Errorf("%s: the token is the old one", step.what)
		}
		token = fresh
		if g := r.grant("alice"); g.Refreshes != i+1 || g.Failures != 0 {
			t.Errorf("%s: the provider's view: %+v, want %d refreshes", step.what, g, i+1)
		}
		if now := redis.generation(conn); now != generation+1 {
			t.Errorf("%s: generation %d after %d", step.what, now, generation)
		}
	}
	p.stop()
	if out, code := r.try("audit", "verify", "--config", r.config); code != 0 {
		t.Errorf("the trail: exit %d\n%s", code, out)
	}
}

// A Redis that takes 200 ms for everything: nothing is done twice, and nobody waits for ever. And one that forgets its
// scripts all the time.
func TestRedisSlowAndForgetful(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g := newGate(t, r.server.Addr)
	slow, fast := r.start("REDIS="+g.url()), r.start()
	fast.api(r.key).connect(newBrowser(t), "alice")
	g.slow(func([]string) time.Duration { return 200 * time.Millisecond })
	old := fast.api(r.key).token("alice").str("access_token")
	var wait sync.WaitGroup
	served := make(chan string, 60)
	for i := range cap(served) {
		wait.Go(func() {
			c := []*api{slow.api(r.key), fast.api(r.key)}[i%2]
			began := time.Now()
			a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
			switch {
			case err != nil || time.Since(began) > 30*time.Second:
				t.Errorf("%v after %v", err, time.Since(began))
			case a.status == 200:
				served <- a.str("access_token")
			case a.status != 503 || a.header.Get("Retry-After") == "":
				t.Errorf("%d %s", a.status, a.raw)
			}
		})
	}
	wait.Wait()
	close(served)
	n := 0
	for token := range served {
		n++
		if token == old {
			t.Error("somebody got the old token")
		}
	}
	if grant := r.grant("alice"); grant.Failures != 0 || grant.Refreshes < 1 || n == 0 {
		t.Errorf("%d served; the provider's view: %+v", n, grant)
	}
	if stats := r.provider.Stats(); stats.Reuses != 0 {
		t.Errorf("%d refresh tokens were sent twice", stats.Reuses)
	}
	g.slow(nil)

	redis, before := r.redisCLI(), r.grant("alice").Refreshes
	var flushes, asked int
	for end := time.Now().Add(time.Second); time.Now().Before(end); asked++ {
		redis.do("SCRIPT", "FLUSH")
		flushes++
		slow.api(r.key).token("alice")
		if asked%10 == 0 {
			fast.api(r.key).refreshed("alice")
			before++
		}
	}
	if grant := r.grant("alice"); grant.Refreshes != before || grant.Failures != 0 {
		t.Errorf("the provider's view after %d flushes: %+v, want %d refreshes", flushes, grant, before)
	}
	t.Logf("%d of 60 served with a slow redis; %d tokens with %d flushes of the script cache", n, asked, flushes)
}

// A record that a newer program wrote is refused by name and left as it is.
func TestNewerRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.start().api(r.key)
	conn := c.connect(newBrowser(t), "alice")
	b := newBrowser(t)
	b.hint = "bob"
	c.connect(b, "bob")
	redis := r.redisCLI()
	key := redis.recordOf(conn)
	redis.set(key, "v", "99")
	before := redis.hash(key)
	for _, body := range []object{{"connector": "files", "subject": "alice"}, {"connector": "files", "subject": "alice", "min_ttl": 3600}} {
		a, err := c.try("POST", "/v1/tokens", body)
		if err != nil || a.status != 503 || a.header.Get("Retry-After") == "" || a.str("error_description") == "" {
			t.Errorf("a token: %v, %d %s", err, a.status, a.raw)
		}
	}
	for method, path := range map[string]string{"GET": "/v1/connections/" + conn, "DELETE": "/v1/connections/" + conn} {
		if a, err := c.try(method, path, nil); err != nil || a.status != 503 {
			t.Errorf("%s: %v, %d %s", method, err, a.status, a.raw)
		}
	}
	c.want(200, "GET", "/v1/connections", nil)
	c.token("bob")
	after := redis.hash(key)
	for field := range before {
		if before[field] != after[field] {
			t.Errorf("field %s was changed", field)
		}
	}
	if len(before) != len(after) || r.provider.Stats().TokenRequests["refresh_token"] != 0 {
		t.Errorf("%d fields of %d; the provider was asked", len(after), len(before))
	}
	redis.set(key, "v", before["v"])
	redis.set(key, "v", "1")
	c.token("alice")
}
