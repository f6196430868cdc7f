package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// The steps of a person.

func (p *window) open(link string) {
	p.t.Helper()
	p.do(chromedp.Navigate(link))
	p.until(`document.querySelector("button[value=continue]") !== null`)
	p.whole()
}

// whole holds the page against the screen: nothing lies beside it.
func (p *window) whole() {
	p.t.Helper()
	p.until(`document.documentElement.scrollWidth <= document.documentElement.clientWidth`)
}

func (p *window) goOn() {
	p.t.Helper()
	p.click(`button[value="continue"]`)
}

// signIn decides at the provider, or at the organisation, that is in the window.
func (p *window) signIn(login, decision string) {
	p.t.Helper()
	p.until(`document.querySelector("button[value=allow]") !== null`)
	p.click(`input[value="` + login + `"]`)
	p.click(`button[value="` + decision + `"]`)
}

// asked waits for the question of the provider, or of the organisation, at that address.
func (p *window) asked(issuer string) {
	p.t.Helper()
	p.until(`location.origin === "` + issuer + `" && document.querySelector("button[value=allow]") !== null`)
}

// answer is the address at the broker that the decision would send the window on to. The window stays where it is: what becomes
// of the answer is its taker's.
func (p *window) answer(login, decision string) string {
	p.t.Helper()
	form, err := url.ParseQuery(p.text(`new URLSearchParams(new FormData(document.querySelector("form"))).toString()`))
	if err != nil {
		p.t.Fatal(err)
	}
	form.Set("user", login)
	form.Set("decision", decision)
	client := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.PostForm(p.text(`new URL("/login", location.href).href`), form)
	if err != nil {
		p.t.Fatal(err)
	}
	_ = resp.Body.Close()
	to := resp.Header.Get("Location")
	if !strings.Contains(to, "/oauth2/") {
		p.t.Fatalf("the provider answers %d %q", resp.StatusCode, to)
	}
	return to
}

// fails is answer with an error in place of the decision.
func (p *window) fails(code string) string {
	p.t.Helper()
	said := p.answer("", "deny")
	failed := strings.Replace(said, "error=access_denied", "error="+code, 1)
	if failed == said {
		p.t.Fatalf("the provider answers %q", said)
	}
	return failed
}

// says waits until the page has these words.
func (p *window) says(words string) {
	p.t.Helper()
	p.until(fmt.Sprintf(`document.querySelector("main").textContent.includes(%q)`, words))
}

// noScripts switches JavaScript off in the pages.
func (p *window) noScripts() {
	p.t.Helper()
	if _, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits for the broker's page with that status, at an address that carries nothing of the provider's.
func (p *window) ends(status string) {
	p.t.Helper()
	p.until(`document.querySelector("#outcome[data-status=` + status + `]") !== null && location.search === "" && location.hash === ""`)
	p.whole()
}

// refusedWith waits for the broker's page that says no.
func (p *window) refusedWith(status int) {
	p.t.Helper()
	p.until(fmt.Sprintf(`performance.getEntriesByType("navigation")[0].responseStatus === %d && document.querySelector(".mood-bad") !== null`, status))
	p.whole()
}

// returned waits for the chat platform's page.
func (p *window) returned(result string) {
	p.t.Helper()
	p.until(`document.querySelector("#done") !== null && document.querySelector("#done").dataset.result === "` + result + `"`)
}

func (p *window) code() string {
	p.t.Helper()
	p.until(`document.querySelector("output#code") !== null`)
	p.whole()
	return p.text(`document.querySelector("output#code").textContent.trim()`)
}

func (p *window) reload() {
	p.t.Helper()
	p.do(chromedp.Reload())
}

// history presses back (-1) or forward (1), and waits until that has led elsewhere.
func (p *window) history(by int) {
	p.t.Helper()
	was := p.text(`location.href`)
	p.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`setTimeout(() => history.go(%d)), undefined`, by)))
	p.until(fmt.Sprintf(`location.href !== %q && document.readyState === "complete"`, was))
}

// press goes on with Tab until the condition holds, then presses that key.
func (p *window) press(until, key string) {
	p.t.Helper()
	for range 40 {
		p.do(chromedp.KeyEvent("\t"))
		if ok, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](until)); err == nil && ok {
			p.do(chromedp.KeyEvent(key))
			return
		}
	}
	p.t.Fatalf("Tab never comes to where %s", until)
}
