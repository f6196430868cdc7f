package demo_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestReturnBinding(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	page := b.post("/messages", "text", "Show my files")
	b.wants(page, "I need access to your files", "See your files", `href="`+s.broker.http.URL+`/connect/link-con_1"`)
	id, state, binding := b.card(page)
	if state != "waiting" || binding != "return" {
		t.Errorf("state %s, binding %s", state, binding)
	}
	body := s.broker.tokenBodies[0]
	if body["return_to"] != s.http.URL+"/done" || body["state"] == "" || body["subject"] != "alice" {
		t.Errorf("token request %v", body)
	}
	back := b.get("/done?" + url.Values{"consent": {id}, "code": {goodCode}, "state": {body["state"].(string)}}.Encode())
	b.wants(back, "Connected", "alice at files")
	b.lacks(back, goodCode)
	page = b.get("/")
	b.wants(page, "Here are the files of alice at files", "data-file=\"f1\"", "2.0 KB")
	if _, state, _ = b.card(page); state != "done" {
		t.Errorf("state %s", state)
	}
	b.lacks(page, "/connect/link-")

	// Asked again there is no card: the broker has a token.
	b.lacks(b.post("/messages", "text", "show my documents"), `data-state="waiting"`)

	// Writing takes another consent.
	page = b.post("/messages", "text", "Save a note: buy milk")
	b.wants(page, "but not for this", "Create files for you")
	id, _, _ = b.card(page)
	b.get("/done?consent=" + id + "&code=" + goodCode)
	b.wants(b.get("/"), "Saved as a new file", "data-file=\"f9\"")

	if strings.Contains(b.seen.String(), accessToken) || strings.Contains(b.seen.String(), apiKey) {
		t.Error("a secret reached the browser")
	}
}

func TestReloadOfDoneCompletesNothingAgain(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("alice")
	id, _, _ := b.card(b.post("/messages", "text", "files"))
	b.get("/done?consent=" + id + "&code=" + goodCode)
	b.get("/finished")
	b.get("/finished")
	if n := s.broker.called("POST /v1/consents/" + id + "/complete"); n != 1 {
		t.Errorf("%d completing calls", n)
	}
}

// Threat 3: somebody else opens the link and comes back here as themselves.
func TestWrongPerson(t *testing.T) {
	s := newStage(t)
	alice, bob := s.signedIn("alice"), s.signedIn("bob")
	id, _, _ := alice.card(alice.post("/messages", "text", "files"))
	back := bob.get("/done?consent=" + id + "&code=" + goodCode)
	bob.wants(back, "This link was not made for you", "Nothing was connected", "You are Bob here")
	if _, state, _ := alice.card(alice.get("/")); state != "waiting" {
		t.Errorf("state %s", state)
	}
}

func TestNotSignedInAtDone(t *testing.T) {
	s := newStage(t)
	alice := s.signedIn("alice")
	id, _, _ := alice.card(alice.post("/messages", "text", "files"))
	other := s.browser() // alice at another device
	page := other.get("/done?consent=" + id + "&code=" + goodCode)
	other.wants(page, "Who is chatting?", `name="next"`)
	if n := s.broker.called("POST /v1/consents/" + id + "/complete"); n != 0 {
		t.Error("completed without knowing for whom")
	}
	other.wants(other.post("/session", "user", "alice", "next", "/done?consent="+id+"&code="+goodCode), "Connected")
	// The conversation that asked hears of it from the broker.
	alice.get("/updates?rev=0&seq=0&check")
	alice.wants(alice.get("/"), "Thank you, that worked.", "data-file=\"f1\"")
}

func TestSignInRedirectsNowhereElse(t *testing.T) {
	s := newStage(t)
	for _, next := range []string{"https://evil.example/", "//evil.example", `/\evil.example`, "/done.evil", "javascript:alert(1)"} {
		b := s.browser()
		b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		res, err := b.client.PostForm(s.http.URL+"/session", url.Values{"user": {"alice"}, "next": {next}})
		b.read(res, err)
		if got := res.Header.Get("Location"); got != "/" {
			t.Errorf("%s: Location %s", next, got)
		}
	}
}

func TestCodeBinding(t *testing.T) {
	s := newStage(t)
	b := s.signedIn("bob")
	b.post("/binding", "binding", "code")
	page := b.post("/messages", "text", "files")
	id, _, binding := b.card(page)
	if _, present := s.broker.tokenBodies[0]["return_to"]; present || binding != "code" {
		t.Errorf("binding %s, return_to present: %v", binding, present)
	}
	b.wants(page, `name="code"`, "data-connect")
	page = b.post("/code", "consent", id, "code", goodCode) // too early
	b.wants(page, "Finish in the other window first", "data-connect")
	s.broker.set(func() { s.broker.consents[id].status = "awaiting_completion" })
	b.get("/updates?rev=0&seq=0&check")
	page = b.get("/")
	if _, state, _ := b.card(page); state != "code" {
		t.Errorf("state %s", state)
	}
	// The link is used: opening it again would only replace the page that shows the code.
	b.wants(page, "The window that opened shows a short code now", "Ask again")
	b.lacks(page, "data-connect", "/connect/link-", "Finish in the other window")
	page = b.post("/code", "consent", id, "code", "WRONG")
	b.wants(page, "That code is not right")
	b.lacks(page, "data-file")
	b.post("/code", "consent", "con_999", "code", goodCode) // not this conversation's
	if n := s.broker.called("POST /v1/consents/con_999/complete"); n != 0 {
		t.Error("a consent of elsewhere was completed")
	}
	b.wants(b.post("/code", "consent", id, "code", " "+goodCode+" "), "Thank you!", "data-file=\"f1\"")
}

// askedByCode is a user before a card that waits for its code.
func (s *stage) askedByCode(user string) (b *browser, id string) {
	b = s.signedIn(user)
	b.post("/binding", "binding", "code")
	id, _, _ = b.card(b.post("/messages", "text", "files"))
	s.broker.set(func() { s.broker.consents[id].status = "awaiting_completion" })
	b.get("/updates?rev=0&seq=0&check")
	return b, id
}

// Whoever types the code where they type everything else means the code.
func TestCodeInTheMessageBox(t *testing.T) {
	for _, typed := range []string{"WDJB-MJHT", "wdjb mjht", "WdjbMjht", " wdjb – mjht ", "w d j b m j h t"} {
		s := newStage(t)
		b, id := s.askedByCode("bob")
		page := b.post("/messages", "text", typed)
		if _, state, _ := b.card(page); state != "done" {
			t.Errorf("%q: state %s", typed, state)
		}
		if n := s.broker.called("POST /v1/consents/" + id + "/complete"); n != 1 {
			t.Errorf("%q: %d completing calls", typed, n)
		}
		b.wants(page, "Thank you!", "data-file=\"f1\"", "••••-••••")
		b.lacks(page, `<p class="bubble">`+strings.TrimSpace(typed))
	}

	s := newStage(t)
	b, id := s.askedByCode("bob")
	page := b.post("/messages", "text", "bbbb-bbbb")
	b.wants(page, "That code is not right. Look at the other window again; after five wrong ones you must start over.</p>\n\n\n</li>", `class="problem"`)
	for _, words := range []string{"show my files", "document", "WDJB", "WDJB-MJHT-WDJB", "disconnect"} {
		b.post("/messages", "text", words)
	}
	if n := s.broker.called("POST /v1/consents/" + id + "/complete"); n != 1 {
		t.Errorf("%d completing calls for one code", n)
	}

	// Where no code is awaited it is a message like any other.
	b = s.signedIn("alice")
	b.post("/messages", "text", "files") // binding return
	b.wants(b.post("/messages", "text", goodCode), "I can show your files", goodCode)
}

func TestAskAgainForACode(t *testing.T) {
	s := newStage(t)
	b, first := s.askedByCode("bob")
	page := b.post("/again", "consent", first)
	second, state, binding := b.card(page)
	if second == first || state != "waiting" || binding != "code" {
		t.Errorf("consent %s after %s, state %s, binding %s", second, first, state, binding)
	}
	b.wants(page, "Asked again below", "/connect/link-"+second)
	b.post("/again", "consent", first) // pressed twice
	if n := len(s.broker.tokenBodies); n != 2 {
		t.Errorf("%d token requests", n)
	}
	s.broker.set(func() { s.broker.consents[second].status = "awaiting_completion" })
	b.wants(b.post("/code", "consent", second, "code", goodCode), "Thank you!", "data-file=\"f1\"")
}

func TestConsentEndsElsewhere(t *testing.T) {
	s := newStage(t)
	for status, want := range map[string]string{"denied": "You said no", "failed": "Not connected", "expired": "The link ran out"} {
		b := s.signedIn("alice")
		id, _, _ := b.card(b.post("/messages", "text", "files"))
		s.broker.set(func() { s.broker.consents[id].status = status })
		if status == "denied" { // the broker sends the browser back without a code
			b.wants(b.get("/done?consent="+id+"&error=access_denied"), `<h1 class="calm">Nothing was connected`)
		} else {
			b.get("/updates?rev=0&seq=0&check")
		}
		page := b.get("/")
		b.wants(page, want)
		if _, state, _ := b.card(page); state != status {
			t.Errorf("%s: state %s", status, state)
		}
	}
	b := s.signedIn("alice")
	id, _, _ := b.card(b.post("/messages", "text", "files"))
	s.broker.set(func() { delete(s.broker.consents, id) })
	b.wants(b.get("/done?consent="+id+"&code="+goodCode), "That took too long")
	if _, state, _ := b.card(b.get("/")); state != "expired" {
		t.Errorf("state %s", state)
	}
}

func TestAccountChanged(t *testing.T) {
	s := newStage(t)
	s.broker.changed = true
	for _, c := range []struct{ answer, want string }{{"no", "everything stays as it was"}, {"yes", "data-file=\"f1\""}} {
		b := s.signedIn("alice")
		id, _, _ := b.card(b.post("/messages", "text", "files"))
		b.wants(b.get("/done?consent="+id+"&code="+goodCode), "Another account than before")
		page := b.get("/")
		b.wants(page, "Old Account, connected until now", "New Account", `data-state="changed"`)
		b.lacks(page, goodCode)
		b.wants(b.post("/replace", "answer", c.answer), c.want)
	}
}

func TestSeveralAccounts(t *testing.T) {
	s := newStage(t)
	s.broker.granted["alice"] = []string{"files.read"}
	s.broker.tokenError = map[string]any{"status": 409, "error": "account_selection_required", "accounts": []any{
		map[string]any{"connection": "conn_a", "account": map[string]string{"name": "Work"}},
		map[string]any{"connection": "conn_b", "account": map[string]string{"email": "home@example.com"}}}}
	b := s.signedIn("alice")
	b.wants(b.post("/messages", "text", "files"), "Which one?", "Work", "home@example.com")
	b.wants(b.post("/account", "connection", "conn_b"), "data-file=\"f1\"")
	if got := s.broker.tokenBodies[1]["connection"]; got != "conn_b" {
		t.Errorf("connection %v", got)
	}
}
