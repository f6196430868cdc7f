package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// signedIn holds that Ada's consent is completed and gives a token, and lets the next one begin anew.
func (w *town) signedIn(t *testing.T, id string) {
	t.Helper()
	w.status(t, w.staff, id, "completed")
	w.staff.token("emp-ada")
	w.staff.want(200, "DELETE", "/v1/subjects/emp-ada", nil)
}

// throughOffice goes on from the link's page to its end.
func (w *town) throughOffice(p *window) {
	p.t.Helper()
	p.goOn()
	p.asked(w.office.issuer)
	p.signIn("ada", "allow")
	p.asked(w.issuer)
	p.signIn("alice", "allow")
	p.ends("completed")
}

// signInJourneys are what people do on the way by their organisation's sign-in.
var signInJourneys = []journey{
	{"login, back from the organisation", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.goOn()
		p.asked(w.office.issuer)
		before := p.answer("ada", "allow")
		p.history(-1)
		p.until(`document.querySelector("button[value=continue]") !== null`)
		p.goOn()
		p.asked(w.office.issuer)
		p.do(chromedp.Navigate(before)) // of the sign-in that she left
		p.refusedWith(400)
		p.open(link)
		w.throughOffice(p)
		w.signedIn(t, id)
	}},
	{"login, back from the provider", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.goOn()
		p.asked(w.office.issuer)
		p.signIn("ada", "allow")
		p.asked(w.issuer)
		before := p.answer("alice", "allow")
		p.history(-1) // to the organisation's page, which has nothing to ask any more
		p.until(`location.origin === "` + w.office.issuer + `"`)
		p.history(-1)
		p.until(`document.querySelector("button[value=continue]") !== null`)
		p.goOn()
		p.asked(w.office.issuer)
		p.do(chromedp.Navigate(before)) // she has not signed in for this start yet
		p.refusedWith(400)
		w.status(t, w.staff, id, "started")
		p.open(link)
		w.throughOffice(p)
		w.signedIn(t, id)
		p.history(-1) // from the end: nothing is done twice
		p.history(1)
		p.until(`document.querySelector("#outcome[data-status=completed], .mood-bad") !== null`)
		w.status(t, w.staff, id, "completed")
	}},
	{"login, reload at each step", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.reload()
		p.until(`document.querySelector("button[value=continue]") !== null`)
		p.goOn()
		p.asked(w.office.issuer)
		p.reload()
		p.signIn("ada", "allow")
		p.asked(w.issuer)
		p.reload()
		p.signIn("alice", "allow")
		p.ends("completed")
		p.reload()
		p.ends("completed")
		w.signedIn(t, id)
	}},
	{"login, no JavaScript", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.noScripts()
		p.do(chromedp.Navigate(link), chromedp.Click(chromedp.CSS(`button[value="continue"]`)),
			chromedp.Click(chromedp.CSS(`input[value="ada"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)),
			chromedp.Click(chromedp.CSS(`input[value="alice"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)),
			chromedp.WaitVisible(chromedp.CSS("#outcome[data-status=completed]")))
		w.signedIn(t, id)
	}},
	{"login, keyboard alone", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.press(`document.activeElement.value === "continue"`, "\r")
		for _, at := range []string{w.office.issuer, w.issuer} {
			p.asked(at)
			p.press(`document.activeElement.type === "radio"`, " ")
			p.press(`document.activeElement.value === "allow"`, "\r")
		}
		p.ends("completed")
		w.signedIn(t, id)
	}},
}

const (
	unreachable = "The other service can't be reached right now. Nothing was connected."
	officeGone  = "Your organisation's sign-in can't be reached right now."
)

// outageJourneys are what people see of a provider or an organisation that fails or is gone: words of ours, and what to do now.
var outageJourneys = []journey{
	{"provider answers with an error", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.goOn()
		p.asked(w.issuer)
		p.do(chromedp.Navigate(p.fails("server_error")))
		p.ends("failed")
		p.says(unreachable)
		w.status(t, w.api, id, "failed")
		p.do(chromedp.Navigate(link))
		p.refusedWith(404)
		p.says("ask for a new link")

		id, link = w.ask(t, w.api, who, w.back("x"))
		p.open(link)
		p.goOn()
		p.asked(w.issuer)
		p.do(chromedp.Navigate(p.fails("server_error")))
		p.returned("provider_unavailable")
		w.status(t, w.api, id, "failed")
	}},
	{"provider is gone at the exchange", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.goOn()
		p.asked(w.issuer)
		w.gone(t, w.front, p.answer("alice", "allow"), p)
		p.ends("failed")
		p.says(unreachable)
		w.status(t, w.api, id, "failed")
		w.front.up(t)

		id, link = w.ask(t, w.api, who, w.back("x"))
		p.open(link)
		p.goOn()
		p.asked(w.issuer)
		w.gone(t, w.front, p.answer("alice", "allow"), p)
		p.returned("provider_unavailable")
		w.status(t, w.api, id, "awaiting_completion") // the code has reached nobody
		w.front.up(t)
		p.reload()
		p.returned("connected")

		id, link = w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.goOn()
		p.asked(w.office.issuer)
		p.signIn("ada", "allow")
		p.asked(w.issuer)
		w.gone(t, w.front, p.answer("alice", "allow"), p)
		p.ends("failed")
		p.says(unreachable)
		w.status(t, w.staff, id, "failed")
		w.front.up(t)
	}},
	{"organisation answers with an error", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.goOn()
		p.asked(w.office.issuer)
		p.do(chromedp.Navigate(p.fails("server_error")))
		p.refusedWith(503)
		p.says(officeGone)
		p.says("open the link from the chat again")
		w.status(t, w.staff, id, "pending")
		p.open(link)
		w.throughOffice(p)
		w.signedIn(t, id)
	}},
	{"organisation is gone at the exchange", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.goOn()
		p.asked(w.office.issuer)
		w.gone(t, w.office.front, p.answer("ada", "allow"), p)
		p.refusedWith(503)
		p.says(officeGone)
		p.says("open the link from the chat again")
		w.status(t, w.staff, id, "pending")
		w.office.front.up(t)
		p.open(link)
		w.throughOffice(p)
		w.signedIn(t, id)
	}},
	{"organisation is gone at Continue", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		w.broker.stop() // a process that has read the organisation's metadata believes them for an hour
		w.broker.exec()
		w.broker.waitReady(http.StatusOK)
		w.gone(t, w.office.front, link, p)
		p.goOn()
		p.refusedWith(503)
		p.says(officeGone)
		p.says("open the link from the chat again")
		w.status(t, w.staff, id, "pending")
		w.office.front.up(t)
		eventually(t, 20*time.Second, "the link can be used again", func() error { // what is down is left alone for some seconds
			p.open(link)
			p.goOn()
			p.until(`document.querySelector("button[value=allow], .mood-bad") !== null`)
			if at := p.text(`location.origin`); at != w.office.issuer {
				time.Sleep(500 * time.Millisecond)
				return fmt.Errorf("it leads to %s", at)
			}
			return nil
		})
		p.signIn("ada", "allow")
		p.asked(w.issuer)
		p.signIn("alice", "allow")
		p.ends("completed")
		w.signedIn(t, id)
	}},
}

// gone ends the server, and has the window go on to that address. It is back at the end of the journey, however that ends.
func (w *town) gone(t *testing.T, f *front, address string, p *window) {
	t.Helper()
	f.down()
	t.Cleanup(func() { f.up(t) })
	p.do(chromedp.Navigate(address))
}
