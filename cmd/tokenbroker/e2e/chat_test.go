package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

var keepShots = flag.Bool("shots", false, "write screenshots of the demo chat to shots/")

// window is a Chromium tab.
type window struct {
	t   *testing.T
	ctx context.Context
}

func openChromium(t *testing.T, more ...chromedp.ExecAllocatorOption) *window {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("this test needs Chromium: apt-get install -y chromium")
	}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("headless", "new"), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	}, more)...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 12*time.Minute)
	t.Cleanup(cancel)
	w := &window{t: t, ctx: ctx}
	w.do()
	return w
}

func (w *window) do(steps ...chromedp.Action[chromedp.Void]) {
	w.t.Helper()
	if err := chromedp.Do(w.ctx, steps...); err != nil {
		w.t.Fatalf("in the browser: %v", err)
	}
}

// until waits for a condition in the page, whatever page that is by then: windows navigate while one looks.
func (w *window) until(expression string) {
	w.t.Helper()
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		var ok bool
		if ok, err = chromedp.Run(w.ctx, chromedp.Evaluate[bool](expression)); err == nil && ok {
			return
		}
	}
	html, _ := chromedp.Run(w.ctx, chromedp.OuterHTML(chromedp.CSS("main")))
	w.t.Fatalf("never: %s (%v) in %s", expression, err, tail(html, 4000))
}

func (w *window) text(expression string) string {
	w.t.Helper()
	s, err := chromedp.Run(w.ctx, chromedp.Evaluate[string](expression))
	if err != nil {
		w.t.Fatalf("%s: %v", expression, err)
	}
	return s
}

func (w *window) click(selector string) {
	w.t.Helper()
	w.do(chromedp.Click(chromedp.CSS(selector)))
}

// seen waits until exactly these stops of the tour are ticked off.
func (w *window) seen(stops ...string) {
	w.t.Helper()
	w.until(`[...document.querySelectorAll("#tour [data-seen]")].map((e) => e.dataset.stop).join() === "` + strings.Join(stops, ",") + `"`)
}

func (w *window) shoot(name string) {
	w.t.Helper()
	if !*keepShots {
		return
	}
	w.until(`document.getAnimations().every((a) => a.playState !== "running")`)
	png, err := chromedp.Run(w.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.MkdirAll("shots", 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join("shots", name+".png"), png, 0o644)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// popup does something that opens a window and returns that one.
func (w *window) popup(open func()) *window {
	w.t.Helper()
	opened := chromedp.WaitNewTarget(w.ctx, func(info *target.Info) bool { return info.URL != "" })
	open()
	select {
	case id := <-opened:
		ctx, cancel := chromedp.NewContext(w.ctx, chromedp.WithTargetID(id))
		w.t.Cleanup(cancel)
		return &window{t: w.t, ctx: ctx}
	case <-time.After(20 * time.Second):
		w.t.Fatal("no window opened")
		return nil
	}
}

// The product's tour, as a newcomer takes it in a browser: ask the assistant for files, consent in the window that opens,
// see the files, watch the audit trail; more permission later, by a code; disconnect; the assistant asks again.
func TestDemoChatInChromium(t *testing.T) {
	d := startDev(t, "--token-lifetime", "70s") // so that a token is too old for another task after ten seconds
	w := openChromium(t)
	w.do(chromedp.EmulateViewport(1280, 800), chromedp.Navigate(d.chat+"/"), chromedp.WaitVisible(chromedp.CSS(`button[value="alice"]`)))
	w.click(`button[value="alice"]`)
	w.click(`[data-say="files"]`)
	w.until(`document.querySelector(".card[data-state=waiting] a[data-connect]") !== null`)
	w.shoot("1-consent-card")

	p := w.popup(func() { w.click(`a[data-connect]`) })
	p.until(`document.querySelector("form[method=post] button") !== null && location.pathname.startsWith("/connect/")`)
	p.shoot("2-consent-page")
	p.do(chromedp.Click(chromedp.CSS(`button[value="continue"]`)))
	p.until(`document.querySelector("button[value=allow]") !== null`)
	p.shoot("3-provider")
	p.do(chromedp.Click(chromedp.CSS(`input[value="alice"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)))

	w.until(`document.querySelector("li[data-file]") !== null && document.querySelector(".card[data-state=done]") !== null`)
	w.until(`document.querySelector("#events li[data-type='token.issued'][data-scope~='files.read'][data-outcome=ok]") !== null`)
	w.seen("ask", "consent")
	w.shoot("4-files")

	// The link is sent on: whoever uses it connects nothing, with either binding, and the chat can ask again.
	for i, binding := range []string{"return", "code"} {
		w.click(`[data-binding="` + binding + `"]`)
		w.click(`[data-say="note"]`)
		w.until(`document.querySelector(".card[data-state=waiting][data-binding=` + binding + `] [data-forward]") !== null`)
		w.click(`.card[data-state=waiting] [data-forward] button`)
		w.until(fmt.Sprintf(`document.querySelectorAll(".card[data-state=forwarded]").length === %d && document.querySelector(".card[data-state=waiting]") === null`, i+1))
		w.until(fmt.Sprintf(`document.querySelector("#log").textContent.split("subject_mismatch").length === %d`, i+2))
		w.until(fmt.Sprintf(`[...document.querySelectorAll("#events li[data-type='consent.failed']")].filter((e) => e.dataset.outcome === "subject_mismatch").length === %d`, i+1))
	}
	w.seen("ask", "consent", "forward")
	w.shoot("4a-forwarded")

	w.click(`[data-say="note"]`)
	w.until(`document.querySelector(".card[data-state=waiting][data-binding=code] a[data-connect]") !== null`)
	p = w.popup(func() { w.click(`.card[data-state=waiting] a[data-connect]`) })
	p.until(`document.querySelector("button[value=continue]") !== null`)
	p.do(chromedp.Click(chromedp.CSS(`button[value="continue"]`)))
	p.until(`document.querySelector("button[value=allow]") !== null`)
	p.do(chromedp.Click(chromedp.CSS(`input[value="alice"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)))
	p.until(`document.querySelector("output#code") !== null`)
	if at := p.text(`location.href`); at != d.broker+p.text(`location.pathname`) {
		t.Error("the page at the end still carries the provider's answer in its address")
	}
	code := p.text(`document.querySelector("output#code").textContent`)
	p.shoot("5-code")
	w.until(`document.querySelector(".card[data-state=code]") !== null && document.querySelector(".card[data-state=code] a") === null`)
	w.shoot("5a-code-card")
	w.do(chromedp.SendKeys(chromedp.CSS(`.card[data-state=code] input[name="code"]`), code+"\r"))
	w.until(`document.querySelector(".card[data-binding=code][data-state=done]") !== null`)
	p.until(`document.querySelector("#outcome[data-status=completed]") !== null && document.querySelector("h1").textContent.includes("is connected")`)
	p.shoot("5b-connected")
	w.until(`document.querySelector("#log").textContent.includes("buy milk") || document.querySelectorAll("li[data-file]").length > 3`)
	w.seen("ask", "consent", "forward", "more")
	w.shoot("6-note")

	// The token is replaced unseen: until the one at hand is too old the page counts down, then the next question brings a new one.
	w.until(`document.querySelector("#tour time[data-until]") !== null`)
	w.until(`document.querySelector("#tour time[data-until]").textContent === "with your next question" || document.querySelector("[data-stop=refresh]").matches("[data-seen]")`)
	w.click(`[data-say="files"]`)
	w.until(`document.querySelector("#events li[data-type='token.refreshed']") !== null`)
	w.seen("ask", "consent", "refresh", "forward", "more")

	// "My connections": through the broker's page and back, so that it is bound to who is logged in here.
	p = w.popup(func() { w.click(`[data-stop=see] button`) })
	p.until(`document.querySelector("form.choice button.primary") !== null && location.pathname.startsWith("/portal/")`)
	p.do(chromedp.Click(chromedp.CSS(`form.choice button.primary`)))
	p.until(`location.pathname.startsWith("/portal/session/") && location.search === "" && document.querySelector("main").textContent.includes("alice@example.com")`)
	p.until(`document.querySelector("main").textContent.includes("demo-assistant") && document.querySelector("main").textContent.includes("asked in the chat")`)
	p.shoot("6-my-connections")
	if _, err := chromedp.Call(w.ctx, cdppage.BringToFront, cdp.Empty{}); err != nil { // it opened in a tab before the chat's
		t.Fatal(err)
	}
	w.seen("ask", "consent", "refresh", "forward", "more", "see")

	w.do(chromedp.SendKeys(chromedp.CSS("#text"), "disconnect\r"))
	w.until(`document.querySelector("#events li[data-type='connection.revoked']") !== null`)
	w.click(`[data-say="files"]`)
	w.until(`document.querySelector(".card[data-state=waiting] a[data-connect]") !== null`)
	w.seen("ask", "consent", "refresh", "forward", "more", "see", "end", "again")
	w.shoot("7-asks-again")
	w.do(chromedp.EmulateViewport(390, 844))
	w.until(`document.documentElement.scrollWidth <= document.documentElement.clientWidth`)
	w.shoot("8-phone")
}
