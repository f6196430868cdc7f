package web

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// OperatorJobs is what the pages about jobs ask.
type OperatorJobs interface {
	// ListJobs returns those that the operator may see, newest first, and GetJob one.
	ListJobs(ctx context.Context, op broker.Operator, limit int) ([]broker.Job, error)
	MayJob(op broker.Operator, job broker.Job) bool
	GetJob(ctx context.Context, op broker.Operator, id string) (broker.Job, error)
	// ChangeJob pauses, resumes or cancels one.
	ChangeJob(ctx context.Context, op broker.Operator, id string, action broker.JobAction, reason string) (broker.Job, error)
	// ChangeJobRate makes one do so many pieces of work a second at most.
	ChangeJobRate(ctx context.Context, op broker.Operator, id string, rate int, reason string) (broker.Job, error)
	// RevokeAll starts the job that ends all connections of a tenant or a connector, and CountRevokeAll counts them before.
	RevokeAll(ctx context.Context, op broker.Operator, req broker.RevokeAllRequest, once string) (broker.Job, error)
	CountRevokeAll(ctx context.Context, op broker.Operator, req broker.RevokeAllRequest) (int, error)
}

// jobsShown is how many jobs the list has.
const jobsShown = 50

// jobView is a job in words.
type jobView struct {
	ID, Address      string
	What             string
	State            string
	StateLabel       string
	Progress         string
	Done, Total      int64
	Note, Result     string
	By, Reason       string
	Rate             int
	Created, Changed moment
	Ended            moment
	Over             bool
	Counts           []fact
}

func viewOfJob(j broker.Job) jobView {
	p := j.Progress
	row := jobView{
		ID: j.ID, Address: "/dashboard/jobs/" + url.PathEscape(j.ID), What: jobWords(j), State: string(j.State), StateLabel: string(j.State), Done: p.Done + p.Failed + p.Skipped, Total: p.Total,
		Note: asSentence(plain(p.Note)), Result: asSentence(plain(j.Result)), By: plain(j.StartedBy), Reason: plain(j.Reason), Rate: j.Rate,
		Created: momentOf(j.CreatedAt), Changed: momentOf(j.UpdatedAt), Ended: momentOf(j.EndedAt), Over: j.State.Ended(),
	}
	row.Progress = strconv.FormatInt(row.Done, 10)
	if row.Total > 0 {
		row.Progress += " of " + strconv.FormatInt(row.Total, 10)
	}
	for name, n := range p.Counts {
		row.Counts = append(row.Counts, fact{Name: plain(name), Text: strconv.FormatInt(n, 10)})
	}
	if p.Skipped > 0 {
		row.Counts = append(row.Counts, fact{Name: "left out", Text: strconv.FormatInt(p.Skipped, 10)})
	}
	slices.SortFunc(row.Counts, func(a, b fact) int { return strings.Compare(a.Name, b.Name) })
	return row
}

// jobWords says what the job does.
func jobWords(j broker.Job) string {
	what := plain(string(j.Kind))
	switch j.Kind {
	case broker.JobRevokeAll:
		what = "End all connections"
	case broker.JobVerify:
		what = "Verify the audit trail"
	}
	if j.Connector != "" {
		what += " to " + plain(j.Connector)
	}
	if j.Tenant != broker.Everywhere {
		what += " of tenant " + plain(j.Tenant)
	}
	return what
}

type jobsPage struct {
	*board
	Rows   []jobView
	Revoke bool
}

// jobs is GET /dashboard/jobs.
func (w *Web) jobs(c echo.Context, b *board) error {
	all, err := w.cfg.Service.ListJobs(b.ctx, b.Op, jobsShown)
	if err != nil {
		return err
	}
	if err := w.cfg.Service.RecordLook(b.ctx, b.Op, broker.Everywhere, "jobs"); err != nil {
		return err
	}
	page := jobsPage{board: b, Revoke: b.MaySomewhere(broker.PermitStopAll)}
	page.Title = "Jobs"
	for _, j := range all {
		page.Rows = append(page.Rows, viewOfJob(j))
	}
	return w.render(c, http.StatusOK, "board-jobs", page)
}

type jobPage struct {
	*board
	View jobNow
	At   moment
	// Live is the address of the page's stream; "": nothing more becomes of the job. Refresh is the page's own.
	Live, Refresh string
	// Follow is the address of the page that loads itself anew, and Following says that this is it: for browsers without scripts.
	Follow    string
	Following bool
}

// jobNow is what is drawn anew while the page is open.
type jobNow struct {
	jobView
	Actions []actionLink
}

func jobNowOf(j broker.Job) jobNow {
	now := jobNow{jobView: viewOfJob(j)}
	for _, a := range jobActions {
		if broker.MayJobAction(j, a.action) {
			now.Actions = append(now.Actions, actionLink{Title: a.title, Address: now.Address + "/" + string(a.action), Danger: a.danger})
		}
	}
	return now
}

// followSeconds is after how many seconds a followed page is loaded anew.
const followSeconds = "3"

// job is GET /dashboard/jobs/ID. Its stream keeps it up to date. Where the operator asks for that, the browser loads it anew until the
// job has ended: the header works without a script.
func (w *Web) job(c echo.Context, b *board) error {
	j, err := w.cfg.Service.GetJob(b.ctx, b.Op, c.Param("id"))
	if err != nil {
		return err
	}
	if err := w.lookAtJob(b.ctx, b.Op, j); err != nil {
		return err
	}
	page := jobPage{board: b, View: jobNowOf(j), At: clockOf(w.cfg.Now())}
	page.Title = page.View.What
	if !page.View.Over {
		page.Refresh = page.View.Address
		page.Follow = page.Refresh + "?follow=1"
		if page.Following = c.QueryParam("follow") == "1"; page.Following {
			c.Response().Header().Set("Refresh", followSeconds)
		} else {
			page.Live = page.Refresh + "/live"
			c.Response().Header().Set("Content-Security-Policy", w.policy(areaLive)) // it asks for its stream
		}
	}
	return w.render(c, http.StatusOK, "board-job", page)
}

// lookAtJob records the look, in the trail of the job's tenant.
func (w *Web) lookAtJob(ctx context.Context, op broker.Operator, j broker.Job) error {
	return w.cfg.Service.RecordLook(ctx, op, j.Tenant, "job "+j.ID)
}

// liveJob is GET /dashboard/jobs/ID/live. It ends with the job.
func (w *Web) liveJob(c echo.Context, _ *board) (liveLook, error) {
	id := c.Param("id")
	return func(ctx context.Context, op broker.Operator, _ bool) (liveTurn, error) {
		j, err := w.cfg.Service.GetJob(ctx, op, id)
		if err == nil {
			err = w.lookAtJob(ctx, op, j)
		}
		return liveTurn{page: "board-job", part: "job-live", view: jobNowOf(j), at: clockOf(w.cfg.Now()), ended: j.State.Ended()}, err
	}, nil
}

type jobAction struct {
	action        broker.JobAction
	title, button string
	danger        bool
	happens       string
}

var jobActions = []jobAction{
	{action: broker.JobPause, title: "Pause", button: "Pause the job", happens: "What is under way is finished. The job waits until somebody resumes it."},
	{action: broker.JobRate, title: "Change the rate", button: "Change the rate", happens: "It holds from the next step on, within a second or two, on whichever replica does the job. A provider that asks to wait is waited for all the same."},
	{action: broker.JobResume, title: "Resume", button: "Resume the job", happens: "It goes on where it stopped."},
	{action: broker.JobCancel, title: "Cancel", button: "Cancel the job", danger: true, happens: "What is under way is finished, and what was done stays done. The job can't be resumed; another one can be started."},
}

type jobAsk struct {
	*board
	jobView
	Heading, Button, Happens string
	Danger                   bool
	Action, Problem, Given   string
	// NewRate is what the form has as the rate, of at most Most; "": it asks for none.
	NewRate string
	Most    int
}

// askJob is GET /dashboard/jobs/ID/ACTION.
func (w *Web) askJob(c echo.Context, b *board) error {
	return w.showJobAsk(c, b, http.StatusOK, "", "", "")
}

func (w *Web) showJobAsk(c echo.Context, b *board, status int, problem, reason, rate string) error {
	j, err := w.cfg.Service.GetJob(b.ctx, b.Op, c.Param("id"))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(jobActions, func(a jobAction) bool { return string(a.action) == c.Param("action") })
	if i < 0 {
		return w.show(c, areaDashboard, noSuchPage)
	}
	a, row := jobActions[i], viewOfJob(j)
	if !broker.MayJobAction(j, a.action) {
		return c.Redirect(http.StatusSeeOther, row.Address)
	}
	page := jobAsk{board: b, jobView: row, Heading: a.title + " this job", Button: a.button, Happens: a.happens, Danger: a.danger, Action: row.Address + "/" + string(a.action), Problem: problem, Given: plain(reason)}
	page.Title = page.Heading
	if a.action == broker.JobRate {
		page.Heading = "Change the rate of this job"
		page.NewRate, page.Most = cmp.Or(rate, strconv.Itoa(j.Rate)), broker.MaxRevokeRate
	}
	return w.render(c, status, "board-job-ask", page)
}

// changeJob is POST /dashboard/jobs/ID/ACTION.
func (w *Web) changeJob(c echo.Context, b *board, form func(string) string) error {
	action, reason := broker.JobAction(c.Param("action")), strings.TrimSpace(form("reason"))
	if !slices.ContainsFunc(jobActions, func(a jobAction) bool { return a.action == action }) {
		return w.show(c, areaDashboard, noSuchPage)
	}
	var j broker.Job
	var err error
	if action == broker.JobRate {
		j, err = w.cfg.Service.ChangeJobRate(b.ctx, b.Op, c.Param("id"), rateOf(form), reason)
	} else {
		j, err = w.cfg.Service.ChangeJob(b.ctx, b.Op, c.Param("id"), action, reason)
	}
	if err == nil {
		return c.Redirect(http.StatusSeeOther, viewOfJob(j).Address+"?notice=job_"+string(action))
	}
	if problem, status, again := boardProblem(err); again {
		return w.showJobAsk(c, b, status, problem, reason, plain(form("rate")))
	}
	return err
}

// rateOf reads the rate of a form; -1, which is refused with the words for it, where that is none.
func rateOf(form func(string) string) int {
	rate, err := strconv.Atoi(strings.TrimSpace(form("rate")))
	if err != nil || rate < 1 {
		return -1
	}
	return rate
}

// revokeAllPage asks what to end, then whether.
type revokeAllPage struct {
	*board
	Wheres     []choice
	Connectors []choice
	// Chosen: the operator has said what; then the rest is asked.
	Chosen   bool
	What     string
	Count    int
	Disabled bool
	Disable  string // address where what is to be ended can be disabled first; "": not by this operator
	Once     string
	Rate     string
	Action   string
	Problem  string
	Given    string
	Most     int
}

// askRevokeAll is GET /dashboard/revoke-all.
func (w *Web) askRevokeAll(c echo.Context, b *board) error {
	once, err := w.once()
	if err != nil {
		return err
	}
	return w.showRevokeAll(c, b, http.StatusOK, "", "", strconv.Itoa(broker.DefaultRevokeRate), once)
}

func (w *Web) showRevokeAll(c echo.Context, b *board, status int, problem, reason, rate, once string) error {
	req := broker.RevokeAllRequest{Tenant: c.QueryParam("tenant"), Connector: c.QueryParam("connector")}
	page := revokeAllPage{
		board: b, Wheres: chosen(w.whereChoices(b, broker.PermitStopAll), req.Tenant), Connectors: chosen(append([]choice{{Label: "all connectors"}}, w.connectorChoices(b)...), req.Connector),
		Problem: problem, Given: plain(reason), Rate: rate, Once: once, Most: broker.MaxRevokeRate,
	}
	page.Title = "End all connections"
	page.Chosen = req.Tenant != "" || req.Connector != ""
	if !page.Chosen {
		return w.render(c, status, "board-revoke-all", page)
	}
	var err error
	if page.Count, err = w.cfg.Service.CountRevokeAll(b.ctx, b.Op, req); err != nil {
		return err
	}
	page.What = jobWords(broker.Job{Kind: broker.JobRevokeAll, Tenant: req.Tenant, Connector: req.Connector})
	page.Action = "/dashboard/revoke-all?" + url.Values{"tenant": {req.Tenant}, "connector": {req.Connector}}.Encode()
	what := broker.Switch{Kind: broker.SwitchConnector, Tenant: req.Tenant, Name: req.Connector}
	if req.Connector == "" {
		what = broker.Switch{Kind: broker.SwitchTenant, Tenant: req.Tenant}
	}
	off, err := w.cfg.Service.ListSwitches(b.ctx, b.Op)
	if err != nil {
		return err
	}
	page.Disabled = slices.ContainsFunc(off, func(one broker.Switch) bool {
		return one.Same(what) || one.Same(broker.Switch{Kind: broker.SwitchConnector, Name: req.Connector}) || one.Same(broker.Switch{Kind: broker.SwitchTenant, Tenant: req.Tenant})
	})
	if what.Kind == broker.SwitchConnector || b.May(broker.PermitStopAll, broker.Everywhere) {
		page.Disable = switchAddress("disable", what)
	}
	return w.render(c, status, "board-revoke-all", page)
}

// startRevokeAll is POST /dashboard/revoke-all.
func (w *Web) startRevokeAll(c echo.Context, b *board, form func(string) string) error {
	req := broker.RevokeAllRequest{Tenant: c.QueryParam("tenant"), Connector: c.QueryParam("connector"), Reason: strings.TrimSpace(form("reason"))}
	req.Rate = rateOf(form)
	j, err := w.cfg.Service.RevokeAll(b.ctx, b.Op, req, form("once"))
	if err == nil {
		return c.Redirect(http.StatusSeeOther, viewOfJob(j).Address+"?notice=job_started")
	}
	if problem, status, again := boardProblem(err); again {
		return w.showRevokeAll(c, b, status, problem, req.Reason, plain(form("rate")), plain(form("once")))
	}
	return err
}
