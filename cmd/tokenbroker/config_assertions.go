package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/providers"
	"tokenbroker/providers/assertion"
	"tokenbroker/providers/issuer"
)

// assertions reads what the client's requests may be proven with; nil: nothing. required: they must say by a token who the user is.
func (o object) assertions(client string) (cfg *assertion.ClientConfig, required bool) {
	out := assertion.ClientConfig{ID: client}
	if n := o.get("subject_tokens"); n != nil {
		if t, ok := o.s.object(n, o.at("subject_tokens"), "required", "issuers", "actors"); ok {
			required = t.truth("required")
			out.Subjects = t.sources("issuers")
			out.Actors = t.sources("actors")
			if nodes, _ := t.list("issuers"); len(nodes) == 0 {
				t.fail("issuers", "", t.node, "is missing: name who says who the users are, such as issuers: [{issuer: https://sso.example.com, audiences: [chat]}]")
			}
			cfg = &out
		}
	}
	if n := o.get("authentication"); n != nil {
		if t, ok := o.s.object(n, o.at("authentication"), "jwks", "jwks_uri", "workloads"); ok {
			out.Keys, out.KeysURI = t.keySet()
			nodes, _ := t.list("workloads")
			for i, w := range nodes {
				if one, ok := o.s.object(w, fmt.Sprintf("%s[%d]", t.at("workloads"), i), append(sourceKeys(), "subject", "claims")...); ok {
					one.need("subject", "system:serviceaccount:chat:backend")
					out.Workloads = append(out.Workloads, assertion.Workload{Source: one.source(), Subject: one.text("subject", "", oneLine)})
				}
			}
			if out.Keys == nil && out.KeysURI == "" && len(nodes) == 0 {
				t.fail("jwks", "", t.node, "is missing: give the client's public keys (jwks or jwks_uri), or workloads that stand for it")
			}
			cfg = &out
		}
	}
	return cfg, required
}

func sourceKeys() []string {
	return []string{"issuer", "audiences", "jwks", "jwks_uri", "algorithms", "subject_claim", "max_age", "replay"}
}

// sources reads a list of issuers.
func (o object) sources(key string) (out []assertion.Source) {
	nodes, _ := o.list(key)
	for i, n := range nodes {
		if one, ok := o.s.object(n, fmt.Sprintf("%s[%d]", o.at(key), i), sourceKeys()...); ok {
			out = append(out, one.source())
		}
	}
	return out
}

// source reads an issuer, and what its tokens must be like.
func (o object) source() assertion.Source {
	o.need("issuer", "https://sso.example.com")
	s := assertion.Source{
		Issuer: o.text("issuer", "", issuerURL), SubjectClaim: o.text("subject_claim", "sub", claimName),
		MaxAge: o.duration("max_age", time.Hour, time.Minute, 24*time.Hour),
	}
	audiences, _ := o.texts("audiences", oneLine)
	if s.Audiences = plain(audiences); len(s.Audiences) == 0 {
		o.fail("audiences", "", o.node, "is missing: name whom the tokens are made for, such as audiences: [chat]; without it a token that was made for another program would count here")
	}
	algorithms, _ := o.texts("algorithms", signingAlgorithm)
	s.Algorithms = plain(algorithms)
	s.Keys, s.JWKSURI = o.keySet()
	s.Replay = o.text("replay", "refuse", oneOf("refuse", "allow")) == "allow"
	if n := o.get("claims"); n != nil {
		s.Claims = o.claims(n)
	}
	return s
}

// keySet reads public keys, or where they are.
func (o object) keySet() (issuer.Keyring, string) {
	_, text, given := o.scalar("jwks")
	address := o.text("jwks_uri", "", func(text string) (string, error) {
		_, err := providers.ParseEndpoint(text)
		return text, err
	})
	if !given {
		return nil, address
	}
	if address != "" {
		o.fail("jwks", "", o.get("jwks"), "and jwks_uri are both there; remove one of them")
	}
	ring, err := issuer.ParseKeys([]byte(text))
	if err != nil || len(ring) == 0 {
		o.fail("jwks", "", o.get("jwks"), `must be a set of public keys in JSON (RFC 7517), such as '{"keys": [...]}' or ${file:client.jwks}`)
		return nil, ""
	}
	return ring, ""
}

// claims reads claims that a token must have, with their values.
func (o object) claims(n *yaml.Node) map[string]string {
	if n.Kind != yaml.MappingNode {
		o.fail("claims", "", n, "must be claims with their values, such as claims: {repository: acme/chat}")
		return nil
	}
	out := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], deref(n.Content[i+1])
		if _, err := claimName(name.Value); err != nil || value.Kind != yaml.ScalarNode || value.Value == "" {
			o.fail("claims", "", name, "must be claims with one value each, such as claims: {repository: acme/chat}")
			continue
		}
		out[name.Value] = value.Value
	}
	return out
}

func signingAlgorithm(text string) (string, error) {
	for _, a := range issuer.Algorithms {
		if string(a) == text {
			return text, nil
		}
	}
	return "", errors.New("must be a signature algorithm with a public key, such as RS256, ES256 or EdDSA")
}

// proven tells that the client has a way to say who it is besides API keys.
func (c ClientConfig) proven() bool {
	a := c.Assertions
	return a != nil && (a.Keys != nil || a.KeysURI != "" || len(a.Workloads) > 0)
}

// sharedWorkloads finds workloads that stand for two clients: who they are would depend on the order in which they are tried.
func sharedWorkloads(clients []ClientConfig) (first, second string) {
	type key struct{ issuer, subject, claims string }
	seen := map[key]string{}
	for _, c := range clients {
		if c.Assertions == nil {
			continue
		}
		for _, w := range c.Assertions.Workloads {
			var claims []string
			for name, value := range w.Claims {
				claims = append(claims, fmt.Sprintf("%q=%q", name, value))
			}
			slices.Sort(claims)
			k := key{w.Issuer, w.Subject, fmt.Sprint(claims)}
			if other, there := seen[k]; there && other != c.Client.ID {
				return other, c.Client.ID
			}
			seen[k] = c.Client.ID
		}
	}
	return "", ""
}
