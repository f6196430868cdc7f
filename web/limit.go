package web

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"tokenbroker/broker"
)

// maxAddresses bounds the memory of a limiter, whoever asks from wherever (about 2 MB).
const maxAddresses = 10_000

// globalMisses per second may happen in all before those who already missed are stopped: guessing from many addresses.
const globalMisses = 100

// looksPerSecond of addresses that missed too often are looked up all the same, from all of them together, and so many at once.
const looksPerSecond, looksBurst = 100, 1000

// limiter counts misses (wrong links, states, login tokens) by address: a token bucket each, in a bounded LRU. Hits cost nothing, so
// an address that many people share is stopped only by its guesses.
type limiter struct {
	now   func() time.Time
	burst int
	every time.Duration

	mu     sync.Mutex
	order  *list.List // of *bucket, most recent first
	byAddr map[string]*list.Element
	global *rate.Limiter
}

type bucket struct {
	addr string
	rate *rate.Limiter
}

func newLimiter(now func() time.Time, burst int, every time.Duration) *limiter {
	return &limiter{
		now: now, burst: burst, every: every, order: list.New(), byAddr: map[string]*list.Element{},
		global: rate.NewLimiter(globalMisses, 10*globalMisses),
	}
}

// wait is zero if the address may try, else how long until it may. It costs nothing.
func (l *limiter) wait(addr string) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.byAddr[broker.Network(addr)]
	if !ok {
		return 0
	}
	l.order.MoveToFront(e)
	now := l.now()
	left := e.Value.(*bucket).rate.TokensAt(now)
	need := 1.0
	if l.global.TokensAt(now) < 1 {
		// Many addresses guess at once: stop those that missed before, not people whose link works.
		need = float64(l.burst) - 0.5
	}
	if left >= need {
		return 0
	}
	return max(time.Second, time.Duration((need-left)*float64(l.every)))
}

// miss counts one. Requests that were under way together may overdraw the bucket, and wait for it the longer.
func (l *limiter) miss(addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	addr = broker.Network(addr)
	e, ok := l.byAddr[addr]
	if !ok {
		e = l.order.PushFront(&bucket{addr: addr, rate: rate.NewLimiter(rate.Every(l.every), l.burst)})
		l.byAddr[addr] = e
		if l.order.Len() > maxAddresses {
			oldest := l.order.Back()
			l.order.Remove(oldest)
			delete(l.byAddr, oldest.Value.(*bucket).addr)
		}
	}
	l.order.MoveToFront(e)
	now := l.now()
	if b := e.Value.(*bucket).rate; b.TokensAt(now) > -float64(l.burst) {
		b.ReserveN(now, 1)
	}
	l.global.AllowN(now, 1)
}
