package e2e

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"html"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// boss signs in with the login token; replicas share sessions.
func (p *brokerProcess) boss() *browser {
	p.rig.t.Helper()
	op := newBrowser(p.rig.t)
	if got := op.post(p.url+"/dashboard/login", url.Values{"token": {dashboardToken}}); got.status != http.StatusSeeOther {
		p.rig.t.Fatalf("sign in: %d\n%s", got.status, tail(got.body, 2000))
	}
	return op
}

// turn turns a kill switch on that replica's page, and waits for the answer.
func (p *brokerProcess) turn(op *browser, action, what string) {
	p.rig.t.Helper()
	address := p.url + "/dashboard/switches/" + action + "?" + what
	ask := op.get(address)
	if ask.status != http.StatusOK {
		p.rig.t.Fatalf("%s %s: %d\n%s", action, what, ask.status, tail(ask.body, 2000))
	}
	if got := op.post(address, with(ask.form(), "reason", "e2e")); got.status != http.StatusSeeOther || got.location == "" {
		p.rig.t.Fatalf("%s %s: %d\n%s", action, what, got.status, tail(got.body, 2000))
	}
}

// Of two replicas one disables: the other refuses with the very next request, whatever it is about, but lets go of connections; and
// enabled again everything is as it was.
func TestSwitchesOnTwoReplicas(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, other := r.start(), r.start()
	c := other.api(r.key)
	c.connect(newBrowser(t), "alice")
	spare := c.connect(newBrowser(t), "bob")
	agent := object{"actor": object{"agent": "agent-7"}}
	c.token("alice", agent)
	link := c.consent("carol", agent).str("url")
	op := p.boss()
	for _, what := range []struct{ query, says string }{
		{"kind=connector&name=files&tenant=", "this connector was disabled by the operator"}, {"kind=connector&name=files&tenant=acme", "this connector was disabled by the operator"},
		{"kind=client&name=acme-chat&tenant=acme", "this client was disabled by the operator"}, {"kind=actor&name=agent-7&tenant=acme", "this agent was disabled by the operator"},
		{"kind=tenant&name=&tenant=acme", "this tenant was disabled by the operator"},
	} {
		p.turn(op, "disable", what.query)
		if got := c.refused(403, "access_denied", "alice", agent); got.str("error_description") != what.says {
			t.Errorf("%s: %s", what.query, got.raw)
		}
		if got := newBrowser(t).get(strings.Replace(link, p.url, other.url, 1)); got.status != 403 || !strings.Contains(html.UnescapeString(got.body), "Switched off for now") {
			t.Errorf("%s: the consent page: %d\n%s", what.query, got.status, tail(got.body, 1500))
		}
		if whole := strings.HasPrefix(what.query, "kind=client") || strings.HasPrefix(what.query, "kind=tenant"); whole {
			c.want(403, "GET", "/v1/connections", nil)
		} else {
			c.want(200, "GET", "/v1/connections", nil)
		}
		if what.query == "kind=tenant&name=&tenant=acme" {
			c.want(200, "DELETE", "/v1/connections/"+spare, nil)
		}
		p.turn(op, "enable", what.query)
		c.token("alice", agent)
	}
	if got := newBrowser(t).get(strings.Replace(link, p.url, other.url, 1)); got.status != 200 {
		t.Errorf("enabled again, the consent page: %d", got.status)
	}

	// While many ask at the other one: who asks behind the operator's answer is refused.
	type asked struct {
		at     time.Time
		status int
	}
	var mu sync.Mutex
	var all []asked
	var group sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	for range 4 {
		group.Go(func() {
			for ctx.Err() == nil {
				at := time.Now()
				got, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
				if err != nil {
					continue
				}
				mu.Lock()
				all = append(all, asked{at, got.status})
				mu.Unlock()
			}
		})
	}
	count := func(status int) (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, one := range all {
			if one.status == status {
				n++
			}
		}
		return n
	}
	r.eventually(10*time.Second, "tokens are issued", func() error {
		if count(200) < 20 {
			return fmt.Errorf("%d", count(200))
		}
		return nil
	})
	p.turn(op, "disable", "kind=connector&name=files&tenant=")
	thrown := time.Now()
	r.eventually(10*time.Second, "tokens are refused", func() error {
		if count(403) < 20 {
			return fmt.Errorf("%d", count(403))
		}
		return nil
	})
	stop()
	group.Wait()
	for _, one := range all {
		if one.status == 200 && one.at.After(thrown) {
			t.Errorf("a token was issued to who asked %v after the switch was thrown", one.at.Sub(thrown))
		}
	}
	page := op.get(other.url + "/dashboard/switches")
	if !strings.Contains(page.body, "Connector <bdi>files</bdi>") || !strings.Contains(page.body, "e2e") {
		t.Errorf("the other replica's page\n%s", tail(page.body, 3000))
	}
	p.turn(op, "enable", "kind=connector&name=files&tenant=")
	events := c.want(200, "GET", "/v1/events?type=operator.disabled", nil).list("events")
	if len(events) != 4 { // those in tenant acme; what was disabled everywhere is on the installation's record
		t.Errorf("%d events in the tenant's trail: %v", len(events), events)
	}
}

// fillConnections stores n connections of tenant acme, as consents would, whose refresh tokens are leak-0 and so on.
func (r *rig) fillConnections(n int) {
	r.t.Helper()
	content, err := vault.ReadKeysetFile(filepath.Join(r.dir, "keyset.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	kek, err := vault.ParseKEK("env:TOKENBROKER_KEK", func(name string) (value string) {
		for _, pair := range r.env {
			if v, ok := strings.CutPrefix(pair, name+"="); ok {
				value = v
			}
		}
		return value
	})
	if err != nil {
		r.t.Fatal(err)
	}
	keyset, err := vault.OpenKeyset(content, kek)
	if err != nil {
		r.t.Fatal(err)
	}
	backend, err := redisstore.New(redisstore.Config{URL: r.redisURL, IOTimeout: 10 * time.Second})
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = backend.Close() }()
	s, err := vault.New(vault.Config{Backend: backend, Keyset: keyset, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	defer s.Close()
	id := func(subject string) string {
		raw := randomBytes(r.t, 18)
		raw[0] = s.Shard("acme", subject) ^ raw[17]
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	now := time.Now().UTC()
	for i := range n {
		subject := fmt.Sprint("user-", i)
		conn := broker.Connection{
			ID: id(subject), Tenant: "acme", Subject: subject, Connector: "files", Client: "acme-chat", Status: broker.ConnectionActive, Scopes: broker.NewScopeSet("files.read"),
			Renewable: true, CreatedAt: now, LastRefreshed: now, Lifetime: time.Hour, Account: broker.Account{ID: fmt.Sprint("acc-", i)},
		}
		consent := broker.Consent{
			ID: id(subject), Tenant: "acme", Client: "acme-chat", Subject: subject, Connector: "files", Scopes: conn.Scopes, Binding: broker.BindingCode, Link: broker.NewSecret("l"),
			Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(time.Minute), CreatedAt: now,
		}
		consent, err := s.CreateConsent(ctx, consent, "", nil)
		if err == nil {
			consent.Status, consent.Result = broker.ConsentCompleted, conn.ID
			_, err = s.CompleteConsent(ctx, consent, conn, broker.Grant{
				AccessToken: broker.NewSecret(fmt.Sprint("live-", i)), RefreshToken: broker.NewSecret(fmt.Sprint("leak-", i)), ObtainedAt: now, ExpiresAt: now.Add(time.Hour), Lifetime: time.Hour,
			}, nil)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// Threat 80: all connections of a tenant are ended by a job that survives kill -9 of the replica that runs it. The provider hears of
// each grant, and no token is to be had of any.
func TestThreat80RevokeAllSurvivesKill(t *testing.T) {
	t.Parallel()
	const n = 300
	r := newRig(t)
	r.fillConnections(n)
	p, other := r.start(), r.start()
	other.api(r.key).token("user-7")
	bystander := other.api(r.other)
	bystander.connect(newBrowser(t), "of-another-tenant")
	op := p.boss()
	address := p.url + "/dashboard/revoke-all?tenant=acme&connector="
	var ask page
	r.eventually(20*time.Second, "all are counted", func() error {
		if ask = op.get(address); !strings.Contains(ask.body, fmt.Sprint(n, " are connected now")) {
			return fmt.Errorf("%d %s", ask.status, tail(ask.body, 300))
		}
		return nil
	})
	form := with(with(ask.form(), "reason", "they leaked"), "rate", "60")
	started := op.post(address, form)
	if again := op.post(address, form); started.status != http.StatusSeeOther || again.location != started.location {
		t.Fatalf("start: %d %s, again %s\n%s", started.status, started.location, again.location, tail(started.body, 2000))
	}
	revoked := func() (seen map[string]int) {
		seen = map[string]int{}
		for _, request := range r.provider.Requests() {
			if request.Path == "/revoke" {
				seen[request.Form.Get("token")]++
			}
		}
		return seen
	}
	// Whoever was asked runs it.
	r.eventually(20*time.Second, "it is under way", func() error {
		if done := len(revoked()); done < n/5 {
			return fmt.Errorf("%d", done)
		}
		return nil
	})
	p.kill()
	if done := len(revoked()); done >= n-50 {
		t.Fatalf("%d were revoked before the kill: too late to tell anything", done)
	}
	job := strings.Replace(strings.TrimSuffix(started.location, "?notice=job_started"), p.url, other.url, 1)
	var last page
	r.eventually(60*time.Second, "the other replica ends it", func() error {
		if last = op.get(job); !strings.Contains(last.body, "state-done") {
			return fmt.Errorf("%d %s", last.status, tail(last.body, 300))
		}
		return nil
	})
	if !strings.Contains(last.body, fmt.Sprintf("%d connections ended; %d revoked at the provider.", n, n)) || !strings.Contains(last.body, fmt.Sprintf("%d of %d", n, n)) {
		t.Errorf("its page\n%s", tail(last.body, 3000))
	}
	seen := revoked()
	for i := range n {
		if seen[fmt.Sprint("leak-", i)] == 0 {
			t.Errorf("the provider never heard of grant %d", i)
		}
	}
	c := other.api(r.key)
	var group sync.WaitGroup
	for part := range 6 {
		group.Go(func() {
			for i := part; i < n; i += 6 {
				got, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": fmt.Sprint("user-", i)})
				for began := time.Now(); err == nil && got.comeAgain() && time.Since(began) < callAgain; {
					time.Sleep(time.Second) // Retry-After
					got, err = c.try("POST", "/v1/tokens", object{"connector": "files", "subject": fmt.Sprint("user-", i)})
				}
				if err != nil || got.status != 409 || got.str("reason") != "revoked" {
					t.Errorf("a token for user-%d: %d %s, %v", i, got.status, got.raw, err)
				}
			}
		})
	}
	group.Wait()
	bystander.token("of-another-tenant")
	if events := c.want(200, "GET", "/v1/events?type=operator.job_ended", nil).list("events"); len(events) != 1 {
		t.Errorf("%d events of its end: %v", len(events), events)
	}
	if list := op.get(other.url + "/dashboard/jobs"); strings.Count(list.body, "End all connections of tenant acme") != 1 {
		t.Errorf("the list of jobs\n%s", tail(list.body, 2000))
	}
}

// pausedJob is a job that ends what acme has connected to connector other, one a second, and is paused before it comes far.
func (p *brokerProcess) pausedJob() string {
	t := p.rig.t
	t.Helper()
	for i := range 4 {
		p.api(p.rig.key).connect(newBrowser(t), fmt.Sprint("job-", i), object{"connector": "other"})
	}
	op := p.boss()
	address := p.url + "/dashboard/revoke-all?tenant=acme&connector=other"
	started := op.post(address, with(with(op.get(address).form(), "reason", "e2e"), "rate", "1"))
	job := strings.TrimSuffix(started.location, "?notice=job_started")
	paused := op.post(job+"/pause", with(op.get(job+"/pause").form(), "reason", "e2e"))
	if !strings.HasSuffix(paused.location, "?notice=job_pause") {
		t.Fatalf("a paused job: %d %s, %d %s", started.status, started.location, paused.status, paused.location)
	}
	return job[strings.LastIndex(job, "/")+1:]
}
