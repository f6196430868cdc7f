package providers

import (
	"maps"
	"slices"
	"strings"

	"tokenbroker/broker"
)

// configOf is a tenant's connector as the registry has connectors.
func configOf(c broker.TenantConnector) ConnectorConfig {
	return ConnectorConfig{
		ID: c.ID, Provider: c.Provider, Name: c.Name, ClientID: c.ClientID, ClientSecret: c.ClientSecret, PKCE: c.PKCE, Scopes: c.Scopes,
		DefaultScopes: c.DefaultScopes, Vars: c.Vars, Previous: c.Previous, PreviousUntil: c.PreviousUntil, Generation: c.ClientGeneration,
		Tenant: c.Tenant, Tenants: []string{c.Tenant}, Version: c.Version,
	}
}

// CheckTenantConnector implements broker.ConnectorRegistry: what holds for a connector of the configuration holds for it too, and
// what reach.go says beside that.
func (r *Registry) CheckTenantConnector(c broker.TenantConnector) error {
	if _, ok := r.known[c.Provider]; !ok || c.Provider == "" {
		return broker.Errorf(broker.CodeInvalidRequest, "provider is none that this installation knows")
	}
	s, problems := r.newServer(configOf(c))
	if len(problems) == 0 && s != nil {
		return nil
	}
	var texts []string
	for _, p := range problems {
		if p.Key == "default_scopes" && strings.HasPrefix(p.Text, "holds") {
			p.Text = "holds what scopes does not" // and no value
		}
		if text := strings.TrimSpace(p.Key + " " + p.Text); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	if len(texts) == 0 {
		texts = append(texts, "provider can't be used")
	}
	return broker.Errorf(broker.CodeInvalidRequest, "%s", strings.Join(texts, "; "))
}

// PutTenantConnector implements broker.ConnectorRegistry.
func (r *Registry) PutTenantConnector(c broker.TenantConnector) {
	r.changing.Lock()
	defer r.changing.Unlock()
	now := r.present.Load()
	if had := now.servers[c.ID]; had != nil && (had.config.Tenant == "" || had.config.Version >= c.Version) {
		return // of the configuration, or as new
	}
	servers := maps.Clone(now.servers)
	delete(servers, c.ID)
	r.take(servers, c, now)
	r.replace(servers)
}

// DropTenantConnector implements broker.ConnectorRegistry.
func (r *Registry) DropTenantConnector(id string) {
	r.changing.Lock()
	defer r.changing.Unlock()
	now := r.present.Load()
	if had := now.servers[id]; had == nil || had.config.Tenant == "" {
		return
	}
	servers := maps.Clone(now.servers)
	delete(servers, id)
	r.replace(servers)
}

// SetTenantConnectors implements broker.ConnectorRegistry.
func (r *Registry) SetTenantConnectors(all []broker.TenantConnector, keep []string) {
	r.changing.Lock()
	defer r.changing.Unlock()
	now := r.present.Load()
	servers := maps.Clone(now.servers)
	maps.DeleteFunc(servers, func(id string, s *server) bool { return s.config.Tenant != "" && !slices.Contains(keep, id) })
	for _, c := range all {
		r.take(servers, c, now)
	}
	r.replace(servers)
}

// take makes the connector one of servers. What is unchanged stays as it was, with what it learned of its provider.
func (r *Registry) take(servers map[string]*server, c broker.TenantConnector, now *snapshot) {
	if had := servers[c.ID]; had != nil && had.config.Tenant == "" {
		return
	}
	if had := now.servers[c.ID]; had != nil && had.config.Version == c.Version && had.config.Tenant == c.Tenant {
		servers[c.ID] = had
		return
	}
	s, problems := r.newServer(configOf(c))
	if s == nil || len(problems) > 0 {
		r.log.Warn("a tenant's connector can't be used any more: its provider's definition is gone, or asks for something else", "tenant", c.Tenant, "connector", c.ID)
		return
	}
	s.made = c.CreatedAt
	servers[c.ID] = s
}

// replace makes the servers the present ones.
func (r *Registry) replace(servers map[string]*server) {
	next := &snapshot{servers: servers}
	for _, c := range r.present.Load().order {
		if s := servers[c.ID]; s != nil && s.config.Tenant == "" {
			next.order = append(next.order, c)
		}
	}
	var own []*server
	for _, s := range servers {
		if s.config.Tenant != "" {
			own = append(own, s)
		}
	}
	slices.SortFunc(own, func(a, b *server) int {
		if n := a.made.Compare(b.made); n != 0 {
			return n
		}
		return strings.Compare(a.id, b.id)
	})
	for _, s := range own {
		next.order = append(next.order, s.view)
	}
	r.present.Store(next)
}
