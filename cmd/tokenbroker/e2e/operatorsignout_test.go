package e2e

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"tokenbroker/providers/sandbox"
)

func singleSignOn(c *sandbox.Config) { c.SingleSignOn = true }

// Where the provider keeps a browser signed in, signing out ends that too, unless that is not wanted: the next one at the machine is
// not let in as the last. The ID token that the provider is told is nowhere in clear.
func TestSignOutAtProviderInChromium(t *testing.T) {
	t.Parallel()
	o := newOperatorsTown(t, singleSignOn)
	monitor := o.rig.redisCLI().monitor()
	for i, scripts := range []bool{true, false} {
		p := o.browser(t, looks[i%2])
		if !scripts {
			p.noScripts()
		}
		in := func(asked bool) {
			t.Helper()
			p.do(chromedp.Navigate(o.rig.public+"/dashboard/session"), chromedp.Click(chromedp.CSS(startButton)))
			if asked {
				p.do(chromedp.Click(chromedp.CSS(`input[value="operator"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)))
			}
			p.do(chromedp.WaitVisible(chromedp.CSS(`form[action="/dashboard/session/end"]`)))
		}
		in(true)
		p.do(chromedp.Click(chromedp.CSS(`main form:has(input[name="here"]) button`)), chromedp.WaitVisible(chromedp.CSS(startButton)))
		in(false) // the provider still knows who it is
		p.do(chromedp.Click(chromedp.CSS(`main form[action="/dashboard/logout"] button`)), chromedp.WaitVisible(chromedp.CSS(startButton)))
		if scripts {
			o.at(p, "/dashboard/login?out=there", "Operator sign-in")
			p.says("at your organisation too")
		}
		in(true) // it asks again
	}
	if n := o.staff.Stats().SignOuts; n != 2 {
		t.Errorf("%d sign-outs at the provider", n)
	}
	seen := string(monitor())
	if strings.Contains(seen, "eyJ") {
		t.Error("redis saw an ID token")
	}
	for _, p := range o.rig.brokers {
		if strings.Contains(p.log.String(), "eyJ") || strings.Contains(p.log.String(), "id_token_hint") {
			t.Error("a log has an ID token")
		}
	}
}
