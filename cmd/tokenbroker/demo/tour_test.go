package demo_test

import (
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
	alice := s.signedIn("alice")
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
}
