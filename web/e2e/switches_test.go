package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// switchesOf makes the site's service answer about kill switches and jobs.
func switchesOf(s *site) {
	jobs := webtest.JobSamples(accountsMade)
	sw := &s.service.Switches
	sw.Connectors = webtest.SwitchConnectors()
	sw.List = func(broker.Operator) ([]broker.Switch, error) { return webtest.OffSamples(accountsMade), nil }
	sw.May = func(_ broker.Operator, off broker.Switch) bool { return off.Kind != broker.SwitchClient }
	sw.Turn = func(broker.Operator, broker.Switch, bool, string) error { return nil }
	sw.Jobs = func(broker.Operator) (all []broker.Job, err error) {
		for _, id := range []string{"job-running", "job-paused", "job-done", "job-failed", "job-cancelled"} {
			all = append(all, jobs[id])
		}
		return all, nil
	}
	sw.Job = func(_ broker.Operator, id string) (broker.Job, error) {
		if j, ok := jobs[id]; ok {
			return j, nil
		}
		return broker.Job{}, broker.Errorf(broker.CodeNotFound, "no")
	}
	sw.Change = func(_ broker.Operator, id string, _ broker.JobAction, _ string) (broker.Job, error) {
		return jobs[id], nil
	}
	sw.Revoke = func(broker.Operator, broker.RevokeAllRequest, string) (broker.Job, error) {
		return jobs["job-running"], nil
	}
	sw.Count = func(broker.Operator, broker.RevokeAllRequest) (int, error) { return 300, nil }
}

// TestSwitchPages looks at each page about kill switches and jobs in every look, light and dark, with axe-core.
func TestSwitchPages(t *testing.T) {
	s := newSite(t)
	switchesOf(s)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	b.signIn(t, s)
	for _, p := range []struct{ name, path string }{
		{"switches", "/dashboard/switches"}, {"switch-ask", "/dashboard/switches/disable?kind=connector&name=slack&tenant="}, {"enable-ask", "/dashboard/switches/enable?kind=tenant&tenant=acme"},
		{"jobs", "/dashboard/jobs"}, {"job", "/dashboard/jobs/job-running"}, {"job-done", "/dashboard/jobs/job-done"}, {"job-ask", "/dashboard/jobs/job-running/cancel"}, {"job-rate", "/dashboard/jobs/job-running/rate"},
		{"revoke-all-choose", "/dashboard/revoke-all"}, {"revoke-all", "/dashboard/revoke-all?tenant=acme&connector="},
	} {
		b.boardPage(t, s, p.name, p.path, slices.Contains([]string{"switches", "job", "job-rate", "revoke-all"}, p.name))
	}
	b.quiet(t)
}

// TestSwitchWork does what an operator does, with scripts switched off: disables, enables, ends all connections, and stops that.
func TestSwitchWork(t *testing.T) {
	s := newSite(t)
	switchesOf(s)
	var mu sync.Mutex
	var turned []string
	s.service.Switches.Turn = func(_ broker.Operator, what broker.Switch, on bool, reason string) error {
		mu.Lock()
		defer mu.Unlock()
		word := "off "
		if on {
			word = "on "
		}
		turned = append(turned, word+string(what.Kind)+" "+what.Tenant+"/"+what.Name+": "+reason)
		return nil
	}
	var rated atomic.Value
	s.service.Switches.Rate = func(_ broker.Operator, id string, rate int, reason string) (broker.Job, error) {
		rated.Store(fmt.Sprint(rate, " ", reason))
		return webtest.JobSamples(accountsMade)[id], nil
	}
	b := openTab(t, startBrowser(t))
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.signIn(t, s)
	reason := func(within, text string) {
		t.Helper()
		b.do(t, chromedp.SendKeys(chromedp.CSS("#reason"), text), chromedp.Click(chromedp.CSS("form:has(#reason) button[type=submit]")), chromedp.WaitVisible(chromedp.CSS(within)))
	}
	b.do(t, chromedp.Click(chromedp.CSS(`nav a[href="/dashboard/switches"]`)), chromedp.WaitVisible(chromedp.CSS("#of-connector")),
		chromedp.Click(chromedp.CSS("form[aria-labelledby=of-connector] button")), chromedp.WaitVisible(chromedp.CSS("#reason")))
	reason(".notice", "a leak")
	b.do(t, chromedp.SendKeys(chromedp.CSS("#actor"), "agent-7"), chromedp.Click(chromedp.CSS("form[aria-labelledby=of-actor] button")), chromedp.WaitVisible(chromedp.CSS("#reason")))
	reason(".notice", "it went mad")
	b.do(t, chromedp.Click(chromedp.CSS("td a.row")), chromedp.WaitVisible(chromedp.CSS("#reason")))
	reason(".notice", "mended")
	mu.Lock()
	if got := strings.Join(turned, "; "); got != "off connector /google-drive: a leak; off actor /agent-7: it went mad; on actor acme/<img src=x onerror=alert(1)>{{.}}: mended" {
		t.Errorf("turned: %s", got)
	}
	mu.Unlock()
	b.do(t, chromedp.Click(chromedp.CSS(`a[href="/dashboard/revoke-all"]`)), chromedp.WaitVisible(chromedp.CSS("#where")), chromedp.SendKeys(chromedp.CSS("#where"), "tenant acme"),
		chromedp.Click(chromedp.CSS("form.stop button")), chromedp.WaitVisible(chromedp.CSS("#rate")))
	reason("#progress", "they left")
	if at := ask(t, b, chromedp.Location()); !strings.HasSuffix(at, "/dashboard/jobs/job-running?notice=job_started") {
		t.Errorf("then at %s", at)
	}
	b.do(t, chromedp.Click(chromedp.CSS(`a[href$="/pause"]`)), chromedp.WaitVisible(chromedp.CSS("#reason")))
	reason(".notice", "not now")
	b.do(t, chromedp.Click(chromedp.CSS(`a[href$="?follow=1"]`)), chromedp.WaitVisible(chromedp.CSS(`main > p a[href="/dashboard/jobs/job-running"]`)))
	b.do(t, chromedp.Click(chromedp.CSS(`a[href$="/rate"]`)), chromedp.WaitVisible(chromedp.CSS("#rate")), chromedp.SendKeys(chromedp.CSS("#rate"), "1"))
	reason(".notice", "faster")
	if got := rated.Load(); got != "110 faster" {
		t.Errorf("the rate: %v", got)
	}
	if s.service.Count("ChangeJob pause") != 1 || s.service.Count("RevokeAll") != 1 {
		t.Errorf("calls: %q", s.service.Calls())
	}
	b.quiet(t)
}
