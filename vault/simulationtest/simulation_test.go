package simulationtest

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

// number reads a whole number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// The schedules without a number in the environment: what a run with the race detector has time for.
const (
	fewSchedules = 500
	// shownTraces bounds how many failed schedules are shown whole, mostFailures after how many a run ends.
	shownTraces, mostFailures = 2, 20
)

// quick sets the runtime up for many short schedules. On one processor goroutines that one event has woken run in the same
// order every time, also where no gate keeps them apart.
func quick(t *testing.T) {
	procs, gc := runtime.GOMAXPROCS(1), debug.SetGCPercent(400)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs); debug.SetGCPercent(gc) })
}

// schedules runs as many as SIMULATION_SCHEDULES says, from the seed SIMULATION_FIRST on, and shows what fails.
func schedules(t *testing.T, draw func(seed uint64) Plan) {
	t.Helper()
	quick(t)
	count, first := number(t, "SIMULATION_SCHEDULES", fewSchedules), number(t, "SIMULATION_FIRST", 1)
	s := New(t)
	var sum Tally
	steps, failed := 0, 0
	began := time.Now()
	for seed := first; seed < first+count && failed < mostFailures; seed++ {
		r := s.Run(t, draw(seed), Plant{}, false)
		sum.add(r.Tally)
		steps += r.Steps
		if len(r.Wrong) == 0 {
			continue
		}
		failed++
		replay := fmt.Sprintf("SIMULATION_FIRST=%d SIMULATION_SCHEDULES=1 go test -count=1 -run '^%s$' ./vault/simulationtest", seed, t.Name())
		if failed > shownTraces {
			t.Errorf("seed %d: %s\nreplay: %s", seed, r.Wrong[0], replay)
			continue
		}
		again := s.Run(t, draw(seed), Plant{}, true)
		t.Errorf("seed %d: %s\nreplay: %s\n%s", seed, strings.Join(r.Wrong, "\n"), replay, strings.Join(again.Trace, "\n"))
	}
	took := time.Since(began)
	t.Logf("%d schedules of %d steps on average in %v, %v each: %v", count, steps/int(max(1, count)), took.Round(time.Millisecond), took/time.Duration(max(1, count)), sum)
}

// TestSchedules: whatever goes wrong with processes, providers, disks, clocks and the way to the store, the promises hold.
func TestSchedules(t *testing.T) {
	schedules(t, func(seed uint64) Plan { return Draw(seed, false) })
}

// TestFailovers: also if the store loses what it acknowledged.
func TestFailovers(t *testing.T) { schedules(t, func(seed uint64) Plan { return Draw(seed, true) }) }

// TestSharedGrants: also where several connections hold one grant.
func TestSharedGrants(t *testing.T) {
	schedules(t, func(seed uint64) Plan { return Draw(seed, false).Share() })
}

// TestSharedFailovers: both.
func TestSharedFailovers(t *testing.T) {
	schedules(t, func(seed uint64) Plan { return Draw(seed, true).Share() })
}

// TestSharedSeeds: schedules that lost a grant once. In 12219 what a consent gave was written, and its writer could not read it again
// for minutes, over two failovers; in 17521 a failover came between the two; in the others one holder alone had it when the store lost it and its writers were gone.
func TestSharedSeeds(t *testing.T) {
	quick(t)
	s := New(t)
	for _, seed := range []uint64{12219, 17521, 113111, 140827, 154809} {
		if r := s.Run(t, Draw(seed, true).Share(), Plant{}, false); len(r.Wrong) > 0 {
			t.Errorf("seed %d: %s", seed, strings.Join(r.Wrong, "\n"))
		}
	}
}
