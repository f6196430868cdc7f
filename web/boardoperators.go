package web

import (
	"fmt"
	"net/http"
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

// operatorsPage ends the sessions of another operator.
type operatorsPage struct {
	*board
	Problem          string
	Operator, Reason string
}

// operators is GET /dashboard/operators.
func (w *Web) operators(c echo.Context, b *board) error {
	if err := b.Op.Check(broker.PermitOperators, broker.Everywhere); err != nil {
		return err
	}
	return w.showOperators(c, http.StatusOK, operatorsPage{board: b, Operator: plain(c.QueryParam("operator"))})
}

func (w *Web) showOperators(c echo.Context, status int, p operatorsPage) error {
	p.Title = "Other operators"
	return w.render(c, status, "board-operators", p)
}

// endSessions is POST /dashboard/operators.
func (w *Web) endSessions(c echo.Context, b *board, form func(string) string) error {
	operator, reason := strings.TrimSpace(form("operator")), form("reason")
	if operator != tokenOperator && !strings.HasPrefix(operator, broker.OperatorByLogin("")) {
		// Nobody is called so. To say that their sessions are over would leave somebody's open whom an administrator takes to be out.
		return w.showOperators(c, http.StatusBadRequest, operatorsPage{
			board: b, Operator: plain(operator), Reason: plain(reason), Problem: "No operator is called so. Events name who signed in at your organisation as oidc:ID, and who did with the token as " + tokenOperator + ".",
		})
	}
	err := w.cfg.Service.EndOperatorSessions(b.ctx, b.Op, operator, reason)
	switch {
	case broker.CodeOf(err) == broker.CodeInvalidRequest && err != nil:
		return w.showOperators(c, http.StatusBadRequest, operatorsPage{
			board: b, Operator: plain(operator), Reason: plain(reason), Problem: "Name the operator as events do, and a reason of at most 500 bytes.",
		})
	case err != nil:
		return err
	case operator == b.Op.ID:
		return w.leaveSession(c, b, "everywhere")
	}
	return c.Redirect(http.StatusSeeOther, "/dashboard/operators?notice=sessions_ended")
}
