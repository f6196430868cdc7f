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

var accountsMade = time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)

const accountLink = "http://127.0.0.1:1/connect/for-the-user-alone"

// accountsOf makes the site's service answer about connected accounts.
func accountsOf(s *site) {
	views := webtest.AccountViews(accountsMade)
	s.service.Board.List = func(broker.Operator, broker.AccountFilter, string, int) (broker.AccountPage, error) {
		return broker.AccountPage{Rows: webtest.Connections(accountsMade), Next: "next", Matching: 1204}, nil
	}
	s.service.Board.Find = func(broker.Operator, []string, string) ([]broker.Connection, []string, error) {
		return webtest.Connections(accountsMade)[:1], nil, nil
	}
	s.service.Board.One = func(_ broker.Operator, _, id string) (broker.AccountView, error) {
		if v, ok := views[id]; ok {
			return v, nil
		}
		return broker.AccountView{}, broker.Errorf(broker.CodeNotFound, "no")
	}
	s.service.Board.Events = func(broker.Operator, broker.Connection, string) (broker.Timeline, error) {
		return broker.Timeline{Entries: webtest.AccountEntries(accountsMade), Next: "older", Reached: accountsMade}, nil
	}
	s.service.Board.Revoke = func(broker.Operator, string, string, string) (broker.RevokedUpstream, error) {
		return broker.RevokedDone, nil
	}
	s.service.Board.Refresh = func(broker.Operator, string, string, string) (broker.Connection, error) {
		return broker.Connection{}, broker.Errorf(broker.CodeProviderUnavailable, "the provider does not answer as it should; retry later, the user need not do anything")
	}
	s.service.Board.Link = func(broker.Operator, string, string, string) (broker.ConsentLink, error) {
		return broker.ConsentLink{ID: "cs", URL: broker.NewSecret(accountLink), Binding: broker.BindingCode, ExpiresAt: accountsMade}, nil
	}
}

// signIn signs an operator in.
func (b *tab) signIn(t *testing.T, s *site) {
	t.Helper()
	b.do(t, chromedp.Navigate(s.url+"/dashboard"), chromedp.SendKeys(chromedp.CSS("#token"), operatorToken+"\r"), chromedp.WaitVisible(chromedp.CSS("h1:not(:has(~ form #token))")))
}

// TestAccountPages looks at each page about connected accounts in every look, light and dark, with axe-core.
func TestAccountPages(t *testing.T) {
	s := newSite(t)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	b.signIn(t, s)
	at := "/dashboard/accounts"
	for _, p := range []struct{ name, path string }{
		{"accounts", at}, {"accounts-filtered", at + "?tenant=acme&status=needs_consent&error=invalid_grant&scope=a&since=2026-11-01"},
		{"account", at + "/cn_1?tenant=acme&notice=refreshed"}, {"account-dead", at + "/cn_2?tenant=acme"}, {"account-revoked", at + "/cn_3?tenant=acme"},
		{"account-failing", at + "/cn_4?tenant=acme"}, {"account-unreadable", at + "/cn_5?tenant=acme"},
		{"account-revoke", at + "/cn_1/revoke?tenant=acme"}, {"account-refresh", at + "/cn_1/refresh?tenant=acme"}, {"account-link", at + "/cn_1/link?tenant=acme"},
	} {
		b.do(t, chromedp.Navigate(s.url+p.path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.wellMade(t)
		b.with(t, desktop)
		b.axe(t, p.name)
		b.scheme(t, "dark")
		b.axeWith(t, axeColours, p.name+", dark")
		switch p.name {
		case "accounts", "account", "account-failing", "account-revoke":
			b.shoot(t, "board-"+p.name, desktop)
			b.shoot(t, "board-"+p.name, phone)
		}
	}
	b.shoot(t, "board-account", desktopDark)
	b.quiet(t)
}

// TestAccountWork does what operators do, with scripts switched off: filters, finds a subject, and each action.
func TestAccountWork(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex
	var filter broker.AccountFilter
	list := s.service.Board.List
	s.service.Board.List = func(op broker.Operator, f broker.AccountFilter, cursor string, limit int) (broker.AccountPage, error) {
		mu.Lock()
		defer mu.Unlock()
		filter = f
		return list(op, f, cursor, limit)
	}
	b := openTab(t, startBrowser(t))
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.signIn(t, s)
	here := func() string { t.Helper(); return ask(t, b, chromedp.Location()) }
	submit := func(within string) chromedp.Action[chromedp.Void] {
		return chromedp.Click(chromedp.CSS(within + " button[type=submit]"))
	}
	b.do(t, chromedp.Navigate(s.url+"/dashboard/accounts"), chromedp.SendKeys(chromedp.CSS("#connector"), "slack"), submit("form[method=get]"), chromedp.WaitVisible(chromedp.CSS(`#connector[value=slack]`)))
	mu.Lock()
	if filter.Connector != "slack" {
		t.Errorf("filtered by %+v", filter)
	}
	mu.Unlock()
	b.do(t, chromedp.SendKeys(chromedp.CSS("#subject"), "user-4711"), submit("form:has(#subject)"), chromedp.WaitVisible(chromedp.CSS("p[role=status]")))
	if at := here(); strings.Contains(at, "4711") {
		t.Errorf("the subject is in the address %s", at)
	}
	b.do(t, chromedp.Click(chromedp.CSS("a.row")), chromedp.WaitVisible(chromedp.CSS(".timeline")))

	b.do(t, chromedp.Click(chromedp.CSS(`a[href*="/refresh?"]`)), chromedp.SendKeys(chromedp.CSS("#reason"), "a user called"), submit("form:has(#reason)"), chromedp.WaitVisible(chromedp.CSS("[role=alert]")))
	if got := ask(t, b, chromedp.Text(chromedp.CSS("[role=alert]"))); !strings.HasPrefix(got, "The provider does not answer") {
		t.Errorf("the page says %q", got)
	}
	b.do(t, chromedp.Click(chromedp.CSS("form .actions a")), chromedp.WaitVisible(chromedp.CSS(".timeline")))

	b.do(t, chromedp.Click(chromedp.CSS(`a[href*="/link?"]`)), chromedp.SendKeys(chromedp.CSS("#reason"), "ticket 7"), submit("form:has(#reason)"), chromedp.WaitVisible(chromedp.CSS("#link")))
	if at := here(); strings.Contains(at, "for-the-user") {
		t.Errorf("the link is in the address %s", at)
	}
	if got := ask(t, b, chromedp.Value(chromedp.CSS("#link"))); got != accountLink {
		t.Errorf("the link is %q", got)
	}
	b.do(t, chromedp.Click(chromedp.CSS(".trail a")), chromedp.WaitVisible(chromedp.CSS(".timeline")))

	b.do(t, chromedp.Click(chromedp.CSS(`a.danger`)), submit("form:has(#reason)")) // the browser asks for the reason
	if n := s.service.Count("RevokeAccount"); n != 0 {
		t.Errorf("revoked %d times without a reason", n)
	}
	b.do(t, chromedp.SendKeys(chromedp.CSS("#reason"), "left"), submit("form:has(#reason)"), chromedp.WaitVisible(chromedp.CSS(".notice")))
	if got := ask(t, b, chromedp.Text(chromedp.CSS(".notice"))); got != "Revoked here and at the provider." || s.service.Count("RevokeAccount") != 1 {
		t.Errorf("then the page says %q", got)
	}
	b.quiet(t)
}

// TestAccountAttacks: another site's form does nothing, and hostile names are text.
func TestAccountAttacks(t *testing.T) {
	s := newSite(t)
	hostile := webtest.HostilePage()
	bad := broker.Connection{
		ID: "cn_1", Tenant: "acme", Subject: hostile.Account.Name + hostile.ClientName, Connector: hostile.ClientName, Client: hostile.ClientName, Status: broker.ConnectionNeedsConsent,
		Error: hostile.ClientName, Scopes: broker.NewScopeSet(hostile.ClientName, hostile.Connector.Name), Account: *hostile.Account,
	}
	s.service.Board.List = func(broker.Operator, broker.AccountFilter, string, int) (broker.AccountPage, error) {
		return broker.AccountPage{Rows: []broker.Connection{bad}, Next: hostile.ClientName}, nil
	}
	s.service.Board.One = func(broker.Operator, string, string) (broker.AccountView, error) {
		return broker.AccountView{Connection: bad, ConnectorName: hostile.ClientName, NoLink: hostile.ClientName}, nil
	}
	s.service.Board.Events = func(broker.Operator, broker.Connection, string) (broker.Timeline, error) {
		e := broker.Entry{Type: broker.EventType(hostile.ClientName), Client: hostile.ClientName, Reason: hostile.ClientName, Outcome: hostile.ClientName, Actor: broker.Actor{Agent: hostile.ClientName}}
		for _, scope := range hostile.Scopes {
			e.Scopes = append(e.Scopes, broker.EventScope{Scope: scope.Name})
		}
		return broker.Timeline{Entries: []broker.Entry{e}}, nil
	}
	b := openTab(t, startBrowser(t))
	b.signIn(t, s)
	for _, path := range []string{"", "/cn_1?tenant=acme", "/cn_1/revoke?tenant=acme"} {
		b.do(t, chromedp.Navigate(s.url+"/dashboard/accounts"+path), chromedp.WaitVisible(chromedp.CSS("h1")))
		if ask(t, b, chromedp.Evaluate[bool]("window.hacked === true || document.images.length > 0 || document.scripts.length > 0")) {
			t.Errorf("%q: a name became markup", path)
		}
		b.wellMade(t)
	}
	form := strings.NewReplacer("ADDRESS", s.url).Replace(`(() => {
	  document.body.innerHTML = '<form method="post" action="ADDRESS/dashboard/accounts/cn_1/revoke?tenant=acme"><input name="reason" value="x"><input name="form" value="guess"><button id="go">Win</button></form>';
	  document.getElementById("go").click(); return true; })()`)
	b.do(t, chromedp.Navigate(s.client+"/evil"))
	ask(t, b, chromedp.Evaluate[bool](form))
	b.do(t, chromedp.WaitVisible(chromedp.CSS(".mood-bad")))
	if s.service.Count("RevokeAccount") != 0 {
		t.Error("another site revoked a connection")
	}
}
