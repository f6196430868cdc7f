package vault

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// A check is due behind a doubt, once, and not before it: a doubt may be about what is still to come.
func TestIndexDoubt(t *testing.T) {
	var x index
	start := time.Unix(1_800_000_000, 0)
	at := func(minute int) time.Time { return start.Add(time.Duration(minute) * time.Minute) }
	if x.mayLack(at(9), at(1)) {
		t.Error("nobody doubts, and a check is due")
	}
	x.doubt(at(5))
	for _, c := range []struct {
		now, checked int
		want         bool
	}{{4, 1, false}, {5, 1, true}, {9, 4, true}, {9, 5, true}, {9, 6, false}} {
		if got := x.mayLack(at(c.now), at(c.checked)); got != c.want {
			t.Errorf("at %d, checked at %d: due %v", c.now, c.checked, got)
		}
	}
	x.doubt(at(2)) // the one at 5 takes it in
	if !x.mayLack(at(9), at(4)) {
		t.Error("an earlier doubt took a later one's place")
	}
}

// Places are kept one behind the other, and times in an order that is theirs, whatever a clock said.
func TestIndexPlaces(t *testing.T) {
	set := strings.Repeat("A", setIDLen)
	var places []indexPlace
	var last string
	for _, when := range []time.Time{{}, time.UnixMilli(0), time.UnixMilli(1), time.Unix(1_800_000_000, 0), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} {
		s := stamp(when)
		if len(s) != stampLen || s < last {
			t.Errorf("%v is %q, behind %q", when, s, last)
		}
		last = s
		places = append(places, indexPlace(set+s))
	}
	if got := splitPlaces(joinPlaces(places)); !slices.Equal(got, places) {
		t.Errorf("%q came back as %q", places, got)
	}
	if got := splitPlaces("short"); len(got) != 0 {
		t.Errorf("what is no place came back as %q", got)
	}
	if p := places[3]; p.set() != set || memberID(p.member("an-id")) != "an-id" {
		t.Errorf("%q: set %q, member %q", p, p.set(), p.member("an-id"))
	}
}
