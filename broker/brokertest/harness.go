package brokertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tokenbroker/broker"
)

// Harness is one or more replicas of the service on one store and one provider. Run it inside testing/synctest for virtual
// time: its clock is time.Now.
type Harness struct {
	Store    *Store
	Provider *Provider
	Client   broker.Client
	// OpenID is the tenant's own OpenID Provider, where Client.Login is set.
	OpenID *OpenID
	// Operators are where operators sign in, with OperatorRoles.
	Operators *Operators
	// Replicas of the service; Service is the first.
	Replicas []*broker.Service
	Service  *broker.Service
	// Conns are the connectors: "files" alone at first.
	Conns Connectors
	// Log is what all replicas logged, as lines of JSON.
	Log *Log
	// Registries are what each replica knows of tenants' connectors.
	Registries []*Registry
	// Tallies are what the replicas counted.
	Tallies *Tallies
	// Full: the store has little room left.
	Full atomic.Bool
}

// Log keeps what is logged.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

// Lines returns the lines that hold the text.
func (l *Log) Lines(text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var found []string
	for line := range strings.Lines(l.text.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// Connectors is a fixed configuration.
type Connectors []broker.Connector

// Connector is part of broker.Connectors.
func (c Connectors) Connector(id string) (broker.Connector, bool) {
	for _, one := range c {
		if one.ID == id {
			return one, true
		}
	}
	return broker.Connector{}, false
}

// All is part of broker.Connectors.
func (c Connectors) All() []broker.Connector { return c }

// Files is the connector of the harness.
func Files() broker.Connector {
	return broker.Connector{
		ID: "files", Name: "Files", Provider: "Rig", Exclusive: true, Default: broker.ParseScopes("files.read"), Implied: broker.ParseScopes("offline_access"),
		Scopes: []broker.ScopeInfo{{Name: "files.read", Description: "Read your files"}, {Name: "files.write", Description: "Change your files"}},
	}
}

// New makes a harness of n replicas.
func New(t testing.TB, n int) *Harness {
	t.Helper()
	return NewWith(t, n, func(*broker.Config) {})
}

// NewWith is New with a change of each replica's configuration.
func NewWith(t testing.TB, n int, change func(*broker.Config)) *Harness {
	t.Helper()
	h := &Harness{
		Store:    NewStore(time.Now),
		Provider: &Provider{Now: time.Now, Lifetime: time.Hour, Account: broker.Account{ID: "u1", Name: "Alice", Email: "alice@example.com"}},
		Client:   broker.Client{ID: "chat", Name: "Chat", Tenant: "acme", ReturnTo: []string{"https://chat.example/done"}},
		Conns:    Connectors{Files()},
		Log:      &Log{},
		OpenID:   &OpenID{},

		Operators: &Operators{},
		Tallies:   &Tallies{},
	}
	for i := range n {
		registry := &Registry{Fixed: h}
		h.Registries = append(h.Registries, registry)
		cfg := broker.Config{
			Connections: h.Store,
			Index:       h.Store,
			Search:      h.Store, Verifier: h.Store, Retention: h.Store,
			Refreshes:   h.Store,
			Schedule:    h.Store,
			Shared:      h.Store,
			Revocations: h.Store,
			Consents:    h.Store,
			Portals:     h.Store,
			Audit:       h.Store,
			Placement:   h.Store,
			Cursors:     h.Store,
			Jobs:        h.Store,
			Switches:    h.Store,
			Guesses:     h.Store,
			Upstream:    h.Provider, Connectors: registry, TenantConnectors: h.Store, Registry: registry, Logins: h.OpenID, PublicURL: "https://broker.example", Owner: string(rune('a' + i)),
			Client:         func(id string) (broker.Client, bool) { return h.Client, id == h.Client.ID },
			OperatorLogins: h.Operators, OperatorSignIns: h.Operators, OperatorEpochs: h.Operators, OperatorSessions: h.Operators, OperatorRoles: OperatorRoles(),
			Counters:  h.Tallies,
			StoreFull: h.Full.Load, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.NewJSONHandler(h.Log, nil)),
		}
		change(&cfg)
		s, err := broker.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		h.Replicas = append(h.Replicas, s)
	}
	h.Service = h.Replicas[0]
	return h
}

// Connector is part of broker.Connectors, over Conns as they are now.
func (h *Harness) Connector(id string) (broker.Connector, bool) { return h.Conns.Connector(id) }

// All is part of broker.Connectors.
func (h *Harness) All() []broker.Connector { return h.Conns }

// Caller is the client that asks.
func (h *Harness) Caller() broker.Caller { return broker.Caller{Client: h.Client, RequestID: "r1"} }

// Start opens and starts the consent behind a link in a fresh browser, and returns the callback that the provider would
// make, in that browser.
func (h *Harness) Start(t testing.TB, link broker.ConsentLink) broker.Callback {
	t.Helper()
	secret := LinkSecret(link)
	start, err := h.Service.StartConsent(context.Background(), secret, func(string) broker.Secret { return broker.Secret{} })
	if err != nil {
		t.Fatalf("start consent: %v", err)
	}
	return broker.Callback{
		Connector: "files", State: broker.NewSecret(Query(t, start.Location, "state")), Code: broker.NewSecret("code-" + link.ID),
		Cookie: func(name string) broker.Secret {
			if name == start.CookieName {
				return start.Cookie
			}
			return broker.Secret{}
		},
	}
}

// Connect runs a whole consent of binding "code" for the subject.
func (h *Harness) Connect(t testing.TB, subject string, scopes string) broker.Connection {
	t.Helper()
	return h.ConnectTo(t, "files", subject, scopes)
}

// ConnectTo is Connect for another connector.
func (h *Harness) ConnectTo(t testing.TB, connector, subject, scopes string) broker.Connection {
	t.Helper()
	ctx := context.Background()
	_, link, err := h.Service.CreateConsent(ctx, h.Caller(), broker.ConsentRequest{Connector: connector, Subject: subject, Scopes: broker.ParseScopes(scopes)})
	if err != nil {
		t.Fatalf("create consent: %v", err)
	}
	callback := h.Start(t, link)
	callback.Connector = connector
	finish, err := h.Service.FinishConsent(ctx, callback)
	if err != nil {
		t.Fatalf("finish consent: %v", err)
	}
	conn, err := h.Service.CompleteConsent(ctx, h.Caller(), link.ID, broker.Completion{Subject: subject, Code: finish.UserCode})
	if err != nil {
		t.Fatalf("complete consent: %v", err)
	}
	return conn
}

// Token asks the first replica for a token with default scopes.
func (h *Harness) Token(subject string) (broker.Token, error) {
	return h.Service.IssueToken(context.Background(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: subject})
}
