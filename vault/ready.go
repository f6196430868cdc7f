package vault

import "sync"

// maxReady bounds how many records are remembered: of 1 to 3 KB each with their sealed tokens.
const maxReady = 2048

// recent remembers the values of the last keys. It grows with use: most processes never fill it.
type recent[K comparable, V any] struct {
	mu    sync.Mutex
	all   map[K]V
	limit int
	order []K // a ring once it is full: the oldest goes first
	next  int
}

// readyTokens remembers sealed access tokens between the reading of a record and the release of its token, so that a
// release can open the token first and then make the store compare it, record the entry and say yes, all in one round
// trip. It never holds an opened token, and what it holds is used only if the store still has exactly that.
type readyTokens = recent[readyKey, string]

type readyKey struct {
	id         string
	generation int64
	token      string
}

// refreshEpochs remembers which write put the refresh token there that a record has at a generation, so that a write which
// leaves the token alone need not ask.
type refreshEpochs = recent[epochKey, int64]

type epochKey struct {
	id         string
	generation int64
}

func newRecent[K comparable, V any](n int) *recent[K, V] {
	return &recent[K, V]{all: make(map[K]V), limit: n}
}

func (r *recent[K, V]) put(key K, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, known := r.all[key]
	switch {
	case known:
	case len(r.order) < r.limit:
		r.order = append(r.order, key)
	default:
		delete(r.all, r.order[r.next])
		r.order[r.next] = key
		r.next = (r.next + 1) % r.limit
	}
	r.all[key] = value
}

func (r *recent[K, V]) get(key K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	value, ok := r.all[key]
	return value, ok
}
