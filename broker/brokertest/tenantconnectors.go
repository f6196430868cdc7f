package brokertest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"

	"tokenbroker/broker"
)

// TenantConnector is part of broker.TenantConnectors.
func (s *Store) TenantConnector(ctx context.Context, tenant, id string) (broker.TenantConnector, error) {
	leave, err := s.enter(ctx, "TenantConnector")
	if err != nil {
		return broker.TenantConnector{}, err
	}
	defer leave()
	c, ok := s.connectors[id]
	if !ok || c.Tenant != tenant {
		return broker.TenantConnector{}, broker.ErrNotFound
	}
	return c, nil
}

// TenantConnectorsOf is part of broker.TenantConnectors.
func (s *Store) TenantConnectorsOf(ctx context.Context, tenant string) ([]broker.TenantConnector, error) {
	leave, err := s.enter(ctx, "TenantConnectorsOf")
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.connectorsOf(func(c broker.TenantConnector) bool { return c.Tenant == tenant }), nil
}

func (s *Store) connectorsOf(which func(broker.TenantConnector) bool) []broker.TenantConnector {
	var all []broker.TenantConnector
	for _, c := range s.connectors {
		if which(c) {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b broker.TenantConnector) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return all
}

// AllTenantConnectors is part of broker.TenantConnectors.
func (s *Store) AllTenantConnectors(ctx context.Context, mark string) ([]broker.TenantConnector, string, bool, error) {
	leave, err := s.enter(ctx, "AllTenantConnectors")
	if err != nil {
		return nil, mark, false, err
	}
	defer leave()
	now := strconv.Itoa(s.connectorWrites)
	if now == mark {
		return nil, mark, false, nil
	}
	return s.connectorsOf(func(broker.TenantConnector) bool { return true }), now, true, nil
}

// SaveTenantConnector is part of broker.TenantConnectors.
func (s *Store) SaveTenantConnector(ctx context.Context, c broker.TenantConnector, entries []broker.Entry) (broker.TenantConnector, error) {
	leave, err := s.enter(ctx, "SaveTenantConnector")
	if err != nil {
		return broker.TenantConnector{}, err
	}
	defer leave()
	if s.connectors[c.ID].Version != c.Version {
		return broker.TenantConnector{}, broker.ErrConflict
	}
	c.Version++
	if s.connectors == nil {
		s.connectors = map[string]broker.TenantConnector{}
	}
	s.connectors[c.ID] = c
	s.connectorWrites++
	s.Trail = append(s.Trail, entries...)
	return c, nil
}

// DeleteTenantConnector is part of broker.TenantConnectors.
func (s *Store) DeleteTenantConnector(ctx context.Context, c broker.TenantConnector, entries []broker.Entry) error {
	leave, err := s.enter(ctx, "DeleteTenantConnector")
	if err != nil {
		return err
	}
	defer leave()
	if had, ok := s.connectors[c.ID]; !ok || had.Version != c.Version {
		return broker.ErrConflict
	}
	delete(s.connectors, c.ID)
	s.connectorWrites++
	s.Trail = append(s.Trail, entries...)
	return nil
}

// Registry is what one replica knows of tenants' connectors, beside the harness's own. Each is like Files, with another id.
type Registry struct {
	Fixed broker.Connectors
	mu    sync.Mutex
	own   map[string]broker.TenantConnector
}

// Connector is part of broker.Connectors.
func (r *Registry) Connector(id string) (broker.Connector, bool) {
	if c, ok := r.Fixed.Connector(id); ok {
		return c, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.own[id]
	return ownView(c), ok
}

func ownView(c broker.TenantConnector) broker.Connector {
	view := Files()
	view.ID, view.Tenants, view.Name = c.ID, []string{c.Tenant}, c.Name
	return view
}

// All is part of broker.Connectors.
func (r *Registry) All() []broker.Connector {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.Fixed.All())
	for _, id := range slices.Sorted(maps.Keys(r.own)) {
		all = append(all, ownView(r.own[id]))
	}
	return all
}

// CheckTenantConnector is part of broker.ConnectorRegistry.
func (r *Registry) CheckTenantConnector(c broker.TenantConnector) error {
	if c.Provider != "rig" {
		return broker.Errorf(broker.CodeInvalidRequest, "provider is none that this installation knows")
	}
	return nil
}

// PutTenantConnector is part of broker.ConnectorRegistry.
func (r *Registry) PutTenantConnector(c broker.TenantConnector) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own == nil {
		r.own = map[string]broker.TenantConnector{}
	}
	if r.own[c.ID].Version < c.Version {
		r.own[c.ID] = c
	}
}

// DropTenantConnector is part of broker.ConnectorRegistry.
func (r *Registry) DropTenantConnector(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.own, id)
}

// SetTenantConnectors is part of broker.ConnectorRegistry.
func (r *Registry) SetTenantConnectors(all []broker.TenantConnector, keep []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[string]broker.TenantConnector{}
	for _, id := range keep {
		if c, ok := r.own[id]; ok {
			next[id] = c
		}
	}
	for _, c := range all {
		next[c.ID] = c
	}
	r.own = next
}
