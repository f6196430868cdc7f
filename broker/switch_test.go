package broker_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

func boss() broker.Operator {
	return broker.Operator{ID: "ada", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin}}, RequestID: "op-1"}
}

func operatorOf(tenant string) broker.Operator {
	return broker.Operator{ID: "otto", Grants: []broker.OperatorGrant{{Role: broker.RoleOperator, Tenant: tenant}}}
}

// disabledError demands a refusal that says what is disabled.
func disabledError(t *testing.T, what string, err error, kind broker.SwitchKind) {
	t.Helper()
	got, off := broker.DisabledBy(err)
	if broker.CodeOf(err) != broker.CodeAccessDenied || !off || got != kind || !strings.Contains(err.Error(), "disabled by the operator") {
		t.Errorf("%s: %v", what, err)
	}
}

// Each thing that is disabled is refused with the next request of whatever kind, at the other replica; ending access is not, and
// enabled again nobody has to consent anew.
func TestSwitches(t *testing.T) {
	for _, what := range []broker.Switch{
		{Kind: broker.SwitchConnector, Name: "files"}, {Kind: broker.SwitchConnector, Tenant: "acme", Name: "files"}, {Kind: broker.SwitchClient, Tenant: "acme", Name: "chat"},
		{Kind: broker.SwitchActor, Tenant: "acme", Name: "agent-7"}, {Kind: broker.SwitchActor, Name: "agent-7"}, {Kind: broker.SwitchTenant, Tenant: "acme"},
	} {
		t.Run(string(what.Kind)+what.Tenant, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := brokertest.New(t, 2)
				defer drain(t, h)
				ctx, other := t.Context(), h.Replicas[1]
				actor := broker.Actor{Agent: "agent-7"}
				alice, bob := h.Connect(t, "alice", "files.read"), h.Connect(t, "bob", "files.read")
				consent := func(subject string) (broker.ConsentLink, error) {
					_, link, err := h.Service.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: "files", Subject: subject, Actor: actor})
					return link, err
				}
				pending, _ := consent("carol")
				started, _ := consent("dave")
				callback := h.Start(t, started)
				awaiting, _ := consent("erin")
				finish, err := h.Service.FinishConsent(ctx, h.Start(t, awaiting))
				if err != nil {
					t.Fatal(err)
				}
				token := func() error {
					_, err := other.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Actor: actor})
					return err
				}
				if err := token(); err != nil {
					t.Fatal(err)
				}
				issued := len(h.Store.Entries(broker.EventTokenIssued))

				if err := h.Service.Disable(ctx, boss(), what, "a leak"); err != nil {
					t.Fatal(err)
				}
				disabledError(t, "token", token(), what.Kind)
				if refused := h.Store.Entries(broker.EventTokenRefused); len(refused) != 1 || refused[0].Outcome != "access_denied" || refused[0].Subject != "alice" {
					t.Errorf("on record: %+v", refused)
				}
				_, _, err = other.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: "files", Subject: "zoe", Actor: actor})
				disabledError(t, "new consent", err, what.Kind)
				_, err = other.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "files", Subject: "zoe", Actor: actor})
				disabledError(t, "token that would need one", err, what.Kind)
				_, err = other.OpenLink(ctx, brokertest.LinkSecret(pending))
				disabledError(t, "page", err, what.Kind)
				_, err = other.StartConsent(ctx, brokertest.LinkSecret(pending), func(string) broker.Secret { return broker.Secret{} })
				disabledError(t, "start", err, what.Kind)
				_, err = other.FinishConsent(ctx, callback)
				disabledError(t, "callback", err, what.Kind)
				_, err = other.CompleteConsent(ctx, h.Caller(), awaiting.ID, broker.Completion{Subject: "erin", Code: finish.UserCode})
				disabledError(t, "completion", err, what.Kind)
				if whole := what.Kind == broker.SwitchClient || what.Kind == broker.SwitchTenant; whole {
					disabledError(t, "any other call", other.AdmitClient(ctx, h.Caller()), what.Kind)
					_, _, err = other.CreatePortal(ctx, h.Caller(), broker.PortalRequest{Subject: "alice"})
					disabledError(t, "visit", err, what.Kind)
				} else if err := other.AdmitClient(ctx, h.Caller()); err != nil {
					t.Errorf("any other call: %v", err)
				}
				if what.Kind == broker.SwitchActor {
					if _, err := other.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "files", Subject: "alice", Actor: broker.Actor{Agent: "agent-8"}}); err != nil {
						t.Errorf("another agent: %v", err)
					}
					issued++
				}
				if n := len(h.Store.Entries(broker.EventTokenIssued)); n != issued {
					t.Errorf("%d tokens were issued, %d before", n, issued)
				}
				if _, err := other.Disconnect(ctx, h.Caller(), bob.ID); err != nil {
					t.Errorf("disconnect: %v", err)
				}
				if _, err := other.EraseSubject(ctx, h.Caller(), "bob"); err != nil {
					t.Errorf("erase: %v", err)
				}

				if err := other.Enable(ctx, boss(), what, "mended"); err != nil {
					t.Fatal(err)
				}
				if err := token(); err != nil {
					t.Errorf("enabled again: %v", err)
				}
				if _, err := h.Service.FinishConsent(ctx, callback); err != nil {
					t.Errorf("a consent that was under way: %v", err)
				}
				if _, err := h.Service.CompleteConsent(ctx, h.Caller(), awaiting.ID, broker.Completion{Subject: "erin", Code: finish.UserCode}); err != nil {
					t.Errorf("a consent that was waiting: %v", err)
				}
				events := h.Store.Entries(broker.EventOperatorDisabled, broker.EventOperatorEnabled)
				if len(events) != 2 || events[0].Reason != "a leak" || events[0].Actor.Agent != "ada" || events[0].Tenant != what.Tenant || events[1].Reason != "mended" {
					t.Errorf("events: %+v", events)
				}
				_ = alice
			})
		})
	}
}

// A switch that is thrown between the reading of a connection and the release of its token keeps the token.
func TestSwitchThrownBeforeRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		h.Connect(t, "alice", "files.read")
		var once sync.Once
		h.Store.Before = func(_ context.Context, operation string) (err error) {
			if operation == "Release" {
				once.Do(func() {
					err = h.Replicas[1].Disable(t.Context(), boss(), broker.Switch{Kind: broker.SwitchConnector, Name: "files"}, "now")
				})
			}
			return err
		}
		_, err := h.Token("alice")
		disabledError(t, "the token on its way", err, broker.SwitchConnector)
		if n := len(h.Store.Entries(broker.EventTokenIssued)); n != 0 {
			t.Errorf("%d tokens were issued", n)
		}
	})
}

// Disabled grants are refreshed all the same: a provider that ends those which are not used would else end them.
func TestDisabledIsRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		h.Provider.Idle, h.Provider.ReportRefreshExpiry = 4*time.Hour, true
		h.Connect(t, "alice", "files.read")
		stop := background(t, h)
		if err := h.Service.Disable(t.Context(), boss(), broker.Switch{Kind: broker.SwitchTenant, Tenant: "acme"}, "a leak"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Hour)
		if err := h.Service.Enable(t.Context(), boss(), broker.Switch{Kind: broker.SwitchTenant, Tenant: "acme"}, "mended"); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Token("alice"); err != nil {
			t.Errorf("enabled after twelve hours: %v", err)
		}
		stop()
	})
}

// Who may turn which switch.
func TestWhoMaySwitch(t *testing.T) {
	h := brokertest.New(t, 1)
	defer drain(t, h)
	ctx := t.Context()
	viewer := broker.Operator{ID: "vera", Grants: []broker.OperatorGrant{{Role: broker.RoleViewer}}}
	tenantAdmin := broker.Operator{ID: "tom", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin, Tenant: "acme"}}}
	operator := broker.Operator{ID: "olga", Grants: []broker.OperatorGrant{{Role: broker.RoleOperator}}}
	files := broker.Switch{Kind: broker.SwitchConnector, Tenant: "acme", Name: "files"}
	for _, c := range []struct {
		name string
		op   broker.Operator
		what broker.Switch
		want broker.Code
	}{
		{"viewer", viewer, files, broker.CodeAccessDenied},
		{"auditor", broker.Operator{ID: "al", Grants: []broker.OperatorGrant{{Role: broker.RoleAuditor}}}, files, broker.CodeAccessDenied},
		{"of another tenant", operatorOf("other"), files, broker.CodeNotFound},
		{"of the tenant, everywhere", operatorOf("acme"), broker.Switch{Kind: broker.SwitchConnector, Name: "files"}, broker.CodeAccessDenied},
		{"of the tenant, the actor everywhere", operatorOf("acme"), broker.Switch{Kind: broker.SwitchActor, Name: "a"}, broker.CodeAccessDenied},
		{"the tenant by its admin", tenantAdmin, broker.Switch{Kind: broker.SwitchTenant, Tenant: "acme"}, broker.CodeAccessDenied},
		{"the tenant by an operator", operator, broker.Switch{Kind: broker.SwitchTenant, Tenant: "acme"}, broker.CodeAccessDenied},
		{"another tenant", tenantAdmin, broker.Switch{Kind: broker.SwitchTenant, Tenant: "other"}, broker.CodeNotFound},
		{"nothing", boss(), broker.Switch{Kind: broker.SwitchConnector}, broker.CodeInvalidRequest},
		{"a client of no tenant", boss(), broker.Switch{Kind: broker.SwitchClient, Name: "chat"}, broker.CodeInvalidRequest},
		{"no kind", boss(), broker.Switch{Kind: "all", Tenant: "acme"}, broker.CodeInvalidRequest},
		{"a name with a line break", boss(), broker.Switch{Kind: broker.SwitchActor, Name: "a\nb"}, broker.CodeInvalidRequest},
	} {
		for _, turn := range []func(context.Context, broker.Operator, broker.Switch, string) error{h.Service.Disable, h.Service.Enable} {
			if err := turn(ctx, c.op, c.what, "why"); broker.CodeOf(err) != c.want || err == nil {
				t.Errorf("%s: %v, want %s", c.name, err, c.want)
			}
		}
	}
	for _, reason := range []string{"", "  ", strings.Repeat("x", 501), "two\nlines"} {
		if err := h.Service.Disable(ctx, boss(), files, reason); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("reason %q: %v", reason, err)
		}
	}
	if n := len(h.Store.Entries()); n != 0 {
		t.Fatalf("%d events of what was refused", n)
	}
	if _, err := h.Service.ListSwitches(ctx, viewer); broker.CodeOf(err) != broker.CodeAccessDenied {
		t.Errorf("a viewer's list: %v", err)
	}

	// What an operator of the installation disabled stays so, whatever the tenant's own wants.
	if err := h.Service.Disable(ctx, operatorOf("acme"), files, "mine"); err != nil {
		t.Fatal(err)
	}
	if err := h.Service.Disable(ctx, boss(), files, "ours"); err != nil {
		t.Fatal(err)
	}
	if err := h.Service.Enable(ctx, operatorOf("acme"), files, "please"); broker.CodeOf(err) != broker.CodeAccessDenied {
		t.Errorf("enabled by the tenant's own: %v", err)
	}
	if err := h.Service.Disable(ctx, boss(), broker.Switch{Kind: broker.SwitchActor, Tenant: "other", Name: "secret-agent"}, "theirs"); err != nil {
		t.Fatal(err)
	}
	mine, err := h.Service.ListSwitches(ctx, operatorOf("acme"))
	if err != nil || len(mine) != 1 || mine[0].By != "ada" || mine[0].Reason != "ours" || h.Service.MayEnable(operatorOf("acme"), mine[0]) || !h.Service.MayEnable(boss(), mine[0]) {
		t.Errorf("the tenant's own see %+v, %v", mine, err)
	}
	if all, err := h.Service.ListSwitches(ctx, boss()); err != nil || len(all) != 2 {
		t.Errorf("all: %+v, %v", all, err)
	}
	// Not recorded means not done.
	h.Store.Before = func(_ context.Context, operation string) error {
		if operation == "Append" {
			return context.DeadlineExceeded
		}
		return nil
	}
	if err := h.Service.Enable(ctx, boss(), files, "why"); err == nil {
		t.Error("enabled without an event")
	}
	h.Store.Before = nil
	if all, _ := h.Service.ListSwitches(ctx, boss()); len(all) != 2 {
		t.Errorf("without an event %d are left", len(all))
	}
}
