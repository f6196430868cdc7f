package brokertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"tokenbroker/broker"
)

// Assertions believes tokens that it was told of, by their text, and keeps which were used.
type Assertions struct {
	mu       sync.Mutex
	Subjects map[string]broker.Assertion
	Actors   map[string]broker.Assertion
	Failure  error // of asking for keys
	used     map[broker.UsedToken]string
	// Broken: what was used can't be noted.
	Broken bool
}

var (
	_ broker.Assertions     = (*Assertions)(nil)
	_ broker.UsedAssertions = (*Assertions)(nil)
)

func (a *Assertions) of(all map[string]broker.Assertion, token broker.Secret) (broker.Assertion, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.Failure != nil {
		return broker.Assertion{}, a.Failure
	}
	found, known := all[token.Reveal()]
	if !known {
		return broker.Assertion{}, fmt.Errorf("%w: it has expired, by our clock", broker.ErrAssertionRefused)
	}
	return found, nil
}

// Subject implements broker.Assertions.
func (a *Assertions) Subject(_ context.Context, _ string, token broker.Secret) (broker.Assertion, error) {
	return a.of(a.Subjects, token)
}

// Actor implements broker.Assertions.
func (a *Assertions) Actor(_ context.Context, _ string, token broker.Secret) (broker.Assertion, error) {
	return a.of(a.Actors, token)
}

// Client implements broker.Assertions: the subject is the client.
func (a *Assertions) Client(_ context.Context, _ string, token broker.Secret) (string, broker.Assertion, error) {
	found, err := a.of(a.Subjects, token)
	return found.Subject, found, err
}

// Use implements broker.UsedAssertions.
func (a *Assertions) Use(_ context.Context, token broker.UsedToken, _ time.Time) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	receipt := rand.Text()
	if _, there := a.used[token]; there {
		return receipt, broker.ErrConflict
	}
	if a.used == nil {
		a.used = map[broker.UsedToken]string{}
	}
	a.used[token] = receipt
	if a.Broken { // it was noted, and its answer was lost
		return receipt, context.DeadlineExceeded
	}
	return receipt, nil
}

// Unuse implements broker.UsedAssertions.
func (a *Assertions) Unuse(_ context.Context, token broker.UsedToken, receipt string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used[token] == receipt {
		delete(a.used, token)
	}
	return nil
}
