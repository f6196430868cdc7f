package web

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// accountPage is one connection.
type accountPage struct {
	*board
	accountRow
	View     broker.AccountView
	Scopes   []string
	Trouble  *troubleView
	Facts    []fact
	Actions  []actionLink
	Timeline []happening
	Older    string // address of what was before
	Reached  moment // up to which time that page of the timeline goes
	Newest   string // address of the first page of the timeline, on later ones
}

// troubleView is what is wrong, since when, and what helps.
type troubleView struct {
	Means, Helps string
	Since        moment
	RetryAt      moment
	Failures     int
}

// fact is a line about the connection; one of Text and At.
type fact struct {
	Name string
	Text string
	At   *moment
	Note string
	Code bool
}

// actionLink leads to an action, or says why it can't be done.
type actionLink struct {
	Title, Address string
	Danger         bool
	Not            string
}

// happening is an entry of the timeline.
type happening struct {
	At      moment
	What    string
	Type    string
	Outcome string // if it is not "ok"
	Reason  string
	Who     []fact
	Scopes  []string
	More    int
}

// account is GET /dashboard/accounts/ID.
func (w *Web) account(c echo.Context, b *board) error {
	tenant, id := c.QueryParam("tenant"), c.Param("id")
	view, err := w.cfg.Service.Account(b.ctx, b.Op, tenant, id)
	if err != nil {
		return err
	}
	page := &accountPage{board: b, View: view, accountRow: rowOf(view.Connection)}
	page.Title = "Connected account"
	for _, s := range view.Scopes.All() {
		page.Scopes = append(page.Scopes, plain(s))
	}
	page.Facts = factsOf(view)
	if view.Error != "" && view.Status != broker.ConnectionRevoked {
		t := troubleOf(view.Error)
		page.Trouble = &troubleView{Means: t.means, Helps: t.helps, Since: momentOf(view.FailingSince), Failures: view.Failures}
		if view.RetryAt.After(w.cfg.Now()) {
			page.Trouble.RetryAt = momentOf(view.RetryAt)
		}
	}
	if view.Unreadable {
		page.Trouble = &troubleView{
			Means: "The record of this connection does not open: a value in it was changed, or sealed with a key that the keyset lacks. It is on record as integrity.failed, and nothing of it is used.",
			Helps: "See \"Keyset trouble\" in the runbook. The record is evidence: revoking erases what it holds.",
		}
	}
	if b.May(broker.PermitActions, tenant) {
		page.Actions = actionsOf(view)
	}
	if view.Unreadable {
		return w.render(c, http.StatusOK, "board-account", page)
	}
	events, err := w.cfg.Service.AccountEvents(b.ctx, b.Op, view.Connection, c.QueryParam("cursor"))
	if err != nil {
		return err
	}
	for _, e := range events.Entries {
		page.Timeline = append(page.Timeline, happeningOf(e))
	}
	if c.QueryParam("cursor") != "" {
		page.Newest = page.Address
	}
	if events.Next != "" {
		page.Older = page.Address + "&" + url.Values{"cursor": {events.Next}}.Encode()
		page.Reached = momentOf(events.Reached)
	}
	return w.render(c, http.StatusOK, "board-account", page)
}

func factsOf(v broker.AccountView) []fact {
	facts := []fact{
		{Name: "Tenant", Text: plain(v.Tenant)},
		{Name: "Client", Text: plain(v.Client)},
		{Name: "Connector", Text: plain(v.Connection.Connector), Note: plain(v.ConnectorName)},
		{Name: "Connection", Text: v.ID, Code: true},
	}
	if !v.Known && !v.Unreadable {
		facts[2].Note = "not configured any more"
	}
	at := func(name string, m moment, note string) { facts = append(facts, fact{Name: name, At: &m, Note: note}) }
	if v.Account.ID != "" {
		facts = append(facts, fact{Name: "Account at the provider", Text: plain(v.Account.ID), Code: true})
	}
	at("Connected", momentOf(v.CreatedAt), "")
	at("Last issued", momentOf(v.LastIssued), "")
	at("Last refreshed", momentOf(v.LastRefreshed), "")
	switch {
	case v.Status != broker.ConnectionActive:
	case v.Direct:
		facts = append(facts, fact{Name: "Refresh", Text: "the connector's own credentials obtain its tokens"})
	case !v.Renewable:
		facts = append(facts, fact{Name: "Refresh", Text: "none: the provider gave no refresh token"})
	case v.RefreshAt.IsZero():
		facts = append(facts, fact{Name: "Next refresh", Text: "when a token is asked for"})
	default:
		at("Next refresh", momentOf(v.RefreshAt), "or when a token is asked for")
	}
	if token, ok := v.Token(""); ok && v.Status == broker.ConnectionActive {
		if token.Never {
			facts = append(facts, fact{Name: "Access token", Text: "never ends, so it is never handed out"})
		} else {
			at("Access token ends", momentOf(token.ExpiresAt), "")
		}
	}
	if end := v.ExpiresAt(); !end.IsZero() && v.Status == broker.ConnectionActive {
		at("Grant ends", momentOf(end), "then the user must consent again")
	}
	return facts
}

func actionsOf(v broker.AccountView) []actionLink {
	var out []actionLink
	for _, a := range accountActions {
		link := actionLink{Title: a.title, Address: accountAddress(v.Tenant, v.ID, a.name), Danger: a.danger}
		switch {
		case a.name == "refresh" && !v.Refreshable, a.name == "link" && v.Unreadable:
			continue
		case a.name == "link" && !v.Linkable:
			link.Not = asSentence(v.NoLink)
		case a.name == "revoke" && v.Status == broker.ConnectionRevoked:
			continue
		}
		out = append(out, link)
	}
	return out
}

func happeningOf(e broker.Entry) happening {
	h := happening{At: momentOf(e.Time), What: eventWord(e.Type), Type: plain(string(e.Type)), Reason: plain(e.Reason)}
	if e.Outcome != "ok" {
		h.Outcome = plain(e.Outcome)
	}
	operator := strings.HasPrefix(string(e.Type), "operator.")
	for _, f := range []fact{
		{Name: "client", Text: e.Client}, {Name: "agent", Text: e.Actor.Agent}, {Name: "run", Text: e.Actor.Run}, {Name: "tool", Text: e.Actor.Tool}, {Name: "request", Text: e.RequestID},
	} {
		if operator && f.Name == "agent" {
			f.Name = "operator"
		}
		if f.Text = plain(f.Text); f.Text != "" {
			h.Who = append(h.Who, f)
		}
	}
	if e.Portal != "" {
		h.Who = append(h.Who, fact{Name: "by", Text: "the user, in My connections"})
	}
	for _, s := range e.Scopes {
		switch name := plain(s.Scope); {
		case name == "":
		case len(h.Scopes) == scopesShown:
			h.More++
		default:
			h.Scopes = append(h.Scopes, name)
		}
	}
	return h
}

// askPage asks whether an action shall be done, and why.
type askPage struct {
	*board
	accountRow
	Heading, Button string
	Danger          bool
	Happens         []string
	Back, Action    string
	Problem         string
	Reason          string
}

// askAccountAction is GET /dashboard/accounts/ID/ACTION.
func (w *Web) askAccountAction(c echo.Context, b *board) error {
	a, ok := actionNamed(c.Param("action"))
	if !ok {
		return w.show(c, areaDashboard, noSuchPage)
	}
	return w.askAccount(c, b, a, c.QueryParam("tenant"), http.StatusOK, "", "")
}

// askAccount shows the question, after a first try with what went wrong.
func (w *Web) askAccount(c echo.Context, b *board, a action, tenant string, status int, problem, reason string) error {
	if err := b.Op.Check(broker.PermitActions, tenant); err != nil {
		return err
	}
	view, err := w.cfg.Service.Account(b.ctx, b.Op, tenant, c.Param("id"))
	if err != nil {
		return err
	}
	page := askPage{
		board: b, accountRow: rowOf(view.Connection), Heading: a.title, Button: a.button, Danger: a.danger, Happens: a.happens, Problem: problem, Reason: plain(reason),
		Back: accountAddress(view.Tenant, view.ID, ""), Action: accountAddress(view.Tenant, view.ID, a.name),
	}
	page.Title = a.title
	if a.name == "refresh" && view.EndsAccess {
		page.Happens = append([]string{"At this provider a refresh ends the access token before it: whatever uses that at this moment fails and must ask for a new one."}, a.happens...)
	}
	return w.render(c, status, "board-account-ask", page)
}

// linkPage shows a link once.
type linkPage struct {
	*board
	accountRow
	Link  string
	Until moment
	Typed bool
	Back  string
}

// doAccountAction is POST /dashboard/accounts/ID/ACTION.
func (w *Web) doAccountAction(c echo.Context, b *board, form func(string) string) error {
	a, ok := actionNamed(c.Param("action"))
	if !ok {
		return w.show(c, areaDashboard, noSuchPage)
	}
	tenant, id, reason := c.QueryParam("tenant"), c.Param("id"), strings.TrimSpace(form("reason"))
	if err := b.Op.Check(broker.PermitActions, tenant); err != nil {
		return err
	}
	var notice string
	var err error
	switch a.name {
	case "refresh":
		_, err = w.cfg.Service.RefreshAccount(b.ctx, b.Op, tenant, id, reason)
		notice = "refreshed"
	case "revoke":
		var outcome broker.RevokedUpstream
		outcome, err = w.cfg.Service.RevokeAccount(b.ctx, b.Op, tenant, id, reason)
		notice = map[broker.RevokedUpstream]string{broker.RevokedUnsupported: "revoked_unsupported", broker.RevokedFailed: "revoked_failed"}[outcome]
		if notice == "" {
			notice = "revoked"
		}
	case "link":
		var link broker.ConsentLink
		if link, err = w.cfg.Service.LinkAccount(b.ctx, b.Op, tenant, id, reason); err == nil {
			return w.showAccountLink(c, b, tenant, link)
		}
	}
	var public *broker.Error
	switch {
	case err == nil:
		return c.Redirect(http.StatusSeeOther, accountAddress(tenant, id, "")+"&notice="+notice)
	case errors.As(err, &public) && public.Code != broker.CodeNotFound && (public.Code != broker.CodeAccessDenied || public.Disabled != ""):
		w.cfg.Log.InfoContext(b.ctx, "an operator's action was not done", "action", a.name, "connection", id, "code", string(public.Code), "error", err)
		status := outcomeOf(areaDashboard, err).Status
		if public.Code == broker.CodeConsentRequired {
			status = http.StatusConflict
		}
		return w.askAccount(c, b, a, tenant, status, actionProblem(err), reason)
	}
	return err
}

// showAccountLink is the one time that the link is shown.
func (w *Web) showAccountLink(c echo.Context, b *board, tenant string, link broker.ConsentLink) error {
	page := linkPage{
		board: b, accountRow: accountRow{ID: c.Param("id"), Tenant: tenant}, Link: link.URL.Reveal(), Until: momentOf(link.ExpiresAt),
		Typed: link.Binding == broker.BindingCode, Back: accountAddress(tenant, c.Param("id"), ""),
	}
	page.Title = "New consent link"
	return w.render(c, http.StatusOK, "board-account-link", page)
}
