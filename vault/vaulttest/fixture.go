package vaulttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
	"tokenbroker/vault/redisstore"
)

// Topology is a started store.
type Topology struct {
	URL   string
	TLS   *tls.Config
	Addrs []string // its servers, for what only an operator or an attacker does
	Redis *Redis   // the one server, where it is a process alone; else nil
	// Variant: the same servers as another topology's, reached in another way. Tests that change what lies in the store and
	// ask whether the vault notices tell nothing new there.
	Variant bool
	// Command sends an operator's command to a server. Default: the function of that name.
	Command func(addr string, args ...string) (string, error)
}

// rig is what a test of the suite works with.
type rig struct {
	testing.TB
	Topology
	keyset *vault.Keyset
	log    *syncBuffer
}

// syncBuffer is a log that tests can read.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newRig(t testing.TB, topology Topology) *rig {
	t.Helper()
	keyset, err := vault.NewEphemeralKeyset()
	if err != nil {
		t.Fatal(err)
	}
	if topology.Command == nil {
		topology.Command = Command
	}
	return &rig{TB: t, Topology: topology, keyset: keyset, log: &syncBuffer{}}
}

// reach is how the topology's servers are reached: whoever needs a connection of his own takes it from here, TLS included. The
// tests are about what is written and read, hundreds of times at once: on a busy machine, under the race detector, an answer
// may take longer than a broker would wait for it.
func (r *rig) reach() redisstore.Config {
	return redisstore.Config{URL: r.URL, TLS: r.TLS, DialTimeout: 10 * time.Second, IOTimeout: 10 * time.Second}
}

// backend is a connection of the test's own.
func (r *rig) backend() *redisstore.Store {
	r.Helper()
	b, err := redisstore.New(r.reach())
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = b.Close() })
	return b
}

// store opens a store like another replica: with a process's own audit writer.
func (r *rig) store(change ...func(*vault.Config, *redisstore.Config)) *vault.Store {
	r.Helper()
	rc := r.reach()
	vc := vault.Config{
		Keyset: r.keyset, Now: time.Now, Random: rand.Reader,
		Log: slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&vc, &rc)
	}
	backend, err := redisstore.New(rc)
	if err != nil {
		r.Fatal(err)
	}
	if c, ok := vc.Backend.(*crashing); ok {
		c.Backend = backend
	}
	if vc.Backend == nil {
		vc.Backend = backend
	}
	s, err := vault.New(vc)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		s.Close()
		_ = backend.Close()
	})
	return s
}

// through makes a store use the proxy.
func through(p *Proxy) func(*vault.Config, *redisstore.Config) {
	return func(_ *vault.Config, rc *redisstore.Config) {
		rc.URL, rc.DialTimeout, rc.IOTimeout = "redis://"+p.Addr, 0, 0 // a broker's: what is held back is missed in time
	}
}

// away makes a store use a server that is not there. After as many failures as its pool has places, the client would dial
// in the background, and for a second more than the store lives.
func away(_ *vault.Config, rc *redisstore.Config) { rc.URL, rc.PoolSize = "redis://127.0.0.1:1", 1000 }

func withSpool(dir string) func(*vault.Config, *redisstore.Config) {
	return func(vc *vault.Config, _ *redisstore.Config) { vc.SpoolDir = dir }
}

// raw sends a command as an operator would, to the server that has the key.
func (r *rig) raw(args ...string) string {
	r.Helper()
	reply, err := r.rawTry(args...)
	if err != nil {
		r.Fatalf("%s: %v", args[0], err)
	}
	return reply
}

func (r *rig) rawTry(args ...string) (reply string, err error) {
	for _, addr := range r.Addrs {
		if reply, err = r.Command(addr, args...); err == nil || !strings.HasPrefix(err.Error(), "MOVED") {
			return reply, err
		}
	}
	return reply, err
}

// everywhere sends a command to every server.
func (r *rig) everywhere(args ...string) []string {
	r.Helper()
	var replies []string
	for _, addr := range r.Addrs {
		reply, err := r.Command(addr, args...)
		if err != nil {
			r.Fatalf("%s: %v", args[0], err)
		}
		replies = append(replies, reply)
	}
	return replies
}

// keys lists the keys of all servers.
func (r *rig) keys(pattern string) []string {
	var keys []string
	for _, reply := range r.everywhere("KEYS", pattern) {
		for _, key := range strings.Split(reply, "\n") {
			if key != "" {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	r.Cleanup(cancel)
	return ctx
}

// recordID makes an id as the service does.
func recordID(s *vault.Store, tenant, subject string) string {
	raw := make([]byte, 18)
	_, _ = rand.Read(raw)
	raw[0] = s.Shard(tenant, subject) ^ raw[17]
	return base64.RawURLEncoding.EncodeToString(raw)
}

func eventID() string { return rand.Text() }

// entry makes an audit entry with one event for each scope.
func entry(kind broker.EventType, conn broker.Connection, scopes ...string) broker.Entry {
	e := broker.Entry{
		Type: kind, Time: time.Now().UTC(), Tenant: conn.Tenant, Client: "chat", Subject: conn.Subject, Connector: conn.Connector,
		Connection: conn.ID, Outcome: "ok", RequestID: "req-" + rand.Text(), Actor: broker.Actor{Agent: "agent-1"},
	}
	for _, s := range scopes {
		e.Scopes = append(e.Scopes, broker.EventScope{ID: eventID(), Scope: s, Requested: true})
	}
	if len(scopes) == 0 {
		e.Scopes = []broker.EventScope{{ID: eventID()}}
	}
	return e
}

// connect runs a consent to its end and returns the connection, whose tokens are "at-N" and "rt-N" with a canary.
func (r *rig) connect(s *vault.Store, tenant, subject, connector, tokens string) broker.Connection {
	r.Helper()
	now := time.Now().UTC()
	consent := broker.Consent{
		ID: recordID(s, tenant, subject), Tenant: tenant, Client: "chat", Subject: subject, Connector: connector,
		Scopes: broker.NewScopeSet("files.read", "files.write"), Binding: broker.BindingCode, Link: broker.NewSecret("canary-link-" + tokens),
		Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(broker.LinkLife), CreatedAt: now, State: "canary-state-" + tokens,
	}
	consent, err := s.CreateConsent(r.ctx(), consent, "", []broker.Entry{{
		Type: broker.EventConsentCreated, Time: now, Tenant: tenant, Client: "chat", Subject: subject, Connector: connector, Scopes: []broker.EventScope{{ID: eventID()}},
	}})
	if err != nil {
		r.Fatalf("create consent: %v", err)
	}
	conn := broker.Connection{
		ID: recordID(s, tenant, subject), Tenant: tenant, Subject: subject, Connector: connector, Client: "chat", Status: broker.ConnectionActive,
		Scopes: broker.NewScopeSet("files.read", "files.write"), Renewable: true, CreatedAt: now, LastRefreshed: now, Lifetime: time.Hour,
		Account: broker.Account{ID: "acc-1", Name: "canary-name", Email: "canary@example.com"}, Extra: map[string]string{"instance_url": "https://canary.example.com"},
	}
	consent.Status, consent.Result = broker.ConsentCompleted, conn.ID
	conn, err = s.CompleteConsent(r.ctx(), consent, conn, r.grant(tokens), []broker.Entry{entry(broker.EventConsentCompleted, conn)})
	if err != nil {
		r.Fatalf("complete consent: %v", err)
	}
	return conn
}

// renew runs a consent that gives the connection, as conn describes it, a new grant.
func (r *rig) renew(s *vault.Store, conn broker.Connection, tokens string) broker.Connection {
	r.Helper()
	consent, err := s.CreateConsent(r.ctx(), renewal(s, conn), "", nil)
	if err != nil {
		r.Fatal(err)
	}
	consent.Status = broker.ConsentCompleted
	conn, err = s.CompleteConsent(r.ctx(), consent, conn, r.grant(tokens), []broker.Entry{entry(broker.EventConsentCompleted, conn)})
	if err != nil {
		r.Fatal(err)
	}
	return conn
}

func (r *rig) grant(tokens string) broker.Grant {
	return broker.Grant{
		AccessToken: broker.NewSecret("canary-at-" + tokens), RefreshToken: broker.NewSecret("canary-rt-" + tokens),
		ObtainedAt: time.Now().UTC().Truncate(time.Microsecond), ExpiresAt: time.Now().UTC().Add(time.Hour).Truncate(time.Millisecond), Lifetime: time.Hour,
	}
}

// release lets the token out and checks which one it is.
func (r *rig) release(s *vault.Store, conn broker.Connection, tokens string) {
	r.Helper()
	token, err := s.Release(r.ctx(), conn, "", entry(broker.EventTokenIssued, conn, conn.Scopes.All()...))
	if err != nil {
		r.Fatalf("release: %v", err)
	}
	if got := token.Reveal(); got != "canary-at-"+tokens {
		r.Fatalf("released %q, want the token of %q", got, tokens)
	}
}

// allEvents reads the tenant's trail page by page.
func (r *rig) allEvents(s *vault.Store, tenant string, filter broker.EventFilter, page int) []broker.Event {
	r.Helper()
	var all []broker.Event
	position := ""
	for {
		events, next, err := s.Events(r.ctx(), tenant, filter, position, page)
		if err != nil {
			r.Fatalf("events: %v", err)
		}
		all = append(all, events...)
		if next == "" {
			return all
		}
		position = next
	}
}

// verified demands that the test's own streams are without faults: the keyset of other tests is another.
func (r *rig) verified(s *vault.Store) vault.Report {
	r.Helper()
	report, err := s.Verify(r.ctx())
	if err != nil {
		r.Fatalf("verify: %v", err)
	}
	for _, f := range report.Faults {
		if strings.HasPrefix(f.Stream, tenant(r)) {
			r.Fatalf("verify finds a fault in an untouched trail: %+v", f)
		}
	}
	return report
}

// sound demands that the trail of this test's tenant has events, and no fault. Verify fails for the tenants of other tests when they sealed
// with other keys.
func (r *rig) sound(s *vault.Store) {
	r.Helper()
	entries := 0
	for position, first := "", true; first || position != ""; first = false {
		found, err := s.VerifyTrail(r.ctx(), tenant(r), position, time.Minute)
		if err != nil || len(found.Faults) > 0 {
			r.Fatalf("the trail of this tenant: %+v, %v", found.Faults, err)
		}
		entries, position = entries+found.Entries, found.Next
	}
	if entries == 0 {
		r.Fatal("the trail of this tenant is empty")
	}
}

// within polls until the condition holds.
func (r *rig) within(d time.Duration, what string, holds func() bool) {
	r.Helper()
	for deadline := time.Now().Add(d); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("not within %v: %s", d, what)
		}
	}
}

func tag(shard byte) string { return fmt.Sprintf("tb:{%02x}:", shard) }

func contextWithTimeout(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// snapshot is a hash as it is stored, in an order that does not change.
func (r *rig) snapshot(key string) string {
	r.Helper()
	fields := lines(r.raw("HKEYS", key))
	slices.Sort(fields)
	var out strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&out, "%s=%q\n", f, r.raw("HGET", key, f))
	}
	return out.String()
}
