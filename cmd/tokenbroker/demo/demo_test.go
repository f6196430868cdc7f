package demo_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/cmd/tokenbroker/demo"
)

// stage is a demo before a fake broker.
type stage struct {
	t      *testing.T
	broker *fakeBroker
	http   *httptest.Server
	logs   *lockedBuffer
	ahead  atomic.Int64 // nanoseconds that the demo's clock is ahead
	halted atomic.Int64 // Unix nanoseconds at which it stands still; 0: it runs
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, broker: newFakeBroker(t), logs: &lockedBuffer{}}
	var chat *demo.Demo
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { chat.ServeHTTP(w, r) }))
	var err error
	chat, err = demo.New(demo.Config{
		PublicURL: "http://" + s.http.Listener.Addr().String(), BrokerURL: s.broker.http.URL, FilesURL: s.broker.http.URL,
		APIKey: broker.NewSecret(apiKey), Connector: "files", Random: rand.Reader,
		Now: func() time.Time {
			if at := s.halted.Load(); at != 0 {
				return time.Unix(0, at)
			}
			return time.Now().Add(time.Duration(s.ahead.Load()))
		},
		Log: slog.New(slog.NewJSONHandler(s.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.http.Start()
	t.Cleanup(s.http.Close)
	return s
}

// browser is a cookie jar before the demo.
type browser struct {
	*stage
	client *http.Client
	seen   strings.Builder // everything the browser got
}

func (s *stage) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &browser{stage: s, client: &http.Client{Jar: jar, Timeout: 20 * time.Second}}
}

func (s *stage) signedIn(user string) *browser {
	b := s.browser()
	b.post("/session", "user", user)
	return b
}

func (b *browser) read(res *http.Response, err error) (int, string) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.seen.Write(body)
	return res.StatusCode, string(body)
}

func (b *browser) get(path string) string {
	b.t.Helper()
	_, body := b.read(b.client.Get(b.http.URL + path))
	return body
}

func (b *browser) post(path string, pairs ...string) string {
	b.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		form.Set(pairs[i], pairs[i+1])
	}
	_, body := b.read(b.client.PostForm(b.http.URL+path, form))
	return body
}

var card = regexp.MustCompile(`data-consent="([^"]+)" data-state="([^"]+)" data-binding="([^"]+)"`)

// card returns the newest consent card of a page.
func (b *browser) card(page string) (id, state, binding string) {
	b.t.Helper()
	all := card.FindAllStringSubmatch(page, -1)
	if all == nil {
		b.t.Fatalf("no consent card in %s", page)
	}
	last := all[len(all)-1]
	return last[1], last[2], last[3]
}

func (b *browser) wants(page string, want ...string) {
	b.t.Helper()
	for _, w := range want {
		if !strings.Contains(page, w) {
			b.t.Errorf("the page lacks %q:\n%s", w, page)
		}
	}
}

func (b *browser) lacks(page string, unwanted ...string) {
	b.t.Helper()
	for _, u := range unwanted {
		if strings.Contains(page, u) {
			b.t.Errorf("the page has %q", u)
		}
	}
}

func TestDisconnect(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	b.wants(b.post("/messages", "text", "Disconnect"), "Nothing is connected")
	s.broker.set(func() { s.broker.granted["alice"] = []string{"files.read"} })
	b.wants(b.post("/messages", "text", "please disconnect me"), "gone here and at the provider")
	if n := s.broker.called("DELETE /v1/connections/conn_0"); n != 0 {
		t.Error("a revoked connection was deleted again")
	}
	if _, state, _ := b.card(b.post("/messages", "text", "files")); state != "waiting" {
		t.Errorf("state %s", state)
	}
	s.broker.set(func() { s.broker.granted["alice"], s.broker.revoked = []string{"files.read"}, "failed" })
	b.wants(b.post("/messages", "text", "disconnect"), "remove my access in its settings")
}

func TestRefusalsInPlainWords(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	for code, want := range map[string]string{
		"provider_unavailable": "does not answer", "temporarily_unavailable": "in a moment", "access_denied": "not allowed",
		"provider_misconfigured": "for my operator", "ttl_unavailable": "ttl_unavailable, request req_7",
	} {
		s.broker.set(func() { s.broker.tokenError = map[string]any{"status": 503, "error": code, "request_id": "req_7"} })
		b.wants(b.post("/messages", "text", "files"), want)
	}
	// A link that leads elsewhere is not shown.
	s.broker.set(func() {
		s.broker.tokenError = map[string]any{"status": 409, "error": "consent_required", "consent": map[string]any{
			"id": "con_x", "url": "https://evil.example/connect/1", "binding": "code"}}
	})
	b.lacks(b.post("/messages", "text", "files"), "evil.example")
}

type news struct {
	Rev, Seq     int
	Chat, Events []struct {
		ID   int
		HTML string
	}
}

func (b *browser) updates(query string) news {
	b.t.Helper()
	var n news
	if err := json.Unmarshal([]byte(b.get("/updates?"+query)), &n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

func TestUpdates(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	s.broker.set(func() {
		for _, scope := range []string{"s1", "s2", "s3", "s4", "s5", "s6", "s7"} { // three pages
			s.broker.event("token.issued", "alice", scope, "ok")
		}
	})
	s.ahead.Store(int64(time.Second)) // the trail is not read more often than that
	first := b.updates("rev=0&seq=0")
	if len(first.Events) != 7 || len(first.Chat) != 1 {
		t.Fatalf("%d events, %d messages", len(first.Events), len(first.Chat))
	}
	b.wants(first.Events[0].HTML, `data-type="token.issued"`, `data-scope="s1"`, "Token handed out", "alice via list_files")
	s.ahead.Store(int64(2 * time.Second))
	again := b.updates("rev=0&seq=7")
	if len(again.Events) != 0 || again.Seq != 7 {
		t.Errorf("read again: %+v", again.Events)
	}
	b.post("/messages", "text", "hello")
	if n := b.updates("rev=1&seq=7"); len(n.Chat) != 2 {
		t.Errorf("%d new messages", len(n.Chat))
	}
}

// One operation is one line with all its scopes, also where a page of the trail ends in the middle of it.
func TestOneLineForAnOperation(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	s.broker.set(func() {
		for i, scope := range []string{"files.read", "openid", "email", "profile", "files.read"} {
			s.broker.event("token.issued", "alice", scope, "ok")
			e := s.broker.events[i]
			e["time"], e["request_id"] = s.broker.events[0]["time"], "req_1"
			if i == 4 {
				e["request_id"] = "req_2" // at the same moment
			}
		}
		s.broker.event("connection.revoked", "alice", "", "ok")
	})
	s.ahead.Store(int64(time.Second))
	n := b.updates("rev=0&seq=0")
	if len(n.Events) != 3 || n.Seq != 3 {
		t.Fatalf("%d lines, the last is %d; want 3: %+v", len(n.Events), n.Seq, n.Events)
	}
	b.wants(n.Events[0].HTML, `data-scope="files.read openid email profile"`, "<code>files.read</code> <code>openid</code> <code>email</code> <code>profile</code>")
	b.wants(n.Events[1].HTML, `data-scope="files.read"`)
	b.wants(n.Events[2].HTML, `data-type="connection.revoked" data-scope=""`)
	b.lacks(n.Events[2].HTML, "<code>")
}

// The user's line and the poll do not wait for a slow provider.
func TestPollDuringSlowToken(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	gate := make(chan struct{})
	s.broker.set(func() { s.broker.slowToken = gate })
	done := make(chan struct{})
	go func() { defer close(done); b.post("/messages", "text", "files") }()
	poller := &browser{stage: s, client: b.client}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if n := poller.updates("rev=1&seq=0"); len(n.Chat) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the user's line never came")
		}
	}
	close(gate)
	<-done
}

func TestGuards(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	do := func(method, path string, change func(*http.Request)) *http.Response {
		req, err := http.NewRequest(method, s.http.URL+path, strings.NewReader("text=files"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		change(req)
		res, err := b.client.Do(req)
		b.read(res, err)
		return res
	}
	if res := do("POST", "/messages", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }); res.StatusCode != 403 {
		t.Errorf("a POST from another site: %d", res.StatusCode)
	}
	if res := do("GET", "/", func(r *http.Request) { r.Host = "evil.example" }); res.StatusCode != 421 {
		t.Errorf("another host name: %d", res.StatusCode)
	}
	if n := s.broker.called("POST /v1/tokens"); n != 0 {
		t.Errorf("%d token requests", n)
	}
	for _, path := range []string{"/", "/finished", "/nowhere", "/static/demo.js"} {
		res := do("GET", path, func(*http.Request) {})
		csp := res.Header.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || res.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
	stranger := s.browser()
	stranger.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := stranger.client.PostForm(s.http.URL+"/messages", url.Values{"text": {"files"}})
	if code, _ := stranger.read(res, err); code != 303 {
		t.Errorf("without a session: %d", code)
	}
}

func TestHostileNamesAreInert(t *testing.T) {
	s := newStage(t)
	s.broker.granted["alice"] = []string{"files.read"}
	s.broker.event("<script>alert(1)</script>", `"><img src=x>`, "{{.}}", "ok")
	b := s.signedIn("alice")
	page := b.post("/messages", "text", `<b>files</b> "><script>`)
	page += b.get("/")
	b.lacks(page, "<img src=x", "<script>alert", "<b>files", `"><script>`)
}

func TestNoSecretInLogs(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	id, _, _ := b.card(b.post("/messages", "text", "files"))
	b.get("/done?consent=" + id + "&code=canary-wrong-code")
	s.broker.http.Close()
	b.post("/messages", "text", "files")
	b.get("/updates?rev=0&seq=0&check")
	logs := s.logs.String()
	if !strings.Contains(logs, "invalid_code") || !strings.Contains(logs, "call fails") {
		t.Errorf("logs: %s", logs)
	}
	for _, secret := range []string{apiKey, accessToken, "canary-wrong-code", "/connect/link-"} {
		if strings.Contains(logs, secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := func() demo.Config {
		return demo.Config{PublicURL: "http://127.0.0.1:3000", BrokerURL: "http://127.0.0.1:8080/", FilesURL: "http://127.0.0.1:4000",
			APIKey: broker.NewSecret("k"), Connector: "files", Now: time.Now, Random: rand.Reader, Log: slog.Default()}
	}
	if _, err := demo.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*demo.Config){
		"url":    func(c *demo.Config) { c.BrokerURL = "127.0.0.1:8080" },
		"path":   func(c *demo.Config) { c.PublicURL += "/chat" },
		"key":    func(c *demo.Config) { c.APIKey = broker.Secret{} },
		"clock":  func(c *demo.Config) { c.Now = nil },
		"random": func(c *demo.Config) { c.Random = nil },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := demo.New(cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
