package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// trailOf makes the site's service answer about the audit trail.
func trailOf(s *site) {
	jobs := webtest.TrailJobs(accountsMade)
	s.service.Trail.Search = func(_ broker.Operator, _ string, f broker.EventFilter, _ string, _ int) (broker.TrailPage, error) {
		if f.Run == "none" {
			return broker.TrailPage{Next: "next", Reached: accountsMade.Add(-26 * time.Hour)}, nil
		}
		return broker.TrailPage{Events: webtest.TrailEvents(accountsMade), Next: "next", Reached: accountsMade.Add(-26 * time.Hour)}, nil
	}
	s.service.Trail.Export = func(_ context.Context, _ broker.Operator, _ string, _ broker.EventFilter, each func([]broker.Event) error) (int, error) {
		return 4, each(webtest.TrailEvents(accountsMade))
	}
	s.service.Trail.Reach = func(broker.Operator, string, broker.EventFilter) (broker.Reach, error) {
		return broker.Reach{Events: 1411, Cut: accountsMade, Rows: []broker.Reached{
			{Connector: "google-drive", Subject: "user-4711", Connection: "cn_1", Scope: "https://www.googleapis.com/auth/drive.readonly", First: accountsMade.Add(-300 * time.Hour), Last: accountsMade, Count: 1402},
			{Connector: "slack", Subject: `"><img src=x onerror=alert(1)>`, Connection: "cn_2", Scope: "channels:read", First: accountsMade, Last: accountsMade, Count: 9},
		}}, nil
	}
	s.service.Trail.Verify = func(broker.Operator, string, string, string) (broker.Job, error) { return jobs["jb_bad"], nil }
	s.service.Trail.Job = func(_ broker.Operator, id string) (broker.Job, error) { return jobs[id], nil }
	s.service.Trail.Jobs = []broker.Job{jobs["jb_bad"], jobs["jb_whole"]}
}

// TestAuditPages looks at each page about the audit trail in every look, light and dark, with axe-core.
func TestAuditPages(t *testing.T) {
	s := newSite(t)
	trailOf(s)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	b.signIn(t, s)
	at := "/dashboard/audit"
	for _, p := range []struct{ name, path string }{
		{"audit-empty", at + "?tenant=acme&run=none"}, {"audit", at + "?tenant=acme&agent=research-helper&connection=cn_1&month=2026-11&type=token.issued"},
		{"reach-ask", at + "/reach"}, {"reach", at + "/reach?tenant=acme&agent=research-helper&month=2026-11"},
		{"verify-ask", at + "/verify"}, {"verify-running", at + "/verify?job=jb_running"}, {"verify-bad", at + "/verify?job=jb_bad"},
	} {
		b.boardPage(t, s, p.name, p.path, slices.Contains([]string{"audit", "reach", "verify-bad"}, p.name))
	}
	b.quiet(t)
}

// TestAuditWork searches, follows the links of a row, exports and verifies, with scripts switched off.
func TestAuditWork(t *testing.T) {
	s := newSite(t)
	trailOf(s)
	var mu sync.Mutex
	var filter broker.EventFilter
	search := s.service.Trail.Search
	s.service.Trail.Search = func(op broker.Operator, tenant string, f broker.EventFilter, cursor string, limit int) (broker.TrailPage, error) {
		mu.Lock()
		defer mu.Unlock()
		filter = f
		return search(op, tenant, f, cursor, limit)
	}
	b := openTab(t, startBrowser(t))
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := chromedp.CallBrowser(b.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, DownloadPath: dir, BrowserContextID: chromedp.FromContext(b.ctx).BrowserContextID,
	}); err != nil {
		t.Fatal(err)
	}
	b.signIn(t, s)
	here := func() string { t.Helper(); return ask(t, b, chromedp.Location()) }
	b.do(t, chromedp.Click(chromedp.CSS(`.places a[href="/dashboard/audit"]`)), chromedp.WaitVisible(chromedp.CSS("table.events")))
	b.do(t, chromedp.SendKeys(chromedp.CSS("#subject"), "user-4711"), chromedp.SendKeys(chromedp.CSS("#type"), "token.issued"), chromedp.Click(chromedp.CSS("form.filters button[type=submit]")),
		chromedp.WaitVisible(chromedp.CSS(`#type[value="token.issued"]`)))
	mu.Lock()
	if filter.Subject != "user-4711" || filter.Type != broker.EventTokenIssued {
		t.Errorf("searched for %+v", filter)
	}
	mu.Unlock()
	address := here()
	if strings.Contains(address, "4711") {
		t.Errorf("the subject is in the address %s", address)
	}
	got := map[string]string{}
	for _, format := range []string{"csv", "jsonl"} {
		b.do(t, chromedp.Click(chromedp.CSS("button[value="+format+"]")))
		for deadline := time.Now().Add(20 * time.Second); got["."+format] == "" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			files, err := filepath.Glob(filepath.Join(dir, "audit-*."+format))
			if err != nil {
				t.Fatal(err)
			}
			for _, file := range files {
				if text, err := os.ReadFile(file); err == nil {
					got[filepath.Ext(file)] = string(text)
				}
			}
		}
	}
	if !strings.HasPrefix(got[".csv"], "id,time,type,") || strings.Count(got[".jsonl"], "\n") != 4 {
		t.Errorf("downloaded %q", got)
	}
	b.do(t, chromedp.Click(chromedp.CSS(`table.events a[href*="/audit/reach"]`)), chromedp.WaitVisible(chromedp.CSS("[role=alert]")))
	if at := here(); !strings.Contains(at, "month=2026-11") || !strings.Contains(at, "agent=research-helper") {
		t.Errorf("the reach is at %s", at)
	}
	b.do(t, chromedp.Navigate(address), chromedp.Click(chromedp.CSS(`a[href="/dashboard/audit/verify"]`)), chromedp.SendKeys(chromedp.CSS("#reason"), "the yearly audit"),
		chromedp.Click(chromedp.CSS("main form button[type=submit]")), chromedp.WaitVisible(chromedp.CSS(".result")))
	if got := ask(t, b, chromedp.Text(chromedp.CSS(".result"))); !strings.Contains(got, "the first bad event is 7f3aXq9LwTn2") {
		t.Errorf("the page says %q", got)
	}
	b.quiet(t)
}
