package web

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"tokenbroker/broker"
)

// How often one address may try a login token,
const (
	loginBurst = 10
	loginEvery = 6 * time.Second

	// How many wrong ones, from whichever addresses, are on record each by itself. The others are counted, and one event a minute tells.
	loginRecordBurst = 60
	loginRecordEvery = 10 * time.Second

	// and begin a sign-in at the operators' provider.
	startBurst = 60
	startEvery = 2 * time.Second
)

// tokenOperator is how events call whoever logs in with the configured token: it belongs to no one person.
const tokenOperator = "login-token"

// loginPage is where operators sign in.
type loginPage struct {
	frame
	Login bool   // at their OpenID Provider
	Token bool   // by the token
	Wrong bool   // the token was
	Over  bool   // a form came after the session had ended
	Out   string // what they have just done instead
	Next  string // the page to go to afterwards
}

func (w *Web) loginPage(c echo.Context, wrong bool) loginPage {
	p := loginPage{frame: w.frame(c, areaDashboard), Login: w.cfg.OperatorLogin != "", Token: w.cfg.DashboardTokenSHA256 != "", Wrong: wrong}
	p.Title = "Sign in"
	return p
}

// showLogin is GET /dashboard/login. Who is signed in does not get to see it: it would look as if they were not (CVE-2026-34454).
func (w *Web) showLogin(c echo.Context) error {
	if w.sessions == nil {
		return w.dashboardOff(c)
	}
	if fromElsewhere(c.Request()) {
		return w.onward(c, "One moment", "/dashboard/login")
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	session, err := w.sessions.peek(c.Request().WithContext(ctx))
	if err != nil {
		return err
	}
	if _, in := w.operator(c, session); in {
		return c.Redirect(http.StatusSeeOther, dashboardPath)
	}
	p := w.loginPage(c, false)
	p.Out = map[string]string{
		"here": "You are signed out here. At your organisation you may still be signed in.", "everywhere": "You are signed out on all your devices.",
		"there": "You are signed out, at your organisation too.",
	}[c.QueryParam("out")]
	return w.render(c, http.StatusOK, "login", p)
}

// login is POST /dashboard/login. Every attempt is in the audit trail; where that can't be written, nobody gets in.
func (w *Web) login(c echo.Context) error {
	if w.sessions == nil || len(w.sessions.digest) == 0 {
		return w.dashboardOff(c)
	}
	if err := w.sameOrigin(c); err != nil {
		return err
	}
	addr := w.cfg.ClientIP(c.Request())
	if wait := w.logins.wait(addr); wait > 0 {
		w.cfg.Service.NoteGuessing(broker.GuessedSignIns)
		return &broker.Error{Code: broker.CodeSlowDown, Description: "too many login attempts", RetryAfter: wait, Cause: errGuessing}
	}
	form, ok := readForm(c)
	if !ok {
		return w.show(c, areaDashboard, badRequest)
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	op := w.asking(c, broker.Operator{ID: tokenOperator})
	sum := sha256.Sum256([]byte(strings.TrimSpace(form("token"))))
	if subtle.ConstantTimeCompare(sum[:], w.sessions.digest) != 1 {
		w.logins.miss(addr)
		op.ID = "" // nobody
		if !w.recorded.AllowN(w.cfg.Now(), 1) {
			// From many addresses at once, each of which may try some times: the trail must not grow with them.
			w.cfg.Service.NoteGuessing(broker.GuessedSignIns)
		} else if err := w.cfg.Service.RecordOperator(ctx, op, broker.EventOperatorSignInFailed, string(broker.CodeAccessDenied), "wrong login token"); err != nil {
			return err
		}
		page := w.loginPage(c, true)
		page.Next = boardPath(form("next"))
		return w.render(c, http.StatusForbidden, "login", page)
	}
	if err := w.cfg.Service.RecordOperator(ctx, op, broker.EventOperatorSignedIn, "ok", ""); err != nil {
		return err
	}
	if err := w.openSession(c, ctx, signedIn{way: wayToken, id: tokenOperator}); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, cmp.Or(boardPath(form("next")), "/dashboard"))
}

// openSession begins a session of whoever has just signed in, in place of the one that the browser had; or lets one go on (goesOnFrom).
func (w *Web) openSession(c echo.Context, ctx context.Context, who signedIn) error {
	if who.listed != "" {
		// Without the browser's cookie, which may be that of a tab that was faster.
		session, err := w.sessions.manager.Load(ctx, "")
		if err != nil {
			return storeDown(err)
		}
		return w.sessions.open(session, c.Response(), who)
	}
	session, err := w.sessions.load(c.Response(), c.Request().WithContext(ctx))
	if err != nil {
		return err
	}
	if kept := c.Response().Header().Values("Set-Cookie"); len(kept) > 0 { // what is there is of the session before
		name := w.sessions.manager.Cookie.Name + "="
		c.Response().Header()["Set-Cookie"] = slices.DeleteFunc(kept, func(cookie string) bool { return strings.HasPrefix(cookie, name) })
	}
	return w.sessions.open(session, c.Response(), who)
}

// logout is POST /dashboard/logout. It ends the session on the server, so that a copied cookie is worth nothing; and the one at the
// provider, unless the form says here.
func (w *Web) logout(c echo.Context, b *board, form func(string) string) error {
	if err := w.cfg.Service.RecordOperator(b.ctx, b.Op, broker.EventOperatorSignedOut, "ok", ""); err != nil {
		return err
	}
	if form("here") != "" {
		return w.leaveHere(c, b, "here")
	}
	return w.leaveSession(c, b, "here")
}

// leaveSession ends the session, then the one at the provider, if it can be: what is over here is so whatever becomes of that.
func (w *Web) leaveSession(c echo.Context, b *board, how string) error {
	who := w.sessions.of(b.session)
	if who.way != wayLogin {
		return w.leaveHere(c, b, how)
	}
	c.Response().Header().Del("Set-Cookie")
	if err := w.sessions.end(b.session, c.Response()); err != nil {
		return err
	}
	start, err := w.cfg.Service.SignOutAtProvider(b.ctx, who.idToken)
	switch {
	case err != nil:
		w.cfg.Log.WarnContext(b.ctx, "an operator stays signed in at the provider", "code", string(broker.CodeOf(err)), "error", err)
	case !start.Location.IsZero() && destination(start.Location):
		if err := w.setCookie(c.Response(), start.CookieName, start.Cookie.Reveal(), start.MaxAge); err != nil {
			return err
		}
		return w.onward(c, "You are signed out here; now at your organisation", start.Location.Reveal())
	}
	return c.Redirect(http.StatusSeeOther, "/dashboard/login?out="+how)
}

// signedOutThere is GET /dashboard/login/out, where the provider sends a browser that it has signed out. Only what our cookie knows of
// counts: anybody can lead a browser here. It has no session, and ends none.
func (w *Web) signedOutThere(c echo.Context) error {
	if w.sessions == nil || w.cfg.OperatorLogin == "" {
		return w.dashboardOff(c)
	}
	to, states := "/dashboard/login", c.QueryParams()["state"]
	kept := w.cookie(c.Request())(broker.OperatorSignOutCookie)
	if len(states) == 1 && !kept.IsZero() && kept.Equal(broker.NewSecret(states[0])) {
		w.dropCookie(c.Response(), broker.OperatorSignOutCookie)
		to += "?out=there"
	}
	return w.onward(c, "One moment", to)
}

// leaveHere ends the session and shows the sign-in page.
func (w *Web) leaveHere(c echo.Context, b *board, how string) error {
	c.Response().Header().Del("Set-Cookie")
	if err := w.sessions.end(b.session, c.Response()); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/dashboard/login?out="+how)
}

// operator is the principal of the session; false if nobody is signed in. What their groups may is looked up each time, so that a
// role which is taken out of the configuration ends with that. There is one token, so whoever has it may do all.
func (w *Web) operator(c echo.Context, session context.Context) (broker.Operator, bool) {
	who := w.sessions.of(session)
	op := broker.Operator{ID: who.id}
	switch who.way {
	case wayToken:
		op.Grants = []broker.OperatorGrant{{Role: broker.RoleAdmin}}
	case wayLogin:
		op.Grants = w.cfg.Service.OperatorGrants(who.groups)
	}
	return w.asking(c, op), len(op.Grants) > 0
}

// asking is the operator with the request that events name.
func (w *Web) asking(c echo.Context, op broker.Operator) broker.Operator {
	if w.cfg.RequestID != nil {
		op.RequestID = w.cfg.RequestID(c.Request())
	}
	if sc := trace.SpanContextFromContext(c.Request().Context()); sc.HasTraceID() {
		op.TraceID = sc.TraceID().String()
	}
	return op
}
