package broker_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// Administrators of the installation see who is signed in, with what each may now, and end one session for a reason; both are on record.
func TestSignedInOperators(t *testing.T) {
	h := withOperators(t)
	defer drain(t, h)
	ctx := t.Context()
	now := time.Now().UTC()
	var ids []string
	for i, one := range []broker.OperatorSession{
		{Operator: "oidc:s-1", Name: "Ada", Groups: []string{"sre"}}, {Operator: "oidc:s-2", Name: "Eve", Groups: []string{"gone"}}, {Operator: "login-token", ByToken: true}, {Operator: "oidc:s-3", Epoch: "old"},
	} {
		id, err := broker.NewOperatorSessionID(now.Add(time.Duration(i)*time.Second), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		one.ID, one.Since, one.Seen = id, now, now
		if err := h.Operators.BeginOperatorSession(ctx, one, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	// All of the last one's sessions were ended.
	if err := h.Operators.SetOperatorEpoch(ctx, "oidc:s-3", "new", now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	all, next, err := h.Service.SignedInOperators(ctx, boss(), "", 10)
	if err != nil || next != "" || len(all) != 3 {
		t.Fatalf("%d, %q, %v", len(all), next, err)
	}
	var seen []string
	for _, in := range all {
		seen = append(seen, in.Operator+" "+broker.Operator{Grants: in.Grants}.RoleNames())
	}
	if got := strings.Join(seen, "; "); got != "login-token admin; oidc:s-2 ; oidc:s-1 operator, auditor of acme" {
		t.Errorf("newest first: %s", got)
	}
	if looks := h.Store.Entries(broker.EventOperatorViewed); len(looks) != 1 || looks[0].Reason != "who is signed in" || looks[0].Actor.Agent != "ada" {
		t.Errorf("on record: %+v", looks)
	}
	for _, op := range []broker.Operator{operatorOf("acme"), {ID: "tom", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin, Tenant: "acme"}}}, {ID: "ann", Grants: []broker.OperatorGrant{{Role: broker.RoleAuditor}}}} {
		if _, _, err := h.Service.SignedInOperators(ctx, op, "", 10); broker.CodeOf(err) != broker.CodeAccessDenied || err == nil {
			t.Errorf("%v sees the list: %v", op.Grants, err)
		}
		if err := h.Service.EndOperatorSession(ctx, op, ids[0], "x"); broker.CodeOf(err) != broker.CodeAccessDenied || err == nil {
			t.Errorf("%v ends a session: %v", op.Grants, err)
		}
	}
	if err := h.Service.EndOperatorSession(ctx, boss(), ids[0], " "); broker.CodeOf(err) != broker.CodeInvalidRequest || err == nil {
		t.Errorf("without a reason: %v", err)
	}
	if err := h.Service.EndOperatorSession(ctx, boss(), ids[0], "left it open"); err != nil {
		t.Fatal(err)
	}
	if err := h.Service.EndOperatorSession(ctx, boss(), ids[0], "again"); broker.CodeOf(err) != broker.CodeNotFound || err == nil {
		t.Errorf("again: %v", err)
	}
	if _, err := h.Operators.OperatorSession(ctx, ids[0]); !errors.Is(err, broker.ErrNotFound) {
		t.Errorf("after its end: %v", err)
	}
	if ended := h.Store.Entries(broker.EventOperatorSessionsEnded); len(ended) != 1 || !strings.HasPrefix(ended[0].Reason, "oidc:s-1, the session of ") || !strings.HasSuffix(ended[0].Reason, ": left it open") {
		t.Errorf("on record: %+v", ended)
	}
	h.Operators.FailStore = errors.New("down")
	if _, _, err := h.Service.SignedInOperators(ctx, boss(), "", 10); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
		t.Errorf("a store that is down: %v", err)
	}
}

// An epoch that does not open takes nobody's list away: the sessions of that operator are on it, as what nobody can tell. A store that is
// down still fails as a whole, and ending all of that operator's sessions mends it.
func TestSignedInOperatorsUnclear(t *testing.T) {
	h := withOperators(t)
	defer drain(t, h)
	now := time.Now().UTC()
	for _, who := range []string{"oidc:s-1", "oidc:s-2"} {
		id, err := broker.NewOperatorSessionID(now, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Operators.BeginOperatorSession(t.Context(), broker.OperatorSession{ID: id, Operator: who, Epoch: "old", Since: now, Seen: now}, now.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	for _, fault := range []error{broker.ErrIntegrity, broker.ErrKeyNotYet, broker.ErrNewerFormat} {
		h.Operators.FailEpochs = map[string]error{"oidc:s-2": fmt.Errorf("open: %w", fault)}
		all, _, err := h.Service.SignedInOperators(t.Context(), boss(), "", 10)
		if err != nil || len(all) != 2 {
			t.Fatalf("%v: %d, %v", fault, len(all), err)
		}
		for _, in := range all {
			if in.Unclear != (in.Operator == "oidc:s-2") {
				t.Errorf("%v: %+v", fault, in)
			}
		}
	}
	h.Operators.FailEpochs = map[string]error{"oidc:s-2": errors.New("down")}
	if _, _, err := h.Service.SignedInOperators(t.Context(), boss(), "", 10); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
		t.Errorf("a store that is down: %v", err)
	}
}
