package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/providers/sandbox"
)

// operatorsTown is the program with its staff, and a browser in which their provider is another site.
type operatorsTown struct {
	rig    *rig
	staff  *staff
	chrome *window
}

func newOperatorsTown(t *testing.T, change ...func(*sandbox.Config)) operatorsTown {
	t.Helper()
	r := newRig(t)
	s := withStaff(t, r, change...)
	r.start()
	return operatorsTown{rig: r, staff: s, chrome: openChromium(t, chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"))}
}

// browser is one of somebody's own, on that screen.
func (o operatorsTown) browser(t *testing.T, l look) *window {
	t.Helper()
	ctx, cancel := chromedp.NewContext(o.chrome.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &window{t: t, ctx: ctx}
	p.do(l.emulate())
	return p
}

// at waits for a page of the dashboard, whole on the screen.
func (o operatorsTown) at(p *window, path, heading string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`location.href === %q && document.querySelector("h1").textContent === %q`, o.rig.public+path, heading))
	p.whole()
}

const startButton = `form[action="/dashboard/login/start"] button`

// signIn asks for a page, and signs in for it as that person.
func (o operatorsTown) signIn(p *window, path, login string) {
	p.t.Helper()
	p.do(chromedp.Navigate(o.rig.public + path))
	o.at(p, path, "Operator sign-in")
	p.click(startButton)
	p.asked(o.staff.issuer)
	p.signIn(login, "allow")
}

// Each role signs in at a provider on another site, comes to the page that was asked for, and sees what the role may.
func TestOperatorsInChromium(t *testing.T) {
	t.Parallel()
	o := newOperatorsTown(t)
	for i, role := range broker.Roles() {
		p := o.browser(t, looks[i%2])
		login, roles := string(role), string(role)
		if i%2 == 1 {
			login, roles = login+"-acme", roles+" of acme"
		}
		o.signIn(p, "/dashboard/session?x=a%20b", login)
		o.at(p, "/dashboard/session?x=a%20b", "Your sign-in")
		p.says(roles)
		p.says("Person " + login)
		p.do(chromedp.Navigate(o.rig.public + "/dashboard/operators"))
		if login == "admin" {
			o.at(p, "/dashboard/operators", "Operators")
		} else {
			p.refusedWith(http.StatusForbidden)
		}
	}

	// Without JavaScript, signed out again, and by the keyboard back in.
	p := o.browser(t, looks[0])
	p.noScripts()
	p.do(chromedp.Navigate(o.rig.public+"/dashboard/session"), chromedp.Click(chromedp.CSS(startButton)), chromedp.Click(chromedp.CSS(`input[value="viewer"]`)),
		chromedp.Click(chromedp.CSS(`button[value="allow"]`)), chromedp.WaitVisible(chromedp.CSS(`form[action="/dashboard/session/end"]`)),
		chromedp.Click(chromedp.CSS(`main form[action="/dashboard/logout"] button`)), chromedp.WaitVisible(chromedp.CSS(`p[role="status"]`)))
	p = o.browser(t, looks[0])
	p.do(chromedp.Navigate(o.rig.public + "/dashboard/session"))
	p.press(`document.activeElement.matches('`+startButton+`')`, "\r")
	p.asked(o.staff.issuer)
	p.signIn("auditor", "allow")
	o.at(p, "/dashboard/session", "Your sign-in")

	// By the token, which is for emergencies.
	p = o.browser(t, looks[1])
	p.do(chromedp.Navigate(o.rig.public+"/dashboard/session"), chromedp.SendKeys(chromedp.CSS("#token"), dashboardToken+"\r"))
	o.at(p, "/dashboard/session", "Your sign-in")
	p.says("login-token")
}

// No role; signed out here and everywhere; and what the browser's history brings back.
func TestOperatorsLeaveInChromium(t *testing.T) {
	t.Parallel()
	o := newOperatorsTown(t)
	p := o.browser(t, looks[1])
	o.signIn(p, "/dashboard/session", "nobody")
	p.says("You have no role here")
	p.says("oidc:s-nobody")
	p.refusedWith(http.StatusForbidden)
	p.click(startButton) // as somebody else
	p.asked(o.staff.issuer)
	p.signIn("viewer", "allow")
	o.at(p, "/dashboard/session", "Your sign-in")
	p.click(`main form[action="/dashboard/logout"] button`)
	o.at(p, "/dashboard/login?out=here", "Operator sign-in")
	p.do(chromedp.Evaluate[chromedp.Void](`setTimeout(() => history.back()), undefined`))
	o.at(p, "/dashboard/session", "Operator sign-in") // not from a cache

	// Two browsers of one person, one of another.
	var all []*window
	for i, login := range []string{"operator", "operator", "auditor"} {
		b := o.browser(t, looks[i%2])
		o.signIn(b, "/dashboard/session", login)
		o.at(b, "/dashboard/session", "Your sign-in")
		all = append(all, b)
	}
	all[0].click(`form[action="/dashboard/session/end"] button`)
	o.at(all[0], "/dashboard/login?out=everywhere", "Operator sign-in")
	all[1].reload()
	o.at(all[1], "/dashboard/session", "Operator sign-in")
	all[2].reload()
	o.at(all[2], "/dashboard/session", "Your sign-in")

	// An administrator ends the auditor's.
	admin := o.browser(t, looks[0])
	o.signIn(admin, "/dashboard/operators", "admin")
	o.at(admin, "/dashboard/operators", "Operators")
	admin.do(chromedp.SendKeys(chromedp.CSS("#operator"), "oidc:s-auditor"), chromedp.SendKeys(chromedp.CSS("#reason"), "left us\r"))
	o.at(admin, "/dashboard/operators?notice=sessions_ended", "Operators")
	all[2].reload()
	o.at(all[2], "/dashboard/session", "Operator sign-in")
}

// Threat 61: other sites' forms do nothing, with the cookie on board (another port of the same host) or without it (another host);
// and their links work, for whoever is signed in.
func TestThreat61OtherSitesInChromium(t *testing.T) {
	t.Parallel()
	o := newOperatorsTown(t)
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><main><a id="link" href="%[1]s/dashboard/session?from=chat">look</a>`, o.rig.public)
		for i, action := range []string{"/dashboard/logout", "/dashboard/session/end", "/dashboard/operators", "/dashboard/login/start", "/dashboard/login"} {
			fmt.Fprintf(w, `<form id="f%d" method="post" action="%s%s"><input name="token" value="%s"><input name="operator" value="oidc:s-admin"><input name="reason" value="x"></form>`, i, o.rig.public, action, dashboardToken)
		}
		fmt.Fprint(w, `</main>`)
	}))
	defer evil.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(evil.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	p := o.browser(t, looks[0])
	o.signIn(p, "/dashboard/session", "admin")
	o.at(p, "/dashboard/session", "Your sign-in")
	for _, site := range []string{evil.URL, "http://localhost:" + port} {
		for i := range 5 {
			p.do(chromedp.Navigate(site))
			p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`setTimeout(() => document.querySelector("#f%d").submit()), undefined`, i)))
			p.until(`location.origin === "` + o.rig.public + `"`)
			p.refusedWith(http.StatusForbidden)
		}
		p.do(chromedp.Navigate(site))
		p.click("#link")
		o.at(p, "/dashboard/session?from=chat", "Your sign-in") // signed in all the same: nothing above had an effect
	}
	// Nor does a link sign anybody in who is not.
	stranger := o.browser(t, looks[1])
	stranger.do(chromedp.Navigate("http://localhost:" + port))
	stranger.click("#link")
	o.at(stranger, "/dashboard/session?from=chat", "Operator sign-in")
}
