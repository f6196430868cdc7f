package simulationtest

import (
	"time"
	"unsafe"
)

// A replica has two clocks, as every process has: one on the wall, which somebody may set, and one that only ever goes on.
// time.Time carries both, and durations between two readings come from the second. In a bubble of testing/synctest
// time.Now gives the first alone, and package time has no way to make a reading of both; so it is made by hand here, and
// clock_test.go checks that package time reads it as meant.

// reading is a time.Time as time.Now makes it.
type reading struct {
	wall uint64 // 1 bit: has both; 33 bits: s since 1885; 30 bits: ns
	ext  int64  // ns of the clock that only goes on
	loc  *time.Location
}

const (
	hasMonotonic = 1 << 63
	// since1885 is what Unix time lacks: the first of January 1885.
	since1885 = 2682288000
)

// timeOf makes the reading of a process whose wall clock says wall, at that moment of its other clock.
func timeOf(wall time.Time, running time.Duration) time.Time {
	var t time.Time
	r := (*reading)(unsafe.Pointer(&t))
	r.wall = hasMonotonic | uint64(wall.Unix()+since1885)<<30 | uint64(wall.Nanosecond())
	r.ext = int64(running) + 1
	r.loc = time.UTC
	return t
}
