package web

import (
	"fmt"
	"testing"
	"time"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func TestLimiterRefills(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter(c.now, 3, 2*time.Second)
	for range 3 {
		if l.wait("a") != 0 {
			t.Fatal("stopped too early")
		}
		l.miss("a")
	}
	if got := l.wait("a"); got != 2*time.Second {
		t.Errorf("wait %v", got)
	}
	c.t = c.t.Add(2 * time.Second)
	if l.wait("a") != 0 || l.wait("b") != 0 {
		t.Error("not refilled")
	}
	for range 100 { // under way together
		l.miss("a")
	}
	if got := l.wait("a"); got < 4*time.Second || got > 10*time.Second {
		t.Errorf("after an overdraft: wait %v", got)
	}
}

func TestLimiterIsBounded(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter(c.now, 1, time.Hour)
	for i := range maxAddresses + 100 {
		l.miss(fmt.Sprint("address ", i))
	}
	if l.order.Len() != maxAddresses || len(l.byAddr) != maxAddresses {
		t.Errorf("%d addresses are kept", len(l.byAddr))
	}
	if l.wait("address 0") != 0 || l.wait(fmt.Sprint("address ", maxAddresses+99)) == 0 {
		t.Error("the wrong address was forgotten")
	}
}

// Many addresses guess at once: who missed before waits, who did not gets through.
func TestLimiterGlobal(t *testing.T) {
	c := &clock{time.Unix(1_800_000_000, 0)}
	l := newLimiter(c.now, 30, 2*time.Second)
	for i := range 10 * globalMisses {
		l.miss(fmt.Sprint("address ", i))
	}
	if l.wait("address 7") == 0 {
		t.Error("a guesser among many gets through")
	}
	if l.wait("somebody else") != 0 {
		t.Error("somebody else is stopped")
	}
	c.t = c.t.Add(10 * time.Second)
	if l.wait("address 7") != 0 {
		t.Error("the pressure never ends")
	}
}
