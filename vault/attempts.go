package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// Between attempts.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 100 * time.Millisecond
	// defaultTimeout ends a write whose caller set no deadline.
	defaultTimeout = 10 * time.Second
)

// sleep waits, unless the context ends before: then it returns false at once.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// lastError is what the store last said of something that is tried again until its time is over. That it is over tells
// nobody what to mend.
type lastError struct{ err atomic.Pointer[error] }

// note keeps the error of an attempt; one that says no more than that time is over only if there is no other.
func (l *lastError) note(err error) {
	var network net.Error
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &network) && network.Timeout()
	if !late || l.err.Load() == nil {
		l.err.Store(&err)
	}
}

// or adds what was noted to the error of the end.
func (l *lastError) or(end error) error {
	last := l.err.Load()
	if last == nil || errors.Is(end, *last) {
		return end
	}
	return fmt.Errorf("%w; tried again until: %w", *last, end)
}

// readPatiently repeats a read until it succeeds or the context ends.
func readPatiently[T any](ctx context.Context, read func(context.Context) (T, error)) (T, error) {
	var last lastError
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		got, err := read(ctx)
		if err == nil {
			return got, nil
		}
		last.note(err)
		if ctx.Err() != nil || pause > readPatience || !sleep(ctx, pause) {
			return got, fmt.Errorf("read: %w", last.or(err))
		}
	}
}

// readPatience is the last pause after which a read is tried again: three in all. Reads have callers who wait.
const readPatience = 2 * firstPause
