package web_test

import (
	"errors"
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

// Looks at switches, jobs and verifications are on record, and nothing is shown where that can't be.
func TestLooksAreRecorded(t *testing.T) {
	s := switchable(newSite(t, public, withClients))
	s.signIn()
	verification := webtest.JobSamples(made)["job-done"]
	verification.Kind = broker.JobVerify
	s.service.Trail.Job = func(broker.Operator, string) (broker.Job, error) { return verification, nil }
	for path, want := range map[string]string{
		"/dashboard/switches": "kill switches of ", "/dashboard/jobs": "jobs of ", "/dashboard/jobs/job-running": "job job-running of acme", "/dashboard/jobs/job-running/live": "job job-running of acme",
		"/dashboard/audit/verify": "verifications of the audit trail of ", "/dashboard/audit/verify?job=job-done": "job job-done of acme",
	} {
		before := s.service.Count("RecordLook " + want)
		s.service.FailLook = nil
		status(t, s.get(path), http.StatusOK)
		if n := s.service.Count("RecordLook " + want); n != before+1 {
			t.Errorf("%s: recorded %d times: %q", path, n-before, s.service.Calls())
		}
		s.service.FailLook = errors.New("the trail can't be written")
		status(t, s.get(path), http.StatusInternalServerError)
	}
}
