package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/providers/sandbox"
)

// This file walks the ways through a consent in a real browser against real processes: a chat platform, the broker, an organisation's
// sign-in, the provider. What the pages look like in each state is web/e2e's.

// town is everything that a person meets on the way.
type town struct {
	*rig
	broker *brokerProcess
	chat   *chatPlatform
	office *office
	api    *api // of acme-chat: bindings return and code
	staff  *api // of staff-chat: binding login
	chrome *window
}

// chatPlatform is a chat platform's page to which consents return. Who is logged in there says a cookie, as in any platform.
type chatPlatform struct {
	origin string

	mu    sync.Mutex
	calls int // completing calls
}

func newTown(t *testing.T) *town {
	t.Helper()
	r := newRig(t, func(c *sandbox.Config) { c.Auto = nil }) // people decide by themselves
	staffKey := "tb_staff-canary-0d2b77aa"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &town{rig: r, chat: &chatPlatform{origin: "http://" + listener.Addr().String()}}
	w.office = withOffice(t, r)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	// The sign-in is staff-chat's; acme-chat keeps the other bindings.
	begin := strings.Index(string(text), "    login:\n")
	end := strings.Index(string(text), "    return_to:")
	login := string(text)[begin:end]
	config := strings.Replace(string(text), login, "", 1)
	config = strings.NewReplacer(`"http://127.0.0.1:3000/`, `"`+w.chat.origin+"/", `"http://127.0.0.1:3000"`, fmt.Sprintf("%q", w.chat.origin)).Replace(config)
	config = strings.Replace(config, "connectors:\n  - id: files", fmt.Sprintf(`  - id: staff-chat
    name: Staff Chat
    tenant: staff
    key_sha256: [%q]
%sconnectors:
  - id: files`, hash(staffKey), login), 1)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.office.AddClient(sandbox.Client{ID: "office-client", Secret: officeSecret, RedirectURIs: []string{r.public + "/oauth2/login/staff-chat"}}); err != nil {
		t.Fatal(err)
	}
	w.broker = r.start()
	w.api, w.staff = w.broker.api(r.key), w.broker.api(staffKey)
	server := &http.Server{Handler: w.site(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	w.chrome = openChromium(t)
	return w
}

// site is the chat platform: /in?who= logs in, /done is where consents return.
func (w *town) site() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /in", func(rw http.ResponseWriter, r *http.Request) {
		http.SetCookie(rw, &http.Cookie{Name: "who", Value: r.URL.Query().Get("who"), Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
		_, _ = rw.Write([]byte("<!doctype html><title>in</title><main>in</main>"))
	})
	m.HandleFunc("GET /done", func(rw http.ResponseWriter, r *http.Request) {
		who, err := r.Cookie("who")
		if err != nil {
			http.Error(rw, "nobody is logged in", http.StatusForbidden)
			return
		}
		q := r.URL.Query()
		result := q.Get("error")
		if code := q.Get("code"); code != "" {
			w.chat.mu.Lock()
			w.chat.calls++
			w.chat.mu.Unlock()
			a, err := w.api.try("POST", "/v1/consents/"+q.Get("consent")+"/complete", object{"subject": who.Value, "code": code})
			if result = a.str("error"); err != nil {
				result = "unreachable"
			} else if a.status == http.StatusOK {
				result = "connected"
			}
		}
		told, _ := json.Marshal(result)
		_, _ = fmt.Fprintf(rw, "<!doctype html><title>done</title><main id=done data-result=%s data-state=%q>done</main>", told, q.Get("state"))
	})
	return m
}

// person opens a browser of somebody's own: no cookie of another one's is in it.
func (w *town) person(t *testing.T, l look, who string) *window {
	t.Helper()
	ctx, cancel := chromedp.NewContext(w.chrome.ctx, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	p := &window{t: t, ctx: ctx}
	p.do(l.emulate(), chromedp.Navigate(w.chat.origin+"/in?who="+who))
	return p
}

// look is the screen that somebody has.
type look struct {
	name          string
	width, height int64
	phone         bool
}

func (l look) emulate() chromedp.Action[chromedp.Void] {
	if l.phone {
		return chromedp.EmulateViewport(l.width, l.height, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	return chromedp.EmulateViewport(l.width, l.height)
}

var looks = []look{{"desktop", 1280, 800, false}, {"phone", 390, 844, true}}

// ask makes a consent.
func (w *town) ask(t *testing.T, c *api, subject string, more ...object) (id, link string) {
	t.Helper()
	a := c.want(201, "POST", "/v1/consents", merge(object{"connector": "files", "subject": subject}, more...))
	return a.str("id"), a.str("url")
}

func (w *town) back(state string) object {
	return object{"return_to": w.chat.origin + "/done", "state": state}
}

func (w *town) status(t *testing.T, c *api, id, want string) {
	t.Helper()
	eventually(t, 10*time.Second, "the consent is "+want, func() error {
		if a := c.want(200, "GET", "/v1/consents/"+id, nil); a.str("status") != want {
			return fmt.Errorf("it is %s", a.raw)
		}
		return nil
	})
}

// journey is one way through a consent, for one person of its own.
type journey struct {
	name string
	walk func(t *testing.T, w *town, l look, who string)
}

var journeys = []journey{
	{"return", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who, w.back("s 1"))
		p.open(link)
		p.goOn()
		p.signIn("alice", "allow")
		p.returned("connected")
		if state := p.text(`document.querySelector("#done").dataset.state`); state != "s 1" {
			t.Errorf("state %q", state)
		}
		w.status(t, w.api, id, "completed")
		w.api.token(who)
		p.reload() // the same code once more: whoever reloads has lost nothing
		p.until(`document.querySelector("#done") !== null && document.querySelector("#done").dataset.result !== ""`)
		w.api.token(who)
	}},
	{"code", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.goOn()
		p.signIn("alice", "allow")
		code := p.code()
		w.api.refused(409, "consent_required", who)
		w.api.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": who, "code": strings.ToLower(code)})
		p.ends("completed") // by itself
		w.api.token(who)
	}},
	{"login", func(t *testing.T, w *town, l look, _ string) {
		p := w.person(t, l, "nobody")
		id, link := w.ask(t, w.staff, "emp-ada")
		p.open(link)
		p.goOn()
		p.signIn("ada", "allow")
		p.until(`location.origin === "` + w.issuer + `"`)
		p.signIn("alice", "allow")
		p.ends("completed")
		w.signedIn(t, id)
	}},
	{"login of another person", func(t *testing.T, w *town, l look, _ string) {
		id, link := w.ask(t, w.staff, "emp-ada")
		p := w.person(t, l, "nobody")
		p.open(link)
		p.goOn()
		p.signIn("mallory", "allow")
		p.refusedWith(403)
		w.status(t, w.staff, id, "pending") // for the one whom it was made for
		w.staff.refused(409, "consent_required", "emp-ada")
		w.staff.refused(409, "consent_required", "emp-mallory")
	}},
	{"cancel", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.click(`button[value="cancel"]`)
		p.ends("denied")
		w.status(t, w.api, id, "denied")
		p.do(chromedp.Navigate(link)) // a link that was used
		p.refusedWith(404)
	}},
	{"cancel, back to the chat", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who, w.back("x"))
		p.open(link)
		p.click(`button[value="cancel"]`)
		p.returned("access_denied")
		w.status(t, w.api, id, "denied")
	}},
	{"deny at the provider", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.goOn()
		p.until(`document.querySelector("button[value=deny]") !== null`)
		p.click(`button[value="deny"]`)
		p.ends("denied")
		p.reload()
		p.ends("denied")
		w.status(t, w.api, id, "denied")
	}},
	{"opened by another person", func(t *testing.T, w *town, l look, who string) {
		id, link := w.ask(t, w.api, who, w.back("x"))
		first, second := w.person(t, l, who), w.person(t, l, who+"-friend")
		second.open(link) // looking does no harm
		first.open(link)
		first.goOn()
		first.until(`document.querySelector("button[value=allow]") !== null`)
		second.goOn()
		second.refusedWith(403)
		second.open(link) // the question, as whoever has the link may read it, and no answer to it
		if html := second.text(`document.documentElement.outerHTML`); strings.Contains(html, who) {
			t.Error("the page tells of the one who opened the link first")
		}
		second.click(`button[value="cancel"]`)
		second.refusedWith(403)
		w.status(t, w.api, id, "started")
		first.signIn("alice", "allow") // and the first one goes on
		first.returned("connected")
		w.api.token(who)
		second.do(chromedp.Navigate(link))
		second.refusedWith(404)
		second.do(chromedp.Navigate(w.public + "/consent/" + id))
		second.refusedWith(404)
	}},
	{"used by another person", func(t *testing.T, w *town, l look, who string) {
		id, link := w.ask(t, w.api, who, w.back("x"))
		p := w.person(t, l, who+"-friend")
		p.open(link)
		p.goOn()
		p.signIn("bob", "allow")
		p.returned("subject_mismatch")
		w.status(t, w.api, id, "awaiting_completion")
		w.api.refused(409, "consent_required", who)
		w.api.refused(409, "consent_required", who+"-friend")
	}},
	{"provider fails at the exchange", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.goOn()
		p.until(`document.querySelector("button[value=allow]") !== null`)
		if err := w.provider.Inject(sandbox.Fault{On: sandbox.TargetCode, Kind: sandbox.KindError, Value: "invalid_grant", Times: 1}); err != nil {
			t.Fatal(err)
		}
		p.signIn("alice", "allow")
		p.ends("failed")
		w.status(t, w.api, id, "failed")
	}},
	{"back button", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		_, link := w.ask(t, w.api, who)
		p.open(link)
		p.goOn()
		p.until(`document.querySelector("button[value=allow]") !== null`)
		p.history(-1)
		p.until(`document.querySelector("button[value=continue]") !== null`)
		p.goOn() // another authorization request; the first one's state is void
		p.signIn("alice", "allow")
		code := p.code()
		p.history(-1) // from the end: nothing is done twice
		p.history(1)
		if again := p.code(); again != code {
			t.Errorf("the code is %s and was %s", again, code)
		}
	}},
	{"reload at each step", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.open(link)
		p.reload()
		p.until(`document.querySelector("button[value=continue]") !== null`)
		p.goOn()
		p.until(`document.querySelector("button[value=allow]") !== null`)
		p.reload()
		p.signIn("alice", "allow")
		code := p.code()
		p.reload()
		if again := p.code(); again != code {
			t.Errorf("the code is %s and was %s", again, code)
		}
		w.api.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": who, "code": code})
		p.ends("completed")
		p.reload()
		p.ends("completed")
	}},
	{"two at once in one browser", func(t *testing.T, w *town, l look, who string) {
		one := w.person(t, l, who)
		ctx, cancel := chromedp.NewContext(one.ctx) // another tab
		defer cancel()
		two := &window{t: t, ctx: ctx}
		first, link := w.ask(t, w.api, who)
		second, other := w.ask(t, w.api, who, object{"connector": "other"})
		one.open(link)
		two.open(other)
		one.goOn()
		two.goOn()
		one.until(`document.querySelector("button[value=allow]") !== null`)
		two.signIn("bob", "allow")
		one.signIn("alice", "allow")
		for id, p := range map[string]*window{first: one, second: two} {
			w.api.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": who, "code": p.code()})
			p.ends("completed")
		}
		for connector, want := range map[string]string{"files": "alice@example.com", "other": "bob@example.com"} {
			if a := w.api.token(who, object{"connector": connector}); a.str("account", "email") != want {
				t.Errorf("%s is connected to %s", connector, a.str("account", "email"))
			}
		}
	}},
	{"no JavaScript", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		id, link := w.ask(t, w.api, who)
		p.noScripts()
		p.do(chromedp.Navigate(link), chromedp.Click(chromedp.CSS(`button[value="continue"]`)), chromedp.WaitVisible(chromedp.CSS(`button[value="allow"]`)),
			chromedp.Click(chromedp.CSS(`input[value="alice"]`)), chromedp.Click(chromedp.CSS(`button[value="allow"]`)), chromedp.WaitVisible(chromedp.CSS("output#code")))
		code, err := chromedp.Run(p.ctx, chromedp.Text(chromedp.CSS("output#code")))
		if err != nil {
			t.Fatal(err)
		}
		w.api.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": who, "code": code})
		p.do(chromedp.Reload(), chromedp.WaitVisible(chromedp.CSS("#outcome[data-status=completed]")))
		w.api.token(who)
	}},
	{"keyboard alone", func(t *testing.T, w *town, l look, who string) {
		p := w.person(t, l, who)
		_, link := w.ask(t, w.api, who, w.back("x"))
		p.open(link)
		p.press(`document.activeElement.value === "continue"`, "\r")
		p.until(`document.querySelector("button[value=allow]") !== null`)
		p.press(`document.activeElement.type === "radio"`, " ")
		p.press(`document.activeElement.value === "allow"`, "\r")
		p.returned("connected")
	}},
}

// Every way through a consent, at a desk and on a phone.
func TestConsentJourneysInChromium(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	n := 0
	for _, j := range slices.Concat(journeys, signInJourneys, outageJourneys) {
		for _, l := range looks {
			n++
			who := fmt.Sprintf("person-%d", n)
			t.Run(j.name+"/"+l.name, func(t *testing.T) {
				w.api.t, w.staff.t = t, t
				defer func() { w.api.t, w.staff.t = w.t, w.t }()
				j.walk(t, w, l, who)
			})
		}
	}
	if out := w.broker.log.String(); strings.Contains(out, "panicked") {
		t.Error("a page panicked")
	}
}
