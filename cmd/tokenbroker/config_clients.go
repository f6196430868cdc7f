package main

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
	"tokenbroker/providers"
)

// clients reads who may call the API. The connectors are read already.
func (o object) clients(connectors []providers.ConnectorConfig, limits broker.Limit) []ClientConfig {
	var out []ClientConfig
	nodes, _ := o.list("clients")
	firstID := map[string]int{}
	firstKey := map[[32]byte]string{}
	for i, n := range nodes {
		c, ok := o.s.object(n, fmt.Sprintf("clients[%d]", i), "id", "name", "tenant", "key_sha256", "connectors", "scopes", "return_to", "origins",
			"manage_connectors", "own_connectors", "login", "theme", "limits", "subject_tokens", "authentication")
		if !ok {
			continue
		}
		c.need("id", "acme-chat")
		c.need("tenant", "acme")
		if c.get("authentication") == nil {
			c.need("key_sha256", `["..."], which tokenbroker client create prints`)
		}
		id := c.text("id", "", clientID)
		if line := firstID[id]; id != "" && line != 0 {
			o.s.report(c.get("id"), "%s: the client on line %d has the same id; ids are unique", c.at("id"), line)
		} else if id != "" {
			firstID[id] = c.get("id").Line
		}
		client := broker.Client{ID: id, Tenant: c.text("tenant", "", clientID), Name: c.text("name", id, label)}
		client.Connectors = c.clientConnectors(connectors)
		client.ManageConnectors, client.OwnConnectors = c.truth("manage_connectors"), c.truth("own_connectors")
		if scopes, given := c.texts("scopes", scopeToken); given {
			ceiling := broker.NewScopeSet(plain(scopes)...)
			client.Scopes = &ceiling
			c.noteUnknownScopes(connectors, client, scopes)
		}
		returnTo, _ := c.texts("return_to", returnURL)
		origins, _ := c.texts("origins", webOrigin)
		client.ReturnTo, client.Origins = plain(returnTo), plain(origins)
		login := c.login(id)
		client.Login = login != nil
		proofs := c.assertions(&client)
		one := ClientConfig{Client: client, KeySHA256: c.keys(firstKey), Login: login, Assertions: proofs, Theme: c.theme(), Limits: c.ownLimits(limits)}
		if out = append(out, one); proofs != nil {
			if other := sharedWorkload(out); other != "" {
				o.s.report(c.get("authentication"), "%s: a token of a workload would stand for client %s too; tell them apart by subject, audiences or claims", c.at("authentication"), other)
			}
		}
	}
	return out
}

// keys reads the hashes of the client's API keys. A key names its client, so no two clients share one.
func (o object) keys(taken map[[32]byte]string) [][32]byte {
	var keys [][32]byte
	nodes, given := o.list("key_sha256")
	if given && len(nodes) == 0 && o.get("key_sha256").Kind == yaml.SequenceNode {
		o.s.report(o.get("key_sha256"), "%s is an empty list, so nobody could call as this client; tokenbroker client create makes a key", o.at("key_sha256"))
	}
	for i, n := range nodes {
		at := fmt.Sprintf("%s[%d]", o.at("key_sha256"), i)
		if o.s.broken[n] {
			continue
		}
		if n.Kind != yaml.ScalarNode {
			o.s.report(n, "%s must be a single value", at)
			continue
		}
		digest, err := sha256Hex(n.Value)
		if err != nil {
			o.s.report(n, "%s %s", at, err)
			continue
		}
		if other, used := taken[digest]; used {
			o.s.report(n, "%s is the same key as %s; every client has its own", at, other)
			continue
		}
		taken[digest] = at
		keys = append(keys, digest)
	}
	return keys
}

// clientConnectors reads which connectors the client may use; nil: all.
func (o object) clientConnectors(connectors []providers.ConnectorConfig) []string {
	ids, given := o.texts("connectors", connectorID)
	if !given {
		return nil
	}
	out := []string{}
	for _, id := range ids {
		known := slices.ContainsFunc(connectors, func(c providers.ConnectorConfig) bool { return c.ID == id.text })
		if !known {
			o.s.report(id.node, "%s: there is no connector %q; add it under connectors, or remove it here", o.at("connectors"), id.text)
			continue
		}
		out = append(out, id.text)
	}
	return out
}

// noteUnknownScopes says so where a ceiling names a scope that no connector of the client offers: likely a slip, but no
// error, for a ceiling may be wider than what is offered today.
func (o object) noteUnknownScopes(connectors []providers.ConnectorConfig, client broker.Client, scopes []item) {
	for _, scope := range scopes {
		offered := slices.ContainsFunc(connectors, func(c providers.ConnectorConfig) bool {
			may := client.Connectors == nil || slices.Contains(client.Connectors, c.ID)
			return may && (len(c.Scopes) == 0 || slices.Contains(c.Scopes, scope.text)) // none listed: the catalogue's
		})
		if !offered {
			o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: no connector that %s may use offers the scope %q", o.s.file, scope.node.Line, o.path, scope.text))
		}
	}
}
