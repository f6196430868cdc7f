package web

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/trace"

	"tokenbroker/broker"
)

// How often one address may try a login token.
const (
	loginBurst = 10
	loginEvery = 6 * time.Second
)

// tokenOperator is how events call whoever logs in with the configured token: it belongs to no one person.
const tokenOperator = "login-token"

// loginPage is the form for the token.
type loginPage struct {
	frame
	Wrong bool
}

func (w *Web) loginPage(c echo.Context, wrong bool) loginPage {
	p := loginPage{frame: w.frame(c, areaDashboard), Wrong: wrong}
	p.Title = "Sign in"
	return p
}

// login is POST /dashboard/login. Every attempt is in the audit trail; where that can't be written, nobody gets in.
func (w *Web) login(c echo.Context) error {
	if w.sessions == nil {
		return w.dashboardOff(c)
	}
	if err := w.sameOrigin(c); err != nil {
		return err
	}
	addr := w.cfg.ClientIP(c.Request())
	if wait := w.logins.wait(addr); wait > 0 {
		return &broker.Error{Code: broker.CodeSlowDown, Description: "too many login attempts", RetryAfter: wait, Cause: errGuessing}
	}
	form, ok := readForm(c)
	if !ok {
		return w.show(c, areaDashboard, badRequest)
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	op := w.operator(c, tokenOperator)
	sum := sha256.Sum256([]byte(strings.TrimSpace(form("token"))))
	if subtle.ConstantTimeCompare(sum[:], w.sessions.digest) != 1 {
		w.logins.miss(addr)
		op.ID = "" // nobody
		if err := w.cfg.Service.RecordOperator(ctx, op, broker.EventOperatorSignInFailed, string(broker.CodeAccessDenied), "wrong login token"); err != nil {
			return err
		}
		return w.render(c, http.StatusForbidden, "login", w.loginPage(c, true))
	}
	if err := w.cfg.Service.RecordOperator(ctx, op, broker.EventOperatorSignedIn, "ok", ""); err != nil {
		return err
	}
	session, err := w.sessions.load(c.Response(), c.Request().WithContext(ctx))
	if err != nil {
		return err
	}
	c.Response().Header().Del("Set-Cookie") // of the session before, if there was one
	if err := w.sessions.open(session, c.Response(), tokenOperator); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/dashboard")
}

// logout is POST /dashboard/logout. It ends the session on the server, so that a copied cookie is worth nothing.
func (w *Web) logout(c echo.Context) error {
	if w.sessions == nil {
		return w.dashboardOff(c)
	}
	if err := w.sameOrigin(c); err != nil {
		return err
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
	defer cancel()
	session, err := w.sessions.load(c.Response(), c.Request().WithContext(ctx))
	if err != nil {
		return err
	}
	c.Response().Header().Del("Set-Cookie")
	if err := w.sessions.end(session, c.Response()); err != nil {
		return err
	}
	return c.Redirect(http.StatusSeeOther, "/dashboard")
}

// operator makes the principal for broker's calls. There is one token, so whoever has it may do all.
func (w *Web) operator(c echo.Context, id string) broker.Operator {
	op := broker.Operator{ID: id, Role: broker.RoleAdmin}
	if w.cfg.RequestID != nil {
		op.RequestID = w.cfg.RequestID(c.Request())
	}
	if sc := trace.SpanContextFromContext(c.Request().Context()); sc.HasTraceID() {
		op.TraceID = sc.TraceID().String()
	}
	return op
}
