package broker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Bounded is a context that ends at a time, as those of context.WithDeadline do, but starts its timer only when somebody asks for Done. A
// request is bounded twice: as a whole, in case it has to wait for a provider, and in each operation of the store, which ends long before.
// A token that is valid waits for nothing else, so the first timer would be started, linked to its parent and stopped again for nobody.
type Bounded struct {
	parent context.Context
	end    time.Time
	ended  atomic.Bool

	arming sync.Mutex
	armed  atomic.Pointer[armed]
}

type armed struct {
	context.Context
	cancel context.CancelFunc
}

// Bound begins one that ends after d. Whoever calls it calls End.
func Bound(parent context.Context, d time.Duration) *Bounded {
	return &Bounded{parent: parent, end: time.Now().Add(d)}
}

// End ends it.
func (b *Bounded) End() {
	b.ended.Store(true)
	if a := b.armed.Load(); a != nil {
		a.cancel()
	}
}

// arm makes the context that does the work from now on.
func (b *Bounded) arm() *armed {
	if a := b.armed.Load(); a != nil {
		return a
	}
	b.arming.Lock()
	defer b.arming.Unlock()
	if a := b.armed.Load(); a != nil {
		return a
	}
	ctx, cancel := context.WithDeadline(b.parent, b.end)
	a := &armed{ctx, cancel}
	b.armed.Store(a)
	if b.ended.Load() { // by somebody who saw none to end, or sees it now
		cancel()
	}
	return a
}

// Deadline implements context.Context.
func (b *Bounded) Deadline() (time.Time, bool) {
	if end, ok := b.parent.Deadline(); ok && end.Before(b.end) {
		return end, true
	}
	return b.end, true
}

// Done implements context.Context.
func (b *Bounded) Done() <-chan struct{} { return b.arm().Done() }

// Err implements context.Context. Once it says why it ended, it goes on to say that.
func (b *Bounded) Err() error {
	if b.armed.Load() == nil && !b.ended.Load() && b.parent.Err() == nil && time.Now().Before(b.end) {
		return nil
	}
	return b.arm().Err()
}

// Value implements context.Context. Contexts that are made from this one look here for the one to be ended by: then it is armed, for they
// have asked for Done before.
func (b *Bounded) Value(key any) any {
	if a := b.armed.Load(); a != nil {
		return a.Value(key)
	}
	return b.parent.Value(key)
}

// within is context.WithTimeout for an operation of the store. Of a request that is bounded later than that, the bound needs no timer.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if b, ok := ctx.(*Bounded); ok && b.armed.Load() == nil && b.Err() == nil && time.Now().Add(d).Before(b.end) {
		return context.WithTimeout(b.parent, d)
	}
	return context.WithTimeout(ctx, d)
}
