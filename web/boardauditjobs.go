package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// reachPage is what an actor could reach.
type reachPage struct {
	*board
	*trailQuestion
	Choices  []choice
	Asked    bool
	Rows     []reachRow
	Subjects int
	Events   string
	Cut      moment // not everything is in it: what is before that time is not
	From, To string // the time that is asked about
	Trail    string // address of the events themselves
}

type reachRow struct {
	Connector, Subject, Scope, Connection string
	Account                               string
	First, Last                           moment
	Count                                 string
}

// reachesAtOnce bounds how many of these questions a process works on, and reachesEach those of one operator: each may take seconds.
const reachesAtOnce, reachesEach = 4, 2

// trailReach is GET /dashboard/audit/reach.
func (w *Web) trailReach(c echo.Context, b *board) error {
	q, err := w.question(b, c.QueryParams())
	if err != nil {
		return err
	}
	f, err := q.filter()
	if err != nil {
		return err
	}
	page := &reachPage{board: b, trailQuestion: q, Choices: w.trailTenants(b, q.Tenant), From: dayOf(f.Since), To: dayOf(f.Until)}
	page.Title = "What an agent could reach"
	if f.Agent == "" && f.Run == "" {
		if err := b.Op.Check(broker.PermitAudit, q.Tenant); err != nil {
			return err
		}
		if !q.Form.Has("month") && f.Since.IsZero() && f.Until.IsZero() {
			q.Form.Set("month", w.cfg.Now().UTC().Format("2006-01"))
		}
		return w.render(c, http.StatusOK, "board-audit-reach", page)
	}
	page.Asked, page.Trail = true, q.address("/dashboard/audit", "")
	return w.renderLate(c, "board-audit-reach", page, func() error {
		leave, ok := w.reaches.take(b.Op.ID)
		if !ok {
			return broker.Errorf(broker.CodeSlowDown, "others are asking the same; try again in a moment")
		}
		defer leave()
		reach, err := w.cfg.Service.TrailReach(b.ctx, b.Op, q.Tenant, f)
		if err == nil {
			w.fillReach(page, b, q.Tenant, reach)
		}
		return err
	})
}

// fillReach puts what was found on the page.
func (w *Web) fillReach(page *reachPage, b *board, tenant string, reach broker.Reach) {
	page.Events = count(int64(reach.Events))
	if !reach.Cut.IsZero() {
		page.Cut = secondOf(reach.Cut)
	}
	subjects := map[string]bool{}
	for _, r := range reach.Rows {
		subjects[r.Subject] = true
		row := reachRow{Connector: plain(r.Connector), Subject: plainWhole(r.Subject), Scope: plainWhole(r.Scope), Connection: plain(r.Connection), First: momentOf(r.First), Last: momentOf(r.Last), Count: count(int64(r.Count))}
		if r.Connection != "" && b.May(broker.PermitAccounts, tenant) {
			row.Account = accountAddress(tenant, r.Connection, "")
		}
		page.Rows = append(page.Rows, row)
	}
	page.Subjects = len(subjects)
}

func dayOf(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format("2006-01-02 15:04")
}

// verifyPage starts a verification, or shows how one goes on.
type verifyPage struct {
	*board
	Tenant  string
	Choices []choice
	Once    string
	Reason  string
	Problem string
	Job     *verifyJob
	Recent  []verifyJob
}

// verifyJob is a verification in words.
type verifyJob struct {
	Address, Of, By, Reason string
	State, Label            string
	Started, Ended          moment
	Running                 bool
	Done, Total             int64
	Share                   int // percent
	Walked                  string
	Bad                     int64
	Note, Result            string
}

// verifyPause is how often the page of a job that runs asks for news, in seconds.
const verifyPause = "3"

// trailVerify is GET /dashboard/audit/verify.
func (w *Web) trailVerify(c echo.Context, b *board) error {
	if id := c.QueryParam("job"); id != "" {
		job, err := w.cfg.Service.TrailVerification(b.ctx, b.Op, id)
		if err != nil {
			return err
		}
		if err := w.lookAtJob(b.ctx, b.Op, job); err != nil {
			return err
		}
		page := &verifyPage{board: b, Tenant: job.Tenant}
		page.Title = "Verification of the audit trail"
		v := verifyJobOf(job)
		if page.Job = &v; v.Running {
			c.Response().Header().Set("Refresh", verifyPause)
		}
		return w.render(c, http.StatusOK, "board-audit-verify", page)
	}
	return w.askVerify(c, b, http.StatusOK, c.QueryParam("tenant"), "", "")
}

func (w *Web) askVerify(c echo.Context, b *board, status int, tenant, problem, reason string) error {
	page := &verifyPage{board: b, Tenant: tenant, Problem: problem, Reason: plainWhole(reason)}
	var err error
	if page.Once, err = w.once(); err != nil {
		return err
	}
	page.Title = "Verify the audit trail"
	if b.May(broker.PermitExport, broker.Everywhere) {
		page.Choices = append(page.Choices, choice{Value: broker.Everywhere, Label: "all tenants, and the installation itself"})
	}
	for _, t := range b.Op.Tenants(broker.PermitExport, w.cfg.Tenants) {
		page.Choices = append(page.Choices, choice{Value: t, Label: t})
	}
	page.Choices = choices(tenant, page.Choices...)
	recent, err := w.cfg.Service.TrailVerifications(b.ctx, b.Op, 10)
	if err != nil {
		return err
	}
	if err := w.cfg.Service.RecordLook(b.ctx, b.Op, broker.Everywhere, "verifications of the audit trail"); err != nil {
		return err
	}
	for _, job := range recent {
		page.Recent = append(page.Recent, verifyJobOf(job))
	}
	return w.render(c, status, "board-audit-verify", page)
}

// startVerify is POST /dashboard/audit/verify.
func (w *Web) startVerify(c echo.Context, b *board, form func(string) string) error {
	tenant, reason := form("tenant"), strings.TrimSpace(form("reason"))
	job, err := w.cfg.Service.VerifyTrail(b.ctx, b.Op, tenant, reason, form("once"))
	if err != nil {
		if broker.CodeOf(err) == broker.CodeInvalidRequest {
			return w.askVerify(c, b, http.StatusBadRequest, tenant, actionProblem(err), reason)
		}
		return err
	}
	return c.Redirect(http.StatusSeeOther, verifyAddress(job.ID))
}

func verifyAddress(id string) string {
	return "/dashboard/audit/verify?" + url.Values{"job": {id}}.Encode()
}

var verifyLabels = map[broker.JobState]string{
	broker.JobQueued: "waits for a replica", broker.JobRunning: "running", broker.JobPaused: "paused", broker.JobCancelled: "cancelled", broker.JobFailed: "failed",
}

func verifyJobOf(job broker.Job) verifyJob {
	v := verifyJob{
		Address: verifyAddress(job.ID), Of: plain(job.Tenant), By: plain(job.StartedBy), Reason: plainWhole(job.Reason), Started: momentOf(job.CreatedAt), Ended: momentOf(job.EndedAt),
		Running: job.State == broker.JobQueued || job.State == broker.JobRunning, Done: job.Progress.Done, Total: max(job.Progress.Total, job.Progress.Done), Bad: job.Progress.Failed,
		Note: plainWhole(job.Progress.Note), Result: plainWhole(job.Result), Label: verifyLabels[job.State], State: "revoked",
	}
	if v.Of == "" {
		v.Of = "all tenants, and the installation itself"
	}
	switch {
	case v.Bad > 0:
		v.State, v.Label = "bad", fmt.Sprintf("%s bad", places(v.Bad))
		if v.Running {
			v.Label += " so far"
		}
	case job.State == broker.JobDone:
		v.State, v.Label = "active", "whole"
	}
	if v.Total > 0 {
		v.Share = int(100 * v.Done / v.Total)
	}
	v.Walked = count(job.Progress.Counts["events"])
	return v
}

func places(n int64) string {
	if n == 1 {
		return "1 place"
	}
	return count(n) + " places"
}
