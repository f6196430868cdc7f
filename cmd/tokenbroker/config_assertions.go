package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/assertion"
	"tokenbroker/providers/issuer"
)

// assertions reads what the requests of the client may be proven with, and what must be; nil: nothing.
func (o object) assertions(client *broker.Client) (cfg *assertion.ClientConfig) {
	out := assertion.ClientConfig{ID: client.ID}
	if n := o.get("subject_tokens"); n != nil {
		if t, ok := o.s.object(n, o.at("subject_tokens"), "required", "issuers", "same_subjects", "actors", "actors_required"); ok {
			client.SubjectTokens, client.ActorsRequired = t.truth("required"), t.truth("actors_required")
			out.Subjects = t.sources("issuers")
			out.Actors = t.sources("actors")
			client.ActorTokens = len(out.Actors) > 0
			t.checkSources(out)
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
				if one, ok := o.s.object(w, fmt.Sprintf("%s[%d]", t.at("workloads"), i), append(slices.DeleteFunc(sourceKeys(), func(k string) bool { return k == "replay" }), "subject")...); ok {
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
	return cfg
}

// checkSources finds issuers that could speak for somebody else than they are there for.
func (o object) checkSources(c assertion.ClientConfig) {
	for _, s := range c.Subjects {
		if s.Issuer != "" && c.Subjects[0].Issuer != "" && s.Issuer != c.Subjects[0].Issuer && !o.truth("same_subjects") {
			o.fail("issuers", "", o.get("issuers"), "are several, and a subject is whom any of them names: who chooses names at one would be taken for another's user. Make a client for each, or say same_subjects: true where all of them mean the same people by the same names")
			break
		}
	}
	for _, s := range c.Subjects {
		for _, a := range c.Actors {
			if a.Issuer == s.Issuer && slices.ContainsFunc(a.Audiences, func(one string) bool { return slices.Contains(s.Audiences, one) }) && !contradict(a.Claims, s.Claims) {
				o.fail("actors", "", o.get("actors"), "have an issuer and audience in common with issuers: an agent's token would count as a user's. Give agents' tokens another audience, or tell them apart by claims")
				return
			}
		}
	}
}

// contradict tells that no token can have both.
func contradict(a, b map[string]string) bool {
	for name, value := range a {
		if other, there := b[name]; there && other != value {
			return true
		}
	}
	return false
}

func sourceKeys() []string {
	return []string{"issuer", "audiences", "jwks", "jwks_uri", "algorithms", "subject_claim", "max_age", "replay", "claims"}
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

// sharedWorkload finds a workload of the last client whose token would stand for an earlier one too.
func sharedWorkload(clients []ClientConfig) (other string) {
	last := clients[len(clients)-1]
	for _, c := range clients[:len(clients)-1] {
		if c.Assertions == nil {
			continue
		}
		for _, w := range last.Assertions.Workloads {
			for _, o := range c.Assertions.Workloads {
				both := slices.ContainsFunc(w.Audiences, func(one string) bool { return slices.Contains(o.Audiences, one) })
				if both && w.Issuer == o.Issuer && w.SubjectClaim == o.SubjectClaim && w.Subject == o.Subject && !contradict(w.Claims, o.Claims) {
					return c.Client.ID
				}
			}
		}
	}
	return ""
}
