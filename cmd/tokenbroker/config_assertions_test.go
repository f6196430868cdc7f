package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tokenbroker/providers/assertion"
)

const someKeys = `{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"k1"}]}`

// TestAssertionsConfig: what is written becomes what is verified, and a client with another way to say who it is needs no API key.
func TestAssertionsConfig(t *testing.T) {
	cfg, err := load(t, minimal+`clients:
  - id: chat
    tenant: acme
    subject_tokens:
      required: true
      issuers: [{issuer: https://sso.example.com, audiences: [chat], subject_claim: oid, max_age: 5m, replay: allow, algorithms: [ES256]}]
    authentication:
      jwks: '`+someKeys+`'
      workloads: [{issuer: https://cluster.example.com, audiences: [broker], subject: "system:serviceaccount:chat:backend", claims: {namespace: chat}}]
`, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Clients[0]
	if !c.Client.SubjectTokens || !c.proven() || len(c.Assertions.Keys) != 1 || len(c.Assertions.Workloads) != 1 || c.Assertions.Workloads[0].Claims["namespace"] != "chat" {
		t.Errorf("became %+v", c.Assertions)
	}
	if s := c.Assertions.Subjects[0]; s.Issuer != "https://sso.example.com" || s.SubjectClaim != "oid" || s.MaxAge.Minutes() != 5 || !s.Replay || s.Algorithms[0] != "ES256" || s.Audiences[0] != "chat" {
		t.Errorf("the issuer became %+v", s)
	}
	if _, err := assertion.New(assertion.Config{Clients: []assertion.ClientConfig{*c.Assertions}, Issuer: "https://b.example.com", TokenEndpoint: "https://b.example.com/oauth2/token", Now: time.Now}); err != nil {
		t.Error(err)
	}
}

// TestAssertionsConfigRefused: each mistake is named, and none of them opens a door.
func TestAssertionsConfigRefused(t *testing.T) {
	for name, c := range map[string]struct{ lines, says string }{
		"no audience":       {"subject_tokens: {issuers: [{issuer: https://sso.example.com}]}", "audiences is missing"},
		"no issuers":        {"subject_tokens: {required: true}", "issuers is missing"},
		"plain http":        {"subject_tokens: {issuers: [{issuer: http://sso.example.com, audiences: [a]}]}", "must begin with https://"},
		"HS256":             {"subject_tokens: {issuers: [{issuer: https://sso.example.com, audiences: [a], algorithms: [HS256]}]}", "with a public key"},
		"replay":            {"subject_tokens: {issuers: [{issuer: https://sso.example.com, audiences: [a], replay: sometimes}]}", "must be one of refuse, allow"},
		"old":               {"subject_tokens: {issuers: [{issuer: https://sso.example.com, audiences: [a], max_age: 99h}]}", "must be a length of time"},
		"unknown":           {"subject_tokens: {issuers: [{issuer: https://sso.example.com, audiences: [a], audience: b}]}", "audience"},
		"no keys":           {"authentication: {}", "jwks is missing"},
		"broken keys":       {"authentication: {jwks: '{}'}", "must be a set of public keys"},
		"a shared secret":   {`authentication: {jwks: '{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}'}`, "must be a set of public keys"},
		"both":              {"authentication: {jwks: '" + someKeys + "', jwks_uri: https://x.example.com/keys}", "are both there"},
		"two issuers":       {"subject_tokens: {issuers: [{issuer: https://sso.example.com, audiences: [a]}, {issuer: https://partner.example.com, audiences: [a]}]}", "are several"},
		"agents as users":   {"subject_tokens: {issuers: [{issuer: https://sso.example.com, audiences: [a]}], actors: [{issuer: https://sso.example.com, audiences: [a]}]}", "an agent's token would count as a user's"},
		"replayed workload": {"authentication: {workloads: [{issuer: https://x.example.com, audiences: [a], subject: s, replay: refuse}]}", "replay"},
		"a workload of all": {"authentication: {workloads: [{issuer: https://x.example.com, audiences: [a]}]}", "subject is missing"},
		"claims":            {"authentication: {workloads: [{issuer: https://x.example.com, audiences: [a], subject: s, claims: [x]}]}", "claims"},
	} {
		_, err := load(t, minimal+"clients:\n  - id: chat\n    tenant: acme\n    key_sha256: ["+goodDigest+"]\n    "+c.lines+"\n", nil, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.says)
		}
	}
}

// TestSharedWorkloads: no token of a workload can stand for two clients.
func TestSharedWorkloads(t *testing.T) {
	two := func(first, second string) error {
		client := "  - id: %s\n    tenant: acme\n    authentication: {workloads: [{issuer: https://x.example.com, audiences: [a], subject: s%s}]}\n"
		_, err := load(t, minimal+"clients:\n"+fmt.Sprintf(client, "one", first)+fmt.Sprintf(client, "two", second), nil, nil)
		return err
	}
	for _, more := range [][2]string{{"", ""}, {"", ", claims: {repository: x}"}, {", claims: {repository: x}", ", claims: {repository: x, branch: main}"}} {
		if err := two(more[0], more[1]); err == nil || !strings.Contains(err.Error(), "would stand for client one too") {
			t.Errorf("%q: %v", more, err)
		}
	}
	if err := two(", claims: {repository: x}", ", claims: {repository: y}"); err != nil {
		t.Errorf("told apart by a claim: %v", err)
	}
}
