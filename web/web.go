package web

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/time/rate"

	"tokenbroker/broker"
)

// Service is what the pages ask of package broker; *broker.Service satisfies it. Errors are *broker.Error, anything
// else is shown as server_error. All methods may be called concurrently.
type Service interface {
	// OpenLink reads what the page behind a link shows. It changes nothing. not_found or expired for a link that is
	// unknown, used or too old; the two look the same to the user.
	OpenLink(ctx context.Context, link broker.Secret) (broker.ConsentPage, error)
	// StartConsent binds the consent to this browser and tells where the provider is.
	StartConsent(ctx context.Context, link broker.Secret, cookie func(name string) broker.Secret) (broker.Start, error)
	// CancelConsent ends the consent as denied. One that was started, only in the browser that started it.
	CancelConsent(ctx context.Context, link broker.Secret, cookie func(name string) broker.Secret) (broker.Finish, error)
	// FinishConsent takes what the provider's redirect brought, once.
	FinishConsent(ctx context.Context, cb broker.Callback) (broker.Finish, error)
	// FinishLogin takes what the redirect of a tenant's OpenID Provider brought, once. Beside an error it tells what the sign-in was for.
	FinishLogin(ctx context.Context, cb broker.LoginCallback) (broker.LoginFinish, error)
	// DecideConsent carries out what the user said on the page of an undecided consent.
	DecideConsent(ctx context.Context, consentID string, cookie func(name string) broker.Secret, d broker.Decision) (broker.Finish, error)
	// FinishedConsent tells again how a consent ended, to the browser that it is bound to. It changes nothing.
	FinishedConsent(ctx context.Context, consentID string, cookie func(name string) broker.Secret) (broker.Finish, error)
	// LinkStatus tells how the consent behind a link goes on, also when the link was used. It waits for another status than the
	// known one, and changes nothing. With slow_down the origins come beside the error.
	LinkStatus(ctx context.Context, link broker.Secret, known broker.ConsentStatus, wait time.Duration) (broker.LinkStatus, error)
	// Visits are those to "My connections".
	Visits
	// Operators are signed in and out.
	Operators
	// Overviews are about all at once.
	Overviews
	// OperatorAccounts is about connected accounts.
	OperatorAccounts
	// OperatorSwitches disable and enable, and OperatorJobs take longer than a page.
	OperatorSwitches
	OperatorJobs
	// TrailExplorer is about the audit trail.
	TrailExplorer
	// RecordOperator writes an operator.* event; durable on return.
	RecordOperator(ctx context.Context, op broker.Operator, t broker.EventType, outcome, reason string) error
	// RecordLook records a look at something of a tenant that no other use case records.
	RecordLook(ctx context.Context, op broker.Operator, tenant, what string) error
	// NoteGuessing counts that somebody was sent away who guessed too often; one event a minute tells of it.
	NoteGuessing(what broker.Guessing)
}

var _ Service = (*broker.Service)(nil)

// Config is what the pages need.
type Config struct {
	// Service answers the pages' questions; required.
	Service Service
	// Sessions keeps dashboard logins; required if DashboardTokenSHA256 or OperatorLogin is set.
	Sessions Sessions

	// PublicURL is what browsers see: scheme and host, without a path. With https, cookies are Secure and __Host-.
	PublicURL string
	// DashboardTokenSHA256 is the SHA-256, in hex, of the operators' login token. Empty: nobody signs in by one.
	DashboardTokenSHA256 string
	// OperatorLogin names the operators' OpenID Provider and our client there, in words of the caller's: when they change, sessions
	// end. Empty: nobody signs in there. Without either the dashboard is off.
	OperatorLogin string
	// SessionIdle ends a session of the dashboard that is not used for so long (default 30 min), SessionLife every one (default 12 h).
	SessionIdle, SessionLife time.Duration
	// OperatorRecheck is how long holds what the provider said of somebody's groups; then it is asked again. Default 1 h.
	OperatorRecheck time.Duration
	// Themes are how the pages look for the users of a client, by its id; a client that is not here has our own look.
	Themes map[string]Theme
	// Tenants that the dashboard can show, and Clients that it can disable, in this order.
	Tenants []string
	Clients []broker.Client

	// ClientIP tells the address of who asks, as the operator's trusted proxies report it. Required: limits count by it.
	ClientIP func(*http.Request) string
	// RequestID tells the id that the answer carries, for pages and events. May be nil.
	RequestID func(*http.Request) string

	// Now is the clock; required.
	Now func() time.Time
	// Random must be cryptographically secure; required (crypto/rand.Reader).
	Random io.Reader
	// Log gets what operators must know; required.
	Log *slog.Logger

	// MissBurst wrong links, states or pages may be tried from one address at once. Default 30.
	MissBurst int
	// MissEvery is how long it takes until one more may be tried. Default 2 s.
	MissEvery time.Duration
	// PageTimeout bounds a page that asks our store alone. Default 10 s.
	PageTimeout time.Duration
	// ExportTimeout bounds an export of audit events. Default 15 min.
	ExportTimeout time.Duration
	// FlowTimeout bounds what may ask a provider: starting and the callback. Default 90 s.
	FlowTimeout time.Duration
}

// Web serves the pages. Make it with New; it starts no goroutine and needs no closing.
type Web struct {
	cfg       Config
	origin    *url.URL // of PublicURL
	https     bool
	pages     pages
	languages *languages
	themes    themes
	assets    assets
	sdk       sdk
	cross     *http.CrossOriginProtection
	messages  sync.Map // madeKey to *madeMessage
	misses    *limiter
	looks     *rate.Limiter // of addresses that missed too often
	logins    *limiter
	recorded  *rate.Limiter // of failed logins that are on record each by itself
	starts    *limiter      // of sign-ins at the operators' provider, which leave a record each
	sessions  *sessions     // nil: no dashboard
	streams   *liveStream
	exports   *seats // for exports that run
	reaches   *seats // and for questions what an agent could reach
}

// New checks the config and prepares the pages.
func New(cfg Config) (*Web, error) {
	if cfg.Service == nil || cfg.ClientIP == nil || cfg.Now == nil || cfg.Random == nil || cfg.Log == nil {
		return nil, errors.New("web: config needs Service, ClientIP, Now, Random and Log")
	}
	origin, err := url.Parse(strings.TrimSuffix(cfg.PublicURL, "/"))
	if err != nil || origin.Host == "" || (origin.Scheme != "https" && origin.Scheme != "http") ||
		origin.Path != "" || origin.RawQuery != "" || origin.Fragment != "" || origin.User != nil {
		// The paths of the pages, and the path of a __Host- cookie, start at the root.
		return nil, errors.New("web: PublicURL must be a scheme and a host, such as https://connect.example.com")
	}
	if cfg.MissBurst <= 0 {
		cfg.MissBurst = 30
	}
	for d, def := range map[*time.Duration]time.Duration{
		&cfg.MissEvery: 2 * time.Second, &cfg.PageTimeout: 10 * time.Second, &cfg.FlowTimeout: 90 * time.Second, &cfg.ExportTimeout: 15 * time.Minute,
		&cfg.SessionIdle: 30 * time.Minute, &cfg.SessionLife: 12 * time.Hour, &cfg.OperatorRecheck: time.Hour,
	} {
		if *d <= 0 {
			*d = def
		}
	}
	w := &Web{
		cfg: cfg, origin: origin, https: origin.Scheme == "https", cross: http.NewCrossOriginProtection(),
		streams: newLiveStream(),
		misses:  newLimiter(cfg.Now, cfg.MissBurst, cfg.MissEvery), looks: rate.NewLimiter(looksPerSecond, looksBurst),
		logins: newLimiter(cfg.Now, loginBurst, loginEvery), recorded: rate.NewLimiter(rate.Every(loginRecordEvery), loginRecordBurst), starts: newLimiter(cfg.Now, startBurst, startEvery),
		exports: newSeats(exportsAtOnce, exportsEach), reaches: newSeats(reachesAtOnce, reachesEach),
	}
	if err := w.cross.AddTrustedOrigin(origin.String()); err != nil {
		return nil, fmt.Errorf("web: trust own origin: %w", err)
	}
	w.sdk = newSDK(cfg.PublicURL)
	if w.assets, err = loadAssets(); err != nil {
		return nil, err
	}
	w.themes = loadThemes(cfg.Themes)
	if w.languages, err = ownLanguages(); err != nil {
		return nil, fmt.Errorf("web: languages: %w", err)
	}
	if w.pages, err = loadPages(w.assets); err != nil {
		return nil, err
	}
	if cfg.DashboardTokenSHA256 == "" && cfg.OperatorLogin == "" {
		return w, nil
	}
	digest, err := hex.DecodeString(cfg.DashboardTokenSHA256)
	if err != nil || (len(digest) != 0 && len(digest) != sha256.Size) {
		return nil, errors.New("web: DashboardTokenSHA256 must be 64 hex digits")
	}
	if cfg.Sessions == nil {
		return nil, errors.New("web: the dashboard needs Sessions")
	}
	w.sessions = newSessions(cfg, digest, w.cookieName("tb_dashboard"), w.https)
	return w, nil
}

// Register adds the pages to e. Everything below their paths is answered here, with the same headers: also what does
// not exist, and methods that are not allowed.
func (w *Web) Register(e *echo.Echo) {
	w.add(e, "/connect/:link", areaConsent, methods{http.MethodGet: w.showConsent, http.MethodPost: w.decideConsent})
	w.add(e, "/connect/:link/status", areaStatus, methods{http.MethodGet: w.linkStatus})
	w.add(e, "/sdk/connect.js", areaSDK, methods{http.MethodGet: w.script})
	w.add(e, "/sdk/connect.json", areaSDK, methods{http.MethodGet: w.scriptInfo})
	w.add(e, "/oauth2/callback/:connector", areaCallback, methods{http.MethodGet: w.callback})
	w.add(e, "/oauth2/login/:client", areaSignIn, methods{http.MethodGet: w.signedIn})
	w.add(e, "/consent/:id", areaFinished, methods{http.MethodGet: w.finished, http.MethodPost: w.decideFinish})
	w.add(e, "/portal/:link", areaPortal, methods{http.MethodGet: w.showPortalLink, http.MethodPost: w.openPortalLink})
	w.add(e, "/portal/session/:id", areaVisit, methods{http.MethodGet: w.visit, http.MethodPost: w.actOnVisit})
	w.add(e, "/portal/session/:id/enter/:ticket", areaEntrance, methods{http.MethodGet: w.enterPortal})
	w.add(e, "/portal/session/:id/disconnect/:connection", areaVisit, methods{http.MethodGet: w.askDisconnect})
	w.add(e, "/static/:file", areaStatic, methods{http.MethodGet: w.asset})
	w.add(e, "/theme/:file", areaStatic, methods{http.MethodGet: w.theme})
	w.add(e, "/dashboard", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitOverview, w.overview)})
	w.add(e, "/dashboard/live", areaLive, methods{http.MethodGet: w.live(broker.PermitOverview, w.liveOverview)})
	w.add(e, "/dashboard/health", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitHealth, w.health)})
	w.add(e, "/dashboard/accounts", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitAccounts, w.accounts), http.MethodPost: w.boardAction(broker.PermitAccounts, w.findAccounts)})
	w.add(e, "/dashboard/accounts/:id", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitAccounts, w.account)})
	w.add(e, "/dashboard/accounts/:id/:action", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitActions, w.askAccountAction), http.MethodPost: w.boardAction(broker.PermitActions, w.doAccountAction)})
	w.add(e, "/dashboard/switches", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitSwitch, w.switches)})
	w.add(e, "/dashboard/switches/:action", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitSwitch, w.askSwitch), http.MethodPost: w.boardAction(broker.PermitSwitch, w.turnSwitch)})
	w.add(e, "/dashboard/revoke-all", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitStopAll, w.askRevokeAll), http.MethodPost: w.boardAction(broker.PermitStopAll, w.startRevokeAll)})
	w.add(e, "/dashboard/jobs", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitExport, w.jobs)})
	w.add(e, "/dashboard/jobs/:id", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitExport, w.job)})
	w.add(e, "/dashboard/jobs/:id/live", areaLive, methods{http.MethodGet: w.live(broker.PermitExport, w.liveJob)})
	w.add(e, "/dashboard/jobs/:id/:action", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitExport, w.askJob), http.MethodPost: w.boardAction(broker.PermitExport, w.changeJob)})
	w.addAudit(e)
	w.add(e, "/dashboard/login", areaDashboard, methods{http.MethodGet: w.showLogin, http.MethodPost: w.login})
	w.add(e, "/dashboard/login/start", areaDashboard, methods{http.MethodPost: w.startSignIn})
	w.add(e, "/dashboard/login/out", areaDashboard, methods{http.MethodGet: w.signedOutThere})
	w.add(e, "/dashboard/callback", areaOperatorCallback, methods{http.MethodGet: w.operatorCallback})
	w.add(e, "/dashboard/session", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitSignedIn, w.ownSession)})
	w.add(e, "/dashboard/session/end", areaDashboard, methods{http.MethodPost: w.boardAction(broker.PermitSignedIn, w.endOwnSessions)})
	w.add(e, "/dashboard/operators", areaDashboard, methods{http.MethodGet: w.boardPage(broker.PermitOperators, w.operators), http.MethodPost: w.boardAction(broker.PermitOperators, w.endSessions)})
	w.add(e, "/dashboard/logout", areaDashboard, methods{http.MethodPost: w.boardAction(broker.PermitSignedIn, w.logout)})
	for _, rest := range []string{"/connect", "/connect/*", "/oauth2", "/oauth2/*", "/consent", "/consent/*", "/portal", "/portal/*", "/static", "/static/*", "/theme", "/theme/*", "/sdk", "/sdk/*"} {
		e.RouteNotFound(rest, w.NotFound)
	}
	e.RouteNotFound("/dashboard/*", w.guard(areaDashboard, func(c echo.Context) error { return w.show(c, areaDashboard, noSuchPage) }))
}

// NotFound shows the page for an address that does not exist. Exported for the addresses outside this package's.
func (w *Web) NotFound(c echo.Context) error {
	w.secure(c, areaOther)
	return w.show(c, areaOther, noSuchPage)
}

// handler answers one request. An error that it returns becomes a page, in fail.
type handler func(c echo.Context) error

type methods map[string]handler

// add registers a path with its methods; all others are answered 405. GET brings HEAD along, which net/http answers
// without the body, except at the callbacks and the entrance of a visit: there a GET is not without effect, and HEAD must be.
func (w *Web) add(e *echo.Echo, path string, a area, allowed methods) {
	var allow []string
	for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		h, ok := allowed[m]
		if m == http.MethodHead && a != areaCallback && a != areaSignIn && a != areaEntrance && a != areaOperatorCallback && a != areaLive {
			h, ok = allowed[http.MethodGet]
		}
		if ok {
			allow = append(allow, m)
			e.Add(m, path, w.guard(a, h))
		}
	}
	list := strings.Join(allow, ", ")
	refuse := w.guard(a, func(c echo.Context) error {
		c.Response().Header().Set("Allow", list)
		return w.show(c, a, methodNotAllowed)
	})
	for _, m := range []string{
		http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions, http.MethodTrace, http.MethodConnect, echo.PROPFIND, echo.REPORT,
	} {
		if !strings.Contains(list+",", m+",") {
			e.Add(m, path, refuse)
		}
	}
	// Methods that nobody knows come here, unless a wildcard above has a page for what does not exist: then it is a 404.
	e.RouteNotFound(path, refuse)
}

// guard is around every handler: headers first, so that no answer can miss them, then a page for whatever goes wrong.
func (w *Web) guard(a area, h handler) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		w.secure(c, a)
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares it like this
				panic(p)
			}
			// The value may quote what it choked on, so only its type and the stack are kept.
			w.cfg.Log.ErrorContext(c.Request().Context(), "page panicked", "route", c.Path(), "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
			err = w.show(c, a, serverError)
		}()
		if err := h(c); err != nil {
			return w.fail(c, a, err)
		}
		return nil
	}
}

// begin bounds what a request asks of package broker, and names the request in the events that it leaves.
func (w *Web) begin(ctx context.Context, r *http.Request, limit time.Duration) (context.Context, context.CancelFunc) {
	if w.cfg.RequestID != nil {
		ctx = broker.WithRequestID(ctx, w.cfg.RequestID(r))
	}
	return context.WithTimeout(ctx, limit)
}

// fail shows the page for an error. The page's words come from tables here, never from the error; only the dashboard says what the broker wrote for its callers.
func (w *Web) fail(c echo.Context, a area, err error) error {
	o := outcomeOf(a, err)
	level := slog.LevelDebug
	var e *broker.Error
	switch {
	case o.Status >= 500 && errors.As(err, &e) && e.AtLogin:
		level = slog.LevelWarn // what the other side said came through the browser
	case o.Status >= 500:
		level = slog.LevelError
	}
	w.cfg.Log.Log(c.Request().Context(), level, "page failed", "route", c.Path(), "code", string(broker.CodeOf(err)), "status", o.Status, "error", err)
	if a == areaDashboard {
		o.Board = boardTrouble(err, o, c.Request().Method == http.MethodPost)
	}
	return w.show(c, a, o)
}
