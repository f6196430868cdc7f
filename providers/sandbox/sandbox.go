package sandbox

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Rotation says what happens to a refresh token once it is used (RFC 9700 section 4.14.2).
type Rotation string

// The rotation modes.
const (
	// RotationNone: the same refresh token serves again and again and comes back in every answer.
	RotationNone Rotation = "none"
	// RotationGrace: each use gives a new one; the old one works on for Config.GraceWindow, and after that it counts as reused.
	RotationGrace Rotation = "grace"
	// RotationStrict: each use gives a new one; a second use of the old one revokes the whole grant.
	RotationStrict Rotation = "strict"
)

// Config is what a Server needs.
type Config struct {
	// Issuer is the server's address as clients see it: scheme and host, no path. Required. http is allowed.
	Issuer string
	// Clients that may ask; more with AddClient.
	Clients []Client
	// Users who can sign in. Default: alice, bob and mallory.
	Users []User
	// Scopes that exist beside openid, profile, email and offline_access. Default: files.read and files.write.
	Scopes []Scope

	// Rotation of refresh tokens. Default RotationStrict.
	Rotation Rotation
	// GraceWindow is how long a used refresh token works on under RotationGrace. Default 60 s.
	GraceWindow time.Duration
	// AccessTokenLifetime. Default 1 h. Whole seconds, as expires_in can say no less.
	AccessTokenLifetime time.Duration
	// CodeLifetime is how long an authorization code lives. Default 60 s.
	CodeLifetime time.Duration
	// SharedGrants: an account has one grant with each client, whoever consents and how often, so that a consent spends the
	// refresh tokens that were given before (as with Slack's bots).
	SharedGrants bool
	// RevocationEndsAll: revoking one token ends every grant that its account gave that client (as Google does).
	RevocationEndsAll bool
	// FixedScopes: a refresh ignores the scope parameter, as some providers do. Otherwise an access token can be narrowed
	// with it (RFC 6749 section 6).
	FixedScopes bool
	// ThinIDTokens: what scopes ask for about the user is at userinfo alone (OpenID Connect Core section 5.4).
	ThinIDTokens bool
	// SingleSignOn: a browser stays signed in, as at most providers, until it comes to /end_session (OpenID Connect RP-Initiated
	// Logout); prompt=none asks for just that.
	SingleSignOn bool
	// PKCEOptional accepts requests without code_challenge. Otherwise PKCE with S256 is required (RFC 7636).
	PKCEOptional bool
	// Auto decides authorization requests without a page; nil: the user decides.
	Auto *Auto

	// Admin serves /_sandbox, to callers on loopback only.
	Admin bool
	// Record keeps the last requests to the token and revocation endpoints for Requests.
	Record bool

	// Now is the clock of everything that expires; required. It need not run: the lifetimes told to clients are durations.
	Now func() time.Time
	// Random makes tokens, codes and ids; required (crypto/rand.Reader, outside of tests that want known ones).
	Random io.Reader
	// MaxGrants bounds memory: beyond it the oldest grant is forgotten. Default 100,000.
	MaxGrants int
}

// Client is an OAuth client registered here.
type Client struct {
	ID     string
	Name   string // on the consent page; default: ID
	Secret string
	// AuthMethod at the token and revocation endpoints, enforced: client_secret_basic (default), client_secret_post or none.
	AuthMethod string
	// RedirectURIs are compared exactly.
	RedirectURIs []string
	// PostLogoutRedirectURIs are where a sign-out may lead to, compared exactly.
	PostLogoutRedirectURIs []string
	// Users are the logins of those who can sign in there; nil: everybody.
	Users []string
	// Device: it may ask for consents on another device (RFC 8628).
	Device bool
	// ClientCredentials: it may ask for tokens of its own account (RFC 6749 section 4.4).
	ClientCredentials bool
	// AssertionKey verifies the assertions that it signs (RFC 7523), RSA or EC P-256; nil: it may send none. With Impersonates
	// they may name a user by mail address.
	AssertionKey crypto.PublicKey
	Impersonates bool
}

// admits tells whether the user can sign in there.
func (c Client) admits(login string) bool { return c.Users == nil || slices.Contains(c.Users, login) }

// User is somebody who can sign in. Sub is the stable id that providers call sub or account id.
type User struct {
	Login string
	Sub   string
	Name  string
	Email string
	// Groups are told with scope profile, as the claim groups.
	Groups []string
}

// Scope is a permission with the words that the consent page shows.
type Scope struct {
	Name        string
	Description string
}

// Auto decides an authorization request in the user's place.
type Auto struct {
	User     string `json:"user"`     // login; where the request has a login_hint, that one wins
	Decision string `json:"decision"` // allow or deny
	// Scopes granted, out of those asked for; nil: all. openid, profile, email and offline_access are granted in any case.
	Scopes []string `json:"scopes,omitempty"`
}

// Server is the authorization server and files API: an http.Handler. All methods can be called concurrently.
type Server struct {
	cfg      Config
	mux      *http.ServeMux
	provider *op.Provider
	store    *store
	faults   *faults
	stats    *counters
	files    *files
	signing  signingKey

	mu       sync.Mutex // of what SetAuto and AddClient change
	auto     *Auto
	clients  map[string]Client
	requests []Request
	signedIn map[string]string // who is, by the cookie of the browser (SingleSignOn)
	groups   map[string][]string

	closed chan struct{}
	once   sync.Once
}

// New checks the config and makes a Server.
func New(cfg Config) (*Server, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	key, err := newSigningKey(cfg.Random)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, auto: cfg.Auto, clients: map[string]Client{}, stats: newCounters(), signing: key,
		store: newStore(cfg), closed: make(chan struct{}), signedIn: map[string]string{}, groups: map[string][]string{},
	}
	s.faults = newFaults(s.closed)
	s.files = newFiles(cfg)
	for _, c := range cfg.Clients {
		if err := s.AddClient(c); err != nil {
			return nil, err
		}
	}
	storage := &storage{server: s}
	s.provider, err = op.NewProvider(&op.Config{
		CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true, DeviceAuthorization: deviceConfig(),
	}, storage, op.StaticIssuer(cfg.Issuer), op.WithAllowInsecure(), op.WithCrypto(opaque{s.store}))
	if err != nil {
		return nil, fmt.Errorf("sandbox: make provider: %w", err)
	}
	s.routes()
	return s, nil
}

// complete fills defaults and reports what is wrong.
func (c *Config) complete() error {
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("sandbox: Issuer must be scheme://host[:port] and nothing else")
	}
	if c.Now == nil || c.Random == nil {
		return errors.New("sandbox: Now and Random are required")
	}
	if c.Rotation == "" {
		c.Rotation = RotationStrict
	}
	if err := c.Rotation.check(); err != nil {
		return err
	}
	if c.Auto != nil {
		if err := c.Auto.check(); err != nil {
			return err
		}
	}
	positive := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	positive(&c.GraceWindow, time.Minute)
	positive(&c.AccessTokenLifetime, time.Hour)
	positive(&c.CodeLifetime, time.Minute)
	if c.MaxGrants <= 0 {
		c.MaxGrants = 100_000
	}
	if c.Users == nil {
		c.Users = People()
	}
	if c.Scopes == nil {
		c.Scopes = []Scope{{ScopeFilesRead, "See your files"}, {ScopeFilesWrite, "Create and change your files"}}
	}
	return nil
}

// People are the users that there are if the configuration names none: alice, bob and mallory.
func People() []User {
	return []User{
		{Login: "alice", Sub: "acct-alice-1001", Name: "Alice Archer", Email: "alice@example.com"},
		{Login: "bob", Sub: "acct-bob-1002", Name: "Bob Baker", Email: "bob@example.com"},
		{Login: "mallory", Sub: "acct-mallory-1003", Name: "Mallory Mason", Email: "mallory@example.com"},
	}
}

func (r Rotation) check() error {
	switch r {
	case RotationNone, RotationGrace, RotationStrict:
		return nil
	}
	return fmt.Errorf("sandbox: rotation %q is none of none, grace, strict", string(r))
}

func (a Auto) check() error {
	if a.Decision != decisionAllow && a.Decision != decisionDeny {
		return fmt.Errorf("sandbox: decision %q is neither allow nor deny", a.Decision)
	}
	return nil
}

// AddClient registers a client, or replaces the one of that id.
func (s *Server) AddClient(c Client) error {
	if c.AuthMethod == "" {
		c.AuthMethod = string(oidc.AuthMethodBasic)
	}
	switch oidc.AuthMethod(c.AuthMethod) {
	case oidc.AuthMethodBasic, oidc.AuthMethodPost:
		if c.Secret == "" {
			return fmt.Errorf("sandbox: client %q has no secret", c.ID)
		}
	case oidc.AuthMethodNone:
	default:
		return fmt.Errorf("sandbox: client %q: auth method %q is not known", c.ID, c.AuthMethod)
	}
	if c.ID == "" {
		return errors.New("sandbox: a client has no id")
	}
	if c.Name == "" {
		c.Name = c.ID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c.ID] = c
	return nil
}

// SetAuto changes Config.Auto; nil brings the page back.
func (s *Server) SetAuto(a *Auto) error {
	if a != nil {
		if err := a.check(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auto = a
	return nil
}

// SetRotation changes Config.Rotation, for tokens already issued too.
func (s *Server) SetRotation(r Rotation) error {
	if err := r.check(); err != nil {
		return err
	}
	s.store.set(func(p *policy) { p.rotation = r })
	return nil
}

// SetAccessTokenLifetime changes Config.AccessTokenLifetime for tokens still to be issued.
func (s *Server) SetAccessTokenLifetime(d time.Duration) error {
	if d < time.Second {
		return errors.New("sandbox: an access token lives one second at least")
	}
	s.store.set(func(p *policy) { p.lifetime = d })
	return nil
}

// RevokeUser withdraws every grant of a user, as a user does in the provider's account settings: the tokens die without
// the client hearing of it. It returns how many grants there were.
func (s *Server) RevokeUser(login string) int {
	u, ok := s.user(login)
	if !ok {
		return 0
	}
	return s.store.revokeUser(u.Sub)
}

// Close lets go of every request that a fault holds; they end without an answer. Call it before http.Server.Shutdown.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.mux.ServeHTTP(w, r.WithContext(op.ContextWithIssuer(r.Context(), s.cfg.Issuer)))
}

const maxBody = 128 << 10

func (s *Server) routes() {
	m := http.NewServeMux()
	m.HandleFunc("GET /authorize", s.authorize)
	m.HandleFunc("GET /login", s.loginPage)
	m.HandleFunc("POST /login", s.login)
	m.HandleFunc("GET /login.css", s.loginStyle)
	if s.cfg.SingleSignOn {
		m.HandleFunc("GET /end_session", s.endSession)
		m.HandleFunc("POST /end_session", s.endSession)
	}
	m.HandleFunc("POST /token", s.token)
	m.HandleFunc("POST /device_authorization", s.deviceAuthorization)
	m.HandleFunc("GET /device", s.devicePage)
	m.HandleFunc("POST /device", s.device)
	m.HandleFunc("POST /revoke", s.revoke)
	m.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) { op.Keys(w, r, s.provider.Storage()) })
	m.HandleFunc("GET /.well-known/oauth-authorization-server", s.metadata)
	m.HandleFunc("GET /.well-known/openid-configuration", s.metadata)
	m.HandleFunc("GET /userinfo", s.me)
	m.HandleFunc("POST /userinfo", s.me)
	m.HandleFunc("GET /me", s.me)
	m.HandleFunc("GET /files", s.listFiles)
	m.HandleFunc("POST /files", s.createFile)
	m.HandleFunc("GET /files/{id}", s.readFile)
	if s.cfg.Admin {
		s.adminRoutes(m)
	}
	s.mux = m
}

func (s *Server) client(id string) (Client, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.clients[id]
	return c, ok
}

func (s *Server) user(login string) (User, bool) {
	for _, u := range s.cfg.Users {
		if u.Login == login {
			return s.grouped(u), true
		}
	}
	return User{}, false
}

func (s *Server) userBySub(sub string) (User, bool) {
	for _, u := range s.cfg.Users {
		if u.Sub == sub {
			return s.grouped(u), true
		}
	}
	return User{}, false
}

// wait ends after d, or false at once when the server is closed. It ignores the client's going away on purpose: a
// provider finishes what it began, and just that is what callers must survive.
func (s *Server) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.closed:
		return false
	}
}
