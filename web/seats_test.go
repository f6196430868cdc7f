package web

import "testing"

func TestSeats(t *testing.T) {
	s := newSeats(3, 2)
	first, ok := s.take("ada")
	if !ok {
		t.Fatal("no seat")
	}
	_, second := s.take("ada")
	_, third := s.take("ada")
	_, others := s.take("ben")
	_, full := s.take("cleo")
	if !second || third || !others || full {
		t.Errorf("second %v, third %v, another's %v, more than there are %v", second, third, others, full)
	}
	first()
	if _, ok := s.take("ada"); !ok || s.all != 3 || s.of["ada"] != 2 {
		t.Errorf("given back: %v, %+v", ok, s)
	}
}
