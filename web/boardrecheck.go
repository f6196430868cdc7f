package web

import (
	"context"
	"net/url"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// What the operators' provider said of somebody's groups holds for a while (Config.OperatorRecheck). Then the next page sends the
// browser there and back, without a question (prompt=none): a group that was taken away ends what it gave, also in a session that is
// used all day. What comes back lets only that session go on, which may have ended meanwhile, or gone on by the answer to another tab.

// stale tells that the groups of whoever is signed in must be asked for anew.
func (w *Web) stale(session context.Context) bool {
	who := w.sessions.of(session)
	return who.way == wayLogin && !w.cfg.Now().Before(who.asked.Add(w.cfg.OperatorRecheck))
}

// recheck sends the browser to the provider, and from there to that page of ours.
func (w *Web) recheck(c echo.Context, ctx, session context.Context, to string) error {
	who := w.sessions.of(session)
	start, err := w.cfg.Service.RecheckOperator(ctx, to, broker.OperatorAgain{Session: who.listed, Operator: who.id, Since: who.since, Turn: who.turn, Epoch: who.epoch})
	if err != nil {
		return w.signInFailed(c, err, broker.OperatorSignedIn{To: to})
	}
	return w.toProvider(c, start, "One moment: your groups are looked up")
}

// leaves tells whether a form only gives up what its sender has: that is never put off.
func leaves(c echo.Context) bool {
	return c.Path() == "/dashboard/logout" || c.Path() == "/dashboard/session/end"
}

// withNotice is the page with the words of that notice.
func withNotice(page, notice string) string {
	u, err := url.Parse(page)
	if err != nil {
		return page
	}
	q := u.Query()
	q.Set("notice", notice)
	u.RawQuery = q.Encode()
	return u.RequestURI()
}
