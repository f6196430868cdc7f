package issuer

import (
	"context"
	"sync"
	"time"

	"tokenbroker/broker"
)

const (
	kept        = time.Hour       // a document is believed that long
	keptAtMost  = 24 * time.Hour  // and that long while it can't be had anew
	askedAgain  = time.Minute     // no sooner, whatever somebody misses in it
	failureHeld = 5 * time.Second // an outage: no new attempt for so long
)

// Cached is a document of an issuer. It is asked for when first needed, so that the program starts while an issuer is down. One
// caller at a time asks; others wait no longer than their context.
type Cached[T any] struct {
	turn chan struct{} // capacity 1: holds a value while somebody asks
	now  func() time.Time

	mu    sync.Mutex // of what is below
	have  *T
	since time.Time // when have came
	asked time.Time // when it was asked for last
	err   error     // of that; nil: it came
}

// NewCached makes one that has nothing yet.
func NewCached[T any](now func() time.Time) *Cached[T] {
	return &Cached[T]{turn: make(chan struct{}, 1), now: now}
}

// Get returns the document, from the issuer by fetch if need be. lacks tells that the one at hand is not enough: then it is asked for
// anew, though not more often than each minute, however many callers leave before the answer. An error of ClassClientRefused is about what
// came and must not be believed; an earlier document does not make up for it; nor for an outage, where it is one that lacks something.
// Nobody waits for others' asking who has what they need.
func (c *Cached[T]) Get(ctx context.Context, lacks func(T) bool, fetch func(context.Context) (T, error)) (T, error) {
	var none T
	if !c.stale(lacks) {
		return c.found(lacks)
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return none, &broker.UpstreamError{Class: broker.ClassUnsent, What: "metadata is not available", Cause: ctx.Err()}
	}
	defer func() { <-c.turn }()
	if c.stale(lacks) {
		asked := c.now()
		// To its end, which fetch bounds: what somebody who left has asked for serves the next one, and counts as asked.
		fresh, err := fetch(context.WithoutCancel(ctx))
		c.mu.Lock()
		if err == nil {
			c.have, c.since = &fresh, asked
		}
		c.asked, c.err = asked, err
		c.mu.Unlock()
	}
	return c.found(lacks)
}

// found is what is at hand.
func (c *Cached[T]) found(lacks func(T) bool) (none T, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil && (c.have == nil || broker.ClassOf(c.err) == broker.ClassClientRefused || c.now().Sub(c.since) > keptAtMost || lacks(*c.have)):
		return none, c.err
	case c.have == nil:
		return none, &broker.UpstreamError{Class: broker.ClassUnsent, What: "metadata is not available"}
	}
	return *c.have, nil
}

func (c *Cached[T]) stale(lacks func(T) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	age := c.now().Sub(c.asked)
	switch {
	case c.asked.IsZero():
		return true
	case c.err != nil:
		return age >= failureHeld
	case c.now().Sub(c.since) >= kept:
		return true
	}
	return lacks(*c.have) && age >= askedAgain
}
