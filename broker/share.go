package broker

import (
	"context"
	"time"
)

// followReplicas counts the replicas that are heard of, until ctx ends: what is set for all of them is shared out by that
// (Connector.RefreshesAtOnce). It is a read every few seconds, where a count in the store would cost every refresh a round trip; so
// a replica that starts is counted by the others some seconds late.
func (s *Service) followReplicas(ctx context.Context) {
	if s.cfg.Replicas == nil {
		return
	}
	ticker := time.NewTicker(BeatEvery)
	defer ticker.Stop()
	for {
		s.countReplicas(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// countReplicas keeps the count that it has when the store does not answer.
func (s *Service) countReplicas(ctx context.Context) {
	shared := false
	for _, c := range s.cfg.Connectors.All() {
		shared = shared || c.RefreshesAtOnce > 0
	}
	if !shared {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	all, now, err := s.cfg.Replicas.AllReplicas(ctx)
	if err != nil {
		return // others report that the store fails
	}
	count := int32(0)
	for _, r := range all {
		if !r.Silent(now) {
			count++
		}
	}
	s.replicas.Store(max(1, count))
}
