package vault

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// checkpointsKey is the stream of all processes' checkpoints, as lines.
func checkpointsKey() string { return prefix(0) + "cp" }

// destination is where checkpoints go, in order.
type destination struct {
	to   Publisher
	log  *slog.Logger
	wake chan struct{}

	sending chan struct{} // holds a value while somebody sends

	mu      sync.Mutex
	waiting []waitingLine
	size    int // of their lines, in bytes
	failing error
	last    time.Time // when the newest one was made that is there
	lost    uint64
	gaveUp  uint64 // the last checkpoint that was given up
}

type waitingLine struct {
	line []byte
	at   time.Time
	seq  uint64
}

func newDestination(to Publisher, log *slog.Logger) *destination {
	return &destination{to: to, log: log, wake: make(chan struct{}, 1), sending: make(chan struct{}, 1)}
}

func (d *destination) add(line waitingLine) {
	d.mu.Lock()
	for len(d.waiting) >= maxUnpublished || len(d.waiting) > 0 && d.size+len(line.line) > maxUnpublishedBytes {
		d.lost, d.gaveUp = d.lost+1, d.waiting[0].seq
		d.size -= len(d.waiting[0].line)
		d.waiting = d.waiting[1:]
	}
	d.waiting, d.size = append(d.waiting, line), d.size+len(line.line)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *destination) first() (waitingLine, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.waiting) == 0 {
		return waitingLine{}, false
	}
	return d.waiting[0], true
}

// flush sends what waits, until it is all there or one attempt fails.
func (d *destination) flush(ctx context.Context) error {
	select {
	case d.sending <- struct{}{}:
		defer func() { <-d.sending }()
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		next, more := d.first()
		if !more {
			return nil
		}
		trip, cancel := context.WithTimeout(ctx, publishTime)
		err := d.to.Publish(trip, next.line)
		cancel()
		d.note(ctx, next, err)
		if err != nil {
			return fmt.Errorf("publish to %s: %w", d.to.Name(), err)
		}
	}
}

// note takes a line that is there from the queue, and says when a place begins or ends to fail.
func (d *destination) note(ctx context.Context, sent waitingLine, err error) {
	d.mu.Lock()
	was, lost := d.failing, d.lost
	d.failing = err
	if err == nil {
		d.lost, d.last = 0, sent.at
		if len(d.waiting) > 0 && &d.waiting[0].line[0] == &sent.line[0] {
			d.waiting, d.size = d.waiting[1:], d.size-len(sent.line)
		}
	}
	d.mu.Unlock()
	switch {
	case err != nil && was == nil:
		d.log.WarnContext(ctx, "checkpoints of the audit trail can't be published; that is tried again", "to", d.to.Name(), "error", err)
	case err == nil && was != nil && lost > 0:
		d.log.ErrorContext(ctx, "checkpoints of the audit trail are published again, and some were given up meanwhile; they are still in the store's own stream, if that was not the place", "to", d.to.Name(), "lost", lost)
	case err == nil && was != nil:
		d.log.InfoContext(ctx, "checkpoints of the audit trail are published again", "to", d.to.Name())
	}
}

// publishAgain is the longest pause between two attempts.
const publishAgain = 30 * time.Second

func (d *destination) run(ctx context.Context) {
	for pause := time.Second; ; {
		retry := (<-chan time.Time)(nil)
		var timer *time.Timer
		if err := d.flush(ctx); err != nil {
			timer = time.NewTimer(pause)
			retry, pause = timer.C, min(2*pause, publishAgain)
		} else {
			pause = time.Second
		}
		wake := d.wake
		if retry != nil {
			wake = nil // what came behind waits its turn
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-retry:
		}
		if timer != nil {
			timer.Stop()
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// Published is how far checkpoints have got to a place.
type Published struct {
	To      string
	Waiting int
	Oldest  time.Time // of those that wait
	Last    time.Time // when the newest one of this process was made that is there; zero: none is
	Failure error     // of the last attempt; nil: it worked
}

// Published tells of each place where checkpoints go; nil: the trail is not signed.
func (s *Store) Published() []Published {
	if s.signer == nil {
		return nil
	}
	var out []Published
	for _, d := range s.signer.places {
		d.mu.Lock()
		one := Published{To: d.to.Name(), Waiting: len(d.waiting), Last: d.last, Failure: d.failing}
		if len(d.waiting) > 0 {
			one.Oldest = d.waiting[0].at
		}
		d.mu.Unlock()
		out = append(out, one)
	}
	return out
}

// storePublisher keeps checkpoints in the store, where every process finds those of the others.
type storePublisher struct{ store *Store }

func (storePublisher) Name() string { return "redis" }

func (p storePublisher) Publish(ctx context.Context, line []byte) error {
	_, err := p.store.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteStreamAdd, Key: checkpointsKey(), Args: []string{"*", "m", string(line), "b", ""}}}})
	return err
}

// SignFailure is why the last checkpoint of the audit trail could not be made whole; nil: it was, or the trail is not signed.
func (s *Store) SignFailure() error {
	if s.signer == nil {
		return nil
	}
	if failure := s.signer.failure.Load(); failure != nil {
		return *failure
	}
	return nil
}

const (
	// seenChunk is how many checkpoints are read at once: nobody knows before how long they are.
	seenChunk = 8
	// maxSeenLine is how long one may be to be looked at, maxSeenBytes how long all are together. Who can write to the store can put
	// anything there.
	maxSeenLine, maxSeenBytes = 1 << 20, 32 << 20
)

// seenLogs are the ends of others' logs, of those that wrote last.
func (s *Store) seenLogs(ctx context.Context) ([]seenLog, error) {
	ends := make(map[string]seenLog)
	own := s.cfg.Signing.signers()
	to, looked, size := "+", 0, 0
	for more := true; more && looked < maxSeenFrom && size < maxSeenBytes; {
		found, err := s.cfg.Backend.Streams(ctx, []StreamQuery{{Key: checkpointsKey(), From: "-", To: to, Limit: seenChunk, Newest: true}})
		if err != nil {
			return nil, fmt.Errorf("read checkpoints of other processes: %w", err)
		}
		more = len(found[0]) == seenChunk
		for _, e := range found[0] {
			to, looked, size = "("+e.ID, looked+1, size+len(e.Meta)+len(e.Body)
			if len(e.Meta) > maxSeenLine {
				continue
			}
			c, err := ParseCheckpoint([]byte(e.Meta))
			// What nobody signed is not named: whoever wrote it there could have any log missed.
			// Nor what another installation did, of whose Redis this one is a copy.
			if err != nil || own.fault(c) != "" || c.Log == s.signer.log || ends[c.Log].seq >= c.Seq {
				continue
			}
			ends[c.Log] = seenLog{log: c.Log, seq: c.Seq, time: c.Time.UnixMilli(), hash: c.hash()}
		}
	}
	var seen []seenLog
	for _, o := range ends {
		seen = append(seen, o)
	}
	slices.SortFunc(seen, func(a, b seenLog) int { return cmp.Or(cmp.Compare(b.time, a.time), strings.Compare(a.log, b.log)) })
	return seen[:min(len(seen), maxSeenLogs)], nil
}

func (s signedSpan) compare(o signedSpan) int {
	return cmp.Or(s.name.compare(o.name), strings.Compare(s.writer, o.writer), cmp.Compare(s.first, o.first))
}

// dropCheckpoints drops those of before that time from the store: everything that they are about was dropped. Of each log that goes on one
// stays that is older, by which it shows that what is missing before it was dropped because of its age.
func (s *Store) dropCheckpoints(ctx context.Context, before time.Time) error {
	_, err := s.trails.direct(ctx, Step{Writes: []Write{{Kind: WriteStreamTrim, Key: checkpointsKey(), Args: []string{"MINID", "=", strconv.FormatInt(before.Add(-2*signSilence).UnixMilli(), 10)}}}})
	return err
}
