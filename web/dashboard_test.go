package web_test

import (
	"errors"
	"fmt"
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
	form := url.Values{"form": {s.formToken()}}
	for _, from := range []string{"cross-site", "same-site"} {
		status(t, s.send(formRequest("/dashboard/logout", form, from)), http.StatusForbidden)
	}
	// What sends neither Sec-Fetch-Site nor Origin must know the session's token.
	for _, wrong := range []url.Values{nil, {"form": {""}}, {"form": {"none"}}, {"form": {form.Get("form") + "x"}}} {
		status(t, s.send(formRequest("/dashboard/logout", wrong, "")), http.StatusForbidden)
	}
	contains(t, body(t, s.get("/dashboard")), "Connected accounts")
	status(t, s.send(formRequest("/dashboard/logout", form, "")), http.StatusSeeOther)
	status(t, s.send(formRequest("/dashboard/login", url.Values{"token": {loginText}}, "")), http.StatusSeeOther) // as curl does
}

// Threat 62: a new id at login, and an end on the server at logout.
func TestThreat62SessionFixationAndLogout(t *testing.T) {
	s := newSite(t, public, nil)
	s.jar[sessionCookie] = "planted-before-the-login"
	signedIn := s.post("/dashboard/login", url.Values{"token": {loginText}})
	status(t, signedIn, http.StatusSeeOther)
	if c := signedIn.Cookies(); len(c) != 1 || c[0].Name != sessionCookie || c[0].SameSite != http.SameSiteStrictMode || !c[0].HttpOnly || !c[0].Secure || c[0].Domain != "" {
		t.Errorf("the session's cookie: %v", c)
	}
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
	form := url.Values{"form": {s.formToken()}}
	res := s.post("/dashboard/logout", form)
	status(t, res, http.StatusSeeOther)
	if len(res.Cookies()) != 1 || res.Cookies()[0].MaxAge >= 0 {
		t.Errorf("cookies %v", res.Cookies())
	}
	s.jar[sessionCookie] = second
	contains(t, body(t, s.get("/dashboard")), "Sign in")
	status(t, s.send(formRequest("/dashboard/logout", form, "same-origin")), http.StatusUnauthorized)
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
	if s.service.Count("Accounts") != 0 {
		t.Error("the list was read without a session")
	}
	s.sessions.Fail = broker.ErrIntegrity // a cookie from before the keyset was replaced
	contains(t, body(t, s.get("/dashboard")), "Sign in")
}

// Threat 60: whatever a provider calls an account, it is text.
func TestThreat60HostileTexts(t *testing.T) {
	s := newSite(t, public, nil)
	hostile := webtest.HostilePage()
	s.service.Open = func(broker.Secret) (broker.ConsentPage, error) { return hostile, nil }
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) {
		return broker.Finish{ConsentID: hostile.ConsentID, Status: broker.ConsentCompleted, ClientName: hostile.ClientName, Connector: hostile.Connector, Origins: hostile.Origins, Account: hostile.Account}, nil
	}
	bad := broker.Connection{
		ID: "x", Tenant: "acme", Subject: hostile.Account.Name + hostile.Account.ID, Connector: hostile.ClientName, Client: hostile.ClientName, Status: broker.ConnectionStatus(hostile.ClientName),
		Error: hostile.ClientName, Scopes: broker.NewScopeSet(hostile.ClientName), Account: *hostile.Account,
	}
	s.service.Board.List = func(broker.Operator, broker.AccountFilter, string, int) (broker.AccountPage, error) {
		return broker.AccountPage{Rows: []broker.Connection{bad}, Next: hostile.ClientName}, nil
	}
	s.service.Board.One = func(broker.Operator, string, string) (broker.AccountView, error) {
		return broker.AccountView{Connection: bad, ConnectorName: hostile.ClientName, NoLink: hostile.ClientName}, nil
	}
	s.service.Board.Events = func(broker.Operator, broker.Connection, string) (broker.Timeline, error) {
		return broker.Timeline{Entries: []broker.Entry{{
			Type: broker.EventType(hostile.ClientName), Client: hostile.ClientName, Actor: broker.Actor{Agent: hostile.ClientName, Run: hostile.Account.Name, Tool: hostile.ClientName},
			Scopes: []broker.EventScope{{Scope: hostile.ClientName}}, Outcome: hostile.ClientName, Reason: hostile.ClientName + hostile.Account.Name,
		}}, Next: hostile.ClientName}, nil
	}
	s.signIn()
	for _, path := range []string{linkPath, "/consent/cs_1", "/dashboard/accounts", "/dashboard/accounts/x?tenant=acme", "/dashboard/accounts/x/revoke?tenant=acme"} {
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

func TestLogoutWithoutASession(t *testing.T) {
	s := newSite(t, public, nil)
	res := s.post("/dashboard/logout", nil)
	status(t, res, http.StatusUnauthorized)
	contains(t, body(t, res), "Sign in")
	r := httptest.NewRequest(http.MethodGet, "/dashboard/logout", nil)
	res = s.send(r)
	status(t, res, http.StatusMethodNotAllowed)
	if !slices.Equal(res.Header.Values("Allow"), []string{"POST"}) {
		t.Errorf("Allow %v", res.Header.Values("Allow"))
	}
}

// After signing in the browser goes where it wanted to, and nowhere else.
func TestSignInLeadsBack(t *testing.T) {
	s := newSite(t, public, nil)
	res := s.get("/dashboard/accounts?connector=slack")
	status(t, res, http.StatusUnauthorized)
	contains(t, body(t, res), `name="next" value="/dashboard/accounts?connector=slack"`)
	for next, want := range map[string]string{
		"/dashboard/accounts?connector=slack": "/dashboard/accounts?connector=slack", "": "/dashboard", "https://evil.example/dashboard": "/dashboard",
		"//evil.example/dashboard": "/dashboard", "/connect/x": "/dashboard", "/dashboard/../connect/x": "/dashboard", "/dashboardx": "/dashboard",
		"/dashboard\\evil.example": "/dashboard", "/dashboard/%2e%2e/connect": "/dashboard", "javascript:alert(1)": "/dashboard", "/dashboard//evil.example": "/dashboard",
	} {
		res := s.post("/dashboard/login", url.Values{"token": {loginText}, "next": {next}})
		status(t, res, http.StatusSeeOther)
		if got := res.Header.Get("Location"); got != want {
			t.Errorf("next %q leads to %q, want %q", next, got, want)
		}
	}
}

// Threats 39 and 52: login tokens that are guessed from many addresses do not fill the trail; they are counted, and so is who is sent away.
func TestThreat39GuessedLoginsLeaveBoundedEvents(t *testing.T) {
	s := newSite(t, public, nil)
	for i := range 300 {
		r := formRequest("/dashboard/login", url.Values{"token": {"guess"}}, "same-origin")
		r.Header.Set("Test-Address", fmt.Sprintf("192.0.2.%d", i%150))
		status(t, s.send(r), http.StatusForbidden)
	}
	recorded, counted := s.service.Count("RecordOperator operator.sign_in_failed"), s.service.Count("NoteGuessing wrong_sign_ins")
	if recorded > 61 || recorded+counted != 300 {
		t.Errorf("%d of 300 guesses are on record each by itself, %d are counted", recorded, counted)
	}
	for range 20 {
		s.post("/dashboard/login", url.Values{"token": {"guess"}})
	}
	if more := s.service.Count("NoteGuessing wrong_sign_ins") - counted; more != 20 {
		t.Errorf("%d of 20 guesses more are counted", more)
	}
}
