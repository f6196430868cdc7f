package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tokenbroker/vault/vaulttest"
)

// A Redis that is down at start, and one that dies later: one clear answer each, nothing lost, and recovery without a hand.
func TestRedisDown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.server.Kill()
	p := r.launch()
	p.waitReady(http.StatusServiceUnavailable)
	if resp, err := http.Get(p.ops + "/healthz"); err != nil || resp.StatusCode != 200 {
		t.Errorf("healthz while redis is down: %v %v", resp, err)
	}
	if text := string(p.get(p.ops + "/readyz")); !strings.Contains(text, "redis") {
		t.Errorf("readyz does not name redis: %s", text)
	}
	c := p.api(r.key)
	down := func(method, path string, body any) {
		t.Helper()
		began := time.Now()
		a := c.want(503, method, path, body)
		if a.str("error") != "temporarily_unavailable" || a.header.Get("Retry-After") == "" || time.Since(began) > 3*time.Second {
			t.Errorf("%s %s: %s after %v", method, path, a.raw, time.Since(began))
		}
	}
	everything := func() {
		t.Helper()
		down("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
		down("POST", "/v1/consents", object{"connector": "files", "subject": "alice"})
		down("GET", "/v1/connections", nil)
		down("GET", "/v1/events", nil)
		down("GET", "/v1/connections/AAAAAAAAAAAAAAAAAAAAAAAA", nil)
	}
	everything()
	if got := newBrowser(t).get(p.url + "/connect/" + strings.Repeat("A", 56)); got.status != 503 {
		t.Errorf("a page while redis is down: %d", got.status)
	}
	r.server.Start()
	p.waitReady(http.StatusOK)

	conn := c.connect(newBrowser(t), "alice")
	token := c.token("alice").str("access_token")
	r.server.Kill()
	p.waitReady(http.StatusServiceUnavailable)
	everything()
	r.server.Start()
	began := time.Now()
	r.eventually(20*time.Second, "a token after redis is back", func() error {
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
		if err != nil || a.status != 200 || a.str("connection") != conn || a.str("access_token") != token {
			return fmt.Errorf("%v: %d %s", err, a.status, a.str("error"))
		}
		return nil
	})
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("recovery took %v, want under 2 s", took)
	}
	p.stop()
	if out, code := r.try("audit", "verify", "--config", r.config); code != 0 {
		t.Errorf("the trail after two outages: exit %d\n%s", code, out)
	}
}

// A Redis that hangs is answered for within a second or two, everywhere, and nothing has to be restarted when it goes on.
func TestRedisHung(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.start()
	c := p.api(r.key)
	conn := c.connect(newBrowser(t), "alice")
	r.server.Pause()
	for _, call := range []struct{ method, path string }{
		{"POST", "/v1/tokens"}, {"POST", "/v1/consents"}, {"GET", "/v1/connections"}, {"GET", "/v1/events"}, {"GET", "/v1/connections/" + conn}, {"DELETE", "/v1/connections/" + conn},
	} {
		var body any
		if call.method == "POST" {
			body = object{"connector": "files", "subject": "alice"}
		}
		began := time.Now()
		a := c.want(503, call.method, call.path, body)
		if took := time.Since(began); took > 3*time.Second || a.str("error") != "temporarily_unavailable" {
			t.Errorf("%s %s: %s after %v", call.method, call.path, a.raw, took)
		}
	}
	began := time.Now()
	b := newBrowser(t)
	if got := b.post(p.url+"/dashboard/login", url.Values{"token": {dashboardToken}}); got.status != 503 && got.status != 403 || time.Since(began) > 3*time.Second {
		t.Errorf("dashboard: %d after %v", got.status, time.Since(began))
	}
	r.server.Resume()
	r.eventually(20*time.Second, "a token after redis goes on", func() error {
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
		if err != nil || a.status != 200 && a.str("reason") != "revoked" { // the DELETE may have landed
			return fmt.Errorf("%v: %d %s", err, a.status, a.raw)
		}
		return nil
	})
}

// A Redis that would lose grants is refused at start, in one line that says what to do.
func TestVolatileRedisIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, args := range map[string][]string{
		"no append-only file": {"--appendonly", "no"},
		"eviction":            {"--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"},
	} {
		server := vaulttest.StartRedis(t, args...)
		r.redisURL = server.URL()
		r.writeConfig("")
		out, code := r.try("serve", "--config", r.config)
		if code != 1 || !strings.Contains(out, "allow_volatile_redis") {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
		server.Kill()
	}
}

// Requests that are bent in any way get a clear error, and the process stays well.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	badRequests(t, newRig(t))
}

func badRequests(t *testing.T, r *rig) {
	p := r.start()
	c := p.api(r.key)
	good := `{"connector":"files","subject":"u"}`
	for name, tc := range map[string]struct {
		body   string
		status int
	}{
		"empty":                {"", 400},
		"not JSON":             {"connector=files", 400},
		"array":                {"[]", 400},
		"unknown field":        {`{"connector":"files","subject":"u","x":1}`, 400},
		"repeated field":       {`{"connector":"files","subject":"u","subject":"v"}`, 400},
		"other case":           {`{"connector":"files","Subject":"u"}`, 400},
		"trailing data":        {good + good, 400},
		"wrong type":           {`{"connector":"files","subject":7}`, 400},
		"deep":                 {strings.Repeat("[", 1000), 400},
		"large":                {`{"connector":"files","subject":"` + strings.Repeat("a", 70<<10) + `"}`, 413},
		"no subject":           {`{"connector":"files"}`, 400},
		"empty subject":        {`{"connector":"files","subject":""}`, 400},
		"long subject":         {`{"connector":"files","subject":"` + strings.Repeat("a", 257) + `"}`, 400},
		"CR LF":                {`{"connector":"files","subject":"a\r\nb"}`, 400},
		"NUL":                  {`{"connector":"files","subject":"a\u0000b"}`, 400},
		"negative min_ttl":     {`{"connector":"files","subject":"u","min_ttl":-1}`, 400},
		"unknown connector":    {`{"connector":"nope","subject":"u"}`, 404},
		"scope not offered":    {`{"connector":"files","subject":"u","scopes":["x y"]}`, 400},
		"braces are fine":      {`{"connector":"files","subject":"a{b}c}{"}`, 409},
		"another is fine":      {`{"connector":"files","subject":"😀"}`, 409},
		"invalid UTF-8":        {"{\"connector\":\"files\",\"subject\":\"\xff\"}", 400},
		"return_to not listed": {`{"connector":"files","subject":"u","return_to":"https://evil.example/"}`, 400},
	} {
		a, err := c.try("POST", "/v1/tokens", tc.body)
		if err != nil || a.status != tc.status || a.str("error") == "" || a.str("error_description") == "" || a.str("request_id") == "" {
			t.Errorf("%s: %v, status %d, want %d: %s", name, err, a.status, tc.status, a.raw)
		}
	}
	for _, key := range []string{"", "wrong", r.key + "x", r.key[:len(r.key)-1], strings.ToUpper(r.key)} {
		k := p.api(key)
		if a := k.want(401, "POST", "/v1/tokens", good); a.str("error") != "invalid_client" {
			t.Error(a.raw)
		}
	}
	for _, path := range []string{"/v1/tokens", "/v1/tokens?access_token=x"} {
		a, _ := c.try("GET", path, nil)
		if a.status != 405 && a.status != 400 {
			t.Errorf("GET %s: %d", path, a.status)
		}
	}
	for _, cursor := range []string{"x", "AAAA", strings.Repeat("A", 5000)} {
		c.want(400, "GET", "/v1/events?cursor="+cursor, nil)
		c.want(400, "GET", "/v1/connections?cursor="+cursor, nil)
	}
	if strings.Contains(p.log.String(), `"panic`) {
		t.Error("something panicked")
	}
}

// keyset rotate adds a key while the broker runs: what was sealed before opens, what is sealed after does too, on every
// replica, without a restart.
func TestKeysetRotationLive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, q := r.start(), r.start()
	c, other := p.api(r.key), q.api(r.key)
	c.connect(newBrowser(t), "before")
	file := filepath.Join(r.dir, "keyset.json")
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r.run("keyset", "rotate", "--file", file, "--kek", "env:TOKENBROKER_KEK")
	if out := r.run("keyset", "list", "--file", file, "--kek", "env:TOKENBROKER_KEK"); strings.Count(out, "\n") < 2 {
		t.Errorf("keyset list after rotate:\n%s", out)
	}
	c.connect(newBrowser(t), "after")
	for _, subject := range []string{"before", "after"} {
		c.token(subject)
		other.token(subject)
	}
	now, err := os.ReadFile(file)
	if err != nil || string(now) == string(old) {
		t.Errorf("the file did not change: %v", err)
	}
	if out, code := r.try("keyset", "list", "--file", file, "--kek", "env:FILES_SECRET"); code != 1 || strings.Contains(out, "secret-canary") {
		t.Errorf("a wrong KEK: exit %d\n%s", code, out)
	}
}
