package broker

import (
	"context"
	"encoding/base32"
	"fmt"
	"io"
	"strings"
	"time"
)

// TenantConnector is a connector that a tenant made itself, through the API, with the OAuth client that it has at the
// provider. Nobody outside of its tenant sees or uses it.
type TenantConnector struct {
	ID       string
	Tenant   string
	Client   string // the API client that made it
	Provider string // as ConnectorConfig of package providers has it: a definition, or a product of the catalogue
	Name     string // what users read; empty: the product's
	// ClientID does not change: a refresh token works for the client that it was issued to alone (RFC 6749 section 6), so another
	// client is another connector.
	ClientID     string
	ClientSecret Secret // zero: a public client
	// ClientGeneration numbers the client secrets, from 1. Previous is the one before ClientSecret, of the generation before: it is
	// tried where the provider refuses ClientSecret, until PreviousUntil.
	ClientGeneration int64
	Previous         Secret
	PreviousUntil    time.Time
	Scopes           []string // what may be asked; empty: the product's
	DefaultScopes    []string // asked when a request names none; empty: all of Scopes
	Vars             map[string]string
	PKCE             string
	CreatedAt        time.Time
	UpdatedAt        time.Time

	// Version grows by one with every write of the record. A write names the version that it was made from.
	Version int64
}

// TenantConnectors keeps the connectors of tenants, sealed. They are few, and change rarely.
type TenantConnectors interface {
	// TenantConnector returns one. ErrNotFound when the tenant has none of that id.
	TenantConnector(ctx context.Context, tenant, id string) (TenantConnector, error)
	// TenantConnectorsOf returns the tenant's, oldest first. Those that do not open are named in an *UnreadableError, and the
	// others come with it.
	TenantConnectorsOf(ctx context.Context, tenant string) ([]TenantConnector, error)
	// AllTenantConnectors returns those of all tenants, unless nothing was written since mark was returned: then changed is false.
	// mark is "" at first. *UnreadableError as above; then mark is good too.
	AllTenantConnectors(ctx context.Context, mark string) (all []TenantConnector, now string, changed bool, err error)
	// SaveTenantConnector writes it, if the stored one is still at c.Version (0: there is none), and records the entries; both or
	// neither. Durable. ErrConflict.
	SaveTenantConnector(ctx context.Context, c TenantConnector, entries []Entry) (TenantConnector, error)
	// DeleteTenantConnector erases it, if the stored one is still at c.Version, and records the entries; both or neither. Durable.
	// ErrConflict: it is at another version, or gone.
	DeleteTenantConnector(ctx context.Context, c TenantConnector, entries []Entry) error
}

// ConnectorRegistry is the part of Connectors that changes while the program runs: what replicas know of tenants' connectors.
// It sends nothing, and is safe for concurrent use; whoever reads Connectors meanwhile sees the state before or the one after.
type ConnectorRegistry interface {
	// CheckTenantConnector tells what is wrong with it, as an *Error that names the field and repeats no value.
	CheckTenantConnector(c TenantConnector) error
	// PutTenantConnector takes it up, in the place of an older version. One that can't be used is logged, and left out.
	PutTenantConnector(c TenantConnector)
	// DropTenantConnector forgets it.
	DropTenantConnector(id string)
	// SetTenantConnectors takes up all of these, and forgets all others but those of the ids in keep.
	SetTenantConnectors(all []TenantConnector, keep []string)
}

// tenantMark stands in the ids of tenants' connectors and in no id of the configuration, so that neither can take the
// other's place, and an id alone tells which kind it is.
const tenantMark = "_"

// madeByTenant tells whether it is the id of a tenant's connector.
func madeByTenant(connector string) bool { return strings.Contains(connector, tenantMark) }

// connectorIDBytes are the random bytes in the id of a tenant's connector: 80 bits, so that nobody takes an id before somebody
// else, or finds out what others have by trying.
const connectorIDBytes = 10

// connectorEncoding is base32 in lower case (RFC 4648 section 6): the id is part of a redirect URI, which some providers
// compare without regard to case.
var connectorEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// connector makes the id of a tenant's connector: what the tenant wished, and a random part.
func (g ids) connector(wish string) (string, error) {
	raw := make([]byte, connectorIDBytes)
	if _, err := io.ReadFull(g.random, raw); err != nil {
		return "", fmt.Errorf("read randomness: %w", err)
	}
	return wish + tenantMark + connectorEncoding.EncodeToString(raw), nil
}

// tenantView is the connectors as one tenant sees them: those of the configuration, and its own. Another tenant's looks like
// one that is not there.
type tenantView struct {
	s      *Service
	ctx    context.Context
	tenant string
}

// connectorsOf are the connectors as the tenant sees them, for the time of one request.
func (s *Service) connectorsOf(ctx context.Context, tenant string) Connectors {
	return tenantView{s: s, ctx: ctx, tenant: tenant}
}

// Connector implements Connectors. One that another replica made a moment ago is read from the store: one record, and only
// for an id that can be a tenant's. Another tenant's is looked for in the same way, so that it takes as long as what is not there.
func (v tenantView) Connector(id string) (Connector, bool) {
	if c, ok := v.s.cfg.Connectors.Connector(id); ok && ofTenant(c, v.tenant) {
		return c, true
	}
	if !v.s.learnConnector(v.ctx, v.tenant, id) {
		return Connector{}, false
	}
	c, ok := v.s.cfg.Connectors.Connector(id)
	return c, ok && ofTenant(c, v.tenant)
}

// All implements Connectors.
func (v tenantView) All() []Connector {
	var mine []Connector
	for _, c := range v.s.cfg.Connectors.All() {
		if ofTenant(c, v.tenant) {
			mine = append(mine, c)
		}
	}
	return mine
}
