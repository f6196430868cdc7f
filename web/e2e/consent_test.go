package e2e

import (
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

func TestConsentPagesInChromium(t *testing.T) {
	browser := startBrowser(t)

	// From the link to the code: threats 2, 15 and 17 as a browser sees them.
	t.Run("continue", func(t *testing.T) {
		s := newSite(t)
		b := openTab(t, browser)
		b.with(t, phone)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.WaitVisible(chromedp.CSS("button.primary")))
		b.wellMade(t)
		b.do(t, chromedp.Click(chromedp.CSS(`button[value="continue"]`)), chromedp.WaitVisible(chromedp.CSS("#code")))

		post := s.lastPost()
		if got := post.Get("Sec-Fetch-Site"); got != "same-origin" {
			t.Errorf("Sec-Fetch-Site of the form is %q", got)
		}
		if got := post.Get("Origin"); got != "null" {
			t.Errorf("Origin of the form is %q: with Referrer-Policy no-referrer it should be null, which is why Sec-Fetch-Site decides", got)
		}
		if strings.Join(s.hops, " ") != "/auth /login" {
			t.Errorf("the browser went %v at the provider", s.hops)
		}
		if got, want := ask(t, b, chromedp.Location()), s.url+"/consent/cs_1"; got != want {
			t.Errorf("the address at the end is %q, not %q", got, want)
		}
		for _, e := range ask(t, b, chromedp.NavigationEntries()).Entries {
			if strings.Contains(e.URL, "the-code") || strings.Contains(e.URL, "the-state") {
				t.Errorf("the history holds code or state")
			}
		}
		if got := ask(t, b, chromedp.Text(chromedp.CSS("#code"))); got != "WDJB-MJHT" {
			t.Errorf("the code reads %q", got)
		}
		if cookies := ask(t, b, chromedp.Evaluate[string]("document.cookie")); cookies != "" {
			t.Errorf("scripts can read cookies: %q", cookies)
		}
		if hidden := ask(t, b, chromedp.Evaluate[bool](`document.getElementById("copy").hidden`)); hidden {
			t.Error("the copy button did not appear")
		}
		b.wellMade(t)
		b.quiet(t)
	})

	t.Run("cancel without JavaScript", func(t *testing.T) {
		s := newSite(t)
		b := openTab(t, browser)
		b.with(t, phone)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link))
		if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
			t.Fatal(err)
		}
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.Click(chromedp.CSS(`button[value="cancel"]`)), chromedp.WaitVisible(chromedp.CSS("#outcome")))
		if got := ask(t, b, chromedp.Title()); got != "Nothing was connected" {
			t.Errorf("the page is %q", got)
		}
		if s.service.Count("CancelConsent") != 1 || s.service.Count("StartConsent") != 0 {
			t.Errorf("asked %v", s.service.Calls())
		}
	})

	t.Run("another site posts the form", func(t *testing.T) {
		s := newSite(t)
		b := openTab(t, browser)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link)) // the victim has the page's cookie
		b.do(t, chromedp.Navigate(s.client+"/evil"), chromedp.Click(chromedp.CSS("#go")), chromedp.WaitVisible(chromedp.CSS(".mood-bad")))
		if got := s.lastPost().Get("Sec-Fetch-Site"); got != "cross-site" {
			t.Errorf("Sec-Fetch-Site is %q", got)
		}
		if s.service.Count("StartConsent") != 0 {
			t.Error("another site started a consent")
		}
		b.wellMade(t)
		b.quiet(t)
	})

	// Threat 13: the opener hears how it went, at a registered origin, and no code.
	t.Run("tells its opener", func(t *testing.T) {
		s := newSite(t)
		b := openTab(t, browser)
		b.do(t, chromedp.Navigate(s.client+"/chat"))
		opened := chromedp.WaitNewTarget(b.ctx, func(*target.Info) bool { return true })
		b.do(t, chromedp.Click(chromedp.CSS("#open")))
		ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithTargetID(<-opened))
		defer cancel()
		popup := &tab{ctx: ctx}
		popup.do(t, chromedp.Click(chromedp.CSS(`button[value="continue"]`)), chromedp.WaitVisible(chromedp.CSS("#code")))
		heard := ask(t, b, chromedp.Poll[string](`heard.length > 0 && JSON.stringify(heard)`))
		want := `[{"origin":"` + s.url + `","data":{"type":"tokenbroker:consent","consent":"cs_1","status":"awaiting_completion"}}]`
		if heard != want {
			t.Errorf("the opener heard %s, not %s", heard, want)
		}

		// The code is typed in the chat: the page hears of it by itself, says so, and tells the opener too.
		s.done.Store(true)
		popup.do(t, chromedp.WaitVisible(chromedp.CSS("#outcome[data-status=completed]")))
		if got := ask(t, popup, chromedp.Text(chromedp.CSS("h1"))); got != "Google Drive is connected" {
			t.Errorf("the page says %q", got)
		}
		ask(t, b, chromedp.Poll[bool](`heard.length === 2 && heard[1].data.status === "completed" && heard[1].data.consent === "cs_1"`))
		asked := s.service.Count("FinishedConsent")
		popup.do(t, chromedp.Click(chromedp.CSS("#close")))
		ask(t, b, chromedp.Poll[bool](`opened.closed`))
		if again := s.service.Count("FinishedConsent"); again != asked {
			t.Errorf("the page at the end still asked for news, %d times", again-asked)
		}
	})

	// Threat 60: what a provider or a client is called is text, whatever it says.
	t.Run("hostile names", func(t *testing.T) {
		s := newSite(t)
		s.service.Open = func(broker.Secret) (broker.ConsentPage, error) { return webtest.HostilePage(), nil }
		b := openTab(t, browser)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.WaitVisible(chromedp.CSS("h1")))
		if ask(t, b, chromedp.Evaluate[bool]("window.hacked === true || document.images.length > 0")) {
			t.Error("a name became markup")
		}
		b.wellMade(t)
		b.quiet(t)
	})

	t.Run("a dead link", func(t *testing.T) {
		s := newSite(t)
		b := openTab(t, browser)
		b.do(t, chromedp.Navigate(s.url+"/connect/unknown"), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.wellMade(t)
		b.quiet(t)
	})
}

func TestDashboardInChromium(t *testing.T) {
	browser := startBrowser(t)
	s := newSite(t)
	b := openTab(t, browser)
	b.do(t, chromedp.Navigate(s.url+"/dashboard"), chromedp.WaitVisible(chromedp.CSS("#token")))
	b.wellMade(t)
	b.shoot(t, "login", desktop)
	b.do(t, chromedp.SendKeys(chromedp.CSS("#token"), "wrong"), chromedp.Click(chromedp.CSS("button")), chromedp.WaitVisible(chromedp.CSS("#wrong")))
	b.wellMade(t)
	b.do(t, chromedp.SendKeys(chromedp.CSS("#token"), operatorToken), chromedp.Click(chromedp.CSS("button")), chromedp.WaitVisible(chromedp.CSS("table")))
	b.wellMade(t)
	b.shoot(t, "dashboard", desktop)
	b.shoot(t, "dashboard", phone)
	b.do(t, chromedp.Click(chromedp.CSS(".whoami summary")), chromedp.WaitVisible(chromedp.CSS(".menu button")))
	b.wellMade(t)
	b.shoot(t, "dashboard-menu", phone)
	b.do(t, chromedp.Click(chromedp.CSS(".menu button")), chromedp.WaitVisible(chromedp.CSS("#token")))
	b.quiet(t)
}
