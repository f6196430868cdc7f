package e2e

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// office is the organisation whose people use acme-chat: an OpenID Provider of its own, where Ada and Mallory work.
type office struct {
	*sandbox.Server
	issuer string
	front  *front
}

const officeSecret = "office-canary-5f2d9c"

// withOffice makes acme-chat a client whose users sign in at their organisation.
func withOffice(t *testing.T, r *rig) *office {
	t.Helper()
	address := freeAddress(t)
	o := &office{issuer: "http://" + address}
	var err error
	if o.Server, err = sandbox.New(sandbox.Config{
		Issuer: o.issuer, Random: rand.Reader, Now: time.Now, Record: true,
		Clients: []sandbox.Client{{ID: "office-client", Secret: officeSecret, RedirectURIs: []string{r.public + "/oauth2/login/acme-chat"}}},
		Users:   []sandbox.User{{Login: "ada", Sub: "emp-ada", Name: "Ada"}, {Login: "mallory", Sub: "emp-mallory", Name: "Mallory"}},
	}); err != nil {
		t.Fatal(err)
	}
	o.front = newFront(t, address, o.Server)
	t.Cleanup(func() { o.Close() })
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "    return_to:", `    login:
      issuer: `+o.issuer+`
      client_id: office-client
      client_secret: ${OFFICE_SECRET}
    return_to:`, 1)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.env = append(r.env, "OFFICE_SECRET="+officeSecret)
	return o
}

// atOffice signs the person in at the organisation, from where the browser was sent to, and returns the callback's address.
func (b *browser) atOffice(o *office, location, who string) string {
	b.t.Helper()
	if !strings.HasPrefix(location, o.issuer+"/") {
		b.t.Fatalf("sent to %s, want the organisation's provider", location)
	}
	next := location + "&login_hint=" + who + "&auto=allow"
	for range 6 {
		if next = b.get(next).location; strings.Contains(next, "/oauth2/login/") {
			return next
		}
	}
	b.t.Fatalf("the organisation's provider does not send the browser back")
	return ""
}

// signedIn opens a link and signs in; what comes back is what the sign-in's callback answered.
func (b *browser) signedIn(o *office, link, who string) page {
	b.t.Helper()
	return b.get(b.atOffice(o, b.start(link).location, who))
}

// The right person, the wrong one, another account, and everything that people may try with what they have; over two replicas, and
// with a look at where the secrets got to.
func TestConsentWithLogin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := withOffice(t, r)
	one, two := r.start(), r.start()
	monitor := r.redisCLI().monitor()
	var mu sync.Mutex
	var answers bytes.Buffer
	c := two.api(r.key)
	c.seen = func(path string, resp *http.Response, body []byte) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&answers, "%s %v\n%s\n", path, resp.Header, body)
	}
	complete := func(id string) string { return "/v1/consents/" + id + "/complete" }
	const done = "http://127.0.0.1:3000/done"
	var codes []string // of the organisation's provider

	t.Run("the right person", func(t *testing.T) {
		ada := newBrowser(t)
		need := c.refused(409, "consent_required", "emp-ada", object{"return_to": done, "state": "s 1"})
		if got := need.str("consent", "binding"); got != "login" {
			t.Errorf("binding %q: %s", got, need.raw)
		}
		link, id := need.str("consent", "url"), need.str("consent", "id")
		opened := ada.get(link)
		if !strings.Contains(opened.body, "You sign in at your own organisation") {
			t.Error("the page does not say that there is a sign-in first")
		}
		callback := ada.atOffice(o, ada.start(link).location, "ada")
		codes = append(codes, query(t, callback, "code"))
		on := ada.get(two.through(callback)) // at the other replica
		if on.status != 303 || !strings.HasPrefix(on.location, r.issuer+"/authorize?") {
			t.Fatalf("after the sign-in: %d %s\n%s", on.status, on.location, tail(on.body, 2000))
		}
		if got := c.want(200, "GET", "/v1/consents/"+id, nil); got.str("status") != "started" || got.str("binding") != "login" {
			t.Errorf("meanwhile: %s", got.raw)
		}
		if a := c.want(400, "POST", complete(id), object{"subject": "emp-ada", "code": "BCDF-GHJK"}); a.str("error") != "invalid_request" || !strings.Contains(a.str("error_description"), "no completing call is needed") {
			t.Errorf("a completing call: %s", a.raw)
		}
		back := ada.get(ada.atProvider(on.location))
		if want := done + "?consent=" + id + "&state=s+1"; back.status != 303 || back.location != want {
			t.Fatalf("at the end: %d %q, want %q", back.status, back.location, want)
		}
		if got := c.want(200, "GET", "/v1/consents/"+id, nil); got.str("status") != "completed" || got.str("connection") == "" {
			t.Errorf("afterwards: %s", got.raw)
		}
		c.token("emp-ada")
		c.want(400, "POST", complete(id), object{"subject": "emp-ada", "code": "BCDF-GHJK"})
		if again := ada.get(two.through(callback)); again.status != 400 {
			t.Errorf("the sign-in's callback again: %d", again.status)
		}
		if page := ada.get(r.public + "/consent/" + id); page.status != 200 || !strings.Contains(page.body, "is connected") {
			t.Errorf("the page at the end: %d", page.status)
		}
		var types []string
		for _, e := range c.events(url.Values{"subject": {"emp-ada"}}) {
			if kind := e["type"].(string); strings.HasPrefix(kind, "consent.") && kind != "consent.failed" && !slices.Contains(types, kind) {
				types = append(types, kind) // the refused completing call failed
			}
		}
		if want := []string{"consent.created", "consent.started", "consent.signed_in", "consent.granted", "consent.completed"}; !slices.Equal(types, want) {
			t.Errorf("events %q", types)
		}
	})

	// Threats 2 and 3: whoever has the link, the callback or the provider's address of another person gets nowhere with it.
	t.Run("the wrong person", func(t *testing.T) {
		mallory, ada := newBrowser(t), newBrowser(t)
		before := r.provider.Stats().TokenRequests["authorization_code"]
		consent := c.consent("emp-mallory")
		link, id := consent.str("url"), consent.str("id")
		wrong := ada.signedIn(o, link, "ada")
		if wrong.status != 403 || !strings.Contains(wrong.body, "This link is for somebody else") || wrong.location != "" {
			t.Fatalf("the victim: %d %q\n%s", wrong.status, wrong.location, tail(wrong.body, 2000))
		}
		if got := c.want(200, "GET", "/v1/consents/"+id, nil); got.str("status") != "pending" {
			t.Errorf("after the victim: %s", got.raw)
		}
		failed := c.events(url.Values{"subject": {"emp-mallory"}, "type": {"consent.failed"}})
		if len(failed) != 1 || failed[0]["outcome"] != "subject_mismatch" {
			t.Errorf("events %v", failed)
		}
		// Mallory signs in, and sends the victim on from there: with the sign-in's callback, then to the provider.
		callback := mallory.atOffice(o, mallory.start(link).location, "mallory")
		if got := ada.get(callback); got.status != 403 || got.location != "" {
			t.Errorf("another browser at the sign-in's callback: %d", got.status)
		}
		on := mallory.get(callback)
		if on.status != 303 {
			t.Fatalf("mallory: %d\n%s", on.status, tail(on.body, 2000))
		}
		if got := ada.get(ada.atProvider(on.location)); got.status != 403 || !strings.Contains(got.body, "began in another browser") {
			t.Errorf("another browser at the provider's callback: %d", got.status)
		}
		// A code of mallory's sign-in under the victim's state, and the other way round.
		second := c.consent("emp-ada", object{"connector": "other"})
		hers := ada.atOffice(o, ada.start(second.str("url")).location, "ada")
		mixed := strings.Replace(hers, url.QueryEscape(query(t, hers, "code")), url.QueryEscape(query(t, callback, "code")), 1)
		if got := ada.get(mixed); got.status != 400 || got.location != "" {
			t.Errorf("another sign-in's code: %d %s", got.status, got.location)
		}
		if n := r.provider.Stats().TokenRequests["authorization_code"]; n != before {
			t.Errorf("%d codes of the provider were redeemed", n-before)
		}
		for range 3 { // five in all for her own link, with the one above
			third := ada.signedIn(o, second.str("url"), "mallory")
			if third.status != 403 {
				t.Errorf("somebody else at ada's link: %d", third.status)
			}
		}
		if last := ada.signedIn(o, second.str("url"), "mallory"); last.status != 403 {
			t.Errorf("the fifth: %d", last.status)
		}
		if got := c.want(200, "GET", "/v1/consents/"+second.str("id"), nil); got.str("status") != "failed" || got.str("error") != "too_many_attempts" {
			t.Errorf("after five: %s", got.raw)
		}
		c.refused(409, "consent_required", "emp-mallory")
	})

	// Threat 4: another account than before is connected when the user has said so, and not else.
	t.Run("another account", func(t *testing.T) {
		conn := c.want(200, "GET", "/v1/connections?subject=emp-ada", nil).list("connections")[0]["id"].(string)
		account := func() string {
			a := c.token("emp-ada", object{"connection": conn})
			return a.str("account", "email")
		}
		for _, answer := range []string{"keep", "replace"} {
			ada := newBrowser(t)
			consent := c.consent("emp-ada", object{"connection": conn, "return_to": done})
			on := ada.signedIn(o, consent.str("url"), "ada")
			ada.hint = "bob" // at the provider she uses another account
			asks := ada.follow(ada.get(ada.atProvider(on.location)))
			for _, words := range []string{"another account than before", "alice@example.com", "bob@example.com", ">Replace<", ">Keep the old one<"} {
				if !strings.Contains(asks.body, words) {
					t.Fatalf("%s: the page lacks %q: %d\n%s", answer, words, asks.status, tail(asks.body, 2500))
				}
			}
			if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != "awaiting_completion" || account() != "alice@example.com" {
				t.Errorf("%s: before the answer: %s", answer, got.raw)
			}
			revoked := r.provider.Stats().Revocations
			form := asks.form()
			form.Set("action", answer)
			if got := newBrowser(t).post(asks.url, form); got.status != 403 {
				t.Errorf("%s: another browser answers: %d", answer, got.status)
			}
			got := ada.post(two.through(asks.url), form)
			want, mail, status := done+"?consent="+consent.str("id"), "bob@example.com", "completed"
			if answer == "keep" {
				want, mail, status = want+"&error=access_denied", "alice@example.com", "denied"
			}
			if got.status != 303 || got.location != want {
				t.Errorf("%s: %d %q, want %q\n%s", answer, got.status, got.location, want, tail(got.body, 1500))
			}
			if now := account(); now != mail {
				t.Errorf("%s: the account is %s", answer, now)
			}
			if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != status {
				t.Errorf("%s: %s", answer, got.raw)
			}
			r.eventually(10*time.Second, answer+": the grant that nobody needs is revoked", func() error {
				if n := r.provider.Stats().Revocations - revoked; n != 1 {
					return fmt.Errorf("%d revocations", n)
				}
				return nil
			})
		}
	})

	// The organisation's provider goes away: a plain page, the link stays good.
	t.Run("the organisation does not answer", func(t *testing.T) {
		ada := newBrowser(t)
		consent := c.consent("emp-ada", object{"connector": "other"})
		callback := ada.atOffice(o, ada.start(consent.str("url")).location, "ada")
		o.front.down()
		if got := ada.get(callback); got.status != 503 || got.header.Get("Retry-After") == "" || !strings.Contains(got.body, "Your organisation&#39;s sign-in") {
			t.Errorf("%d\n%s", got.status, tail(got.body, 1500))
		}
		if got := c.want(200, "GET", "/v1/consents/"+consent.str("id"), nil); got.str("status") != "pending" {
			t.Error(got.raw)
		}
	})

	logs, traffic := one.log.String()+two.log.String(), string(monitor())
	for _, secret := range append(codes, officeSecret, "emp-ada") {
		for where, text := range map[string]string{"a log": logs, "redis": traffic} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in %s", secret[:8], where)
			}
		}
		if secret != "emp-ada" && strings.Contains(answers.String(), secret) {
			t.Errorf("%s is in an answer", secret[:8])
		}
	}
}
