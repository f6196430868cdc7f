package broker

import "context"

// FollowLimits is one round of what the background does for limits.
func FollowLimits(s *Service) error {
	err := s.shareUses(context.Background())
	s.recordRefusals(context.Background(), false)
	s.settlePlaces(context.Background())
	return err
}

// BucketsKept tells how many buckets of subjects there are in memory, and how many there may be.
func BucketsKept(s *Service) (have, most int) {
	subjects := s.limiter.kinds[limitSubject]
	return len(subjects.all), bucketsKept
}
