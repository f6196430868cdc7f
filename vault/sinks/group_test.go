package sinks

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// turnstile is a place that writes when the test lets it.
type turnstile struct {
	began chan int   // how many lines
	end   chan error // of the write
}

func (turnstile) Name() string { return "turnstile" }

func (s turnstile) Append(ctx context.Context, lines [][]byte) error {
	select {
	case s.began <- len(lines):
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-s.end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestGroup: whoever comes while a write is under way goes with the next, all together, and hears what became of his own.
func TestGroup(t *testing.T) {
	to := turnstile{began: make(chan int), end: make(chan error)}
	g := NewGroup(to, time.Minute)
	defer g.Close()
	accept := func() chan error {
		done := make(chan error, 1)
		go func() { done <- g.Accept(within(t, time.Minute), lines("a", "b")) }()
		return done
	}
	first := accept()
	if n := <-to.began; n != 2 {
		t.Errorf("%d lines", n)
	}
	var rest []chan error
	for range 10 {
		rest = append(rest, accept())
	}
	waiting := func() int {
		g.mu.Lock()
		defer g.mu.Unlock()
		return len(g.waiting)
	}
	for waiting() < len(rest) {
		runtime.Gosched()
	}
	to.end <- nil
	if err := <-first; err != nil {
		t.Error(err)
	}
	if n := <-to.began; n != 20 {
		t.Errorf("%d lines together", n)
	}
	broken := errors.New("broken")
	to.end <- broken
	for _, done := range rest {
		if err := <-done; !errors.Is(err, broken) {
			t.Errorf("%v", err)
		}
	}
	if !errors.Is(g.Failing(), broken) {
		t.Error("it does not say that it fails")
	}
	last := accept()
	<-to.began
	to.end <- nil
	if err := <-last; err != nil || g.Failing() != nil {
		t.Errorf("%v, failing: %v", err, g.Failing())
	}
}

// TestGroupHangs (threat 70): beside a place that hangs nobody waits longer than his deadline, those who come are bounded in number, and
// there is one goroutine, whoever came and went.
func TestGroupHangs(t *testing.T) {
	to := turnstile{began: make(chan int), end: make(chan error)}
	g := NewGroup(to, 50*time.Millisecond)
	before := runtime.NumGoroutine()
	var busy, late int
	var mu sync.Mutex
	for range 3 {
		ctx := within(t, 200*time.Millisecond)
		var all sync.WaitGroup
		for range 2 * maxWaiting {
			all.Go(func() {
				began := time.Now()
				err := g.Accept(ctx, lines("a"))
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrBusy):
					busy++
				case errors.Is(err, context.DeadlineExceeded):
					late++
				default:
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		}
		all.Wait()
	}
	if late == 0 || busy == 0 {
		t.Errorf("%d had no room, %d were late", busy, late)
	}
	g.Close()
	g.mu.Lock()
	if len(g.waiting) != 0 {
		t.Errorf("%d still wait", len(g.waiting))
	}
	g.mu.Unlock()
	if now := runtime.NumGoroutine(); now > before+2 {
		t.Errorf("%d goroutines, before %d", now, before)
	}
	if err := g.Accept(t.Context(), lines("a")); err == nil {
		t.Error("closed, and it accepts")
	}
}

// TestGroupFile: on a real file each line is there once, whole.
func TestGroupFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	f := NewFile(path)
	g := NewGroup(f, time.Minute)
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			if err := g.Accept(within(t, time.Minute), lines(fmt.Sprintf("line %d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	g.Close()
	_ = f.Close()
	seen := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(content(t, path)), "\n") {
		seen[line]++
	}
	if len(seen) != 500 {
		t.Errorf("%d lines", len(seen))
	}
	for line, n := range seen {
		if n != 1 {
			t.Errorf("%q is there %d times", line, n)
		}
	}
}
