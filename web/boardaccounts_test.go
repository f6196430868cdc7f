package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

var made = time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)

func TestAccountList(t *testing.T) {
	s := newSite(t, public, nil)
	var filter broker.AccountFilter
	var cursor string
	var op broker.Operator
	s.service.Board.List = func(o broker.Operator, f broker.AccountFilter, c string, limit int) (broker.AccountPage, error) {
		op, filter, cursor = o, f, c
		if limit != 50 {
			t.Errorf("limit %d", limit)
		}
		return broker.AccountPage{Rows: webtest.Connections(made), Next: "next+/=", Matching: 1234567}, nil
	}
	s.get("/dashboard/accounts")
	if s.service.Count("Accounts") != 0 {
		t.Fatal("the list is shown without a login")
	}
	s.signIn()
	page := body(t, s.get("/dashboard/accounts"))
	contains(t, page, "google-drive", "user-4711", "Ada Lovelace", "ada@example.com", "needs consent", "ended by the provider", "channels:read", "2026-11-20 09:30",
		`datetime="2026-11-22T11:30:00Z"`, "revoked", "never", "1,234,567 accounts", `href="/dashboard/accounts?cursor=next%2B%2F%3D"`, `href="/dashboard/accounts/cn_1?tenant=acme"`)
	if filter != (broker.AccountFilter{}) || op.ID == "" || op.RequestID != "req-1" {
		t.Errorf("asked for %+v as %+v", filter, op)
	}
	page = body(t, s.get("/dashboard/accounts?tenant=globex&connector=slack&status=needs_consent&error=expired&scope=a&since=2026-01-02&until=2026-01-03&cursor=abc&other=x"))
	want := broker.AccountFilter{
		Tenant: "globex", Connector: "slack", Status: broker.ConnectionNeedsConsent, Error: "expired", Scope: "a",
		Since: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC),
	}
	if filter != want || cursor != "abc" {
		t.Errorf("asked for %+v, %q", filter, cursor)
	}
	contains(t, page, "First page", `value="slack"`, `<option value="needs_consent" selected>`, `<option value="expired" selected>`, `<option value="globex" selected>`, `value="2026-01-02"`,
		"tenant=globex", "until=2026-01-03")
	for path, want := range map[string]int{"?status=any": 400, "?since=yesterday": 400, "?scope=" + strings.Repeat("x", 600): 400} {
		status(t, s.get("/dashboard/accounts"+path), want)
	}
	for code, want := range map[broker.Code]int{broker.CodeInvalidRequest: 400, broker.CodeNotFound: 404, broker.CodeTemporarilyUnavailable: 503} { // threats 63 and 64
		s.service.Board.List = func(broker.Operator, broker.AccountFilter, string, int) (broker.AccountPage, error) {
			return broker.AccountPage{}, broker.Errorf(code, "no")
		}
		status(t, s.get("/dashboard/accounts?cursor=forged"), want)
	}
	s.service.Board.List = nil
	contains(t, body(t, s.get("/dashboard/accounts")), "No connected account here")
	contains(t, body(t, s.get("/dashboard/accounts?scope=x")), "Nothing matches")

	none := newSite(t, public, func(c *web.Config) { c.Tenants = nil })
	none.signIn()
	contains(t, body(t, none.get("/dashboard/accounts")), "No tenant is configured")
}

// A subject is looked for by a form, so that it gets into no address.
func TestFindSubject(t *testing.T) {
	s := newSite(t, public, nil)
	var tenants []string
	s.service.Board.Find = func(_ broker.Operator, in []string, subject string) ([]broker.Connection, []string, error) {
		tenants = in
		if subject != "user-4711" {
			return nil, nil, broker.Errorf(broker.CodeInvalidRequest, "a subject is something else")
		}
		return webtest.Connections(made)[:1], []string{"cn_broken"}, nil
	}
	s.signIn()
	page := body(t, s.post("/dashboard/accounts", url.Values{"subject": {"user-4711"}}))
	contains(t, page, "1 found", "Ada Lovelace", "cn_broken", "does not open")
	lacks(t, page, "subject=user")
	if len(tenants) != 2 {
		t.Errorf("looked for in %v", tenants)
	}
	s.post("/dashboard/accounts", url.Values{"subject": {"user-4711"}, "tenant": {"globex"}})
	if len(tenants) != 1 || tenants[0] != "globex" {
		t.Errorf("looked for in %v", tenants)
	}
	res := s.post("/dashboard/accounts", url.Values{"subject": {""}})
	status(t, res, http.StatusBadRequest)
	contains(t, body(t, res), "A subject is something else.")
	status(t, s.send(formRequest("/dashboard/accounts", url.Values{"subject": {"x"}, "form": {s.formToken()}}, "cross-site")), http.StatusForbidden)
}

func accountSite(t *testing.T) *site {
	t.Helper()
	s := newSite(t, public, nil)
	views := webtest.AccountViews(made)
	s.service.Board.One = func(_ broker.Operator, tenant, id string) (broker.AccountView, error) {
		if v, ok := views[id]; ok && tenant == "acme" {
			return v, nil
		}
		return broker.AccountView{}, broker.Errorf(broker.CodeNotFound, "no")
	}
	s.service.Board.Events = func(broker.Operator, broker.Connection, string) (broker.Timeline, error) {
		return broker.Timeline{Entries: webtest.AccountEntries(made), Next: "older+/=", Reached: made}, nil
	}
	s.signIn()
	return s
}

func TestAccountPage(t *testing.T) {
	s := accountSite(t)
	page := body(t, s.get("/dashboard/accounts/cn_1?tenant=acme"))
	contains(t, page, "user-4711", "Ada Lovelace", "acme-chat", "drive.readonly", "Next refresh", "2026-11-22 12:30", "Refresh now", "New consent link", "Revoke", "research", "run-12", "summarize the notes",
		"An operator refreshes", "operator <bdi>dashboard", "and 2 more", "/dashboard/accounts/cn_1?tenant=acme&amp;cursor=older%2B%2F%3D", "Connected")
	lacks(t, page, "Newest")
	contains(t, body(t, s.get("/dashboard/accounts/cn_1?tenant=acme&cursor=x&notice=revoked_failed")), "Newest", "did not confirm")
	lacks(t, body(t, s.get("/dashboard/accounts/cn_1?tenant=acme&notice=anything")), "anything")
	contains(t, body(t, s.get("/dashboard/accounts/cn_2?tenant=acme")), "The provider says that this grant is over", "consenting again")
	page = body(t, s.get("/dashboard/accounts/cn_4?tenant=acme"))
	contains(t, page, "tried again by itself", "7 attempts", "next at", "nobody whom the user could complete")
	lacks(t, page, "/dashboard/accounts/cn_4/link")
	page = body(t, s.get("/dashboard/accounts/cn_3?tenant=acme"))
	lacks(t, page, "/cn_3/revoke", "/cn_3/refresh")
	contains(t, page, "/cn_3/link")
	page = body(t, s.get("/dashboard/accounts/cn_5?tenant=acme"))
	contains(t, page, "does not open", "/cn_5/revoke")
	lacks(t, page, "/cn_5/link", "What happened")
	for _, path := range []string{"/dashboard/accounts/cn_9?tenant=acme", "/dashboard/accounts/cn_1?tenant=globex", "/dashboard/accounts/cn_1", "/dashboard/accounts/cn_1/explode?tenant=acme", "/dashboard/accounts/cn_1/revoke?tenant=globex"} {
		status(t, s.get(path), http.StatusNotFound)
	}
}

func TestAccountActions(t *testing.T) {
	s := accountSite(t)
	var did []string
	note := func(what, tenant, id, reason string) {
		did = append(did, strings.Join([]string{what, tenant, id, reason}, " "))
	}
	s.service.Board.Revoke = func(_ broker.Operator, tenant, id, reason string) (broker.RevokedUpstream, error) {
		note("revoke", tenant, id, reason)
		return broker.RevokedUnsupported, nil
	}
	s.service.Board.Refresh = func(_ broker.Operator, tenant, id, reason string) (broker.Connection, error) {
		note("refresh", tenant, id, reason)
		if reason == "" {
			return broker.Connection{}, broker.Errorf(broker.CodeInvalidRequest, "say why")
		}
		return broker.Connection{}, broker.Errorf(broker.CodeProviderUnavailable, "the provider does not answer").Because(http.ErrAbortHandler)
	}
	const secret = "https://connect.example/connect/the-secret-link"
	s.service.Board.Link = func(_ broker.Operator, tenant, id, reason string) (broker.ConsentLink, error) {
		note("link", tenant, id, reason)
		return broker.ConsentLink{ID: "cs", URL: broker.NewSecret(secret), Binding: broker.BindingCode, ExpiresAt: made}, nil
	}
	for _, action := range []string{"revoke", "refresh", "link"} {
		contains(t, body(t, s.get("/dashboard/accounts/cn_1/"+action+"?tenant=acme")), "Ada Lovelace", `name="reason"`, "Leave it")
	}
	if len(did) != 0 {
		t.Fatalf("a question did %v", did)
	}
	res := s.post("/dashboard/accounts/cn_1/revoke?tenant=acme", url.Values{"reason": {" left the company "}})
	status(t, res, http.StatusSeeOther)
	if at := res.Header.Get("Location"); at != "/dashboard/accounts/cn_1?tenant=acme&notice=revoked_unsupported" {
		t.Errorf("then to %s", at)
	}
	res = s.post("/dashboard/accounts/cn_1/refresh?tenant=acme", url.Values{"reason": {"a user called"}})
	status(t, res, http.StatusServiceUnavailable)
	contains(t, body(t, res), "The provider does not answer.", `value="a user called"`)
	res = s.post("/dashboard/accounts/cn_1/refresh?tenant=acme", url.Values{"reason": {""}})
	status(t, res, http.StatusBadRequest)
	contains(t, body(t, res), "Say why.")
	res = s.post("/dashboard/accounts/cn_1/link?tenant=acme", url.Values{"reason": {"ticket 7"}})
	status(t, res, http.StatusOK)
	if res.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("a link may be kept: %q", res.Header.Get("Cache-Control"))
	}
	contains(t, body(t, res), secret, "short code")
	lacks(t, s.log.String(), "the-secret-link")
	want := []string{"revoke acme cn_1 left the company", "refresh acme cn_1 a user called", "refresh acme cn_1 ", "link acme cn_1 ticket 7"}
	if strings.Join(did, ";") != strings.Join(want, ";") {
		t.Errorf("done: %q", did)
	}
	for _, action := range []string{"revoke", "refresh", "link"} { // threat 61
		form := url.Values{"reason": {"x"}, "form": {s.formToken()}}
		status(t, s.send(formRequest("/dashboard/accounts/cn_1/"+action+"?tenant=acme", form, "cross-site")), http.StatusForbidden)
		form.Set("form", "guess")
		status(t, s.send(formRequest("/dashboard/accounts/cn_1/"+action+"?tenant=acme", form, "")), http.StatusForbidden)
	}
	if len(did) != len(want) {
		t.Errorf("another site did %q", did[len(want):])
	}
}

// Threat 63: each role against each page and action. What is not allowed is neither shown nor done.
func TestAccountRoles(t *testing.T) {
	for _, who := range []struct {
		group string
		sees  bool // globex, too
		acts  bool
	}{
		{"viewer", true, false}, {"auditor", true, false}, {"operator", true, true}, {"admin", true, true}, {"viewer of acme", false, false}, {"operator of acme", false, true},
	} {
		t.Run(who.group, func(t *testing.T) {
			s := withLogin(t, nil)
			views := webtest.AccountViews(made)
			s.service.Board.One = func(op broker.Operator, tenant, id string) (broker.AccountView, error) {
				v, ok := views[id]
				if err := op.Check(broker.PermitAccounts, tenant); err != nil || !ok {
					return broker.AccountView{}, err
				}
				v.Tenant = tenant
				return v, nil
			}
			s.service.Board.Revoke = func(broker.Operator, string, string, string) (broker.RevokedUpstream, error) {
				return broker.RevokedDone, nil
			}
			s.signInAs(who.group, "/dashboard")
			page := body(t, s.get("/dashboard/accounts/cn_1?tenant=acme"))
			contains(t, page, "user-4711")
			if strings.Contains(page, "/revoke?") != who.acts {
				t.Errorf("an action is shown: %v", !who.acts)
			}
			want := http.StatusForbidden
			if who.acts {
				want = http.StatusOK
			}
			for _, action := range []string{"revoke", "refresh", "link"} {
				status(t, s.get("/dashboard/accounts/cn_1/"+action+"?tenant=acme"), want)
			}
			if who.acts {
				want = http.StatusSeeOther
			}
			form := url.Values{"reason": {"x"}, "form": {s.formToken()}}
			status(t, s.post("/dashboard/accounts/cn_1/revoke?tenant=acme", form), want)
			if done := s.service.Count("RevokeAccount") > 0; done != who.acts {
				t.Errorf("revoked: %v", done)
			}
			foreign := http.StatusNotFound
			if who.sees {
				foreign = http.StatusOK
			}
			status(t, s.get("/dashboard/accounts/cn_1?tenant=globex"), foreign)
			if !who.sees {
				before := s.service.Count("RevokeAccount")
				if res := s.post("/dashboard/accounts/cn_1/revoke?tenant=globex", form); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusForbidden || s.service.Count("RevokeAccount") != before {
					t.Errorf("another tenant's connection was revoked: %d", res.StatusCode)
				}
				lacks(t, body(t, s.get("/dashboard/accounts")), "globex")
			}
		})
	}
}
