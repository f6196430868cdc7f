package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

// Config is what a Service needs. All ports are required but Verifier, Retention, Jobs, Switches, TenantConnectors, Registry, Logins and those of
// operators, and of the overview (Counters, Replicas, StoreHealth, Backlogs).
type Config struct {
	Connections Connections
	Index       ConnectionIndex
	Refreshes   Refreshes
	Schedule    Schedule
	Shared      SharedGrants
	Revocations Revocations
	Consents    Consents
	Portals     Portals
	Audit       Audit
	Search      AuditSearch
	// Verifier walks the audit trail for operators; without it they can't start that.
	Verifier TrailVerifier
	// Retention tells from when on events are kept; without it all of them are.
	Retention  TrailRetention
	Upstream   Upstream
	Connectors Connectors
	Placement  Placement
	Cursors    Cursors
	// Jobs lets operators start work that takes longer than a request; without it there is none.
	Jobs Jobs
	// Switches keeps what operators disabled; without it nothing can be.
	Switches SwitchBoard
	// Guesses lets a token out in one round trip, where this process has served its connection before; without it each takes two.
	Guesses Guesses
	// TenantConnectors and Registry let tenants make connectors of their own; without either there are none.
	TenantConnectors TenantConnectors
	Registry         ConnectorRegistry
	// Logins signs in the users of clients that have Client.Login; without it their consents can't be started.
	Logins Logins
	// Assertions and UsedAssertions let requests prove who the user is, or which client asks; without the first no such token is accepted.
	Assertions     Assertions
	UsedAssertions UsedAssertions
	// OperatorLogins, OperatorSignIns and OperatorRoles let operators sign in at their own OpenID Provider; OperatorEpochs ends their
	// sessions. Without the first there is no such sign-in.
	OperatorLogins  OperatorLogins
	OperatorSignIns OperatorSignIns
	OperatorEpochs  OperatorEpochs
	// OperatorSessions lists who is signed in; without it nobody can ask.
	OperatorSessions OperatorSessions
	// Tenant tells whether the configuration has the tenant: of one that neither it nor the store knows, nothing is recorded for
	// operators, so that no name which somebody types leaves a trace. nil: of any.
	Tenant        func(string) bool
	OperatorRoles []OperatorRole
	// Counters keeps what the dashboard draws; without it nothing is counted. Replicas, StoreHealth and Backlogs are what it tells
	// of the broker itself; what has none it does not tell.
	Counters    Counters
	Replicas    Replicas
	StoreHealth StoreHealth
	Backlogs    Backlogs
	// Limits bounds what callers of the API may do; the zero value: nothing does. SharedRates lets replicas count together; without it
	// each counts for itself. Places counts pending consents; without it they have no cap.
	Limits      Limits
	SharedRates SharedRates
	Places      Places
	// Client returns a configured client by id; required. A client that is gone from the configuration asks for nothing more.
	Client func(id string) (Client, bool)

	// StoreFull, if set, tells that the store has little room left: then no consent begins, so that what there is can go on.
	StoreFull func() bool

	// PublicURL is what browsers see, without a trailing slash. Links and redirect URIs are made from it alone.
	PublicURL string
	// Owner names this process in leases; unique among replicas.
	Owner string
	// Now is the clock; required.
	Now func() time.Time
	// Random must be cryptographically secure; required (crypto/rand.Reader).
	Random io.Reader
	// Log gets what operators must know; required.
	Log *slog.Logger

	// UpstreamTimeout bounds one request to a provider, from dial to last byte; no provider's own limit may be above it.
	// A lease lasts that long and some seconds, and so does the wait for a replica that died in a refresh. Default 35 s:
	// the longest request, and a look-up of metadata before it.
	UpstreamTimeout time.Duration
	// PersistTimeout bounds one attempt to store a refreshed token. Default 2 s. Attempts go on until the process ends.
	PersistTimeout time.Duration
	// AuditTimeout bounds the writing of the events before a token leaves. Default 250 ms (contract.md).
	AuditTimeout time.Duration
	// StoreTimeout bounds any other operation of the store. Default 1 s.
	StoreTimeout time.Duration
	// EarlyRefreshes is how many refreshes that nobody waits for may run at the same time for one provider. Default 16; negative: none.
	EarlyRefreshes int
	// RefreshesAtOnce is how many refreshes of one OAuth client this process has under way at its provider, early ones included.
	// Default 128; a provider that throttles gets fewer (lanes.go).
	RefreshesAtOnce int
	// SweepEvery is the pause between rounds of background work. Default 5 s.
	SweepEvery time.Duration
}

// Service holds the use cases. Make it with New, run its background work with Run, and end it with Drain.
type Service struct {
	tenantsMet sync.Map // tenants that are not configured and have a trail
	cfg        Config

	refresher *refresher
	early     early
	replicas  atomic.Int32 // that are heard of, this one included (share.go)
	telemetry telemetry
	pulse     *pulse
	vitals    vitals
	glances   glances
	unwatch   func() error // ends the gauges of circuits and lanes

	// detached counts work that outlives the request which began it: refreshes, exchanges, completions, revocations, sweeps. Drain waits for it.
	mu       sync.Mutex
	draining bool
	detached sync.WaitGroup
	killed   chan struct{} // closed when Drain's time is up: what is still running must end

	connectorTurn chan struct{} // holds a value while somebody brings store and registry together
	connectorMark string        // of what was read last; belongs to the holder of the turn

	listening, noticed lately // notice.go
	looked             lately // operator_look.go
	strangers, starts  lately // trail.go: what whoever has a link may write
	silences           silences
	limiter            *limiter
	refusals           limitRefusals
	full               fullLists
	doubts             placeDoubts
	creating           chan struct{} // holds a value while a tenant's connector is made

	jobWake   chan struct{} // holds a value when there may be a job to run
	followers *followers    // of consents: consent_follow.go

	links singleflight.Group // equal consents asked for at the same time
}

// New checks the config and makes a Service.
func New(cfg Config) (*Service, error) {
	var missing []string
	for name, absent := range map[string]bool{
		"Connections": cfg.Connections == nil, "Index": cfg.Index == nil, "Refreshes": cfg.Refreshes == nil, "Schedule": cfg.Schedule == nil, "Shared": cfg.Shared == nil, "Revocations": cfg.Revocations == nil,
		"Consents": cfg.Consents == nil, "Portals": cfg.Portals == nil, "Audit": cfg.Audit == nil, "Search": cfg.Search == nil, "Upstream": cfg.Upstream == nil,
		"Connectors": cfg.Connectors == nil, "Client": cfg.Client == nil, "Placement": cfg.Placement == nil, "Cursors": cfg.Cursors == nil, "PublicURL": cfg.PublicURL == "",
		"Owner": cfg.Owner == "", "Now": cfg.Now == nil, "Random": cfg.Random == nil, "Log": cfg.Log == nil,
	} {
		if absent {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, errors.New("broker: config lacks " + strings.Join(missing, ", "))
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&cfg.UpstreamTimeout, 35*time.Second)
	def(&cfg.PersistTimeout, 2*time.Second)
	def(&cfg.AuditTimeout, 250*time.Millisecond)
	def(&cfg.StoreTimeout, time.Second)
	def(&cfg.SweepEvery, 5*time.Second)
	if cfg.EarlyRefreshes == 0 {
		cfg.EarlyRefreshes = 16
	}
	if cfg.RefreshesAtOnce <= 0 {
		cfg.RefreshesAtOnce = 128
	}
	cfg.PublicURL = strings.TrimSuffix(cfg.PublicURL, "/")
	t, err := newTelemetry(func(id string) bool { _, ok := cfg.Connectors.Connector(id); return ok && !madeByTenant(id) })
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, telemetry: t, pulse: newPulse(cfg), killed: make(chan struct{}), early: newEarly(), limiter: newLimiter(cfg.Limits), followers: newFollowers(func(more int64) { t.followers.Add(context.Background(), more) }), connectorTurn: make(chan struct{}, 1), creating: make(chan struct{}, 1), jobWake: make(chan struct{}, 1)}
	s.refresher = newRefresher(s)
	s.unwatch, err = watchCircuits(cfg.Connectors, func(connector string, why trouble) bool {
		return s.refresher.circuits.open(s.refresher.lineOf(connector), why)
	})
	if err != nil {
		return nil, err
	}
	lanes, err := watchLanes(cfg.Connectors, func(connector string) (int, int) {
		return s.refresher.lanes.load(s.refresher.lineOf(connector).lane())
	})
	if err != nil {
		return nil, errors.Join(err, s.unwatch())
	}
	circuits := s.unwatch
	s.unwatch = func() error { return errors.Join(circuits(), lanes()) }
	return s, nil
}

// Drain lets nothing new begin and waits until detached refreshes and revocations are done, or the context ends: then they
// are told to end, and Drain waits for that too. Call it once, after the servers that call the Service have stopped.
func (s *Service) Drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	if err := s.unwatch(); err != nil {
		s.cfg.Log.WarnContext(ctx, "the gauges of circuits and lanes go on", "error", err)
	}
	done := make(chan struct{})
	go func() { s.detached.Wait(); close(done) }()
	var late error
	select {
	case <-done:
	case <-ctx.Done():
		close(s.killed)
		<-done
		late = ctx.Err()
	}
	s.flushPulse(ctx)
	s.flushRefusals(ctx)
	return late
}

// flushPulse writes the last counts, for a second at most.
func (s *Service) flushPulse(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := s.pulse.flush(ctx, true); err != nil {
		s.cfg.Log.InfoContext(ctx, "the last counts for the dashboard's charts were not written", "error", err)
	}
}

// flushRefusals records what limits refused since the last time, for a second at most.
func (s *Service) flushRefusals(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	s.recordRefusals(ctx, true)
}

// enter announces detached work; false: the service is draining. Each true needs one leave.
func (s *Service) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.detached.Add(1)
	return true
}

func (s *Service) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *Service) leave() { s.detached.Done() }

// pause waits; false: the context ended or the service was killed first.
func (s *Service) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-s.killed:
		return false
	}
}

// pauseUntilKilled waits for work that no caller's context may end.
func (s *Service) pauseUntilKilled(d time.Duration) bool { return s.pause(context.Background(), d) }

// jitter is a random part of d, so that what happened at the same time does not happen again at the same time.
func (s *Service) jitter(d time.Duration) time.Duration {
	var raw [8]byte
	if _, err := io.ReadFull(s.cfg.Random, raw[:]); err != nil || d <= 0 {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(raw[:]) % uint64(d))
}

// redirectURI is the connector's own (RFC 9700 section 4.4.2).
func (s *Service) redirectURI(connector string) string {
	return s.cfg.PublicURL + "/oauth2/callback/" + connector
}
