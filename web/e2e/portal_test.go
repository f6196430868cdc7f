package e2e

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// portalStates gives every state of "My connections" that a GET shows an address of its own. What a form ends in is looked at in
// TestPortalInChromium.
func portalStates(s *site) []state {
	visits := map[string]broker.PortalVisit{
		"open":    webtest.Visit(time.Now()),
		"empty":   {ClientName: "Acme Chat", Status: broker.PortalOpen, Expires: time.Now().Add(time.Minute)},
		"code":    {ClientName: "Acme Chat", Status: broker.PortalStarted, Code: broker.NewSecret("WDJB-MJHT")},
		"started": {ClientName: "Acme Chat", Status: broker.PortalStarted},
	}
	missing := broker.Errorf(broker.CodeNotFound, "x")
	s.service.Visits = webtest.Visits{
		Open: func(link broker.Secret, _ func(string) broker.Secret) (broker.PortalPage, error) {
			return broker.PortalPage{ClientName: "Acme Chat", Binding: broker.Binding(link.Reveal()), Expires: time.Now().Add(9 * time.Minute)}, nil
		},
		Visit: func(id string, _ func(string) broker.Secret, _ string) (broker.PortalVisit, error) {
			v, ok := visits[id]
			if !ok {
				return v, missing
			}
			v.ID = id
			return v, nil
		},
		One: func(string, func(string) broker.Secret, string) (broker.PortalConnection, error) {
			return webtest.Visit(time.Now()).Connections[0], nil
		},
	}
	return []state{
		{name: "portal-link", path: "/portal/code"}, {name: "portal-link-return", path: "/portal/return"}, {name: "portal-link-login", path: "/portal/login"},
		{name: "portal-code", path: "/portal/session/code"}, {name: "portal-started", path: "/portal/session/started"}, {name: "portal-open", path: "/portal/session/open"}, {name: "portal-empty", path: "/portal/session/empty"},
		{name: "portal-ask", path: "/portal/session/open/disconnect/cn_1"},
	}
}

// newVisit is a site with one link, one browser that it may belong to, and a chat in which the code is typed when told.
func newVisit(t *testing.T) (s *site, typed *atomic.Bool, outcome *atomic.Value) {
	s = newSite(t)
	typed, outcome = &atomic.Bool{}, &atomic.Value{}
	outcome.Store(broker.RevokedDone)
	const value = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE"
	var over, gone atomic.Bool
	missing := broker.Errorf(broker.CodeNotFound, "x")
	mine := func(cookie func(string) broker.Secret) bool {
		return !over.Load() && cookie("tb-pv_1").Equal(broker.NewSecret(value))
	}
	s.service.Visits = webtest.Visits{
		Open: func(broker.Secret, func(string) broker.Secret) (broker.PortalPage, error) {
			return broker.PortalPage{ClientName: "Acme Chat", Binding: broker.BindingCode, Expires: time.Now().Add(9 * time.Minute)}, nil
		},
		Start: func(broker.Secret, func(string) broker.Secret) (broker.PortalStart, error) {
			return broker.PortalStart{ID: "pv_1", CookieName: "tb-pv_1", Cookie: broker.NewSecret(value), MaxAge: time.Minute}, nil
		},
		Visit: func(_ string, cookie func(string) broker.Secret, _ string) (broker.PortalVisit, error) {
			v := webtest.Visit(time.Now())
			switch {
			case !mine(cookie):
				return v, missing
			case !typed.Load():
				return broker.PortalVisit{ID: "pv_1", ClientName: "Acme Chat", Status: broker.PortalStarted, Code: broker.NewSecret("WDJB-MJHT")}, nil
			case gone.Load():
				v.Connections = v.Connections[1:]
			}
			return v, nil
		},
		One: func(_ string, cookie func(string) broker.Secret, _ string) (broker.PortalConnection, error) {
			if !mine(cookie) {
				return broker.PortalConnection{}, missing
			}
			return webtest.Visit(time.Now()).Connections[0], nil
		},
		Disconnect: func(_ context.Context, _ string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, broker.RevokedUpstream, error) {
			if !mine(cookie) || connection != "cn_1" {
				return broker.PortalConnection{}, "", missing
			}
			gone.Store(true)
			return webtest.Visit(time.Now()).Connections[0], outcome.Load().(broker.RevokedUpstream), nil
		},
		End: func(_ context.Context, _ string, cookie func(string) broker.Secret) error {
			if !mine(cookie) {
				return missing
			}
			over.Store(true)
			return nil
		},
	}
	return s, typed, outcome
}

// nearDividers lists how far permissions are from the line above them, where that is too little.
const nearDividers = `[...document.querySelectorAll("details[open] .group + .group")].map((e) => e.querySelector("h3").getBoundingClientRect().top - e.getBoundingClientRect().top).filter((d) => d < 12)`

func TestPortalInChromium(t *testing.T) {
	browser := startBrowser(t)
	visible := func(css string) chromedp.Action[chromedp.Void] { return chromedp.WaitVisible(chromedp.CSS(css)) }
	click := func(css string) chromedp.Action[chromedp.Void] { return chromedp.Click(chromedp.CSS(css)) }

	t.Run("from the link to signing out", func(t *testing.T) {
		s, typed, outcome := newVisit(t)
		b := openTab(t, browser)
		b.withAxe(t)
		b.with(t, phone)
		b.do(t, chromedp.Navigate(s.url+"/portal/"+webtest.Link), click("button.primary"), visible("#code"))
		if got := s.lastPost().Get("Sec-Fetch-Site"); got != "same-origin" {
			t.Errorf("Sec-Fetch-Site of the form is %q", got)
		}
		if got, want := ask(t, b, chromedp.Location()), s.url+"/portal/session/pv_1"; got != want {
			t.Errorf("the address is %q, not %q", got, want)
		}
		typed.Store(true) // in the chat: the page hears of it by itself
		b.do(t, visible(".connection"))
		if shown := ask(t, b, chromedp.Text(chromedp.CSS("time"))); strings.Contains(shown, "UTC") {
			t.Errorf("a time reads %q: it should be the reader's own", shown)
		}
		if cookies := ask(t, b, chromedp.Evaluate[string]("document.cookie")); cookies != "" {
			t.Errorf("scripts can read cookies: %q", cookies)
		}
		b.wellMade(t)
		b.do(t, click(".connection summary"), visible(".connection .group + .group"))
		if near := ask(t, b, chromedp.Evaluate[[]float64](nearDividers)); len(near) > 0 {
			t.Errorf("what is below a divider is %v pixels from it", near)
		}
		b.shoot(t, "portal-allows", phone)
		b.axe(t, "what a connection allows")
		for _, result := range []broker.RevokedUpstream{broker.RevokedDone, broker.RevokedUnsupported, broker.RevokedFailed} {
			outcome.Store(result)
			b.do(t, chromedp.Navigate(s.url+"/portal/session/pv_1/disconnect/cn_1"), click(`button[value="disconnect"]`), visible(".end"))
			b.wellMade(t)
			b.shoot(t, "portal-"+string(result), phone)
			b.axe(t, "portal "+string(result))
		}
		b.do(t, click("a.primary"), visible("#accounts"))
		if rows := ask(t, b, chromedp.Evaluate[int](`document.querySelectorAll(".connection").length`)); rows != 2 {
			t.Errorf("%d connections are left", rows)
		}
		b.do(t, click(`button[value="end"]`), visible(".mood-off"))
		b.axe(t, "signed out")
		b.shoot(t, "portal-signed-out", phone)
		b.do(t, chromedp.Navigate(s.url+"/portal/session/pv_1"), visible(".mood-bad")) // also for whoever presses Back
		b.quiet(t)
	})

	t.Run("without JavaScript", func(t *testing.T) {
		s, typed, _ := newVisit(t)
		b := openTab(t, browser)
		b.with(t, phone)
		b.do(t, chromedp.Navigate(s.url+"/portal/"+webtest.Link))
		if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
			t.Fatal(err)
		}
		b.do(t, chromedp.Navigate(s.url+"/portal/"+webtest.Link), click("button.primary"), visible("#code"))
		typed.Store(true)
		b.do(t, click("a.primary"), visible(".connection"))
		b.do(t, click(".connection .act a"), visible(`button[value="disconnect"]`), click(`button[value="disconnect"]`), visible(".mood-good"), click("a.primary"), visible("#accounts"))
		if rows := ask(t, b, chromedp.Evaluate[int](`document.querySelectorAll(".connection").length`)); rows != 2 {
			t.Errorf("%d connections are left", rows)
		}
	})

	// Threat 61: a page of another site can't disconnect, though the browser has the visit's cookie.
	t.Run("another site posts the form", func(t *testing.T) {
		s, typed, _ := newVisit(t)
		typed.Store(true)
		b := openTab(t, browser)
		b.do(t, chromedp.Navigate(s.url+"/portal/"+webtest.Link), click("button.primary"), visible(".connection"))
		b.do(t, chromedp.Navigate(s.client+"/evil-portal"), click("#go"), visible(".mood-bad"))
		if got := s.lastPost().Get("Sec-Fetch-Site"); got != "cross-site" {
			t.Errorf("Sec-Fetch-Site is %q", got)
		}
		if n := s.service.Count("PortalDisconnect"); n != 0 {
			t.Errorf("disconnected %d times", n)
		}
	})
}
