package e2e

import (
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// edit changes the configuration file.
func (r *rig) edit(old, new string) {
	r.t.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	if strings.Count(string(text), old) != 1 {
		r.t.Fatalf("%q stands %d times in the configuration", old, strings.Count(string(text), old))
	}
	if err := os.WriteFile(r.config, []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// serveHTTP serves on a free port until the test ends and returns the address.
func serveHTTP(t *testing.T, handler func(url string) http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String()
	server := &http.Server{Handler: handler(address), ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return address
}

// addCalm adds a second provider, at which nothing goes wrong, with the connector calm.
func (r *rig) addCalm() *sandbox.Server {
	r.t.Helper()
	var calm *sandbox.Server
	address := serveHTTP(r.t, func(url string) http.Handler {
		var err error
		if calm, err = sandbox.New(sandbox.Config{
			Issuer: url, Random: rand.Reader, Now: time.Now, Auto: &sandbox.Auto{User: "bob", Decision: "allow"},
			Clients: []sandbox.Client{{ID: "files-client", Secret: "secret-canary-1b7e44", RedirectURIs: []string{r.public + "/oauth2/callback/calm"}}},
		}); err != nil {
			r.t.Fatal(err)
		}
		return calm
	})
	r.t.Cleanup(func() { _ = calm.Close() })
	r.edit("\nproviders:\n", `
  - id: calm
    provider: calm
    client_id: files-client
    client_secret: ${FILES_SECRET}
    scopes: [files.read]
providers:
  - id: calm
    name: Calm Files
    issuer: `+address+`
    authorization_endpoint: `+address+`/authorize
    token_endpoint: `+address+`/token
    revocation_endpoint: `+address+`/revoke
    userinfo_endpoint: `+address+`/userinfo
    token_endpoint_auth_method: client_secret_basic
    offline_scopes: [offline_access]
    rotation: strict
`)
	return calm
}

// liar is a token endpoint before the real one that can answer with bodies that no decent server sends.
type liar struct {
	next  http.Handler
	how   atomic.Value // string: "", hang, endless, dripping
	sent  atomic.Int64 // bytes of endless answers
	asked atomic.Int64
}

func (l *liar) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if how := l.how.Load(); how != "" {
		// What happens before the body is read would not show that whoever asked has gone.
		_, _ = io.Copy(io.Discard, req.Body)
		l.asked.Add(1)
	}
	switch l.how.Load() {
	case "hang":
		<-req.Context().Done()
	case "endless":
		w.Header().Set("Content-Type", "application/json")
		chunk := make([]byte, 1<<20)
		for i := range chunk {
			chunk[i] = ' '
		}
		for range 1024 { // 1 GiB
			n, err := w.Write(chunk)
			l.sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	case "dripping":
		w.Header().Set("Content-Type", "application/json")
		for range 60 {
			if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-req.Context().Done():
				return
			case <-time.After(time.Second):
			}
		}
	default:
		l.next.ServeHTTP(w, req)
	}
}

// peakMemory is the most that the process ever had in memory, in bytes (VmHWM, proc(5)).
func (p *brokerProcess) peakMemory() (bytes int64) {
	p.rig.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.rig.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	p.rig.t.Fatal("no VmHWM")
	return 0
}

// A provider that does not do its work, in every way there is: the token that is still good is served, marked; who insists on
// a new one hears when to come back; and when the provider is well again, the grant is as it was.
func TestProviderDoesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.writeConfig(quick)
	front := &liar{next: r.provider}
	front.how.Store("")
	r.edit("token_endpoint: "+r.issuer+"/token\n", "token_endpoint: "+serveHTTP(t, func(string) http.Handler { return front })+"/token\n")
	p := r.start()
	c := p.api(r.key)
	conn := c.connect(newBrowser(t), "alice")
	old := c.token("alice").str("access_token")
	memory := p.peakMemory()
	refreshes := 0
	for name, fault := range map[string]sandbox.Fault{
		"429":      {On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 429, RetryAfter: 2},
		"503":      {On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 503},
		"500":      {On: sandbox.TargetRefresh, Kind: sandbox.KindStatus, Status: 500},
		"a page":   {On: sandbox.TargetRefresh, Kind: sandbox.KindHTML},
		"hang":     {},
		"reset":    {On: sandbox.TargetRefresh, Kind: sandbox.KindReset, When: sandbox.Before},
		"redirect": {On: sandbox.TargetRefresh, Kind: sandbox.KindRedirect, Value: "http://127.0.0.1:1/"},
		"endless":  {},
		"dripping": {},
	} {
		t.Run(name, func(t *testing.T) {
			c := c.within(t)
			if fault.Kind != "" {
				r.inject(fault)
			} else {
				front.how.Store(name)
			}
			count := func() int { return r.provider.Stats().TokenRequests["refresh_token"] + int(front.asked.Load()) }
			requests := count()
			began := time.Now()
			a := c.want(503, "POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
			if took := time.Since(began); a.str("error") != "provider_unavailable" || a.header.Get("Retry-After") == "" || took > 2*patience {
				t.Errorf("who insists: %s after %v, Retry-After %q", a.raw, took, a.header.Get("Retry-After"))
			}
			if name == "429" && a.header.Get("Retry-After") < "2" {
				t.Errorf("the provider asked for 2 s; Retry-After %q", a.header.Get("Retry-After"))
			}
			// In the time that the provider asked for, it is left alone.
			for range 10 {
				c.want(503, "POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
				if a := c.token("alice"); a.str("access_token") != old || a.body["degraded"] != true {
					t.Errorf("who takes what there is: degraded %v", a.body["degraded"])
				}
			}
			if n := count() - requests; n < 1 || n > 6 {
				t.Errorf("%d requests to a provider that fails", n)
			}
			if a := c.want(200, "GET", "/v1/connections/"+conn, nil); a.str("status") != "active" {
				t.Errorf("the connection: %s", a.raw)
			}
			r.provider.ClearFaults()
			front.how.Store("")
			eventually(t, 30*time.Second, "a new token", func() error {
				a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": "alice", "min_ttl": 3600})
				if err != nil || a.status != 200 {
					return fmt.Errorf("%v %d", err, a.status)
				}
				if a.body["degraded"] != nil {
					t.Error("still called degraded")
				}
				old = a.str("access_token")
				return nil
			})
			refreshes++
			if g := r.grant("alice"); g.Refreshes != refreshes || g.Failures != 0 || g.Revoked != "" {
				t.Errorf("the provider's view: %+v, want %d refreshes", g, refreshes)
			}
		})
	}
	if grown := p.peakMemory() - memory; grown > 128<<20 || front.sent.Load() > 64<<20 {
		t.Errorf("an endless answer: %d bytes were taken, and the process grew by %d", front.sent.Load(), grown)
	}
}

// A provider that rotates and answers oddly: the new refresh token is kept and used next.
func TestProviderAnswersOddly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.writeConfig(quick)
	c := r.start().api(r.key)
	// Each case is a subject of its own with the same account, so that no case is held back for what the one before did.
	refreshes, subject, token := 0, "", ""
	begin := func(t *testing.T) {
		t.Helper()
		refreshes, subject = 0, t.Name()
		c.within(t).connect(newBrowser(t), subject, object{"scopes": []string{"files.read", "files.write"}})
		token = c.within(t).token(subject).str("access_token")
	}
	fresh := func(t *testing.T) answer {
		t.Helper()
		a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": subject, "min_ttl": 3600})
		if err != nil || a.status != 200 && a.str("error") != "ttl_unavailable" {
			t.Fatalf("a refresh: %v, %d %s", err, a.status, a.raw)
		}
		if refreshes++; r.grant("alice").Refreshes != refreshes || r.grant("alice").Failures != 0 || r.grant("alice").Revoked != "" {
			t.Fatalf("the provider's view: %+v, want %d refreshes", r.grant("alice"), refreshes)
		}
		a = c.within(t).token(subject, object{"min_ttl": 0})
		if a.str("access_token") == token {
			t.Error("the token is the one before")
		}
		token = a.str("access_token")
		if status := r.files(token); status != 200 {
			t.Errorf("the files API answers %d to the token", status)
		}
		return a
	}
	for name, tc := range map[string]struct {
		fault  sandbox.Fault
		shorts bool // the lifetime can't be read: assume little
	}{
		`"3600"`:           {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: `"3600"`}},
		"3599.5":           {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: "3599.5"}},
		"1e30":             {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: "1e30"}},
		"empty":            {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: `""`}, shorts: true},
		"-5":               {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: "-5"}, shorts: true},
		"absent":           {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn}, shorts: true},
		"null":             {fault: sandbox.Fault{Kind: sandbox.KindExpiresIn, Value: "null"}, shorts: true},
		"no refresh token": {fault: sandbox.Fault{Kind: sandbox.KindOmitRefresh}},
		"no scope":         {fault: sandbox.Fault{Kind: sandbox.KindOmitScope}},
		"error beside it":  {fault: sandbox.Fault{Kind: sandbox.KindExtraError}},
		"called HTML":      {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "html"}},
		"called a form":    {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "mislabelled"}},
		"a form":           {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "form"}},
		"guarded":          {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "guarded"}},
		"byte order mark":  {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "bom"}},
		"in an array":      {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "array"}},
		"trailing text":    {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "trailing"}},
		"repeated keys":    {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "repeated"}},
		"over a megabyte":  {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Value: "long"}},
		"status 400":       {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Status: 400}},
		"status 500":       {fault: sandbox.Fault{Kind: sandbox.KindDisguise, Status: 500, Value: "text"}},
	} {
		t.Run(name, func(t *testing.T) {
			begin(t)
			tc.fault.On, tc.fault.Times = sandbox.TargetRefresh, 1
			r.inject(tc.fault)
			a := fresh(t)
			left, _ := a.body["expires_in"].(float64)
			if left < 1 || left > 86400*366 || tc.shorts && left > 301 {
				t.Errorf("expires_in %v", left)
			}
			if scopes := a.str("scope"); !strings.Contains(scopes, "files.write") {
				t.Errorf("scope %q", scopes)
			}
			fresh(t) // with the refresh token that came along
		})
	}
	t.Run("a token that is no bearer token", func(t *testing.T) {
		begin(t)
		c := c.within(t)
		r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindDisguise, Value: "dpop", Times: 1})
		c.want(503, "POST", "/v1/tokens", object{"connector": "files", "subject": subject, "min_ttl": 3600})
		if a := c.token(subject); a.str("access_token") != token {
			t.Error("a token that callers could not use went out")
		}
		eventually(t, 20*time.Second, "the next refresh, with the refresh token that came along", func() error {
			a, err := c.try("POST", "/v1/tokens", object{"connector": "files", "subject": subject, "min_ttl": 3600})
			if err != nil || a.status != 200 {
				return fmt.Errorf("%v, %d", err, a.status)
			}
			return nil
		})
		if g := r.grant("alice"); g.Refreshes != 2 || g.Failures != 0 || g.Revoked != "" {
			t.Errorf("the provider's view: %+v", g)
		}
	})
	t.Run("scopes reduced", func(t *testing.T) {
		begin(t)
		c := c.within(t)
		r.inject(sandbox.Fault{On: sandbox.TargetRefresh, Kind: sandbox.KindReduceScopes, Scopes: []string{"files.read"}, Times: 1})
		if scopes := fresh(t).str("scope"); strings.Contains(scopes, "files.write") {
			t.Errorf("scope %q", scopes)
		}
		missing := c.refused(409, "consent_required", subject, object{"scopes": []string{"files.write"}})
		if missing.str("reason") != "scope_missing" {
			t.Errorf("reason %q", missing.str("reason"))
		}
		if events := c.events(url.Values{"type": {"connection.scope_reduced"}, "scope": {"files.write"}}); len(events) != 1 {
			t.Errorf("events: %v", events)
		}
		fresh(t)
	})
	t.Run("a used refresh token came back behind the broker's back", func(t *testing.T) {
		begin(t)
		fresh(t)
		c := c.within(t)
		sent := r.provider.Requests()
		form := sent[len(sent)-1].Form
		if form.Get("grant_type") != "refresh_token" {
			t.Fatal("the last request is no refresh")
		}
		req := httptest.NewRequest("POST", "/token", strings.NewReader(form.Encode()))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth("files-client", "secret-canary-1b7e44")
		thief := httptest.NewRecorder()
		r.provider.ServeHTTP(thief, req)
		if thief.Code != 400 || r.grant("alice").Revoked == "" {
			t.Fatalf("the provider answered %d", thief.Code)
		}
		conn := c.want(200, "GET", "/v1/connections?subject="+url.QueryEscape(subject), nil).list("connections")[0]["id"].(string)
		redis := r.redisCLI()
		c.refused(409, "consent_required", subject, object{"min_ttl": 3600})
		if redis.hash(redis.recordOf(conn))["rt"] == "" {
			t.Error("the refresh token was deleted")
		}
		r.lostOnce(c, subject, "alice", conn)
	})
}
