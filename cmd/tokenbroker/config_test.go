package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokenbroker/vault"
)

const goodDigest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// minimal is the shortest configuration that serve takes.
const minimal = `public_url: http://127.0.0.1:8080
redis: redis://127.0.0.1:6379/0
keyset: {file: keyset.json, kek: env:TOKENBROKER_KEK}
`

// testEnvironment has these variables and files alone, and the KEK and keysets that it opens.
func testEnvironment(variables map[string]string, files map[string]string) environment {
	return environment{
		lookup: func(name string) (string, bool) {
			if v, ok := variables[name]; ok || name != "TOKENBROKER_KEK" {
				return v, ok
			}
			return testKEK, true
		},
		readKeyset: func(path string) ([]byte, error) {
			kek, err := vault.ParseKEK("env:X", func(string) string { return testKEK })
			if err != nil {
				return nil, err
			}
			switch filepath.Base(path) {
			case "absent.json":
				return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
			case "audit-key.json":
				return vault.AddSigningKey(nil, kek, rand.Reader, time.Now())
			}
			return vault.CreateKeyset(kek, time.Now())
		},
		readFile: func(path string, _ int64) ([]byte, error) {
			if text, ok := files[path]; ok {
				return []byte(text), nil
			}
			return nil, &os.PathError{Op: "open", Path: path, Err: os.ErrNotExist}
		},
	}
}

func load(t *testing.T, text string, variables map[string]string, files map[string]string) (*Config, error) {
	t.Helper()
	all := map[string]string{"/etc/tb/config.yaml": text}
	for name, content := range files {
		all[name] = content
	}
	return LoadConfig("/etc/tb/config.yaml", testEnvironment(variables, all))
}

func TestExampleIsRight(t *testing.T) {
	env := testEnvironment(map[string]string{
		"REDIS_URL": "redis://127.0.0.1:6379/0", "ACME_KEY_SHA256": goodDigest, "GOOGLE_CLIENT_SECRET": "g", "SLACK_CLIENT_SECRET": "s",
		"FILES_CLIENT_SECRET": "f", "WAREHOUSE_CLIENT_SECRET": "w",
	}, nil)
	env.readFile = func(path string, limit int64) ([]byte, error) {
		if filepath.Base(path) == "dashboard.sha256" {
			return []byte(strings.Repeat("ab", 32) + "\n"), nil
		}
		return readBounded(path, limit)
	}
	cfg, err := LoadConfig("../../deploy/config.example.yaml", env)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Clients) != 1 || len(cfg.Connectors) != 4 || len(cfg.Providers) != 1 || len(cfg.Notes) != 0 {
		t.Errorf("read %d clients, %d connectors, %d providers, notes %q", len(cfg.Clients), len(cfg.Connectors), len(cfg.Providers), cfg.Notes)
	}
	if len(cfg.Dashboard.TokenSHA256) != 64 {
		t.Error("the dashboard's token was not read")
	}
	if cfg.SpoolDir != "../../deploy/spool" || cfg.Keyset.File != "../../deploy/keyset.json" {
		t.Errorf("paths do not count from the file's folder: %s, %s", cfg.SpoolDir, cfg.Keyset.File)
	}
}

func TestDefaults(t *testing.T) {
	cfg, err := load(t, minimal, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := []any{cfg.Listen, cfg.OpsListen, cfg.PublicURL, cfg.Volatile, cfg.SpoolDir, cfg.LogLevel, cfg.ShutdownDelay, cfg.ShutdownTimeout,
		len(cfg.Proxies), cfg.Dashboard.TokenSHA256 == "", cfg.Keyset.File}
	want := []any{"127.0.0.1:8080", "127.0.0.1:9090", "http://127.0.0.1:8080", false, "", slog.LevelInfo, time.Second, time.Minute,
		0, true, "/etc/tb/keyset.json"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestRetentionIsRead: what drops events is noted, and nothing is dropped that nobody asked for.
func TestRetentionIsRead(t *testing.T) {
	for _, c := range []struct {
		text, note string
		age        time.Duration
		entries    int64
	}{
		{"", "", 0, 0},
		{"audit: {}\n", "", 0, 0},
		{"audit: {retention: {}}\n", "", 0, 0},
		{"audit: {retention: {age: 90d}}\n", "older than 90 days", 90 * 24 * time.Hour, 0},
		{"audit: {retention: {entries: 5000000000}}\n", "more than 5000000000 entries", 0, 5_000_000_000},
		{"audit: {retention: {age: 7d, entries: 100000}}\n", "older than 7 days, or when the trail has more than 100000 entries", 7 * 24 * time.Hour, 100_000},
	} {
		cfg, err := load(t, minimal+c.text, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.Retention.Age != c.age || cfg.Retention.Entries != c.entries {
			t.Errorf("%q: %v, %d", c.text, cfg.Retention.Age, cfg.Retention.Entries)
		}
		if c.note == "" && len(cfg.Notes) != 0 || c.note != "" && (len(cfg.Notes) != 1 || !strings.Contains(cfg.Notes[0], c.note)) {
			t.Errorf("%q: notes %q", c.text, cfg.Notes)
		}
	}
}

func TestClientIsRead(t *testing.T) {
	cfg, err := load(t, minimal+`clients:
  - id: acme-chat
    name: Acme Chat
    tenant: acme
    key_sha256: [`+goodDigest+`, "`+strings.Repeat("AB", 32)+`"]
    connectors: []
    scopes: []
    return_to: ["http://127.0.0.1:3000/done?x=1", "http://[::1]:3000/", "https://chat.example.com/done"]
    origins: ["http://localhost:3000"]
    manage_connectors: true
    own_connectors: true
  - {id: plain, tenant: acme, key_sha256: ["`+strings.Repeat("CD", 32)+`"]}
connectors:
  - {id: old, provider: google, client_id: a, client_secret: s, scopes: [openid]}
  - {id: new, provider: google, client_id: a, client_secret: s, previous_client_secret: r, client_generation: 5, scopes: [openid]}
`, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := cfg.Clients[0]
	if c.Client.Connectors == nil || c.Client.Scopes == nil {
		t.Error("an empty list means none, not all")
	}
	if len(c.KeySHA256) != 2 || c.KeySHA256[1][0] != 0xab {
		t.Errorf("keys: %x", c.KeySHA256)
	}
	if len(c.Client.ReturnTo) != 3 || c.Client.Origins[0] != "http://localhost:3000" {
		t.Errorf("%+v", c.Client)
	}
	if plain := cfg.Clients[1].Client; !c.Client.ManageConnectors || !c.Client.OwnConnectors || plain.ManageConnectors || plain.OwnConnectors {
		t.Errorf("connectors of its tenant: %+v, %+v", c.Client, plain)
	}
	if old, now := cfg.Connectors[0], cfg.Connectors[1]; old.Generation != 1 || !old.Previous.IsZero() || now.Generation != 5 || now.Previous.Reveal() != "r" {
		t.Errorf("generations %d and %d", old.Generation, now.Generation)
	}
}

// TestExpansion: what comes from outside is a value, whatever it looks like.
func TestExpansion(t *testing.T) {
	text := `public_url: http://127.0.0.1:8080
redis: redis://:${PASSWORD}@127.0.0.1:6379/0
allow_volatile_redis: ${VOLATILE}
keyset: {file: "${DIR}/k.json", kek: env:TOKENBROKER_KEK}
connectors:
  - id: a
    provider: google
    client_id: ${ID}
    client_secret: ${file:secret}
    scopes: [openid]
    name: $${ID} costs $5
  - {id: b, provider: google, client_id: "${NULL}", client_secret: '${NULL}', scopes: [openid], name: shared}
  - id: c
    provider: google
    client_id: c
    client_secret: ${NULL}
    scopes: [openid]
    name: ${NULL} again
`
	cfg, err := load(t, text, map[string]string{
		"PASSWORD": "a-b", "VOLATILE": "true", "DIR": "/keys", "ID": "x\u00e9: {client_secret: ${NULL}}", "NULL": "null",
	}, map[string]string{"/etc/tb/secret": "line one\r\n"})
	if err != nil {
		t.Fatal(err)
	}
	a, b := cfg.Connectors[0], cfg.Connectors[1]
	got := []any{cfg.Redis.Reveal(), cfg.Volatile, cfg.Keyset.File, a.ClientID, a.ClientSecret.Reveal(), a.Name, b.ClientID, b.ClientSecret.Reveal(),
		cfg.Connectors[2].ClientSecret.Reveal(), cfg.Connectors[2].Name}
	want := []any{"redis://:a-b@127.0.0.1:6379/0", true, "/keys/k.json", "x\u00e9: {client_secret: ${NULL}}", "line one", "${ID} costs $5", "null", "null",
		"null", "null again"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestProblems(t *testing.T) {
	const connector = "connectors:\n  - {id: a, provider: google, client_id: a, client_secret: s, scopes: [openid]"
	secure := strings.Replace(minimal, "redis://", "rediss://", 1)
	sentinel := strings.Replace(minimal, "redis://127.0.0.1:6379/0", "redis-sentinel://h:1/main", 1)
	const client = "clients:\n  - {id: a, tenant: t, key_sha256: [" + goodDigest + "]"
	cases := []struct{ name, text, want string }{
		{"not closed", minimal + "log_level: ${X", "4: a ${ is not closed"},
		{"no name", minimal + "log_level: ${A-B}", `4: "${A-B}" is no environment variable's name`},
		{"empty file reference", minimal + "log_level: ${file:}", "4: ${file:} names no file"},
		{"empty variable", minimal + "log_level: ${EMPTY}", "4: log_level is empty"},
		{"duplicate", minimal + "redis: redis://h:1", `4: key "redis" is given twice, first on line 2`},
		{"merge", minimal + "<<: {listen: x}", "4: merge keys"},
		{"list for mapping", "- a", "1: the file must be a mapping"},
		{"scalar for list", minimal + "clients: 1", "4: clients must be a list"},
		{"same address", minimal + "listen: 127.0.0.1:9090", "1: listen and ops_listen are both"},
		{"port", minimal + "listen: 127.0.0.1:65536", "4: listen must end with a port"},
		{"level", minimal + "log_level: loud", "4: log_level must be one of"},
		{"duration", minimal + "shutdown_delay: 5", "4: shutdown_delay must be a length of time"},
		{"stored form", minimal + "stored_form: 3", "4: stored_form must be a whole number from 1 to 2"},
		{"early refreshes", minimal + "early_refreshes: many", "4: early_refreshes must be a whole number from 0 to 1000"},
		{"refreshes at once", minimal + "refreshes_at_once: 0", "4: refreshes_at_once must be a whole number from 1 to 256"},
		{"published and not signed", minimal + "audit: {publish: {file: a}}", "4: audit.publish has no use without audit.signing_key"},
		{"signed with nothing", minimal + "audit: {signing_key: absent.json}", "4: audit.signing_key: there is no file of signing keys"},
		{"published nowhere", minimal + "audit: {signing_key: audit-key.json, publish: {}}", "4: audit.publish must say where"},
		{"published in clear", minimal + "audit: {signing_key: audit-key.json, publish: {webhook: \"http://example.com/canary\"}}", "4: audit.publish.webhook must be https://"},
		{"signed too seldom", minimal + "audit: {signing_key: audit-key.json, checkpoint_every: 1h}", "4: audit.checkpoint_every must be a length of time from 1s to 1m0s"},
		{"sink of no kind", minimal + "audit: {sinks: [{required: true}]}", "4: audit.sinks[0] must say where: file, webhook, syslog or otlp"},
		{"sink of two kinds", minimal + "audit: {sinks: [{file: a, webhook: \"https://b.example/c\"}]}", "4: audit.sinks[0].webhook and file are two places"},
		{"sink of another kind", minimal + "audit: {sinks: [{file: a, require: true}]}", `4: unknown key "require" in audit.sinks[0]; did you mean "required"?`},
		{"sink twice", minimal + "audit: {sinks: [{file: a}, {file: ./a, required: true}]}", "4: audit.sinks[1].file is the same place as another one"},
		{"sinks as a mapping", minimal + "audit: {sinks: {file: a}}", "4: audit.sinks must be a list"},
		{"sink in clear", minimal + "audit: {sinks: [{webhook: \"http://example.com/canary\"}]}", "4: audit.sinks[0].webhook must be https://"},
		{"collector in clear", minimal + "audit: {sinks: [{otlp: \"http://example.com/v1/logs\"}]}", "4: audit.sinks[0].otlp must be https://"},
		{"syslog without a port", minimal + "audit: {sinks: [{syslog: \"tcp://127.0.0.1\"}]}", "4: audit.sinks[0].syslog must be such as udp://127.0.0.1:514"},
		{"syslog by a relative path", minimal + "audit: {sinks: [{syslog: \"unix://log\"}]}", "4: audit.sinks[0].syslog must be such as"},
		{"syslog required over udp", minimal + "audit: {sinks: [{syslog: \"udp://127.0.0.1:514\", required: true}]}", "4: audit.sinks[0].required can't be true of syslog over udp"},
		{"required by chance", minimal + "audit: {sinks: [{file: a, required: maybe}]}", "4: audit.sinks[0].required must be true or false"},
		{"too many sinks", minimal + "audit: {sinks: [{file: a}, {file: b}, {file: c}, {file: d}, {file: e}, {file: f}, {file: g}, {file: h}, {file: i}]}", "4: audit.sinks must be 8 places at most"},
		{"kept for hours", minimal + "audit: {retention: {age: 90h}}", "4: audit.retention.age must be a whole number of days from 7d to 36500d"},
		{"kept for too short", minimal + "audit: {retention: {age: 6d}}", "4: audit.retention.age must be a whole number of days"},
		{"kept for no number", minimal + "audit: {retention: {age: +90d}}", "4: audit.retention.age must be a whole number of days"},
		{"few events kept", minimal + "audit: {retention: {entries: 90}}", "4: audit.retention.entries must be a whole number from 100000 to"},
		{"kept by another name", minimal + "audit: {retention: {size: 1000000}}", `4: unknown key "size" in audit.retention; known here: age, entries`},
		{"retention alone", minimal + "audit: 90d", "4: audit must be a mapping"},
		{"wait", minimal + "redis_wait: {replicas: -1}", "4: redis_wait.replicas must be a whole number"},
		{"wait for nobody", minimal + "redis_wait: {timeout: 100ms}", "4: redis_wait.replicas is missing"},
		{"ca", secure + "redis_tls: {ca_file: nowhere.pem}", "4: redis_tls.ca_file: the file cannot be read"},
		{"TLS without TLS", minimal + "redis_tls: {}", "4: redis_tls is of no use with redis://"},
		{"sentinel user", minimal + "redis_sentinel: {password: x}", "4: redis_sentinel is of no use but with redis-sentinel://"},
		{"sentinel password", sentinel + "redis_sentinel: {username: x}", "4: redis_sentinel.password is missing"},
		{"half a pair", secure + "redis_tls: {cert_file: config.yaml}", "4: redis_tls needs cert_file and key_file together"},
		{"public path", strings.Replace(minimal, ":8080\n", ":8080/broker\n", 1), "1: public_url must be scheme and host alone"},
		{"public query", strings.Replace(minimal, ":8080\n", ":8080?\n", 1), "1: public_url must be scheme and host alone"},
		{"public userinfo", strings.Replace(minimal, "http://", "http://u@", 1), "1: public_url must not hold a user name"},
		{"public scheme", strings.Replace(minimal, "http://", "ftp://", 1), "1: public_url must begin with https://"},
		{"redis nothing", strings.Replace(minimal, "redis://127.0.0.1:6379/0", "redis://", 1), "2: redis names no server"},
		{"sentinel", strings.Replace(minimal, "redis://127.0.0.1:6379/0", "redis-sentinel://h:1", 1), "2: redis names no master"},
		{"sentinel path", strings.Replace(minimal, "redis://127.0.0.1:6379/0", "redis-sentinel://h:1/tb/3/x", 1), "2: redis has something behind the master's name"},
		{"kek", strings.Replace(minimal, "env:TOKENBROKER_KEK", "env:A-B", 1), "3: keyset.kek must name an environment variable"},
		{"empty hash", minimal + "dashboard: {token_sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}", "4: dashboard.token_sha256 is the SHA-256 of an empty text"},
		{"shared key", minimal + client + "}\n  - {id: b, tenant: t, key_sha256: [" + goodDigest + "]}", "6: clients[1].key_sha256[0] is the same key as clients[0].key_sha256[0]"},
		{"origin port", minimal + client + `, origins: ["https://a.example:443"]}`, "5: clients[0].origins[0] must be an origin"},
		{"origin null", minimal + client + `, origins: ["null"]}`, "5: clients[0].origins[0] must be"},
		{"origin wildcard", minimal + client + `, origins: ["*"]}`, "5: clients[0].origins[0] must be"},
		{"return http", minimal + client + `, return_to: ["http://a.example/"]}`, "5: clients[0].return_to[0] must begin with https://"},
		{"return backslash", minimal + client + `, return_to: ['https://a.example\@b/']}`, "5: clients[0].return_to[0] must be a URL without"},
		{"return twice", minimal + client + `, return_to: ["https://a.example/", "https://a.example/"]}`, "5: clients[0].return_to[1] is in the list already"},
		{"connector id", minimal + strings.Replace(connector, "id: a", "id: a/b", 1) + "}", "5: connectors[0].id must be"},
		{"connector twice", minimal + connector + "}\n  - {id: a, provider: google, client_id: a, client_secret: s, scopes: [openid]}", "6: connectors[1].id is also the id of the connector on line 5"},
		{"default scope", minimal + connector + ", default_scopes: [x]}", "5: connectors[0].default_scopes"},
		{"newline in secret", minimal + strings.Replace(connector, "client_secret: s", `client_secret: "s\nx"`, 1) + "}", "5: connectors[0].client_secret must be one line"},
		{"same secret before", minimal + connector + ", previous_client_secret: s, client_generation: 2}", "5: connectors[0].previous_client_secret is the same as client_secret"},
		{"secret before without number", minimal + connector + ", previous_client_secret: r}", "5: connectors[0].previous_client_secret needs client_generation: 2 or more"},
		{"secret before alone", minimal + strings.Replace(connector, "google, client_id: a, client_secret: s", "rig, client_id: a, previous_client_secret: s, client_generation: 2", 1) +
			"}\nproviders:\n  - {id: rig, authorization_endpoint: https://a/, token_endpoint: https://a/, token_endpoint_auth_method: none}", "5: connectors[0].previous_client_secret is set without client_secret"},
		{"generation", minimal + connector + ", client_generation: 0}", "5: connectors[0].client_generation must be a whole number from 1"},
		{"manage", minimal + client + ", manage_connectors: yes}", "5: clients[0].manage_connectors must be true or false"},
		{"kek not set", strings.Replace(minimal, "TOKENBROKER_KEK", "EMPTY", 1), "3: keyset.kek: the variable EMPTY for the KEK is not set"},
		{"kek of another keyset", strings.Replace(minimal, "TOKENBROKER_KEK", "OTHER", 1), "3: keyset.kek: the key in env:OTHER does not open /etc/tb/keyset.json: it is another one than the keyset is encrypted with; "},
		{"kms that there is none of", strings.Replace(minimal, "env:TOKENBROKER_KEK", "aws-kms://key", 1), "3: keyset.kek: the KEK must be written aws-kms://arn:aws:kms:"},
		{"redis host", strings.Replace(minimal, "redis://127.0.0.1:6379/0", "redis://u:p@[bad/0", 1), "2: redis cannot be read"},
		{"provider key", minimal + "providers:\n  - id: rig\n    nam: Rig\n    authorization_endpoint: https://a/\n    token_endpoint: https://a/\n    token_endpoint_auth_method: none", "6: "},
		{"provider scheme", minimal + "providers:\n  - id: rig\n    name: Rig\n    authorization_endpoint: javascript:alert(1)\n    token_endpoint: https://a/\n    token_endpoint_auth_method: none", "7: "},
		{"alias that holds itself", minimal + "clients: &x [*x]", "4: clients[0] must be a mapping"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, c.text, map[string]string{"EMPTY": "", "OTHER": "EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8="}, nil)
			var found *configError
			if !errors.As(err, &found) {
				t.Fatalf("got %v", err)
			}
			if len(found.problems) != 1 {
				t.Errorf("want one problem, got\n%v", err)
			}
			if !strings.HasPrefix(err.Error(), "/etc/tb/config.yaml:"+c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestAllProblemsAtOnce: no problem hides another one, and none is made up from another.
func TestAllProblemsAtOnce(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"scheme and path": {strings.Replace(minimal, "http://127.0.0.1:8080", "http://tokens.example.com/broker", 1), `
1: public_url must begin with https:// (http is for loopback only)
1: public_url must be scheme and host alone, without a path; give tokenbroker a host name of its own`},
		"a list's entries": {minimal + "clients: [{id: a, tenant: t, key_sha256: [" + goodDigest + `], return_to: ["http://u@a.example:0/#x"]}]`, `
4: clients[0].return_to[0] must begin with https:// (http is for loopback only)
4: clients[0].return_to[0] must not hold a user name or password
4: clients[0].return_to[0] must have a port from 1 to 65535
4: clients[0].return_to[0] must not hold a fragment (#)`},
		"a provider and its connectors": {minimal + `providers:
  - {id: rig, colour: blue, pkce: plain, token_endpoint: "${UNSET}",
     offline_scopes: ["${ALSO_UNSET}"], authorization_endpoint: https://a.example/auth, token_endpoint_auth_method: none, vars: {zone: {pattern: "[a-z]+"}}}
connectors:
  - {id: one, provider: rig, client_id: a, client_secret: s, scopes: [x], default_scopes: [y], vars: {zone: "1"}}
  - {id: two, provider: nowhere, client_id: a, scopes: [x], default_scopes: [y]}
`, `
5: environment variable UNSET is not set; set it before starting
5: providers[0].colour is not a known key
5: providers[0].pkce must be S256, unsupported or unknown
6: environment variable ALSO_UNSET is not set; set it before starting
8: connectors[0].client_secret is set, but rig has token_endpoint_auth_method none: leave one out
8: connectors[0].vars.zone is not a value that rig allows
8: connectors[0].default_scopes holds what scopes does not: y
9: connectors[1].provider "nowhere" is neither in the built-in catalogue nor under providers
9: connectors[1].default_scopes holds what scopes does not: y`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, c.text, nil, nil)
			if err == nil {
				t.Fatal("no problem was found")
			}
			got := strings.ReplaceAll(err.Error(), "/etc/tb/config.yaml:", "")
			if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestVarWithoutPlaceholder: it does no harm, and the operator hears of it.
func TestVarWithoutPlaceholder(t *testing.T) {
	cfg, err := load(t, minimal+"connectors:\n  - {id: a, provider: google, client_id: a, client_secret: s, scopes: [openid],\n     vars: {zone: x}}", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/etc/tb/config.yaml:6: connectors[0].vars.zone has no effect: google has no such placeholder"}; !cmp.Equal(cfg.Notes, want) {
		t.Errorf("notes: %q", cfg.Notes)
	}
}

// TestNoSecretInProblems plants a canary everywhere that a value may be wrong, and looks for it in what is said.
func TestNoSecretInProblems(t *testing.T) {
	const canary = "canary-5aB9"
	for _, text := range []string{
		"redis: " + canary, "public_url: " + canary, "listen: " + canary, "trusted_proxies: [" + canary + "]", "keyset: " + canary,
		"keyset: {file: x, kek: " + canary + "}", "dashboard: {token_sha256: " + canary + "}", "allow_volatile_redis: " + canary,
		"clients: [{id: a, tenant: t, key_sha256: [" + canary + "]}]", "clients: [{id: a, tenant: t, key_sha256: " + canary + "}]",
		"connectors: [{id: a, provider: google, client_id: x, client_secret: [" + canary + "]}]",
		"connectors: [{id: a, provider: google, client_id: x, client_secret: \"a\\n" + canary + "\"}]",
		"connectors: [{id: a, provider: google, client_id: x, client_secret: *" + canary + "}]",
		"connectors: [{id: a, provider: google, client_id: x, client_secret: !" + canary + " x}]",
		"connectors: [{id: a, provider: google, client_id: x, client_secret: @" + canary + "}]",
		"connectors: [{id: a, provider: google, client_id: x, client_secret: \"" + canary,
		"redis: ${CANARY}", "public_url: ${CANARY}", "log_level: ${CANARY}", "shutdown_delay: ${CANARY}", "clients: ${CANARY}",
		"providers: [{id: rig, token_endpoint: \"${CANARY}\", pkce: \"${CANARY}\"}]", "providers: ${CANARY}",
	} {
		_, err := load(t, text, map[string]string{"CANARY": canary}, nil)
		if err == nil {
			t.Errorf("%s: no problem was found", text)
		}
		if shown := fmt.Sprintf("%v %+v", err, err); strings.Contains(shown, canary) {
			t.Errorf("%s\nshows the canary: %s", text, shown)
		}
	}
}

// TestSecretsDoNotPrint: a Config in a log line or a panic shows no secret.
func TestSecretsDoNotPrint(t *testing.T) {
	cfg, err := load(t, strings.Replace(minimal, "redis://", "redis://:canary-1@", 1)+
		"connectors: [{id: a, provider: google, client_id: x, client_secret: canary-2, scopes: [openid]}]", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if shown := fmt.Sprintf("%v %+v %#v", cfg, *cfg, *cfg); strings.Contains(shown, "canary") {
		t.Error(shown)
	}
}
