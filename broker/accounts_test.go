package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func grantOf(role broker.Role, tenant string) broker.Operator {
	return broker.Operator{ID: "ops@example.com", Grants: []broker.OperatorGrant{{Role: role, Tenant: tenant}}, RequestID: "r-op"}
}

var anyOperator = grantOf(broker.RoleOperator, broker.Everywhere)

func accounts(t *testing.T, h *brokertest.Harness, op broker.Operator, f broker.AccountFilter) broker.AccountPage {
	t.Helper()
	page, err := h.Service.Accounts(t.Context(), op, f, "", 50)
	if err != nil {
		t.Fatalf("accounts: %v", err)
	}
	return page
}

// TestAccounts: filters, pages, and nothing of a tenant that the operator may not see.
func TestAccounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		var made []string
		for _, subject := range []string{"ann", "bob", "cid"} {
			made = append(made, h.Connect(t, subject, "files.read").ID)
			time.Sleep(time.Minute)
		}
		write := h.Connect(t, "dan", "files.write")
		page := accounts(t, h, anyOperator, broker.AccountFilter{})
		if len(page.Rows) != 4 || page.Matching != 4 || page.Rows[0].ID != write.ID || page.Rows[3].ID != made[0] || page.Next != "" {
			t.Fatalf("all: %+v", page)
		}
		for name, f := range map[string]broker.AccountFilter{
			"scope":   {Scope: "files.write"},
			"since":   {Since: write.CreatedAt},
			"tenant":  {Tenant: "acme", Scope: "files.write", Connector: "files", Status: broker.ConnectionActive},
			"between": {Since: write.CreatedAt, Until: write.CreatedAt.Add(time.Second)},
		} {
			if page := accounts(t, h, anyOperator, f); len(page.Rows) != 1 || page.Rows[0].ID != write.ID {
				t.Errorf("%s: %d rows", name, len(page.Rows))
			}
		}
		for name, f := range map[string]broker.AccountFilter{"status": {Status: broker.ConnectionRevoked}, "error": {Error: "invalid_grant"}, "connector": {Connector: "crm"}, "until": {Until: write.CreatedAt.Add(-time.Hour)}} {
			if page := accounts(t, h, anyOperator, f); len(page.Rows) != 0 {
				t.Errorf("%s: %d rows", name, len(page.Rows))
			}
		}
		first, err := h.Service.Accounts(t.Context(), anyOperator, broker.AccountFilter{}, "", 3)
		if err != nil || len(first.Rows) != 3 || first.Next == "" {
			t.Fatalf("first page: %+v, %v", first, err)
		}
		if second, err := h.Service.Accounts(t.Context(), anyOperator, broker.AccountFilter{}, first.Next, 3); err != nil || len(second.Rows) != 1 || second.Rows[0].ID != made[0] {
			t.Fatalf("second page: %+v, %v", second, err)
		}
		if _, err := h.Service.Accounts(t.Context(), anyOperator, broker.AccountFilter{Scope: "files.read"}, first.Next, 3); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("a cursor of another filter: %v", err)
		}
		other := grantOf(broker.RoleAdmin, "globex")
		if page := accounts(t, h, other, broker.AccountFilter{}); len(page.Rows) != 0 || page.Matching != 0 {
			t.Errorf("an operator of another tenant sees %d", len(page.Rows))
		}
		if _, err := h.Service.Accounts(t.Context(), other, broker.AccountFilter{Tenant: "acme"}, "", 3); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("an operator of another tenant asks for ours: %v", err)
		}
		viewed := h.Store.Entries(broker.EventOperatorViewed)
		if e := viewed[len(viewed)-1]; e.Actor.Agent != "ops@example.com" || e.RequestID != "r-op" {
			t.Errorf("last event: %+v", e)
		}

		rows, _, err := h.Service.SubjectAccounts(t.Context(), anyOperator, []string{"acme", "globex"}, "dan")
		if err != nil || len(rows) != 1 || rows[0].ID != write.ID {
			t.Fatalf("subject: %d, %v", len(rows), err)
		}
		if rows, _, err := h.Service.SubjectAccounts(t.Context(), anyOperator, []string{"acme"}, "da"); err != nil || len(rows) != 0 {
			t.Errorf("part of a subject: %d, %v", len(rows), err)
		}
		if _, _, err := h.Service.SubjectAccounts(t.Context(), other, []string{"acme"}, "dan"); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("subject of another tenant: %v", err)
		}
	})
}

// TestAccountActions: each leaves its event with the reason before it does anything, and none is done without.
func TestAccountActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		conn := h.Connect(t, "ann", "files.read files.write")
		ctx := t.Context()
		view, err := h.Service.Account(ctx, anyOperator, "acme", conn.ID)
		if err != nil || !view.Known || !view.Refreshable || !view.Linkable || !view.Typed || view.Subject != "ann" {
			t.Fatalf("account: %+v, %v", view, err)
		}

		requests := h.Provider.Refreshes
		fresh, err := h.Service.RefreshAccount(ctx, anyOperator, "acme", conn.ID, "a user called")
		if err != nil || fresh.Generation <= conn.Generation || h.Provider.Refreshes != requests+1 {
			t.Fatalf("refresh now: generation %d, %v", fresh.Generation, err)
		}
		if e := h.Store.Entries(broker.EventOperatorRefreshed, broker.EventTokenRefreshed); len(e) != 2 || e[0].Type != broker.EventOperatorRefreshed || e[0].Reason != "a user called" ||
			e[0].Connection != conn.ID || e[0].Subject != "ann" || e[1].RequestID != "r-op" || e[1].Reason != "an operator asked for it" {
			t.Fatalf("events of a refresh: %+v", e)
		}

		link, err := h.Service.LinkAccount(ctx, anyOperator, "acme", conn.ID, "ticket 7")
		if err != nil || link.Binding != broker.BindingCode || link.URL.IsZero() {
			t.Fatalf("link: %+v, %v", link, err)
		}
		callback := h.Start(t, link)
		finish, err := h.Service.FinishConsent(context.Background(), callback)
		if err != nil {
			t.Fatal(err)
		}
		renewed, err := h.Service.CompleteConsent(ctx, h.Caller(), link.ID, broker.Completion{Subject: "ann", Code: finish.UserCode})
		if err != nil || renewed.ID != conn.ID {
			t.Fatalf("completed: %s, %v", renewed.ID, err)
		}
		for _, e := range h.Store.Entries() {
			if strings.Contains(e.Reason, "/connect/") || strings.Contains(e.Outcome, "/connect/") {
				t.Errorf("a link in the trail: %+v", e)
			}
		}

		off := broker.Switch{Kind: broker.SwitchConnector, Name: "files"}
		if err := h.Service.Disable(ctx, grantOf(broker.RoleAdmin, broker.Everywhere), off, "a breach"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Service.LinkAccount(ctx, anyOperator, "acme", conn.ID, "ticket 8"); broker.CodeOf(err) != broker.CodeAccessDenied {
			t.Errorf("a link to a disabled connector: %v", err)
		}
		outcome, err := h.Service.RevokeAccount(ctx, anyOperator, "acme", conn.ID, "left the company")
		if err != nil || outcome != broker.RevokedDone {
			t.Fatalf("revoke: %s, %v", outcome, err)
		}
		if err := h.Service.Enable(ctx, grantOf(broker.RoleAdmin, broker.Everywhere), off, "over"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Token("ann"); broker.CodeOf(err) != broker.CodeConsentRequired {
			t.Fatalf("a token after a revocation: %v", err)
		}
		if _, err := h.Service.RefreshAccount(ctx, anyOperator, "acme", conn.ID, "again"); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("refresh of a revoked one: %v", err)
		}
		timeline, err := h.Service.AccountEvents(ctx, anyOperator, renewed, "")
		events := timeline.Entries
		if err != nil || len(events) < 6 || events[0].Type != broker.EventConnectionRevoked || events[1].Type != broker.EventOperatorRevoked || events[1].Reason != "left the company" {
			t.Fatalf("timeline: %+v, %v", events, err)
		}
		for i, e := range events { // what was said of both scopes is one entry
			if e.Connection != conn.ID || e.Type == broker.EventOperatorViewed || e.Type == broker.EventConnectionRevoked && len(e.Scopes) != 2 || i > 0 && e.Time.After(events[i-1].Time) {
				t.Errorf("entry %d of the timeline: %+v", i, e)
			}
		}
	})
}

// TestAccountActionsRefused: each role and each tenant against each action, without a reason, and when nothing can be recorded.
func TestAccountActionsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		conn := h.Connect(t, "ann", "files.read")
		actions := map[string]func(op broker.Operator, tenant, reason string) error{
			"revoke": func(op broker.Operator, tenant, reason string) error {
				_, err := h.Service.RevokeAccount(t.Context(), op, tenant, conn.ID, reason)
				return err
			},
			"refresh": func(op broker.Operator, tenant, reason string) error {
				_, err := h.Service.RefreshAccount(t.Context(), op, tenant, conn.ID, reason)
				return err
			},
			"link": func(op broker.Operator, tenant, reason string) error {
				_, err := h.Service.LinkAccount(t.Context(), op, tenant, conn.ID, reason)
				return err
			},
		}
		for name, act := range actions {
			for _, role := range []broker.Role{broker.RoleViewer, broker.RoleAuditor} {
				if err := act(grantOf(role, broker.Everywhere), "acme", "x"); broker.CodeOf(err) != broker.CodeAccessDenied {
					t.Errorf("%s by a %s: %v", name, role, err)
				}
			}
			if err := act(grantOf(broker.RoleAdmin, "globex"), "acme", "x"); broker.CodeOf(err) != broker.CodeNotFound {
				t.Errorf("%s by another tenant's admin: %v", name, err)
			}
			if err := act(grantOf(broker.RoleAdmin, "globex"), "globex", "x"); broker.CodeOf(err) != broker.CodeNotFound {
				t.Errorf("%s under another tenant's name: %v", name, err)
			}
			for _, reason := range []string{"", "  ", "a\nb", strings.Repeat("x", 501), "\xff"} {
				if err := act(anyOperator, "acme", reason); broker.CodeOf(err) != broker.CodeInvalidRequest {
					t.Errorf("%s with the reason %q: %v", name, reason, err)
				}
			}
		}
		before := len(h.Store.Entries())
		h.Store.Before = func(_ context.Context, operation string) error {
			if operation == "Append" {
				return errors.New("the trail can't be written")
			}
			return nil
		}
		for name, act := range actions {
			if err := act(anyOperator, "acme", "x"); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
				t.Errorf("%s without a trail: %v", name, err)
			}
		}
		if _, err := h.Service.Accounts(t.Context(), anyOperator, broker.AccountFilter{}, "", 5); err == nil {
			t.Error("a list without a trail")
		}
		h.Store.Before = nil
		if now, err := h.Store.Connection(t.Context(), "acme", conn.ID); err != nil || now.Status != broker.ConnectionActive || now.Generation != conn.Generation || len(h.Store.Entries()) != before {
			t.Errorf("something was done all the same: %+v, %v", now, err)
		}
	})
}
