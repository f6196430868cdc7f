package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/vault/vaulttest"
)

// signedIn is a browser at the dashboard.
func (p *brokerProcess) signedIn() *browser {
	p.rig.t.Helper()
	b := newBrowser(p.rig.t)
	req, err := http.NewRequest("POST", p.url+"/dashboard/login", strings.NewReader(url.Values{"token": {dashboardToken}}.Encode()))
	if err != nil {
		p.rig.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if got := b.do(req); got.status != http.StatusSeeOther {
		p.rig.t.Fatalf("sign in: %d\n%s", got.status, tail(got.body, 2000))
	}
	return b
}

// says polls a page until it has all those texts.
func (r *rig) says(b *browser, address string, texts ...string) page {
	r.t.Helper()
	var got page
	r.eventually(40*time.Second, address, func() error {
		got = b.get(address)
		for _, text := range texts {
			if !strings.Contains(got.body, text) {
				return fmt.Errorf("it lacks %q: %d\n%s", text, got.status, tail(got.body, 6000))
			}
		}
		return nil
	})
	return got
}

// TestHealthPage: two replicas behind a sentinel are seen, with the server that it leads to; one that is killed is said to be silent,
// on the overview too, until it is started again; one that ends in order is gone.
func TestHealthPage(t *testing.T) {
	t.Parallel()
	s := vaulttest.StartSentinel(t)
	r := newRigAt(t, s.URL())
	p := r.start()
	other, third := r.start("SPOOL=spool-other"), r.start()
	b := p.signedIn()
	got := r.says(b, p.url+"/dashboard/health", "Redis: sentinel", s.Master.Addr, s.Replica.Addr, ">online<", "noeviction", "primary")
	r.eventually(20*time.Second, "three replicas", func() error {
		got = b.get(p.url + "/dashboard/health")
		if n := strings.Count(got.body, `state-active">ready`); n != 3 {
			return fmt.Errorf("%d replicas are ready\n%s", n, tail(got.body, 6000))
		}
		return nil
	})
	if strings.Contains(got.body, "silent") {
		t.Error("one is silent, and all run")
	}
	third.stop()
	other.kill()
	got = r.says(b, p.url+"/dashboard/health", "1 replica is silent", `state-bad">silent`)
	if n := strings.Count(got.body, "<article class=\"tile-card replica\" aria-label=\"Replica "); n != 2 {
		t.Errorf("%d replicas are known\n%s", n, tail(got.body, 6000))
	}
	r.says(b, p.url+"/dashboard", "is silent.", `href="/dashboard/health"`)
	r.start("SPOOL=spool-other") // where the one that was killed had its own
	r.eventually(20*time.Second, "nobody is silent once it is started again", func() error {
		if got := b.get(p.url + "/dashboard/health"); strings.Contains(got.body, "silent") {
			return fmt.Errorf("still silent\n%s", tail(got.body, 9000))
		}
		return nil
	})
	if got := b.get(p.url + "/dashboard/health"); strings.Contains(got.body, "secret-canary") || strings.Contains(got.body, r.redisURL) {
		t.Error("the page shows a secret")
	}
}

// TestOverviewPage: tokens that are handed out appear on the page that is open, in Chromium, without a reload; the newest accounts are
// there, and what is counted is in the page's numbers.
func TestOverviewPage(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(time.Hour))
	p := r.start()
	c := p.api(r.key)
	w := openChromium(t)
	w.do(chromedp.Navigate(p.url+"/dashboard?tenant=acme"), chromedp.SendKeys(chromedp.CSS("#token"), dashboardToken+"\r"))
	w.until(`document.querySelector("#live-state")?.dataset.state === "live"`)
	w.do(chromedp.Evaluate[chromedp.Void](`window.stays = true`))
	subject := "u{1}@example.com"
	c.refused(409, "consent_required", subject)
	conn := c.connect(newBrowser(t), subject)
	for range 5 {
		c.token(subject)
	}
	figure := func(name string) string {
		return `[...document.querySelectorAll(".figures dt")].find((e) => e.textContent === "` + name + `").nextElementSibling.textContent`
	}
	w.until(figure("Tokens handed out") + ` === "5"`)
	w.until(figure("Requests refused") + ` !== "0"`)
	w.until(figure("Active accounts") + ` === "1"`)
	w.until(`document.querySelector("#live").textContent.includes("` + subject + `") && document.querySelector("a[href*='` + conn + `']") !== null`)
	w.until(`window.stays === true`)

	b := p.signedIn()
	r.says(b, p.url+"/dashboard/health", "Redis: standalone", "noeviction", `state-active">ready`, "No replica follows it")
	r.says(b, p.url+"/dashboard?span=30d", subject, "Completed")
	if got := b.get(p.url + "/dashboard?tenant=nobody"); got.status != http.StatusNotFound {
		t.Errorf("of a tenant that is not there: %d", got.status)
	}
}
