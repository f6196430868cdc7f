package vault

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Sink is a place outside of the store that gets each event of the trail, as a line (broker.Event.Line): those of a stream in their order,
// each at least once. How far it has got is kept in the store, so that whoever goes on, goes on from there.
type Sink struct {
	// ID tells it from others and stays the same from one start to the next. It may be a secret: only its keyed hash is stored.
	ID string
	To SinkWriter
	// Released: it gets token.issued events before their tokens are handed out, from whoever does that; they are left out here.
	Released bool
}

// SinkWriter takes lines, which have no line feed; on return without an error the place has them.
type SinkWriter interface {
	Name() string // for operators
	Append(ctx context.Context, lines [][]byte) error
}

const (
	// deliverHold is for how long a process delivers before any other may go on with it.
	deliverHold = 15 * time.Second
	// deliverPause is between two looks, deliverAgain the longest pause behind a failure.
	deliverPause, deliverAgain = time.Second, 30 * time.Second
	// deliverStreams of deliverChunk entries each are read and taken there together. That is what is in memory at most: of streams in
	// which more happens fewer are, with more entries of each, up to deliverMost.
	deliverStreams, deliverChunk, deliverMost = 32, 32, 512
	// deliverRest is the longest rest behind each of them, so that requests need not wait for a whole round.
	deliverRest = 20 * time.Millisecond
	// deliverTime bounds how long a place may take for them.
	deliverTime = 10 * time.Second
	// deliverRound bounds one round.
	deliverRound = 30 * time.Second
	// sinceSlack is how much before the place was first there it begins: because of clocks.
	sinceSlack = time.Minute
)

// fieldSince is since when there is a sink, in ms by the store's clock.
const fieldSince = "since"

// delivery takes the trail to a sink.
type delivery struct {
	store *Store
	to    Sink
	name  string // in keys
	claim claims

	mu sync.Mutex // held by a round; what is below is its
	places
	since streamID

	state struct {
		sync.Mutex
		Delivered
	}
}

// Delivered is how far the trail has got to a sink.
type Delivered struct {
	To string
	// Mine: it is this process that delivers. Else the rest says nothing.
	Mine bool
	// Behind is when the oldest entry was written that is known not to be there yet; zero: none is.
	Behind time.Time
	// Failure is what the last attempt failed with; nil: it did not.
	Failure error
	// Unreadable counts entries that this process could not open and so left out; verifying the trail names them.
	Unreadable uint64
}

func newDelivery(s *Store, to Sink) *delivery {
	name := hex.EncodeToString(s.seals.hash(8, "audit-sink", to.ID))
	d := &delivery{store: s, to: to, name: name, places: places{key: func(shard byte, tenant string) string { return sinkMarkKey(shard, name, tenant) }}}
	d.state.To = to.To.Name()
	return d
}

// Delivered tells of each sink.
func (s *Store) Delivered() []Delivered {
	out := make([]Delivered, len(s.deliveries))
	for i, d := range s.deliveries {
		d.state.Lock()
		out[i] = d.state.Delivered
		d.state.Unlock()
	}
	return out
}

// run delivers until ctx ends.
func (d *delivery) run(ctx context.Context) {
	again := deliverPause
	for {
		more, err := d.round(ctx)
		d.note(ctx, err)
		pause := deliverPause
		switch {
		case err != nil:
			pause, again = again, min(2*again, deliverAgain)
		case more:
			pause = time.Millisecond
		}
		if err == nil {
			again = deliverPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// note keeps what became of a round, and says when a place begins or ends to fail.
func (d *delivery) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	d.state.Lock()
	was := d.state.Failure
	d.state.Failure = err
	d.state.Unlock()
	switch log := d.store.cfg.Log; {
	case err != nil && was == nil:
		log.WarnContext(ctx, "events can't be delivered; that is tried again", "to", d.to.To.Name(), "error", err)
	case err == nil && was != nil:
		log.InfoContext(ctx, "events are delivered again", "to", d.to.To.Name())
	}
}

// DeliverEvents takes to each sink a part of what it lacks, if no other process does; more tells that there is more to do at once. Run does
// so too, for each sink on its own.
func (s *Store) DeliverEvents(ctx context.Context) (more bool, err error) {
	for _, d := range s.deliveries {
		m, err := d.round(ctx)
		d.note(ctx, err)
		if err != nil {
			return false, err
		}
		more = more || m
	}
	return more, nil
}

func (d *delivery) round(ctx context.Context) (more bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, deliverRound)
	defer cancel()
	mine, err := d.begin(ctx)
	d.state.Lock()
	d.state.Mine = mine
	d.state.Unlock()
	if err != nil || !mine {
		return false, err
	}
	d.store.lookForKeys(ctx)
	names, err := d.due(ctx, d.store, everyShard())
	if err != nil {
		return false, err
	}
	var behind streamID
	for some, limit := range d.together(names) {
		if !d.claim.mine(0, d.store.cfg.Now()) {
			more = true // whoever has it next goes on
			break
		}
		began := time.Now()
		full, left, err := d.deliver(ctx, some, limit)
		more = more || full
		if err != nil {
			d.behind(left)
			return false, err
		}
		if left != (streamID{}) && (behind == streamID{} || left.less(behind)) {
			behind = left
		}
		sleep(ctx, min(deliverRest, followRest*time.Since(began)))
	}
	d.behind(behind)
	return more, nil
}

// together are the streams that are read at a time, and how many entries of each: those in which there was more than was asked for
// by themselves.
func (d *delivery) together(names []trailName) iter.Seq2[[]trailName, int] {
	return func(yield func([]trailName, int) bool) {
		var busy, others []trailName
		for _, name := range names {
			if d.of(name).full {
				busy = append(busy, name)
			} else {
				others = append(others, name)
			}
		}
		for some := range slices.Chunk(busy, deliverStreams) {
			if !yield(some, min(deliverMost, deliverStreams*deliverChunk/len(some))) {
				return
			}
		}
		for some := range slices.Chunk(others, deliverStreams) {
			if !yield(some, deliverChunk) {
				return
			}
		}
	}
}

// behind keeps since when something is not there; a zero id: nothing is known that is not.
func (d *delivery) behind(first streamID) {
	d.state.Lock()
	defer d.state.Unlock()
	switch {
	case first == streamID{}:
		d.state.Behind = time.Time{}
	default:
		d.state.Behind = fromMillis(int64(first.ms))
	}
}

// begin takes the sink for this process, or tells that another one has it.
func (d *delivery) begin(ctx context.Context) (mine bool, err error) {
	s := d.store
	identity, err := s.identity(ctx)
	if err != nil {
		return false, fmt.Errorf("deliver events: %w", err)
	}
	d.in(identity)
	if d.claim.mine(0, s.cfg.Now()) {
		return true, nil
	}
	d.streams = [shards]map[string]*followed{} // another one may have gone on meanwhile
	if mine, err = s.claim(ctx, &d.claim, sinkClaimKey(d.name), 0, deliverHold); err != nil || !mine {
		return false, err
	}
	d.since, err = d.beginning(ctx)
	return err == nil, err
}

// beginning is where streams of which the sink has nothing begin for it: when there was first such a sink. What is older was never for it.
func (d *delivery) beginning(ctx context.Context) (streamID, error) {
	s, key := d.store, sinkSinceKey(d.name)
	earliest, _, err := s.cfg.Backend.Clock(ctx)
	if err != nil {
		return streamID{}, fmt.Errorf("deliver events: %w", err)
	}
	_, err = s.trails.direct(ctx, Step{
		Checks: []Check{{Key: key, Field: fieldSince, Kind: CheckAbsent}},
		Writes: []Write{{Kind: WriteHashSet, Key: key, Args: []string{fieldSince, msText(uint64(max(0, earliest.Add(-sinceSlack).UnixMilli())))}}},
	})
	if err != nil {
		return streamID{}, fmt.Errorf("deliver events: %w", err)
	}
	found, err := s.hashes(ctx, key)
	if err != nil {
		return streamID{}, fmt.Errorf("deliver events: %w", err)
	}
	ms, err := strconv.ParseUint(string(found[0][fieldSince]), 10, 64)
	if err != nil {
		return streamID{}, nil // what can't be read is where everything begins
	}
	return streamID{ms: ms}, nil
}

// deliver takes the next entries of these streams there and moves their marks; a crash between leaves lines that are taken there again.
// A stream in which an entry is sealed with a key that this process does not have yet stands there until it has, and the others go on.
// full: there is more to take at once; left is not behind the oldest entry that is known not to be there, zero if none is.
func (d *delivery) deliver(ctx context.Context, names []trailName, limit int) (full bool, left streamID, err error) {
	queries := make([]StreamQuery, len(names))
	for i, name := range names {
		from := d.of(name).mark.at
		if from.less(d.since) {
			from = d.since
		}
		queries[i] = StreamQuery{Key: streamKey(name.shard, name.tenant), From: "(" + from.String(), To: "+", Limit: limit}
	}
	found, err := readPatiently(ctx, func(ctx context.Context) ([][]StreamEntry, error) { return d.store.cfg.Backend.Streams(ctx, queries) })
	if err != nil {
		return false, left, fmt.Errorf("deliver events: %w", err)
	}
	var lines [][]byte
	var first streamID // of what this is about
	stands := false
	ends := make(map[trailName]streamID)
	for i, name := range names {
		stream := d.of(name)
		stream.full = len(found[i]) == limit
		if len(found[i]) == 0 {
			stream.idle = min(stream.idle+1, restful)
			stream.skip = 1<<stream.idle - 1
			continue
		}
		stream.idle = 0
		waits := false
		for j, e := range found[i] {
			id, err := parseStreamID(e.ID)
			if err != nil {
				return false, first, fmt.Errorf("deliver events: %w", err)
			}
			if j == 0 && (first == streamID{} || id.less(first)) {
				first = id
			}
			if lines, err = d.lines(lines, name, e); errors.Is(err, broker.ErrKeyNotYet) {
				d.store.meetKeys(found[i][j:])
				waits = true
				break
			} else if err != nil {
				return false, first, err
			}
			ends[name] = id
		}
		if waits {
			stream.full = false
		}
		full = full || stream.full
		stands = stands || waits
	}
	if len(lines) > 0 {
		trip, cancel := context.WithTimeout(ctx, deliverTime)
		err := d.to.To.Append(trip, lines)
		cancel()
		if err != nil {
			return false, first, err
		}
	}
	if len(ends) > 0 {
		err = d.advance(ctx, d.store, ends)
	}
	if full || stands || err != nil {
		left = first
	}
	return full, left, err
}

// lines adds the lines of an entry. broker.ErrKeyNotYet: another replica has its key already, and this one may in a moment.
func (d *delivery) lines(to [][]byte, name trailName, e StreamEntry) ([][]byte, error) {
	if clear, _, err := parseMeta(e.Meta); err == nil && d.to.Released && clear.kind == string(broker.EventTokenIssued) {
		return to, nil
	}
	_, entry, err := d.store.openEntry(name, e.TrailEntry)
	if errors.Is(err, broker.ErrKeyNotYet) {
		return to, err
	}
	if err != nil { // of a tenant that was erased, or damaged
		d.state.Lock()
		d.state.Unreadable++
		d.state.Unlock()
		return to, nil
	}
	for _, event := range entry.events() {
		line, err := event.Line()
		if err != nil {
			return to, fmt.Errorf("deliver events: %w", err)
		}
		to = append(to, line)
	}
	return to, nil
}

func everyShard() []byte {
	all := make([]byte, shards)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}
