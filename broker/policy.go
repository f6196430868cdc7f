package broker

import (
	"fmt"
	"slices"
	"strings"
)

// This file holds every rule about who may have what. The rules are pure: they read what they are given.

// ask is a request for permissions that policy has let through.
type ask struct {
	connector Connector
	// scopes that the caller wants: the ones it named, or the connector's default ones within its ceiling.
	scopes ScopeSet
	// tokens carry at most these; nil: no ceiling.
	ceiling *ScopeSet
}

// admit decides whether the client may ask this connector for these scopes.
func admit(client Client, connectors Connectors, connectorID string, named ScopeSet) (ask, error) {
	connector, ok := connectors.Connector(connectorID)
	if !ok || !ofTenant(connector, client.Tenant) {
		return ask{}, Errorf(CodeNotFound, "there is no connector of that id; GET /v1/connectors lists those that you may use")
	}
	if !mayUse(client, connector.ID) {
		return ask{}, errConnectorDenied(connector.ID)
	}
	scopes := named
	if named.Empty() {
		scopes = connector.Default
		if client.Scopes != nil && !client.Scopes.Covers(scopes) {
			scopes = scopes.Intersect(*client.Scopes)
			if scopes.Empty() {
				return ask{}, Errorf(CodeAccessDenied, "none of connector %s's default scopes is within what this client may have; the operator sets that under clients: scopes", connector.ID)
			}
		}
	} else {
		// Scopes that the broker adds anyway may be named too, and change nothing.
		scopes = named.only(func(scope string) bool { return !connector.Implied.Has(scope) || connector.offers(scope) })
		if unknown := scopes.only(func(scope string) bool { return !connector.offers(scope) }); !unknown.Empty() || scopes.Empty() {
			return ask{}, Errorf(CodeInvalidScope, "connector %s does not offer %s; GET /v1/connectors lists what it offers", connector.ID, scopeWords(unknown))
		}
		if client.Scopes != nil && !client.Scopes.Covers(scopes) {
			return ask{}, Errorf(CodeAccessDenied, "this client may not have all of the scopes asked for; the operator sets that under clients: scopes")
		}
	}
	return ask{connector: connector, scopes: scopes, ceiling: client.Scopes}, nil
}

// scopeWords names the first few scopes, for an error.
func scopeWords(scopes ScopeSet) string {
	const most = 3
	all := scopes.All()
	switch {
	case len(all) == 0:
		return "these scopes alone"
	case len(all) > most:
		return "the scopes " + strings.Join(all[:most], " ") + fmt.Sprintf(" and %d more", len(all)-most)
	}
	return "the scopes " + strings.Join(all, " ")
}

// mayStand tells whether the connector, as it is configured now, still obtains tokens for the connection in the way that
// made it, for that tenant and subject.
func mayStand(c Connector, conn Connection) bool {
	return conn.Direct == c.Direct() && (!conn.Direct || ofTenant(c, conn.Tenant) && mayActFor(c, conn.Subject))
}

// ofTenant tells whether the connector is there for that tenant.
func ofTenant(c Connector, tenant string) bool {
	return c.Tenants == nil || slices.Contains(c.Tenants, tenant)
}

// mayActFor tells whether a direct grant may be for that subject: for none, if its tokens are the tenant's own, else for
// one that the operator listed, by name or as *@DOMAIN.
func mayActFor(c Connector, subject string) bool {
	if c.OfTenant() {
		return subject == ""
	}
	return slices.ContainsFunc(c.Impersonate, func(pattern string) bool {
		domain, all := strings.CutPrefix(pattern, "*@")
		if !all {
			return subject == pattern && subject != ""
		}
		name, at, ok := strings.Cut(subject, "@")
		return ok && name != "" && at == domain
	})
}

// admitSubject decides whether the request may be about that subject, given what the connector's tokens are for.
func (a ask) admitSubject(subject string) error {
	c := a.connector
	switch {
	case c.OfTenant() && subject != "":
		return Errorf(CodeInvalidRequest, "connector %s's tokens are the tenant's own and no user's: leave subject out", c.ID)
	case !c.OfTenant() && subject == "":
		return Errorf(CodeInvalidRequest, "subject is missing: send your id of the end user")
	case c.Direct() && !mayActFor(c, subject):
		return Errorf(CodeAccessDenied, "connector %s may not act for this subject; the operator allows it under connectors: impersonate", c.ID)
	}
	return nil
}

func errConnectorDenied(connector string) *Error {
	return Errorf(CodeAccessDenied, "this client may not use connector %s; the operator allows it under clients: connectors", connector)
}

// mayUse tells whether the client may use the connector, if it is one that its tenant sees.
func mayUse(client Client, connector string) bool {
	return client.Connectors == nil || slices.Contains(client.Connectors, connector) || client.OwnConnectors && madeByTenant(connector)
}

// mayManage decides whether the client may see and change how connectors of its tenant are made.
func (s *Service) mayManage(client Client) error {
	switch {
	case !s.hasTenantConnectors():
		return Errorf(CodeAccessDenied, "this broker takes its connectors from its configuration alone")
	case !client.ManageConnectors:
		return Errorf(CodeAccessDenied, "this client may not manage connectors; the operator allows it under clients: manage_connectors")
	}
	return nil
}

// mayReturnTo tells whether a consent may send the browser there: exact comparison, nothing else (RFC 9700 section 4.11.1).
func mayReturnTo(client Client, url string) bool { return slices.Contains(client.ReturnTo, url) }

// offers tells whether the operator configured the scope for the connector.
func (c Connector) offers(scope string) bool {
	for i := range c.Scopes {
		if c.Scopes[i].Name == scope {
			return true
		}
	}
	return false
}

// offeredScopes are those that the operator configured for the connector.
func offeredScopes(c Connector) ScopeSet {
	names := make([]string, len(c.Scopes))
	for i, s := range c.Scopes {
		names[i] = s.Name
	}
	return NewScopeSet(names...)
}

// narrowing tells how a token of this grant may reach the caller: as it is (false), only with fewer scopes (true), or,
// with an error, not at all.
func (a ask) narrowing(carried ScopeSet) (bool, error) {
	if a.ceiling == nil || !slices.ContainsFunc(carried.All(), func(scope string) bool { return !a.ceiling.Has(scope) && !a.connector.Implied.Has(scope) }) {
		return false, nil
	}
	if a.connector.Narrows {
		return true, nil
	}
	return false, Errorf(CodeAccessDenied, "the token would carry more scopes than this client may have, and connector %s's provider can't narrow it", a.connector.ID)
}
