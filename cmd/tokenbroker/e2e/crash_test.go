package e2e

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// users makes accounts at the provider, one for each name, so that what happened to each grant can be counted apart.
func users(names ...string) func(*sandbox.Config) {
	return func(c *sandbox.Config) {
		for _, name := range names {
			c.Users = append(c.Users, sandbox.User{Login: name, Sub: "acct-" + name, Name: name, Email: name + "@example.com"})
		}
	}
}

// quick bounds the provider's requests by two seconds, and with that a lease by twelve. patient is for tests in which no answer
// may come too late, however slow the machine is: where a refresh token works once, that would cost the grant.
const (
	quick   = "    timeout: 2\n"
	patient = "    timeout: 15\n"
)

// grant is what the provider says of the user's newest grant.
func (r *rig) grant(user string) sandbox.GrantStats {
	r.t.Helper()
	for _, g := range slices.Backward(r.provider.Stats().Grants) {
		if g.User == user {
			return g
		}
	}
	r.t.Fatalf("the provider knows no grant of %s", user)
	return sandbox.GrantStats{}
}

// inject orders a fault.
func (r *rig) inject(f sandbox.Fault) {
	r.t.Helper()
	if err := r.provider.Inject(f); err != nil {
		r.t.Fatal(err)
	}
}

// generation reads the number of the connection's record.
func (c *redisCLI) generation(connection string) int64 {
	c.t.Helper()
	gen, err := strconv.ParseInt(c.hash(c.recordOf(connection))["gen"], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	return gen
}

// victim is a replica behind its own gate, with its own spool, and the user that it is busy with when it meets its fate.
type victim struct {
	*brokerProcess
	gate  *gate
	env   []string
	spool string
	user  string
	conn  string
	old   string // the access token before
	asked chan answer
}

// newVictim starts a replica and connects its user there.
func (r *rig) newVictim(user string, spooled bool) *victim {
	r.t.Helper()
	v := &victim{gate: newGate(r.t, r.server.Addr), user: user, spool: "spool-" + user, asked: make(chan answer, 1)}
	v.env = []string{"REDIS=" + v.gate.url(), "SPOOL=" + v.spool}
	if !spooled {
		with := r.config
		defer func() { r.config = with }()
		r.config = r.withoutSpool()
	}
	v.brokerProcess = r.start(v.env...)
	return v
}

// withoutSpool is a configuration file for a replica that keeps nothing on disk.
func (r *rig) withoutSpool() string {
	r.t.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.dir, "no-spool.yaml")
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), "spool_dir: ${SPOOL}\n", "", 1)), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return file
}

// connected gives the victim its user's connection and token.
func (v *victim) connected(c *api) {
	v.rig.t.Helper()
	b := newBrowser(v.rig.t)
	b.hint = v.user
	v.conn = c.connect(b, v.user)
	v.old = c.token(v.user).str("access_token")
}

// ask asks the victim for a token that only a refresh can give. Who asks a process that dies gets no answer.
func (v *victim) ask() {
	go func() {
		a, _ := v.api(v.rig.key).try("POST", "/v1/tokens", object{"connector": "files", "subject": v.user, "min_ttl": 3600})
		v.asked <- a
	}()
}

func (v *victim) spooled() []string {
	files, err := filepath.Glob(filepath.Join(v.rig.dir, v.spool, "*.spool"))
	if err != nil {
		v.rig.t.Fatal(err)
	}
	return files
}

// refreshed asks for a token that only a refresh can give: it shows that the refresh token which is stored works.
func (c *api) refreshed(subject string) answer {
	c.t.Helper()
	return c.token(subject, object{"min_ttl": 3600})
}

// lostOnce holds a lost grant to what a user may be bothered with: one consent, asked for once, after which all is well. The
// provider is not asked again and again.
func (r *rig) lostOnce(c *api, user, account, conn string) {
	c.t.Helper()
	first := c.refused(409, "consent_required", user)
	if first.str("reason") != "revoked" {
		c.t.Errorf("%s: reason %q", user, first.str("reason"))
	}
	requests := r.provider.Stats().TokenRequests["refresh_token"]
	for range 5 {
		if again := c.refused(409, "consent_required", user, object{"min_ttl": 3600}); again.str("consent", "url") != first.str("consent", "url") {
			c.t.Errorf("%s: another link", user)
		}
	}
	if n := r.provider.Stats().TokenRequests["refresh_token"]; n != requests {
		c.t.Errorf("%s: the provider was asked %d more times for a grant that is dead", user, n-requests)
	}
	if events := c.events(url.Values{"type": {"connection.needs_consent"}, "connection": {conn}}); len(events) != 1 && !oneForEachScope(events) {
		c.t.Errorf("%s: %d needs_consent events: %v", user, len(events), events)
	}
	b := newBrowser(c.t)
	b.hint = account
	if renewed := c.connect(b, user); renewed != conn {
		c.t.Errorf("%s: the consent made another connection", user)
	}
	c.refreshed(user)
}

// oneForEachScope tells that no scope has two events.
func oneForEachScope(events []object) bool {
	seen := map[any]bool{}
	for _, e := range events {
		if seen[e["scope"]] {
			return false
		}
		seen[e["scope"]] = true
	}
	return len(events) > 0
}

// A replica is killed in the middle of a refresh, once at each of its steps, with a provider that ends the grant if a refresh
// token is used twice. Another replica takes over.
func TestKilledInARefreshStrict(t *testing.T) {
	t.Parallel()
	names := []string{"before-post", "after-post", "before-commit", "after-commit", "no-spool"}
	r := newRig(t, users(names...))
	r.writeConfig(quick)
	c := r.start().api(r.key)
	redis := r.redisCLI()
	victims := map[string]*victim{}
	for _, name := range names {
		victims[name] = r.newVictim(name, name != "no-spool")
		victims[name].connected(c)
	}

	// The lease is taken, and nothing was sent.
	v := victims["before-post"]
	trap := v.gate.set(holdAnswer, 1, beginsRefresh)
	v.ask()
	v.gate.wantCaught(trap, "the lease")
	v.kill()

	// The provider did it, and the answer found nobody.
	v = victims["after-post"]
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After, Times: 1})
	v.ask()
	r.eventually(20*time.Second, "the provider holds its answer", func() error {
		if n := r.provider.Stats().Held; n != 1 {
			return fmt.Errorf("%d held", n)
		}
		return nil
	})
	v.kill()
	r.provider.ClearFaults()

	// The answer came; the record has not got it yet. With a spool, and without.
	for _, name := range []string{"before-commit", "no-spool"} {
		v = victims[name]
		trap = v.gate.set(holdCommand, 1, commitsRefresh)
		v.ask()
		v.gate.wantCaught(trap, "the commit")
		if n := len(v.spooled()); name != "no-spool" && n != 1 {
			t.Errorf("%d files in the spool before the commit, want 1", n)
		}
		v.kill()
	}
	gone := victims["before-commit"]
	r.start(gone.env...)

	// The record has it; nobody heard.
	v = victims["after-commit"]
	generation := redis.generation(v.conn)
	trap = v.gate.set(holdAnswer, 1, commitsRefresh)
	v.ask()
	v.gate.wantCaught(trap, "the commit")
	r.eventually(20*time.Second, "the commit has its effect", func() error {
		if redis.generation(v.conn) == generation {
			return fmt.Errorf("still at generation %d", generation)
		}
		return nil
	})
	v.kill()
	r.start(v.env...)

	t.Run("killed before the POST", func(t *testing.T) {
		t.Parallel()
		c.within(t).refreshed("before-post") // waits for the lease to end
		if g := r.grant("before-post"); g.Refreshes != 1 || g.Failures != 0 || g.Revoked != "" {
			t.Errorf("the provider's view: %+v, want one refresh in all", g)
		}
	})
	for _, name := range []string{"after-post", "no-spool"} {
		t.Run("killed with the answer unread or unkept: "+name, func(t *testing.T) {
			t.Parallel()
			c := c.within(t)
			eventually(t, 40*time.Second, "the loss shows", func() error {
				a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": name, "min_ttl": 3600})
				if err != nil || a.status != 409 {
					return fmt.Errorf("%v, %d", err, a.status)
				}
				return nil
			})
			if g := r.grant(name); g.Refreshes != 1 || g.Failures != 1 || g.Revoked == "" {
				t.Errorf("the provider's view: %+v, want one refresh, one refusal, and the grant revoked", g)
			}
			r.lostOnce(c, name, name, victims[name].conn)
		})
	}
	for _, name := range []string{"before-commit", "after-commit"} {
		t.Run("killed with the answer kept: "+name, func(t *testing.T) {
			t.Parallel()
			c, v := c.within(t), victims[name]
			eventually(t, 20*time.Second, "the new token", func() error {
				if a := c.token(name); a.str("access_token") == v.old {
					return fmt.Errorf("still the old one")
				}
				return nil
			})
			if g := r.grant(name); g.Refreshes != 1 || g.Failures != 0 {
				t.Errorf("the provider's view: %+v, want the one refresh alone", g)
			}
			eventually(t, 20*time.Second, "the spool is empty", func() error {
				if n := len(v.spooled()); n != 0 {
					return fmt.Errorf("%d files", n)
				}
				return nil
			})
			c.refreshed(name)
			if g := r.grant(name); g.Refreshes != 2 || g.Failures != 0 || g.Revoked != "" {
				t.Errorf("the provider's view after one refresh more: %+v", g)
			}
		})
	}
}

// The same at a provider that lets a used refresh token pass for a while (FAPI 2.0 asks for that): nothing is lost, with or
// without a spool. And replicas that are not dead but stopped, and go on when others have done their work.
func TestKilledOrStoppedInARefreshGrace(t *testing.T) {
	t.Parallel()
	names := []string{"after-post", "no-spool", "stopped", "single-use", "unsent"}
	r := newRig(t, users(names...), func(c *sandbox.Config) { c.Rotation = sandbox.RotationGrace })
	r.rotation = "grace"
	r.writeConfig(quick)
	c := r.start().api(r.key)
	redis := r.redisCLI()
	victims, traps, before := map[string]*victim{}, map[string]*trap{}, map[string]int64{}
	for _, name := range names {
		victims[name] = r.newVictim(name, name != "no-spool")
		victims[name].connected(c)
		before[name] = redis.generation(victims[name].conn)
	}
	v := victims["after-post"]
	r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindHang, When: sandbox.After, Times: 1})
	v.ask()
	r.eventually(20*time.Second, "the provider holds its answer", func() error {
		if n := r.provider.Stats().Held; n != 1 {
			return fmt.Errorf("%d held", n)
		}
		return nil
	})
	v.kill()
	r.provider.ClearFaults()
	for name, step := range map[string]func([]string) bool{"no-spool": commitsRefresh, "stopped": commitsRefresh, "single-use": commitsRefresh, "unsent": beginsRefresh} {
		v = victims[name]
		kind := holdCommand
		if name == "unsent" {
			kind = holdAnswer
		}
		traps[name] = v.gate.set(kind, 1, step)
		v.ask()
		v.gate.wantCaught(traps[name], "the step of "+name)
		if name == "no-spool" {
			v.kill()
		} else {
			v.pause()
		}
	}

	// A provider whose refresh tokens serve once, without ending the grant when one comes again: it refuses the old one.
	r.eventually(40*time.Second, "another replica finds the old refresh token refused", func() error {
		r.provider.ClearFaults()
		r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindError, Value: "invalid_grant", Times: 1})
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "single-use", "min_ttl": 3600})
		if err != nil || a.status != 409 {
			return fmt.Errorf("%v, %d", err, a.status)
		}
		return nil
	})
	r.provider.ClearFaults()
	v = victims["single-use"]
	v.resume()
	traps["single-use"].open()
	r.eventually(20*time.Second, "the holder goes on and saves the grant", func() error {
		if a := c.want(200, "GET", "/v1/connections/"+v.conn, nil); a.str("status") != "active" {
			return fmt.Errorf("status %s", a.str("status"))
		}
		return nil
	})
	c.refreshed("single-use")
	if g := r.grant("single-use"); g.Revoked != "" || g.Failures != 0 {
		t.Errorf("single-use: the provider's view: %+v", g)
	}

	for _, name := range []string{"after-post", "no-spool"} {
		c.refreshed(name) // waits for the lease to end
		if g := r.grant(name); g.Refreshes != 2 || g.Failures != 0 || g.Revoked != "" {
			t.Errorf("%s: the provider's view: %+v, want two refreshes, the second within the grace", name, g)
		}
		if events := c.events(url.Values{"type": {"connection.needs_consent"}, "connection": {victims[name].conn}}); len(events) != 0 {
			t.Errorf("%s: the user was asked to consent again: %v", name, events)
		}
		c.refreshed(name)
	}

	// Stopped with the answer in hand: the work was done elsewhere, and what comes late changes nothing.
	v = victims["stopped"]
	done := c.refreshed("stopped").str("access_token")
	generation := redis.generation(v.conn)
	record := redis.hash(redis.recordOf(v.conn))
	v.resume()
	traps["stopped"].open()
	r.eventually(20*time.Second, "the late answer is put aside", func() error {
		if len(v.spooled()) > 0 {
			return fmt.Errorf("still in the spool")
		}
		return nil
	})
	if now := redis.hash(redis.recordOf(v.conn)); now["rt"] != record["rt"] || generation <= before["stopped"] || now["gen"] != record["gen"] {
		t.Errorf("stopped: a late commit changed the record: generation %s after %s", now["gen"], record["gen"])
	}
	for _, who := range []*api{c, v.api(r.key)} {
		if got := who.token("stopped").str("access_token"); got != done {
			t.Error("stopped: the token is not the one that the other replica got")
		}
		who.refreshed("stopped")
		done = who.token("stopped").str("access_token")
		if now := redis.generation(v.conn); now <= generation {
			t.Errorf("stopped: generation %d after %d", now, generation)
		} else {
			generation = now
		}
	}

	// Stopped before anything was sent: whoever wakes up too late sends nothing.
	v = victims["unsent"]
	done = c.refreshed("unsent").str("access_token")
	v.resume()
	traps["unsent"].open()
	select {
	case <-v.asked:
	case <-time.After(40 * time.Second):
		t.Error("unsent: whoever asked the stopped replica was never answered")
	}
	if g := r.grant("unsent"); g.Refreshes != 1 || g.Failures != 0 {
		t.Errorf("unsent: the provider's view: %+v, want one refresh in all", g)
	}
	if got := v.api(r.key).token("unsent").str("access_token"); got != done {
		t.Error("unsent: the replica that was stopped does not serve the token that the other one got")
	}
	if stats := r.provider.Stats(); stats.Reuses != 0 || stats.GraceReuses != 3 {
		t.Errorf("%d reuses, %d within the grace; want 0 and 3: each is a lost or late answer", stats.Reuses, stats.GraceReuses)
	}
}

// within is the same client in another test.
func (c *api) within(t *testing.T) *api {
	other := *c
	other.t = t
	return &other
}

// pause stops the process; resume lets it go on.
func (p *brokerProcess) pause() {
	p.rig.t.Helper()
	p.signal(syscall.SIGSTOP)
}

func (p *brokerProcess) resume() { p.signal(syscall.SIGCONT) }

func (p *brokerProcess) signal(s os.Signal) {
	p.rig.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.rig.t.Fatal(err)
	}
}
