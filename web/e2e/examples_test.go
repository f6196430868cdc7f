package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	esbuild "github.com/evanw/esbuild/pkg/api"

	"tokenbroker/broker"
)

// TestExamplesAreWellFormed: what we publish in TypeScript and JavaScript is TypeScript and JavaScript. Types are not compared, which
// takes a compiler from the npm registry.
func TestExamplesAreWellFormed(t *testing.T) {
	loaders := map[string]esbuild.Loader{".ts": esbuild.LoaderTS, ".tsx": esbuild.LoaderTSX, ".js": esbuild.LoaderJS}
	seen := map[string]int{}
	for _, root := range []string{"../examples", "../sdk", "../../api/sdk/typescript"} {
		if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
			loader, ok := loaders[filepath.Ext(path)]
			if err != nil || entry.IsDir() || !ok {
				return err
			}
			seen[filepath.Ext(path)]++
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			made := esbuild.Transform(string(text), esbuild.TransformOptions{Loader: loader, Sourcefile: path, JSX: esbuild.JSXAutomatic, Target: esbuild.ES2022})
			complain(t, append(made.Errors, made.Warnings...))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if seen[".ts"] < 3 || seen[".tsx"] < 1 || seen[".js"] < 2 {
		t.Errorf("files by kind: %v; the test looks in the wrong place", seen)
	}
}

func complain(t *testing.T, messages []esbuild.Message) {
	t.Helper()
	for _, m := range messages {
		at := "?"
		if m.Location != nil {
			at = fmt.Sprintf("%s:%d:%d", m.Location.File, m.Location.Line, m.Location.Column)
		}
		t.Errorf("%s: %s", at, m.Text)
	}
}

// bundle is the React example with the package that it imports, and testdata/react.js for React.
func bundle(t *testing.T) []byte {
	t.Helper()
	absolute := func(path string) string {
		t.Helper()
		path, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	react := absolute("testdata/react.js")
	built := esbuild.Build(esbuild.BuildOptions{
		Stdin: &esbuild.StdinOptions{
			Contents:   `import { ConnectFiles } from "./ConnectFiles"; import { mount } from "react"; Object.assign(window, { ConnectFiles, mount });`,
			ResolveDir: absolute("../examples/react"),
		},
		Bundle: true, Format: esbuild.FormatESModule, JSX: esbuild.JSXAutomatic, Target: esbuild.ES2022,
		Alias: map[string]string{"react": react, "react/jsx-runtime": react, "tokenbroker-connect": absolute("../../api/sdk/typescript/connect.js")},
	})
	complain(t, append(built.Errors, built.Warnings...))
	if t.Failed() || len(built.OutputFiles) != 1 {
		t.Fatal("the example can't be bundled")
	}
	return built.OutputFiles[0].Contents
}

// TestExampleReact draws the component on a chat's page: its button opens the link of the props that it has by then, it tells whom
// they name, says how it went, shows the link where no window opens, and stops when it is taken away.
func TestExampleReact(t *testing.T) {
	script := bundle(t)
	s := newSite(t)
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/app.js" {
			w.Header().Set("Content-Type", "text/javascript")
			_, _ = w.Write(script)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprint(w, `<!doctype html><html lang="en"><title>Chat</title><main></main><script type="module" src="/app.js"></script></html>`)
	}))
	t.Cleanup(chat.Close)
	var now atomic.Value
	var later atomic.Int64
	s.service.Status = func(link broker.Secret, _ broker.ConsentStatus, _ time.Duration) (broker.LinkStatus, error) {
		if link.Reveal() == "later" && later.Add(1) < 4 {
			return broker.LinkStatus{ConsentID: "cs_1", Status: broker.ConsentStarted, Origins: []string{chat.URL}}, nil
		}
		return broker.LinkStatus{ConsentID: "cs_1", Status: now.Load().(broker.ConsentStatus), Origins: []string{chat.URL}}, nil
	}
	b := openTab(t, startBrowser(t))
	run := func(script string) {
		t.Helper()
		ask(t, b, chromedp.Evaluate[bool]("(() => { "+script+"; return true; })()"))
	}
	wait := func(expression string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); !ask(t, b, chromedp.Evaluate[bool](expression)); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("never %s in %s", expression, ask(t, b, chromedp.Evaluate[string](`document.querySelector("main").innerHTML + " heard " + window.heard`)))
			}
		}
	}
	const place, button, said = `document.querySelector("main")`, `document.querySelector("main section button")`, `document.querySelector("main [role=status]").textContent`
	begin := func(status broker.ConsentStatus) {
		t.Helper()
		now.Store(status)
		b.do(t, chromedp.Navigate(chat.URL))
		wait(`window.mount !== undefined`)
		// Whose props were asked, who was told, and which windows were opened for what.
		run(fmt.Sprintf(`window.heard = []; window.blocked = false;
window.open = (url) => blocked ? null : { closed: false, close() { heard.push("close"); }, location: { replace(to) { heard.push("to " + to); } } };
window.props = (name) => ({ fetchLink: async () => { heard.push("asked " + name); return %q + name; }, onConnected: (consent) => heard.push("told " + name + " " + consent) });
mount(%s, ConnectFiles, props("first"))`, s.url+"/connect/", place))
		wait(button + `.textContent === "Connect your files" && !` + button + `.disabled && ` + said + ` === ""`)
	}
	heard := func(want ...string) {
		t.Helper()
		if got := ask(t, b, chromedp.Evaluate[string](`heard.join(", ")`)); got != strings.Join(want, ", ") {
			t.Errorf("it heard %s", got)
		}
	}

	begin(broker.ConsentStarted)
	run(`window.pressed = ` + button + `; mount(` + place + `, ConnectFiles, props("second"))`)
	wait(`pressed === ` + button)
	b.do(t, chromedp.Click(chromedp.CSS("main button")))
	wait(button + `.disabled && ` + said + `.startsWith("Go on in the window")`)
	now.Store(broker.ConsentAwaitingCompletion)
	wait(said + ` === "One moment."`)
	now.Store(broker.ConsentCompleted)
	wait(said + ` === "Connected." && !` + button + `.disabled && ` + place + `.querySelector("a") === null`)
	heard("asked second", "to "+s.url+"/connect/second", "close", "told second cs_1")

	begin(broker.ConsentDenied)
	b.do(t, chromedp.Click(chromedp.CSS("main button")))
	wait(said + `.startsWith("All right") && !` + button + `.disabled`)
	heard("asked first", "to "+s.url+"/connect/first") // nobody is told that it is connected

	begin(broker.ConsentStarted)
	run(`window.blocked = true`)
	b.do(t, chromedp.Click(chromedp.CSS("main button")))
	wait(place + `.querySelector("a[rel=opener][target=_blank]")?.href === "` + s.url + `/connect/first"`)
	run(`mount(` + place + `)`)
	now.Store(broker.ConsentCompleted)
	// One that is drawn afterwards hears of it when it asks for the fourth time. The one that was taken away would have asked before.
	run(place + `.mounted = null; blocked = false; mount(` + place + `, ConnectFiles, props("later"))`)
	b.do(t, chromedp.Click(chromedp.CSS("main button")))
	wait(said + ` === "Connected."`)
	heard("asked first", "asked later", "to "+s.url+"/connect/later", "close", "told later cs_1")
	b.quiet(t)
}
