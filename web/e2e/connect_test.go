package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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
