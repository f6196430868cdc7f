package web_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

// roles are those of the sites here; whoever is in the group of a role's name has it.
func roles() []broker.OperatorRole {
	var out []broker.OperatorRole
	for _, r := range broker.Roles() {
		out = append(out,
			broker.OperatorRole{Group: string(r), OperatorGrant: broker.OperatorGrant{Role: r}},
			broker.OperatorRole{Group: string(r) + " of acme", OperatorGrant: broker.OperatorGrant{Role: r, Tenant: "acme"}})
	}
	return out
}

// withLogin is a site whose operators sign in at a provider: the code is the person, and their group.
func withLogin(t *testing.T, change func(*web.Config)) *site {
	t.Helper()
	s := newSite(t, public, func(c *web.Config) {
		c.OperatorLogin = "sso"
		if change != nil {
			change(c)
		}
	})
	s.service.Operators = webtest.Operators{
		Roles: roles(), Epochs: s.sessions, List: s.sessions,
		Begin: func(next string, fresh bool) (broker.OperatorStart, error) {
			q := url.Values{"state": {"st-" + next}}
			if fresh {
				q.Set("prompt", "login")
			}
			return broker.OperatorStart{Location: broker.NewSecret("https://sso.example/authorize?" + q.Encode()), CookieName: "tb_operator_x", Cookie: broker.NewSecret("browser"), MaxAge: broker.FlowLife}, nil
		},
		Finish: func(cb broker.LoginCallback) (broker.OperatorSignedIn, error) {
			if cb.Cookie("tb_operator_x").Reveal() != "browser" {
				return broker.OperatorSignedIn{}, broker.Errorf(broker.CodeAccessDenied, "another browser")
			}
			group := cb.Code.Reveal()
			return broker.OperatorSignedIn{ID: broker.OperatorByLogin("sub-" + group), Name: "Ada of " + group, Groups: []string{group}, To: strings.TrimPrefix(cb.State.Reveal(), "st-")}, nil
		},
	}
	return s
}

// signInAs goes through the provider as somebody of that group; it ends on the page that goes on.
func (s *site) signInAs(group, next string) *http.Response {
	s.t.Helper()
	res := s.send(formRequest("/dashboard/login/start", url.Values{"next": {next}}, "same-origin"))
	status(s.t, res, http.StatusOK)
	to, err := url.Parse(strings.TrimPrefix(res.Header.Get("Refresh"), "0; url="))
	if err != nil || to.Host != "sso.example" {
		s.t.Fatalf("goes on to %q", res.Header.Get("Refresh"))
	}
	return s.callback(url.Values{"state": {to.Query().Get("state")}, "code": {group}})
}

func (s *site) callback(q url.Values) *http.Response {
	s.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/dashboard/callback?"+q.Encode(), nil)
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	return s.send(r)
}

func TestOperatorSignsIn(t *testing.T) {
	s := withLogin(t, nil)
	page := body(t, s.get("/dashboard"))
	contains(t, page, `action="/dashboard/login/start"`, `action="/dashboard/login"`, "in an emergency")
	res := s.signInAs("operator of acme", "/dashboard/accounts?status=active")
	status(t, res, http.StatusOK)
	if got := res.Header.Get("Refresh"); got != "0; url=/dashboard/accounts?status=active" {
		t.Errorf("goes on to %q", got)
	}
	// As the browser sends no strict cookie along from the provider, the page that goes on must be ours, not a redirect.
	contains(t, body(t, res), `href="/dashboard/accounts?status=active"`)
	var session *http.Cookie
	for _, c := range res.Cookies() {
		if c.Name == sessionCookie {
			session = c
		}
	}
	if session == nil || session.SameSite != http.SameSiteStrictMode || !session.HttpOnly || !session.Secure {
		t.Fatalf("cookies %v", res.Cookies())
	}
	page = body(t, s.get("/dashboard/session"))
	contains(t, page, "Ada of operator of acme", "oidc:sub-operator of acme", "operator of acme", "your organisation", "Sign out on all devices")
	lacks(t, page, "/dashboard/operators")
	lacks(t, s.log.String(), "st-")

	// Where there is no token nobody can sign in by one, an empty one least of all.
	only := withLogin(t, func(c *web.Config) { c.DashboardTokenSHA256 = "" })
	lacks(t, body(t, only.get("/dashboard")), "Login token")
	for _, token := range []string{"", loginText} {
		status(t, only.post("/dashboard/login", url.Values{"token": {token}}), http.StatusNotFound)
	}
	status(t, only.signInAs("admin", ""), http.StatusOK)
	status(t, only.get("/dashboard"), http.StatusOK)

	// And where there is only the token, the provider's ways are closed.
	token := newSite(t, public, nil)
	lacks(t, body(t, token.get("/dashboard")), "/login/start")
	status(t, token.post("/dashboard/login/start", nil), http.StatusNotFound)
	status(t, token.callback(url.Values{"state": {"st-"}, "code": {"admin"}}), http.StatusNotFound)
}

func TestOperatorSignInProblems(t *testing.T) {
	s := withLogin(t, nil)
	atLogin := func(code broker.Code) error { e := broker.Errorf(code, "canary words"); e.AtLogin = true; return e }
	for name, test := range map[string]struct {
		err    error
		status int
		shows  string
	}{
		"no role":         {broker.Errorf(broker.CodeAccessDenied, "canary words").Because(broker.ErrNoRole), 403, "oidc:s-1"},
		"too many groups": {broker.Errorf(broker.CodeLoginFailed, "canary words").Because(broker.ErrGroupsElsewhere), 403, "sent none of them"},
		"other browser":   {broker.Errorf(broker.CodeAccessDenied, "canary words"), 403, "began in another browser"},
		"used":            {broker.Errorf(broker.CodeInvalidRequest, "canary words"), 400, "is over"},
		"given up":        {broker.Errorf(broker.CodeLoginFailed, "canary words"), 400, "given up"},
		"misconfigured":   {atLogin(broker.CodeProviderMisconfigured), 502, "dashboard.login"},
		"away":            {atLogin(broker.CodeProviderUnavailable), 503, "does not answer"},
		"no trail":        {broker.Errorf(broker.CodeTemporarilyUnavailable, "canary words"), 503, ""},
	} {
		s.service.Operators.Finish = func(broker.LoginCallback) (broker.OperatorSignedIn, error) {
			return broker.OperatorSignedIn{ID: "oidc:s-1", To: "/dashboard/session"}, test.err
		}
		r := httptest.NewRequest(http.MethodGet, "/dashboard/callback?state=st&code=c", nil)
		r.Header.Set("Test-Address", name)
		res := s.send(r)
		status(t, res, test.status)
		page := body(t, res)
		contains(t, page, test.shows)
		lacks(t, page, "canary")
		if shown := strings.Contains(page, "oidc:s-1"); shown != (name == "no role") {
			t.Errorf("%s: the page shows the id: %v", name, shown)
		}
		if fresh := strings.Contains(page, `name="fresh"`); fresh != (name == "no role" || name == "given up") {
			t.Errorf("%s: asks for another person: %v", name, fresh)
		}
		if name != "no trail" {
			contains(t, page, `name="next" value="/dashboard/session"`, "req-1")
		}
		if s.sessions.Len() != 0 {
			t.Errorf("%s: a session was made", name)
		}
	}
	for _, query := range []string{"", "?state=x", "?state=x&code=c&error=e", "?state=x&state=y&code=c", "?state=x&code="} {
		status(t, s.get("/dashboard/callback"+query), http.StatusBadRequest)
	}
	// HEAD must not use up a state.
	finished := s.service.Count("FinishOperatorSignIn")
	status(t, s.send(httptest.NewRequest(http.MethodHead, "/dashboard/callback?state=st&code=c", nil)), http.StatusMethodNotAllowed)
	if s.service.Count("FinishOperatorSignIn") != finished {
		t.Error("HEAD went on")
	}
}

// Login CSRF: a form of another site begins nothing. What does not say where it comes from is no browser (threats.md, 61): that may.
func TestThreat61SignInBeginsHere(t *testing.T) {
	s := withLogin(t, nil)
	for _, from := range []string{"cross-site", "same-site"} {
		status(t, s.send(formRequest("/dashboard/login/start", nil, from)), http.StatusForbidden)
		status(t, s.send(formRequest("/dashboard/login", url.Values{"token": {loginText}}, from)), http.StatusForbidden)
	}
	if s.service.Count("BeginOperatorSignIn ") != 0 || s.sessions.Len() != 0 {
		t.Error("something began")
	}
	for range 60 {
		status(t, s.send(formRequest("/dashboard/login/start", nil, "same-origin")), http.StatusOK)
	}
	res := s.send(formRequest("/dashboard/login/start", nil, "same-origin"))
	status(t, res, http.StatusTooManyRequests)
	for next, want := range map[string]string{"https://evil.example": "", "//evil.example": "", "/dashboard/logout": "", "/dashboard/callback?state=x&code=y": "", "/dashboard/login": "", "/dashboard/audit?q=a%20b#x": "/dashboard/audit?q=a%20b"} {
		r := formRequest("/dashboard/login/start", url.Values{"next": {next}}, "same-origin")
		r.Header.Set("Test-Address", next)
		status(t, s.send(r), http.StatusOK)
		if calls := s.service.Calls(); calls[len(calls)-1] != "BeginOperatorSignIn "+want {
			t.Errorf("%q: %q", next, calls[len(calls)-1])
		}
	}
}

// A link in a chat works for whoever is signed in, though the cookie does not come along from another site.
func TestLinkFromElsewhere(t *testing.T) {
	s := withLogin(t, nil)
	elsewhere := func(path string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		return s.send(r)
	}
	res := elsewhere("/dashboard/accounts?status=active")
	status(t, res, http.StatusOK)
	if res.Header.Get("Refresh") != "0; url=/dashboard/accounts?status=active" {
		t.Errorf("goes on to %q", res.Header.Get("Refresh"))
	}
	lacks(t, body(t, res), "Login token")
	status(t, s.get("/dashboard/accounts?status=active"), http.StatusUnauthorized)
	s.signInAs("viewer", "")
	if res := elsewhere("/dashboard"); res.Header.Get("Refresh") != "" {
		t.Error("goes on, though the cookie came along")
	}
}

// Threat 62: what ends sessions.
func TestThreat62EndsOfSessions(t *testing.T) {
	two := func(t *testing.T, change func(*web.Config)) (s, other *site) {
		s = withLogin(t, nil)
		other = withLogin(t, func(c *web.Config) {
			c.Sessions = s.sessions
			if change != nil {
				change(c)
			}
		})
		other.service.Operators.Epochs = s.sessions
		s.signInAs("admin", "")
		return s, other
	}
	in := func(s *site) bool { return strings.Contains(body(t, s.get("/dashboard/session")), "Your sign-in</h1>") }

	for name, change := range map[string]func(*web.Config){
		"another provider or client": func(c *web.Config) { c.OperatorLogin = "sso2" }, "no provider": func(c *web.Config) { c.OperatorLogin = "" },
		"a shorter life": func(c *web.Config) { c.SessionLife = time.Nanosecond },
	} {
		s, other := two(t, change)
		other.jar = s.jar
		if in(other) || !in(s) {
			t.Errorf("%s: the session goes on, or ended in both", name)
		}
	}
	s, other := two(t, nil)
	other.jar = s.jar
	if !in(other) {
		t.Fatal("another replica does not know the session")
	}
	other.service.Operators.Roles = nil
	if in(other) {
		t.Error("a role that is not configured any more")
	}
	contains(t, body(t, other.get("/dashboard/session")), "Operator sign-in")

	// Everywhere: two browsers of one person, and one of another.
	s, other = two(t, nil)
	other.signInAs("admin", "")
	third := withLogin(t, func(c *web.Config) { c.Sessions = s.sessions })
	third.signInAs("viewer", "")
	token := withLogin(t, func(c *web.Config) { c.Sessions = s.sessions })
	token.signIn()
	res := s.post("/dashboard/session/end", nil)
	status(t, res, http.StatusSeeOther)
	if res.Header.Get("Location") != "/dashboard/login?out=everywhere" {
		t.Errorf("leads to %s", res.Header.Get("Location"))
	}
	contains(t, body(t, s.get("/dashboard/login?out=everywhere")), "on all your devices")
	if in(s) || in(other) || !in(third) || !in(token) {
		t.Error("not all of one person's sessions ended, or another's did")
	}
	other.signInAs("admin", "")
	if !in(other) {
		t.Error("can't sign in again")
	}
	// An administrator ends another's.
	status(t, other.post("/dashboard/operators", url.Values{"operator": {"oidc:sub-viewer"}}), http.StatusBadRequest)
	// Nobody is called so: nothing may say that somebody's sessions are over.
	for _, nobody := range []string{"sub-viewer", "OIDC:sub-viewer", "Vera Viewer"} {
		status(t, other.post("/dashboard/operators", url.Values{"operator": {nobody}, "reason": {"left us"}}), http.StatusBadRequest)
	}
	if !in(third) {
		t.Error("ended without a reason")
	}
	token.service.Operators.Epochs = s.sessions
	status(t, other.post("/dashboard/operators", url.Values{"operator": {" oidc:sub-viewer\t"}, "reason": {"left us"}}), http.StatusSeeOther)
	if in(third) || !in(other) {
		t.Error("another's sessions go on, or the administrator's ended")
	}
	contains(t, body(t, other.get("/dashboard/operators?notice=sessions_ended")), "are over")
	// The token's sessions are one operator's too.
	status(t, token.post("/dashboard/session/end", nil), http.StatusSeeOther)
	if in(token) {
		t.Error("the token's session goes on")
	}

	// A request that was under way does not bring a session back which ends meanwhile.
	s, _ = two(t, nil)
	kept := s.jar[sessionCookie]
	s.sessions.Meanwhile = func() {
		s.sessions.Meanwhile = nil
		if err := s.sessions.DeleteSession(t.Context(), broker.NewSecret(kept)); err != nil {
			t.Fatal(err)
		}
	}
	if in(s) {
		t.Error("the session that ended meanwhile goes on")
	}
	s.jar[sessionCookie] = kept
	if in(s) || s.sessions.Len() != 0 {
		t.Error("the request brought the session back")
	}
}

func TestConfiguredLifetimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := withLogin(t, func(c *web.Config) { c.SessionIdle, c.SessionLife = 5*time.Minute, time.Hour })
		in := func() bool { return s.get("/dashboard/session").StatusCode == http.StatusOK }
		s.signInAs("viewer", "")
		contains(t, body(t, s.get("/dashboard/session")), "after 5 minutes without use")
		time.Sleep(4 * time.Minute)
		if !in() {
			t.Error("a used session ended")
		}
		time.Sleep(5*time.Minute + time.Second)
		if in() {
			t.Error("an idle session goes on")
		}
		s.signInAs("viewer", "")
		for range 14 {
			time.Sleep(4 * time.Minute)
			if !in() {
				t.Fatal("a used session ended before its time")
			}
		}
		time.Sleep(4 * time.Minute)
		if in() {
			t.Error("a session outlived an hour")
		}
	})
}

// Threat 62: the sign-in page is for who is not signed in, and does not say otherwise.
func TestThreat62SignInPageOfWhoIsSignedIn(t *testing.T) {
	s := withLogin(t, nil)
	s.signInAs("viewer", "")
	for _, path := range []string{"/dashboard/login", "/dashboard/login?out=here"} {
		res := s.get(path)
		status(t, res, http.StatusSeeOther)
		if got := res.Header.Get("Location"); got != "/dashboard" {
			t.Errorf("%s leads to %q", path, got)
		}
	}
	status(t, s.post("/dashboard/logout", nil), http.StatusSeeOther)
	contains(t, body(t, s.get("/dashboard/login?out=here")), "You are signed out here")
}

// A page that is left open and asks for news by itself does not keep its session alive.
func TestOpenPageDoesNotKeepTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := withLogin(t, nil)
		s.signInAs("viewer", "")
		listen := func() int {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			r := httptest.NewRequest(http.MethodGet, "/dashboard/live", nil).WithContext(ctx)
			r.Header.Set("Accept", "text/event-stream")
			return s.send(r).StatusCode
		}
		for range 3 {
			status(t, &http.Response{StatusCode: listen()}, http.StatusOK)
		}
		time.Sleep(time.Second)
		if got := listen(); got != http.StatusUnauthorized {
			t.Errorf("the stream after half an hour: %d", got)
		}
	})
}

// Names that a provider chose are text.
func TestThreat60HostileOperators(t *testing.T) {
	s := withLogin(t, nil)
	const hostile = `"><img src=x onerror=alert(1)>` + "\u202e"
	s.service.Operators.Finish = func(broker.LoginCallback) (broker.OperatorSignedIn, error) {
		return broker.OperatorSignedIn{ID: "oidc:" + hostile, Name: hostile, Groups: []string{"admin"}}, nil
	}
	s.signInAs("x", "")
	for _, path := range []string{"/dashboard/session", "/dashboard", "/dashboard/operators?operator=" + url.QueryEscape(hostile)} {
		page := body(t, s.get(path))
		contains(t, page, "&lt;img")
		lacks(t, page, "<img", "\u202e")
	}
	s.service.Operators.Finish = func(broker.LoginCallback) (broker.OperatorSignedIn, error) {
		return broker.OperatorSignedIn{ID: "oidc:" + hostile}, fmt.Errorf("x: %w", broker.Errorf(broker.CodeAccessDenied, "x").Because(broker.ErrNoRole))
	}
	page := body(t, s.signInAs("x", ""))
	contains(t, page, "&lt;img")
	lacks(t, page, "<img", "\u202e")
}
