package simulationtest

import (
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// Plant puts something between a process and what it is made of: a bug that the simulation must find.
type Plant struct {
	Backend     func(vault.Backend) vault.Backend
	Spool       func(vault.SpoolFiles) vault.SpoolFiles
	Refreshes   func(broker.Refreshes) broker.Refreshes
	Connections func(broker.Connections) broker.Connections
}

// Simulator runs schedules. All begin with the same connections in the store.
type Simulator struct {
	keyset *vault.Keyset
	own    beginning
	shared beginning // with one grant
}

// beginning is what lies in a store when a schedule begins.
type beginning struct {
	memory *Memory
	conns  []broker.Connection
	keys   []string // of their records
	grant  string   // key of the shared grant
	around int      // sharedRecord.around
}

// keysetFile and its KEK are of no use but here: with the same keys everything lies in the same shards in every run.
//
//go:embed testdata/keyset.json
var keysetFile []byte

const keysetKEK = "the key of a simulation, not one."

// New prepares a Simulator.
func New(t *testing.T) *Simulator {
	t.Helper()
	kek, err := vault.NewKEK([]byte(keysetKEK)[:32], "the simulation")
	if err != nil {
		t.Fatal(err)
	}
	keyset, err := vault.OpenKeyset(keysetFile, kek)
	if err != nil {
		t.Fatal(err)
	}
	s := &Simulator{keyset: keyset}
	for conns, b := range map[int]*beginning{ownConns: &s.own, sharedConns: &s.shared} {
		synctest.Test(t, func(t *testing.T) {
			if *b, err = s.begin(conns); err != nil {
				t.Fatal(err)
			}
		})
	}
	return s
}

// begin makes so many connections.
func (s *Simulator) begin(conns int) (beginning, error) {
	b := beginning{memory: NewMemory(time.Now)}
	ctx := context.Background()
	store, err := s.beside(b.memory, seeded(0, 0))
	if err != nil {
		return b, err
	}
	defer store.Close()
	w := &world{plan: Plan{Shared: conns == sharedConns}}
	if w.plan.Shared {
		w.shared = &sharedRecord{}
	}
	w.provider = newProvider(w, w.plan)
	random := rand.New(rand.NewPCG(0, 0))
	for conn := range conns {
		if w.plan.Shared {
			time.Sleep(time.Millisecond) // the grant's generations are moments
		}
		made, err := w.connect(store, conn, random)
		if err != nil {
			return b, err
		}
		b.conns = append(b.conns, made)
		keys, err := b.memory.Keys(ctx, "tb:*:c:"+made.ID)
		if err != nil || len(keys) != 1 {
			return b, fmt.Errorf("where a connection lies: %v, %w", keys, err)
		}
		b.keys = append(b.keys, keys[0])
	}
	if !w.plan.Shared {
		return b, nil
	}
	keys, err := b.memory.Keys(ctx, "tb:*:g:*")
	if err != nil || len(keys) != 1 {
		return b, fmt.Errorf("where the shared grant lies: %v, %w", keys, err)
	}
	b.grant = keys[0]
	newest := w.provider.all[len(w.provider.all)-1]
	b.around = len(b.memory.data[b.grant].hash["g"]) - len(newest.sent)
	return b, nil
}

// beside makes a store without gates.
func (s *Simulator) beside(m *Memory, random io.Reader) (*vault.Store, error) {
	return vault.New(vault.Config{Backend: m, Keyset: s.keyset, Now: time.Now, Random: random, Log: slog.New(slog.DiscardHandler)})
}

// recordID makes an id as the service does.
func recordID(store *vault.Store, subject string, random *rand.Rand) string {
	var raw [18]byte
	for i := range raw {
		raw[i] = byte(random.Uint32())
	}
	raw[0] = store.Shard(tenant, subject) ^ raw[17]
	return base64.RawURLEncoding.EncodeToString(raw[:])
}

// connect makes a connection as a completed consent does.
func (w *world) connect(store *vault.Store, conn int, random *rand.Rand) (broker.Connection, error) {
	now := time.Now()
	_, grant := w.provider.newGrant(w.group(conn))
	made := broker.Connection{
		ID: recordID(store, subject(conn), random), Tenant: tenant, Subject: subject(conn), Connector: connector, Client: client.ID, Status: broker.ConnectionActive,
		Scopes: scopes(), Renewable: true, CreatedAt: now, Lifetime: lifetime, Account: account(w.group(conn)),
	}
	consent, err := store.CreateConsent(context.Background(), broker.Consent{
		ID: recordID(store, subject(conn), random), Tenant: tenant, Client: client.ID, Subject: subject(conn), Connector: connector, Scopes: scopes(),
		Binding: broker.BindingCode, Link: broker.NewSecret("link"), Status: broker.ConsentAwaitingCompletion, Deadline: now.Add(broker.ProvisionalLife), CreatedAt: now,
	}, "", nil)
	if err != nil {
		return made, fmt.Errorf("prepare a consent: %w", err)
	}
	if w.shared != nil {
		made.SharedGrant = sharedProvider + "\x00" + made.Account.ID
		spread := grant
		spread.Scopes, spread.ScopesReported = scopes(), true
		if made.SharedGeneration, err = store.Spread(context.Background(), made.SharedGrant, consent.ID, spread); err != nil {
			return made, fmt.Errorf("prepare a shared grant: %w", err)
		}
	}
	consent.Status, consent.Result = broker.ConsentCompleted, made.ID
	entry := broker.Entry{
		Type: broker.EventConsentCompleted, Time: now, Tenant: tenant, Client: client.ID, Subject: made.Subject, Connector: connector, Connection: made.ID,
		Scopes: []broker.EventScope{{ID: fmt.Sprintf("first-event-of-%d", conn), Scope: "files.read"}}, Outcome: "ok",
	}
	return store.CompleteConsent(context.Background(), consent, made, grant, []broker.Entry{entry})
}

// Run runs one schedule in a bubble of its own.
func (s *Simulator) Run(t *testing.T, plan Plan, plant Plant, trace bool) (result Result) {
	t.Helper()
	w := &world{plan: plan, plant: plant, tracing: trace}
	defer func() {
		if p := recover(); p != nil {
			w.violate("the schedule did not end: %v", p)
			result = Result{Plan: plan, Steps: w.result.Steps, Wrong: w.wrong, Trace: w.trace, Tally: w.result.Tally}
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		w.began, w.keyset = time.Now(), s.keyset
		w.rng = rand.New(rand.NewPCG(plan.Seed, 2))
		begin := s.own
		if plan.Shared {
			begin = s.shared
		}
		w.memory = begin.memory.Copy(time.Now)
		if plan.Failovers > 0 {
			w.memory.KeepUndo()
		}
		setup, err := s.beside(w.memory, seeded(plan.Seed, 1<<20))
		if err != nil {
			t.Fatal(err)
		}
		if plan.Shared {
			w.shared = &sharedRecord{key: begin.grant, around: begin.around, states: make(map[string]sharedState)}
		}
		w.setup, w.provider = setup, newProvider(w, plan)
		w.arrived = make(chan struct{}, 1)
		w.leased, w.spooledFiles = make(map[leaseName]time.Time), make(map[string]*committing)
		w.beside, w.states = make(map[string]*token), make(map[string]record)
		w.prompt = plan.Prompt
		w.consents, w.numbers = make(map[string]*grant), make(map[string]int, maxConns)
		w.conns = begin.conns
		for conn, made := range begin.conns {
			g, _ := w.provider.newGrant(w.group(conn))
			w.numbers[made.ID] = conn
			rec := &record{generation: made.Generation, status: made.Status, token: g.tokens[len(g.tokens)-1], grant: g, key: begin.keys[conn], beside: strings.Replace(begin.keys[conn], ":c:", ":x:", 1)}
			w.records = append(w.records, rec)
			rec.token.landed = w.began
			w.keepState(rec)
		}
		if plan.Shared {
			fields := w.memory.data[begin.grant].hash
			w.shared.token = w.records[len(w.records)-1].token
			w.shared.generation, _ = strconv.ParseInt(fields["gen"], 10, 64) // the vault's own number
			w.shared.token.generation = w.shared.generation
			w.shared.states[fields["wid"]] = sharedState{token: w.shared.token, generation: w.shared.generation}
		}
		w.run()
		setup.Close()
	})
	return w.result
}
