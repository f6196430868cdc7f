package web_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

const sessionCookie = "__Host-tb_dashboard"

func TestDashboardIsOffWithoutAToken(t *testing.T) {
	s := newSite(t, public, func(c *web.Config) { c.DashboardTokenSHA256, c.Sessions = "", nil })
	res := s.get("/dashboard")
	status(t, res, http.StatusNotFound)
	contains(t, body(t, res), "not enabled", "dashboard.token_sha256")
	status(t, s.post("/dashboard/login", url.Values{"token": {""}}), http.StatusNotFound)
	status(t, s.post("/dashboard/logout", nil), http.StatusNotFound)
}

func TestLogin(t *testing.T) {
	s := newSite(t, public, nil)
	page := body(t, s.get("/dashboard"))
	contains(t, page, `action="/dashboard/login"`)
	if s.sessions.Len() != 0 || len(s.jar) != 0 {
		t.Error("looking at the form made a session")
	}
	// Threat 65: nothing passes but the token.
	for _, token := range []string{"", "admin", loginText + "x", strings.ToUpper(loginText)} {
		res := s.post("/dashboard/login", url.Values{"token": {token}})
		status(t, res, http.StatusForbidden)
		contains(t, body(t, res), "not the login token")
	}
	if s.sessions.Len() != 0 || s.service.Count("RecordOperator operator.sign_in_failed") != 4 {
		t.Errorf("%d sessions, calls %v", s.sessions.Len(), s.service.Calls())
	}
	res := s.post("/dashboard/login", url.Values{"token": {" " + loginText + "\n"}})
	status(t, res, http.StatusSeeOther)
	c := res.Cookies()[0]
	if c.Name != sessionCookie || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie %v", c)
	}
	if s.service.Count("RecordOperator operator.signed_in") != 1 {
		t.Errorf("calls %v", s.service.Calls())
	}
	contains(t, body(t, s.get("/dashboard")), "Connected accounts")
	lacks(t, s.log.String(), loginText)
}

// Threat 61.
func TestThreat61OtherSitesCantPost(t *testing.T) {
	s := newSite(t, public, nil)
	for _, from := range []string{"cross-site", "same-site"} {
		status(t, s.send(formRequest("/dashboard/login", url.Values{"token": {loginText}}, from)), http.StatusForbidden)
	}
	s.signIn()
	status(t, s.send(formRequest("/dashboard/logout", nil, "cross-site")), http.StatusForbidden)
	contains(t, body(t, s.get("/dashboard")), "Connected accounts")
}

// Threat 62: a new id at login, and an end on the server at logout.
func TestThreat62SessionFixationAndLogout(t *testing.T) {
	s := newSite(t, public, nil)
	s.jar[sessionCookie] = "planted-before-the-login"
	s.signIn()
	first := s.jar[sessionCookie]
	if first == "planted-before-the-login" || first == "" {
		t.Fatal("the session kept the id that it had before the login")
	}
	s.signIn()
	second := s.jar[sessionCookie]
	if second == first {
		t.Error("a second login kept the id")
	}
	s.jar[sessionCookie] = first
	contains(t, body(t, s.get("/dashboard")), "Sign in")
	s.jar[sessionCookie] = second
	res := s.post("/dashboard/logout", nil)
	status(t, res, http.StatusSeeOther)
	if len(res.Cookies()) != 1 || res.Cookies()[0].MaxAge >= 0 {
		t.Errorf("cookies %v", res.Cookies())
	}
	s.jar[sessionCookie] = second
	contains(t, body(t, s.get("/dashboard")), "Sign in")
	if s.sessions.Len() != 0 {
		t.Errorf("%d sessions are left", s.sessions.Len())
	}
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, public, nil)
		in := func() bool { return strings.Contains(body(t, s.get("/dashboard")), "Connected accounts") }
		s.signIn()
		for range 3 {
			time.Sleep(29 * time.Minute)
			if !in() {
				t.Fatal("a used session ended")
			}
		}
		time.Sleep(31 * time.Minute)
		if in() {
			t.Error("an idle session goes on")
		}
		s.signIn()
		for range 24 {
			time.Sleep(29 * time.Minute)
			if !in() {
				t.Fatal("a used session ended before its time")
			}
		}
		time.Sleep(29 * time.Minute) // 12 h 5 min in all
		if in() {
			t.Error("a session outlived 12 hours")
		}
	})
}

func TestAnotherLoginTokenEndsSessions(t *testing.T) {
	s := newSite(t, public, nil)
	s.signIn()
	other := newSite(t, public, func(c *web.Config) {
		c.Sessions, c.DashboardTokenSHA256 = s.sessions, strings.Repeat("ab", 32)
	})
	other.jar = s.jar
	contains(t, body(t, other.get("/dashboard")), "Sign in")
}

func TestLoginIsLimited(t *testing.T) {
	s := newSite(t, public, nil)
	for range 10 {
		status(t, s.post("/dashboard/login", url.Values{"token": {"guess"}}), http.StatusForbidden)
	}
	res := s.post("/dashboard/login", url.Values{"token": {loginText}})
	status(t, res, http.StatusTooManyRequests)
	if res.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if n := s.service.Count("RecordOperator operator.sign_in_failed"); n != 10 {
		t.Errorf("%d events", n)
	}
	r := formRequest("/dashboard/login", url.Values{"token": {loginText}}, "same-origin")
	r.Header.Set("Test-Address", "192.0.2.7")
	status(t, s.send(r), http.StatusSeeOther)
}

// What can't be written down doesn't happen.
func TestNoLoginWithoutItsEvent(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Record = func(broker.Operator, broker.EventType) error {
		return broker.Errorf(broker.CodeTemporarilyUnavailable, "audit is down")
	}
	for _, token := range []string{loginText, "wrong"} {
		status(t, s.post("/dashboard/login", url.Values{"token": {token}}), http.StatusServiceUnavailable)
	}
	if s.sessions.Len() != 0 || len(s.jar) != 0 {
		t.Error("a session was made")
	}
	s.service.Record = nil
	s.signIn()
	s.service.Record = func(_ broker.Operator, e broker.EventType) error {
		if e != broker.EventOperatorViewed {
			t.Errorf("recorded %s", e)
		}
		return broker.Errorf(broker.CodeTemporarilyUnavailable, "audit is down")
	}
	status(t, s.get("/dashboard"), http.StatusServiceUnavailable)
	if s.service.Count("OperatorConnections") != 0 {
		t.Error("the list was read without its event")
	}
}

func TestSessionStoreDown(t *testing.T) {
	s := newSite(t, public, nil)
	s.signIn()
	s.sessions.Fail = errors.New("store is down")
	res := s.get("/dashboard")
	status(t, res, http.StatusServiceUnavailable)
	if res.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if s.service.Count("OperatorConnections") != 0 {
		t.Error("the list was read without a session")
	}
	s.sessions.Fail = broker.ErrIntegrity // a cookie from before the keyset was replaced
	s.service.List = nil
	contains(t, body(t, s.get("/dashboard")), "Sign in")
}

func TestConnectionList(t *testing.T) {
	s := newSite(t, public, nil)
	var tenant string
	var query broker.ConnectionQuery
	var op broker.Operator
	s.service.List = func(o broker.Operator, tn string, q broker.ConnectionQuery) ([]broker.Connection, string, error) {
		op, tenant, query = o, tn, q
		stored := webtest.Connections(time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC))
		slices.Reverse(stored) // the store has no order of time
		return stored, "next+/=", nil
	}
	s.get("/dashboard")
	if s.service.Count("OperatorConnections") != 0 {
		t.Fatal("the list is shown without a login")
	}
	s.signIn()
	page := body(t, s.get("/dashboard"))
	contains(t, page, "google-drive", "user-4711", "Ada Lovelace", "ada@example.com", "needs consent", "grant_dead", "channels:read", "2026-11-20 09:30",
		`datetime="2026-11-22T11:30:00Z"`, "revoked", "never", `href="/dashboard?cursor=next%2B%2F%3D&amp;tenant=acme"`)
	if before, after, _ := strings.Cut(page, "user-4711"); strings.Contains(before, "user-0815") || !strings.Contains(after, "user-0815") || strings.Index(after, "user-0042") < strings.Index(after, "user-0815") {
		t.Error("the newest connection is not the first, or the oldest not the last")
	}
	if tenant != "acme" || query.Limit != 50 || query.Cursor != "" || op.ID == "" || op.RequestID != "req-1" {
		t.Errorf("asked for %q %+v as %+v", tenant, query, op)
	}
	page = body(t, s.get("/dashboard?tenant=globex&connector=slack&status=needs_consent&cursor=abc"))
	if tenant != "globex" || query.Filter.Connector != "slack" || query.Filter.Status != broker.ConnectionNeedsConsent || query.Cursor != "abc" {
		t.Errorf("asked for %q %+v", tenant, query)
	}
	contains(t, page, "First page", `value="slack"`, `<option value="needs_consent" selected>`)

	for path, want := range map[string]int{"/dashboard?tenant=unknown": 404, "/dashboard?status=any": 400} {
		status(t, s.get(path), want)
	}
	s.service.List = func(broker.Operator, string, broker.ConnectionQuery) ([]broker.Connection, string, error) {
		return nil, "", broker.Errorf(broker.CodeInvalidRequest, "no such cursor")
	}
	status(t, s.get("/dashboard?cursor=forged"), http.StatusBadRequest) // threat 64
	s.service.List = nil
	contains(t, body(t, s.get("/dashboard")), "No connected account here")

	none := newSite(t, public, func(c *web.Config) { c.Tenants = nil })
	none.signIn()
	contains(t, body(t, none.get("/dashboard")), "No tenant is configured")
}

// Threat 60: whatever a provider calls an account, it is text.
func TestThreat60HostileTexts(t *testing.T) {
	s := newSite(t, public, nil)
	hostile := webtest.HostilePage()
	s.service.Open = func(broker.Secret) (broker.ConsentPage, error) { return hostile, nil }
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) {
		return broker.Finish{ConsentID: hostile.ConsentID, Status: broker.ConsentCompleted, ClientName: hostile.ClientName, Connector: hostile.Connector, Origins: hostile.Origins, Account: hostile.Account}, nil
	}
	s.service.List = func(broker.Operator, string, broker.ConnectionQuery) ([]broker.Connection, string, error) {
		return []broker.Connection{{
			ID: "x", Subject: hostile.Account.Name + hostile.Account.ID, Connector: hostile.ClientName, Status: broker.ConnectionStatus(hostile.ClientName),
			Error: hostile.ClientName, Scopes: broker.NewScopeSet(hostile.ClientName), Account: *hostile.Account,
		}}, hostile.ClientName, nil
	}
	s.signIn()
	for _, path := range []string{linkPath, "/consent/cs_1", "/dashboard"} {
		res := s.get(path)
		status(t, res, http.StatusOK)
		page := body(t, res)
		lacks(t, page, "<img", "<script>", "\u202e", "\u2066", "\u200b", "\x00", "javascript:alert")
		contains(t, page, "&lt;img")
		if n := strings.Count(page, "<script"); n > 1 {
			t.Errorf("%s: %d scripts", path, n)
		}
	}
}

func TestLogoutNeedsNoSession(t *testing.T) {
	s := newSite(t, public, nil)
	status(t, s.post("/dashboard/logout", nil), http.StatusSeeOther)
	r := httptest.NewRequest(http.MethodGet, "/dashboard/logout", nil)
	res := s.send(r)
	status(t, res, http.StatusMethodNotAllowed)
	if !slices.Equal(res.Header.Values("Allow"), []string{"POST"}) {
		t.Errorf("Allow %v", res.Header.Values("Allow"))
	}
}
