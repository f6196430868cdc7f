package simulationtest

import (
	"testing"
	"time"
)

// TestTimeOf: package time takes what timeOf makes for readings of two clocks.
func TestTimeOf(t *testing.T) {
	wall := time.Date(2000, 1, 1, 12, 0, 0, 7, time.UTC)
	before, after := timeOf(wall, time.Second), timeOf(wall.Add(-time.Hour), 3*time.Second)
	if got := after.Sub(before); got != 2*time.Second {
		t.Errorf("between two readings lie %v of the clock that only goes on, want 2s", got)
	}
	if !before.Before(after) || !before.Add(time.Minute).After(after) {
		t.Error("the order of two readings goes by the wall clock")
	}
	if got := after.Round(0).Sub(before.Round(0)); got != -time.Hour {
		t.Errorf("between the wall clock's readings lie %v, want -1h", got)
	}
	if !before.Equal(wall) || before.UnixMilli() != wall.UnixMilli() || before.Nanosecond() != 7 {
		t.Errorf("wall clock reads %v, want %v", before, wall)
	}
	if got := before.Add(time.Minute).Sub(after); got != 58*time.Second {
		t.Errorf("a deadline a minute after the first reading is %v away, want 58s", got)
	}
}
