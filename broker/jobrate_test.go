package broker_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// An operator makes a job faster and slower while it runs, from another replica; it holds within two seconds, is on record with its
// reason, and a batch that was made at a high rate holds up neither the low one nor a pause.
func TestJobRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		many(t, h, 200)
		job := revokeAll(t, h, 1)
		stop := background(t, h)
		defer stop()
		ended := func(during time.Duration) int {
			before := live(t, h)
			time.Sleep(during)
			return before - live(t, h)
		}
		rate := func(n int) {
			t.Helper()
			got, err := h.Replicas[1].ChangeJobRate(t.Context(), boss(), job.ID, n, "because")
			if err != nil || got.Rate != n {
				t.Fatalf("%d a second: %+v, %v", n, got, err)
			}
		}
		if n := ended(10 * time.Second); n < 4 || n > 12 {
			t.Errorf("%d ended in 10 s, at 1 a second", n)
		}
		for name, try := range map[string]struct {
			op     broker.Operator
			rate   int
			reason string
			want   broker.Code
		}{
			"no reason": {boss(), 5, " ", broker.CodeInvalidRequest}, "none": {boss(), 0, "x", broker.CodeInvalidRequest}, "too fast": {boss(), broker.MaxRevokeRate + 1, "x", broker.CodeInvalidRequest},
			"an operator": {operatorOf("acme"), 5, "x", broker.CodeAccessDenied}, "of another tenant": {operatorOf("other"), 5, "x", broker.CodeNotFound},
		} {
			if _, err := h.Service.ChangeJobRate(t.Context(), try.op, job.ID, try.rate, try.reason); err == nil || broker.CodeOf(err) != try.want {
				t.Errorf("%s: %v", name, err)
			}
		}
		rate(20)
		time.Sleep(2 * time.Second)
		if n := ended(4 * time.Second); n < 40 || n > 100 { // a step is once a second, and takes a while
			t.Errorf("%d ended in 4 s, at 20 a second", n)
		}
		rate(1)
		rate(1) // changes nothing
		time.Sleep(2 * time.Second)
		if n := ended(5 * time.Second); n < 3 || n > 7 {
			t.Errorf("%d ended in 5 s, at 1 a second again", n)
		}
		if _, err := h.Service.ChangeJob(t.Context(), boss(), job.ID, broker.JobPause, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if n := ended(20 * time.Second); n != 0 || live(t, h) == 0 {
			t.Errorf("%d ended while it is paused, %d are left", n, live(t, h))
		}
		rate(200) // also while it waits
		if _, err := h.Service.ChangeJob(t.Context(), boss(), job.ID, broker.JobResume, "x"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if now := getJob(t, h, job.ID); now.State != broker.JobDone || now.Progress.Done != 200 {
			t.Errorf("at its end: %+v", now)
		}
		if _, err := h.Service.ChangeJobRate(t.Context(), boss(), job.ID, 3, "x"); err != nil {
			t.Errorf("behind its end: %v", err)
		}
		var told []string
		for _, e := range h.Store.Entries(broker.EventOperatorJobRate) {
			told = append(told, e.Tenant+" "+e.Actor.Agent+" "+e.Outcome+" "+e.Reason)
		}
		if got := strings.Join(told, "; "); got != "acme ada revoke_all 1 to 20 a second: because; acme ada revoke_all 20 to 1 a second: because; acme ada revoke_all 1 to 200 a second: because" {
			t.Errorf("on record: %s", got)
		}
	})
}

// A connector's connections are ended in each tenant that has any, also where the index of connections has seen none of them yet.
func TestRevokeAllFindsWhatIsNotIndexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		many(t, h, 3)
		h.Store.NotIndexed = func(broker.Connection) bool { return true }
		job, err := h.Service.RevokeAll(t.Context(), boss(), broker.RevokeAllRequest{Connector: "files", Rate: 10, Reason: "a leak"}, "form-1")
		if err != nil {
			t.Fatal(err)
		}
		stop := background(t, h)
		time.Sleep(time.Minute)
		stop()
		if now := getJob(t, h, job.ID); now.State != broker.JobDone || now.Progress.Done != 3 || live(t, h) != 0 {
			t.Errorf("%+v, %d are left", now, live(t, h))
		}
	})
}
