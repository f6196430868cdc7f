package web

import "sync"

// seats bound what a process does at a time that takes long, and what of it is one operator's: nobody keeps the others waiting alone.
type seats struct {
	most, each int

	mu  sync.Mutex
	all int
	of  map[string]int
}

func newSeats(most, each int) *seats { return &seats{most: most, each: each, of: map[string]int{}} }

// take is false where there is no seat left. Else leave gives it back.
func (s *seats) take(operator string) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= s.most || s.of[operator] >= s.each {
		return nil, false
	}
	s.all++
	s.of[operator]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.all--
		if s.of[operator]--; s.of[operator] == 0 {
			delete(s.of, operator)
		}
	}, true
}
