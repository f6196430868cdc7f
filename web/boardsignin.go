package web

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// dashboardPath is the first page of the dashboard.
const dashboardPath = "/dashboard"

// Operators is what the pages ask about the sign-in of operators.
type Operators interface {
	// BeginOperatorSignIn begins a sign-in at the operators' OpenID Provider, after which the browser goes to that page of ours.
	BeginOperatorSignIn(ctx context.Context, to string, fresh bool) (broker.OperatorStart, error)
	// RecheckOperator asks that provider anew which groups the operator of a session has, without a question to anybody.
	RecheckOperator(ctx context.Context, to string, again broker.OperatorAgain) (broker.OperatorStart, error)
	// FinishOperatorSignIn takes what the provider's redirect brought, once.
	FinishOperatorSignIn(ctx context.Context, cb broker.LoginCallback, requestID, traceID string) (broker.OperatorSignedIn, error)
	// SignOutAtProvider is where a browser goes to be signed out at the provider too; a zero Location: nowhere.
	SignOutAtProvider(ctx context.Context, idToken broker.Secret) (broker.OperatorStart, error)
	// OperatorGrants is what groups may, by the configuration as it is now.
	OperatorGrants(groups []string) []broker.OperatorGrant
	// EndOperatorSessions ends every session of an operator.
	EndOperatorSessions(ctx context.Context, op broker.Operator, operator, reason string) error
	// SignedInOperators pages through who is signed in, and EndOperatorSession ends one session.
	SignedInOperators(ctx context.Context, op broker.Operator, position string, limit int) ([]broker.SignedInOperator, string, error)
	EndOperatorSession(ctx context.Context, op broker.Operator, id, reason string) error
}

// onwardPage goes on to another page by itself, and has a link for where it does not.
type onwardPage struct {
	frame
	Address string
	Heading string
}

// onward answers with such a page. It is our own page that goes on: a browser that comes from another site sends no cookie of
// SameSite=Strict, neither with that request nor with a redirect that answers it, but with what our page begins.
func (w *Web) onward(c echo.Context, heading, address string) error {
	v := onwardPage{frame: w.frame(c, areaDashboard), Address: address, Heading: heading}
	v.Title = heading
	c.Response().Header().Set("Refresh", "0; url="+address)
	return w.render(c, http.StatusOK, "board-onward", v)
}

// fromElsewhere tells whether another site's page led here, so that a session's cookie is not sent even if there is one.
func fromElsewhere(r *http.Request) bool {
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") == "navigate"
}

// startSignIn is POST /dashboard/login/start. It answers with a page that goes on: as the answer to a form, a redirect to the
// provider, and every one behind it, would have to be in the policy's form-action, and those hosts can't be known.
func (w *Web) startSignIn(c echo.Context) error {
	if w.sessions == nil || w.cfg.OperatorLogin == "" {
		return w.dashboardOff(c)
	}
	if err := w.sameOrigin(c); err != nil {
		return err
	}
	addr := w.cfg.ClientIP(c.Request())
	if wait := w.starts.wait(addr); wait > 0 {
		w.cfg.Service.NoteGuessing(broker.BegunSignIns)
		return &broker.Error{Code: broker.CodeSlowDown, Description: "too many sign-ins begun", RetryAfter: wait, Cause: errGuessing}
	}
	w.starts.miss(addr)
	form, ok := readForm(c)
	if !ok {
		return w.show(c, areaDashboard, badRequest)
	}
	ctx, cancel := w.begin(c.Request().Context(), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	next := boardPath(form("next"))
	start, err := w.cfg.Service.BeginOperatorSignIn(ctx, next, form("fresh") != "")
	if err != nil {
		return w.signInFailed(c, err, broker.OperatorSignedIn{To: next})
	}
	return w.toProvider(c, start, "On to your organisation's sign-in")
}

func (w *Web) toProvider(c echo.Context, start broker.OperatorStart, heading string) error {
	if !destination(start.Location) {
		return broker.Errorf(broker.CodeProviderMisconfigured, "the authorization endpoint is neither https nor loopback")
	}
	if err := w.setCookie(c.Response(), start.CookieName, start.Cookie.Reveal(), start.MaxAge); err != nil {
		return err
	}
	return w.onward(c, heading, start.Location.Reveal())
}

// operatorCallback is GET /dashboard/callback, the redirect URI at the operators' OpenID Provider.
func (w *Web) operatorCallback(c echo.Context) error {
	if w.sessions == nil || w.cfg.OperatorLogin == "" {
		return w.dashboardOff(c)
	}
	cb, ok := parseCallback("operators", c.Request().URL.RawQuery)
	if !ok {
		return w.show(c, areaDashboard, badRequest)
	}
	// Without the request's cancellation, as at the other callbacks.
	ctx, cancel := w.begin(context.WithoutCancel(c.Request().Context()), c.Request(), w.cfg.FlowTimeout)
	defer cancel()
	asking := w.asking(c, broker.Operator{})
	var who broker.OperatorSignedIn
	err := w.guess(c, func() (err error) {
		who, err = w.cfg.Service.FinishOperatorSignIn(ctx, broker.LoginCallback{
			State: cb.State, Code: cb.Code, Issuer: cb.Issuer, HasIssuer: cb.HasIssuer, Error: cb.Error, Cookie: w.cookie(c.Request()),
		}, asking.RequestID, asking.TraceID)
		return err
	})
	if err == nil {
		in := signedIn{way: wayLogin, id: who.ID, name: who.Name, groups: who.Groups, idToken: who.IDToken}
		if who.Again.Session != "" {
			in = goesOnFrom(who.Again, in)
		}
		err = w.openSession(c, ctx, in)
	} else if !errors.Is(err, broker.ErrOvertaken) {
		return w.signInFailed(c, err, who)
	}
	to := cmp.Or(boardPath(who.To), dashboardPath)
	switch {
	case errors.Is(err, broker.ErrOvertaken):
		// Whether somebody is signed in is in a cookie that did not come along: the page itself finds out.
		return w.onward(c, "One moment", to)
	case err != nil:
		return err
	}
	return w.onward(c, "You are signed in", to)
}

// signInProblem is what went wrong at a sign-in, and what to do.
type signInProblem struct {
	frame
	Heading, Text, Next string
	Again               string // on the button that tries again
	NextPage            string
	Fresh               bool   // again, as somebody else
	Who                 string // whom to tell an administrator of
	Reference           string
}

// signInFailed answers with it. The words are these, never the error's.
func (w *Web) signInFailed(c echo.Context, err error, who broker.OperatorSignedIn) error {
	p := signInProblem{frame: w.frame(c, areaDashboard), NextPage: boardPath(who.To), Again: "Try again"}
	status := http.StatusBadRequest
	var e *broker.Error
	_ = errors.As(err, &e)
	switch code := broker.CodeOf(err); {
	case errors.Is(err, errGuessing):
		return err
	case errors.Is(err, broker.ErrNoRole):
		status = http.StatusForbidden
		p.Heading, p.Text = "You have no role here", "You signed in, but no role on this dashboard is configured for any of your groups."
		p.Next, p.Who, p.Again, p.Fresh = "Ask whoever runs this installation for a role, and give them this id:", plain(who.ID), "Sign in as somebody else", true
	case errors.Is(err, broker.ErrGroupsElsewhere):
		status = http.StatusForbidden
		p.Heading, p.Text = "Your groups did not come along", "You are in so many groups that your organisation's sign-in sent none of them, so nothing shows which role you have."
		p.Next = "Ask whoever runs it to send only the groups that are assigned to this application (in Entra ID: Token configuration, groups claim)."
	case code == broker.CodeAccessDenied:
		status = http.StatusForbidden
		p.Heading, p.Text = "This sign-in began in another browser", "It can only end where it began, so nobody was signed in."
		p.Next, p.Again = "Begin anew here.", "Sign in"
	case code == broker.CodeInvalidRequest:
		p.Heading, p.Text = "This sign-in is over", "It was finished already, or it took more than ten minutes."
		p.Next, p.Again = "Begin anew.", "Sign in"
	case errors.Is(err, broker.ErrSignInNeeded):
		status = http.StatusUnauthorized
		p.Heading, p.Text = "Sign in again", "Your organisation was asked whether your groups are still the same, and can't tell without asking you."
		p.Again = "Sign in"
	case code == broker.CodeLoginFailed:
		p.Heading, p.Text = "You are not signed in", "The sign-in was given up, or nothing proves who you are."
		p.Fresh = true
	case code == broker.CodeProviderMisconfigured && e.AtLogin:
		status = http.StatusBadGateway
		p.Heading, p.Text = "The sign-in is not set up right", "Your organisation's sign-in and this dashboard don't understand each other."
		p.Next = "Whoever runs this installation finds the cause in its log; the settings are dashboard.login in its configuration."
	case code == broker.CodeProviderUnavailable && e.AtLogin:
		status = http.StatusServiceUnavailable
		p.Heading, p.Text = "Your organisation's sign-in does not answer", "Nobody can sign in there for now."
		c.Response().Header().Set("Retry-After", retryAfter(e.RetryAfter))
	default:
		return err
	}
	p.Title = p.Heading
	p.Reference = w.asking(c, broker.Operator{}).RequestID
	w.cfg.Log.WarnContext(c.Request().Context(), "an operator could not sign in", "code", string(broker.CodeOf(err)), "status", status, "error", err)
	return w.render(c, status, "board-signin", p)
}
