package broker_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

const chatDone = "https://chat.example/done"

func newPortal(t *testing.T, h *brokertest.Harness, subject, returnTo string) broker.PortalLink {
	t.Helper()
	view, link, err := h.Service.CreatePortal(t.Context(), h.Caller(), broker.PortalRequest{Subject: subject, ReturnTo: returnTo, State: "s&1"})
	if err != nil || view.Status != broker.PortalPending || link.ID != view.ID {
		t.Fatalf("create: %+v, %v", view, err)
	}
	return link
}

func portalStatus(t *testing.T, h *brokertest.Harness, id string) broker.PortalStatus {
	t.Helper()
	v, err := h.Service.PortalStatus(t.Context(), h.Caller(), id)
	if err != nil {
		t.Fatalf("status: %v", err)
	}
	return v.Status
}

func visit(t *testing.T, h *brokertest.Harness, b brokertest.Browser, id string) broker.PortalVisit {
	t.Helper()
	v, err := h.Service.VisitPortal(t.Context(), id, b.Cookie, "")
	if err != nil {
		t.Fatalf("visit: %v", err)
	}
	return v
}

// openVisit runs a visit of binding code until it is open.
func openVisit(t *testing.T, h *brokertest.Harness, subject string) (string, brokertest.Browser) {
	t.Helper()
	b := brokertest.Browser{}
	link := newPortal(t, h, subject, "")
	h.StartPortal(t, b, link)
	code := visit(t, h, b, link.ID).Code
	entrance, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: subject, Code: code})
	if err != nil || entrance.View.Status != broker.PortalOpen {
		t.Fatalf("complete: %+v, %v", entrance.View, err)
	}
	return link.ID, b
}

// sees are the connections on the page, or the error that the browser gets.
func sees(h *brokertest.Harness, b brokertest.Browser, id string) string {
	v, err := h.Service.VisitPortal(context.Background(), id, b.Cookie, "")
	if err != nil {
		return string(broker.CodeOf(err))
	}
	names := []string{string(v.Status)}
	for _, c := range v.Connections {
		names = append(names, c.Connection.Subject+"/"+c.Connection.Connector)
	}
	return strings.Join(names, " ")
}

func in(t *testing.T, run func(t *testing.T, h *brokertest.Harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		run(t, h)
	})
}

// slowly makes all who write at the same time read before any of them has written.
func slowly(h *brokertest.Harness) {
	h.Store.Before = func(_ context.Context, operation string) error {
		if operation == "UpdatePortal" {
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	}
}

func TestPortalByCode(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Connect(t, "alice", "files.read files.write")
		b := brokertest.Browser{}
		link := newPortal(t, h, "alice", "")
		if link.Binding != broker.BindingCode || !strings.HasPrefix(link.URL.Reveal(), "https://broker.example/portal/") || time.Until(link.ExpiresAt) != broker.LinkLife {
			t.Errorf("link: %+v", link)
		}
		page, err := h.Service.OpenPortalLink(t.Context(), brokertest.PortalSecret(link), b.Cookie)
		if err != nil || page.Visit != "" || page.ClientName != "Chat" || page.Binding != broker.BindingCode {
			t.Fatalf("page: %+v, %v", page, err)
		}
		start := h.StartPortal(t, b, link)
		if !start.Location.IsZero() || start.CookieName != broker.PortalCookie(link.ID) || start.MaxAge < broker.ProvisionalLife+broker.PortalLife {
			t.Errorf("start: %+v", start)
		}
		v := visit(t, h, b, link.ID)
		if v.Status != broker.PortalStarted || len(v.Connections) != 0 || len(v.Uses) != 0 || len(v.Code.Reveal()) != 9 {
			t.Fatalf("before it is proved: %+v", v)
		}
		typed := broker.NewSecret(" " + strings.ToLower(strings.ReplaceAll(v.Code.Reveal(), "-", " ")))
		entrance, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: typed})
		if err != nil || entrance.URL.Reveal() != "https://broker.example/portal/session/"+link.ID || entrance.View.Status != broker.PortalOpen {
			t.Fatalf("complete: %+v, %v", entrance, err)
		}
		if got := sees(h, b, link.ID); got != "open alice/files" {
			t.Errorf("the page shows %q", got)
		}
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: v.Code}); broker.CodeOf(err) != broker.CodeExpired {
			t.Errorf("completed twice: %v", err)
		}
		if _, err := h.Service.OpenPortalLink(t.Context(), brokertest.PortalSecret(link), noCookie); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("a used link: %v", err)
		}
		if again, err := h.Service.OpenPortalLink(t.Context(), brokertest.PortalSecret(link), b.Cookie); err != nil || again.Visit != link.ID {
			t.Errorf("the link once more, in the browser of the visit: %+v, %v", again, err)
		}
		for _, e := range h.Store.Entries(broker.EventPortalCreated, broker.EventPortalOpened) {
			if e.Portal != link.ID || e.Subject != "alice" || e.Actor != (broker.Actor{}) || e.Outcome != "ok" {
				t.Errorf("event: %+v", e)
			}
		}
		if n := len(h.Store.Entries(broker.EventPortalOpened)); n != 1 {
			t.Errorf("%d events of its opening", n)
		}
		time.Sleep(broker.PortalLife)
		if got := sees(h, b, link.ID); got != "not_found" || portalStatus(t, h, link.ID) != broker.PortalExpired {
			t.Errorf("after its time the page shows %q", got)
		}
		if _, err := h.Service.OpenPortalLink(t.Context(), brokertest.PortalSecret(link), b.Cookie); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("the link after the visit: %v", err)
		}
	})
}

func TestPortalByReturn(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Connect(t, "alice", "files.read")
		b := brokertest.Browser{}
		link := newPortal(t, h, "alice", chatDone)
		start := h.StartPortal(t, b, link)
		back, _ := url.Parse(start.Location.Reveal())
		if q := back.Query(); back.Host != "chat.example" || q.Get("portal") != link.ID || q.Get("state") != "s&1" || q.Get("code") == "" || q.Has("consent") {
			t.Fatalf("the browser goes to %s", start.Location.Reveal())
		}
		if v := visit(t, h, b, link.ID); !v.Code.IsZero() || v.Status != broker.PortalStarted {
			t.Error("the code of return_to is on the page")
		}
		done := broker.Completion{Subject: "alice", Code: broker.NewSecret(back.Query().Get("code"))}
		entrance, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, done)
		if err != nil || entrance.View.Status != broker.PortalStarted {
			t.Fatalf("complete: %+v, %v", entrance, err)
		}
		ticket, ok := strings.CutPrefix(entrance.URL.Reveal(), "https://broker.example/portal/session/"+link.ID+"/enter/")
		if !ok {
			t.Fatalf("the client sends the browser to %s", entrance.URL.Reveal())
		}
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, done); broker.CodeOf(err) != broker.CodeExpired {
			t.Errorf("completed twice: %v", err)
		}
		if got := sees(h, b, link.ID); got != "started" {
			t.Errorf("without the ticket the page shows %q", got)
		}
		for name, try := range map[string]struct {
			ticket string
			in     brokertest.Browser
			want   broker.Code
		}{
			"no ticket": {"", b, broker.CodeNotFound}, "another ticket": {ticket + "x", b, broker.CodeNotFound},
			"another browser": {ticket, brokertest.Browser{}, broker.CodeAccessDenied},
		} {
			if err := h.Service.EnterPortal(t.Context(), link.ID, broker.NewSecret(try.ticket), try.in.Cookie); broker.CodeOf(err) != try.want {
				t.Errorf("%s: %v, want %s", name, err, try.want)
			}
		}
		if n := len(h.Store.Entries(broker.EventPortalOpened)); n != 0 || sees(h, b, link.ID) != "started" {
			t.Fatal("one of those opened it")
		}
		if err := h.Service.EnterPortal(t.Context(), link.ID, broker.NewSecret(ticket), b.Cookie); err != nil {
			t.Fatal(err)
		}
		if got := sees(h, b, link.ID); got != "open alice/files" {
			t.Errorf("the page shows %q", got)
		}
		if err := h.Service.EnterPortal(t.Context(), link.ID, broker.NewSecret(ticket), b.Cookie); err != nil {
			t.Errorf("loaded again: %v", err)
		}
		if err := h.Service.EnterPortal(t.Context(), link.ID, broker.NewSecret(ticket), brokertest.Browser{}.Cookie); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("the ticket again, elsewhere: %v", err)
		}
		if n := len(h.Store.Entries(broker.EventPortalOpened)); n != 1 {
			t.Errorf("%d events of its opening", n)
		}
	})
}

// Mallory holds Alice's link and starts it. Alice's browser is made to fetch return_to, where Alice is logged in: the client
// vouches for Alice, and yet Mallory's browser sees nothing.
func TestPortalLinkOfSomebodyElse(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Connect(t, "alice", "files.read")
		mallory, alice := brokertest.Browser{}, brokertest.Browser{}
		link := newPortal(t, h, "alice", chatDone)
		start := h.StartPortal(t, mallory, link)
		if _, err := h.Service.StartPortal(t.Context(), brokertest.PortalSecret(link), alice.Cookie); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("a second browser: %v", err)
		}
		code := broker.NewSecret(brokertest.Query(t, start.Location, "code"))
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "mallory", Code: code}); broker.CodeOf(err) != broker.CodeSubjectMismatch {
			t.Errorf("logged in as somebody else: %v", err)
		}
		entrance, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: code})
		if err != nil {
			t.Fatal(err)
		}
		ticket := broker.NewSecret(entrance.URL.Reveal()[strings.LastIndex(entrance.URL.Reveal(), "/")+1:])
		if err := h.Service.EnterPortal(t.Context(), link.ID, ticket, alice.Cookie); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("Alice's browser: %v", err)
		}
		for name, b := range map[string]brokertest.Browser{"Mallory": mallory, "Alice": alice} {
			if got := sees(h, b, link.ID); strings.Contains(got, "files") {
				t.Errorf("%s's browser sees %q", name, got)
			}
		}
		conn := h.Store.Entries(broker.EventConsentCompleted)[0].Connection
		if _, _, err := h.Service.PortalDisconnect(t.Context(), link.ID, mallory.Cookie, conn); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("Mallory disconnects: %v", err)
		}
		time.Sleep(broker.ReturnCodeLife)
		if err := h.Service.EnterPortal(t.Context(), link.ID, ticket, mallory.Cookie); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("the ticket after its time: %v", err)
		}
		refused := h.Store.Entries(broker.EventPortalRefused)
		if len(refused) != 3 || refused[0].Outcome != "access_denied" || refused[1].Outcome != "subject_mismatch" || refused[2].Outcome != "access_denied" {
			t.Errorf("events: %+v", refused)
		}
		if len(h.Store.Entries(broker.EventPortalOpened)) != 0 {
			t.Error("it counts as opened")
		}
	})
}

func TestPortalWrongCodes(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		b := brokertest.Browser{}
		link := newPortal(t, h, "alice", "")
		complete := func(subject, code string) error {
			_, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: subject, Code: broker.NewSecret(code)})
			return err
		}
		if err := complete("alice", "BBBB-BBBB"); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Fatalf("before the link was opened: %v", err)
		}
		h.StartPortal(t, b, link)
		right := visit(t, h, b, link.ID).Code.Reveal()
		for i := range broker.MaxCodeAttempts {
			subject, want := "alice", broker.CodeInvalidCode
			if i == 2 {
				subject, want = "bob", broker.CodeSubjectMismatch
			}
			if err := complete(subject, "BBBB-BBBB"); broker.CodeOf(err) != want {
				t.Fatalf("guess %d: %v, want %s", i, err, want)
			}
		}
		if err := complete("alice", right); broker.CodeOf(err) != broker.CodeExpired {
			t.Errorf("the right code after five wrong ones: %v", err)
		}
		if got := sees(h, b, link.ID); got != "not_found" || portalStatus(t, h, link.ID) != broker.PortalEnded {
			t.Errorf("the page shows %q", got)
		}
		if n := len(h.Store.Entries(broker.EventPortalRefused)); n != 2+broker.MaxCodeAttempts {
			t.Errorf("%d refusals are on record", n)
		}
	})
}

// Guesses at the same time count like guesses one after the other.
func TestPortalWrongCodesAtOnce(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		b := brokertest.Browser{}
		link := newPortal(t, h, "alice", "")
		h.StartPortal(t, b, link)
		slowly(h)
		var tried atomic.Int32
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				guess := broker.NewSecret(fmt.Sprintf("BBBB-BBB%c", 'B'+i%4))
				if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: guess}); broker.CodeOf(err) == broker.CodeInvalidCode {
					tried.Add(1)
				}
			})
		}
		wg.Wait()
		if tried.Load() > broker.MaxCodeAttempts {
			t.Errorf("%d guesses were compared", tried.Load())
		}
	})
}

func TestPortalLinkLife(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		b := brokertest.Browser{}
		link := newPortal(t, h, "alice", chatDone)
		first := h.StartPortal(t, b, link)
		time.Sleep(broker.ReturnCodeLife)
		done := broker.Completion{Subject: "alice", Code: broker.NewSecret(brokertest.Query(t, first.Location, "code"))}
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, done); broker.CodeOf(err) != broker.CodeExpired {
			t.Errorf("a code after its time: %v", err)
		}
		second := h.StartPortal(t, b, link) // the back button
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, done); broker.CodeOf(err) != broker.CodeInvalidCode {
			t.Errorf("the code of the start before: %v", err)
		}
		done.Code = broker.NewSecret(brokertest.Query(t, second.Location, "code"))
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, done); err != nil {
			t.Errorf("the newest code: %v", err)
		}
		if _, err := h.Service.StartPortal(t.Context(), brokertest.PortalSecret(link), b.Cookie); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("started again after it was completed: %v", err)
		}

		link = newPortal(t, h, "alice", "")
		time.Sleep(broker.LinkLife)
		_, err := h.Service.OpenPortalLink(t.Context(), brokertest.PortalSecret(link), b.Cookie)
		_, startErr := h.Service.StartPortal(t.Context(), brokertest.PortalSecret(link), b.Cookie)
		if broker.CodeOf(err) != broker.CodeNotFound || broker.CodeOf(startErr) != broker.CodeNotFound || portalStatus(t, h, link.ID) != broker.PortalExpired {
			t.Errorf("an expired link: %v, %v", err, startErr)
		}
		for _, text := range []string{"", "x", link.ID, link.URL.Reveal(), brokertest.PortalSecret(link).Reveal()[:55] + "!"} {
			if _, err := h.Service.OpenPortalLink(t.Context(), broker.NewSecret(text), b.Cookie); broker.CodeOf(err) != broker.CodeNotFound {
				t.Errorf("link %q: %v", text, err)
			}
		}
	})
}

// A visit is its client's alone, and returns to that client's addresses alone.
func TestPortalIsTheClientsOwn(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		link := newPortal(t, h, "alice", "")
		b := brokertest.Browser{}
		h.StartPortal(t, b, link)
		code := visit(t, h, b, link.ID).Code
		for name, client := range map[string]broker.Client{"another tenant": {ID: "chat", Tenant: "other"}, "another client": {ID: "other", Tenant: "acme"}} {
			caller := broker.Caller{Client: client}
			_, statusErr := h.Service.PortalStatus(t.Context(), caller, link.ID)
			_, completeErr := h.Service.CompletePortal(t.Context(), caller, link.ID, broker.Completion{Subject: "alice", Code: code})
			if broker.CodeOf(statusErr) != broker.CodeNotFound || broker.CodeOf(completeErr) != broker.CodeNotFound {
				t.Errorf("%s: %v, %v", name, statusErr, completeErr)
			}
		}
		_, _, err := h.Service.CreatePortal(t.Context(), h.Caller(), broker.PortalRequest{Subject: "alice", ReturnTo: chatDone + "/"})
		if broker.CodeOf(err) != broker.CodeInvalidRequest || len(h.Store.Entries(broker.EventPortalRefused)) != 1 {
			t.Errorf("an address that is not registered: %v", err)
		}
		id := h.Client.ID
		h.Client.ID = "renamed" // gone from the configuration
		if _, err := h.Service.VisitPortal(t.Context(), link.ID, b.Cookie, ""); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("a visit of a client that is gone: %v", err)
		}
		h.Client.ID = id
	})
}
