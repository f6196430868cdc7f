package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// withRecheck is a town whose provider keeps browsers signed in, and is asked anew about groups after so long.
func withRecheck(t *testing.T, after string) operatorsTown {
	t.Helper()
	r := newRig(t)
	s := withStaff(t, r, singleSignOn)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.config, []byte(strings.Replace(string(text), "    client_id: dash\n", "    client_id: dash\n    recheck: "+after+"\n", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return operatorsTown{rig: r, staff: s}
}

// through follows a page that sends the browser to the provider and back, to the page that it asked for.
func (o operatorsTown) through(b *browser, got page) page {
	b.t.Helper()
	for range 8 {
		switch to, ok := strings.CutPrefix(got.header.Get("Refresh"), "0; url="); {
		case got.location != "":
			got = b.get(got.location)
		case ok && strings.HasPrefix(to, "/"):
			got = b.get(o.rig.public + to)
		case ok:
			got = b.get(to)
		default:
			return got
		}
	}
	b.t.Fatal("it goes on and on")
	return got
}

// A group that is taken away at the provider ends what it gave within the time that is configured, on every replica, in a session that is
// used all the while; the session before is worth nothing then, and the change is on record.
func TestGroupTakenAway(t *testing.T) {
	t.Parallel()
	o := withRecheck(t, "5s")
	one, two := o.rig.start(), o.rig.start()
	b := newBrowser(t)
	o.staff.signIn(b, "", "operator")
	if got := o.through(b, b.get(one.url+"/dashboard/switches")); got.status != http.StatusOK {
		t.Fatalf("with the group: %d %s", got.status, tail(got.body, 500))
	}
	o.staff.SetGroups("operator", []string{"everybody", "viewer"})
	o.rig.eventually(20*time.Second, "the role is gone", func() error {
		if got := o.through(b, b.get(one.url+"/dashboard/switches")); got.status != http.StatusForbidden {
			return fmt.Errorf("%d", got.status)
		}
		return nil
	})
	if got := o.through(b, b.get(two.url+"/dashboard/session")); got.status != http.StatusOK || !strings.Contains(got.body, "<dd>viewer</dd>") {
		t.Errorf("what is left: %d %s", got.status, tail(got.body, 1500))
	}
	o.staff.SetGroups("operator", nil)
	o.rig.eventually(20*time.Second, "nobody is signed in", func() error {
		got := o.through(b, b.get(two.url+"/dashboard"))
		if got.status != http.StatusForbidden || !strings.Contains(got.body, "You have no role here") {
			return fmt.Errorf("%d %s", got.status, tail(got.body, 300))
		}
		return nil
	})
	for _, p := range []*brokerProcess{one, two} {
		if got := b.get(p.url + "/dashboard/session"); got.status != http.StatusUnauthorized {
			t.Errorf("afterwards: %d", got.status)
		}
	}
}

// In a browser nobody notices, but whoever sent a form meanwhile; also without JavaScript.
func TestGroupsLookedUpInChromium(t *testing.T) {
	t.Parallel()
	o := withRecheck(t, "3s")
	o.rig.start()
	o.chrome = openChromium(t, chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"))
	for i, scripts := range []bool{true, false} {
		p := o.browser(t, looks[i%2])
		if !scripts {
			p.noScripts()
		}
		p.do(chromedp.Navigate(o.rig.public+"/dashboard/switches"), chromedp.Click(chromedp.CSS(startButton)), chromedp.Click(chromedp.CSS(`input[value="operator"]`)),
			chromedp.Click(chromedp.CSS(`button[value="allow"]`)), chromedp.WaitVisible(chromedp.CSS("form[aria-labelledby=of-connector]")))
		before := o.staff.Stats().Allowed
		o.rig.eventually(30*time.Second, "the provider is asked anew", func() error {
			p.do(chromedp.Navigate(o.rig.public+"/dashboard/switches?x=1"), chromedp.WaitVisible(chromedp.CSS("form[aria-labelledby=of-connector]")))
			if o.staff.Stats().Allowed == before {
				return fmt.Errorf("not yet")
			}
			return nil
		})
		p.do(chromedp.Navigate(o.rig.public+"/dashboard/switches/disable?kind=client&tenant=acme&name=acme-chat"), chromedp.WaitVisible(chromedp.CSS("#reason")))
		asked := o.staff.Stats().Allowed
		time.Sleep(3 * time.Second) // until the groups are to be looked up: there is nothing to see of it before
		p.do(chromedp.SendKeys(chromedp.CSS("#reason"), "a leak"), chromedp.Click(chromedp.CSS("form:has(#reason) button[type=submit]")), chromedp.WaitVisible(chromedp.CSS(".notice")), chromedp.WaitVisible(chromedp.CSS("#reason")))
		if o.staff.Stats().Allowed == asked {
			t.Error("the provider was not asked for the form")
		}
		if scripts {
			p.until(`document.querySelector(".notice").textContent.includes("What you sent was not done")`)
			p.whole()
		}
	}
}
