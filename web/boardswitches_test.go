package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

func withClients(c *web.Config) {
	c.Clients = []broker.Client{{ID: "acme-chat", Tenant: "acme"}, {ID: "globex-chat", Tenant: "globex"}}
}

// switchable is a site whose service knows of switches and jobs.
func switchable(s *site) *site {
	s.service.Switches.Connectors = webtest.SwitchConnectors()
	s.service.Switches.List = func(broker.Operator) ([]broker.Switch, error) { return webtest.OffSamples(made), nil }
	s.service.Switches.May = func(_ broker.Operator, off broker.Switch) bool { return off.Kind != broker.SwitchConnector }
	s.service.Switches.Turn = func(broker.Operator, broker.Switch, bool, string) error { return nil }
	jobs := webtest.JobSamples(made)
	s.service.Switches.Job = func(_ broker.Operator, id string) (broker.Job, error) {
		if j, ok := jobs[id]; ok {
			return j, nil
		}
		return broker.Job{}, broker.Errorf(broker.CodeNotFound, "no")
	}
	s.service.Switches.Jobs = func(broker.Operator) (all []broker.Job, err error) {
		for _, id := range []string{"job-running", "job-paused", "job-done", "job-failed", "job-cancelled"} {
			all = append(all, jobs[id])
		}
		return all, nil
	}
	s.service.Switches.Change = func(_ broker.Operator, id string, _ broker.JobAction, _ string) (broker.Job, error) {
		return jobs[id], nil
	}
	s.service.Switches.Revoke = func(broker.Operator, broker.RevokeAllRequest, string) (broker.Job, error) {
		return jobs["job-running"], nil
	}
	s.service.Switches.Count = func(broker.Operator, broker.RevokeAllRequest) (int, error) { return 300, nil }
	return s
}

func TestSwitchesPage(t *testing.T) {
	s := switchable(newSite(t, public, withClients))
	s.signIn()
	page := body(t, s.get("/dashboard/switches"))
	contains(t, page, "Connector <bdi>slack</bdi>", "everywhere", "tokens of it are on a paste site", "2026-11-20 09:30", "oidc:00u1x2", "Agent <bdi>&lt;img src=x onerror=alert(1)&gt;{{.}}</bdi>",
		`href="/dashboard/switches/enable?kind=client&amp;name=globex-chat&amp;tenant=globex"`, "the installation's operators can", `value="acme/acme-chat"`, `value="crm_aaaa"`, `<option value="">everywhere</option>`,
		`href="/dashboard/revoke-all"`, `id="of-tenant"`)
	if strings.Contains(page, "kind=connector&amp;name=slack") {
		t.Error("it offers to enable what this operator can't")
	}
	// The question, and the answer with and without success.
	var what broker.Switch
	var reason string
	var on bool
	var fails error
	s.service.Switches.Turn = func(_ broker.Operator, w broker.Switch, turnOn bool, why string) error {
		what, on, reason = w, turnOn, why
		return fails
	}
	contains(t, body(t, s.get("/dashboard/switches/disable?kind=client&name=acme%2Facme-chat")), "Disable this client", "<bdi>acme-chat</bdi>, <bdi>tenant acme</bdi>", "Every replica", `action="/dashboard/switches/disable?kind=client&amp;name=acme-chat&amp;tenant=acme"`)
	res := s.post("/dashboard/switches/disable?kind=client&name=acme-chat&tenant=acme", url.Values{"reason": {" its key leaked "}})
	status(t, res, http.StatusSeeOther)
	if want := (broker.Switch{Kind: broker.SwitchClient, Tenant: "acme", Name: "acme-chat"}); what != want || on || reason != "its key leaked" || res.Header.Get("Location") != "/dashboard/switches?notice=disabled" {
		t.Errorf("turned %+v, on %v, %q, then %s", what, on, reason, res.Header.Get("Location"))
	}
	contains(t, body(t, s.get("/dashboard/switches?notice=disabled")), "Every replica refuses it from now on")
	contains(t, body(t, s.get("/dashboard/switches/enable?kind=actor&name=a&tenant=")), "Enable this agent", "no user has to consent again")
	s.post("/dashboard/switches/enable?kind=actor&name=a&tenant=", url.Values{"reason": {"mended"}})
	if !on || what.Kind != broker.SwitchActor || what.Tenant != "" {
		t.Errorf("turned %+v, on %v", what, on)
	}
	fails = broker.Errorf(broker.CodeTemporarilyUnavailable, "the change is stored, but 3 of 256 parts do not have it yet")
	res = s.post("/dashboard/switches/disable?kind=tenant&tenant=acme&name=", url.Values{"reason": {"<b>why</b>"}})
	status(t, res, http.StatusServiceUnavailable)
	contains(t, body(t, res), "3 of 256 parts", "&lt;b&gt;why&lt;/b&gt;", `role="alert"`)
	for path, want := range map[string]int{
		"/dashboard/switches/disable?kind=everything&name=x": 400, "/dashboard/switches/disable?kind=connector": 400, "/dashboard/switches/explode?kind=connector&name=x": 404,
		"/dashboard/switches/disable": 400,
	} {
		status(t, s.get(path), want)
	}
	// A form of another session or site is refused (threat 61).
	before := s.service.Count("Disable")
	status(t, s.post("/dashboard/switches/disable?kind=tenant&tenant=acme", url.Values{"form": {"forged"}, "reason": {"x"}}), http.StatusForbidden)
	status(t, s.send(formRequest("/dashboard/switches/disable?kind=tenant&tenant=acme", url.Values{"form": {s.formToken()}, "reason": {"x"}}, "cross-site")), http.StatusForbidden)
	if s.service.Count("Disable") != before {
		t.Error("a foreign form was taken")
	}
}

func TestJobPages(t *testing.T) {
	s := switchable(newSite(t, public, withClients))
	jobs := webtest.JobSamples(made)
	s.signIn()
	contains(t, body(t, s.get("/dashboard/jobs")), "End all connections to slack of tenant acme", "120 of 300", "End all connections to slack<", "300 connections ended; 300 revoked at the provider.", `href="/dashboard/jobs/job-paused"`, "&lt;b&gt;wrong")
	res := s.get("/dashboard/jobs/job-running")
	page := body(t, res)
	contains(t, page, `max="300" value="120"`, "The provider asked to wait.", "10 a second at most", "ended here; the provider did not confirm", "/dashboard/jobs/job-running/pause", "/dashboard/jobs/job-running/cancel", "?follow=1")
	if strings.Contains(page, "/resume") || strings.Contains(page, "canary") || res.Header.Get("Refresh") != "" {
		t.Error("it shows more than it should, or loads itself anew unasked")
	}
	if res := s.get("/dashboard/jobs/job-running?follow=1"); res.Header.Get("Refresh") != "3" {
		t.Errorf("followed: %q", res.Header.Get("Refresh"))
	}
	res = s.get("/dashboard/jobs/job-done?follow=1")
	if page := body(t, res); res.Header.Get("Refresh") != "" || strings.Contains(page, "follow=1") || strings.Contains(page, "/cancel") {
		t.Error("a job that has ended is followed, or can be cancelled")
	}
	contains(t, body(t, s.get("/dashboard/jobs/job-paused/resume")), "Resume this job", "120 of 300")
	// The rate of a job that runs.
	contains(t, page, `href="/dashboard/jobs/job-running/rate"`, `data-stream="/dashboard/jobs/job-running/live"`)
	contains(t, s.get("/dashboard/jobs/job-running").Header.Get("Content-Security-Policy"), "connect-src 'self'", "script-src 'self'; ")
	lacks(t, body(t, s.get("/dashboard/jobs/job-done")), "data-stream", "/rate", "<script")
	contains(t, body(t, s.get("/dashboard/jobs/job-running/rate")), "Change the rate of this job", `name="rate" type="number" min="1" max="200" value="10"`)
	lacks(t, body(t, s.get("/dashboard/jobs/job-running/cancel")), `name="rate"`)
	s.service.Switches.Rate = func(_ broker.Operator, id string, rate int, reason string) (broker.Job, error) {
		if id != "job-running" || reason != "why" || rate != 25 {
			return broker.Job{}, broker.Errorf(broker.CodeInvalidRequest, "the rate is 1 to 200 a second")
		}
		return jobs[id], nil
	}
	if res := s.post("/dashboard/jobs/job-running/rate", url.Values{"reason": {"why"}, "rate": {" 25 "}}); res.Header.Get("Location") != "/dashboard/jobs/job-running?notice=job_rate" {
		t.Errorf("then %d %s", res.StatusCode, res.Header.Get("Location"))
	}
	res = s.post("/dashboard/jobs/job-running/rate", url.Values{"reason": {"why"}, "rate": {"fast"}})
	status(t, res, 400)
	contains(t, body(t, res), "The rate is 1 to 200", `value="fast"`, `value="why"`)
	status(t, s.get("/dashboard/jobs/job-done/cancel"), http.StatusSeeOther) // there is nothing to ask any more
	status(t, s.get("/dashboard/jobs/job-running/explode"), 404)
	status(t, s.post("/dashboard/jobs/job-running/explode", url.Values{"reason": {"x"}}), 404)
	status(t, s.get("/dashboard/jobs/none"), 404)
	res = s.post("/dashboard/jobs/job-running/pause", url.Values{"reason": {"x"}})
	if res.Header.Get("Location") != "/dashboard/jobs/job-running?notice=job_pause" {
		t.Errorf("then %s", res.Header.Get("Location"))
	}
	s.service.Switches.Change = func(broker.Operator, string, broker.JobAction, string) (broker.Job, error) {
		return broker.Job{}, broker.Errorf(broker.CodeInvalidRequest, "say why")
	}
	res = s.post("/dashboard/jobs/job-running/cancel", nil)
	status(t, res, 400)
	contains(t, body(t, res), "Say why.")
}

func TestRevokeAllPages(t *testing.T) {
	s := switchable(newSite(t, public, withClients))
	s.signIn()
	contains(t, body(t, s.get("/dashboard/revoke-all")), "Of a tenant, of a connector", `<option value="acme">tenant acme</option>`, "all connectors")
	page := body(t, s.get("/dashboard/revoke-all?tenant=acme&connector="))
	contains(t, page, "300 are connected now", "Disable it first", `href="/dashboard/switches/disable?kind=tenant&amp;name=&amp;tenant=acme"`, `name="once" value="`, `value="10"`)
	if strings.Contains(body(t, s.get("/dashboard/revoke-all?tenant=&connector=slack")), "Disable it first") {
		t.Error("what is disabled shall be disabled first")
	}
	var req broker.RevokeAllRequest
	var once string
	s.service.Switches.Revoke = func(_ broker.Operator, r broker.RevokeAllRequest, o string) (broker.Job, error) {
		if req, once = r, o; r.Rate < 1 {
			return broker.Job{}, broker.Errorf(broker.CodeInvalidRequest, "the rate is 1 to 200 connections a second")
		}
		return webtest.JobSamples(made)["job-running"], nil
	}
	res := s.post("/dashboard/revoke-all?tenant=acme&connector=slack", url.Values{"once": {"form-7"}, "rate": {"25"}, "reason": {"a leak"}})
	if req != (broker.RevokeAllRequest{Tenant: "acme", Connector: "slack", Rate: 25, Reason: "a leak"}) || once != "form-7" || res.Header.Get("Location") != "/dashboard/jobs/job-running?notice=job_started" {
		t.Errorf("asked for %+v, once %q, then %s", req, once, res.Header.Get("Location"))
	}
	res = s.post("/dashboard/revoke-all?tenant=acme&connector=slack", url.Values{"once": {"form-7"}, "rate": {"fast"}, "reason": {"a leak"}})
	status(t, res, 400)
	contains(t, body(t, res), "The rate is 1 to 200", `value="form-7"`, `value="a leak"`)
}

// Each role against each page and action: what is not allowed is neither shown nor accepted (threat 63).
func TestSwitchRoles(t *testing.T) {
	disable := "/dashboard/switches/disable?kind="
	for group, allowed := range map[string]string{
		"viewer": "", "auditor": "jobs job", "operator": "switches connector client", "admin": "switches connector client tenant jobs job revoke",
		"viewer of acme": "", "auditor of acme": "jobs job", "operator of acme": "switches client", "admin of acme": "switches client jobs job revoke",
	} {
		s := switchable(withLogin(t, withClients))
		s.signInAs(group, "/dashboard")
		may := func(what string) bool { return strings.Contains(" "+allowed+" ", " "+what+" ") }
		for what, path := range map[string]string{
			"switches": "/dashboard/switches", "connector": disable + "connector&name=slack&tenant=", "client": disable + "client&name=acme-chat&tenant=acme", "tenant": disable + "tenant&tenant=acme",
			"jobs": "/dashboard/jobs", "job": "/dashboard/jobs/job-running/pause", "revoke": "/dashboard/revoke-all",
		} {
			res := s.get(path)
			if ok := res.StatusCode == http.StatusOK; ok != may(what) {
				t.Errorf("%s, %s: status %d", group, what, res.StatusCode)
			}
		}
		front := body(t, s.get("/dashboard/accounts"))
		if strings.Contains(front, `href="/dashboard/switches"`) != may("switches") || strings.Contains(front, `href="/dashboard/jobs"`) != may("jobs") {
			t.Errorf("%s: the bar shows another thing than is allowed", group)
		}
		for path, what := range map[string]string{disable + "client&name=acme-chat&tenant=acme": "client", "/dashboard/jobs/job-running/pause": "job", "/dashboard/revoke-all?tenant=acme&connector=": "revoke"} {
			res := s.post(path, url.Values{"reason": {"x"}, "rate": {"10"}, "once": {"o"}})
			if ok := res.StatusCode == http.StatusSeeOther; ok != may(what) {
				t.Errorf("%s, post of %s: status %d", group, what, res.StatusCode)
			}
		}
		if may("switches") {
			page := body(t, s.get("/dashboard/switches"))
			if strings.Contains(page, `id="of-tenant"`) != may("tenant") || strings.Contains(page, "globex/globex-chat") != (group == "operator" || group == "admin") || strings.Contains(page, "/dashboard/revoke-all") != may("revoke") {
				t.Errorf("%s: the page offers another thing than is allowed", group)
			}
		}
	}
}
