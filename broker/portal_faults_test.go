package broker_test

import (
	"context"
	"errors"
	"testing"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func TestPortalEnds(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		id, b := openVisit(t, h, "alice")
		if err := h.Service.EndPortal(t.Context(), id, brokertest.Browser{}.Cookie); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("another browser signs out: %v", err)
		}
		if err := h.Service.EndPortal(t.Context(), id, b.Cookie); err != nil {
			t.Fatal(err)
		}
		if got := sees(h, b, id); got != "not_found" || portalStatus(t, h, id) != broker.PortalEnded {
			t.Errorf("after signing out the page shows %q", got)
		}
	})
}

// A store that answers nothing, though it did what it was asked, opens the visit once; one that is down opens none.
func TestPortalAndStoreFaults(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		b := brokertest.Browser{}
		link := newPortal(t, h, "alice", "")
		lose := 2
		h.Store.After = func(_ context.Context, operation string) error {
			if operation == "UpdatePortal" && lose > 0 {
				lose--
				return errors.New("the answer got lost")
			}
			return nil
		}
		h.StartPortal(t, b, link)
		code := visit(t, h, b, link.ID).Code
		lose = 2
		if _, err := h.Service.CompletePortal(t.Context(), h.Caller(), link.ID, broker.Completion{Subject: "alice", Code: code}); err != nil {
			t.Fatalf("answers got lost: %v", err)
		}
		if n := len(h.Store.Entries(broker.EventPortalOpened)); n != 1 {
			t.Errorf("%d events of its opening", n)
		}
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "Recent" || operation == "Portal" {
				return errors.New("down")
			}
			return nil
		}
		if _, err := h.Service.VisitPortal(t.Context(), link.ID, b.Cookie, ""); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
			t.Errorf("a store that is down: %v", err)
		}
		// The trail alone does not answer: who came to disconnect sees what there is.
		h.Store.Before = nil
		h.Connect(t, "alice", "files.read")
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "Recent" {
				return errors.New("down")
			}
			return nil
		}
		if v, err := h.Service.VisitPortal(t.Context(), link.ID, b.Cookie, ""); err != nil || !v.UsesUnknown || len(v.Connections) == 0 {
			t.Errorf("a trail that is down: %v, %d connections, unknown %t", err, len(v.Connections), v.UsesUnknown)
		}
	})
}
