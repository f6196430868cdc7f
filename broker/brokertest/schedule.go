package brokertest

import (
	"context"
	"slices"
	"time"

	"tokenbroker/broker"
)

// DueRefreshes is part of broker.Schedule. Everything is in one part, which whoever asks takes.
func (s *Store) DueRefreshes(ctx context.Context, before time.Time, hold time.Duration, limit int) ([]broker.Connection, error) {
	done, err := s.enter(ctx, "DueRefreshes")
	if err != nil {
		return nil, err
	}
	defer done()
	var due []broker.Connection
	for _, r := range s.records {
		if at := r.conn.RefreshAt; !at.IsZero() && at.Before(before) {
			due = append(due, r.conn)
		}
	}
	slices.SortFunc(due, func(a, b broker.Connection) int { return a.RefreshAt.Compare(b.RefreshAt) })
	return due[:min(limit, len(due))], nil
}

// Reschedule is part of broker.Schedule.
func (s *Store) Reschedule(ctx context.Context, conn broker.Connection, at time.Time) error {
	done, err := s.enter(ctx, "Reschedule")
	if err != nil {
		return err
	}
	defer done()
	r, err := s.own(conn.Tenant, conn.ID)
	if err != nil {
		return err
	}
	if r.conn.Generation != conn.Generation {
		return broker.ErrConflict
	}
	r.conn.RefreshAt = at
	return nil
}
