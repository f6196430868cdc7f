package web

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// ownSessionPage shows an operator the session that they are in.
type ownSessionPage struct {
	*board
	Recorded    string // what events call the operator
	Way         string
	Since, Ends moment
	Idle        string
	ByLogin     bool // at the provider, where the session may end with ours
}

// ownSession is GET /dashboard/session.
func (w *Web) ownSession(c echo.Context, b *board) error {
	who := w.sessions.of(b.session)
	p := ownSessionPage{
		board: b, Recorded: plain(b.Op.ID), Way: map[string]string{wayToken: "the login token", wayLogin: "your organisation"}[who.way],
		Since: momentOf(who.since), Ends: momentOf(who.since.Add(w.cfg.SessionLife)), Idle: inWords(w.cfg.SessionIdle), ByLogin: who.way == wayLogin,
	}
	p.Title = "Your sign-in"
	return w.render(c, http.StatusOK, "board-session", p)
}

// inWords is a length of time, in hours or minutes.
func inWords(d time.Duration) string {
	if d >= 2*time.Hour && d%time.Hour == 0 {
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}

// endOwnSessions is POST /dashboard/session/end: a sign-out on all devices.
func (w *Web) endOwnSessions(c echo.Context, b *board, _ func(string) string) error {
	if err := w.cfg.Service.EndOperatorSessions(b.ctx, b.Op, b.Op.ID, ""); err != nil {
		return err
	}
	return w.leaveSession(c, b, "everywhere")
}

// operatorsPage says who is signed in, and ends sessions: one, or all of an operator's.
type operatorsPage struct {
	*board
	Rows     []sessionRow
	First    bool
	Next     string // address of the page behind
	Problem  string
	Operator string // whose sessions the form ends
	Session  string // or the one that it ends
	Reason   string
}

type sessionRow struct {
	Who, Recorded, Roles, Way string
	Since, Seen               moment
	Own, This, Unclear        bool
	End, EndAll               string // addresses
}

// sessionsShown is how many sessions a page of the list has.
const sessionsShown = 50

// operators is GET /dashboard/operators.
func (w *Web) operators(c echo.Context, b *board) error {
	if err := b.Op.Check(broker.PermitOperators, broker.Everywhere); err != nil {
		return err
	}
	return w.showOperators(c, http.StatusOK, operatorsPage{board: b, Operator: plain(c.QueryParam("operator")), Session: plain(c.QueryParam("session"))})
}

func (w *Web) showOperators(c echo.Context, status int, p operatorsPage) error {
	p.Title = "Operators"
	position := c.QueryParam("behind")
	p.First = position == ""
	found, next, err := w.cfg.Service.SignedInOperators(p.ctx, p.Op, position, sessionsShown)
	if err != nil {
		return err
	}
	if next != "" {
		p.Next = "/dashboard/operators?" + url.Values{"behind": {next}}.Encode()
	}
	this := w.sessions.of(p.session).listed
	for _, in := range found {
		row := sessionRow{
			Who: plain(cmp.Or(in.Name, in.Operator)), Recorded: plain(in.Operator), Roles: broker.Operator{Grants: in.Grants}.RoleNames(), Way: "your organisation",
			Since: momentOf(in.Since), Seen: momentOf(in.Seen), Own: in.Own, This: in.ID == this, Unclear: in.Unclear,
			End: "/dashboard/operators?" + url.Values{"session": {in.ID}}.Encode(), EndAll: "/dashboard/operators?" + url.Values{"operator": {in.Operator}}.Encode(),
		}
		if in.ByToken {
			row.Way = "the login token"
		}
		p.Rows = append(p.Rows, row)
	}
	return w.render(c, status, "board-operators", p)
}

// endSessions is POST /dashboard/operators.
func (w *Web) endSessions(c echo.Context, b *board, form func(string) string) error {
	operator, session, reason := strings.TrimSpace(form("operator")), strings.TrimSpace(form("session")), form("reason")
	again := operatorsPage{board: b, Operator: plain(operator), Session: plain(session), Reason: plain(reason)}
	if session != "" {
		return w.endSession(c, b, session, reason, again)
	}
	if operator != tokenOperator && !strings.HasPrefix(operator, broker.OperatorByLogin("")) {
		// Nobody is called so. To say that their sessions are over would leave somebody's open whom an administrator takes to be out.
		again.Problem = "No operator is called so. Events name who signed in at your organisation as oidc:ID, and who did with the token as " + tokenOperator + "."
		return w.showOperators(c, http.StatusBadRequest, again)
	}
	err := w.cfg.Service.EndOperatorSessions(b.ctx, b.Op, operator, reason)
	switch {
	case broker.CodeOf(err) == broker.CodeInvalidRequest && err != nil:
		again.Problem = "Name the operator as events do, and a reason of at most 500 bytes."
		return w.showOperators(c, http.StatusBadRequest, again)
	case err != nil:
		return err
	case operator == b.Op.ID:
		return w.leaveSession(c, b, "everywhere")
	}
	return c.Redirect(http.StatusSeeOther, "/dashboard/operators?notice=sessions_ended")
}

// endSession ends one.
func (w *Web) endSession(c echo.Context, b *board, session, reason string, again operatorsPage) error {
	err := w.cfg.Service.EndOperatorSession(b.ctx, b.Op, session, reason)
	switch code := broker.CodeOf(err); {
	case err == nil && session == w.sessions.of(b.session).listed:
		return w.leaveSession(c, b, "here")
	case err == nil:
		return c.Redirect(http.StatusSeeOther, "/dashboard/operators?notice=session_ended")
	case code == broker.CodeNotFound:
		return c.Redirect(http.StatusSeeOther, "/dashboard/operators?notice=session_over")
	case code == broker.CodeInvalidRequest:
		again.Problem = "Say why, in one line of at most 500 bytes."
		return w.showOperators(c, http.StatusBadRequest, again)
	}
	return err
}
