package broker_test

import (
	"context"
	"regexp"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// An operator lowers the rate of a job because the provider throttles it: what was tried too fast is given time anew, and nothing that could
// be revoked at the provider is ended here alone. At the same rate what was tried so often is, and what comes behind it in the batch is not.
func TestTriesAreOfTheirRate(t *testing.T) {
	for _, rate := range []struct {
		to     int
		first  string // how many were tried so often
		failed int64
	}{{1, `"nt":12`, 0}, {20, `"nt":1`, 1}} {
		synctest.Test(t, func(t *testing.T) {
			h := brokertest.New(t, 1)
			defer drain(t, h)
			many(t, h, 12)
			job := revokeAll(t, h, 20)
			var throttles atomic.Bool
			throttles.Store(true)
			h.Provider.BeforeRevoke = func(context.Context, string) error {
				if throttles.Load() {
					return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: 5 * time.Second}
				}
				return nil
			}
			stop := background(t, h)
			time.Sleep(8 * time.Second)
			change := func(action broker.JobAction) {
				t.Helper()
				if _, err := h.Service.ChangeJob(t.Context(), boss(), job.ID, action, "x"); err != nil {
					t.Fatal(err)
				}
			}
			change(broker.JobPause)
			time.Sleep(12 * time.Second)
			// As it is after 15 tries, which would take so long that others finish what it has begun.
			now := getJob(t, h, job.ID)
			tries := regexp.MustCompile(`"n":\d+`)
			if !tries.MatchString(now.Position) {
				t.Fatalf("it was not tried: %+v", now)
			}
			now.Position = tries.ReplaceAllString(now.Position, `"n":15`)
			now.Position = regexp.MustCompile(`"nt":\d+`).ReplaceAllString(now.Position, rate.first)
			if _, err := h.Store.UpdateJob(t.Context(), now, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := h.Service.ChangeJobRate(t.Context(), boss(), job.ID, rate.to, "they throttle"); err != nil {
				t.Fatal(err)
			}
			change(broker.JobResume)
			time.Sleep(8 * time.Second)
			throttles.Store(false)
			time.Sleep(time.Minute)
			stop()
			if now := getJob(t, h, job.ID); now.State != broker.JobDone || now.Progress.Done != 12-rate.failed || now.Progress.Failed != rate.failed {
				t.Errorf("20 to %d: %+v", rate.to, now)
			}
		})
	}
}
