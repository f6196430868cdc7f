package e2e

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// overviewOf makes the site's service answer with what is in the returned function's argument, until it is changed.
func overviewOf(s *site) (change func(func(*broker.Overview))) {
	var mu sync.Mutex
	now := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	sample := webtest.OverviewSample(now)
	s.service.Overviews.Look = func(_ broker.Operator, tenant string, span broker.Span) (broker.Overview, error) {
		mu.Lock()
		defer mu.Unlock()
		o := sample
		o.Tenant, o.Span = tenant, span
		return o, nil
	}
	s.service.Overviews.Vitals = func(broker.Operator) (broker.Vitals, error) { return webtest.VitalsSample(now), nil }
	return func(f func(*broker.Overview)) {
		mu.Lock()
		defer mu.Unlock()
		f(&sample)
	}
}

// TestOverviewPages looks at the overview and at the health of the broker in every look, light and dark, with axe-core.
func TestOverviewPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	change := overviewOf(s)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	b.signIn(t, s)
	try := func(name, path string, shots bool) {
		t.Helper()
		b.do(t, chromedp.Navigate(s.url+path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.do(t, chromedp.Evaluate[chromedp.Void](`for (const d of document.querySelectorAll("main details")) d.open = true`))
		b.wellMade(t)
		b.with(t, desktop)
		b.axe(t, name)
		b.scheme(t, "dark")
		b.axeWith(t, axeColours, name+", dark")
		b.do(t, chromedp.Evaluate[chromedp.Void](`for (const d of document.querySelectorAll("main details")) d.open = false`))
		if shots {
			for _, l := range []look{desktop, desktopDark, phone} {
				b.shoot(t, "board-"+name, l)
			}
		}
	}
	try("overview", "/dashboard?span=1h", true)
	try("health", "/dashboard/health", true)
	b.with(t, desktop)
	if torn := ask(t, b, chromedp.Evaluate[string](`[...document.querySelectorAll(".facts dd")].filter((e) => /^\d{4}-\d\d-\d\d \d\d:\d\d$/.test(e.textContent) && e.firstChild && (() => { const r = document.createRange(); r.selectNodeContents(e); return new Set([...r.getClientRects()].map((x) => x.top)).size > 2; })()).map((e) => e.textContent).join()`)); torn != "" {
		t.Errorf("in pieces, over several lines: %s", torn)
	}
	b.with(t, phone)
	b.do(t, chromedp.Evaluate[chromedp.Void](`document.querySelector(".whoami .who").textContent = "Adalbert Admin <adalbert@example.com>"`))
	if !ask(t, b, chromedp.Evaluate[bool](`document.querySelector(".whoami").getBoundingClientRect().top < document.querySelector(".brand").getBoundingClientRect().bottom`)) {
		t.Error("on a phone, who is signed in takes a line of its own")
	}
	change(func(o *broker.Overview) { *o = broker.Overview{At: o.At, Missing: []string{"the counts"}} })
	try("overview-empty", "/dashboard?tenant=acme&span=30d", false)
	// Threat 60: names from elsewhere are text.
	hostile := webtest.HostilePage()
	change(func(o *broker.Overview) {
		o.Attention = []broker.Attention{{Severity: broker.SeverityCritical, Kind: broker.AttentionProvider, Connector: hostile.ClientName, What: hostile.ClientName, Do: hostile.Connector.Name}}
		o.Providers = []broker.ProviderPulse{{Name: hostile.ClientName}}
		o.Connectors = []broker.ConnectorCount{{Connector: hostile.ClientName, Active: 1}}
		o.Newest = []broker.Connection{{ID: hostile.ClientName, Tenant: hostile.ClientName, Subject: hostile.ClientName, Connector: hostile.Connector.Name, Account: *hostile.Account}}
	})
	try("overview-hostile", "/dashboard", false)
	if ask(t, b, chromedp.Evaluate[bool](`window.hacked === true || document.querySelector("main img, main script:not([src])") !== null`)) {
		t.Error("a name became more than text")
	}
	b.quiet(t)
}

// TestOverviewLive: what changes is on the page within seconds, without a reload; what is open and what has the focus stays; an end
// is told.
func TestOverviewLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	change := overviewOf(s)
	b := openTab(t, startBrowser(t))
	b.signIn(t, s)
	b.do(t, chromedp.Navigate(s.url+"/dashboard?tenant=acme"), chromedp.WaitVisible(chromedp.CSS(`#live-state[data-state=live]`)))
	b.do(t, chromedp.Evaluate[chromedp.Void](`window.stays = true; document.getElementById("numbers").open = true; document.querySelector("#numbers summary").focus()`))
	change(func(o *broker.Overview) { o.Consents.Completed = 4711 })
	changed := func(text string) string {
		return `new Promise((done) => { const look = () => document.getElementById("live").textContent.includes("` + text + `") ? done(true) : setTimeout(look, 20); look(); })`
	}
	b.do(t, chromedp.Evaluate[chromedp.Void](changed("4,711"), chromedp.EvalAwaitPromise))
	if !ask(t, b, chromedp.Evaluate[bool](`window.stays && document.getElementById("numbers").open && document.activeElement === document.querySelector("#numbers summary")`)) {
		t.Error("the page was loaded anew, or what was open is closed, or the focus is lost")
	}
	// What somebody has selected is not taken away; it comes when they are done.
	b.do(t, chromedp.Evaluate[chromedp.Void](`document.getSelection().selectAllChildren(document.getElementById("newest"))`))
	before := s.service.Count("OverviewAgain")
	change(func(o *broker.Overview) { o.Consents.Completed = 4712 })
	b.do(t, chromedp.Evaluate[chromedp.Void](`new Promise((done) => { const at = document.getElementById("live-at"); new MutationObserver(() => done()).observe(at, {childList: true, characterData: true, subtree: true}); setTimeout(done, 8000); })`, chromedp.EvalAwaitPromise))
	if s.service.Count("OverviewAgain") == before || ask(t, b, chromedp.Evaluate[bool](`document.getElementById("live").textContent.includes("4,712")`)) {
		t.Error("nothing came, or a selection was taken away")
	}
	b.do(t, chromedp.Evaluate[chromedp.Void](`document.getSelection().removeAllRanges()`), chromedp.Evaluate[chromedp.Void](changed("4,712"), chromedp.EvalAwaitPromise))
	// Signed out elsewhere, it says so and asks no more.
	b.do(t, chromedp.Evaluate[chromedp.Void](`fetch("/dashboard/logout", {method: "POST", headers: {"Content-Type": "application/x-www-form-urlencoded"}, body: "form=" + encodeURIComponent(document.querySelector("input[name=form]").value)})`, chromedp.EvalAwaitPromise),
		chromedp.WaitVisible(chromedp.CSS(`#live-state[data-state=over]`)))
	if text := ask(t, b, chromedp.Text(chromedp.CSS("#live-state"))); !strings.Contains(text, "signed out") {
		t.Errorf("it says %q", text)
	}
	n := s.service.Count("OverviewAgain")
	if got := s.service.Count("Overview"); got == 0 || n == 0 {
		t.Errorf("calls: %d and %d", got, n)
	}
	b.quiet(t)
}

// TestOverviewStreamLost: the page says that it is not up to date, and is again once the broker answers.
func TestOverviewStreamLost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	overviewOf(s)
	b := openTab(t, startBrowser(t))
	b.signIn(t, s)
	b.do(t, chromedp.Navigate(s.url+"/dashboard"), chromedp.WaitVisible(chromedp.CSS(`#live-state[data-state=live]`)))
	s.pages.EndLive()
	b.do(t, chromedp.WaitVisible(chromedp.CSS(`#live-state[data-state=lost]`)))
	if text := ask(t, b, chromedp.Text(chromedp.CSS("#live-state"))); !strings.Contains(text, "Not up to date") || !strings.Contains(text, "Refresh") {
		t.Errorf("it says %q", text)
	}
}

// TestOverviewWithoutScript: everything is there, and a link loads it anew.
func TestOverviewWithoutScript(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	change := overviewOf(s)
	b := openTab(t, startBrowser(t))
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.signIn(t, s)
	b.do(t, chromedp.Navigate(s.url+"/dashboard?tenant=acme&span=7d"), chromedp.WaitVisible(chromedp.CSS(".chart")))
	change(func(o *broker.Overview) { o.Consents.Completed = 4711 })
	b.do(t, chromedp.Click(chromedp.CSS("#live-state a")), chromedp.WaitVisible(chromedp.CSS(".chart")))
	if text := ask(t, b, chromedp.Text(chromedp.CSS("#live"))); !strings.Contains(text, "4,711") {
		t.Errorf("it says %q", text)
	}
	if at := ask(t, b, chromedp.Location()); !strings.HasSuffix(at, "/dashboard?span=7d&tenant=acme") {
		t.Errorf("it leads to %s", at)
	}
	b.quiet(t)
}
