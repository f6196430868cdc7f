package broker

import (
	"context"
	"errors"
	"time"
)

// This file keeps what this replica knows of tenants' connectors at what the store has.

// followEvery is how often the store is asked whether a connector of a tenant changed: how long another replica may go on with
// an earlier version.
const followEvery = 5 * time.Second

// hasTenantConnectors tells whether there can be any.
func (s *Service) hasTenantConnectors() bool {
	return s.cfg.TenantConnectors != nil && s.cfg.Registry != nil
}

// followConnectors looks for changes until ctx ends. Each look has its deadline, and one that fails changes nothing: what is
// known goes on working while the store is down.
func (s *Service) followConnectors(ctx context.Context) {
	if !s.hasTenantConnectors() {
		return
	}
	ticker := time.NewTicker(followEvery)
	defer ticker.Stop()
	for {
		if err := s.SyncConnectors(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Log.WarnContext(ctx, "connectors of tenants could not be read; those that are known go on working", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// SyncConnectors looks once whether connectors of tenants changed, and takes up what did.
func (s *Service) SyncConnectors(ctx context.Context) error {
	if !s.hasTenantConnectors() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	// Not while this replica writes one: what was read before that would take its place.
	release, err := s.holdConnectors(ctx)
	if err != nil {
		return err
	}
	defer release()
	all, mark, changed, err := s.cfg.TenantConnectors.AllTenantConnectors(ctx, s.connectorMark)
	var unreadable *UnreadableError
	if errors.As(err, &unreadable) {
		s.cfg.Log.ErrorContext(ctx, "connectors of tenants do not open: someone may have written to the store; what was known of them before goes on working",
			"connectors", unreadable.IDs, "error", err)
		err = nil
	}
	if err != nil {
		return err
	}
	if changed {
		var keep []string
		if unreadable != nil {
			keep = unreadable.IDs
		}
		s.cfg.Registry.SetTenantConnectors(all, keep)
	}
	s.connectorMark = mark
	return nil
}

// learnConnector reads one connector of the tenant that this replica does not know, and tells whether there is one.
func (s *Service) learnConnector(ctx context.Context, tenant, id string) bool {
	if !s.hasTenantConnectors() || !madeByTenant(id) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	// In turn with those who look for changes: what was deleted meanwhile must not come back by an answer that was late.
	release, err := s.holdConnectors(ctx)
	if err != nil {
		return false
	}
	defer release()
	c, err := s.cfg.TenantConnectors.TenantConnector(ctx, tenant, id)
	if err != nil {
		if !errors.Is(err, ErrNotFound) {
			s.cfg.Log.WarnContext(ctx, "a connector of a tenant could not be read", "tenant", tenant, "connector", id, "error", err)
		}
		return false
	}
	s.cfg.Registry.PutTenantConnector(c)
	return true
}

// know makes sure that this replica knows the connector of a record of the tenant's.
func (s *Service) know(ctx context.Context, tenant, connector string) {
	if _, known := s.cfg.Connectors.Connector(connector); !known {
		s.learnConnector(ctx, tenant, connector)
	}
}

// holdConnectors is the right to bring store and registry together, for one at a time.
func (s *Service) holdConnectors(ctx context.Context) (release func(), err error) {
	select {
	case s.connectorTurn <- struct{}{}:
		return func() { <-s.connectorTurn }, nil
	case <-ctx.Done():
		return nil, storeError("wait for another change of connectors", ctx.Err())
	}
}
