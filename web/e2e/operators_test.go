package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

// TestOperatorPages looks at each page on which operators sign in and out, in every look, light and dark, with axe-core. A name that a
// provider chose is inert (threat 60).
func TestOperatorPages(t *testing.T) {
	var sessions web.Sessions
	s := newSite(t, func(c *web.Config) { c.OperatorLogin, sessions = "sso", c.Sessions })
	failed := func(code broker.Code) *broker.Error { e := broker.Errorf(code, "x"); e.AtLogin = true; return e }
	s.service.Operators = webtest.Operators{
		List:  sessions,
		Roles: []broker.OperatorRole{{Group: "admins", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAdmin}}, {Group: "admins", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAuditor, Tenant: "acme"}}},
		Finish: func(cb broker.LoginCallback) (broker.OperatorSignedIn, error) {
			who := broker.OperatorSignedIn{ID: "oidc:00u1x2y3z4-a-rather-long-subject-as-some-providers-have-them", To: "/dashboard/session"}
			switch cb.Code.Reveal() {
			case "no-role":
				return who, broker.Errorf(broker.CodeAccessDenied, "x").Because(broker.ErrNoRole)
			case "groups":
				return who, broker.Errorf(broker.CodeLoginFailed, "x").Because(broker.ErrGroupsElsewhere)
			case "browser":
				return who, failed(broker.CodeAccessDenied)
			case "over":
				return who, failed(broker.CodeInvalidRequest)
			case "given-up":
				return who, failed(broker.CodeLoginFailed)
			case "misconfigured":
				return who, failed(broker.CodeProviderMisconfigured)
			case "away":
				return who, failed(broker.CodeProviderUnavailable)
			}
			who.Name, who.Groups = `Ada "><img src=x onerror="window.hacked=true"> Lovelace <ada.lovelace@operations.example.com>`, []string{"admins"}
			return who, nil
		},
	}
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	look := func(name, path string) {
		t.Helper()
		b.do(t, chromedp.Navigate(s.url+path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.wellMade(t)
		b.with(t, desktop)
		b.axe(t, name)
		b.scheme(t, "dark")
		b.axeWith(t, axeColours, name+", dark")
	}
	look("sign-in", "/dashboard/login")
	b.shoot(t, "board-signin", desktop)
	b.shoot(t, "board-signin", phone)
	look("signed out", "/dashboard/login?out=everywhere")
	for _, code := range []string{"no-role", "groups", "browser", "over", "given-up", "misconfigured", "away"} {
		look(code, "/dashboard/callback?state=st&code="+code)
		if code == "no-role" {
			b.shoot(t, "board-no-role", phone)
		}
	}
	b.do(t, chromedp.Navigate(s.url+"/dashboard/callback?state=st&code=admin"), chromedp.WaitVisible(chromedp.CSS(".facts")))
	look("session", "/dashboard/session")
	b.shoot(t, "board-session", desktop)
	b.shoot(t, "board-session", phone)
	for i, one := range []broker.OperatorSession{
		{Operator: "login-token", ByToken: true}, {Operator: "oidc:00u7a9", Name: "Otto Operator <otto@operations.example.com>", Groups: []string{"gone"}},
		{Operator: "oidc:00u1x2y3z4-a-rather-long-subject-as-some-providers-have-them", Name: `Ada "><img src=x onerror="window.hacked=true"> Lovelace <ada.lovelace@operations.example.com>`, Groups: []string{"admins"}},
	} {
		one.ID, one.Since, one.Seen = fmt.Sprint("z-", i), accountsMade, accountsMade.Add(time.Duration(i)*time.Minute)
		if err := sessions.BeginOperatorSession(t.Context(), one, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	look("operators, the list", "/dashboard/operators")
	b.shoot(t, "board-operators-list", desktop)
	b.shoot(t, "board-operators-list", phone)
	look("operators, one session", "/dashboard/operators?session=z-1")
	look("operators", "/dashboard/operators?operator=oidc:00u1")
	b.do(t, chromedp.SendKeys(chromedp.CSS("#reason"), " \r"), chromedp.WaitVisible(chromedp.CSS("#problem")))
	b.wellMade(t)
	b.axe(t, "operators, refused")
	b.shoot(t, "board-operators", phone)
	if ask(t, b, chromedp.Evaluate[bool](`window.hacked === true`)) {
		t.Error("a name ran")
	}
	b.quiet(t)
}
