package broker_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func TestNoPortalBeginsInAFullStore(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		id, b := openVisit(t, h, "alice")
		h.Full.Store(true)
		_, _, err := h.Service.CreatePortal(t.Context(), h.Caller(), broker.PortalRequest{Subject: "alice"})
		if broker.CodeOf(err) != broker.CodeTemporarilyUnavailable || len(h.Store.Entries(broker.EventPortalCreated)) != 1 {
			t.Errorf("a visit begins: %v", err)
		}
		if got := sees(h, b, id); got != "open" {
			t.Errorf("the one that is open shows %q", got)
		}
	})
}

// ticketOf starts a visit of binding return and completes it: what the client sends the browser on with.
func ticketOf(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink, wait time.Duration) broker.Secret {
	t.Helper()
	back, err := url.Parse(h.StartPortal(t, b, link).Location.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(wait)
	entrance, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: broker.NewSecret(back.Query().Get("code"))})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(entrance.View.ExpiresAt); left != broker.ReturnCodeLife {
		t.Errorf("the ticket lives for %v", left)
	}
	address := entrance.URL.Reveal()
	return broker.NewSecret(address[strings.LastIndex(address, "/")+1:])
}

// The ticket has two minutes of its own, however late the client completed the visit.
func TestPortalTicketLife(t *testing.T) {
	for after, want := range map[time.Duration]broker.Code{broker.ReturnCodeLife - time.Second: "", broker.ReturnCodeLife: broker.CodeNotFound} {
		in(t, func(t *testing.T, h *brokertest.Harness) {
			b, link := brokertest.Browser{}, newPortal(t, h, "alice", chatDone)
			ticket := ticketOf(t, h, b, link, broker.ReturnCodeLife-time.Second)
			time.Sleep(after)
			err := h.Service.EnterPortal(t.Context(), link.ID, ticket, b.Cookie)
			if err != nil != (want != "") || err != nil && broker.CodeOf(err) != want {
				t.Errorf("after %v: %v, want %q", after, err, want)
			}
		})
	}
}

// A visit that is over keeps nothing by which somebody could get into it.
func TestEndedPortalKeepsNoSecret(t *testing.T) {
	wrongCodes := func(t *testing.T, h *brokertest.Harness, _ brokertest.Browser, link broker.PortalLink) {
		for range broker.MaxCodeAttempts {
			_, _ = h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: broker.NewSecret("BBBB-BBBB")})
		}
	}
	signOut := func(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink) {
		if err := h.Service.EndPortal(t.Context(), link.ID, b.Cookie); err != nil {
			t.Fatal(err)
		}
	}
	for name, way := range map[string]struct {
		returnTo string
		login    bool
		begin    func(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink)
		held     func(p broker.Portal) bool
		end      func(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink)
	}{
		"a code": {
			begin: func(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink) {
				h.StartPortal(t, b, link)
			},
			held: func(p broker.Portal) bool { return !p.CompletionCode.IsZero() },
			end:  wrongCodes,
		},
		"a ticket": {
			returnTo: chatDone,
			begin: func(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink) {
				ticketOf(t, h, b, link, 0)
			},
			held: func(p broker.Portal) bool { return p.TicketDigest != "" },
			end:  signOut,
		},
		"a sign-in": {
			login: true,
			begin: func(t *testing.T, h *brokertest.Harness, b brokertest.Browser, link broker.PortalLink) {
				h.StartPortal(t, b, link)
			},
			held: func(p broker.Portal) bool { return p.Login.StateDigest != "" && !p.Login.Nonce.IsZero() },
			end:  signOut,
		},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, h *brokertest.Harness) {
				h.Client.Login = way.login
				b, link := brokertest.Browser{}, newPortal(t, h, "alice", way.returnTo)
				way.begin(t, h, b, link)
				if p, err := h.Store.Portal(t.Context(), link.ID); err != nil || !way.held(p) {
					t.Fatalf("before the end: %+v, %v", p, err)
				}
				way.end(t, h, b, link)
				p, err := h.Store.Portal(t.Context(), link.ID)
				if err != nil || p.Status != broker.PortalEnded || !p.CompletionCode.IsZero() || p.TicketDigest != "" || p.Login != (broker.LoginRun{}) || p.Claim != "" {
					t.Errorf("after the end: %+v, %v", p, err)
				}
			})
		})
	}
}
