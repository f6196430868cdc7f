package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// TrailExplorer is what the pages about the audit trail ask. Each use case records what is seen or done before it is.
type TrailExplorer interface {
	// SearchTrail pages through the events of a tenant ("": those that concern no tenant), newest first.
	SearchTrail(ctx context.Context, op broker.Operator, tenant string, f broker.EventFilter, cursor string, limit int) (broker.TrailPage, error)
	// ExportTrail gives all events that the filter selects to each, oldest first.
	ExportTrail(ctx context.Context, op broker.Operator, tenant string, f broker.EventFilter, each func([]broker.Event) error) (int, error)
	// TrailReach is what an actor got tokens for.
	// TrailKeptSince is from when on events are kept; zero: since ever.
	TrailKeptSince(ctx context.Context, op broker.Operator, tenant string) (time.Time, error)
	TrailReach(ctx context.Context, op broker.Operator, tenant string, f broker.EventFilter) (broker.Reach, error)
	// VerifyTrail starts a job that verifies the trail; TrailVerification returns it, TrailVerifications the newest ones.
	VerifyTrail(ctx context.Context, op broker.Operator, tenant, reason, once string) (broker.Job, error)
	TrailVerification(ctx context.Context, op broker.Operator, id string) (broker.Job, error)
	TrailVerifications(ctx context.Context, op broker.Operator, limit int) ([]broker.Job, error)
	// SealPersonal makes a form of a person's name that may stand in an address, OpenPersonal reads it.
	SealPersonal(what, tenant, text string) (string, error)
	OpenPersonal(what, tenant, sealed string) (string, error)
}

func (w *Web) addAudit(e *echo.Echo) {
	w.add(e, "/dashboard/audit", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitAudit, w.auditTrail), http.MethodPost: w.boardAction(broker.PermitAudit, w.askTrail("/dashboard/audit"))})
	w.add(e, "/dashboard/audit/export", areaDashboard, methods{http.MethodPost: w.boardAction(broker.PermitExport, w.exportTrail)})
	w.add(e, "/dashboard/audit/reach", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitAudit, w.trailReach), http.MethodPost: w.boardAction(broker.PermitAudit, w.askTrail("/dashboard/audit/reach"))})
	w.add(e, "/dashboard/audit/verify", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitExport, w.trailVerify), http.MethodPost: w.boardAction(broker.PermitExport, w.startVerify)})
}

// eventsPerPage is how many rows a page of the explorer has.
const eventsPerPage = 50

// The parameters of an address that asks the trail something. Names of persons are in it sealed: addresses are kept in many places.
var (
	trailTexts    = []string{"client", "agent", "run", "connector", "connection", "scope", "type", "outcome", "since", "until", "month"}
	trailPersonal = map[string]string{"subject": "who", "agent": "by"} // the agent only where it may be a person's address
)

// trailQuestion is what is asked, in the words of the form.
type trailQuestion struct {
	Tenant string
	Form   url.Values // what people type, by field: subject, and trailTexts
	Sealed url.Values // the same as it may stand in an address
}

// question reads the parameters of an address.
func (w *Web) question(b *board, q url.Values) (*trailQuestion, error) {
	out := &trailQuestion{Form: url.Values{}, Sealed: url.Values{}}
	if q.Has("tenant") {
		out.Tenant = q.Get("tenant")
	} else if tenants := b.Op.Tenants(broker.PermitAudit, w.cfg.Tenants); len(tenants) > 0 {
		out.Tenant = tenants[0]
	}
	out.Sealed.Set("tenant", out.Tenant)
	for _, name := range trailTexts {
		if v := q.Get(name); v != "" {
			out.Form.Set(name, v)
			out.Sealed.Set(name, v)
		}
	}
	for field, name := range trailPersonal {
		v := q.Get(name)
		if v == "" {
			continue
		}
		if err := b.Op.Check(broker.PermitAudit, out.Tenant); err != nil { // before anything sealed is opened for them
			return nil, err
		}
		text, err := w.cfg.Service.OpenPersonal(field, out.Tenant, v)
		if err != nil {
			return nil, err
		}
		out.Form.Set(field, text)
		out.Sealed.Set(name, v)
	}
	return out, nil
}

// sealQuestion makes the address of what a form asks.
func (w *Web) sealQuestion(form func(string) string) (url.Values, error) {
	q := url.Values{"tenant": {form("tenant")}}
	for _, name := range trailTexts {
		if v := strings.TrimSpace(form(name)); v != "" {
			q.Set(name, v)
		}
	}
	for field, name := range trailPersonal {
		text := form(field)
		if field == "agent" && !strings.Contains(text, "@") {
			continue
		}
		q.Del(field)
		if text == "" {
			continue
		}
		sealed, err := w.cfg.Service.SealPersonal(field, q.Get("tenant"), text)
		if err != nil {
			return nil, err
		}
		q.Set(name, sealed)
	}
	return q, nil
}

// askTrail is the POST of a form that asks: it leads to the address of the answer, which can be kept and shared.
func (w *Web) askTrail(path string) func(echo.Context, *board, func(string) string) error {
	return func(c echo.Context, b *board, form func(string) string) error {
		if err := b.Op.Check(broker.PermitAudit, form("tenant")); err != nil {
			return err
		}
		q, err := w.sealQuestion(form)
		if err != nil {
			return err
		}
		return c.Redirect(http.StatusSeeOther, path+"?"+q.Encode())
	}
}

// filter is the question as the broker has it.
func (q *trailQuestion) filter() (f broker.EventFilter, err error) {
	v := q.Form.Get
	f = broker.EventFilter{
		Subject: v("subject"), Client: v("client"), Agent: v("agent"), Run: v("run"), Connector: v("connector"), Connection: v("connection"), Scope: v("scope"),
		Type: broker.EventType(v("type")), Outcome: v("outcome"),
	}
	if f.Type != "" && !f.Type.Known() {
		return f, broker.Errorf(broker.CodeInvalidRequest, "no event has that type; there are: %s", broker.EventTypeList())
	}
	if month := v("month"); month != "" {
		if f.Since, err = time.Parse("2006-01", month); err != nil {
			return f, broker.Errorf(broker.CodeInvalidRequest, "a month is written as 2026-03").Because(err)
		}
		f.Until = f.Since.AddDate(0, 1, 0)
		return f, nil
	}
	if f.Since, _, err = trailTime(v("since")); err != nil {
		return f, err
	}
	var day bool
	if f.Until, day, err = trailTime(v("until")); day {
		f.Until = f.Until.AddDate(0, 0, 1) // that day included
	}
	return f, err
}

// trailTime reads a time of a form, in UTC; day: it is a whole day.
func trailTime(text string) (at time.Time, day bool, err error) {
	if text == "" {
		return at, false, nil
	}
	for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05"} {
		if at, err = time.Parse(layout, text); err == nil {
			return at, false, nil
		}
	}
	if at, err = time.Parse(time.DateOnly, text); err != nil {
		return at, false, broker.Errorf(broker.CodeInvalidRequest, "a time is written as 2026-12-31 or 2026-12-31T23:59").Because(err)
	}
	return at, true, nil
}

// auditPage is the explorer.
type auditPage struct {
	*board
	*trailQuestion
	Choices []choice // tenants
	Types   []string // for the list of suggestions
	Rows    []auditRow
	Ended   bool   // that was all
	Reached moment // up to when everything was looked at, if it was not all
	Since   string // the day from which on events are kept; "": since ever
	First   string // address of the first page, on later pages
	Next    string
	Reach   string // address of what the actor could reach
	Export  bool
}

// auditRow is an event in words.
type auditRow struct {
	At                          moment
	What, Type, Outcome, Reason string
	Subject, Client, Tool       string
	Agent, Run, AgentName       string
	Connector, Scope            string
	Asked                       bool // the scope was asked for
	Connection                  string
	Account                     string // address of the connection
	Request, ID                 string
	Reach                       string // address of what this agent could reach in that month
}

// auditTrail is GET /dashboard/audit.
func (w *Web) auditTrail(c echo.Context, b *board) error {
	q, err := w.question(b, c.QueryParams())
	if err != nil {
		return err
	}
	f, err := q.filter()
	if err != nil {
		return err
	}
	page := &auditPage{board: b, trailQuestion: q, Choices: w.trailTenants(b, q.Tenant), Types: eventTypes(), Export: b.May(broker.PermitExport, q.Tenant)}
	page.Title = "Audit trail"
	if len(page.Choices) == 0 {
		return w.render(c, http.StatusOK, "board-audit", page)
	}
	cursor := c.QueryParam("cursor")
	found, err := w.cfg.Service.SearchTrail(b.ctx, b.Op, q.Tenant, f, cursor, eventsPerPage)
	if err != nil {
		return err
	}
	page.Since = keptFrom(found.KeptSince)
	for _, e := range found.Events {
		page.Rows = append(page.Rows, w.auditRow(b, e))
	}
	if page.Ended = found.Next == ""; !page.Ended {
		page.Reached, page.Next = momentOf(found.Reached), q.address("/dashboard/audit", found.Next)
	}
	if cursor != "" {
		page.First = q.address("/dashboard/audit", "")
	}
	if q.Tenant != broker.Everywhere {
		page.Reach = q.address("/dashboard/audit/reach", "")
	}
	return w.render(c, http.StatusOK, "board-audit", page)
}

// keptFrom is the day (UTC) from which on events are kept, "": since ever.
func keptFrom(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.DateOnly)
}

// trailTenants are the choices of whose events to look at.
func (w *Web) trailTenants(b *board, current string) []choice {
	var out []choice
	for _, t := range b.Op.Tenants(broker.PermitAudit, w.cfg.Tenants) {
		out = append(out, choice{Value: t, Label: t})
	}
	if b.May(broker.PermitAudit, broker.Everywhere) {
		out = append(out, choice{Value: broker.Everywhere, Label: "(the installation itself)"})
	}
	return choices(current, out...)
}

func eventTypes() []string {
	var out []string
	for _, t := range broker.EventTypes() {
		out = append(out, string(t))
	}
	slices.Sort(out)
	return out
}

// Value is a field as it was asked for.
func (q *trailQuestion) Value(name string) string { return q.Form.Get(name) }

// Filtered tells whether anything but the tenant is asked for.
func (q *trailQuestion) Filtered() bool { return len(q.Form) > 0 }

// Hidden are the parameters that say the same again in a form.
func (q *trailQuestion) Hidden() []fact {
	var out []fact
	for name := range q.Sealed {
		out = append(out, fact{Name: name, Text: q.Sealed.Get(name)})
	}
	slices.SortFunc(out, func(a, b fact) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// address is where the question is answered, or the answer goes on.
func (q *trailQuestion) address(path, cursor string) string {
	values := url.Values{}
	for name, v := range q.Sealed {
		values[name] = v
	}
	if cursor != "" {
		values.Set("cursor", cursor)
	}
	return path + "?" + values.Encode()
}

func (w *Web) auditRow(b *board, e broker.Event) auditRow {
	row := auditRow{
		At: secondOf(e.Time), What: eventWord(e.Type), Type: plain(string(e.Type)), Outcome: plain(e.Outcome), Reason: plainWhole(e.Reason), Subject: plainWhole(e.Subject), Client: plain(e.Client),
		Agent: plainWhole(e.Actor.Agent), Run: plainWhole(e.Actor.Run), Tool: plainWhole(e.Actor.Tool), AgentName: "agent", Connector: plain(e.Connector), Scope: plainWhole(e.Scope), Asked: e.Requested,
		Connection: plain(e.Connection), Request: plain(e.RequestID), ID: plain(e.ID),
	}
	if e.Connection != "" && b.May(broker.PermitAccounts, e.Tenant) {
		row.Account = accountAddress(e.Tenant, e.Connection, "")
	}
	switch {
	case strings.HasPrefix(string(e.Type), "operator."):
		row.AgentName = "operator"
	case e.Portal != "":
		row.AgentName, row.Agent = "by", "the user, in My connections"
	case e.Actor.Agent != "" && e.Tenant != "" && !strings.Contains(e.Actor.Agent, "@"):
		row.Reach = "/dashboard/audit/reach?" + url.Values{"tenant": {e.Tenant}, "agent": {e.Actor.Agent}, "month": {e.Time.UTC().Format("2006-01")}}.Encode()
	}
	return row
}

// secondOf is a time to the second: an auditor compares it with other logs.
func secondOf(t time.Time) moment {
	return moment{Shown: t.UTC().Format("2006-01-02 15:04:05"), Machine: t.UTC().Format(time.RFC3339Nano)}
}
