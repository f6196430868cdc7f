package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"tokenbroker/web/webtest"
)

// focused is what the keyboard is on, and how it shows.
type focused struct {
	What  string
	Ring  bool // an outline of two pixels or more, in a colour that stands out from what is behind it by 3:1
	Shown bool // within the window
}

const focusedNow = `(() => {
  const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  const lum = (c) => { const [R, G, B] = c.match(/[\d.]+/g).slice(0, 3).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * R + 0.7152 * G + 0.0722 * B; };
  const behind = (e) => { for (e = e.parentElement; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!c.endsWith(", 0)")) return c; } return "rgb(255, 255, 255)"; };
  const a = lum(s.outlineColor), b = lum(behind(e)), contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return {What: e.value || e.id || (e.tagName + " " + e.textContent.trim()), Ring: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2 && contrast >= 3,
    Shown: r.top >= 0 && r.bottom <= innerHeight && r.left >= 0 && r.right <= innerWidth};
})()`

func (b *tab) press(t *testing.T, keys string) focused {
	t.Helper()
	b.do(t, chromedp.KeyEvent(keys))
	return ask(t, b, chromedp.Evaluate[focused](focusedNow))
}

// TestKeyboardAlone completes a consent without a mouse: every stop in the order of the page, each to be seen.
func TestKeyboardAlone(t *testing.T) {
	s := newSite(t)
	b := openTab(t, startBrowser(t))
	for _, l := range []look{phone, desktopDark} {
		b.with(t, l)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.WaitVisible(chromedp.CSS("h1")))
		want := []string{"SUMMARY Exact permissions", "continue", "cancel", "A English", "A العربية", "A Deutsch", "A Español", "A Français", "A 日本語", "A Português"}
		for _, stop := range want {
			got := b.press(t, kb.Tab)
			if got.What != stop || !got.Ring || !got.Shown {
				t.Errorf("%s: Tab comes to %+v, not to %s with a visible ring", l.name, got, stop)
			}
		}
	}
	b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.WaitVisible(chromedp.CSS("h1")))
	b.press(t, kb.Tab)
	b.press(t, kb.Enter)
	if !ask(t, b, chromedp.Evaluate[bool](`document.querySelector("details").open`)) {
		t.Error("Enter does not open what is folded")
	}
	if got := b.press(t, kb.Tab); got.What != "continue" {
		t.Errorf("behind what was opened Tab comes to %+v", got)
	}
	b.do(t, chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible(chromedp.CSS("#code")))
	if got := ask(t, b, chromedp.Text(chromedp.CSS("#code"))); got != "WDJB-MJHT" {
		t.Errorf("the code reads %q", got)
	}
	if got := b.press(t, kb.Tab); got.What != "copy" || !got.Ring {
		t.Errorf("at the end Tab comes to %+v", got)
	}
	if posts := len(s.posts); posts != 1 {
		t.Errorf("%d forms were sent", posts)
	}
	b.quiet(t)
}

// TestWithoutJavaScript goes the whole way with scripts switched off, in another language.
func TestWithoutJavaScript(t *testing.T) {
	s := newSite(t)
	b := openTab(t, startBrowser(t))
	b.with(t, phone)
	b.do(t, chromedp.Navigate("about:blank"))
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.Click(chromedp.CSS(`.languages a[lang="de"]`)), chromedp.WaitVisible(chromedp.CSS(`html[lang="de"] button[value="continue"]`)),
		chromedp.Click(chromedp.CSS("summary")), chromedp.WaitVisible(chromedp.CSS("details code")),
		chromedp.Click(chromedp.CSS(`button[value="continue"]`)), chromedp.WaitVisible(chromedp.CSS(`html[lang="de"] #code`)))
	if got := ask(t, b, chromedp.Title()); got != "Ein letzter Schritt" {
		t.Errorf("the page at the end is %q", got)
	}
	b.quiet(t)
}

// cutOff lists what reaches out of the window or is cut by what is around it.
const cutOff = `[...document.querySelectorAll("body *:not(svg *)")].filter((e) => {
  const r = e.getBoundingClientRect(), s = getComputedStyle(e);
  return e.checkVisibility() && r.width > 0 && (r.left < -0.5 || r.right > 320.5 ||
    s.overflowX !== "visible" && e.scrollWidth > e.clientWidth + 1 || s.overflowY !== "visible" && e.scrollHeight > e.clientHeight + 1);
}).map((e) => e.outerHTML.slice(0, 100))`

// TestZoom looks at every state at 400 %: a window of 1280 by 1024 is 320 by 256 then (WCAG 2.2, 1.4.10). German has the longest
// words, Arabic the other direction.
func TestZoom(t *testing.T) {
	s, states := newGallery(t)
	b := openTab(t, startBrowser(t))
	b.with(t, look{"zoomed", 320, 256, "light"})
	for _, st := range states {
		for _, lang := range []string{"de", "ar"} {
			b.do(t, chromedp.Navigate(s.url+st.path+"?lang="+lang), chromedp.WaitVisible(chromedp.CSS("h1")))
			if cut := ask(t, b, chromedp.Evaluate[[]string](cutOff)); len(cut) > 0 {
				t.Errorf("%s in %s: cut off: %q", st.name, lang, cut)
			}
			if ask(t, b, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > 320`)) {
				t.Errorf("%s in %s: scrolls sideways", st.name, lang)
			}
		}
	}
	ask(t, b, chromedp.Evaluate[bool](`document.querySelector("h1").style.width = "400px", true`))
	if cut := ask(t, b, chromedp.Evaluate[[]string](cutOff)); len(cut) == 0 {
		t.Error("the check finds nothing on a page that is cut")
	}
}

// TestRightToLeft holds the layout of Arabic against that of English: everything that has a side is on the other one.
func TestRightToLeft(t *testing.T) {
	s, _ := newGallery(t)
	b := openTab(t, startBrowser(t))
	b.with(t, phone)
	sides := func(lang string) []bool {
		b.do(t, chromedp.Navigate(s.url+"/connect/full?lang="+lang), chromedp.WaitVisible(chromedp.CSS("h1")))
		return ask(t, b, chromedp.Evaluate[[]bool](`(() => {
		  const x = (q) => { const r = document.querySelector(q).getBoundingClientRect(); return r.left + r.width / 2; };
		  return [x(".tile-a") < x(".tile-b"), x(".letter") > x(".tile-b"), x(".chip") < x(".group li bdi"), x(".caution .icon") < x(".caution span"), x(".why .icon") < x(".why span"),
		    x("button .icon") > x("button span"), new DOMMatrix(getComputedStyle(document.querySelector("button .icon")).transform).a > 0, getComputedStyle(document.querySelector("summary")).direction === "ltr"];
		})()`))
	}
	if got := sides("en"); slices.Contains(got, false) {
		t.Errorf("English: %v", got)
	}
	if got := sides("ar"); slices.Contains(got, true) {
		t.Errorf("Arabic: %v", got)
	}
}

func (b *tab) media(t *testing.T, features ...*emulation.MediaFeature) {
	t.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		t.Fatal(err)
	}
}

// TestForcedColours: where the user's own colours replace ours, nothing is told by a background alone. And nothing moves where nothing
// shall move.
func TestForcedColours(t *testing.T) {
	s, _ := newGallery(t)
	b := openTab(t, startBrowser(t))
	b.with(t, phone)
	for path, parts := range map[string][]string{
		"/connect/full": {".tile-a", ".tile-b", ".chip", ".badge-care", ".caution", ".panel", "button.primary", `button[value="cancel"]`}, "/consent/code": {".mood", ".code", ".account"},
	} {
		b.do(t, chromedp.Navigate(s.url+path), chromedp.WaitVisible(chromedp.CSS("h1")))
		b.media(t, &emulation.MediaFeature{Name: "forced-colors", Value: "active"}, &emulation.MediaFeature{Name: "prefers-reduced-motion", Value: "reduce"})
		for _, part := range parts {
			if !ask(t, b, chromedp.Evaluate[bool](`(() => { const s = getComputedStyle(document.querySelector('`+part+`')); return s.borderTopStyle !== "none" && parseFloat(s.borderTopWidth) >= 1; })()`)) {
				t.Errorf("%s: %s has no edge in forced colours", path, part)
			}
		}
		if !ask(t, b, chromedp.Evaluate[bool](`matchMedia("(forced-colors: active)").matches`)) {
			t.Fatal("the browser does not force colours")
		}
	}
	b.do(t, chromedp.Navigate(s.url+"/connect/full"), chromedp.WaitVisible(chromedp.CSS("h1")))
	if main, other := ask(t, b, chromedp.Evaluate[string](`getComputedStyle(document.querySelector("button.primary")).borderTopWidth`)), ask(t, b, chromedp.Evaluate[string](`getComputedStyle(document.querySelector("button[value=cancel]")).borderTopWidth`)); main == other {
		t.Error("the two buttons look the same in forced colours")
	}
	b.keep(t, "consent-full-forced-colours")

	moves := `[...document.querySelectorAll("*")].filter((e) => { const s = getComputedStyle(e); return s.transitionDuration.split(", ").some((d) => parseFloat(d) > 0.001) || s.animationName !== "none"; }).length`
	if n := ask(t, b, chromedp.Evaluate[int](moves)); n != 0 {
		t.Errorf("%d parts move where motion is to be reduced", n)
	}
	b.media(t, &emulation.MediaFeature{Name: "prefers-reduced-motion", Value: "no-preference"})
	if n := ask(t, b, chromedp.Evaluate[int](moves)); n == 0 {
		t.Error("nothing moves even where it may: the check above sees nothing")
	}
}

// TestWeight: all that Chromium loads for a consent page, headers and the largest logo included, is under 60 KB.
func TestWeight(t *testing.T) {
	s, _ := newGallery(t)
	b := openTab(t, startBrowser(t))
	b.with(t, phone)
	for _, lang := range languages {
		b.weight.Store(0)
		b.loaded.Store(0)
		b.do(t, chromedp.Navigate(s.url+"/connect/themed?lang="+lang), chromedp.WaitVisible(chromedp.CSS("h1")))
		ask(t, b, chromedp.Poll[bool](`document.readyState === "complete" && document.querySelector("img").complete`))
		bytes, files := b.weight.Load(), b.loaded.Load()
		if lang == languages[0] && (files < 5 || bytes < 25_000) { // later ones come from the cache
			t.Errorf("only %d files with %d bytes were seen: page, two styles, script and logo are five", files, bytes)
		}
		if bytes > 60_000 {
			t.Errorf("%s: %d bytes in %d files", lang, bytes, files)
		}
		t.Logf("%s: %d bytes in %d files", lang, bytes, files)
	}
	if w := ask(t, b, chromedp.Evaluate[int](`document.querySelector("img").naturalWidth`)); w == 0 {
		t.Error("the logo is not shown")
	}
	b.quiet(t)
	for _, said := range b.said() {
		if strings.Contains(said, "Content Security Policy") {
			t.Error(said)
		}
	}
}
