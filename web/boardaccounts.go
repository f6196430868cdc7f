package web

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// OperatorAccounts is what the pages about connected accounts ask. Each records what is seen or done before it is.
type OperatorAccounts interface {
	// Accounts pages through the connections that the operator may see, newest first.
	Accounts(ctx context.Context, op broker.Operator, f broker.AccountFilter, cursor string, limit int) (broker.AccountPage, error)
	// SubjectAccounts are the connections of exactly that subject in those of the tenants that the operator may see.
	SubjectAccounts(ctx context.Context, op broker.Operator, tenants []string, subject string) (rows []broker.Connection, unreadable []string, err error)
	// Account is one connection, with what may be done about it.
	Account(ctx context.Context, op broker.Operator, tenant, id string) (broker.AccountView, error)
	// AccountEvents pages through what happened with it, newest first. It records nothing by itself: Account has.
	AccountEvents(ctx context.Context, op broker.Operator, conn broker.Connection, cursor string) (broker.Timeline, error)
	// RevokeAccount ends it, RefreshAccount refreshes it now, LinkAccount makes a link that renews it.
	RevokeAccount(ctx context.Context, op broker.Operator, tenant, id, reason string) (broker.RevokedUpstream, error)
	RefreshAccount(ctx context.Context, op broker.Operator, tenant, id, reason string) (broker.Connection, error)
	LinkAccount(ctx context.Context, op broker.Operator, tenant, id, reason string) (broker.ConsentLink, error)
}

// accountsPerPage is how many rows a page of the list has.
const accountsPerPage = 50

// accountsPage is the list of connected accounts.
type accountsPage struct {
	*board
	Filter   url.Values // as it was asked for, without the cursor
	Choices  []choice   // tenants
	Statuses []choice
	Errors   []choice
	Several  bool // rows may be of several tenants
	Rows     []accountRow
	Matching string // how many match, in words; "": not known
	First    string // address of the first page, on later pages
	Next     string // address of the next page
	// Found: the rows are those of one subject, which is not shown again: it came in a form, and not in the address.
	Found      bool
	Unreadable []string // ids of the subject's connections that do not open
	Problem    string
}

// choice is an option of a select.
type choice struct {
	Value, Label string
	Current      bool
}

func choices(current string, all ...choice) []choice {
	for i := range all {
		all[i].Current = all[i].Value == current
	}
	return all
}

// accountRow is a connection in words.
type accountRow struct {
	ID, Tenant, Subject, Connector string
	Address                        string
	Status, StatusLabel            string
	Trouble                        string // what is wrong, in a few words
	Account                        *accountView
	Scopes                         []string
	MoreScopes                     int
	Created, Issued, Refreshed     moment
}

// moment is a time for people and for machines; both empty: never.
type moment struct{ Shown, Machine string }

func momentOf(t time.Time) moment {
	if t.IsZero() {
		return moment{}
	}
	return moment{Shown: t.UTC().Format("2006-01-02 15:04"), Machine: t.UTC().Format(time.RFC3339)}
}

var statusLabels = []choice{
	{Value: "", Label: "any"},
	{Value: string(broker.ConnectionActive), Label: "active"},
	{Value: string(broker.ConnectionNeedsConsent), Label: "needs consent"},
	{Value: string(broker.ConnectionRevoked), Label: "revoked"},
}

func statusLabel(s broker.ConnectionStatus) string {
	for _, l := range statusLabels[1:] {
		if l.Value == string(s) {
			return l.Label
		}
	}
	return plain(string(s))
}

// accountFilters are the parameters of the list's address.
var accountFilters = []string{"tenant", "connector", "status", "error", "scope", "since", "until"}

// accounts is GET /dashboard/accounts.
func (w *Web) accounts(c echo.Context, b *board) error {
	page := w.accountsPage(b, c.QueryParams())
	f, err := accountFilter(page.Filter)
	if err != nil {
		return err
	}
	cursor := c.QueryParam("cursor")
	list, err := w.cfg.Service.Accounts(b.ctx, b.Op, f, cursor, accountsPerPage)
	if err != nil {
		return err
	}
	page.rows(list.Rows)
	if list.Matching >= 0 {
		page.Matching = count(int64(list.Matching))
	}
	if cursor != "" {
		page.First = page.address("")
	}
	if list.Next != "" {
		page.Next = page.address(list.Next)
	}
	return w.render(c, http.StatusOK, "board-accounts", page)
}

// findAccounts is POST /dashboard/accounts: the connections of one subject. A subject is not for addresses, which are kept in many
// places.
func (w *Web) findAccounts(c echo.Context, b *board, form func(string) string) error {
	page := w.accountsPage(b, url.Values{"tenant": {form("tenant")}})
	page.Found, page.Several = true, true
	tenants := b.Tenants
	if t := form("tenant"); t != "" {
		tenants = []string{t}
	}
	rows, unreadable, err := w.cfg.Service.SubjectAccounts(b.ctx, b.Op, tenants, form("subject"))
	status := http.StatusOK
	switch {
	case broker.CodeOf(err) == broker.CodeInvalidRequest && err != nil:
		status, page.Problem = http.StatusBadRequest, actionProblem(err)
	case err != nil:
		return err
	}
	page.Unreadable = unreadable
	page.rows(rows)
	return w.render(c, status, "board-accounts", page)
}

func (w *Web) accountsPage(b *board, asked url.Values) *accountsPage {
	page := &accountsPage{board: b, Filter: url.Values{}}
	page.Title = "Connected accounts"
	for _, name := range accountFilters {
		if v := asked.Get(name); v != "" {
			page.Filter.Set(name, v)
		}
	}
	tenant := page.Filter.Get("tenant")
	page.Several = tenant == "" && len(b.Tenants) > 1
	page.Choices = []choice{{Value: "", Label: "all"}}
	for _, t := range b.Tenants {
		page.Choices = append(page.Choices, choice{Value: t, Label: t})
	}
	page.Choices = choices(tenant, page.Choices...)
	page.Statuses = choices(page.Filter.Get("status"), slices.Clone(statusLabels)...)
	page.Errors = []choice{{Value: "", Label: "any"}}
	for _, t := range troubles {
		page.Errors = append(page.Errors, choice{Value: t.code, Label: t.short})
	}
	page.Errors = choices(page.Filter.Get("error"), page.Errors...)
	return page
}

// accountFilter reads the filter of an address.
func accountFilter(q url.Values) (f broker.AccountFilter, err error) {
	f = broker.AccountFilter{Tenant: q.Get("tenant"), Connector: q.Get("connector"), Status: broker.ConnectionStatus(q.Get("status")), Error: q.Get("error"), Scope: q.Get("scope")}
	if !slices.ContainsFunc(statusLabels, func(s choice) bool { return s.Value == string(f.Status) }) {
		return f, broker.Errorf(broker.CodeInvalidRequest, "there is no such status")
	}
	for _, v := range []string{f.Tenant, f.Connector, f.Error, f.Scope} {
		if len(v) > 512 {
			return f, broker.Errorf(broker.CodeInvalidRequest, "a filter is too long")
		}
	}
	for name, at := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if v := q.Get(name); v != "" {
			if *at, err = time.Parse(time.DateOnly, v); err != nil {
				return f, broker.Errorf(broker.CodeInvalidRequest, "a date is written as 2026-12-31").Because(err)
			}
		}
	}
	if !f.Until.IsZero() {
		f.Until = f.Until.AddDate(0, 0, 1) // that day included
	}
	return f, nil
}

// Filtered tells whether anything is filtered by.
func (p *accountsPage) Filtered() bool { return len(p.Filter) > 0 }

// Value is a filter as it was asked for.
func (p *accountsPage) Value(name string) string { return p.Filter.Get(name) }

// address is where the same list continues.
func (p *accountsPage) address(cursor string) string {
	q := url.Values{}
	for name, v := range p.Filter {
		q[name] = v
	}
	if cursor != "" {
		q.Set("cursor", cursor)
	}
	if len(q) == 0 {
		return "/dashboard/accounts"
	}
	return "/dashboard/accounts?" + q.Encode()
}

func (p *accountsPage) rows(conns []broker.Connection) {
	for _, c := range conns {
		p.Rows = append(p.Rows, rowOf(c))
	}
}

// scopesShown is how many scopes a row of the list names.
const scopesShown = 4

func rowOf(c broker.Connection) accountRow {
	row := accountRow{
		ID: c.ID, Tenant: c.Tenant, Subject: plain(c.Subject), Connector: plain(c.Connector), Address: accountAddress(c.Tenant, c.ID, ""),
		Status: string(c.Status), StatusLabel: statusLabel(c.Status), Account: viewAccount(&c.Account),
		Created: momentOf(c.CreatedAt), Issued: momentOf(c.LastIssued), Refreshed: momentOf(c.LastRefreshed),
	}
	if c.Error != "" && c.Status != broker.ConnectionRevoked {
		row.Trouble = troubleOf(c.Error).short
	}
	for _, s := range c.Scopes.All() {
		if len(row.Scopes) == scopesShown {
			row.MoreScopes = c.Scopes.Len() - scopesShown
			break
		}
		row.Scopes = append(row.Scopes, plain(s))
	}
	return row
}

// accountAddress is the page of a connection, or of an action on it.
func accountAddress(tenant, id, action string) string {
	at := "/dashboard/accounts/" + url.PathEscape(id)
	if action != "" {
		at += "/" + action
	}
	return at + "?" + url.Values{"tenant": {tenant}}.Encode()
}
