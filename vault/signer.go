package vault

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Signing has the audit trail signed now and then (checkpoint.go). The zero value: it is not.
type Signing struct {
	Keys *SigningKeys
	// Installation names whose checkpoints they are, and is signed with them; it stays the same as long as the installation does. "": they
	// name none, and pass for those of any installation that has the key.
	Installation string
	// Interval is how often a checkpoint is made, if there was something to sign. Default 10 s.
	Interval time.Duration
	// Publishers get each checkpoint, beside the store: whoever can write to the store must not be able to write there too.
	Publishers []Publisher
}

// signers are those whose checkpoints are this installation's own.
func (c Signing) signers() Signers {
	own := Signers{Keys: c.Keys.public}
	if c.Installation != "" {
		own.Installations = []string{c.Installation}
	}
	return own
}

// Publisher takes checkpoints to a place. Calls come one at a time, in order, and again after an error, so that the same line may come twice.
type Publisher interface {
	Name() string // for operators: no secret
	// Publish returns when the line, which has no line feed, is there to stay.
	Publish(ctx context.Context, line []byte) error
}

const (
	// signSilence is after how long a checkpoint is made although there is nothing to sign, so that silence tells something.
	signSilence = time.Hour
	// maxUnpublished bounds how many checkpoints wait for a place that does not take them, maxUnpublishedBytes how long they are together;
	// the oldest are given up then. They are still in the store, for whoever mends the place.
	maxUnpublished, maxUnpublishedBytes = 4096, 32 << 20
	// publishTime bounds one attempt, lastPublish all those at the end of the process.
	publishTime, lastPublish = 10 * time.Second, 4 * time.Second
	// maxSeenLogs is how many logs of others a process's first checkpoint names, of those in the last maxSeenFrom checkpoints.
	maxSeenLogs, maxSeenFrom = 64, 1000
	// maxLookups is how often they are looked for before the first checkpoint is made without them: whoever spoils what is in the store
	// must not keep anybody from signing.
	maxLookups = 3
)

// leafRun are entries of one chain that follow one another and are not signed yet: their tree, which takes no more memory the longer
// nobody can sign.
type leafRun struct {
	first uint64
	tree  tree // with their links as leaves
}

// unsigned are what a chain's worker leaves for the signer.
type unsigned struct {
	mu   sync.Mutex
	runs map[string][]leafRun // by writer: a chain may have begun anew
}

// add takes an entry that the store has acknowledged.
func (u *unsigned) add(writer string, seq uint64, l link) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.runs == nil {
		u.runs = make(map[string][]leafRun, 1)
	}
	runs := u.runs[writer]
	if n := len(runs); n == 0 || runs[n-1].first+runs[n-1].tree.size != seq {
		runs = append(runs, leafRun{first: seq})
		u.runs[writer] = runs
	}
	runs[len(runs)-1].tree.add(hashLink(l))
}

func (u *unsigned) any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.runs) > 0
}

func (u *unsigned) take() map[string][]leafRun {
	u.mu.Lock()
	defer u.mu.Unlock()
	runs := u.runs
	u.runs = nil
	return runs
}

// signer makes the checkpoints of one process.
type signer struct {
	cfg    Signing
	trails *chains
	now    func() time.Time
	log    string
	lookup func(ctx context.Context) ([]seenLog, error)
	places []*destination

	// failure is why the last checkpoint could not be made, or made in part only; nil: it was.
	failure atomic.Pointer[error]

	mu      sync.Mutex // held while a checkpoint is made
	saw     bool       // the logs of others are named
	lookups int        // how often that failed
	seq     uint64
	prev    treeHash
	last    time.Time
	// said is up to when a checkpoint says that entries may be dropped, saidSeq that checkpoint; trimmed the same of what is at every place.
	said    time.Time
	saidSeq uint64
	trimmed time.Time
	ended   bool
}

func newSigner(cfg Signing, random io.Reader, now func() time.Time, trails *chains) (*signer, error) {
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Second
	}
	var raw [12]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return nil, fmt.Errorf("name log of checkpoints: %w", err)
	}
	return &signer{cfg: cfg, trails: trails, now: now, log: base64.RawURLEncoding.EncodeToString(raw[:])}, nil
}

// chains are all that may have something to sign.
func (g *signer) chains() (all []*chain) {
	g.trails.mu.Lock()
	defer g.trails.mu.Unlock()
	for _, c := range g.trails.streams {
		if c.unsigned != nil {
			all = append(all, c)
		}
	}
	return all
}

// spans takes what is not signed yet, in the order of streams, writers and places.
func (g *signer) spans(of []*chain) (spans []signedSpan, entries uint64) {
	for _, c := range of {
		for writer, runs := range c.unsigned.take() {
			for _, run := range runs {
				spans = append(spans, signedSpan{name: c.name, writer: writer, first: run.first, count: run.tree.size, root: run.tree.root()})
				entries += run.tree.size
			}
		}
	}
	slices.SortFunc(spans, signedSpan.compare)
	return spans, entries
}

// look finds where others' logs are, which the first checkpoint names. That takes half of the time that there is at most. Where it does not
// work the first checkpoint is made without, after some attempts, or as the process ends; a later one names them then.
func (g *signer) look(ctx context.Context, last bool) ([]seenLog, error) {
	if g.saw {
		return nil, nil
	}
	trip := ctx
	if end, bounded := ctx.Deadline(); bounded {
		var cancel context.CancelFunc
		trip, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	seen, err := g.lookup(trip)
	if err == nil {
		g.saw = true
		g.failure.Store(nil)
		return seen, nil
	}
	g.failure.Store(&err)
	if g.lookups++; g.lookups < maxLookups && !last {
		return nil, err
	}
	return nil, nil
}

// make signs what there is and hands it to the places. Nothing is made where there is nothing to say.
func (g *signer) make(ctx context.Context, trim time.Time, last bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ended {
		return errors.New("sign audit trail: the log is closed")
	}
	now, chains := g.now(), g.chains()
	fresh := slices.ContainsFunc(chains, func(c *chain) bool { return c.unsigned.any() })
	if !fresh && trim.IsZero() && (g.seq == 0 || !last && now.Sub(g.last).Abs() < signSilence) {
		return nil
	}
	seen, err := g.look(ctx, last)
	if err != nil {
		return err
	}
	spans, entries := g.spans(chains)
	c := &Checkpoint{
		Log: g.log, Seq: g.seq + 1, Time: fromMillis(now.UnixMilli()), Entries: entries, Last: last, TrimBefore: trim, KeyID: g.cfg.Keys.id, Installation: g.cfg.Installation,
		root: rootOf(leavesOf(spans)), spans: spans, packed: packSpans(spans), prev: g.prev, seen: seen,
	}
	c.spansHash = sha256.Sum256(c.packed)
	message := c.message()
	c.signature = g.cfg.Keys.sign(message)
	line, err := c.line(true)
	if err != nil {
		return err
	}
	g.seq, g.prev, g.last, g.ended = c.Seq, sha256.Sum256(message), now, last
	if !trim.IsZero() {
		g.said, g.saidSeq = trim, c.Seq
	}
	for _, p := range g.places {
		p.add(waitingLine{line: line, at: now, seq: c.Seq})
	}
	return nil
}

// sayTrim signs that entries older than that may be dropped, and returns when that is at every place: what is dropped is said before. A place
// that does not take it gets the same checkpoint later, not one more with each attempt.
func (g *signer) sayTrim(ctx context.Context, before time.Time) error {
	g.mu.Lock()
	done, said, seq := !g.trimmed.Before(before), !g.said.Before(before), g.saidSeq
	g.mu.Unlock()
	if done {
		return nil
	}
	if !said || g.gaveUp(seq) {
		if err := g.make(ctx, before, false); err != nil {
			return err
		}
	}
	if err := g.flush(ctx); err != nil {
		return fmt.Errorf("publish that events will be dropped: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gaveUp(g.saidSeq) {
		return errors.New("publish that events will be dropped: too much waits for a place")
	}
	g.trimmed = before
	return nil
}

// gaveUp tells whether a place will never get that checkpoint.
func (g *signer) gaveUp(seq uint64) bool {
	return slices.ContainsFunc(g.places, func(d *destination) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.gaveUp >= seq
	})
}

// flush hands everything that waits to its place.
func (g *signer) flush(ctx context.Context) error {
	errs := make([]error, len(g.places))
	var group sync.WaitGroup
	for i, p := range g.places {
		group.Go(func() { errs[i] = p.flush(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// run makes checkpoints until ctx ends.
func (g *signer) run(ctx context.Context, failed func(error)) {
	var places sync.WaitGroup
	defer places.Wait()
	for _, p := range g.places {
		places.Go(func() { p.run(ctx) })
	}
	tick := time.NewTicker(g.cfg.Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		trip, cancel := context.WithTimeout(ctx, publishTime)
		if err := g.make(trip, time.Time{}, false); err != nil && ctx.Err() == nil {
			failed(err)
		}
		cancel()
	}
}

// end signs what is left and publishes it, for a few seconds at most. Nothing is appended any more.
func (g *signer) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), lastPublish)
	defer cancel()
	g.mu.Lock()
	ended := g.ended
	g.mu.Unlock()
	if ended {
		return nil
	}
	return errors.Join(g.make(ctx, time.Time{}, true), g.flush(ctx))
}
