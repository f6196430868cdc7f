package simulationtest

import (
	"slices"
	"testing"
)

// TestSameSeedSameTrace: a seed is all that a schedule depends on, so one that fails can be replayed.
func TestSameSeedSameTrace(t *testing.T) {
	quick(t)
	s := New(t)
	for seed := uint64(1); seed <= number(t, "SIMULATION_TWICE", 300); seed++ {
		plan := Draw(seed, seed%3 == 0)
		first, second := s.Run(t, plan, Plant{}, true), s.Run(t, plan, Plant{}, true)
		for i, line := range first.Trace {
			if i >= len(second.Trace) || second.Trace[i] != line {
				t.Errorf("seed %d: line %d is %q, and in the second run %q", seed, i, line, second.Trace[min(i, len(second.Trace)-1)])
				break
			}
		}
		if !slices.Equal(first.Wrong, second.Wrong) || first.Tally != second.Tally {
			t.Errorf("seed %d: %v, %v, and in the second run %v, %v", seed, first.Wrong, first.Tally, second.Wrong, second.Tally)
		}
	}
}
