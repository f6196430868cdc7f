package simulationtest

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault"
)

// Of every process. The lease of a refresh follows from them: what broker/refresh.go makes of these limits is what a lease
// must last, and leaseLasts says it again so that a change there is noticed here.
const (
	upstreamTimeout = 8 * time.Second
	persistTimeout  = 2 * time.Second
	storeTimeout    = time.Second
	auditTimeout    = 250 * time.Millisecond
	roundTrip       = 400 * time.Millisecond
	leaseLasts      = upstreamTimeout + 2*persistTimeout + 6*time.Second
)

// process is one run of a replica: the real service over the real vault, with gates where a call leaves it.
type process struct {
	world   *world
	index   int // of all processes, in the order of their starts
	replica int
	name    string
	disk    *disk // nil: none
	random  io.Reader

	service *broker.Service
	store   *vault.Store

	ended    sync.WaitGroup // what the simulation runs in it
	killed   chan struct{}
	killedAt time.Time

	// Guarded by world.mu.
	dead    bool
	resumed chan struct{} // not nil: stopped
	stops   []stop
	asked   int
	offset  time.Duration // what somebody put its wall clock ahead
	leases  map[int]*heldLease
	replays bool // its spool is being replayed
	heals   bool // it looks what the store has lost
	sweeps  bool
}

// stop is a time in which a process was stopped; to is zero while it is.
type stop struct{ from, to time.Time }

// heldLease is a lease as the store gave it. at is when it was taken: not later than that.
type heldLease struct {
	fence      int64
	generation int64
	at         time.Time
}

// committing is a refreshed grant that a process is storing.
type committing struct {
	proc  *process
	conn  int
	token *token
}

// lockedReader is a source of randomness for several goroutines.
type lockedReader struct {
	mu  sync.Mutex
	src *rand.ChaCha8
}

func (r *lockedReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.src.Read(p)
}

// seeded is randomness that depends on the seed and the process alone.
func seeded(seed uint64, process int) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i], key[8+i] = byte(seed>>(8*i)), byte(uint64(process)>>(8*i))
	}
	return &lockedReader{src: rand.NewChaCha8(key)}
}

// start begins a process of the replica over its disk.
func (w *world) start(replica int, d *disk) *process {
	p := &process{
		world: w, index: len(w.processes), replica: replica, disk: d,
		killed: make(chan struct{}), leases: make(map[int]*heldLease),
	}
	runs := 1
	for _, other := range w.processes {
		if other.replica == replica {
			runs++
			p.offset = other.offset // the machine's clock stays as it is
		}
	}
	p.name = string(rune('a'+replica)) + strconv.Itoa(runs)
	p.random = seeded(w.plan.Seed, p.index)
	log := slog.New(slog.DiscardHandler)
	cfg := vault.Config{
		Backend: backend{p}, Keyset: w.keyset, Now: p.now, Random: p.random, Log: log, RoundTrip: roundTrip, Orphan: p.orphan, Guesses: 64,
	}
	if d != nil {
		cfg.SpoolFiles = spoolFiles{p}
	}
	if w.plant.Backend != nil {
		cfg.Backend = w.plant.Backend(cfg.Backend)
	}
	if d != nil && w.plant.Spool != nil {
		cfg.SpoolFiles = w.plant.Spool(cfg.SpoolFiles)
	}
	store, err := vault.New(cfg)
	if err != nil {
		w.violate("vault.New: %v", err)
		return nil
	}
	p.store = store
	ports := ports{Store: store, proc: p}
	var refreshes broker.Refreshes = ports
	if w.plant.Refreshes != nil {
		refreshes = w.plant.Refreshes(refreshes)
	}
	var connections broker.Connections = ports
	var guesses broker.Guesses = ports
	if w.plant.Connections != nil {
		connections, guesses = w.plant.Connections(connections), nil // all that is asked goes through what was planted
	}
	service, err := broker.New(broker.Config{
		Connections: connections, Guesses: guesses, Index: ports, Refreshes: refreshes, Schedule: ports, Shared: ports, Revocations: ports, Consents: ports, Portals: ports, Audit: ports, Search: ports, Switches: ports, Placement: ports, Cursors: ports,
		Upstream: upstream{p}, Connectors: connectors{w.plan.Shared}, PublicURL: "https://broker.example", Owner: p.name,
		Client: func(id string) (broker.Client, bool) { return client, id == client.ID },
		Now:    p.now, Random: p.random, Log: log,
		UpstreamTimeout: upstreamTimeout, PersistTimeout: persistTimeout, StoreTimeout: storeTimeout, AuditTimeout: auditTimeout,
	})
	if err != nil {
		w.violate("broker.New: %v", err)
		return nil
	}
	p.service = service
	w.processes = append(w.processes, p)
	w.live[replica] = p
	p.replay()
	return p
}

// now is the process's clock.
func (p *process) now() time.Time {
	p.world.mu.Lock()
	offset := p.offset
	p.world.mu.Unlock()
	now := time.Now()
	return timeOf(now.Add(offset), now.Sub(p.world.began))
}

// orphan is vault.Config.Orphan, as the program has it.
func (p *process) orphan(ctx context.Context, conn broker.Connection, grant broker.Grant) error {
	if p.service.HeldByOthers(ctx, conn) {
		return nil
	}
	return upstream{p}.Revoke(ctx, conn.Connector, broker.RevokeRequest{RefreshToken: grant.RefreshToken, AccessToken: grant.AccessToken})
}

// begins notes that something runs of which there is one at a time; false: it does.
func (p *process) begins(what *bool) bool {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	if *what {
		return false
	}
	*what = true
	return true
}

func (p *process) ends(what *bool) {
	p.world.mu.Lock()
	defer p.world.mu.Unlock()
	*what = false
}

// replay runs one round of what vault.Store.Run does, unless one is under way.
func (p *process) replay() {
	if p.disk == nil || !p.begins(&p.replays) {
		return
	}
	p.ended.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), whoKey{}, "replay"), time.Minute)
		defer cancel()
		_ = p.store.ReplaySpool(ctx) // what it could not store is replayed again, and looked at in the end
		p.ends(&p.replays)
	})
}

// healEvery is how often the vault looks whether the store is another one, and tries again what it could not write back.
const healEvery = 250 * time.Millisecond

// heal runs what vault.Store.Run does once the store is another one.
func (p *process) heal() {
	p.store.Changed() // here, while everything waits: what is under way is older, whoever is quicker
	if !p.begins(&p.heals) {
		return
	}
	p.ended.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithValue(context.Background(), whoKey{}, "heal"), time.Minute)
		defer cancel()
		for p.store.Heal(ctx) != nil { // as the vault's watcher does
			select {
			case <-time.After(healEvery):
				continue
			case <-p.killed:
			case <-ctx.Done():
			}
			break
		}
		p.ends(&p.heals)
	})
}

// sweep runs one round of what broker.Service.Run does.
func (p *process) sweep() {
	if !p.begins(&p.sweeps) {
		return
	}
	p.ended.Go(func() {
		p.service.Sweep(context.WithValue(context.Background(), whoKey{}, "sweep"))
		p.ends(&p.sweeps)
	})
}

// kill ends the process at once: whatever it still does has no effect.
func (w *world) kill(p *process) {
	w.mu.Lock()
	p.dead, p.killedAt = true, time.Now()
	if p.resumed != nil {
		p.stops[len(p.stops)-1].to = time.Now()
		close(p.resumed)
		p.resumed = nil
	}
	close(p.killed)
	w.mu.Unlock()
	p.shut()
}

// shut ends what runs in the process. It does not wait: see world.end.
func (p *process) shut() {
	ctx, cancel := context.WithCancel(context.Background())
	if p.dead {
		cancel()
	}
	p.world.closing.Go(func() {
		defer cancel()
		_ = p.service.Drain(ctx) // an error says that it was told to end, which is so
		p.ended.Wait()
		p.store.Close()
	})
}

func (w *world) pause(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop(p)
}

// stop is pause for who holds the lock.
func (w *world) stop(p *process) {
	p.resumed = make(chan struct{})
	p.stops = append(p.stops, stop{from: time.Now()})
}

func (w *world) resume(p *process) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p.stops[len(p.stops)-1].to = time.Now()
	close(p.resumed)
	p.resumed = nil
}

// stoppedBetween tells whether the process was stopped, or dead, at some time from from to to.
func (p *process) stoppedBetween(from, to time.Time) bool {
	if !p.killedAt.IsZero() && !p.killedAt.After(to) {
		return true
	}
	for _, s := range p.stops {
		if !s.from.After(to) && (s.to.IsZero() || !s.to.Before(from)) {
			return true
		}
	}
	return false
}
