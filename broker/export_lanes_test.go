package broker

// SetShare sets how many refreshes of one OAuth client s has under way at once, and how many replicas it believes in.
func SetShare(s *Service, most, replicas int) {
	s.cfg.RefreshesAtOnce = most
	s.replicas.Store(int32(replicas))
}

// SetEarly sets how many early refreshes of one provider s has under way at once.
func SetEarly(s *Service, most int) { s.cfg.EarlyRefreshes = most }
