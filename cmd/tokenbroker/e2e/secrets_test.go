package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// Threats 31 to 33: a sealed value copied to another record or field gives an error and an event, never a token.
func TestCopiedSealsDoNotOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	alice := newBrowser(t)
	bob := newBrowser(t)
	bob.hint = "bob"
	first, second := c.connect(alice, "alice"), c.connect(bob, "bob")
	mine, theirs := c.token("alice").str("access_token"), c.token("bob").str("access_token")
	redis := r.redisCLI()
	from, to := redis.recordOf(first), redis.recordOf(second)

	check := func(what string) {
		t.Helper()
		before := len(c.events(url.Values{"type": {"integrity.failed"}}))
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "bob"})
		if err != nil || a.status != 500 || a.str("error") != "server_error" || strings.Contains(a.raw, mine) || strings.Contains(a.raw, theirs) {
			t.Errorf("%s: %v, %d %s", what, err, a.status, a.raw)
		}
		if after := len(c.events(url.Values{"type": {"integrity.failed"}})); after != before+1 {
			t.Errorf("%s: %d integrity.failed events, want one more than %d", what, after, before)
		}
		if got := c.token("alice").str("access_token"); got != mine {
			t.Errorf("%s: alice is affected", what)
		}
	}
	whole := redis.dump(to)
	fields := redis.hash(from)
	copied := 0
	for field, value := range fields {
		if !redis.sealed(value) {
			continue
		}
		copied++
		redis.set(to, field, value)
		if field == "rt" {
			// The refresh token is opened only for a refresh.
			if a, _ := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "bob", "min_ttl": 3600}); a.status != 500 {
				t.Errorf("another record's %s: %d %s", field, a.status, a.raw)
			}
		} else {
			check("another record's " + field)
		}
		redis.restore(to, whole)
	}
	if copied < 3 {
		t.Errorf("only %d sealed fields found in %v", copied, fields)
	}
	own := redis.hash(to)
	for field := range own {
		if field != "rt" && redis.sealed(own[field]) {
			redis.set(to, field, own["rt"])
			check("the own refresh token in field " + field)
			redis.restore(to, whole)
		}
	}
	if got := c.token("bob").str("access_token"); got != theirs {
		t.Error("bob's record does not work after it was put back")
	}
}

// After everything that a broker does with secrets: no canary in Redis, logs, metrics or any answer, but access tokens in
// POST /v1/tokens, links where a link is the answer, and codes in the page or redirect that carries them.
func TestCanaries(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(30*time.Second))
	telemetry := newCollector(t)
	r.env = append(r.env, "OTEL_TRACES_EXPORTER=otlp", "OTEL_METRICS_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_ENDPOINT="+telemetry.url,
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_METRIC_EXPORT_INTERVAL=500")
	p := r.start()
	monitor := r.redisCLI().monitor()
	var mu sync.Mutex
	answers := map[string]*bytes.Buffer{}
	look := func(path string, resp *http.Response, body []byte) {
		mu.Lock()
		defer mu.Unlock()
		if answers[path] == nil {
			answers[path] = &bytes.Buffer{}
		}
		fmt.Fprintf(answers[path], "%v\n%s\n", resp.Header, body)
	}
	c := p.api(r.key)
	c.seen = look
	const subject = "subject-canary-53ab90"
	b := newBrowser(t)
	b.seen = look
	consent := c.consent(subject, object{"return_to": "http://127.0.0.1:3000/done", "state": "state-canary-2210"})
	back, _ := url.Parse(b.consent(consent.str("url")).location)
	c.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": subject, "code": back.Query().Get("code")})
	tokens := []string{c.token(subject, object{"min_ttl": 30, "reason": "reason-canary-901"}).str("access_token")}
	c.connect(b, subject, object{"scopes": []string{"files.read", "files.write"}})
	tokens = append(tokens, c.token(subject, object{"min_ttl": 30}).str("access_token"))
	// The provider echoes what it is sent in its errors, as some do.
	if err := r.provider.Inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindError, Value: "invalid_client", Times: 1}); err != nil {
		t.Fatal(err)
	}
	c.want(502, "POST", "/v1/tokens", object{"connector": "files", "subject": subject, "min_ttl": 30})
	wrong := p.api("wrong-canary-key-31")
	wrong.seen = look
	wrong.want(401, "GET", "/v1/connections", nil)
	c.want(200, "GET", "/v1/connections", nil)
	c.events(nil)
	metrics := p.get(p.ops + "/metrics")
	ready := p.get(p.ops + "/readyz")
	redis := r.redisCLI()
	redis.save()
	disk := redis.files()
	commands := monitor()
	p.stop() // sends what telemetry is left
	for _, span := range []string{"broker.IssueToken", "broker.refresh", "broker.createConsent", "broker.FinishConsent", "broker.CompleteConsent"} {
		if !bytes.Contains(telemetry.bytes(), []byte(span)) {
			t.Errorf("no span %s came by OTLP", span)
		}
	}
	for _, metric := range []string{"tokenbroker_token_requests_total", "tokenbroker_refreshes_total", "tokenbroker_consents_total"} {
		if !bytes.Contains(metrics, []byte(metric)) {
			t.Errorf("no metric %s", metric)
		}
	}

	secrets := map[string]string{
		"API key": r.key, "wrong API key": "wrong-canary-key-31", "client secret": "secret-canary-1b7e44", "dashboard token": dashboardToken, "client's state": "state-canary-2210",
		"completion code": back.Query().Get("code"), "link": consent.str("url")[strings.LastIndex(consent.str("url"), "/")+1:],
	}
	people := map[string]string{"subject": subject, "reason": "reason-canary-901"}
	for _, user := range []string{"alice@", "Alice"} {
		people["account "+user] = user
	}
	for i, req := range r.provider.Requests() {
		for _, name := range []string{"code", "code_verifier", "refresh_token", "token"} {
			if v := req.Form.Get(name); v != "" {
				secrets[fmt.Sprintf("%s %d", name, i)] = v
			}
		}
	}
	for i, token := range tokens {
		secrets[fmt.Sprintf("access token %d", i)] = token
	}
	if len(secrets) < 16 {
		t.Fatalf("only %d secrets are known: %v", len(secrets), secrets)
	}
	search := func(where string, text []byte, canaries map[string]string) {
		t.Helper()
		for name, canary := range canaries {
			if bytes.Contains(text, []byte(canary)) {
				t.Errorf("%s shows in %s", name, where)
			}
		}
	}
	for where, text := range map[string][]byte{"the log": []byte(p.log.String()), "the metrics": metrics, "readyz": ready, "Redis' files": disk, "Redis' commands": commands, "telemetry": telemetry.bytes()} {
		if len(text) == 0 {
			t.Errorf("%s: nothing to search", where)
		}
		search(where, text, secrets)
		search(where, text, people)
	}
	for path, text := range answers {
		allowed := map[string]string{}
		for name, canary := range secrets {
			link := strings.HasPrefix(path, "POST /v1/consents") || strings.Contains(path, "/connect/") || strings.HasPrefix(path, "POST /v1/tokens")
			if name == "link" && link || (name == "completion code" || name == "client's state") && strings.Contains(path, "/oauth2/callback") {
				continue
			}
			if strings.HasPrefix(path, "GET /authorize") || strings.HasPrefix(path, "GET /login") || strings.Contains(path, "/authorize") {
				continue // the provider's own
			}
			if strings.HasPrefix(name, "access token") && path == "POST /v1/tokens" {
				continue
			}
			if strings.HasPrefix(name, "code ") && strings.Contains(path, "callback") {
				continue // the address that carries it
			}
			allowed[name] = canary
		}
		search("the answer to "+path, text.Bytes(), allowed)
	}
}

// A tampered trail is found, and the first bad event named.
func TestAuditVerify(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	for range 5 {
		c.token("alice")
	}
	p.stop()
	redis := r.redisCLI()
	if out, code := r.try("audit", "verify", "--config", r.config); code != 0 {
		t.Fatalf("an untouched trail: exit %d\n%s", code, out)
	}
	stream := redis.longestStream()
	whole := redis.dump(stream)
	ids := redis.entries(stream)
	for name, tamper := range map[string]func(){
		"first dropped":  func() { redis.do("XDEL", stream, ids[0].ID) },
		"middle dropped": func() { redis.do("XDEL", stream, ids[len(ids)/2].ID) },
		"last dropped":   func() { redis.do("XDEL", stream, ids[len(ids)-1].ID) },
		"all dropped":    func() { redis.do("DEL", stream) },
		"one changed":    func() { redis.rebuild(stream, ids, func(i int) int { return i }, len(ids)/2) },
		"two exchanged": func() {
			redis.rebuild(stream, ids, func(i int) int {
				switch i {
				case 2:
					return 3
				case 3:
					return 2
				}
				return i
			}, -1)
		},
	} {
		tamper()
		if out, code := r.try("audit", "verify", "--config", r.config); code != 1 {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		} else if !strings.Contains(out, ids[0].ID[:5]) && !strings.Contains(out, "event") {
			t.Errorf("%s: the bad event is not named:\n%s", name, out)
		}
		redis.do("DEL", stream)
		redis.restore(stream, whole)
	}
	if out, code := r.try("audit", "verify", "--config", r.config); code != 0 {
		t.Errorf("put back: exit %d\n%s", code, out)
	}
}

// Threat 10: links, ids, states and the cookies of browsers and operators have 128 bits at least, random in every character.
func TestRandomIdentifiers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	const n = 2000
	var links, ids []string
	for range n {
		a := c.consent("same-subject")
		links, ids = append(links, a.str("url")[strings.LastIndex(a.str("url"), "/")+1:]), append(ids, a.str("id"))
	}
	const fewer = 400 // of what takes a browser each
	var states, challenges, browsers, sessions []string
	for i := range fewer {
		b := newBrowser(t)
		to, err := url.Parse(b.start(p.url + "/connect/" + links[i]).location)
		if err != nil {
			t.Fatal(err)
		}
		states, challenges = append(states, to.Query().Get("state")), append(challenges, to.Query().Get("code_challenge"))
		browsers = append(browsers, b.cookies(p.url)...)
		op := newBrowser(t)
		if got := op.post(p.url+"/dashboard/login", url.Values{"token": {dashboardToken}}); got.status != http.StatusSeeOther {
			t.Fatalf("sign-in: %d", got.status)
		}
		sessions = append(sessions, op.cookies(p.url)...)
	}
	for what, texts := range map[string][]string{"link": links, "id": ids, "state": states, "challenge": challenges, "browser's cookie": browsers, "operator's session": sessions} {
		n := len(texts)
		if n < fewer || len(texts[0]) < 22 { // characters of 6 bits
			t.Errorf("%d %ss, the first of %d characters", len(texts), what, len(texts[0]))
			continue
		}
		seen := map[string]bool{}
		for _, text := range texts {
			seen[text] = true
		}
		if len(seen) != n {
			t.Errorf("%d different %ss of %d", len(seen), what, n)
		}
		for pos := range len(texts[0]) - 1 { // the last one may have fewer bits
			counts := map[byte]int{}
			for _, text := range texts {
				counts[text[pos]]++
			}
			chi := 0.0
			for _, k := range counts {
				chi += float64(k*k) / (float64(n) / 64)
			}
			// 63 degrees of freedom: beyond 130 lies less than one in a million.
			if chi -= float64(n); chi > 130 {
				t.Errorf("%s, character %d: chi square %.0f", what, pos, chi)
			}
		}
	}
}

func (p *brokerProcess) get(address string) []byte {
	p.rig.t.Helper()
	resp, err := http.Get(address)
	if err != nil {
		p.rig.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.rig.t.Fatal(err)
	}
	return body
}

// files are Redis' files on disk, one behind the other.
func (c *redisCLI) files() []byte {
	c.t.Helper()
	var all []byte
	err := filepath.WalkDir(c.dir(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all = append(all, text...)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return all
}
