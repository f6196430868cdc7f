package broker

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type boundedKey struct{}

// TestBounded: it is to whoever uses it what context.WithTimeout makes, whenever they begin to look.
func TestBounded(t *testing.T) {
	closed := func(c context.Context) bool {
		select {
		case <-c.Done():
			return true
		default:
			return false
		}
	}
	for name, step := range map[string]func(b *Bounded, cancelParent context.CancelFunc) (want error){
		"goes on":          func(*Bounded, context.CancelFunc) error { time.Sleep(time.Second); return nil },
		"its time is over": func(*Bounded, context.CancelFunc) error { time.Sleep(3 * time.Second); return context.DeadlineExceeded },
		"it is ended":      func(b *Bounded, _ context.CancelFunc) error { b.End(); return context.Canceled },
		"its parent ends":  func(_ *Bounded, cancel context.CancelFunc) error { cancel(); return context.Canceled },
		"first time, then parent": func(b *Bounded, cancel context.CancelFunc) error {
			time.Sleep(3 * time.Second)
			_ = b.Err()
			cancel()
			return context.DeadlineExceeded
		},
	} {
		for _, watched := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent, cancel := context.WithCancel(context.WithValue(t.Context(), boundedKey{}, "value"))
					defer cancel()
					began := time.Now()
					b := Bound(parent, 2*time.Second)
					defer b.End()
					var child context.Context
					if watched {
						before := runtime.NumGoroutine()
						inner, end := context.WithCancel(context.WithValue(b, boundedKey{}, "inner"))
						defer end()
						child = inner
						if runtime.NumGoroutine() != before {
							t.Error("a child needs a goroutine to follow it")
						}
					}
					if end, ok := b.Deadline(); !ok || !end.Equal(began.Add(2*time.Second)) || b.Value(boundedKey{}) != "value" {
						t.Errorf("deadline %v, %v, value %v", end, ok, b.Value(boundedKey{}))
					}
					want := step(b, cancel)
					synctest.Wait()
					if err := b.Err(); !errors.Is(err, want) || closed(b) != (want != nil) || !errors.Is(b.Err(), want) {
						t.Errorf("error %v, done %v, want %v", err, closed(b), want)
					}
					if watched && (!errors.Is(child.Err(), want) || closed(child) != (want != nil)) {
						t.Errorf("a child says %v, want %v", child.Err(), want)
					}
				})
			})
		}
	}
}

// TestWithin: an operation ends with its own time, with the request's, and with whoever asked; the request's timer is not started
// where the operation ends before.
func TestWithin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		b := Bound(parent, time.Minute)
		defer b.End()
		short, end := within(b, time.Second)
		defer end()
		if b.armed.Load() != nil {
			t.Error("a timer was started for nobody")
		}
		time.Sleep(2 * time.Second)
		if !errors.Is(short.Err(), context.DeadlineExceeded) || b.Err() != nil {
			t.Errorf("operation: %v, request: %v", short.Err(), b.Err())
		}
		long, end := within(b, time.Hour)
		defer end()
		if at, _ := long.Deadline(); !at.Equal(b.end) {
			t.Errorf("an operation may go on until %v, behind its request", at)
		}
		another, end := within(b, time.Second)
		defer end()
		cancel()
		synctest.Wait()
		if !errors.Is(another.Err(), context.Canceled) || !errors.Is(long.Err(), context.Canceled) {
			t.Error("whoever asked is gone, and the operation goes on")
		}
		over := Bound(t.Context(), time.Minute)
		over.End()
		if late, end := within(over, time.Second); late.Err() == nil {
			t.Error("an operation of a request that is over")
		} else {
			end()
		}
	})
}

// TestBoundedTogether is for the race detector: everybody looks at once, and it ends meanwhile.
func TestBoundedTogether(t *testing.T) {
	for range 200 {
		b := Bound(t.Context(), time.Minute)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				<-b.Done()
				if b.Err() == nil {
					t.Error("done without an error")
				}
			})
		}
		all.Go(b.End)
		all.Wait()
	}
}
