package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"tokenbroker/web/webtest"
)

// axe-core, as npm has it, unchanged, with its licence (MPL 2.0) beside it. It comes into the page over the debugger's protocol: the
// pages' policy would not let it in.
//
//go:embed testdata/axe-core/axe.min.js
var axeSource string

// axeRun lists what is wrong with the page, by rule and place. Best practices are held as well as WCAG. axeColours is the part of it
// that depends on colours.
const (
	axeRun     = `axe.run(document, {resultTypes: ["violations"]}).then(` + axeList
	axeColours = `axe.run(document, {resultTypes: ["violations"], runOnly: {type: "rule", values: ["color-contrast", "link-in-text-block"]}}).then(` + axeList
	axeList    = `(r) => JSON.stringify(
  r.violations.map((v) => ({rule: v.id, help: v.help, where: v.nodes.map((n) => n.target.join(" ") + ": " + n.html.slice(0, 120))}))))`
)

type violation struct {
	Rule, Help string
	Where      []string
}

// axe reports the page's violations.
func (b *tab) axe(t *testing.T, what string) { t.Helper(); b.axeWith(t, axeRun, what) }

func (b *tab) axeWith(t *testing.T, run, what string) {
	t.Helper()
	var found []violation
	if err := json.Unmarshal([]byte(ask(t, b, chromedp.Evaluate[string](run, chromedp.EvalAwaitPromise))), &found); err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		t.Errorf("%s: %s (%s): %q", what, v.Rule, v.Help, v.Where)
	}
}

// withAxe loads axe-core into every page that the tab opens from now on.
func (b *tab) withAxe(t *testing.T) {
	t.Helper()
	if _, err := chromedp.Call(b.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: axeSource}); err != nil {
		t.Fatal(err)
	}
}

// scheme changes the colours alone, which is quicker than with.
func (b *tab) scheme(t *testing.T, scheme string) {
	t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
	}); err != nil {
		t.Fatal(err)
	}
}

// TestAxe runs axe-core on every state of every page that users see, light and dark: no violation. What languages change is text, its
// direction and its length, so each state is seen in English, in Arabic and in one more, the next one with each state; AXE_ALL=1, which
// make slow sets, has all in all. The pages that are one template with other words it sees in English and one more, and dark in English
// alone; TestAxeOnRefusedForm sees that template in all.
func TestAxe(t *testing.T) {
	s, states := newGallery(t)
	browser := startBrowser(t)
	type job struct {
		state
		lang string
	}
	var jobs []job
	others := slices.DeleteFunc(slices.Clone(languages), func(lang string) bool { return lang == "en" || lang == "ar" })
	for i, st := range states {
		in := []string{"en", "ar", others[i%len(others)]}
		switch {
		case os.Getenv("AXE_ALL") != "":
			in = languages
		case st.message != "":
			in = []string{"en", languages[1+i%(len(languages)-1)]}
		}
		for _, lang := range in {
			jobs = append(jobs, job{st, lang})
		}
	}
	const tabs = 2
	for n := range tabs {
		t.Run(fmt.Sprint("tab ", n), func(t *testing.T) {
			t.Parallel()
			b := openTab(t, browser)
			b.withAxe(t)
			b.with(t, phone)
			for i := n; i < len(jobs); i += tabs {
				j := jobs[i]
				b.do(t, chromedp.Navigate(s.url+j.in(j.lang)), chromedp.WaitVisible(chromedp.CSS("h1")))
				b.scheme(t, "light")
				b.axe(t, j.name+" in "+j.lang+", light")
				if j.message != "" {
					b.says(t, j.message, j.lang)
					if j.lang != "en" {
						continue
					}
				}
				b.scheme(t, "dark")
				b.axeWith(t, axeColours, j.name+" in "+j.lang+", dark") // the rest is the same page
			}
		})
	}
}

// TestAxeOnRefusedForm is TestAxe for the one page that has no address of its own: the answer to a form that was open for too long.
func TestAxeOnRefusedForm(t *testing.T) {
	s := newSite(t)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	for _, lang := range languages {
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link+"?lang="+lang), chromedp.WaitVisible(chromedp.CSS("h1")))
		ask(t, b, chromedp.Evaluate[bool](`document.querySelector("[name=nonce]").value = "stale", true`))
		b.do(t, chromedp.Click(chromedp.CSS("button.primary")), chromedp.WaitVisible(chromedp.CSS(".mood-bad")))
		if got := ask(t, b, chromedp.Evaluate[string]("document.documentElement.lang")); got != lang {
			t.Errorf("the refusal is in %s, not in %s", got, lang)
		}
		for _, l := range []look{phone, desktopDark} {
			b.with(t, l)
			b.axe(t, "refused form in "+lang+", "+l.name)
			if lang == "en" {
				b.shoot(t, "message-form-refused", l)
			}
		}
	}
}

// TestAxeFinds shows it a page that is wrong: without this, silence would prove nothing.
func TestAxeFinds(t *testing.T) {
	s, _ := newGallery(t)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	b.do(t, chromedp.Navigate(s.url+"/connect/full"), chromedp.WaitVisible(chromedp.CSS("h1")))
	ask(t, b, chromedp.Evaluate[bool](`(() => {
	  document.documentElement.lang = "";
	  document.querySelector(".lead").style.color = "#bbb"; // set by the debugger's script, so no policy is asked
	  document.querySelector("button").textContent = "";
	  return true;
	})()`))
	var found []violation
	if err := json.Unmarshal([]byte(ask(t, b, chromedp.Evaluate[string](axeRun, chromedp.EvalAwaitPromise))), &found); err != nil {
		t.Fatal(err)
	}
	for _, rule := range []string{"html-has-lang", "color-contrast", "button-name"} {
		if !slices.ContainsFunc(found, func(v violation) bool { return v.Rule == rule }) {
			t.Errorf("axe did not find %s, only %v", rule, found)
		}
	}
}
