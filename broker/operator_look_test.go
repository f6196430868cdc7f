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

// A look is on record before anything is shown, in the trail of the tenant that it concerns; a page that loads itself anew is one look
// for a while.
func TestRecordLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		tom := broker.Operator{ID: "tom", Grants: []broker.OperatorGrant{{Role: broker.RoleOperator, Tenant: "acme"}, {Role: broker.RoleAuditor, Tenant: "beta"}}}
		look := func(op broker.Operator, tenant, what string) {
			t.Helper()
			if err := h.Service.RecordLook(t.Context(), op, tenant, what); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			look(boss(), broker.Everywhere, "kill switches")
			look(boss(), "acme", "job 1")
			look(tom, broker.Everywhere, "kill switches")
			look(tom, "acme", "job 1")
		}
		time.Sleep(11 * time.Minute)
		look(boss(), "acme", "job 1")
		var seen []string
		for _, e := range h.Store.Entries(broker.EventOperatorViewed) {
			seen = append(seen, e.Actor.Agent+" "+e.Tenant+" "+e.Reason)
		}
		if got := strings.Join(seen, "; "); got != "ada  kill switches; ada acme job 1; tom acme kill switches; tom beta kill switches; tom acme job 1; ada acme job 1" {
			t.Errorf("on record: %s", got)
		}
		// What could not be recorded is not shown, and is not taken for recorded.
		h.Store.Before = func(context.Context, string) error { return errors.New("down") }
		if err := h.Service.RecordLook(t.Context(), boss(), "acme", "job 2"); err == nil {
			t.Error("it is shown without a record")
		}
		h.Store.Before = nil
		look(boss(), "acme", "job 2")
		if n := len(h.Store.Entries(broker.EventOperatorViewed)); n != len(seen)+1 {
			t.Errorf("%d on record", n)
		}
	})
}
