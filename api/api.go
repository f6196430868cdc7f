package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
)

// Service is the part of broker.Service that the API calls. All methods are safe for concurrent use and honour the
// context's deadline. An error that is not a *broker.Error becomes 500 server_error.
type Service interface {
	Tokens
	Consents
	Portals
	Connections
	Directory
	Administration
	Admission
	ClientAuthentication
}

// ClientAuthentication is how a client says who it is without an API key.
type ClientAuthentication interface {
	// AuthenticateAssertion returns the id of the client that an assertion is of (RFC 7523 section 3); named is the client_id of the
	// request, or "".
	AuthenticateAssertion(ctx context.Context, named string, assertion broker.Secret) (client string, err error)
}

// Admission tells whether who asks may do anything now.
type Admission interface {
	// AdmitClient is about a client that was authenticated.
	AdmitClient(ctx context.Context, caller broker.Caller) error
	// AdmitRequest, AdmitCompletion (of what completes a consent or a visit) and AdmitSubject are the error for one request too many.
	// They wait for nothing.
	AdmitRequest(caller broker.Caller) error
	AdmitCompletion(caller broker.Caller) error
	AdmitSubject(caller broker.Caller, subject string) error
	// AdmitWrongKey is the error for one wrong API key too many; nil: its sender hears that it is wrong.
	AdmitWrongKey(address string) error
}

// Tokens hands out access tokens.
type Tokens interface {
	IssueToken(ctx context.Context, caller broker.Caller, req broker.TokenRequest) (broker.Token, error)
	// NeedsSubject tells whether that connector's tokens are users'; those of connectors that the caller can't see are.
	NeedsSubject(caller broker.Caller, connector string) bool
}

// Consents runs the client's half of a consent.
type Consents interface {
	CreateConsent(ctx context.Context, caller broker.Caller, req broker.ConsentRequest) (broker.ConsentView, broker.ConsentLink, error)
	ConsentStatus(ctx context.Context, caller broker.Caller, id string) (broker.ConsentView, error)
	// AwaitConsent is ConsentStatus that waits for another status than the known one.
	AwaitConsent(ctx context.Context, caller broker.Caller, id string, known broker.ConsentStatus, wait time.Duration) (broker.ConsentView, error)
	// FollowConsent tells every status, until the consent, the caller or this process has come to its end.
	FollowConsent(ctx context.Context, caller broker.Caller, id string, f broker.Following) error
	CompleteConsent(ctx context.Context, caller broker.Caller, id string, c broker.Completion) (broker.Connection, error)
}

// Portals runs the client's half of a visit to "My connections".
type Portals interface {
	CreatePortal(ctx context.Context, caller broker.Caller, req broker.PortalRequest) (broker.PortalView, broker.PortalLink, error)
	PortalStatus(ctx context.Context, caller broker.Caller, id string) (broker.PortalView, error)
	CompletePortal(ctx context.Context, caller broker.Caller, id string, c broker.Completion) (broker.PortalEntrance, error)
}

// Connections reads and ends connections.
type Connections interface {
	ListConnections(ctx context.Context, caller broker.Caller, q broker.ConnectionQuery) ([]broker.Connection, string, error)
	GetConnection(ctx context.Context, caller broker.Caller, id string) (broker.Connection, error)
	Disconnect(ctx context.Context, caller broker.Caller, id string) (broker.RevokedUpstream, error)
	EraseSubject(ctx context.Context, caller broker.Caller, subject string) (broker.Erased, error)
}

// Directory tells what there is to connect to, and what happened.
type Directory interface {
	SubjectConnectors(ctx context.Context, caller broker.Caller, subject string) ([]broker.SubjectConnector, error)
	ListConnectors(caller broker.Caller) []broker.Connector
	ListEvents(ctx context.Context, caller broker.Caller, q broker.EventQuery) ([]broker.Event, string, error)
}

// Administration lets a tenant manage connectors of its own. Each call checks that the client may.
type Administration interface {
	CreateConnector(ctx context.Context, caller broker.Caller, n broker.NewConnector) (broker.ConnectorView, error)
	OwnConnectors(ctx context.Context, caller broker.Caller) ([]broker.ConnectorView, error)
	OwnConnector(ctx context.Context, caller broker.Caller, id string) (broker.ConnectorView, error)
	UpdateConnector(ctx context.Context, caller broker.Caller, id string, change broker.ConnectorChange) (broker.ConnectorView, error)
	DeleteConnector(ctx context.Context, caller broker.Caller, id string, revoke bool) (broker.Erased, error)
}

// ClientKey is a client and the SHA-256 digests of its API keys; two during a rotation.
type ClientKey struct {
	Client    broker.Client
	KeySHA256 [][32]byte
	// Otherwise: it has other ways to say who it is (ClientAuthentication), and may have no key.
	Otherwise bool
}

// Config is what an API needs. All fields but ClientIP and the durations are required.
type Config struct {
	Service Service
	Clients []ClientKey
	// Erased tells whether the keyset of a tenant was destroyed: its clients are told so, whatever they ask. It must not block. nil:
	// that is so of none.
	Erased func(tenant string) bool
	// PublicURL is ours as an authorization server (RFC 8414): our access tokens and metadata name it. Without a trailing slash.
	PublicURL string
	// TokenSeed makes the key that signs our access tokens in a period, the same on all replicas (accesstoken.go).
	TokenSeed func(period int64) [32]byte
	// Now is the clock.
	Now func() time.Time
	// Random makes request ids. It must be cryptographically secure and safe for concurrent use (crypto/rand.Reader).
	Random io.Reader
	Log    *slog.Logger
	// ClientIP tells the address that a request came from, proxies considered. It is logged where a key was refused; limits of
	// wrong keys and of links count by it. Left out: neither.
	ClientIP func(*http.Request) string
	// Timeout bounds a whole request, what waits for a consent excepted. It must be longer than a refresh may take, so that a caller hears how it ended, and
	// shorter than the server's WriteTimeout, which would cut the answer off. Default 50 s.
	Timeout time.Duration
	// BodyTimeout bounds the arrival of a request's body. Default 10 s.
	BodyTimeout time.Duration
	// Heartbeat is how often a stream of events says that it is alive while there is nothing else to say. Default 15 s.
	Heartbeat time.Duration
}

// API answers the REST calls. It is an http.Handler for the requests that Register would give it.
type API struct {
	cfg    Config
	keys   keyring
	tokens *accessTokens
	routes routes
	oauth  map[string]*route // by path
}

// New checks the config and makes an API. An error names every problem of the clients.
func New(cfg Config) (*API, error) {
	if cfg.Service == nil || cfg.Now == nil || cfg.Random == nil || cfg.Log == nil || cfg.PublicURL == "" || cfg.TokenSeed == nil {
		return nil, errors.New("api: config needs Service, PublicURL, TokenSeed, Now, Random and Log")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 50 * time.Second
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = 10 * time.Second
	}
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	keys, err := newKeyring(cfg.Clients)
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	a := &API{cfg: cfg, keys: keys, tokens: newAccessTokens(cfg.PublicURL, cfg.TokenSeed, cfg.Now)}
	a.routes = newRoutes(a.table())
	a.oauth = a.oauthTable()
	return a, nil
}

// Register makes e answer the API's requests with a. It does so before e's own routing, so that no route, catch-all,
// middleware or error handler of the pages can answer one of them in its own way.
func (a *API) Register(e *echo.Echo) {
	e.Pre(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if !owns(c.Request().URL) {
				return next(c)
			}
			a.ServeHTTP(c.Response(), c.Request())
			return nil
		}
	})
}

// table lists every call. openapi.yaml has an operation for each, and a test holds that.
func (a *API) table() []route {
	return []route{
		{method: http.MethodPost, path: "/v1/tokens", handle: a.issueToken, stays: true},
		{method: http.MethodPost, path: "/v1/consents", handle: a.createConsent, stays: true},
		{method: http.MethodGet, path: "/v1/consents/:id", handle: a.consentStatus, query: []string{"wait", "status"}},
		{method: http.MethodGet, path: "/v1/consents/:id/events", handle: a.consentEvents},
		{method: http.MethodPost, path: "/v1/consents/:id/complete", handle: a.completeConsent, stays: true, completes: true},
		{method: http.MethodPost, path: "/v1/portal-sessions", handle: a.createPortal, stays: true},
		{method: http.MethodGet, path: "/v1/portal-sessions/:id", handle: a.portalStatus},
		{method: http.MethodPost, path: "/v1/portal-sessions/:id/complete", handle: a.completePortal, stays: true, completes: true},
		{method: http.MethodGet, path: "/v1/connections", handle: a.listConnections,
			query: []string{"subject", "connector", "status", "limit", "cursor"}},
		{method: http.MethodGet, path: "/v1/connections/:id", handle: a.getConnection},
		{method: http.MethodDelete, path: "/v1/connections/:id", handle: a.disconnect, stays: true},
		{method: http.MethodGet, path: "/v1/subjects/:subject/connectors", handle: a.subjectConnectors},
		{method: http.MethodDelete, path: "/v1/subjects/:subject", handle: a.eraseSubject, stays: true},
		{method: http.MethodGet, path: "/v1/connectors", handle: a.listConnectors},
		{method: http.MethodGet, path: "/v1/events", handle: a.listEvents,
			query: []string{"subject", "connector", "connection", "type", "scope", "since", "until", "limit", "cursor"}},
		{method: http.MethodPost, path: "/v1/admin/connectors", handle: a.createConnector},
		{method: http.MethodGet, path: "/v1/admin/connectors", handle: a.ownConnectors},
		{method: http.MethodGet, path: "/v1/admin/connectors/:id", handle: a.ownConnector},
		{method: http.MethodPatch, path: "/v1/admin/connectors/:id", handle: a.updateConnector},
		{method: http.MethodDelete, path: "/v1/admin/connectors/:id", handle: a.deleteConnector, stays: true, query: []string{"revoke"}},
	}
}
