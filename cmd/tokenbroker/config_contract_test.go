package main

import (
	"strings"
	"testing"
)

// contractExample is the configuration that contract.md shows, with whole hashes and the connector that it only mentions.
const contractExample = `listen: 127.0.0.1:8080            # API, consent pages, dashboard
ops_listen: 127.0.0.1:9090        # /healthz (alive) /readyz (can serve; says what is wrong) /metrics; never exposed to users
public_url: http://127.0.0.1:8080 # what browsers see; https, loopback excepted. Never taken from a request's Host
trusted_proxies: []               # CIDRs whose X-Forwarded-For counts
redis: redis://127.0.0.1:6379/0   # also rediss://, redis-sentinel://HOST:PORT,.../MASTER, redis-cluster://HOST:PORT,...
allow_volatile_redis: false       # serve refuses a Redis without AOF, or with an eviction policy other than noeviction, unless true
keyset:
  file: keyset.json               # a Tink keyset, encrypted
  kek: env:TOKENBROKER_KEK        # 32 random bytes in base64; or a KMS key URI
spool_dir: spool                  # where a refreshed token is kept, encrypted, until Redis has it; may be left out
dashboard:
  token_sha256: "` + goodDigest + `"         # SHA-256 (hex) of a login token for operators; OIDC login is configured beside it
clients:
  - id: acme-chat
    name: Acme Chat               # what users read on the consent page
    tenant: acme
    key_sha256: ["` + goodDigest + `"]       # SHA-256 (hex) of its API keys; two during a rotation
    connectors: [files, crm]      # left out: all
    scopes: [files.read]          # a ceiling: no token that carries more reaches this client (403 access_denied where the provider can't narrow); left out: no ceiling
    return_to: ["http://127.0.0.1:3000/done"]   # URLs a consent may return to, compared exactly
    origins: ["http://127.0.0.1:3000"]          # web origins that hear the consent page's postMessage
connectors:
  - id: files
    provider: rig                 # from the built-in catalogue, or from providers: below
    client_id: abc
    client_secret: ${FILES_SECRET}
    scopes: [files.read, files.write]   # what may be asked; asking for more is refused
    default_scopes: [files.read]        # asked when a request names none; left out: all of scopes
    vars: {subdomain: acme}             # values for a provider's {placeholders}
  - {id: crm, provider: hubspot, client_id: def, client_secret: "${CRM_SECRET}"}
providers:                        # custom ones, in the schema of the built-in catalogue
  - id: rig
    name: Rig Files
    issuer: http://127.0.0.1:4000         # discovery (RFC 8414 or OIDC) fills what is left out
    authorization_endpoint: http://127.0.0.1:4000/auth
    token_endpoint: http://127.0.0.1:4000/token
    revocation_endpoint: http://127.0.0.1:4000/revoke
    userinfo_endpoint: http://127.0.0.1:4000/me
    token_endpoint_auth_method: client_secret_basic   # client_secret_post | none; never guessed
    pkce: S256                            # or: unsupported
    scope_separator: " "
    offline_scopes: [offline_access]      # always added, so that a refresh token is issued
    authorization_params: {prompt: consent}
    rotation: strict                      # none | grace | strict: what happens to a refresh token once it is used
`

// TestContractExample: what the contract shows is accepted as it stands.
func TestContractExample(t *testing.T) {
	cfg, err := load(t, contractExample, map[string]string{"FILES_SECRET": "f", "CRM_SECRET": "c"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Clients) != 1 || len(cfg.Connectors) != 2 || len(cfg.Providers) != 1 || cfg.Connectors[0].Vars["subdomain"] != "acme" || cfg.Keys == nil {
		t.Errorf("read %+v", cfg)
	}
	// Its provider has no {subdomain}: no problem, but the operator is told.
	if len(cfg.Notes) != 1 || !strings.Contains(cfg.Notes[0], "connectors[0].vars.subdomain has no effect") {
		t.Errorf("notes: %q", cfg.Notes)
	}
}
