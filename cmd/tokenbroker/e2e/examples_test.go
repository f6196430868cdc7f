package e2e

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	esbuild "github.com/evanw/esbuild/pkg/api"

	"tokenbroker/vault/vaulttest"
)

const examples = "../../../web/examples/"

// backend is an example that runs.
type backend struct {
	t   *testing.T
	url string
	log *lockedBuffer
}

// newBackend starts the program with the settings that the examples share.
func (r *rig) newBackend(address string, env []string, program string, args ...string) *backend {
	r.t.Helper()
	b := &backend{t: r.t, url: "http://" + address, log: &lockedBuffer{}}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), append(env, "BROKER_URL="+r.brokers[len(r.brokers)-1].url, "BROKER_KEY="+r.key, "PUBLIC_URL="+b.url, "LISTEN="+port, "PYTHONDONTWRITEBYTECODE=1")...)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a launcher's children end with it
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if r.t.Failed() {
			r.t.Logf("the example said:\n%s", tail(b.log.String(), 4000))
		}
	})
	r.eventually(20*time.Second, "the example listens", func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return b
}

// python finds the interpreter for the examples.
func python(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal("this test runs the examples: apt-get install -y python3")
	}
	return program
}

// compiled is the Go example as a program.
func compiled(t *testing.T) string {
	t.Helper()
	program := filepath.Join(vaulttest.Dir(t), "example")
	if out, err := exec.Command("go", "build", "-o", program, "tokenbroker/web/examples/go").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// The three backends do the same: who is logged in connects; a link that somebody else follows, a state that is wrong or
// used, and somebody without a session connect nothing.
func TestExampleBackends(t *testing.T) {
	t.Parallel()
	for _, language := range []string{"go", "python", "typescript"} {
		t.Run(language, func(t *testing.T) {
			address := freeAddress(t)
			r := newRig(t)
			r.edit(`return_to: ["http://127.0.0.1:3000/done"]`, `return_to: ["http://`+address+`/done"]`)
			c := r.start().api(r.key)
			var b *backend
			switch language {
			case "go":
				b = r.newBackend(address, nil, compiled(t))
			case "python":
				b = r.newBackend(address, nil, python(t), examples+"python/server.py")
			case "typescript":
				b = r.newBackend(address, nil, node(t), javascript(t, examples+"typescript/server.ts"))
			}
			b.connects(c)
		})
	}
}

// node finds the runtime of the TypeScript example.
func node(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("this test runs the examples: apt-get install -y nodejs")
	}
	return program
}

// javascript makes a program of the example for any Node.js from 18 on, which is Debian 12's: only newer ones strip types by
// themselves.
func javascript(t *testing.T, source string) string {
	t.Helper()
	program := filepath.Join(vaulttest.Dir(t), "server.mjs")
	built := esbuild.Build(esbuild.BuildOptions{
		EntryPoints: []string{source}, Outfile: program, Write: true,
		Format: esbuild.FormatESModule, Platform: esbuild.PlatformNode, Engines: []esbuild.Engine{{Name: esbuild.EngineNode, Version: "18"}},
	})
	for _, m := range append(built.Errors, built.Warnings...) {
		t.Errorf("%s: %+v: %s", source, m.Location, m.Text)
	}
	if t.Failed() {
		t.FailNow()
	}
	return program
}

// person is somebody's browser, logged in at the example.
func (b *backend) person(user string) *browser {
	b.t.Helper()
	p := newBrowser(b.t)
	if user != "" {
		if got := p.post(b.url+"/login", url.Values{"user": {user}}); got.status != 200 {
			b.t.Fatalf("login: %d %s", got.status, got.body)
		}
	}
	return p
}

func (b *backend) link(p *browser) string {
	b.t.Helper()
	got := p.post(b.url+"/link", nil)
	var answer struct{ URL string }
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || got.status != 200 || answer.URL == "" {
		b.t.Fatalf("link: %d %s", got.status, got.body)
	}
	return answer.URL
}

func (b *backend) connects(c *api) {
	t := b.t
	t.Helper()
	if got := b.person("").post(b.url+"/link", nil); got.status != 401 {
		t.Errorf("a link for nobody: %d %s", got.status, got.body)
	}
	refused := func(what string, got page) {
		t.Helper()
		if got.status < 400 || got.status > 499 || !strings.Contains(got.body, "Nothing was connected") {
			t.Errorf("%s: %d %s", what, got.status, got.body)
		}
		for _, subject := range []string{"ada", "bob", "mallory"} {
			c.refused(409, "consent_required", subject)
		}
	}
	// Mallory's link in Bob's browser: it comes back to Bob's session, which began nothing, or something else.
	mallory, bob := b.person("mallory"), b.person("bob")
	back := bob.consent(b.link(mallory)).location
	refused("a forwarded link", bob.get(back))
	b.link(bob)
	refused("a forwarded link, with a consent of the own under way", bob.get(back))
	refused("the same, by somebody who is not logged in", b.person("").get(back))
	state := query(t, bob.consent(b.link(bob)).location, "state")
	consent := query(t, back, "consent")
	refused("the own state with the code of another", bob.get(b.url+"/done?consent="+consent+"&code="+query(t, back, "code")+"&state="+state))
	ada := b.person("ada")
	back = ada.consent(b.link(ada)).location
	refused("a wrong state", ada.get(strings.Replace(back, "state=", "state=x", 1)))
	refused("a state that was used", ada.get(back))
	refused("no state", ada.get(b.url+"/done?consent="+consent+"&code=x"))

	back = ada.consent(b.link(ada)).location
	if got := ada.get(back); got.status != 200 || !strings.HasPrefix(got.body, "Connected.") {
		t.Errorf("the right one: %d %s", got.status, got.body)
	}
	if c.token("ada").str("access_token") == "" {
		t.Error("no token")
	}
	if strings.Contains(b.log.String(), query(t, back, "code")) || strings.Contains(b.log.String(), c.key) {
		t.Error("the example logs a code or its key")
	}
}

// The plain page, with the Go example behind it: the link is fetched while the window opens.
func TestExamplePage(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	r := newRig(t)
	r.edit(`return_to: ["http://127.0.0.1:3000/done"]`, `return_to: ["http://`+address+`/done"]`)
	r.edit(`origins: ["http://127.0.0.1:3000"]`, `origins: ["http://`+address+`"]`)
	c := r.start().api(r.key)
	text, err := os.ReadFile(examples + "html/index.html")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "https://broker.example") != 1 {
		t.Fatal("the page does not name the broker once")
	}
	dir := vaulttest.Dir(t)
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(strings.Replace(string(text), "https://broker.example", r.public, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b := r.newBackend(address, []string{"PAGES=" + dir}, compiled(t))
	w := openChromium(t)
	w.do(chromedp.Navigate(b.url + "/"))
	w.click("#connect")
	w.until(`document.querySelector("#result").textContent.includes("log in first") && !document.querySelector("#connect").disabled`)
	w.until(`(() => { fetch("/login", { method: "POST", body: new URLSearchParams({ user: "ada" }) }).then(() => { window.loggedIn = true; }); return true; })()`)
	w.until(`window.loggedIn === true`)
	p := w.popup(func() { w.click("#connect") })
	p.until(`location.pathname.startsWith("/connect/")`)
	p.agree()
	w.until(`document.querySelector("#result").textContent.includes("Here are your files")`)
	w.gone(p)
	c.token("ada")
}

// The Slack command: the code that the page showed is typed by whoever Slack says it is.
func TestExampleSlackBot(t *testing.T) {
	t.Parallel()
	const secret = "slack-canary-2f6d"
	r := newRig(t)
	c := r.start().api(r.key)
	b := r.newBackend(freeAddress(t), []string{"SLACK_SIGNING_SECRET=" + secret}, python(t), examples+"slack/bot.py")
	send := func(user, text, secret string, at time.Time) (int, string) {
		t.Helper()
		body, stamp := url.Values{"team_id": {"T1"}, "user_id": {user}, "text": {text}}.Encode(), fmt.Sprint(at.Unix())
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte("v0:" + stamp + ":" + body))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", b.url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("X-Slack-Request-Timestamp", stamp)
		req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, _ := io.ReadAll(resp.Body)
		var answer struct {
			Text string
			Type string `json:"response_type"`
		}
		if resp.StatusCode == 200 && (json.Unmarshal(raw, &answer) != nil || answer.Type != "ephemeral") {
			t.Errorf("answer %s", raw)
		}
		return resp.StatusCode, answer.Text
	}
	say := func(user, text string) string {
		t.Helper()
		status, said := send(user, text, secret, time.Now())
		if status != 200 {
			t.Fatalf("%s: %d", text, status)
		}
		return said
	}
	for name, status := range map[string]int{
		"another secret": first(send("U1", "", "wrong", time.Now())), "an old request": first(send("U1", "", secret, time.Now().Add(-6*time.Minute))), "one of tomorrow": first(send("U1", "", secret, time.Now().Add(6*time.Minute))),
	} {
		if status != 401 {
			t.Errorf("%s: %d", name, status)
		}
	}
	said := say("U1", "")
	link := regexp.MustCompile(`<(http[^|]+)\|`).FindStringSubmatch(said)
	if link == nil {
		t.Fatalf("it says %q", said)
	}
	code := newBrowser(t).consent(link[1]).code(t)
	if said := say("U2", "code "+code); strings.Contains(said, "Connected") {
		t.Errorf("the code of one helps another: %q", said)
	}
	if said := say("U1", "code BCDF-GHJK"); !strings.Contains(said, "not the code") {
		t.Errorf("a wrong code: %q", said)
	}
	if said := say("U1", "code "+strings.ToLower(code)); !strings.HasPrefix(said, "Connected. Here are your files") {
		t.Errorf("the right code: %q", said)
	}
	if said := say("U1", ""); said != "Here are your files." {
		t.Errorf("afterwards: %q", said)
	}
	c.token("slack:T1:U1")
	c.refused(409, "consent_required", "slack:T1:U2")
}

func first(status int, _ string) int { return status }
