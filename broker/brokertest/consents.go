package brokertest

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"time"

	"tokenbroker/broker"
)

func unfinished(c broker.Consent) bool {
	return c.Status == broker.ConsentPending || c.Status == broker.ConsentStarted || c.Status == broker.ConsentAwaitingCompletion
}

// CreateConsent is part of broker.Consents.
func (s *Store) CreateConsent(ctx context.Context, c broker.Consent, once string, entries []broker.Entry) (broker.Consent, error) {
	done, err := s.enter(ctx, "CreateConsent")
	if err != nil {
		return broker.Consent{}, err
	}
	defer done()
	if once != "" {
		if s.Now().Before(s.once[once]) {
			return broker.Consent{}, broker.ErrConflict
		}
		s.once[once] = c.Deadline
	}
	c.Version = 1
	s.consents[c.ID] = c
	s.Trail = append(s.Trail, entries...)
	return c, s.lost(ctx, "CreateConsent")
}

// Consent is part of broker.Consents.
func (s *Store) Consent(ctx context.Context, id string) (broker.Consent, error) {
	done, err := s.enter(ctx, "Consent")
	if err != nil {
		return broker.Consent{}, err
	}
	defer done()
	c, ok := s.consents[id]
	if !ok {
		return broker.Consent{}, broker.ErrNotFound
	}
	return c, nil
}

func (s *Store) selectConsents(keep func(broker.Consent) bool) []broker.Consent {
	var found []broker.Consent
	for _, c := range s.consents {
		if unfinished(c) && keep(c) {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b broker.Consent) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return found
}

// ConsentsOfSubject is part of broker.Consents.
func (s *Store) ConsentsOfSubject(ctx context.Context, tenant, subject string, limit int) ([]broker.Consent, error) {
	done, err := s.enter(ctx, "ConsentsOfSubject")
	if err != nil {
		return nil, err
	}
	defer done()
	open := s.selectConsents(func(c broker.Consent) bool { return c.Tenant == tenant && c.Subject == subject })
	return open[:min(limit, len(open))], nil
}

// DueConsents is part of broker.Consents.
func (s *Store) DueConsents(ctx context.Context, before time.Time, limit int) ([]broker.Consent, error) {
	done, err := s.enter(ctx, "DueConsents")
	if err != nil {
		return nil, err
	}
	defer done()
	due := s.selectConsents(func(c broker.Consent) bool { return c.Deadline.Before(before) && c.BusyUntil.Before(before) })
	return due[:min(limit, len(due))], nil
}

// DuePolls is part of broker.Consents.
func (s *Store) DuePolls(ctx context.Context, before time.Time, limit int) ([]broker.Consent, error) {
	done, err := s.enter(ctx, "DuePolls")
	if err != nil {
		return nil, err
	}
	defer done()
	due := s.selectConsents(func(c broker.Consent) bool {
		return c.Binding == broker.BindingDevice && c.Status == broker.ConsentStarted && c.Device.PollAt.Before(before) && c.BusyUntil.Before(before)
	})
	return due[:min(limit, len(due))], nil
}

// UpdateConsent is part of broker.Consents.
func (s *Store) UpdateConsent(ctx context.Context, c broker.Consent, entries []broker.Entry) (broker.Consent, error) {
	stored, err := s.updateConsent(ctx, c, entries)
	if lost := s.lost(ctx, "UpdateConsent"); err == nil && lost != nil {
		return broker.Consent{}, lost
	}
	return stored, err
}

func (s *Store) updateConsent(ctx context.Context, c broker.Consent, entries []broker.Entry) (broker.Consent, error) {
	done, err := s.enter(ctx, "UpdateConsent")
	if err != nil {
		return broker.Consent{}, err
	}
	defer done()
	again, err := s.putConsent(&c, entries)
	if err != nil {
		return broker.Consent{}, err
	}
	if !again {
		s.Trail = append(s.Trail, entries...)
	}
	return c, nil
}

// consentWrite is what one write of a consent was asked to do: the same again is the same write.
type consentWrite struct {
	consent broker.Consent
	entries []broker.Entry
}

// putConsent writes the consent; again: that write was done before, and nothing since.
func (s *Store) putConsent(c *broker.Consent, entries []broker.Entry) (again bool, err error) {
	old, ok := s.consents[c.ID]
	if !ok {
		return false, broker.ErrNotFound
	}
	write := consentWrite{consent: *c, entries: entries}
	c.Version++
	if reflect.DeepEqual(s.written[c.ID], write) {
		return true, nil
	}
	if old.Version != c.Version-1 {
		return false, broker.ErrConflict
	}
	s.consents[c.ID], s.written[c.ID] = *c, write
	return false, nil
}

// CompleteConsent is part of broker.Consents.
func (s *Store) CompleteConsent(ctx context.Context, c broker.Consent, conn broker.Connection, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	stored, err := s.completeConsent(ctx, c, conn, grant, entries)
	if lost := s.lost(ctx, "CompleteConsent"); err == nil && lost != nil {
		return broker.Connection{}, lost
	}
	return stored, err
}

func (s *Store) completeConsent(ctx context.Context, c broker.Consent, conn broker.Connection, grant broker.Grant, entries []broker.Entry) (broker.Connection, error) {
	done, err := s.enter(ctx, "CompleteConsent")
	if err != nil {
		return broker.Connection{}, err
	}
	defer done()
	r := s.records[conn.ID]
	if r != nil && reflect.DeepEqual(s.written[c.ID], consentWrite{consent: c, entries: entries}) {
		return r.conn, nil
	}
	if (r == nil) != (conn.Generation == 0) || (r != nil && r.conn.Generation != conn.Generation) {
		return broker.Connection{}, broker.ErrConflict
	}
	if _, err := s.putConsent(&c, entries); err != nil {
		return broker.Connection{}, err
	}
	if r == nil {
		r = &record{seq: int64(len(s.records))}
		s.records[conn.ID] = r
	}
	r.revokedAt, r.alternates, r.outcome = time.Time{}, nil, ""
	r.left = false
	if g := s.shared[conn.SharedGrant]; g != nil {
		delete(g.consents, c.ID)
	}
	s.write(r, conn, "", grant, entries)
	return r.conn, nil
}

// BeginRevoke is part of broker.Revocations.
func (s *Store) BeginRevoke(ctx context.Context, tenant, id string, entries []broker.Entry) (broker.Leftover, error) {
	done, err := s.enter(ctx, "BeginRevoke")
	if err != nil {
		return broker.Leftover{}, err
	}
	defer done()
	r, err := s.own(tenant, id)
	if err != nil {
		return broker.Leftover{}, err
	}
	if r.conn.Status != broker.ConnectionRevoked {
		r.conn.Status, r.conn.Error, r.conn.RefreshAt = broker.ConnectionRevoked, "", time.Time{}
		r.conn.Generation++
		r.revokedAt = s.Now()
		s.Trail = append(s.Trail, entries...)
	}
	if g := s.shared[r.conn.SharedGrant]; g != nil && g.generation > r.conn.SharedGeneration && !r.refresh.IsZero() {
		return broker.Leftover{Connection: r.conn, RefreshToken: g.grant.RefreshToken, AccessToken: g.grant.AccessToken, Outcome: r.outcome}, nil
	}
	return broker.Leftover{Connection: r.conn, RefreshToken: r.refresh, AccessToken: r.access[""], Outcome: r.outcome}, nil
}

// EndRevoke is part of broker.Revocations.
func (s *Store) EndRevoke(ctx context.Context, tenant, id string, outcome broker.RevokedUpstream, forget bool) error {
	done, err := s.enter(ctx, "EndRevoke")
	if err != nil {
		return err
	}
	defer done()
	r, err := s.own(tenant, id)
	if err != nil {
		return err
	}
	r.refresh, r.access, r.alternates, r.revokedAt, r.outcome = broker.Secret{}, nil, nil, time.Time{}, outcome
	r.conn.Tokens, r.conn.Renewable = nil, false
	if forget {
		delete(s.records, id)
	}
	return nil
}

// DueRevocations is part of broker.Revocations.
func (s *Store) DueRevocations(ctx context.Context, before time.Time, limit int) ([]broker.Connection, error) {
	done, err := s.enter(ctx, "DueRevocations")
	if err != nil {
		return nil, err
	}
	defer done()
	var due []broker.Connection
	for _, r := range s.records {
		if !r.revokedAt.IsZero() && r.revokedAt.Before(before) && len(due) < limit {
			due = append(due, r.conn)
		}
	}
	return due, nil
}
