package e2e

import (
	"context"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// startBrowser starts Chromium for one test and its subtests.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("these tests need Chromium: apt-get install -y chromium")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("headless", "new"), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		// The tests' servers stand for hosts of the internet; nothing real is ever asked.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
	)
	ctx, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return ctx
}

// tab is one window with cookies of its own.
type tab struct {
	ctx context.Context

	weight, loaded atomic.Int64 // bytes and files that came over the wire

	mu       sync.Mutex
	problems []string
}

// openTab opens one. Whatever the browser complains about (a blocked style, a refused form, an exception) is kept.
func openTab(t *testing.T, browser context.Context) *tab {
	t.Helper()
	b := &tab{}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext(), chromedp.WithListener(func(ev any) {
		var text string
		switch ev := ev.(type) {
		case *log.EventEntryAdded:
			text = string(ev.Entry.Source) + ": " + ev.Entry.Text
		case *network.EventLoadingFinished:
			b.weight.Add(int64(ev.EncodedDataLength))
			b.loaded.Add(1)
			return
		case *runtime.EventExceptionThrown:
			text = "exception: " + ev.ExceptionDetails.Text
		default:
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.problems = append(b.problems, text)
	}))
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 10*time.Minute) // seconds, on a machine with nothing else to do
	t.Cleanup(cancel)
	b.ctx = ctx
	return b
}

func (b *tab) do(t *testing.T, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		t.Fatalf("in the browser: %v (it said: %v)", err, b.said())
	}
}

// ask runs an action that has a value.
func ask[T any](t *testing.T, b *tab, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(b.ctx, a)
	if err != nil {
		t.Fatalf("in the browser: %v (it said: %v)", err, b.said())
	}
	return v
}

func (b *tab) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.problems...)
}

// quiet fails the test if the browser complained, statuses that were meant excepted.
func (b *tab) quiet(t *testing.T) {
	t.Helper()
	for _, s := range b.said() {
		if !strings.HasPrefix(s, "network: Failed to load resource: the server responded with a status of 4") && !strings.HasPrefix(s, "network: Failed to load resource: the server responded with a status of 50") {
			t.Errorf("the browser complained: %s", s)
		}
	}
}

// look is how somebody looks at a page.
type look struct {
	name          string
	width, height int64
	scheme        string
}

var (
	phone       = look{"phone", 390, 844, "light"}
	phoneDark   = look{"phone-dark", 390, 844, "dark"}
	smallPhone  = look{"small-phone", 320, 568, "light"}
	desktop     = look{"desktop", 1280, 800, "light"}
	desktopDark = look{"desktop-dark", 1280, 800, "dark"}
)

func (b *tab) with(t *testing.T, l look) {
	t.Helper()
	var opts []chromedp.EmulateViewportOption
	if l.width < 500 {
		opts = append(opts, chromedp.EmulateMobile)
	}
	b.do(t, chromedp.EmulateViewport(l.width, l.height, opts...))
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		// Without motion, so that no colour is measured on its way to another.
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
	}); err != nil {
		t.Fatalf("set color scheme: %v", err)
	}
}

// lowContrast lists the texts of the page whose contrast is under 4.5, by the formula of WCAG 2.2 (1.4.3).
const lowContrast = `(() => {
  const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return m.length < 4 ? [...m, 1] : m; };
  const lum = (c) => { const [r, g, b] = c.map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || ["SCRIPT", "STYLE", "OPTION"].includes(e.tagName) || !e.checkVisibility()) continue;
    const a = lum(parse(getComputedStyle(e).color).slice(0, 3)), b = lum(behind(e).slice(0, 3));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) bad.push(ratio.toFixed(2) + " " + walk.currentNode.data.trim().slice(0, 40));
  }
  return bad;
})()`

// smallTargets lists what can be pressed and is lower than 44 pixels.
const smallTargets = `[...document.querySelectorAll("button, a, input:not([type=hidden]), select, summary")]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 60))`

// wellMade checks what can be measured about how a page looks, in every look.
func (b *tab) wellMade(t *testing.T) {
	t.Helper()
	for _, l := range []look{smallPhone, phone, phoneDark, desktop, desktopDark} {
		b.with(t, l)
		if wide := ask(t, b, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > document.documentElement.clientWidth`)); wide {
			t.Errorf("%s: the page is wider than the window", l.name)
		}
		if bad := ask(t, b, chromedp.Evaluate[[]string](lowContrast)); len(bad) > 0 {
			t.Errorf("%s: contrast under 4.5: %q", l.name, bad)
		}
		if bad := ask(t, b, chromedp.Evaluate[[]string](smallTargets)); len(bad) > 0 {
			t.Errorf("%s: too small to press: %q", l.name, bad)
		}
	}
}
