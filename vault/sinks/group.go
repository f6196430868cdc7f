package sinks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Appender is a place that takes lines, which have no line feed; without an error it has them all, as safely as it can tell.
type Appender interface {
	Name() string // for operators
	Append(ctx context.Context, lines [][]byte) error
}

const (
	// maxWaiting bounds how many wait for a place that is slow, and so the memory that it costs; who comes then is refused at once.
	maxWaiting = 1024
	// maxTogether bounds how many have their lines in one write.
	maxTogether = 256
)

// ErrBusy is the error for whom there is no more room to wait.
var ErrBusy = errors.New("too many wait for it")

// Group lets many who wait for a place share its writes: while one is under way, whoever comes goes with the next. It has one goroutine
// at most, and none while nobody waits. It is safe for concurrent use.
type Group struct {
	to       Appender
	patience time.Duration

	mu      sync.Mutex
	waiting []*waiter
	writing bool
	closed  bool
	failing error
	ending  sync.WaitGroup
}

type waiter struct {
	lines [][]byte
	done  chan error // has room for its one value
}

// NewGroup makes one; patience bounds one write.
func NewGroup(to Appender, patience time.Duration) *Group { return &Group{to: to, patience: patience} }

// Name is the place's.
func (g *Group) Name() string { return g.to.Name() }

// Accept returns without an error when the place has the lines. After an error it may have them, or get them yet.
func (g *Group) Accept(ctx context.Context, lines [][]byte) error {
	w := &waiter{lines: lines, done: make(chan error, 1)}
	if err := g.join(ctx, w); err != nil {
		return fmt.Errorf("write to %s: %w", g.to.Name(), err)
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		g.leave(w)
		return fmt.Errorf("write to %s: %w", g.to.Name(), ctx.Err())
	}
}

func (g *Group) join(ctx context.Context, w *waiter) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case g.closed:
		return errors.New("it is closed")
	case len(g.waiting) >= maxWaiting:
		return ErrBusy
	}
	g.waiting = append(g.waiting, w)
	if !g.writing {
		g.writing = true
		g.ending.Go(g.write)
	}
	return nil
}

// leave takes back what nobody waits for any more, if no write has it.
func (g *Group) leave(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, w); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
}

// write writes until nobody waits.
func (g *Group) write() {
	for {
		batch := g.next()
		if batch == nil {
			return
		}
		var lines [][]byte
		for _, w := range batch {
			lines = append(lines, w.lines...)
		}
		// Those who wait have deadlines of their own, which end for each of them alone.
		ctx, cancel := context.WithTimeout(context.Background(), g.patience)
		err := g.to.Append(ctx, lines)
		cancel()
		g.mu.Lock()
		g.failing = err
		g.mu.Unlock()
		for _, w := range batch {
			w.done <- err
		}
	}
}

// next takes those who go together; nil: nobody waits.
func (g *Group) next() []*waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.waiting), maxTogether)
	if n == 0 {
		g.writing = false
		return nil
	}
	batch := slices.Clone(g.waiting[:n])
	g.waiting = slices.Delete(g.waiting, 0, n)
	return batch
}

// Failing is what the last write failed with; nil: it did not.
func (g *Group) Failing() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failing
}

// Close refuses whoever comes, and waits for those who are there. It does not close the place.
func (g *Group) Close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.ending.Wait()
}
