package redisstore

// Apart makes each call a trip of its own, as it was before calls went together: for comparison.
func (s *Store) Apart() { s.ways.single = nil }

// TripsAtOnce is how many trips are under way while others wait.
func (s *Store) TripsAtOnce(n int) { s.ways.single.few = n }
