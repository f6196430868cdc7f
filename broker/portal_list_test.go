package broker_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// Other people's connections, other tenants' and those of connectors that the client may not use are not on the page, and can't
// be ended from it.
func TestPortalShowsItsOwnAlone(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		crm := brokertest.Files()
		crm.ID, crm.Name = "crm", "CRM"
		h.Conns = append(h.Conns, crm)
		mine := h.Connect(t, "alice", "files.read files.write")
		hidden := h.ConnectTo(t, "crm", "alice", "files.read")
		bobs := h.Connect(t, "bob", "files.read")
		tenant := h.Client.Tenant
		h.Client.Tenant = "other"
		foreign := h.Connect(t, "alice", "files.read")
		h.Client.Tenant = tenant
		for _, subject := range []string{"alice", "bob"} {
			if _, err := h.Token(subject); err != nil {
				t.Fatal(err)
			}
		}
		h.Client.Connectors = []string{"files"}
		id, b := openVisit(t, h, "alice")
		v := visit(t, h, b, id)
		if len(v.Connections) != 1 || v.Connections[0].Connection.ID != mine.ID || v.Connections[0].Connector.Name != "Files" {
			t.Errorf("connections: %+v", v.Connections)
		}
		if s := v.Connections[0].Scopes; len(s) != 2 || s[0].Description != "Read your files" {
			t.Errorf("permissions: %+v", s)
		}
		for _, use := range v.Uses {
			if use.Connection != mine.ID {
				t.Errorf("a line about another connection: %+v", use)
			}
		}
		if len(v.Uses) != 2 {
			t.Errorf("%d lines, want a token and a consent", len(v.Uses))
		}
		for name, other := range map[string]string{"a connector of no business": hidden.ID, "bob's": bobs.ID, "another tenant's": foreign.ID, "no id": "../x"} {
			_, readErr := h.Service.PortalConnection(t.Context(), id, b.Cookie, other)
			_, _, err := h.Service.PortalDisconnect(t.Context(), id, b.Cookie, other)
			if broker.CodeOf(readErr) != broker.CodeNotFound || broker.CodeOf(err) != broker.CodeNotFound {
				t.Errorf("%s: %v, %v", name, readErr, err)
			}
		}
		if len(h.Provider.Revoked) != 0 {
			t.Error("something was revoked")
		}
	})
}

func TestPortalDisconnect(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault error
		want  broker.RevokedUpstream
	}{
		{"confirmed", nil, broker.RevokedDone},
		{"no way", broker.ErrRevokeUnsupported, broker.RevokedUnsupported},
		{"failing", &broker.UpstreamError{Class: broker.ClassInDoubt, Status: 500, What: "500"}, broker.RevokedFailed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in(t, func(t *testing.T, h *brokertest.Harness) {
				conn := h.Connect(t, "alice", "files.read")
				h.Provider.FailRevocations(tc.fault)
				id, b := openVisit(t, h, "alice")
				ctx := broker.WithRequestID(t.Context(), "page-7")
				shown, outcome, err := h.Service.PortalDisconnect(ctx, id, b.Cookie, conn.ID)
				if err != nil || outcome != tc.want || shown.Connection.ID != conn.ID {
					t.Fatalf("%s, %v, want %s", outcome, err, tc.want)
				}
				if h.Store.RefreshToken(conn.ID) != "" {
					t.Error("the secrets are still stored")
				}
				for _, e := range h.Store.Entries(broker.EventConnectionRevoked) {
					if e.Portal != id || e.Client != "chat" || e.Subject != "alice" || e.Actor != (broker.Actor{}) || e.RequestID != "page-7" {
						t.Errorf("event: %+v", e)
					}
				}
				wantNoToken(t, h, "alice")
				v := visit(t, h, b, id)
				if len(v.Connections) != 0 {
					t.Errorf("it is still on the page: %+v", v.Connections)
				}
				ended := slices.IndexFunc(v.Uses, func(u broker.PortalUse) bool { return u.Type == broker.EventConnectionRevoked })
				if ended < 0 || !v.Uses[ended].ByUser || v.Uses[ended].Account.Name != "Alice" {
					t.Errorf("lines: %+v", v.Uses)
				}
				var told []string // newest first
				for _, u := range v.Uses {
					if u.Type == broker.EventConnectionRevoked && u.Count == 1 {
						told = append(told, u.Outcome)
					}
				}
				wantTold := []string{"ok"}
				if tc.want == broker.RevokedFailed { // a line of its own, not one more of the same
					wantTold = []string{"revoked_upstream_failed", "ok"}
				}
				if !slices.Equal(told, wantTold) {
					t.Errorf("the page tells of %q, want %q", told, wantTold)
				}
				// Pressed twice: the same is told, and nothing happens twice.
				events := len(h.Store.Entries())
				if _, again, err := h.Service.PortalDisconnect(ctx, id, b.Cookie, conn.ID); err != nil || again != tc.want || len(h.Store.Entries()) != events {
					t.Errorf("again: %s, %v", again, err)
				}
			})
		})
	}
	in(t, func(t *testing.T, h *brokertest.Harness) {
		conn := h.Connect(t, "alice", "files.read")
		if _, err := h.Service.Disconnect(t.Context(), h.Caller(), conn.ID); err != nil {
			t.Fatal(err)
		}
		if e := h.Store.Entries(broker.EventConnectionRevoked)[0]; e.Portal != "" {
			t.Errorf("the client's own disconnecting reads as the user's: %+v", e)
		}
	})
}

// Nobody consented to a connection that its connector's own credentials made, so it is shown, and ended elsewhere.
func TestPortalOfDirectConnection(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		direct := brokertest.Files()
		direct.ID, direct.Grant, direct.Impersonate, direct.Implied = "mail", broker.GrantJWTBearer, []string{"alice"}, broker.ScopeSet{}
		h.Conns = append(h.Conns, direct)
		if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "mail", Subject: "alice"}); err != nil {
			t.Fatal(err)
		}
		id, b := openVisit(t, h, "alice")
		v := visit(t, h, b, id)
		if len(v.Connections) != 1 || !v.Connections[0].Connection.Direct {
			t.Fatalf("connections: %+v", v.Connections)
		}
		if _, _, err := h.Service.PortalDisconnect(t.Context(), id, b.Cookie, v.Connections[0].Connection.ID); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("disconnected: %v", err)
		}
	})
}

// A day of one assistant's tokens is one line, with its reasons; another assistant, another day and a refusal are others.
func TestPortalUses(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		time.Sleep(time.Until(time.Now().UTC().Truncate(24 * time.Hour).Add(33 * time.Hour))) // 9:00
		h.Connect(t, "alice", "files.read files.write")
		ask := func(agent, reason string) {
			t.Helper()
			if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice",
				Actor: broker.Actor{Agent: agent, Run: reason, Tool: "list"}, Reason: reason}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
		}
		for _, reason := range []string{"a", "b", "a", "c", "d"} {
			ask("helper", reason)
			ask("other", "x")
		}
		time.Sleep(24 * time.Hour)
		ask("helper", "e")
		if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Scopes: broker.ParseScopes("no.such")}); err == nil {
			t.Fatal("a scope of nobody's was given")
		}
		id, b := openVisit(t, h, "alice")
		var lines []string
		for _, u := range visit(t, h, b, id).Uses {
			lines = append(lines, strings.Join(append([]string{string(u.Type), u.ClientName, u.Actor.Agent, u.Actor.Tool, string(rune('0' + u.Count))}, u.Reasons...), " "))
			if u.Actor.Run != "" || u.First.After(u.Last) || (u.Count > 1) != u.First.Before(u.Last) || u.ByUser {
				t.Errorf("line: %+v", u)
			}
			if u.Type == broker.EventTokenIssued && (len(u.Scopes) != 2 || u.Account.Name != "Alice" || u.Connector.Name != "Files") {
				t.Errorf("line: %+v", u)
			}
		}
		want := []string{
			"token.refused Chat   1", "token.issued Chat helper list 1 e", "token.issued Chat other list 5 x", "token.issued Chat helper list 5 d c a", "consent.completed Chat   1",
		}
		if !slices.Equal(lines, want) {
			t.Errorf("lines:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
		}
	})
}

// A long past is on further pages, each once, and a page's cursor is good for that visit alone.
func TestPortalPages(t *testing.T) {
	in(t, func(t *testing.T, h *brokertest.Harness) {
		h.Connect(t, "alice", "files.read")
		for range 450 {
			if _, err := h.Token("alice"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		id, b := openVisit(t, h, "alice")
		count, pages, cursor := 0, 0, ""
		for {
			v, err := h.Service.VisitPortal(t.Context(), id, b.Cookie, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range v.Uses {
				count += u.Count
			}
			if pages++; v.Older == "" {
				break
			}
			cursor = v.Older
		}
		if count != 451 || pages != 3 {
			t.Errorf("%d entries on %d pages", count, pages)
		}
		other, c := openVisit(t, h, "bob")
		if _, err := h.Service.VisitPortal(t.Context(), other, c.Cookie, cursor); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("a cursor of another visit: %v", err)
		}
	})
}
