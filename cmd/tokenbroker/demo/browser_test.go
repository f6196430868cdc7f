package demo_test

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// window is one Chromium window that notes every complaint of the browser: a blocked style or script is one.
type window struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string
}

func openWindow(t *testing.T) *window {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("this test needs Chromium: apt-get install -y chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("headless", "new"), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	w := &window{t: t}
	ctx, cancel := chromedp.NewContext(ctx, chromedp.WithListener(func(ev any) {
		w.mu.Lock()
		defer w.mu.Unlock()
		switch ev := ev.(type) {
		case *log.EventEntryAdded:
			w.problems = append(w.problems, string(ev.Entry.Source)+": "+ev.Entry.Text)
		case *runtime.EventExceptionThrown:
			w.problems = append(w.problems, "exception: "+ev.ExceptionDetails.Text)
		}
	}))
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(cancel)
	w.ctx = ctx
	w.do()
	return w
}

func (w *window) do(steps ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, steps...); err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t.Fatalf("in the browser: %v (it said: %q)", err, w.problems)
	}
}

// until waits for a condition in the page; what is not seen within ten seconds never comes.
func (w *window) until(expression string) {
	w.t.Helper()
	if _, err := chromedp.Run(w.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(10*time.Second))); err != nil {
		html, _ := chromedp.Run(w.ctx, chromedp.OuterHTML(chromedp.CSS("main")))
		w.t.Fatalf("never: %s (%v) in %s", expression, err, html)
	}
}

func (w *window) click(selector string) {
	w.t.Helper()
	// What news put in its place between the look and the press is pressed instead.
	var err error
	for range 5 {
		if err = chromedp.Do(w.ctx, chromedp.Click(chromedp.CSS(selector))); err == nil || !strings.Contains(err.Error(), "Could not find node") {
			break
		}
	}
	if err != nil {
		w.t.Fatalf("press %s: %v", selector, err)
	}
}

// The whole conversation in Chromium: both bindings through a pop-up, live events, and nothing that the policy of the page
// would have to block.
func TestChatInChromium(t *testing.T) {
	s := newStage(t)
	w := openWindow(t)
	w.do(chromedp.EmulateViewport(1280, 800), chromedp.Navigate(s.http.URL+"/"), chromedp.WaitVisible(chromedp.CSS(`button[value="alice"]`)))
	w.click(`button[value="alice"]`)

	w.click(`[data-say="files"]`)
	w.until(`document.querySelector(".card[data-state=waiting] a[data-connect]") !== null`)
	w.click(`a[data-connect]`) // the pop-up consents, comes back to /done, tells this window and closes
	w.until(`document.querySelector("li[data-file]") !== null && document.querySelector(".card[data-state=done]") !== null`)
	w.until(`document.querySelector("#events li[data-type='token.issued'][data-scope~='files.read'][data-outcome=ok]") !== null`)
	w.until(`document.querySelector("#events li").dataset.type === "token.issued"`) // newest on top

	s.halted.Store(time.Now().UnixNano()) // no polling: the broker's message to its opener must do it
	w.click(`[data-binding="code"]`)
	w.click(`[data-say="note"]`)
	w.until(`document.querySelector(".card[data-binding=code] a[data-connect]") !== null`)
	w.click(`.card[data-binding=code] a[data-connect]`)
	w.until(`document.querySelector(".card[data-state=code]") !== null && document.querySelector(".card[data-state=code] a") === null`)
	s.halted.Store(0)
	w.do(chromedp.SendKeys(chromedp.CSS(`input[name="code"]`), "wrong\r"))
	w.until(`document.querySelector(".problem") !== null`)
	w.do(chromedp.Evaluate[chromedp.Void](`document.querySelector("input[name=code]").value = ""`), chromedp.SendKeys(chromedp.CSS(`input[name="code"]`), goodCode+"\r"))
	w.until(`document.querySelectorAll("li[data-file]").length === 2`)

	w.do(chromedp.SendKeys(chromedp.CSS("#text"), "disconnect\r"))
	w.until(`document.querySelector("#log").textContent.includes("gone here and at the provider")`)
	w.until(`document.querySelector("#log").scrollHeight > document.querySelector("#log").clientHeight`)
	w.until(`document.documentElement.scrollHeight <= innerHeight`) // the chat scrolls, the page does not

	w.do(chromedp.EmulateViewport(390, 844))
	w.until(`document.documentElement.scrollWidth <= document.documentElement.clientWidth`)
	w.until(`document.querySelector(".who span").checkVisibility() && document.querySelector(".switch span").checkVisibility()`)
	w.click("#panel-toggle")
	w.until(`document.querySelector("#panel").checkVisibility() && !document.querySelector("#log").checkVisibility()`)

	w.mu.Lock()
	defer w.mu.Unlock()
	for _, problem := range w.problems {
		t.Errorf("the browser complained: %s", problem)
	}
}
