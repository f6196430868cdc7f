package e2e

import (
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// TestJobLive: how far a job is shows within seconds, without a reload and with what has the focus kept; at the job's end the page says
// so, offers nothing more to do, and asks no more.
func TestJobLive(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	switchesOf(s)
	var mu sync.Mutex
	job := webtest.JobSamples(accountsMade)["job-running"]
	s.service.Switches.Job = func(broker.Operator, string) (broker.Job, error) {
		mu.Lock()
		defer mu.Unlock()
		return job, nil
	}
	change := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	b := openTab(t, startBrowser(t))
	b.signIn(t, s)
	b.do(t, chromedp.Navigate(s.url+"/dashboard/jobs/job-running"), chromedp.WaitVisible(chromedp.CSS(`#live-state[data-state=live]`)))
	b.do(t, chromedp.Evaluate[chromedp.Void](`window.stays = true; document.querySelector('a[href$="/pause"]').focus()`))
	change(func() { job.Progress.Done, job.Rate = 249, 77 })
	shows := func(text string) chromedp.Action[chromedp.Void] {
		return chromedp.Evaluate[chromedp.Void](`new Promise((done) => { const look = () => document.getElementById("live").textContent.includes("`+text+`") ? done(true) : setTimeout(look, 20); look(); })`, chromedp.EvalAwaitPromise)
	}
	b.do(t, shows("251 of 300"), shows("77 a second"))
	if !ask(t, b, chromedp.Evaluate[bool](`window.stays && document.activeElement === document.querySelector('a[href$="/pause"]') && document.querySelector("progress").value === 251`)) {
		t.Error("the page was loaded anew, the focus is lost, or the bar stands still")
	}
	change(func() { job = webtest.JobSamples(accountsMade)["job-done"] })
	b.do(t, chromedp.WaitVisible(chromedp.CSS(`#live-state[data-state=ended]`)))
	if text := ask(t, b, chromedp.Text(chromedp.CSS("#main"))); !strings.Contains(text, "The job has ended.") || !strings.Contains(text, "300 connections ended") || strings.Contains(text, "Pause") {
		t.Errorf("it says %q", text)
	}
	n := s.service.Count("GetJob")
	b.do(t, chromedp.Evaluate[chromedp.Void](`new Promise((done) => setTimeout(done, 4000))`, chromedp.EvalAwaitPromise))
	if got := s.service.Count("GetJob"); got != n {
		t.Errorf("asked %d times more", got-n)
	}
	b.quiet(t)
}
