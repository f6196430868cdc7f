package web_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// The page of a job has a stream that brings what changes, and that ends with the job; whoever may not see the job gets none.
func TestLiveJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := switchable(newSite(t, public, withClients))
		status(t, s.get("/dashboard/jobs/job-running/live"), http.StatusUnauthorized)
		s.signIn()
		var looks atomic.Int64
		s.service.Switches.Job = func(_ broker.Operator, id string) (broker.Job, error) {
			j := webtest.JobSamples(made)["job-running"]
			switch n := looks.Add(1); {
			case id != j.ID:
				return broker.Job{}, broker.Errorf(broker.CodeNotFound, "no")
			case n == 3:
				j.Progress.Done = 231
			case n >= 4:
				j = webtest.JobSamples(made)["job-done"]
			}
			return j, nil
		}
		began := time.Now()
		res := s.stream("/dashboard/jobs/job-running/live", time.Minute)
		status(t, res, http.StatusOK)
		text := body(t, res)
		if parts := strings.Count(text, "event: part\n"); parts != 3 || strings.Count(text, "event: ended\n") != 1 || time.Since(began) > 12*time.Second {
			t.Errorf("%d parts in %v\n%s", parts, time.Since(began), text)
		}
		contains(t, text, "120 of 300", "233 of 300", "300 connections ended", "/dashboard/jobs/job-running/pause")
		lacks(t, text, "canary")
		status(t, s.get("/dashboard/jobs/none/live"), http.StatusNotFound)
		// Signed out elsewhere, it ends with the next turn.
		looks.Store(-1 << 40)
		s.sessions.DeleteSession(t.Context(), broker.NewSecret(s.jar[sessionCookie])) //nolint:errcheck // it is in memory
		status(t, s.get("/dashboard/jobs/job-running/live"), http.StatusUnauthorized)
	})
}
