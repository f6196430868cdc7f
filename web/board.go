package web

import (
	"cmp"
	"context"
	"crypto/subtle"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// board is what every page of the dashboard has: who is signed in, what they may do, and the way to the other pages. A page's
// view embeds it.
type board struct {
	frame
	Op  broker.Operator
	Who string // as people know the operator: Op.ID, if nothing else is known
	Nav []navItem
	// Tenants are those that the operator may see something of, in the order of the configuration.
	Tenants []string
	// Notice says what was done, on the page after an action.
	Notice string
	// FormToken goes along with every form (template "form-token"): it is the session's, and no other site knows it.
	FormToken string

	ctx     context.Context // bounded, and names the request in events
	session context.Context
}

// navItem is a page of the dashboard in the bar.
type navItem struct {
	Name    string
	Address string
	Current bool
}

// boardPages are the pages in the bar, each with what it takes to see it; everywhere: for the whole installation only.
var boardPages = []struct {
	name, address string
	permission    broker.Permission
	everywhere    bool
}{
	{name: "Overview", address: "/dashboard", permission: broker.PermitOverview},
	{name: "Accounts", address: "/dashboard/accounts", permission: broker.PermitAccounts},
	{name: "Audit", address: "/dashboard/audit", permission: broker.PermitAudit},
	{name: "Switches", address: "/dashboard/switches", permission: broker.PermitSwitch},
	{name: "Jobs", address: "/dashboard/jobs", permission: broker.PermitExport}, // who may start one of any kind may export
	{name: "Health", address: "/dashboard/health", permission: broker.PermitHealth, everywhere: true},
}

// May tells templates whether to show what the permission is for; tenant "": for the whole installation.
func (b *board) May(p broker.Permission, tenant string) bool { return b.Op.May(p, tenant) }

// MaySomewhere tells the same, of any tenant at all.
func (b *board) MaySomewhere(p broker.Permission) bool { return b.Op.MaySomewhere(p) }

// boardNotices are what pages say after an action, by the value of ?notice=. Words from an address never get on a page.
var boardNotices = map[string]string{
	"disabled":            "Disabled. Every replica refuses it from now on.",
	"enabled":             "Enabled. It works again from now on.",
	"not_sent":            "What you sent was not done: first your groups had to be looked up anew. Send it again.",
	"job_started":         "Started. It goes on by itself.",
	"job_pause":           "Paused. What was under way is finished.",
	"job_resume":          "Resumed.",
	"job_rate":            "The new rate holds from the next step on.",
	"job_cancel":          "Cancelled. What was under way is finished.",
	"refreshed":           "Refreshed: the provider gave a new token.",
	"revoked":             "Revoked here and at the provider.",
	"revoked_unsupported": "Revoked here, and its secrets are erased. At the provider nothing was revoked: it has no way for that, or others hold the same grant.",
	"revoked_failed":      "Revoked here, and its secrets are erased. The provider did not confirm that the grant is revoked there.",
	"sessions_ended":      "All sessions of that operator are over.",
	"session_ended":       "That session is over.",
	"session_over":        "That session was over already.",
}

// boardPage answers a GET of the dashboard for whoever is signed in and has the permission somewhere; in which tenant, the use
// case checks. Others get the sign-in page, which leads back here.
func (w *Web) boardPage(p broker.Permission, show func(c echo.Context, b *board) error) handler {
	return func(c echo.Context) error {
		if w.sessions == nil {
			return w.dashboardOff(c)
		}
		ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
		defer cancel()
		session, err := w.sessions.load(c.Response(), c.Request().WithContext(ctx))
		if err != nil {
			return err
		}
		op, ok := w.operator(c, session)
		if !ok {
			return w.askToSignIn(c)
		}
		if w.stale(session) {
			return w.recheck(c, ctx, session, boardPath(c.Request().URL.RequestURI()))
		}
		if !op.MaySomewhere(p) {
			return broker.Errorf(broker.CodeAccessDenied, "your role does not allow this page")
		}
		return show(c, w.board(c, ctx, session, op))
	}
}

// boardAction carries out a POST of the dashboard. It must come from a page of this session: browsers say so
// (Sec-Fetch-Site, Origin), and the form's token proves it where they do not (threat 61).
func (w *Web) boardAction(p broker.Permission, act func(c echo.Context, b *board, form func(name string) string) error) handler {
	return func(c echo.Context) error {
		if w.sessions == nil {
			return w.dashboardOff(c)
		}
		if err := w.sameOrigin(c); err != nil {
			return err
		}
		form, ok := readForm(c)
		if !ok {
			return w.show(c, areaDashboard, badRequest)
		}
		ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.PageTimeout)
		defer cancel()
		session, err := w.sessions.load(c.Response(), c.Request().WithContext(ctx))
		if err != nil {
			return err
		}
		op, ok := w.operator(c, session)
		if !ok {
			return w.askToSignIn(c)
		}
		if subtle.ConstantTimeCompare([]byte(form("form")), []byte(w.sessions.formToken(session))) != 1 {
			return broker.Errorf(broker.CodeAccessDenied, "the form is not of this session; load the page anew")
		}
		if w.stale(session) && !leaves(c) {
			return w.recheck(c, ctx, session, withNotice(cmp.Or(boardPath(formPage(c)), dashboardPath), "not_sent"))
		}
		if !op.MaySomewhere(p) {
			return broker.Errorf(broker.CodeAccessDenied, "your role does not allow this")
		}
		return act(c, w.board(c, ctx, session, op), form)
	}
}

func (w *Web) board(c echo.Context, ctx, session context.Context, op broker.Operator) *board {
	b := &board{
		frame: w.frame(c, areaDashboard), Op: op, Who: plain(w.sessions.of(session).words()), Tenants: op.Tenants(broker.PermitOverview, w.cfg.Tenants),
		Notice: boardNotices[c.QueryParam("notice")], FormToken: w.sessions.formToken(session), ctx: ctx, session: session,
	}
	for _, page := range boardPages {
		if page.everywhere && !op.May(page.permission, broker.Everywhere) || !op.MaySomewhere(page.permission) {
			continue
		}
		here := c.Request().URL.Path
		b.Nav = append(b.Nav, navItem{
			Name: page.name, Address: page.address, Current: here == page.address || page.address != dashboardPath && strings.HasPrefix(here, page.address+"/"),
		})
	}
	return b
}

// askToSignIn shows the sign-in page, which leads back to the page that was asked for, or whose form was sent too late. The
// status says whether there was a session that is over.
func (w *Web) askToSignIn(c echo.Context) error {
	status := http.StatusOK
	if c.Request().Method == http.MethodPost || c.Request().URL.Path != "/dashboard" || len(c.Request().CookiesNamed(w.sessions.manager.Cookie.Name)) > 0 {
		status = http.StatusUnauthorized
	}
	page := w.loginPage(c, false)
	if c.Request().Method != http.MethodPost {
		if fromElsewhere(c.Request()) {
			return w.onward(c, "One moment", cmp.Or(boardPath(c.Request().URL.RequestURI()), dashboardPath))
		}
		page.Next = boardPath(c.Request().URL.RequestURI())
	} else {
		page.Over, page.Next = c.Path() != "/dashboard/logout", boardPath(formPage(c)) // who wants to leave has
	}
	return w.render(c, status, "login", page)
}

// formPage is the page that a form was on: most are at the address that they are sent to.
func formPage(c echo.Context) string {
	switch c.Path() {
	case "/dashboard/audit/export":
		return "/dashboard/audit"
	case "/dashboard/session/end":
		return "/dashboard/session"
	}
	return c.Request().URL.RequestURI()
}

// boardPath is the address if it is one of the dashboard's pages, else "": nobody is sent anywhere else after signing in, nor to
// what signs in and out.
func boardPath(address string) string {
	u, err := url.Parse(address)
	if err != nil || len(address) > maxNext || u.Scheme != "" || u.Host != "" || u.User != nil || u.Path != path.Clean(u.Path) ||
		strings.ContainsFunc(address, func(r rune) bool { return r <= ' ' || r == '\\' || r >= 0x7f }) ||
		u.Path != dashboardPath && !strings.HasPrefix(u.Path, dashboardPath+"/") {
		return ""
	}
	for _, entrance := range []string{"/login", "/logout", "/callback"} {
		if u.Path == dashboardPath+entrance || strings.HasPrefix(u.Path, dashboardPath+entrance+"/") {
			return ""
		}
	}
	return u.RequestURI()
}

// maxNext bounds the address of the page that a browser goes to after signing in, in bytes.
const maxNext = 2 << 10
