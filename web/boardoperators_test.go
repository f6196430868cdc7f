package web_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
)

var endLink = regexp.MustCompile(`href="(/dashboard/operators\?session=[^"]+)"`)

// An administrator sees who is signed in and ends one session: that one is over with its next request, others of the same person go on.
func TestWhoIsSignedIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := withLogin(t, nil)
		browser := func(group string) *site {
			other := withLogin(t, func(c *web.Config) { c.Sessions = s.sessions })
			other.service.Operators.Epochs, other.service.Operators.List = s.sessions, s.sessions
			other.signInAs(group, "")
			return other
		}
		in := func(s *site) bool { return strings.Contains(body(t, s.get("/dashboard/session")), "Your sign-in</h1>") }
		began := time.Now().UTC().Format("2006-01-02 15:04")
		first := browser("viewer of acme")
		time.Sleep(2 * time.Minute)
		second := browser("viewer of acme")
		token := withLogin(t, func(c *web.Config) { c.Sessions = s.sessions })
		token.signIn()
		s.signInAs("admin", "")
		page := body(t, s.get("/dashboard/operators"))
		contains(t, page, "Ada of viewer of acme", "<code class=\"detail\"><bdi>oidc:sub-viewer of acme</bdi></code>", "<bdi>viewer of acme</bdi>", "the login token", "this session", began)
		if n := len(endLink.FindAllString(page, -1)); n != 4 || strings.Count(page, "this session</span>") != 1 {
			t.Errorf("%d sessions\n%s", n, page)
		}
		lacks(t, page, s.jar[sessionCookie], first.jar[sessionCookie])

		// When it was used last shows to the minute; a page that is open and asks by itself does not count.
		time.Sleep(5 * time.Minute)
		now := time.Now().UTC().Format("2006-01-02 15:04")
		if !in(first) {
			t.Fatal("the session is over")
		}
		status(t, second.get("/dashboard/live"), http.StatusOK)
		if page = body(t, s.get("/dashboard/operators")); strings.Count(page, now) != 2 { // the administrator's own too
			t.Errorf("%d times %s\n%s", strings.Count(page, now), now, page)
		}

		links := endLink.FindAllStringSubmatch(page, -1)
		oldest := strings.ReplaceAll(links[len(links)-1][1], "&amp;", "&")
		id, err := url.Parse(oldest)
		if err != nil {
			t.Fatal(err)
		}
		session := id.Query().Get("session")
		contains(t, body(t, s.get(oldest)), "End one session", `name="session" value="`+session+`"`)
		res := s.post("/dashboard/operators", url.Values{"session": {session}, "reason": {" "}})
		status(t, res, http.StatusBadRequest)
		contains(t, body(t, res), "Say why", `name="session" value="`+session+`"`)
		if !in(first) {
			t.Error("ended without a reason")
		}
		if res = s.post("/dashboard/operators", url.Values{"session": {session}, "reason": {"left it open"}}); res.Header.Get("Location") != "/dashboard/operators?notice=session_ended" {
			t.Errorf("then %d %s", res.StatusCode, res.Header.Get("Location"))
		}
		if in(first) || !in(second) || !in(token) {
			t.Error("it goes on, or others ended")
		}
		if res = s.post("/dashboard/operators", url.Values{"session": {session}, "reason": {"again"}}); res.Header.Get("Location") != "/dashboard/operators?notice=session_over" {
			t.Errorf("again: %d %s", res.StatusCode, res.Header.Get("Location"))
		}
		// Whoever signs out leaves the list, and so does one who signs in again in the same browser.
		second.post("/dashboard/logout", nil)
		token.signIn()
		page = body(t, s.get("/dashboard/operators"))
		if n := len(endLink.FindAllString(page, -1)); n != 2 {
			t.Errorf("%d sessions\n%s", n, page)
		}
		// Unused, it is over, and not listed for long.
		time.Sleep(25 * time.Minute)
		in(s)
		time.Sleep(10 * time.Minute)
		page = body(t, s.get("/dashboard/operators"))
		if n := len(endLink.FindAllString(page, -1)); n != 1 {
			t.Errorf("%d sessions\n%s", n, page)
		}
		// One's own is a sign-out.
		own := strings.ReplaceAll(endLink.FindStringSubmatch(page)[1], "/dashboard/operators?session=", "")
		if res = s.post("/dashboard/operators", url.Values{"session": {own}, "reason": {"done"}}); res.Header.Get("Location") != "/dashboard/login?out=here" || in(s) {
			t.Errorf("one's own: %d %s", res.StatusCode, res.Header.Get("Location"))
		}
	})
}

// The list comes in pages, and names from elsewhere are text.
func TestSignedInPages(t *testing.T) {
	s := withLogin(t, nil)
	s.signInAs("admin", "")
	for i := range 120 {
		one := broker.OperatorSession{ID: "z" + string(rune('a'+i/26)) + string(rune('a'+i%26)), Operator: "oidc:many", Name: `<img src=x onerror="alert(1)">`, Groups: []string{"viewer"}, Since: made, Seen: made}
		if err := s.sessions.BeginOperatorSession(t.Context(), one, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	older := regexp.MustCompile(`href="(/dashboard/operators\?behind=[^"]+)"`)
	path, seen := "/dashboard/operators", 0
	for pages := 1; ; pages++ {
		page := body(t, s.get(path))
		lacks(t, page, "<img")
		seen += len(endLink.FindAllString(page, -1))
		next := older.FindStringSubmatch(page)
		if next == nil {
			if pages != 3 || seen != 121 {
				t.Errorf("%d on %d pages", seen, pages)
			}
			break
		}
		path = next[1]
	}
	for _, group := range []string{"operator", "auditor", "admin of acme"} {
		other := withLogin(t, nil)
		other.signInAs(group, "")
		status(t, other.get("/dashboard/operators"), http.StatusForbidden)
		status(t, other.post("/dashboard/operators", url.Values{"session": {"zaa"}, "reason": {"x"}}), http.StatusForbidden)
	}
}

// Whose record does not open is told so in their row, with what to do; the others' rows are as ever.
func TestSignedInUnclear(t *testing.T) {
	s := withLogin(t, nil)
	s.service.Operators.Unclear = "oidc:broken"
	s.signInAs("admin", "")
	if err := s.sessions.BeginOperatorSession(t.Context(), broker.OperatorSession{ID: "zaa", Operator: "oidc:broken", Since: made, Seen: made}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	res := s.get("/dashboard/operators")
	status(t, res, http.StatusOK)
	page := body(t, res)
	contains(t, page, "Unreadable", "end all of theirs", "Ada of admin")
	if n := strings.Count(page, "Unreadable"); n != 1 {
		t.Errorf("%d rows are unreadable", n)
	}
}
