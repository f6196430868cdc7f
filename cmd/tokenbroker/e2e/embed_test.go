package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/providers/sandbox"
)

// chatSite is the page of a chat at an origin of its own, and the chat's backend behind return_to.
type chatSite struct {
	r       *rig
	api     *api
	address string

	mu      sync.Mutex
	body    string
	subject string // who is logged in
}

// The page may load the broker's script and ask the broker, and nothing else: no inline style, no inline script, no strings
// turned into script or markup.
const strictPolicy = "default-src 'none'; script-src 'self' BROKER; connect-src BROKER; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// newChatSite starts two replicas and a site whose pages are among the client's origins, if registered.
func newChatSite(t *testing.T, registered bool, change ...func(*sandbox.Config)) *chatSite {
	t.Helper()
	s := &chatSite{r: newRig(t, change...), address: freeAddress(t), subject: "u1"}
	s.r.edit(`return_to: ["http://127.0.0.1:3000/done"]`, `return_to: ["http://`+s.address+`/done"]`)
	if registered {
		s.r.edit(`origins: ["http://127.0.0.1:3000"]`, `origins: ["http://`+s.address+`"]`)
	}
	s.r.start("SPOOL=spool-a")
	s.api = s.r.start("SPOOL=spool-b").api(s.r.key) // the backend calls one, browsers the other
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

func (s *chatSite) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/strict":
		w.Header().Set("Content-Security-Policy", strings.ReplaceAll(strictPolicy, "BROKER", s.r.public))
		fallthrough
	case "/":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		// The viewport as every page for phones has it.
		fmt.Fprint(w, `<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Chat</title><script src="/app.js"></script><main>`, s.body, "</main></html>")
	case "/app.js":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, `window.heard = []; window.told = [];
addEventListener("message", (e) => told.push(e.origin + " " + JSON.stringify(e.data)));
document.addEventListener("securitypolicyviolation", (e) => heard.push("violation " + e.violatedDirective));
for (const name of ["status", "blocked", "closed"]) document.addEventListener("tokenbroker:" + name, (e) => heard.push((e.target.id ? e.target.id + " " : "") + name + " " + (e.detail.status ?? "")));`)
	case "/done":
		answer, err := s.api.try("POST", "/v1/consents/"+r.URL.Query().Get("consent")+"/complete", object{"subject": s.subject, "code": r.URL.Query().Get("code")})
		fmt.Fprint(w, "<!doctype html><main>", answer.status, err, "</main>")
	default:
		http.NotFound(w, r)
	}
}

// show is what the page has from now on.
func (s *chatSite) show(body string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.body = strings.ReplaceAll(body, "BROKER", s.r.public)
}

func (s *chatSite) open(w *window, path string) {
	w.t.Helper()
	w.do(chromedp.Navigate("http://" + s.address + path))
}

// readme returns the HTML of the README, as printed.
func readme(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range regexp.MustCompile("(?s)```html\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		found = append(found, m[1])
	}
	if len(found) != 2 || strings.Count(found[0], "\n") != 10 {
		t.Fatalf("the README has %d pieces of HTML; want ten lines and two", len(found))
	}
	return found
}

func element(id, link, binding string) string {
	return `<script type="module" src="BROKER/sdk/connect.js"></script><tokenbroker-connect id="` + id + `" consent-url="` + link + `" binding="` + binding + `">Connect ` + id + `</tokenbroker-connect>`
}

// list reads what a page has kept.
func (w *window) list(name string) []string {
	w.t.Helper()
	var list []string
	if err := json.Unmarshal([]byte(w.text(`JSON.stringify(window.`+name+`)`)), &list); err != nil {
		w.t.Fatal(err)
	}
	return list
}

// agree goes on at the consent's page and, by itself, through the provider.
func (w *window) agree() {
	w.t.Helper()
	w.until(`document.querySelector("button[value=continue]") !== null`)
	w.click(`button[value="continue"]`)
}

func (w *window) shownCode() string {
	w.t.Helper()
	w.until(`document.querySelector("output#code") !== null`)
	return w.text(`document.querySelector("output#code").textContent`)
}

func (w *window) gone(p *window) {
	w.t.Helper()
	eventually(w.t, 10*time.Second, "the window is closed", func() error {
		if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](`true`)); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
}

// The ten lines of the README, as printed, on a page of another origin: the promise resolves within a second after the
// completion, which came to another replica.
func TestReadmeEmbedding(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, true)
	consent := s.api.consent("u1")
	s.show(strings.ReplaceAll(readme(t)[0], "CONSENT_URL", consent.str("url")))
	w := openChromium(t)
	s.open(w, "/")
	p := w.popup(func() { w.click("#connect") })
	p.agree()
	code := p.shownCode()
	if w.text(`document.querySelector("#result").textContent`) == "Connected." {
		t.Fatal("it is said to be connected before it was completed")
	}
	s.api.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "u1", "code": code})
	done := time.Now()
	w.until(`document.querySelector("#result").textContent === "Connected."`)
	late := time.Since(done)
	t.Logf("the page heard of it after %v", late)
	if late > 5*time.Second { // a second, and what a busy machine and the looking cost; TestConsentIsFollowedAcrossReplicas measures
		t.Errorf("the page heard of it after %v", late)
	}
	w.gone(p)
	for _, told := range w.list("told") {
		if !strings.HasPrefix(told, s.r.public+` {"type":"tokenbroker:consent","consent":"`) || strings.Contains(told, code) || strings.Count(told, ":") > 6 {
			t.Errorf("the page was told %s", told)
		}
	}
	if len(w.list("told")) == 0 {
		t.Error("no message came")
	}

	// The element, with the keyboard alone; the browser comes back to the chat's own page.
	consent = s.api.consent("u1", object{"return_to": "http://" + s.address + "/done"})
	s.show(strings.ReplaceAll(readme(t)[1], "CONSENT_URL", consent.str("url")))
	s.open(w, "/strict")
	w.until(`document.querySelector("tokenbroker-connect").shadowRoot !== null`)
	p = w.popup(func() { w.do(chromedp.KeyEvent("\t"), chromedp.KeyEvent("\r")) })
	p.agree()
	w.until(`document.querySelector("tokenbroker-connect[state=completed]") !== null`)
	w.gone(p)
	if got := strings.Join(w.list("heard"), ","); !strings.HasPrefix(got, "status pending,status ") || !strings.HasSuffix(got, "status completed") || strings.Contains(got, "violation") {
		t.Errorf("the page heard %s", got)
	}
	if got := w.text(`document.querySelector("tokenbroker-connect").shadowRoot.querySelector("[role=status]").textContent`); got != "Connected." {
		t.Errorf("it says %q", got)
	}
	if !strings.HasPrefix(w.text(`getComputedStyle(document.querySelector("tokenbroker-connect").shadowRoot.querySelector("button")).minHeight`), "44") {
		t.Error("the element has no style under a strict policy")
	}
}

// Two consents at once in one browser: each hears of its own, whichever ends first.
func TestEmbeddingTwoAtOnce(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, true)
	first, second := s.api.consent("u1"), s.api.consent("u2")
	s.show(element("first", first.str("url"), "code") + element("second", second.str("url"), "code"))
	w := openChromium(t)
	s.open(w, "/strict")
	w.until(`document.querySelector("#second").shadowRoot !== null`)
	one := w.popup(func() { w.click("#first") })
	one.until(`document.querySelector("button[value=continue]") !== null`)
	two := w.popup(func() { w.click("#second") })
	two.agree()
	code := two.shownCode()
	w.until(`document.querySelector("#second[state=code]") !== null`)
	// What says it was the broker, and is not, or is another window's, is not believed.
	forged := fmt.Sprintf(`(() => { opener.postMessage({ type: "tokenbroker:consent", consent: %q, status: "completed" }, "*"); return true; })()`, first.str("id"))
	before := len(w.list("told"))
	two.until(forged) // in a page of the broker
	one.until(`(() => { location.href = "http://` + s.address + `/elsewhere"; return true; })()`)
	one.until(`location.pathname === "/elsewhere"`)
	one.until(forged) // in the right window
	w.until(fmt.Sprintf(`(() => { window.postMessage({ type: "tokenbroker:consent", consent: %q, status: "completed" }, "*"); return true; })()`, first.str("id")))
	w.until(fmt.Sprintf(`told.length >= %d`, before+3))
	if got := w.text(`document.querySelector("#first").getAttribute("state")`); got != "waiting" {
		t.Errorf("the first is %s by forged messages", got)
	}
	one.until(`(() => { location.href = "` + first.str("url") + `"; return true; })()`)
	one.until(`location.pathname.startsWith("/connect/")`)
	s.api.want(200, "POST", "/v1/consents/"+second.str("id")+"/complete", object{"subject": "u2", "code": code})
	w.until(`document.querySelector("#second[state=completed]") !== null`)
	if got := w.text(`document.querySelector("#first").getAttribute("state")`); got != "waiting" {
		t.Errorf("the first is %s when the second is done", got)
	}
	one.agree()
	code = one.shownCode()
	s.api.want(200, "POST", "/v1/consents/"+first.str("id")+"/complete", object{"subject": "u1", "code": code})
	w.until(`document.querySelector("#first[state=completed]") !== null`)
	// started is over so soon that it may not be heard.
	for _, id := range []string{"first", "second"} {
		var got []string
		for _, heard := range w.list("heard") {
			if status, ok := strings.CutPrefix(heard, id+" status "); ok && status != "started" {
				got = append(got, status)
			}
		}
		if strings.Join(got, " ") != "pending awaiting_completion completed" {
			t.Errorf("of the %s the page heard %q", id, got)
		}
	}
}

// No window opens, or it is closed: what the page is told, and how the user goes on.
func TestEmbeddingBlockedAndClosed(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, true)
	consent := s.api.consent("u1")
	s.show(element("files", consent.str("url"), "code"))
	w := openChromium(t, chromedp.Flag("disable-popup-blocking", false))
	s.open(w, "/strict")
	w.until(`document.querySelector("#files").shadowRoot !== null`)

	// A window that is closed before Continue ends it at once; the button opens it again.
	p := w.popup(func() { w.click("#files") })
	p.until(`document.querySelector("button[value=continue]") !== null`)
	w.until(`window.heard.includes("files status pending")`)
	if err := chromedp.Cancel(p.ctx); err != nil {
		t.Fatal(err)
	}
	w.until(`document.querySelector("#files[state=closed]") !== null && window.heard.includes("files closed pending")`)

	// Without a click no window opens. The link does it by hand, and the page hears of that too.
	w.until(`(() => { document.querySelector("#files").connect(); return true; })()`)
	w.until(`document.querySelector("#files[state=blocked]") !== null && window.heard.includes("files blocked ")`)
	if got := w.text(`String(document.querySelector("#files").shadowRoot.querySelector("[part=link]").href)`); got != consent.str("url") {
		t.Fatalf("the link leads to %q", got)
	}
	p = w.popup(func() {
		w.do(chromedp.Click(chromedp.JSPath(`document.querySelector("#files").shadowRoot.querySelector("[part=link]")`)))
	})
	p.agree()
	code := p.shownCode()
	w.until(`document.querySelector("#files[state=code]") !== null`)
	// Now the window may go: the code is typed in the chat.
	if err := chromedp.Cancel(p.ctx); err != nil {
		t.Fatal(err)
	}
	s.api.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "u1", "code": code})
	w.until(`document.querySelector("#files[state=completed]") !== null`)

	// The function without a handler says that no window was opened; what is no consent's address it refuses.
	connect := func(url string) string {
		w.until(fmt.Sprintf(`(() => { window.answer = ""; import(%q).then((m) => m.connect(%q)).then((a) => { answer = a.status; }, (e) => { answer = e.name; }); return true; })()`, s.r.public+"/sdk/connect.js", url))
		w.until(`window.answer !== ""`)
		return w.text(`window.answer`)
	}
	if got := connect(consent.str("url")); got != "blocked" {
		t.Errorf("connect without a click: %s", got)
	}
	for _, bad := range []string{"javascript:alert(1)", "/connect/x", "https://evil.example/", "data:text/html,x", "ftp://127.0.0.1/connect/x", "https://evil.example/connect/x/y", "https://evil.example/connect/x", ""} {
		if got := connect(bad); got != "TypeError" {
			t.Errorf("%q: %s", bad, got)
		}
	}
	for _, heard := range w.list("heard") {
		if strings.HasPrefix(heard, "violation") {
			t.Errorf("the page's policy was violated: %s", heard)
		}
	}
}

// A window that is gone while the user is at the provider may only look so, as some providers cut it off: the page is told, and
// goes on, and hears how it ends.
func TestEmbeddingWindowCutOff(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, true, func(c *sandbox.Config) { c.Auto = nil })
	consent := s.api.consent("u1")
	s.show(element("files", consent.str("url"), "code"))
	w := openChromium(t)
	s.open(w, "/strict")
	w.until(`document.querySelector("#files").shadowRoot !== null`)
	w.until(`(() => { const open = window.open; window.opened = 0; window.open = (...all) => { window.opened++; return open(...all); }; return true; })()`)
	p := w.popup(func() { w.click("#files") })
	p.agree()
	p.until(`document.querySelector("button[value=allow]") !== null`)
	w.until(`window.heard.includes("files status started")`)
	// Another click while the window is there opens no second one: that would make the sign-in in the first one void.
	w.click("#files")
	if got := w.text(`String(window.opened)`); got != "1" {
		t.Errorf("%s windows were opened", got)
	}
	if err := chromedp.Cancel(p.ctx); err != nil {
		t.Fatal(err)
	}
	w.until(`document.querySelector("#files[state=closed]") !== null && window.heard.includes("files closed started")`)
	p = w.popup(func() { w.until(`(() => { window.open("` + consent.str("url") + `"); return true; })()`) })
	p.agree()
	p.until(`document.querySelector("button[value=allow]") !== null`)
	p.do(chromedp.Click(chromedp.CSS(`input[value="alice"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)))
	s.api.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "u1", "code": p.shownCode()})
	w.until(`document.querySelector("#files[state=completed]") !== null`)
}

// A page of an origin that the client did not register opens the consent, and hears nothing of it.
func TestEmbeddingOnAStrangersPage(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, false)
	consent := s.api.consent("u1")
	s.show(strings.ReplaceAll(readme(t)[0], "CONSENT_URL", consent.str("url")))
	w := openChromium(t)
	s.open(w, "/")
	p := w.popup(func() { w.click("#connect") })
	p.agree()
	code := p.shownCode()
	s.api.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "u1", "code": code})
	p.until(`document.querySelector("#outcome[data-status=completed]") !== null`)
	if err := chromedp.Cancel(p.ctx); err != nil {
		t.Fatal(err)
	}
	w.until(`document.querySelector("#result").textContent === "Not connected: closed."`)
	if told := w.list("told"); len(told) > 0 {
		t.Errorf("the page was told %q", told)
	}
}

// On a phone the consent opens in a tab of its own.
func TestEmbeddingOnAPhone(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, true)
	consent := s.api.consent("u1")
	s.show(element("files", consent.str("url"), "code"))
	w := openChromium(t)
	bars := `String(window.toolbar.visible)`
	s.open(w, "/strict")
	w.until(`document.querySelector("#files").shadowRoot !== null`)
	p := w.popup(func() { w.click("#files") })
	p.until(`document.querySelector("button[value=continue]") !== null`)
	if p.text(bars) != "false" {
		t.Error("on a large screen it is no window of its own")
	}
	if err := chromedp.Cancel(p.ctx); err != nil {
		t.Fatal(err)
	}
	w.until(`document.querySelector("#files[state=closed]") !== null`)
	w.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile))
	s.open(w, "/strict")
	w.until(`document.querySelector("#files").shadowRoot !== null && matchMedia("(max-width: 600px)").matches`)
	p = w.popup(func() { w.click("#files") })
	p.agree()
	code := p.shownCode()
	if p.text(bars) != "true" {
		t.Error("on a phone it is no tab")
	}
	s.api.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "u1", "code": code})
	w.until(`document.querySelector("#files[state=completed]") !== null`)
}

// On a phone whose browser opens no window the chat shows a link: the finger finds it, and it opens a tab that the chat follows.
func TestEmbeddingBlockedOnAPhone(t *testing.T) {
	t.Parallel()
	s := newChatSite(t, true)
	consent := s.api.consent("u1")
	s.show(element("files", consent.str("url"), "code"))
	w := openChromium(t, chromedp.Flag("disable-popup-blocking", false))
	w.do(chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile, chromedp.EmulateTouch))
	s.open(w, "/strict")
	w.until(`document.querySelector("#files").shadowRoot !== null && matchMedia("(max-width: 600px)").matches && navigator.maxTouchPoints > 0`)
	w.until(`(() => { document.querySelector("#files").connect(); return true; })()`) // without a touch: nothing opens
	w.until(`document.querySelector("#files[state=blocked]") !== null && window.heard.includes("files blocked ")`)
	const link = `document.querySelector("#files").shadowRoot.querySelector("[part=link]")`
	if got := w.text(link + `.href`); got != consent.str("url") {
		t.Fatalf("the link leads to %q", got)
	}
	// The whole of it is on the screen, and what a finger hits in its middle is the link.
	w.until(`document.documentElement.scrollWidth <= 390 && (() => { const b = ` + link + `.getBoundingClientRect();
		return b.left >= 0 && b.right <= 390 && b.bottom <= 844 && ` + link + `.getRootNode().elementFromPoint((b.left + b.right) / 2, (b.top + b.bottom) / 2) === ` + link + `; })()`)
	p := w.popup(func() { w.do(chromedp.Click(chromedp.JSPath(link))) })
	p.agree()
	code := p.shownCode()
	if p.text(`String(window.toolbar.visible)`) != "true" {
		t.Error("it is no tab")
	}
	w.until(`document.querySelector("#files[state=code]") !== null`)
	s.api.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "u1", "code": code})
	w.until(`document.querySelector("#files[state=completed]") !== null`)
}
