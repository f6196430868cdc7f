package web_test

import (
	"net/http"
	"net/url"
	"testing"

	"tokenbroker/broker"
)

// Errors of the dashboard are in an operator's words, with what to do, and lead somewhere.
func TestBoardTrouble(t *testing.T) {
	s := withLogin(t, nil)
	s.signInAs("operator", "")
	page := body(t, s.get("/dashboard/audit/verify"))
	contains(t, page, "Your role does not allow this page.", "Your roles are under Your sign-in", `href="/dashboard"`)
	lacks(t, page, "our own page")
	res := s.get("/dashboard/audit?since=2026-13-45")
	status(t, res, http.StatusBadRequest)
	contains(t, body(t, res), "A time is written as 2026-12-31", "Go back and correct it", `href="/dashboard"`)
	res = s.get("/dashboard/audit?type=token.isued")
	status(t, res, http.StatusBadRequest)
	contains(t, body(t, res), "No event has that type; there are: audit.trimmed, ", "token.issued, ")
	res = s.post("/dashboard/accounts", url.Values{"form": {"of another session"}, "subject": {"x"}})
	status(t, res, http.StatusForbidden)
	contains(t, body(t, res), "The form is not of this session", "Nothing was done")
	contains(t, body(t, s.get("/dashboard/no-such-page")), "There is nothing here", `href="/dashboard"`)

	s.service.Overviews.Look = func(broker.Operator, string, broker.Span) (broker.Overview, error) {
		return broker.Overview{}, broker.Errorf(broker.CodeTemporarilyUnavailable, "retry")
	}
	res = s.get("/dashboard")
	status(t, res, http.StatusServiceUnavailable)
	page = body(t, res)
	contains(t, page, "Redis can&#39;t be used", "/readyz")
	lacks(t, page, "what you sent")
}

// A form that is sent after the session has ended is told so, and signing in leads back to it.
func TestFormAfterTheSession(t *testing.T) {
	s := withLogin(t, nil)
	for path, next := range map[string]string{
		"/dashboard/accounts/cn_1/revoke?tenant=acme": "/dashboard/accounts/cn_1/revoke?tenant=acme",
		"/dashboard/audit/export":                     "/dashboard/audit",
		"/dashboard/session/end":                      "/dashboard/session",
	} {
		res := s.post(path, url.Values{"form": {"of a session that ended"}, "reason": {"ticket 7"}})
		status(t, res, http.StatusUnauthorized)
		contains(t, body(t, res), "what you sent was not done", `name="next" value="`+next+`"`)
	}
	lacks(t, body(t, s.get("/dashboard/accounts")), "what you sent")
	lacks(t, body(t, s.post("/dashboard/logout", url.Values{"form": {"of a session that ended"}})), "what you sent")
}
