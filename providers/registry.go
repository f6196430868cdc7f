package providers

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
)

// Config is what a Registry needs.
type Config struct {
	// Custom are the operator's own providers, from ParseDefinitions. Their ids must not be in the catalogue.
	Custom []*Definition
	// Connectors in the order in which they are shown.
	Connectors []ConnectorConfig
	// Now is the clock; required.
	Now func() time.Time
	// Log gets what operators must know; required.
	Log *slog.Logger

	// Timeout bounds one request to a provider, dial to last byte; a definition may say less. Default and maximum 30 s: the
	// broker's lease on a refresh is made for that.
	Timeout time.Duration
	// DiscoveryTimeout bounds a look-up of metadata. Default 4 s, so that it and a request fit in the broker's 35 s.
	DiscoveryTimeout time.Duration
	// OutboundPorts are those that requests may go to at hosts which a tenant had a say in. Default: 443 alone.
	OutboundPorts []uint16
	// AllPorts lets them go to any port: for who develops.
	AllPorts bool
	// RootCAs verify providers' certificates. Default: the system's.
	RootCAs *x509.CertPool
	// Dial replaces dialling, and with it the rules about addresses: for tests and for egress through a tunnel.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Registry holds the connectors. It implements broker.Connectors, broker.ConnectorRegistry and broker.Upstream; it is safe for
// concurrent use and does nothing in the background.
type Registry struct {
	cfg       Config
	known     map[string]found
	changing  sync.Mutex               // for who replaces present
	present   atomic.Pointer[snapshot] // replaced as a whole, never changed
	client    *client
	now       func() time.Time
	log       *slog.Logger
	telemetry *telemetry
	notes     Problems
}

var (
	_ broker.Connectors = (*Registry)(nil)
	_ broker.Upstream   = (*Registry)(nil)

	_ broker.ConnectorRegistry = (*Registry)(nil)
)

// snapshot is the connectors as they are at one moment.
type snapshot struct {
	order   []broker.Connector
	servers map[string]*server
}

// server is one connector with its provider's definition, made ready for use.
type server struct {
	id     string
	def    *Definition // with defaults, as its product needs it
	config ConnectorConfig
	view   broker.Connector
	vars   map[string]string // of the {placeholders}, as far as they are known without a grant
	spell  map[string]string // folded scope -> the spelling that requests use
	meta   *metadataCache
	jwks   *jwksCache
	signer jose.Signer // of assertions; nil: there are none
	// previous is the same with the client secret before this one (overlap.go); nil: there is none.
	previous *server
	made     time.Time // by a tenant
}

// New checks the configuration and makes a Registry. It sends nothing. An error about the configuration is Problems,
// with all of them.
func New(cfg Config) (*Registry, error) {
	if cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("providers: config lacks Now or Log")
	}
	if cfg.Timeout <= 0 || cfg.Timeout > 30*time.Second {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.DiscoveryTimeout <= 0 {
		cfg.DiscoveryTimeout = 4 * time.Second
	}
	builtin, err := Catalogue()
	if err != nil {
		return nil, err
	}
	t, err := newTelemetry()
	if err != nil {
		return nil, err
	}
	r := &Registry{cfg: cfg, client: newClient(cfg), now: cfg.Now, log: cfg.Log, telemetry: t}
	var problems Problems
	r.known, problems = index(builtin, cfg.Custom)
	present := &snapshot{servers: map[string]*server{}}
	ids := map[string]bool{}
	for _, c := range cfg.Connectors {
		s, found := r.newServer(c)
		problems = append(problems, found...)
		if ids[c.ID] {
			problems = append(problems, Problem{Line: c.Line, Key: join(c.Key, "id"), Text: fmt.Sprintf("%q is used by another connector", c.ID)})
		}
		ids[c.ID] = true
		if s == nil {
			continue
		}
		present.servers[c.ID] = s
		present.order = append(present.order, s.view)
	}
	if err := problems.err(); err != nil {
		return nil, err
	}
	r.present.Store(present)
	return r, nil
}

// found is a definition under one of its names.
type found struct {
	def     *Definition
	product *Product
}

// index lists definitions under their ids, and products under theirs. One whose id could not be read is under "".
func index(builtin, custom []*Definition) (map[string]found, Problems) {
	known := map[string]found{}
	var problems Problems
	for _, d := range builtin {
		for i := range d.Connectors {
			known[d.Connectors[i].ID] = found{d, &d.Connectors[i]}
		}
	}
	for _, d := range builtin {
		// A product that is called like its server is what that name means.
		if f, ok := known[d.ID]; !ok || f.def != d {
			known[d.ID] = found{def: d}
		}
	}
	for _, d := range custom {
		if f, twice := known[d.ID]; twice && d.ID != "" {
			text := "is used by another provider"
			if slices.Contains(builtin, f.def) {
				text = "is in the built-in catalogue: choose another id"
			}
			problems = append(problems, d.lines.problem("id", "%s", text))
			continue
		}
		known[d.ID] = found{def: d}
	}
	for _, d := range custom {
		for i := range d.Connectors {
			if _, taken := known[d.Connectors[i].ID]; !taken {
				known[d.Connectors[i].ID] = found{d, &d.Connectors[i]}
			}
		}
	}
	return known, problems
}

func (r *Registry) newServer(c ConnectorConfig) (*server, Problems) {
	var problems Problems
	add := func(key, format string, args ...any) {
		problems = append(problems, Problem{Line: c.Line, Key: join(c.Key, key), Text: fmt.Sprintf(format, args...)})
	}
	if c.Tenant == "" && !idPattern.MatchString(c.ID) {
		add("id", "must be 1 to 64 lower-case letters, digits and hyphens")
	}
	f, ok := r.known[c.Provider]
	if !ok || c.Provider == "" {
		if _, unnamed := r.known[""]; !unnamed || c.Provider == "" {
			add("provider", "%q is neither in the built-in catalogue nor under providers", c.Provider)
		}
		// What does not depend on the provider is checked all the same.
		f = found{def: &Definition{ID: c.Provider, broken: true, doubts: []string{""}}}
	}
	// provider: google with id: google-drive means that product.
	if f.product == nil || f.product.ID == f.def.ID {
		for i := range f.def.Connectors {
			if f.def.Connectors[i].ID == c.ID {
				f.product = &f.def.Connectors[i]
			}
		}
	}
	d := f.def.as(f.product).withDefaults()
	d.tenant = c.Tenant != ""
	switch {
	case c.PKCE == "S256":
		d.PKCE = "S256"
	case c.PKCE != "":
		add("pkce", "must be S256: what it is otherwise the provider's definition says")
	}
	s := &server{id: c.ID, def: d, config: c, meta: newMetadataCache(r.cfg), jwks: &jwksCache{}}
	if c.ClientID == "" {
		add("client_id", "is missing")
	}
	switch method := d.TokenEndpointAuthMethod; {
	case method == authNone && !c.ClientSecret.IsZero():
		add("client_secret", "is set, but %s has token_endpoint_auth_method none: leave one out", c.Provider)
	case (method == authBasic || method == authPost) && c.ClientSecret.IsZero() && !(c.Grant == string(broker.GrantJWTBearer) && d.JWTBearer.ClientAuth == authNone):
		add("client_secret", "is missing: %s authenticates its clients by %s", c.Provider, method)
	}
	if !c.NoticeSecret.IsZero() && d.Notices == nil && !d.doubtful("notices") && c.Tenant == "" {
		r.notes = append(r.notes, Problem{Line: c.Line, Key: join(c.Key, "notice_secret"), Text: fmt.Sprintf("has no effect: %s sends no notices", c.Provider)})
	}
	s.vars = map[string]string{}
	for name, decl := range d.Vars {
		if decl.Default != "" {
			s.vars[name] = decl.Default
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Vars)) {
		decl, ok := d.Vars[name]
		switch {
		case d.doubtful("vars." + name):
		case !ok && c.Tenant != "":
			add("vars."+name, "is not known: %s has no such placeholder", c.Provider)
		case !ok:
			// No problem: one set of vars may serve several definitions, and it can't do harm.
			r.notes = append(r.notes, Problem{Line: c.Line, Key: join(c.Key, "vars."+name), Text: fmt.Sprintf("has no effect: %s has no such placeholder", c.Provider)})
		case !decl.accepts(c.Vars[name]):
			add("vars."+name, "is not a value that %s allows", c.Provider)
		default:
			s.vars[name] = c.Vars[name]
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Vars)) {
		_, given := c.Vars[name]
		if _, ok := s.vars[name]; !ok && !given && !d.doubtful("vars."+name) && (d.Vars[name].From == "" || d.Vars[name].From == "config") {
			add("vars."+name, "is missing: %s needs it", c.Provider)
		}
	}
	for _, e := range []struct{ key, value string }{
		{"issuer", d.Issuer}, {"authorization_endpoint", d.AuthorizationEndpoint}, {"token_endpoint", d.TokenEndpoint},
	} {
		if url := fill(e.value, s.vars); url != "" && len(placeholders(url)) == 0 && !d.doubtful(e.key) && !d.doubtful("vars") {
			if _, err := parseEndpoint(url); err != nil {
				add("vars", "make an address of %s that %s", c.Provider, err)
			}
		}
	}
	s.checkReach(r.cfg, add)
	s.scopes(f.product, add)
	s.grant(add)
	if c.Device {
		r.notes = append(r.notes, Problem{Line: c.Line, Key: join(c.Key, "device"), Text: "is true: with a device code nothing shows that who allows it is the person in the chat (RFC 8628 section 5.4); where users have a phone at hand, a link of binding code is safer"})
	}
	s.view.Timeout = s.patience(r.cfg)
	s.previous = s.withPrevious()
	if f.def.broken {
		return nil, problems // its own problems were reported to whoever parsed it
	}
	return s, problems
}

// scopes settles what may be asked, and what the domain sees of the connector.
func (s *server) scopes(product *Product, add func(key, format string, args ...any)) {
	c, d := s.config, s.def
	may := c.Scopes
	if len(may) == 0 && product != nil {
		may = product.Scopes
	}
	if len(may) == 0 && d.ScopeParameter != "none" && !d.doubtful("connectors") && !d.doubtful("scope_parameter") {
		add("scopes", "is missing: say what may be asked")
	}
	for i, scope := range may {
		if !validScope(scope) {
			add("scopes", "entry %d is not a scope (RFC 6749 section 3.3)", i+1)
		}
	}
	allowed, asked := broker.NewScopeSet(may...), broker.NewScopeSet(c.DefaultScopes...)
	if extra := asked.Minus(allowed); !extra.Empty() {
		add("default_scopes", "holds what scopes does not: %s", extra)
	}
	if asked.Empty() {
		asked = allowed
	}
	implied := broker.NewScopeSet(append(slices.Clone(d.OfflineScopes), d.IdentityScopes...)...)
	view := broker.Connector{ID: c.ID, Name: c.Name, Provider: d.Name, Category: d.Category, Default: asked, Implied: implied,
		Narrows: d.Narrows, Exclusive: d.Rotation == "strict", RefreshEndsAccess: d.RefreshEndsAccessToken, DeniedCodes: slices.Clone(d.Errors.Denied),
		ProviderID: d.ID, ClientKey: d.ID + "/" + c.ClientID, RefreshesAtOnce: c.RefreshesAtOnce, RefreshIdle: time.Duration(d.RefreshTokenIdle) * time.Second}
	if len(d.Vars) > 0 || c.Tenant != "" {
		// What a tenant's OAuth client suffers stops nobody else.
		view.ProviderID = d.ID + "/" + c.ID // {placeholders} may lead each connector to a server of its own
	}
	view.ClientKey += s.place()
	view.Notices = s.takesNotices()
	if c.Tenant != "" {
		// Where a tenant says what the client is, and perhaps what the server, it must not reach into grants of others.
		view.ClientKey += "\x00" + c.Tenant
	}
	if d.SharedGrants {
		view.SharedGrants = view.ClientKey
	}
	if ends := d.Revocation.Ends; ends == "client" || ends == "app" {
		// At the provider it is one client, whoever brought it in: a holder that is counted too many keeps a grant there, one that
		// is not counted loses what it has.
		view.RevokesAll = d.ID + "/" + c.ClientID + s.place()
	}
	if product != nil {
		def(&view.Name, product.Name)
		if product.Category != "" {
			view.Category = product.Category
		}
	}
	def(&view.Name, d.Name)
	if d.WholeGrant != nil {
		whole := d.WholeGrant.info("")
		view.Whole = &whole
	}
	for _, scope := range allowed.All() {
		view.Scopes = append(view.Scopes, d.describe(scope))
	}
	s.view = view
	s.spell = map[string]string{}
	for _, scope := range slices.Concat(implied.All(), allowed.All()) {
		s.spell[s.fold(scope)] = scope
	}
}

// place tells servers apart that one definition stands for: by the values that the configuration fills its addresses with. What
// a grant learns by itself is its own.
func (s *server) place() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(s.def.Vars)) {
		if from := s.def.Vars[name].From; from == "" || from == "config" {
			b.WriteString("\x00" + name + "=" + s.vars[name])
		}
	}
	return b.String()
}

// limit is how long one request may take.
func (r *Registry) limit(s *server) time.Duration {
	return min(r.client.timeout, time.Duration(s.def.Timeout)*time.Second)
}

// patience is how long a request may take, a look-up of metadata before it included.
func (s *server) patience(cfg Config) time.Duration {
	limit := min(cfg.Timeout, time.Duration(s.def.Timeout)*time.Second)
	if s.previous != nil {
		limit *= 2 // a second request with the earlier client secret
	}
	if s.def.discovers() {
		limit += cfg.DiscoveryTimeout
	}
	return limit + time.Second // for what is not waiting
}

// Connector returns one by id.
func (r *Registry) Connector(id string) (broker.Connector, bool) {
	s, ok := r.present.Load().servers[id]
	if !ok {
		return broker.Connector{}, false
	}
	return s.view, true
}

// Definition returns the connector's definition as its product needs it, with every default. It must not be changed.
func (r *Registry) Definition(id string) (*Definition, bool) {
	s, ok := r.present.Load().servers[id]
	if !ok {
		return nil, false
	}
	return s.def, true
}

// Notes are what is no problem of the configuration, but likely not meant.
func (r *Registry) Notes() []Problem { return slices.Clone(r.notes) }

// All returns the connectors in the order of the configuration, and behind them those of tenants, oldest first.
func (r *Registry) All() []broker.Connector { return slices.Clone(r.present.Load().order) }

func (r *Registry) server(connector string) (*server, error) {
	s, ok := r.present.Load().servers[connector]
	if !ok {
		return nil, &broker.UpstreamError{Class: broker.ClassClientRefused, What: "the connector is not configured any more"}
	}
	return s, nil
}

// Close ends idle connections to providers. Requests under way go on.
func (r *Registry) Close() { r.client.close() }
