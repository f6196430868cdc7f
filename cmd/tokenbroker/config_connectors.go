package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/providers"
)

// connectors reads the OAuth clients at providers. What depends on the provider is for checkProviders.
func (o object) connectors() []providers.ConnectorConfig {
	var out []providers.ConnectorConfig
	nodes, _ := o.list("connectors")
	first := map[string]int{}
	for i, n := range nodes {
		c, ok := o.s.object(n, fmt.Sprintf("connectors[%d]", i), "id", "name", "provider", "client_id", "client_secret", "previous_client_secret", "client_generation",
			"notice_secret", "refreshes_at_once", "scopes", "default_scopes", "vars", "pkce",
			"grant", "device", "tenants", "assertion", "impersonate")
		if !ok {
			continue
		}
		c.need("id", "files")
		c.need("provider", "google")
		c.need("client_id", "the id that the provider gave to your OAuth client")
		connector := providers.ConnectorConfig{
			ID: c.text("id", "", connectorID), Name: c.text("name", "", label), Provider: c.text("provider", "", oneLine),
			ClientID: c.text("client_id", "", oneLine), Line: n.Line, Key: c.path,
		}
		if line := first[connector.ID]; connector.ID != "" && line != 0 {
			c.fail("id", "", c.get("id"), "is also the id of the connector on line %d; ids are unique", line)
		} else if connector.ID != "" {
			first[connector.ID] = c.get("id").Line
		}
		if secret, given := c.secret("client_secret"); given {
			if _, err := oneLine(secret.Reveal()); err != nil {
				c.fail("client_secret", "", c.get("client_secret"), "%s", err)
			}
			connector.ClientSecret = secret
		}
		c.earlierSecret(&connector)
		if secret, given := c.secret("notice_secret"); given {
			connector.NoticeSecret = secret
		}
		scopes, _ := c.texts("scopes", scopeToken)
		connector.Scopes = plain(scopes)
		defaults, _ := c.texts("default_scopes", scopeToken)
		connector.DefaultScopes = plain(defaults)
		connector.Vars = c.vars()
		connector.PKCE = c.text("pkce", "", oneLine)
		connector.RefreshesAtOnce = c.number("refreshes_at_once", 0, 1, 100_000)
		c.grant(&connector)
		out = append(out, connector)
	}
	return out
}

// grant reads how the connector's tokens are obtained.
func (o object) grant(connector *providers.ConnectorConfig) {
	connector.Grant, connector.Device = o.text("grant", "", oneLine), o.truth("device")
	if tenants, given := o.texts("tenants", clientID); given {
		connector.Tenants = append([]string{}, plain(tenants)...)
		if nodes, _ := o.list("tenants"); len(nodes) == 0 && o.get("tenants").Kind == yaml.SequenceNode {
			o.fail("tenants", "", o.get("tenants"), "is an empty list, so nobody could use the connector; leave it out for all")
		}
	}
	subjects, _ := o.texts("impersonate", oneLine)
	connector.Impersonate = plain(subjects)
	n := o.get("assertion")
	if n == nil {
		return
	}
	a, ok := o.s.object(n, o.at("assertion"), "key", "key_id", "subject")
	if !ok {
		o.s.settled[o.at("assertion")] = true
		return
	}
	connector.Assertion.Key, _ = a.secret("key")
	connector.Assertion.KeyID, connector.Assertion.Subject = a.text("key_id", "", oneLine), a.text("subject", "", oneLine)
}

// earlierSecret reads the client secret that is still tried while a new one is being introduced. The new one needs a number
// then, so that connections can tell by which of them their newest tokens were obtained.
func (o object) earlierSecret(connector *providers.ConnectorConfig) {
	connector.Generation = int64(o.number("client_generation", 1, 1, 1_000_000))
	secret, given := o.secret("previous_client_secret")
	if !given {
		return
	}
	if _, err := oneLine(secret.Reveal()); err != nil {
		o.fail("previous_client_secret", "", o.get("previous_client_secret"), "%s", err)
	}
	switch {
	case connector.ClientSecret.IsZero():
		o.fail("previous_client_secret", "", o.get("previous_client_secret"), "is set without client_secret, which is tried first")
	case secret.Equal(connector.ClientSecret):
		o.fail("previous_client_secret", "", o.get("previous_client_secret"), "is the same as client_secret; leave it out")
	case connector.Generation < 2:
		o.fail("previous_client_secret", "", o.get("previous_client_secret"), "needs client_generation: 2 or more, the number of the new client_secret; the previous one has the number before it")
	}
	connector.Previous = secret
}

// vars reads the values for a provider's {placeholders}; the definition says which exist and what they may look like.
func (o object) vars() map[string]string {
	n := o.get("vars")
	if n == nil {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		if !o.s.broken[n] {
			o.fail("vars", "", n, "must be a mapping, such as {subdomain: acme}")
		}
		return nil
	}
	out := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], deref(n.Content[i+1])
		if key.Kind != yaml.ScalarNode || key.Value == "<<" {
			continue // reported by prepare
		}
		o.s.lines[o.at("vars")+"."+key.Value] = key.Line
		if o.s.broken[value] {
			o.s.settled[o.at("vars")+"."+key.Value] = true
			continue
		}
		if value.Kind != yaml.ScalarNode || value.Value == "" {
			o.fail("vars."+key.Value, "", value, "must be a single value")
			continue
		}
		text, err := oneLine(value.Value)
		if err != nil {
			o.fail("vars."+key.Value, "", value, "%s", err)
			continue
		}
		out[key.Value] = text
	}
	return out
}

// providers reads the custom providers, and checks connectors against them and the catalogue.
func (o object) providers(connectors []providers.ConnectorConfig) []*providers.Definition {
	custom, problems := providers.ParseDefinitions(o.get("providers"), "providers")
	registry, err := providers.New(providers.Config{
		Custom: custom, Connectors: connectors, Now: time.Now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	var more providers.Problems
	switch {
	case err == nil:
		registry.Close()
		for _, p := range registry.Notes() {
			at, _ := o.s.place(p)
			o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: %s", o.s.file, at.line, at.text))
		}
	case errors.As(err, &more):
		problems = append(problems, more...)
	default:
		o.s.report(nil, "%s", err)
	}
	for _, p := range problems {
		o.s.adopt(p)
	}
	return custom
}

// adopt takes over what the providers package found, unless it is about what has a problem already.
func (s *source) adopt(p providers.Problem) {
	if at, settled := s.place(p); !settled {
		s.problems = append(s.problems, at)
	}
}

// place gives a problem its line. settled: what it is about, something in it or something around it has a problem already.
func (s *source) place(p providers.Problem) (at problem, settled bool) {
	at = problem{line: p.Line, text: p.Text}
	if p.Key != "" {
		at.text = p.Key + " " + p.Text
	}
	for key := p.Key; key != ""; key = parent(key) {
		if s.settled[key] {
			return at, true
		}
	}
	for key := range s.settled {
		if rest, inside := strings.CutPrefix(key, p.Key); inside && rest != "" && (rest[0] == '.' || rest[0] == '[') {
			return at, true
		}
	}
	for key := p.Key; strings.HasPrefix(key, "connectors["); key = parent(key) {
		if line := s.lines[key]; line != 0 {
			at.line = line
			break
		}
	}
	return at, false
}

// parent cuts the last part off a key.
func parent(key string) string {
	return key[:max(strings.LastIndexAny(key, ".["), 0)]
}
