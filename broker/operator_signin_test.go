package broker_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// withOperators is a harness whose operators' provider knows these people, by the code that each signs in with.
func withOperators(t *testing.T) *brokertest.Harness {
	h := brokertest.New(t, 2)
	h.Operators.IssuerRequired = true
	h.Operators.People = map[string]broker.OperatorIdentity{
		"ada":     {Subject: "s-1", Name: "Ada", Email: "ada@example.com", Groups: []string{"everybody", "sre", "support"}, GroupsGiven: true},
		"eve":     {Subject: "s-2", Groups: []string{"everybody", "SRE", "sre "}, GroupsGiven: true},
		"zoe":     {Subject: "s-3", Email: "zoe@example.com"},
		"foreign": {Issuer: "https://other.example", Subject: "s-1", Groups: []string{"root"}},
	}
	return h
}

func finishOperator(t *testing.T, h *brokertest.Harness, cb broker.LoginCallback) (broker.OperatorSignedIn, error) {
	t.Helper()
	if !cb.HasIssuer {
		cb.Issuer, cb.HasIssuer = brokertest.OperatorsIssuer, true
	}
	return h.Replicas[1].FinishOperatorSignIn(t.Context(), cb, "r-1", "t-1")
}

func TestOperatorSignIn(t *testing.T) {
	h := withOperators(t)
	b := brokertest.Browser{}
	cb := b.BeginAsOperator(t, h.Service, "/dashboard/audit?x=1", "ada")
	who, err := finishOperator(t, h, cb)
	if err != nil || who.ID != "oidc:s-1" || who.Name != "Ada <ada@example.com>" || who.To != "/dashboard/audit?x=1" || !slices.Equal(who.Groups, []string{"sre", "support"}) {
		t.Fatalf("%+v, %v", who, err)
	}
	want := []broker.OperatorGrant{{Role: broker.RoleOperator}, {Role: broker.RoleViewer, Tenant: "acme"}, {Role: broker.RoleAuditor, Tenant: "acme"}}
	if !slices.Equal(who.Grants, want) || !slices.Equal(h.Service.OperatorGrants(who.Groups), want) || len(h.Service.OperatorGrants(nil)) != 0 {
		t.Errorf("grants %v", who.Grants)
	}
	events := h.Store.Entries(broker.EventOperatorSignedIn)
	if len(events) != 1 || events[0].Actor.Agent != "oidc:s-1" || events[0].Reason != "Ada <ada@example.com>: operator, viewer of acme, auditor of acme" || events[0].RequestID != "r-1" || events[0].TraceID != "t-1" {
		t.Errorf("events %+v", events)
	}
	// Once: neither the state nor the code works again.
	if _, err := finishOperator(t, h, cb); broker.CodeOf(err) != broker.CodeInvalidRequest || len(h.Operators.Redeemed) != 1 {
		t.Errorf("the callback again: %v", err)
	}
}

// Who has no role gets in nowhere, and that is in the trail. Groups are compared exactly.
func TestOperatorWithoutARole(t *testing.T) {
	h := withOperators(t)
	for i, code := range []string{"eve", "zoe"} {
		b := brokertest.Browser{}
		who, err := finishOperator(t, h, b.BeginAsOperator(t, h.Service, "/dashboard", code))
		if !errors.Is(err, broker.ErrNoRole) || broker.CodeOf(err) != broker.CodeAccessDenied || len(who.Grants) != 0 || !strings.HasPrefix(who.ID, "oidc:s-") {
			t.Errorf("%s: %+v, %v", code, who, err)
		}
		failed := h.Store.Entries(broker.EventOperatorSignInFailed)
		if len(failed) != i+1 || failed[i].Outcome != "access_denied" || failed[i].Actor.Agent != who.ID {
			t.Errorf("%s: events %+v", code, failed)
		}
		if told := len(h.Log.Lines("check groups_claim")) != 0; told != (code == "zoe") {
			t.Errorf("%s: the log tells of a missing claim: %v", code, told)
		}
	}
	if len(h.Store.Entries(broker.EventOperatorSignedIn)) != 0 {
		t.Error("somebody signed in")
	}
}

// Each of these is one mistake away from a sign-in. What is not of this browser neither goes on nor ends the sign-in (login CSRF).
func TestOperatorCallbacksRefused(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(h *brokertest.Harness, cb *broker.LoginCallback)
		want  broker.Code
		alive bool // the right callback works after it
	}{
		"another browser": {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Cookie = brokertest.Browser{}.Cookie }, broker.CodeAccessDenied, true},
		"another's cookie": {func(_ *brokertest.Harness, cb *broker.LoginCallback) {
			cb.Cookie = func(string) broker.Secret { return broker.NewSecret("planted") }
		}, broker.CodeAccessDenied, true},
		"no state":      {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.State = broker.Secret{} }, broker.CodeInvalidRequest, true},
		"another state": {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.State = broker.NewSecret("x") }, broker.CodeInvalidRequest, true},
		"another issuer": {func(_ *brokertest.Harness, cb *broker.LoginCallback) {
			cb.Issuer, cb.HasIssuer = "https://other.example", true
		}, broker.CodeLoginFailed, false},
		"no code":                {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Code = broker.Secret{} }, broker.CodeLoginFailed, false},
		"a refusal":              {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Error = "access_denied" }, broker.CodeLoginFailed, false},
		"an outage":              {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Error = "server_error" }, broker.CodeProviderUnavailable, false},
		"a mistake":              {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Error = "invalid_scope" }, broker.CodeProviderMisconfigured, false},
		"a used code":            {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Code = broker.NewSecret("nobody") }, broker.CodeLoginFailed, false},
		"another issuer's token": {func(_ *brokertest.Harness, cb *broker.LoginCallback) { cb.Code = broker.NewSecret("foreign") }, broker.CodeLoginFailed, false},
		"no proof":               {func(h *brokertest.Harness, _ *broker.LoginCallback) { h.Operators.Fail = broker.ErrLoginRefused }, broker.CodeLoginFailed, false},
		"too many groups":        {func(h *brokertest.Harness, _ *broker.LoginCallback) { h.Operators.Fail = broker.ErrGroupsElsewhere }, broker.CodeLoginFailed, false},
		"no audit trail": {func(h *brokertest.Harness, _ *broker.LoginCallback) {
			h.Store.Before = func(_ context.Context, operation string) error {
				if operation == "Append" {
					return errors.New("down")
				}
				return nil
			}
		}, broker.CodeTemporarilyUnavailable, false},
		"no store": {func(h *brokertest.Harness, _ *broker.LoginCallback) { h.Operators.FailStore = errors.New("down") }, broker.CodeTemporarilyUnavailable, true},
	} {
		h := withOperators(t)
		b := brokertest.Browser{}
		good := b.BeginAsOperator(t, h.Service, "/dashboard", "ada")
		cb := good
		test.spoil(h, &cb)
		who, err := finishOperator(t, h, cb)
		if broker.CodeOf(err) != test.want || who.ID != "" || len(who.Grants) != 0 {
			t.Errorf("%s: %+v, %v", name, who, err)
		}
		if errors.Is(err, broker.ErrGroupsElsewhere) != (name == "too many groups") {
			t.Errorf("%s: %v", name, err)
		}
		h.Store.Before, h.Operators.FailStore = nil, nil
		if _, err := finishOperator(t, h, good); (err == nil) != test.alive {
			t.Errorf("%s: afterwards: %v", name, err)
		}
	}
}

func TestOperatorSignInEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := withOperators(t)
		defer drain(t, h)
		b := brokertest.Browser{}
		cb := b.BeginAsOperator(t, h.Service, "/dashboard", "ada")
		time.Sleep(broker.FlowLife)
		if _, err := finishOperator(t, h, cb); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("ten minutes later: %v", err)
		}
	})
}

func TestOperatorCallbackRace(t *testing.T) {
	h := withOperators(t)
	b := brokertest.Browser{}
	cb := b.BeginAsOperator(t, h.Service, "/dashboard", "ada")
	var in atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := finishOperator(t, h, cb); err == nil {
				in.Add(1)
			}
		})
	}
	all.Wait()
	if in.Load() != 1 || len(h.Operators.Redeemed) != 1 {
		t.Errorf("%d sign-ins, the code was sent %d times", in.Load(), len(h.Operators.Redeemed))
	}
}

func TestEndOperatorSessions(t *testing.T) {
	h := withOperators(t)
	epoch := func(who string) string { e, _ := h.Operators.OperatorEpoch(t.Context(), who); return e }
	viewer := broker.Operator{ID: "oidc:v", Grants: []broker.OperatorGrant{{Role: broker.RoleViewer, Tenant: "acme"}}}
	admin := broker.Operator{ID: "oidc:a", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin}}}
	ofOne := broker.Operator{ID: "oidc:b", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin, Tenant: "acme"}}}
	nobody := broker.Operator{ID: "oidc:n"}
	for name, test := range map[string]struct {
		op          broker.Operator
		who, reason string
		want        broker.Code
	}{
		"one's own": {viewer, "oidc:v", "", ""}, "another's": {viewer, "oidc:a", "x", broker.CodeAccessDenied}, "another's, as admin of a tenant": {ofOne, "oidc:v", "x", broker.CodeAccessDenied},
		"another's, as admin": {admin, "oidc:v", "left us", ""}, "without a reason": {admin, "oidc:v", "", broker.CodeInvalidRequest}, "nobody's": {admin, "", "x", broker.CodeInvalidRequest},
		"too long a reason": {admin, "oidc:v", strings.Repeat("x", 501), broker.CodeInvalidRequest}, "without a role": {nobody, "oidc:n", "", broker.CodeAccessDenied},
	} {
		before, events := epoch(test.who), len(h.Store.Entries(broker.EventOperatorSessionsEnded))
		err := h.Service.EndOperatorSessions(t.Context(), test.op, test.who, test.reason)
		done := test.want == ""
		if (err == nil) != done || !done && broker.CodeOf(err) != test.want || (epoch(test.who) != before) != done || (len(h.Store.Entries(broker.EventOperatorSessionsEnded)) != events) != done {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.Store.Before = func(context.Context, string) error { return errors.New("down") }
	before := epoch("oidc:v")
	if err := h.Service.EndOperatorSessions(t.Context(), admin, "oidc:v", "x"); err == nil || epoch("oidc:v") != before {
		t.Errorf("done without its event: %v", err)
	}
}
