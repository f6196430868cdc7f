package providers

import (
	"time"

	"tokenbroker/broker"
)

// ConnectorConfig is a connector as the operator, or a tenant through the API, configured it.
type ConnectorConfig struct {
	ID string
	// Provider is the id of a definition, or of a product in the catalogue ("google-drive").
	Provider      string
	Name          string // shown to users; default: the product's name, else the provider's
	ClientID      string
	ClientSecret  broker.Secret
	NoticeSecret  broker.Secret // that the provider signs its notices with
	PKCE          string        // S256: sent although the definition does not know whether the provider has it
	Scopes        []string      // default: the product's
	DefaultScopes []string      // default: all of Scopes
	Vars          map[string]string
	// RefreshesAtOnce is what the OAuth client may have under way at its provider, from all replicas together; 0: nothing is set.
	RefreshesAtOnce int

	// Grant is how tokens are obtained; default authorization_code. Device: users may consent on another device, too.
	Grant  string
	Device bool
	// Tenants that the connector is there for; required where its own credentials obtain tokens, else default all.
	Tenants []string
	// Assertion is for grant jwt_bearer, and so is Impersonate: the subjects that it acts for, each whole or as *@DOMAIN.
	Assertion   AssertionConfig
	Impersonate []string

	// Previous is the client secret before ClientSecret: it is tried where the provider refuses that one, until PreviousUntil (zero:
	// as long as it is configured). Generation numbers the secrets, and Previous is of the one before; 0: nobody counts.
	Previous      broker.Secret
	PreviousUntil time.Time
	Generation    int64

	// Tenant that made it through the API, and Version of its record; empty: it is of the configuration.
	Tenant  string
	Version int64

	// Line in the configuration, and Key ("connectors[0]"), for messages; may be left out.
	Line int
	Key  string
}
