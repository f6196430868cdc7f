package vault

import (
	"context"
	"testing"
	"time"
)

// onlyIdentity is a store that says who it is, and nothing else.
type onlyIdentity struct{ Backend }

func (onlyIdentity) Identity(context.Context) (string, error) { return "one", nil }

// TestThreat34SteadySince: the store had no reason to lose what was sent after its present history began. When the answer was looked at says nothing:
// a process may be stopped between, while the master changes.
func TestThreat34SteadySince(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	clock := func() time.Time { return now }
	s := &Store{cfg: Config{Backend: onlyIdentity{}, Now: clock, RoundTrip: time.Second}, memory: newMemory(clock)}
	answer := func(sent time.Time) Result {
		return Result{asked: sent, Reads: []map[string][]byte{fakeRecord(5, "w5", "active", 2, 5, "rt5")}}
	}
	w := written{remembered: remembered{tenant: "t", id: "id", generation: 5, write: "w5"}}
	remembered := func(sent time.Time) *remembered {
		if err := s.remember(t.Context(), w, answer(sent)); err != nil {
			t.Fatal(err)
		}
		return s.memory.get("id")
	}
	s.steady.Store(&steadyStore{identity: "one", since: now.Add(-time.Second)})
	if s.steadySince(t.Context(), remembered(now.Add(-2*time.Second))) {
		t.Error("sent before the history began, and remembered behind that: a failover may have lost it")
	}
	if !s.steadySince(t.Context(), remembered(now.Add(-time.Millisecond))) {
		t.Error("sent to the store that is there")
	}
	if s.steadySince(t.Context(), remembered(time.Time{})) {
		t.Error("sent nobody knows when")
	}
}
