package demo_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The link is sent on and used by somebody else, who is refused; the chat says so, and the next question brings a new link.
func TestForwardedLink(t *testing.T) {
	s := newStage(t)
	alice := s.signedIn("alice")
	id, state, _ := alice.card(alice.post("/messages", "text", "show my files"))
	if state != "waiting" {
		t.Fatalf("card %s", state)
	}
	page := alice.post("/forward", "consent", id)
	alice.wants(page, "403 subject_mismatch", "Used by somebody else", `data-stop="forward" data-seen`)
	if _, state, _ := alice.card(page); state != "forwarded" {
		t.Errorf("the card is %s", state)
	}
	if len(s.broker.granted) != 0 {
		t.Errorf("connected: %v", s.broker.granted)
	}
	again, state, _ := alice.card(alice.post("/messages", "text", "show my files"))
	if again == id || state != "waiting" {
		t.Errorf("asked again: %s after %s, %s", again, id, state)
	}
	// Of a consent that is not this chat's, and of one whose link does not work, nothing is told as if it had been refused.
	for _, consent := range []string{id, "con_9", ""} {
		if got := strings.Count(alice.post("/forward", "consent", consent), "403 subject_mismatch"); got != 1 {
			t.Errorf("forwarding %q: told %d times", consent, got)
		}
	}
	s.broker.set(func() { clear(s.broker.consents) })
	alice.wants(alice.post("/forward", "consent", again), "could not use the link")
}

// A broker that does not refuse is not praised.
func TestForwardedLinkAccepted(t *testing.T) {
	s := newStage(t)
	alice := s.signedIn("alice")
	id, _, _ := alice.card(alice.post("/messages", "text", "show my files"))
	s.broker.set(func() { s.broker.consents[id].subject = "bob" })
	alice.wants(alice.post("/forward", "consent", id), "That must never happen")
}

// The tour goes on with what was seen, and counts down to the next refresh.
func TestTour(t *testing.T) {
	s := newStage(t)
	alice, bob := s.signedIn("alice"), s.signedIn("bob")
	alice.wants(alice.get("/"), `data-done="0"`, `data-stop="ask" aria-current="step"`)
	id, _, _ := alice.card(alice.post("/messages", "text", "show my files"))
	alice.wants(alice.get("/"), `data-done="1"`, `data-stop="consent" aria-current="step"`)
	s.broker.set(func() { s.broker.life = 90 })
	s.halted.Store(time.Now().UnixNano())
	alice.get("/done?consent=" + id + "&code=" + goodCode)
	alice.wants(alice.get("/"), `data-stop="refresh" aria-current="step"`, ">in 31 s<")
	s.halted.Store(time.Now().Add(time.Minute).UnixNano())
	alice.wants(alice.get("/"), "with your next question")
	s.broker.set(func() { s.broker.event("token.refreshed", "bob", "files.read", "ok") })
	alice.wants(alice.get("/updates?rev=0&seq=0"), `"tour":`, "refresh")
	s.halted.Store(time.Now().Add(2 * time.Minute).UnixNano())
	alice.wants(alice.get("/"), `data-stop="refresh" aria-current="step"`) // bob's is not this one's
	s.broker.set(func() { s.broker.event("token.refreshed", "alice", "files.read", "ok") })
	s.halted.Store(time.Now().Add(3 * time.Minute).UnixNano())
	page := alice.get("/")
	alice.wants(page, `data-stop="refresh" data-seen`, `data-stop="forward" aria-current="step"`)
	_, key, _ := strings.Cut(page, `data-tour="`)
	key, _, _ = strings.Cut(key, `"`)
	if news := alice.get("/updates?rev=0&seq=0&tour=" + key); strings.Contains(news, `"tour"`) {
		t.Error("a tour that did not change is sent again")
	}
	alice.post("/messages", "text", "disconnect")
	alice.wants(alice.get("/"), `data-stop="end" data-seen`)
	s.broker.set(func() { s.broker.event("connection.revoked", "bob", "files.read", "ok") })
	s.halted.Store(time.Now().Add(4 * time.Minute).UnixNano())
	bob.wants(bob.get("/updates?rev=0&seq=0"), "Disconnected")
	bob.wants(bob.get("/"), `data-stop="end" data-seen`) // not in the chat: on "My connections", say
}

// "My connections" opens for whoever is logged in here, and for nobody to whom its link was sent on.
func TestMyConnections(t *testing.T) {
	s := newStage(t)
	alice, bob := s.signedIn("alice"), s.signedIn("bob")
	noRedirects := func(b *browser) {
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	noRedirects(alice)
	to := func(res *http.Response, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.Header.Get("Location")
	}
	if at := to(alice.client.PostForm(s.http.URL+"/connections", nil)); !strings.HasPrefix(at, s.broker.http.URL+"/portal/link?"+s.http.URL+"/portal&") {
		t.Fatalf("led to %q", at)
	}
	const back = "/portal?portal=prt_1&code=" + goodCode
	bob.wants(bob.get(back), "This link was not made for you")
	if at := to(alice.client.Get(s.http.URL + back)); at != s.broker.http.URL+"/portal/session/prt_1" {
		t.Errorf("led to %q", at)
	}
	alice.wants(alice.get("/"), `data-stop="see" data-seen`)
	alice.client.CheckRedirect = nil
	alice.wants(alice.get("/portal?portal=prt_1&code=old"), "That did not work")
	alice.wants(alice.get("/portal"), "Nothing was opened")
	stranger := s.browser()
	stranger.wants(stranger.get(back), "Who is chatting?", `value="/portal?portal=prt_1&amp;code=`)
	if strings.Contains(stranger.seen.String(), "/portal/session/") {
		t.Error("a stranger was led to the list")
	}
}
