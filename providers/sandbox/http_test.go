package sandbox_test

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

func TestFilesAPI(t *testing.T) {
	r := newRig(t, nil)
	alice, bob := r.connect("alice"), r.connect("bob")
	a := r.call("GET", "/files", alice.AccessToken, "")
	equal(t, "status", a.status, 200)
	if !strings.Contains(a.body, "Welcome, Alice.txt") || strings.Contains(a.body, `"content"`) {
		t.Errorf("files: %s", a.body)
	}
	made := r.call("POST", "/files", alice.AccessToken, `{"name":"Note","content":"milk"}`)
	equal(t, "created", made.status, 201)
	read := r.call("GET", "/files/"+made.text("id"), alice.AccessToken, "")
	equal(t, "content", read.text("content"), "milk")
	equal(t, "bob does not see it", r.call("GET", "/files/"+made.text("id"), bob.AccessToken, "").status, 404)
	for _, body := range []string{`{`, `{"name":""}`, `{"name":"` + strings.Repeat("n", 201) + `"}`} {
		equal(t, "bad file", r.call("POST", "/files", alice.AccessToken, body).status, 400)
	}
}

// RFC 6750 section 3.
func TestChallenges(t *testing.T) {
	r := newRig(t, nil)
	r.oauth.Scopes = []string{"files.read"}
	token := r.connect("alice")
	for _, c := range []struct {
		name, method, token, challenge string
		status                         int
	}{
		{"no token", "GET", "", `Bearer realm="sandbox"`, 401},
		{"bad token", "GET", "sba_bad", `Bearer realm="sandbox", error="invalid_token"`, 401},
		{"a refresh token is no access token", "GET", r.connectOffline(), `Bearer realm="sandbox", error="invalid_token"`, 401},
		{"scope", "POST", token.AccessToken, `Bearer realm="sandbox", error="insufficient_scope", scope="files.write"`, 403},
	} {
		a := r.call(c.method, "/files", c.token, "")
		equal(t, c.name, a.status, c.status)
		equal(t, c.name, a.header.Get("WWW-Authenticate"), c.challenge)
	}
	if a := r.call("GET", "/files?access_token="+token.AccessToken, "", ""); a.status != 401 {
		t.Errorf("a token in the query was taken: %d", a.status)
	}
}

func (r *rig) connectOffline() string {
	scopes := r.oauth.Scopes
	defer func() { r.oauth.Scopes = scopes }()
	r.oauth.Scopes = []string{"files.read", "offline_access"}
	return r.connect("alice").RefreshToken
}

func TestTokenRequestForm(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice").RefreshToken
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	for name, send := range map[string]func() (answer, error){
		"repeated parameter": func() (answer, error) {
			return r.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token, token}})
		},
		"in the query":       func() (answer, error) { return r.post("/token?"+form.Encode(), url.Values{}) },
		"no grant type":      func() (answer, error) { return r.post("/token", url.Values{"refresh_token": {token}}) },
		"unknown grant type": func() (answer, error) { return r.post("/token", url.Values{"grant_type": {"password"}}) },
		"GET":                func() (answer, error) { return r.call("GET", "/token?"+form.Encode(), "", ""), nil },
	} {
		a, err := send()
		if err != nil {
			t.Fatal(err)
		}
		if a.status != 400 && a.status != 405 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	equal(t, "the token is unharmed", r.refresh(token).status, 200)
}

func TestRecording(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	r.refresh(token.RefreshToken)
	got := r.server.Requests()
	equal(t, "requests", len(got), 2)
	equal(t, "path", got[1].Path, "/token")
	equal(t, "refresh token", got[1].Form.Get("refresh_token") == token.RefreshToken, true)
	equal(t, "verifier", len(got[0].Form.Get("code_verifier")) >= 43, true)
	silent := newRig(t, func(c *sandbox.Config) { c.Record = false })
	silent.connect("alice")
	equal(t, "without Record", len(silent.server.Requests()), 0)
}

func TestAdmin(t *testing.T) {
	r := newRig(t, nil)
	token := r.connect("alice")
	ask := func(method, path, body string) answer { t.Helper(); return r.call(method, path, "", body) }

	a := ask("POST", "/_sandbox/faults", `{"faults":[{"on":"refresh","kind":"status","status":503,"retry_after":3,"times":1},{"on":"userinfo","kind":"latency","delay_ms":5}]}`)
	equal(t, "faults", a.status, 204)
	equal(t, "struck", r.refresh(token.RefreshToken).header.Get("Retry-After"), "3")
	equal(t, "clear", ask("DELETE", "/_sandbox/faults", "").status, 204)

	equal(t, "settings", ask("POST", "/_sandbox/settings", `{"rotation":"none","access_token_lifetime_ms":9000,"auto":{"user":"bob","decision":"allow"}}`).status, 204)
	fresh := r.refresh(token.RefreshToken)
	equal(t, "rotation", fresh.text("refresh_token") == token.RefreshToken, true)
	equal(t, "lifetime", fresh.fields["expires_in"], any(9.0))
	if got := r.authorize("0123456789012345678901234567890123456789012"); got.Get("code") == "" {
		t.Errorf("auto: %v", got)
	}
	equal(t, "no auto", ask("POST", "/_sandbox/settings", `{"auto":{}}`).status, 204)

	equal(t, "revoke", ask("POST", "/_sandbox/grants/revoke", `{"user":"alice"}`).text("revoked"), "")
	equal(t, "revoked", r.refresh(token.RefreshToken).text("error"), "invalid_grant")

	a = ask("GET", "/_sandbox/stats", "")
	var stats sandbox.Stats
	if err := json.Unmarshal([]byte(a.body), &stats); err != nil {
		t.Fatal(err)
	}
	equal(t, "refreshes", stats.Refreshes, 1)
	equal(t, "refresh requests", stats.TokenRequests["refresh_token"], 3)
	equal(t, "why", stats.Grants[0].Revoked, "revoked by the user")
	for _, leaked := range []string{token.AccessToken, token.RefreshToken, secret, "alice@example.com"} {
		if strings.Contains(a.body, leaked) {
			t.Error("the stats hold a secret")
		}
	}

	for _, body := range []string{`{`, `{"fault":[]}`, `{"faults":[{"on":"refresh","kind":"status","statsu":1}]}`, `{"faults":[{"on":"x","kind":"y"}]}`} {
		equal(t, body, ask("POST", "/_sandbox/faults", body).status, 400)
	}
	for _, body := range []string{`{"rotation":"sometimes"}`, `{"access_token_lifetime_ms":1}`, `{"auto":{"user":"bob"}}`} {
		equal(t, body, ask("POST", "/_sandbox/settings", body).status, 400)
	}
}

func TestAdminIsForThisMachineOnly(t *testing.T) {
	r := newRig(t, nil)
	ask := func(change func(*http.Request)) int {
		req := httptest.NewRequest("GET", r.http.URL+"/_sandbox/stats", nil)
		req.RemoteAddr = "127.0.0.1:5555"
		change(req)
		w := httptest.NewRecorder()
		r.server.ServeHTTP(w, req)
		_, _ = io.Copy(io.Discard, w.Body)
		return w.Code
	}
	equal(t, "a program here", ask(func(*http.Request) {}), 200)
	equal(t, "from elsewhere", ask(func(q *http.Request) { q.RemoteAddr = "192.0.2.7:5555" }), 403)
	equal(t, "a web page", ask(func(q *http.Request) { q.Header.Set("Origin", "https://evil.example") }), 403)
	equal(t, "a web page by GET", ask(func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "cross-site") }), 403)
	equal(t, "another name", ask(func(q *http.Request) { q.Host = "evil.example" }), 403)
	closed := newRig(t, func(c *sandbox.Config) { c.Admin = false })
	equal(t, "switched off", closed.call("GET", "/_sandbox/stats", "", "").status, 404)
}

func TestConfigIsChecked(t *testing.T) {
	good := func() sandbox.Config {
		return sandbox.Config{Issuer: "http://127.0.0.1:4000", Now: time.Now, Random: rand.Reader}
	}
	if _, err := sandbox.New(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*sandbox.Config){
		"issuer with a path": func(c *sandbox.Config) { c.Issuer += "/x" },
		"no issuer":          func(c *sandbox.Config) { c.Issuer = "" },
		"issuer by file":     func(c *sandbox.Config) { c.Issuer = "file:///etc/passwd" },
		"no clock":           func(c *sandbox.Config) { c.Now = nil },
		"no randomness":      func(c *sandbox.Config) { c.Random = nil },
		"rotation":           func(c *sandbox.Config) { c.Rotation = "weekly" },
		"auto":               func(c *sandbox.Config) { c.Auto = &sandbox.Auto{Decision: "shrug"} },
		"no secret":          func(c *sandbox.Config) { c.Clients = []sandbox.Client{{ID: "a"}} },
		"auth method":        func(c *sandbox.Config) { c.Clients = []sandbox.Client{{ID: "a", Secret: "b", AuthMethod: "guess"}} },
		"no id":              func(c *sandbox.Config) { c.Clients = []sandbox.Client{{Secret: "b"}} },
	} {
		cfg := good()
		spoil(&cfg)
		if _, err := sandbox.New(cfg); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
