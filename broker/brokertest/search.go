package brokertest

import (
	"context"
	"fmt"
	"time"

	"tokenbroker/broker"
)

// SearchEvents is part of broker.AuditSearch. A position is the place of the next entry.
func (s *Store) SearchEvents(ctx context.Context, tenant string, q broker.EventSearch) (broker.EventPage, error) {
	done, err := s.enter(ctx, "SearchEvents")
	if err != nil {
		return broker.EventPage{}, err
	}
	defer done()
	at, step := len(s.Trail)-1, -1
	if q.Oldest {
		at, step = 0, 1
	}
	if q.Position != "" {
		if _, err := fmt.Sscan(q.Position, &at); err != nil {
			return broker.EventPage{}, broker.ErrNotFound
		}
	}
	var page broker.EventPage
	for ; at >= 0 && at < len(s.Trail); at += step {
		e := s.Trail[at]
		if e.Tenant != tenant {
			continue
		}
		if len(page.Events) >= q.Limit {
			page.Next, page.Reached = fmt.Sprint(at), e.Time
			return page, nil
		}
		for _, one := range e.Scopes {
			event := broker.Event{
				ID: one.ID, Time: e.Time, Type: e.Type, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject, Actor: e.Actor, Connector: e.Connector, Connection: e.Connection,
				Scope: one.Scope, Requested: one.Requested, Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
			}
			if selects(q.Filter, event) {
				page.Events = append(page.Events, event)
			}
		}
	}
	return page, nil
}

func selects(f broker.EventFilter, e broker.Event) bool {
	for _, pair := range [][2]string{
		{f.Subject, e.Subject}, {f.Connector, e.Connector}, {f.Connection, e.Connection}, {string(f.Type), string(e.Type)}, {f.Scope, e.Scope},
		{f.Client, e.Client}, {f.Agent, e.Actor.Agent}, {f.Run, e.Actor.Run}, {f.Outcome, e.Outcome},
	} {
		if pair[0] != "" && pair[0] != pair[1] {
			return false
		}
	}
	return (f.Since.IsZero() || !e.Time.Before(f.Since)) && (f.Until.IsZero() || e.Time.Before(f.Until))
}

// KeptSince is part of broker.TrailRetention: Kept, of every tenant.
func (s *Store) KeptSince(context.Context, string) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Kept, nil
}

// VerifyTrail is part of broker.TrailVerifier: nothing here is ever wrong but what Verified says.
func (s *Store) VerifyTrail(ctx context.Context, tenant, position string, _ time.Duration) (broker.VerifiedTrail, error) {
	done, err := s.enter(ctx, "VerifyTrail")
	if err != nil {
		return broker.VerifiedTrail{}, err
	}
	defer done()
	if s.Verified != nil {
		return s.Verified(tenant, position), nil
	}
	return broker.VerifiedTrail{Streams: 1, Total: 1, Entries: len(s.Trail)}, nil
}
