package api

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"tokenbroker/broker"
)

const (
	maxName      = 128
	maxProvider  = 64
	maxClientID  = 1024
	maxSecret    = 4096
	maxVars      = 32
	maxVarsValue = 253
)

// connectorBody is the body of POST /v1/admin/connectors.
type connectorBody struct {
	ID            string            `json:"id"`
	Provider      string            `json:"provider"`
	Name          string            `json:"name"`
	ClientID      string            `json:"client_id"`
	ClientSecret  string            `json:"client_secret"`
	Scopes        scopeList         `json:"scopes"`
	DefaultScopes scopeList         `json:"default_scopes"`
	Vars          map[string]string `json:"vars"`
	PKCE          string            `json:"pkce"`
}

// connectorChangeBody is the body of PATCH /v1/admin/connectors/ID; what is left out stays.
type connectorChangeBody struct {
	Name          string     `json:"name"`
	Scopes        *scopeList `json:"scopes"`
	DefaultScopes *scopeList `json:"default_scopes"`
	ClientSecret  *string    `json:"client_secret"`
	Overlap       *int64     `json:"overlap"` // seconds
}

// ownConnectorAnswer is a tenant's connector as its tenant reads it: no field can hold its client secret.
type ownConnectorAnswer struct {
	ID               string            `json:"id"`
	Provider         string            `json:"provider"`
	Name             string            `json:"name"`
	ClientID         string            `json:"client_id"`
	HasClientSecret  bool              `json:"has_client_secret"`
	ClientGeneration int64             `json:"client_generation"`
	OverlapUntil     *string           `json:"overlap_until"`
	Scopes           []string          `json:"scopes"`
	DefaultScopes    []string          `json:"default_scopes"`
	Vars             map[string]string `json:"vars"`
	PKCE             *string           `json:"pkce"`
	RedirectURI      string            `json:"redirect_uri"`
	CreatedAt        string            `json:"created_at"`
	UpdatedAt        string            `json:"updated_at"`
}

type ownConnectorsAnswer struct {
	Connectors []ownConnectorAnswer `json:"connectors"`
}

func showOwnConnector(c broker.ConnectorView) ownConnectorAnswer {
	vars := c.Vars
	if vars == nil {
		vars = map[string]string{}
	}
	return ownConnectorAnswer{
		ID: c.ID, Provider: c.Provider, Name: c.Name, ClientID: c.ClientID, HasClientSecret: c.Confidential, ClientGeneration: c.ClientGeneration,
		OverlapUntil: stampOrNull(c.PreviousUntil), Scopes: append([]string{}, c.Scopes...), DefaultScopes: append([]string{}, c.DefaultScopes...),
		Vars: vars, PKCE: textOrNull(c.PKCE), RedirectURI: c.RedirectURI, CreatedAt: stamp(c.CreatedAt), UpdatedAt: stamp(c.UpdatedAt),
	}
}

func (a *API) createConnector(ctx context.Context, in *request) (answer, error) {
	body, err := readBody[connectorBody](in)
	if err != nil {
		return answer{}, err
	}
	var f fields
	f.required("provider", body.Provider)
	f.required("client_id", body.ClientID)
	f.text("id", body.ID, maxName) // its form is the service's to check
	f.text("provider", body.Provider, maxProvider)
	f.text("name", body.Name, maxName)
	f.text("client_id", body.ClientID, maxClientID)
	f.text("client_secret", body.ClientSecret, maxSecret)
	f.text("pkce", body.PKCE, maxName)
	f.vars(body.Vars)
	n := broker.NewConnector{
		Wish: body.ID, Provider: body.Provider, Name: body.Name, ClientID: body.ClientID, ClientSecret: broker.NewSecret(body.ClientSecret),
		Scopes: f.scopeTokens("scopes", body.Scopes.names), DefaultScopes: f.scopeTokens("default_scopes", body.DefaultScopes.names),
		Vars: body.Vars, PKCE: body.PKCE,
	}
	if f.err != nil {
		return answer{}, f.err
	}
	view, err := a.cfg.Service.CreateConnector(ctx, in.caller, n)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, body: showOwnConnector(view)}, nil
}

func (a *API) ownConnectors(ctx context.Context, in *request) (answer, error) {
	list, err := a.cfg.Service.OwnConnectors(ctx, in.caller)
	if err != nil {
		return answer{}, err
	}
	shown := make([]ownConnectorAnswer, 0, len(list))
	for _, c := range list {
		shown = append(shown, showOwnConnector(c))
	}
	return ok(ownConnectorsAnswer{Connectors: shown})
}

func (a *API) ownConnector(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("connector")
	if err != nil {
		return answer{}, err
	}
	view, err := a.cfg.Service.OwnConnector(ctx, in.caller, id)
	if err != nil {
		return answer{}, err
	}
	return ok(showOwnConnector(view))
}

func (a *API) updateConnector(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("connector")
	if err != nil {
		return answer{}, err
	}
	body, err := readBody[connectorChangeBody](in)
	if err != nil {
		return answer{}, err
	}
	var f fields
	var change broker.ConnectorChange
	f.text("name", body.Name, maxName)
	if body.Name != "" {
		change.Name = &body.Name
	}
	switch secret := body.ClientSecret; {
	case secret == nil:
	case *secret == "":
		f.refuse("client_secret is empty: leave it out to keep the one there is") // a variable that was not set, most likely
	default:
		f.text("client_secret", *secret, maxSecret)
		change.ClientSecret = broker.NewSecret(*secret)
	}
	if body.Scopes != nil && body.Scopes.names != nil {
		scopes := f.scopeTokens("scopes", body.Scopes.names)
		change.Scopes = &scopes
	}
	if body.DefaultScopes != nil && body.DefaultScopes.names != nil {
		scopes := f.scopeTokens("default_scopes", body.DefaultScopes.names)
		change.DefaultScopes = &scopes
	}
	if body.Overlap != nil {
		if most := int64(broker.MaxOverlap / time.Second); *body.Overlap < 0 || *body.Overlap > most {
			f.refuse("overlap must be 0 to %d seconds", most)
		} else {
			overlap := time.Duration(*body.Overlap) * time.Second
			change.Overlap = &overlap
		}
	}
	if f.err != nil {
		return answer{}, f.err
	}
	view, err := a.cfg.Service.UpdateConnector(ctx, in.caller, id, change)
	if err != nil {
		return answer{}, err
	}
	return ok(showOwnConnector(view))
}

func (a *API) deleteConnector(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("connector")
	if err != nil {
		return answer{}, err
	}
	revoke := false
	switch in.query["revoke"] {
	case "", "false":
	case "true":
		revoke = true
	default:
		return answer{}, invalid("revoke must be true or false")
	}
	erased, err := a.cfg.Service.DeleteConnector(ctx, in.caller, id, revoke)
	if err != nil {
		return answer{}, err
	}
	return ok(showErased(erased))
}

// scopeTokens checks a list of scopes that a connector shall have (RFC 6749 section 3.3), and returns each once.
func (f *fields) scopeTokens(name string, list []string) []string {
	if len(list) > maxScopes {
		f.refuse("%s may name at most %d scopes", name, maxScopes)
		return nil
	}
	for _, scope := range list {
		if !isScope(scope) {
			f.refuse("%s must be 1 to %d visible ASCII characters each, without quotes, backslashes and spaces", name, maxScope)
		}
	}
	return broker.NewScopeSet(list...).All()
}

// vars checks values for a provider's {placeholders}; which of them there are, the provider's definition says.
func (f *fields) vars(values map[string]string) {
	if len(values) > maxVars {
		f.refuse("vars may have at most %d values", maxVars)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if !isPlaceholder(name) {
			f.refuse("vars has a name that is none of a placeholder: 1 to 32 lower-case letters, digits and underscores, the first a letter")
			return
		}
		f.text("vars."+name, values[name], maxVarsValue)
		if values[name] == "" {
			f.refuse("vars.%s is empty; give a value or leave it out", name)
		}
	}
}

func isPlaceholder(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || i > 0 && ('0' <= c && c <= '9' || c == '_')) {
			return false
		}
	}
	return name != "" && len(name) <= 32
}
