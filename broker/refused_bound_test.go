package broker

import (
	"strconv"
	"testing"
	"time"
)

// However many grants are refused, what is remembered of them has a bound.
func TestRefusalsAreBounded(t *testing.T) {
	c := newCircuits(func() time.Time { return time.Unix(1e9, 0) }, func(time.Duration) time.Duration { return 0 })
	for i := range refusedRemember + 100 {
		c.report(line{provider: "p", client: "c", grant: strconv.Itoa(i)}, &UpstreamError{Class: ClassClientRefused})
	}
	if n := len(c.refusals.grants); n != refusedRemember {
		t.Errorf("%d refusals are kept, want %d", n, refusedRemember)
	}
	if n := len(c.all[circuitKey{troubleRefused, "p", "c"}].grants); n > circuitRemember {
		t.Errorf("the circuit keeps %d grants", n)
	}
}
