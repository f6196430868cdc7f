package vault

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"tokenbroker/broker"
)

// Config is what a Store needs.
type Config struct {
	Backend Backend // required
	Keyset  *Keyset // required
	// ReloadKeyset is called when a value was sealed with a key that the keyset lacks; it should read the keyset file
	// again and call Keyset.Reload. May be nil. It is called on the way of requests, so it must not wait for a key management service: where
	// the file holds something new that only such a service can open, it sees to it that this is done, and returns an error meanwhile.
	// Whoever met the value gets broker.ErrKeyNotYet then.
	ReloadKeyset func() error
	// SpoolDir is where refreshed grants are kept, sealed, until the backend has them; it is made if it is absent. "": no
	// spool: what a provider rotated while the store is down is lost if the process ends.
	SpoolDir string
	// SpoolFiles, if set, keeps the spool's files in place of a directory; SpoolDir must be "" then.
	SpoolFiles SpoolFiles
	// SpoolInterval is how often Run tries to replay the spool. Default 5 s.
	SpoolInterval time.Duration
	// TrailIndexInterval is how often Run brings the index of the audit trail up to date. Default 10 s; negative: not at all.
	TrailIndexInterval time.Duration
	// ResealInterval is how often Run looks for records that another key than the primary one has sealed. Default 5 s; negative: not
	// at all.
	ResealInterval time.Duration
	// Retention says for how long the audit trail is kept. The zero value: for good.
	Retention Retention
	// Signing says with what the audit trail is signed. The zero value: it is not.
	Signing Signing
	// Sinks get each event of the trail, outside of the store.
	Sinks []Sink
	// Orphan is called for a refreshed grant whose connection was revoked, or became another account's, before the spool
	// could be replayed: it should be revoked upstream, for which its context leaves it OrphanTimeout. After an error the
	// grant stays in the spool and Orphan is called again at the next replay. Calls may come at the same time, and again for
	// a grant that was revoked already. May be nil: the grant is then only logged.
	Orphan func(ctx context.Context, conn broker.Connection, grant broker.Grant) error
	// OrphanTimeout bounds one call of Orphan. Default 40 s: a little more than a provider may take to answer.
	OrphanTimeout time.Duration
	// Confirm makes the store wait, a bounded time, until as many replicas as the backend was told have a grant that was
	// stored; then its file in the spool goes at once. It costs a round trip and their lag for each refresh and consent.
	Confirm bool
	// Count is called for what an operator wants to know the number of. It must not block. May be nil.
	Count func(Counted)
	// Guesses is how many connections the store remembers in order to let their tokens out in one round trip: 33 bytes each.
	// Default 1,100,000; negative: none.
	Guesses int
	// Compact tells whether every process that uses the backend reads what this version writes (broker/decisions/0024-compact-records.md);
	// until then the forms of the version before are written. It is asked for each write and must not block. nil: it is so.
	Compact func() bool
	// RoundTrip bounds one round trip of a write, which is repeated until its caller's deadline. Default 1 s.
	RoundTrip time.Duration
	Now       func() time.Time // required
	Random    io.Reader        // required, cryptographically secure
	Log       *slog.Logger     // required
}

// Store implements the store ports of package broker. Make it with New; run Run beside it; end it with Close.
type Store struct {
	cfg    Config
	seals  *sealer
	trails *chains
	ready  *readyTokens
	spool  *spool // nil: none
	epochs *refreshEpochs
	kept   *recent[epochKey, string] // how many alternates there had been when Alternates read them
	// sharedNames are the names of shared grants, by their keys, as this process came by them.
	sharedNames *recent[string, string]
	begins      begins
	memory      *memory
	// guesses are what it takes to let a token out in one round trip.
	guesses *guesses
	// unhealed: the store may have lost what this process wrote, and that is not written back yet.
	unhealed atomic.Bool
	// steady is which history the store has, and since when; nil: nobody watches.
	steady atomic.Pointer[steadyStore]
	// compactSeen: a record was read that a process wrote which knew that Config.Compact.
	compactSeen atomic.Bool
	claims      claims
	index       index
	follower    *follower // nil: the backend has no lists, so there is no index
	retainer    *retainer // nil: everything is kept
	signer      *signer   // nil: the trail is not signed
	trimFailure atomic.Pointer[error]
	deliveries  []*delivery // of Config.Sinks
	keyWaits    keyWaits
	// connectors are this process's writes of tenants' connectors.
	connectors connectorWrites
	// switches is what this process knows of the table of kill switches.
	switches switches
	// jobs are this process's writes of jobs.
	jobs jobWrites
	// lostLeases has, by the key of a shared grant, the owner of a lease on it that was perhaps taken.
	lostLeases sync.Map
	// oldSeals are what this process itself keeps that another key than the primary one has sealed.
	oldSeals oldSeals
	// enlisted has the OAuth clients whose connections are known to be holders (Enlist).
	enlisted sync.Map
}

var (
	_ broker.Connections = (*Store)(nil)
	_ broker.Refreshes   = (*Store)(nil)
	_ broker.Schedule    = (*Store)(nil)
	_ broker.Revocations = (*Store)(nil)
	_ broker.Consents    = (*Store)(nil)
	_ broker.Portals     = (*Store)(nil)
	_ broker.Audit       = (*Store)(nil)
	_ broker.Placement   = (*Store)(nil)
	_ broker.Sessions    = (*Store)(nil)

	_ broker.ConnectionIndex  = (*Store)(nil)
	_ broker.SharedGrants     = (*Store)(nil)
	_ broker.TenantConnectors = (*Store)(nil)

	_ broker.Counters = (*Store)(nil)
	_ broker.Replicas = (*Store)(nil)
	_ broker.Backlogs = (*Store)(nil)
)

// New checks the config and makes a Store. It does not ask the backend anything.
func New(cfg Config) (*Store, error) {
	if cfg.Backend == nil || cfg.Keyset == nil || cfg.Now == nil || cfg.Random == nil || cfg.Log == nil {
		return nil, errors.New("vault: config lacks Backend, Keyset, Now, Random or Log")
	}
	if cfg.SpoolInterval <= 0 {
		cfg.SpoolInterval = 5 * time.Second
	}
	if cfg.TrailIndexInterval == 0 {
		cfg.TrailIndexInterval = 10 * time.Second
	}
	if cfg.ResealInterval == 0 {
		cfg.ResealInterval = resealLook
	}
	if err := cfg.Retention.check(); err != nil {
		return nil, err
	}
	if cfg.Retention.Interval <= 0 {
		cfg.Retention.Interval = time.Hour
	}
	if cfg.OrphanTimeout <= 0 {
		cfg.OrphanTimeout = 40 * time.Second
	}
	if cfg.Guesses == 0 {
		cfg.Guesses = defaultGuesses
	}
	if cfg.RoundTrip <= 0 {
		cfg.RoundTrip = time.Second
	}
	s := &Store{
		cfg:    cfg,
		seals:  &sealer{keyset: cfg.Keyset, refresh: cfg.ReloadKeyset, now: cfg.Now},
		ready:  newRecent[readyKey, string](maxReady),
		epochs: newRecent[epochKey, int64](maxReady),
		kept:   newRecent[epochKey, string](maxReady),
		begins: begins{all: make(map[beginKey]begin)},
		memory: newMemory(cfg.Now),

		sharedNames: newRecent[string, string](memoryRecords),

		guesses: newGuesses(max(0, cfg.Guesses)),

		index: index{hints: make(chan byte, shards), counting: make(chan struct{}, 1), known: make(map[string]classRecord)},
	}
	if lists, ok := cfg.Backend.(Lists); ok {
		s.follower = &follower{store: s, lists: lists, places: places{key: postingsMarkKey}}
	}
	if cfg.Retention.on() {
		trimmer, ok := cfg.Backend.(Trimmer)
		if !ok {
			return nil, errors.New("vault: config has a Retention, and its Backend can't drop anything")
		}
		s.retainer = &retainer{store: s, trimmer: trimmer, held: make(map[trailName]string), archived: make(map[trailName]streamID)}
	}
	s.trails = &chains{backend: cfg.Backend, seals: s.seals, random: cfg.Random, ioTime: cfg.RoundTrip, now: cfg.Now, cutOf: s.readCut, streams: make(map[trailName]*chain)}
	if cfg.Signing.Keys != nil {
		if err := s.signs(); err != nil {
			return nil, err
		}
	}
	for _, to := range cfg.Sinks {
		s.deliveries = append(s.deliveries, newDelivery(s, to))
	}
	switch {
	case cfg.SpoolDir != "" && cfg.SpoolFiles != nil:
		return nil, errors.New("vault: config has both SpoolDir and SpoolFiles")
	case cfg.SpoolDir != "":
		dir, err := openSpoolDir(cfg.SpoolDir, cfg.Now())
		if err != nil {
			return nil, err
		}
		s.spool = openSpool(dir, s.seals)
	case cfg.SpoolFiles != nil:
		s.spool = openSpool(cfg.SpoolFiles, s.seals)
	}
	return s, nil
}

// Run replays the spool now and then, looks whether the store lost something, and keeps the indexes of connections and of the
// audit trail, and drops events that are too old to be kept, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { s.watch(ctx) })
	watching.Go(func() { s.followIndex(ctx) })
	watching.Go(func() { s.checkIndex(ctx) })
	if s.follower != nil && s.cfg.TrailIndexInterval > 0 {
		watching.Go(func() { s.keepIndex(ctx) })
	}
	if s.retainer != nil {
		watching.Go(func() { s.keepTrail(ctx) })
	}
	if s.cfg.ResealInterval > 0 {
		watching.Go(func() { s.keepSealed(ctx) })
	}
	if s.signer != nil {
		watching.Go(func() {
			s.signer.run(ctx, func(err error) {
				s.cfg.Log.WarnContext(ctx, "no checkpoint of the audit trail could be made; that is tried again", "error", err)
			})
		})
	}
	for _, d := range s.deliveries {
		watching.Go(func() { d.run(ctx) })
	}
	watching.Go(func() { s.followSwitches(ctx) })
	if s.spool == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(s.cfg.SpoolInterval)
	defer tick.Stop()
	for {
		if err := s.ReplaySpool(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "spool not yet replayed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Close waits for writes that are under way; each ends with its caller's deadline at the latest. Then it signs what was written last, and
// publishes that, for a few seconds at most. It does not close the backend.
func (s *Store) Close() {
	s.trails.wait()
	if s.signer == nil {
		return
	}
	if err := s.signer.end(); err != nil {
		s.cfg.Log.Warn("the last checkpoint of the audit trail is not published everywhere", "error", err)
	}
}

// signs makes the signer.
func (s *Store) signs() (err error) {
	if s.signer, err = newSigner(s.cfg.Signing, s.cfg.Random, s.cfg.Now, s.trails); err != nil {
		return err
	}
	s.trails.signing, s.signer.lookup = true, s.seenLogs
	for _, to := range append([]Publisher{storePublisher{s}}, s.cfg.Signing.Publishers...) {
		s.signer.places = append(s.signer.places, newDestination(to, s.cfg.Log))
	}
	return nil
}

// Append implements broker.Audit.
func (s *Store) Append(ctx context.Context, entries ...broker.Entry) error {
	groups := make(map[trailName][]broker.Entry)
	var order []trailName
	for _, e := range entries {
		name := trailName{shard: s.Shard(e.Tenant, e.Subject), tenant: e.Tenant}
		if groups[name] == nil {
			order = append(order, name)
		}
		groups[name] = append(groups[name], e)
	}
	errs := make([]error, len(order))
	var group sync.WaitGroup
	for i, name := range order {
		appendGroup := func() {
			drafts, err := s.drafts(name.tenant, groups[name])
			if err == nil {
				_, err = s.trails.do(ctx, name, writeID("append", "", 0, groups[name]), Step{}, drafts)
			}
			errs[i] = err
		}
		if len(order) == 1 {
			appendGroup()
		} else {
			group.Go(appendGroup)
		}
	}
	group.Wait()
	return errors.Join(errs...)
}

// writeID names a write by what makes it the same write when it is repeated: the operation, the record and its
// generation, and the ids of its events. "" when there is nothing that tells two writes apart.
func writeID(operation, record string, generation int64, entries []broker.Entry, more ...string) string {
	parts := append([]string{operation, record, strconv.FormatInt(generation, 10)}, more...)
	unique := len(more) > 0
	for _, e := range entries {
		for _, scope := range e.Scopes {
			parts = append(parts, scope.ID)
			unique = unique || scope.ID != ""
		}
	}
	if !unique {
		return ""
	}
	sum := sha256.Sum256(joined(parts...))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// randomID names a write that nobody repeats but this call.
func (s *Store) randomID() (string, error) {
	var raw [12]byte
	if _, err := io.ReadFull(s.cfg.Random, raw[:]); err != nil {
		return "", fmt.Errorf("name write: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

func (s *Store) writeIDOr(id string) (string, error) {
	if id != "" {
		return id, nil
	}
	return s.randomID()
}

// hashes reads hashes.
func (s *Store) hashes(ctx context.Context, keys ...string) ([]map[string][]byte, error) {
	return readPatiently(ctx, func(ctx context.Context) ([]map[string][]byte, error) { return s.cfg.Backend.Hashes(ctx, keys) })
}
