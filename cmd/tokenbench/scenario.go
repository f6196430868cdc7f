package main

import (
	"context"
	"fmt"
	"slices"
)

// scenario is one thing that is measured. Each has a file of its own, and its line in scenarios.
type scenario interface {
	// name is what --scenario takes: one lower-case word.
	name() string
	// about is one line for the help and the report.
	about() string
	// run measures. It starts what it needs by the bench (redis, newStage, load and so on), which ends all of it afterwards.
	// What it found too slow is a demand that does not hold, not an error.
	run(ctx context.Context, b *bench) (section, error)
}

// scenarios are all of them, in the order in which they run and stand in the report.
func scenarios() []scenario {
	return []scenario{
		tokensScenario{},
		sizesScenario{},
		pagesScenario{},
		memoryScenario{},
		clusterScenario{},
		refreshScenario{},
		stormScenario{},
	}
}

// chosenScenarios are those named, in their own order; all where none is named.
func chosenScenarios(names []string) ([]scenario, error) {
	all := scenarios()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []scenario
	known := make([]string, 0, len(all))
	for _, s := range all {
		known = append(known, s.name())
		if slices.Contains(names, s.name()) {
			chosen = append(chosen, s)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("there is no scenario %q: there are %v", name, known)
		}
	}
	return chosen, nil
}
