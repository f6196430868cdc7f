package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// withElement is the page of a chat with the element on it, and the status that the broker tells it.
func withElement(t *testing.T, s *site) (*httptest.Server, *atomic.Value) {
	t.Helper()
	now := &atomic.Value{}
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/vendor/connect.js" {
			http.ServeFile(w, r, "../../api/sdk/typescript/connect.js")
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<title>Chat</title><main><h1>Chat</h1><tokenbroker-connect consent-url="%[1]s/connect/%[2]s" binding="%[3]s">Connect your files</tokenbroker-connect></main>
<script type="module" src="%[1]s/sdk/connect.js"></script></html>`, s.url, webtest.Link, r.URL.Query().Get("binding"))
	}))
	t.Cleanup(chat.Close)
	s.service.Status = func(broker.Secret, broker.ConsentStatus, time.Duration) (broker.LinkStatus, error) {
		status, _ := now.Load().(broker.ConsentStatus)
		return broker.LinkStatus{ConsentID: "cs_1", Status: status, Origins: []string{chat.URL}}, nil
	}
	return chat, now
}

// TestConnectElementIsMoved: a chat that sorts its messages anew does not lose the consent that is under way in one of them, and one
// that takes the element away for a while gets back one that can be pressed, not one that waits for nothing.
func TestConnectElementIsMoved(t *testing.T) {
	s := newSite(t)
	chat, now := withElement(t, s)
	now.Store(broker.ConsentStarted)
	b := openTab(t, startBrowser(t))
	b.do(t, chromedp.Navigate(chat.URL))
	wait := func(expression string) { t.Helper(); ask(t, b, chromedp.Poll[bool](expression)) }
	wait(`document.querySelector("tokenbroker-connect").shadowRoot !== null`)
	wait(`(() => { window.element = document.querySelector("tokenbroker-connect"); window.open = () => ({closed: false, close() {}}); element.connect().catch(() => {}); return element.state === "waiting"; })()`)
	wait(`(() => { element.remove(); return true; })()`)
	wait(`element.state === "ready"`)
	wait(`(() => { document.querySelector("main").append(element); return element.state === "ready"; })()`)
	wait(`(() => { element.connect(); document.querySelector("main").prepend(element); return true; })()`)
	now.Store(broker.ConsentCompleted)
	wait(`element.state === "completed"`)
	b.quiet(t)
}

// TestConnectElementKeepsItsWindow: as long as the consent's window is there, a press brings it to the front, also while it shows the
// code: its link leads nowhere a second time.
func TestConnectElementKeepsItsWindow(t *testing.T) {
	s := newSite(t)
	chat, now := withElement(t, s)
	now.Store(broker.ConsentStarted)
	b := openTab(t, startBrowser(t))
	b.do(t, chromedp.Navigate(chat.URL+"/?binding=code"))
	wait := func(expression string) { t.Helper(); ask(t, b, chromedp.Poll[bool](expression)) }
	wait(`document.querySelector("tokenbroker-connect").shadowRoot !== null`)
	wait(`(() => { window.element = document.querySelector("tokenbroker-connect"); window.opened = window.front = 0;
  window.open = () => { opened++; return {closed: false, close() {}, focus() { front++; }}; }; window.first = element.connect(); return element.state === "waiting"; })()`)
	now.Store(broker.ConsentAwaitingCompletion)
	wait(`element.state === "code"`)
	wait(`(() => { window.second = element.connect(); return opened === 1 && front === 1; })()`)
	now.Store(broker.ConsentCompleted)
	ask(t, b, chromedp.Evaluate[bool](`(() => { window.ends = ""; Promise.all([first, second]).then((all) => { ends = all.map((a) => a.status).join(); }, (e) => { ends = e.name; }); return true; })()`))
	wait(`ends !== ""`)
	if got := ask(t, b, chromedp.Evaluate[string](`ends`)); got != "completed,completed" {
		t.Errorf("it ended as %s", got)
	}
	b.quiet(t)
}

// TestConnectScriptKeepsToItsBroker: the script that a broker served opens that broker's consents and no others, unless the page names
// another; the copy of the package opens what the page names, and all if it names none.
func TestConnectScriptKeepsToItsBroker(t *testing.T) {
	s := newSite(t)
	chat, now := withElement(t, s)
	now.Store(broker.ConsentCompleted)
	b := openTab(t, startBrowser(t))
	b.do(t, chromedp.Navigate(chat.URL))
	other := strings.Replace(s.url, "127.0.0.1", "localhost", 1) // the same machine, and another origin
	ask(t, b, chromedp.Evaluate[bool](`(() => {
  const opened = window.opened = [];
  window.open = (url) => { const win = { closed: false, close() { opened.push("close"); }, location: { replace(to) { opened.push(to); } } }; opened.push(url); return win; };
  window.attempt = (path, call, consent, options, promised) => {
    opened.length = 0;
    window.answer = "";
    import(path).then((m) => m[call](promised ? Promise.resolve(consent) : consent, options)).then((a) => a.status, (e) => e.name).then((said) => { window.answer = [said, ...opened].join(" "); });
    return true;
  };
  return true;
})()`))
	consent, foreign := s.url+"/connect/"+webtest.Link, other+"/connect/"+webtest.Link
	served, pinned, copied := s.url+"/sdk/connect.js", s.url+"/sdk/connect.js?v=1", chat.URL+"/vendor/connect.js"
	for _, c := range []struct{ script, call, consent, options, promised, want string }{
		{served, "connect", consent, `{}`, "false", "completed " + consent + " close"},
		{served, "connect", foreign, `{}`, "false", "TypeError"},
		{pinned, "connect", foreign, `{}`, "false", "TypeError"},
		{served, "connect", foreign, `{}`, "true", "TypeError about:blank close"}, // nothing of it comes into the window
		{served, "follow", foreign, `{}`, "false", "TypeError"},
		{served, "connect", strings.Replace(consent, "http:", "https:", 1), `{}`, "false", "TypeError"},
		{served, "connect", foreign, `{origin: "` + other + `/"}`, "false", "completed " + foreign + " close"},
		{served, "follow", foreign, `{origin: "` + other + `"}`, "false", "completed"},
		{served, "connect", consent, `{origin: "` + other + `"}`, "false", "TypeError"},
		{served, "connect", consent, `{origin: "*"}`, "false", "TypeError"},
		{copied, "connect", foreign, `{}`, "false", "completed " + foreign + " close"},
		{copied, "connect", foreign, `{origin: "` + s.url + `"}`, "false", "TypeError"},
	} {
		ask(t, b, chromedp.Evaluate[bool](fmt.Sprintf(`attempt(%q, %q, %q, %s, %s)`, c.script, c.call, c.consent, c.options, c.promised)))
		ask(t, b, chromedp.Poll[bool](`window.answer !== ""`))
		if got := ask(t, b, chromedp.Evaluate[string](`window.answer`)); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	// The element: its attribute is the option.
	for origin, want := range map[string]string{"": "TypeError", other: "completed"} {
		ask(t, b, chromedp.Evaluate[bool](fmt.Sprintf(`(() => {
  window.answer = "";
  const element = document.createElement("tokenbroker-connect");
  if (%[1]q) element.setAttribute("origin", %[1]q);
  element.consentUrl = %[2]q;
  document.querySelector("main").append(element);
  element.connect().then((a) => a.status, (e) => e.name).then((said) => { window.answer = said; });
  return true;
})()`, origin, foreign)))
		ask(t, b, chromedp.Poll[bool](`window.answer !== ""`))
		if got := ask(t, b, chromedp.Evaluate[string](`window.answer`)); got != want {
			t.Errorf("the element with origin %q: %s", origin, got)
		}
	}
	b.quiet(t)
}

// TestConnectScriptEndsWithoutALink: that the broker knows no such link ends it after three answers, though the page's client can't be
// known; other errors between them do not.
func TestConnectScriptEndsWithoutALink(t *testing.T) {
	s := newSite(t)
	chat, _ := withElement(t, s)
	var asked atomic.Int64
	kept := s.service.Status
	s.service.Status = func(link broker.Secret, known broker.ConsentStatus, wait time.Duration) (broker.LinkStatus, error) {
		switch n := asked.Add(1); {
		case n == 3: // another answer between: begin again
			now, _ := kept(link, known, wait)
			return now, &broker.Error{Code: broker.CodeTemporarilyUnavailable, Description: "not now"}
		default:
			return broker.LinkStatus{}, broker.Errorf(broker.CodeNotFound, "no such link")
		}
	}
	b := openTab(t, startBrowser(t))
	b.do(t, chromedp.Navigate(chat.URL))
	const element = `document.querySelector("tokenbroker-connect")`
	ask(t, b, chromedp.Poll[bool](element+`.shadowRoot !== null`))
	ask(t, b, chromedp.Evaluate[bool](`(() => { window.open = () => ({closed: false, close() {}}); window.warned = 0; console.warn = () => { warned++; };
  window.answer = ""; `+element+`.connect().then((a) => { window.answer = a.status; }); return true; })()`))
	ask(t, b, chromedp.Poll[bool](`window.answer !== ""`, chromedp.WithPollingTimeout(time.Minute)))
	if got := ask(t, b, chromedp.Evaluate[string](`[answer, `+element+`.state, warned].join(" ")`)); got != "expired expired 0" {
		t.Errorf("it ended as %q", got)
	}
	if n := asked.Load(); n != 6 {
		t.Errorf("it asked %d times", n)
	}
	b.quiet(t)
}

// TestConnectElementWithAxe looks at <tokenbroker-connect> in each of its states, light and dark, on the page of a chat: axe-core
// finds nothing, it can be pressed, its news are announced, and the button keeps the focus.
func TestConnectElementWithAxe(t *testing.T) {
	s := newSite(t)
	chat, now := withElement(t, s)
	b := openTab(t, startBrowser(t))
	b.withAxe(t)
	b.with(t, phone)
	const element, shadow = `document.querySelector("tokenbroker-connect")`, `document.querySelector("tokenbroker-connect").shadowRoot`
	for _, st := range []struct {
		state, binding string
		status         broker.ConsentStatus
		window         string // what the browser opens
	}{
		{"ready", "code", broker.ConsentPending, ""},
		{"waiting", "code", broker.ConsentStarted, "{closed: false, close() {}}"},
		{"blocked", "code", broker.ConsentStarted, "null"},
		{"code", "code", broker.ConsentAwaitingCompletion, "{closed: false, close() {}}"},
		{"awaiting_completion", "return", broker.ConsentAwaitingCompletion, "{closed: false, close() {}}"},
		{"completed", "code", broker.ConsentCompleted, "{closed: false, close() {}}"},
		{"denied", "code", broker.ConsentDenied, "{closed: false, close() {}}"},
		{"failed", "code", broker.ConsentFailed, "{closed: false, close() {}}"},
		{"expired", "code", broker.ConsentExpired, "{closed: false, close() {}}"},
	} {
		now.Store(st.status)
		b.do(t, chromedp.Navigate(chat.URL+"/?binding="+st.binding))
		until := func(expression string) {
			t.Helper()
			for end := time.Now().Add(20 * time.Second); !ask(t, b, chromedp.Evaluate[bool](expression)); time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%s: never %s", st.state, expression)
				}
			}
		}
		until(shadow + ` !== null`)
		ask(t, b, chromedp.Evaluate[bool](element+`.focus(), true`))
		if st.window != "" {
			ask(t, b, chromedp.Evaluate[bool](`window.open = () => (`+st.window+`), `+element+`.connect(), true`))
		}
		until(element + `.state === "` + st.state + `"`)
		if said := ask(t, b, chromedp.Evaluate[string](shadow+`.querySelector("[role=status][aria-live=polite]").textContent`)); (said == "") != (st.state == "ready") {
			t.Errorf("%s: it says %q", st.state, said)
		}
		if !ask(t, b, chromedp.Evaluate[bool](shadow+`.activeElement?.localName === "button"`)) {
			t.Errorf("%s: the button has lost the focus", st.state)
		}
		if height := ask(t, b, chromedp.Evaluate[float64](shadow+`.querySelector("button").getBoundingClientRect().height`)); height < 43.5 {
			t.Errorf("%s: the button is %v pixels high", st.state, height)
		}
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(t, scheme)
			b.axe(t, st.state+" "+scheme)
		}
	}
	b.quiet(t)
}
