package web

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// connectionsPerPage is how many rows a page of the list has.
const connectionsPerPage = 50

// connectionsPage is the list of connected accounts.
type connectionsPage struct {
	frame
	Tenants   []tenantTab
	Tenant    string
	Connector string // filters
	Status    string
	Statuses  []statusChoice
	Rows      []connectionRow
	First     string // address of the first page, on later pages
	Next      string // address of the next page
}

type tenantTab struct {
	Name    string
	Address string
	Current bool
}

type statusChoice struct {
	Value, Label string
	Current      bool
}

// connectionRow is a connection in words.
type connectionRow struct {
	ID, Subject, Connector string
	Status, StatusLabel    string
	Account                *accountView
	Scopes                 []string
	Created, Issued        moment
	Refreshed              moment
	Error                  string
}

// moment is a time for people and for machines; both empty: never.
type moment struct{ Shown, Machine string }

func momentOf(t time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	return moment{Shown: t.UTC().Format("2006-01-02 15:04"), Machine: t.UTC().Format(time.RFC3339)}
}

var statusLabels = []statusChoice{
	{Value: "", Label: "any"},
	{Value: string(broker.ConnectionActive), Label: "active"},
	{Value: string(broker.ConnectionNeedsConsent), Label: "needs consent"},
	{Value: string(broker.ConnectionRevoked), Label: "revoked"},
}

// dashboardOff says what to do where no login token is configured.
func (w *Web) dashboardOff(c echo.Context) error {
	v := offPage{frame: w.frame(c, areaDashboard)}
	v.Title = "The dashboard is not enabled"
	return w.render(c, http.StatusNotFound, "off", v)
}

type offPage struct{ frame }

// dashboard is GET /dashboard: the login form, or the connections of a tenant.
func (w *Web) dashboard(c echo.Context) error {
	if w.sessions == nil {
		return w.dashboardOff(c)
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	session, err := w.sessions.load(c.Response(), c.Request().WithContext(ctx))
	if err != nil {
		return err
	}
	operator := w.sessions.operator(session)
	if operator == "" {
		return w.render(c, http.StatusOK, "login", w.loginPage(c, false))
	}
	page := connectionsPage{
		frame:  w.frame(c, areaDashboard),
		Tenant: c.QueryParam("tenant"), Connector: c.QueryParam("connector"), Status: c.QueryParam("status"),
	}
	page.Title = "Connected accounts"
	if page.Tenant == "" && len(w.cfg.Tenants) > 0 {
		page.Tenant = w.cfg.Tenants[0]
	}
	if page.Tenant == "" {
		return w.render(c, http.StatusOK, "connections", page)
	}
	if !slices.Contains(w.cfg.Tenants, page.Tenant) {
		return broker.Errorf(broker.CodeNotFound, "no such tenant")
	}
	for _, s := range statusLabels {
		s.Current = s.Value == page.Status
		page.Statuses = append(page.Statuses, s)
	}
	if !slices.ContainsFunc(page.Statuses, func(s statusChoice) bool { return s.Current }) {
		return broker.Errorf(broker.CodeInvalidRequest, "no such status")
	}
	op := w.operator(c, operator)
	cursor := c.QueryParam("cursor")
	// Recorded first: what is not recorded is not shown.
	if err := w.cfg.Service.RecordOperator(ctx, op, broker.EventOperatorViewed, "ok", "connections of tenant "+page.Tenant); err != nil {
		return err
	}
	connections, next, err := w.cfg.Service.OperatorConnections(ctx, op, page.Tenant, broker.ConnectionQuery{
		Filter: broker.ConnectionFilter{Connector: page.Connector, Status: broker.ConnectionStatus(page.Status)},
		Limit:  connectionsPerPage, Cursor: cursor,
	})
	if err != nil {
		return err
	}
	for _, t := range w.cfg.Tenants {
		page.Tenants = append(page.Tenants, tenantTab{Name: t, Address: page.address(t, ""), Current: t == page.Tenant})
	}
	// The store pages in no order of time, so this holds within a page.
	newestFirst := slices.SortedStableFunc(slices.Values(connections), func(a, b broker.Connection) int { return b.CreatedAt.Compare(a.CreatedAt) })
	for _, conn := range newestFirst {
		page.Rows = append(page.Rows, rowOf(conn))
	}
	if cursor != "" {
		page.First = page.address(page.Tenant, "")
	}
	if next != "" {
		page.Next = page.address(page.Tenant, next)
	}
	return w.render(c, http.StatusOK, "connections", page)
}

// address is where the same list of a tenant continues.
func (p connectionsPage) address(tenant, cursor string) string {
	q := url.Values{"tenant": {tenant}}
	for name, value := range map[string]string{"connector": p.Connector, "status": p.Status, "cursor": cursor} {
		if value != "" {
			q.Set(name, value)
		}
	}
	return "/dashboard?" + q.Encode()
}

func rowOf(c broker.Connection) connectionRow {
	row := connectionRow{
		ID: c.ID, Subject: plain(c.Subject), Connector: c.Connector, Status: string(c.Status), StatusLabel: string(c.Status),
		Account: viewAccount(&c.Account), Created: momentOf(c.CreatedAt), Issued: momentOf(c.LastIssued), Refreshed: momentOf(c.LastRefreshed),
		Error: plain(c.Error),
	}
	for _, s := range statusLabels[1:] {
		if s.Value == row.Status {
			row.StatusLabel = s.Label
		}
	}
	for _, s := range c.Scopes.All() {
		row.Scopes = append(row.Scopes, plain(s))
	}
	return row
}
