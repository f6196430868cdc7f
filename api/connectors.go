package api

import (
	"context"

	"tokenbroker/broker"
)

type connectorAnswer struct {
	ID            string        `json:"id"`
	Name          string        `json:"name"`
	Category      string        `json:"category"`
	Scopes        []scopeAnswer `json:"scopes"`
	DefaultScopes []string      `json:"default_scopes"`
	// Of connectors that obtain their tokens without a consent; Own: a token request names no subject.
	Grant broker.GrantType `json:"grant,omitzero"`
	Own   bool             `json:"own,omitzero"`
	// Device: a consent can be given on another device.
	Device bool `json:"device,omitzero"`
}

type scopeAnswer struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Access      string `json:"access"`
	Sensitive   bool   `json:"sensitive"`
}

type connectorsAnswer struct {
	Connectors []connectorAnswer `json:"connectors"`
}

func (a *API) listConnectors(_ context.Context, in *request) (answer, error) {
	list := a.cfg.Service.ListConnectors(in.caller)
	shown := make([]connectorAnswer, 0, len(list))
	for _, c := range list {
		scopes := make([]scopeAnswer, 0, len(c.Scopes))
		for _, s := range c.Scopes {
			scopes = append(scopes, scopeAnswer{Name: s.Name, Description: s.Description, Access: accessName(s.Access), Sensitive: s.Sensitive})
		}
		shown = append(shown, connectorAnswer{ID: c.ID, Name: c.Name, Category: c.Category, Scopes: scopes,
			DefaultScopes: scopeArray(c.Default), Grant: directGrant(c), Own: c.OfTenant(), Device: c.Device})
	}
	return ok(connectorsAnswer{Connectors: shown})
}

// directGrant names the grant that needs no consent, if the connector has such a one.
func directGrant(c broker.Connector) broker.GrantType {
	if c.Direct() {
		return c.Grant
	}
	return ""
}

// accessName gives the access that has no name of its own one.
func accessName(a broker.Access) string {
	if a == broker.AccessOther {
		return "other"
	}
	return string(a)
}
