package broker_test

import (
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// What the provider says when it is asked anew about the operator of a session, and what becomes of that session.
func TestRecheckOperator(t *testing.T) {
	began := time.Now().UTC().Add(-3 * time.Hour).Truncate(time.Millisecond)
	type try struct {
		h    *brokertest.Harness
		cb   broker.LoginCallback
		list string
	}
	asked := func(t *testing.T, code string) try {
		t.Helper()
		h := withOperators(t)
		id, err := broker.NewOperatorSessionID(began, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Operators.BeginOperatorSession(t.Context(), broker.OperatorSession{ID: id, Operator: "oidc:s-1", Epoch: "one"}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		start, err := h.Service.RecheckOperator(t.Context(), "/dashboard/jobs", broker.OperatorAgain{Session: id, Operator: "oidc:s-1", Since: began, Epoch: "one"})
		if err != nil || brokertest.Query(t, start.Location, "prompt") != "none" {
			t.Fatalf("%s, %v", start.Location.Reveal(), err)
		}
		b := brokertest.Browser{start.CookieName: start.Cookie}
		return try{h: h, list: id, cb: broker.LoginCallback{State: broker.NewSecret(brokertest.Query(t, start.Location, "state")), Code: broker.NewSecret(code), Cookie: b.Cookie}}
	}
	over := func(t *testing.T, x try) bool {
		t.Helper()
		_, err := x.h.Operators.OperatorSession(t.Context(), x.list)
		return errors.Is(err, broker.ErrNotFound)
	}

	x := asked(t, "ada")
	who, err := finishOperator(t, x.h, x.cb)
	if err != nil || who.ID != "oidc:s-1" || who.To != "/dashboard/jobs" || !slices.Equal(who.Groups, []string{"sre", "support"}) || over(t, x) {
		t.Errorf("the same: %+v, %v, the session is over: %v", who, err, over(t, x))
	}
	// What it goes on from is what it was asked about, whatever became of that meanwhile.
	if want := (broker.OperatorAgain{Session: x.list, Operator: "oidc:s-1", Since: began, Epoch: "one"}); who.Again != want {
		t.Errorf("goes on from %+v, want %+v", who.Again, want)
	}
	if in := x.h.Store.Entries(broker.EventOperatorSignedIn); len(in) != 1 || !strings.HasSuffix(in[0].Reason, ", looked up anew") {
		t.Errorf("on record: %+v", in)
	}

	for name, test := range map[string]struct {
		do   func(x *try)
		is   error // what it is by
		code broker.Code
		over bool
	}{
		"the groups are gone": {func(x *try) {
			x.h.Operators.People["ada"] = broker.OperatorIdentity{Subject: "s-1", Groups: []string{"everybody"}, GroupsGiven: true}
		}, broker.ErrNoRole, broker.CodeAccessDenied, true},
		"somebody else": {func(x *try) {
			x.h.Operators.People["ada"] = broker.OperatorIdentity{Subject: "s-9", Groups: []string{"root"}, GroupsGiven: true}
		}, broker.ErrSignInNeeded, broker.CodeLoginFailed, true},
		"nobody is signed in there": {func(x *try) { x.cb.Code, x.cb.Error = broker.Secret{}, "login_required" }, broker.ErrSignInNeeded, broker.CodeLoginFailed, true},
		"the provider is away":      {func(x *try) { x.h.Operators.Fail = &broker.UpstreamError{Class: broker.ClassUnsent, What: "away"} }, nil, broker.CodeProviderUnavailable, false},
		"signed out meanwhile": {func(x *try) {
			if err := x.h.Operators.EndOperatorSession(t.Context(), x.list); err != nil {
				t.Fatal(err)
			}
		}, broker.ErrOvertaken, broker.CodeLoginFailed, true},
		"another tab was faster": {func(x *try) {
			one, err := x.h.Operators.OperatorSession(t.Context(), x.list)
			if one.Turn++; err == nil {
				err = x.h.Operators.RenewOperatorSession(t.Context(), one, time.Now().Add(time.Hour))
			}
			if err != nil {
				t.Fatal(err)
			}
		}, broker.ErrOvertaken, broker.CodeLoginFailed, false},
		"signed out everywhere meanwhile": {func(x *try) {
			if err := x.h.Operators.SetOperatorEpoch(t.Context(), "oidc:s-1", "two", time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}, broker.ErrOvertaken, broker.CodeLoginFailed, false},
	} {
		x := asked(t, "ada")
		test.do(&x)
		who, err := finishOperator(t, x.h, x.cb)
		if err == nil || broker.CodeOf(err) != test.code || test.is != nil && !errors.Is(err, test.is) || over(t, x) != test.over || who.To != "/dashboard/jobs" {
			t.Errorf("%s: %+v, %v, the session before is over: %v", name, who, err, over(t, x))
		}
		if in := x.h.Store.Entries(broker.EventOperatorSignedIn); len(in) != 0 {
			t.Errorf("%s: signed in: %+v", name, in)
		}
	}
	// In another browser it does nothing.
	x = asked(t, "ada")
	x.cb.Cookie = brokertest.Browser{}.Cookie
	if _, err := finishOperator(t, x.h, x.cb); broker.CodeOf(err) != broker.CodeAccessDenied || over(t, x) {
		t.Errorf("in another browser: %v", err)
	}
}
