package providers

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// The keys that contract.md shows, as it shows them.
const contractExample = `
- id: rig
  name: Rig Files
  issuer: http://127.0.0.1:4000
  authorization_endpoint: http://127.0.0.1:4000/auth
  token_endpoint: http://127.0.0.1:4000/token
  revocation_endpoint: http://127.0.0.1:4000/revoke
  userinfo_endpoint: http://127.0.0.1:4000/me
  token_endpoint_auth_method: client_secret_basic
  pkce: S256
  scope_separator: " "
  offline_scopes: [offline_access]
  authorization_params: {prompt: consent}
  rotation: strict
`

func TestContractExample(t *testing.T) {
	r := connect(t, setup{yaml: contractExample, connector: ConnectorConfig{DefaultScopes: []string{"files.read"}}})
	c, ok := r.Connector("files")
	if !ok || c.Name != "Rig Files" || c.Provider != "Rig Files" || c.Category != "other" || !c.Exclusive || c.Narrows ||
		c.Implied.String() != "offline_access" || c.Default.String() != "files.read" || len(c.Scopes) != 2 || len(r.All()) != 1 {
		t.Errorf("connector is %+v", c)
	}
}

// All problems at once, each with its line.
func TestProblems(t *testing.T) {
	for name, tt := range map[string]struct{ yaml, want string }{
		"unknown and repeated keys": {`
- id: rig
  token_endpont: https://rig.example/token
  id: rig2
  revocation: {mehtod: POST}
  timeout: soon
  narrows: 1
  scopes: [a]
  offline_scopes: offline_access
`, `line 2: providers[0].authorization_endpoint: is missing, and there is no issuer to discover it from: set it to its URL
line 2: providers[0].token_endpoint: is missing, and there is no issuer to discover it from: set it to its URL
line 2: providers[0].token_endpoint_auth_method: is missing, and there is no issuer to discover it from: set it to client_secret_basic, client_secret_post or none, as the provider's documentation says
line 3: providers[0].token_endpont: is not a known key
line 4: providers[0].id: is there twice
line 5: providers[0].revocation.mehtod: is not a known key
line 6: providers[0].timeout: must be a whole number
line 7: providers[0].narrows: must be true or false
line 8: providers[0].scopes: must be a mapping of keys to values
line 9: providers[0].offline_scopes: must be a list`},
		"what is wrong around an unknown key": {`
- id: rig
  isuer: https://rig.example
  authorization_endpoint: https://{sub}.rig.example/auth
  token_endpoint: ftp://rig.example/token
  token_endpoint_auth_method: guess
  rotation: [strict]
  revocation: {method: PATCH, more: x}
  scopes: {a: {access: fly, acess: read}}
  offline_scopes: ["a b", {c: d}]
`, `line 3: providers[0].isuer: is not a known key
line 4: providers[0].authorization_endpoint: uses {sub}, which vars: does not declare
line 5: providers[0].token_endpoint: must be an https:// URL (http:// on loopback only)
line 6: providers[0].token_endpoint_auth_method: must be client_secret_basic, client_secret_post or none
line 7: providers[0].rotation: must be a single value
line 8: providers[0].revocation.method: must be POST or DELETE
line 8: providers[0].revocation.more: is not a known key
line 9: providers[0].scopes.a.access: must be read, change, send or delete
line 9: providers[0].scopes.a.acess: is not a known key
line 10: providers[0].offline_scopes[1]: must be a single value`},
		"what only follows from a problem": {`
- id: rig
  issuer: {url: https://rig.example}
  vars: {sub: x}
  authorization_endpoint: https://{sub}.rig.example/auth
`, `line 3: providers[0].issuer: must be a single value
line 4: providers[0].vars.sub: must be a mapping of keys to values`},
		"not a list": {`{id: rig}`, `line 1: providers: must be a list of providers`},
		"nothing":    {`[]`, ``},
		"what is missing without an issuer": {`
- id: rig
`, `line 2: providers[0].authorization_endpoint: is missing, and there is no issuer to discover it from: set it to its URL
line 2: providers[0].token_endpoint: is missing, and there is no issuer to discover it from: set it to its URL
line 2: providers[0].token_endpoint_auth_method: is missing, and there is no issuer to discover it from: set it to client_secret_basic, client_secret_post or none, as the provider's documentation says`},
		"values": {`
- id: Rig!
  issuer: https://rig.example?x=1
  token_endpoint_auth_method: guess
  pkce: plain
  rotation: sometimes
  discovery: maybe
  timeout: 31
  authorization_params: {state: fixed, redirect_uri: x, response_mode: fragment, prompt: "{who}"}
  scopes: {"a b": {access: read}, c: {access: fly}}
  token_request: {headers: {Idempotency-Key: x}, refresh_params: {refresh_token: y}}
  errors:
    grant_dead: [gone]
    refused: [gone]
    when: [{class: dead}, {path: a, class: refused}]
  revocation: {unsupported: true, method: PATCH}
  revocation_endpoint: https://rig.example/revoke
  userinfo: {params: {token: "{access_token}"}}
`, `line 2: providers[0].id: must be 1 to 64 lower-case letters, digits and hyphens
line 3: providers[0].issuer: must not contain a query
line 4: providers[0].token_endpoint_auth_method: must be client_secret_basic, client_secret_post or none
line 5: providers[0].pkce: must be S256, unsupported or unknown
line 6: providers[0].rotation: must be none, grace or strict
line 7: providers[0].discovery: must be auto or none
line 8: providers[0].timeout: must be 1 to 30 seconds
line 9: providers[0].authorization_params.prompt: uses {who}, which vars: does not declare
line 9: providers[0].authorization_params.redirect_uri: can't be set: the flow uses it
line 9: providers[0].authorization_params.response_mode: must be query: the callback reads nothing else
line 9: providers[0].authorization_params.state: can't be set: the flow uses it
line 10: providers[0].scopes.a b: is not a scope (RFC 6749 section 3.3)
line 10: providers[0].scopes.c.access: must be read, change, send or delete
line 11: providers[0].token_request.headers.Idempotency-Key: can't be set
line 11: providers[0].token_request.refresh_params.refresh_token: can't be set: the flow uses it
line 14: providers[0].errors.refused: gone is in errors.grant_dead already
line 15: providers[0].errors.when: entry 1: class must be grant_dead, client_refused, throttled, in_doubt or refused
line 15: providers[0].errors.when: entry 1: matches everything
line 15: providers[0].errors.when: entry 2: path and value belong together
line 16: providers[0].revocation.method: must be POST or DELETE
line 16: providers[0].revocation.unsupported: contradicts revocation_endpoint
line 18: providers[0].userinfo.method: must be POST where something is sent in the body`},
		"placeholders": {`
- id: rig
  discovery: none
  authorization_endpoint: https://{sub}.rig.example/auth
  token_endpoint: https://{other}.rig.example/token
  token_endpoint_auth_method: none
  vars:
    sub: {}
    Bad: {pattern: x}
    twice: {pattern: "(", from: moon}
    wrong: {pattern: "[a-z]+", default: evil.example/}
`, `line 5: providers[0].token_endpoint: uses {other}, which vars: does not declare
line 8: providers[0].vars.sub: needs a pattern or a list of allowed values: it may become part of a host name
line 9: providers[0].vars.Bad: a placeholder's name is made of lower-case letters, digits and _
line 10: providers[0].vars.twice.from: must be config, callback.NAME or token_response.PATH
line 10: providers[0].vars.twice.pattern: is not a regular expression
line 11: providers[0].vars.wrong.default: is not among the allowed values`},
	} {
		t.Run(name, func(t *testing.T) {
			_, problems := definitions(t, tt.yaml)
			got := ""
			if err := problems.err(); err != nil {
				got = err.Error()
			}
			if got, want := byLineAndText(got), byLineAndText(tt.want); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// byLineAndText makes the order among problems of one line not matter.
func byLineAndText(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		for j := i; j > 0 && lines[j] < lines[j-1] && lineOf(lines[j]) == lineOf(lines[j-1]); j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return strings.Join(lines, "\n")
}

func lineOf(s string) string { n, _, _ := strings.Cut(s, ":"); return n }

// threats.md 21: only https, and http on loopback, is an address.
func TestAddresses(t *testing.T) {
	for _, ok := range []string{"https://rig.example", "https://rig.example:8443/a?b=c", "http://127.0.0.1:4000/auth", "http://127.8.9.1/",
		"http://[::1]:4000/", "http://localhost:1/x", "https://10.0.0.1/"} {
		if _, err := parseEndpoint(ok); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{"javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "http://rig.example", "http://localhost.evil.example/",
		"https://user:pw@rig.example/", "https://rig.example/#x", "https://rig.example/#", "https:///x", "https:rig.example", "//rig.example", "",
		"http://0.0.0.0/", "http://2130706433/", "https://rig.example/a b", "https://rig.example/\r\nX: y", "https://[fe80::1%25eth0", "HTTP://rig.example",
		"ftp://rig.example", "https://r\u0131g.example/", "http://127.0.0.1.nip.io/", "http://[::ffff:10.0.0.1]/"} {
		if _, err := parseEndpoint(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestConnectorProblems(t *testing.T) {
	defs, problems := definitions(t, `
- {id: rig, authorization_endpoint: "https://{sub}.rig.example/auth", token_endpoint: "https://rig.example/token", token_endpoint_auth_method: client_secret_post, vars: {sub: {pattern: "[a-z.]+"}}}
- {id: open, authorization_endpoint: https://open.example/auth, token_endpoint: https://open.example/token, token_endpoint_auth_method: none}
- {id: bad, authorization_endpoint: https://bad.example/auth, token_endpoint: https://bad.example/token, token_endpoint_auth_method: none, vars: {sub: 1}, nonsense: true}
- {id: google, authorization_endpoint: https://x.example/auth, token_endpoint: https://x.example/token, token_endpoint_auth_method: none}
`)
	if len(problems) != 2 {
		t.Fatal(problems)
	}
	secret := broker.NewSecret(canarySecret)
	_, err := New(Config{Custom: defs, Now: time.Now, Log: slog.New(slog.DiscardHandler), Connectors: []ConnectorConfig{
		{ID: "a", Provider: "nobody", Scopes: []string{"r"}, DefaultScopes: []string{"w"}, Line: 10, Key: "connectors[0]"},
		{ID: "b", Provider: "rig", ClientID: "x", Scopes: []string{"r"}, DefaultScopes: []string{"w"}, Vars: map[string]string{"sub": "acme/evil", "more": "x"}, Line: 20, Key: "connectors[1]"},
		{ID: "B!", Provider: "open", ClientSecret: secret, Scopes: []string{"a b"}, Line: 30, Key: "connectors[2]"},
		{ID: "c", Provider: "bad", ClientSecret: secret, Scopes: []string{"r"}, DefaultScopes: []string{"w"}, Vars: map[string]string{"sub": "acme", "more": "x"}, Line: 40, Key: "connectors[3]"},
		{ID: "d", Provider: "google", ClientID: "x", ClientSecret: secret, Line: 50, Key: "connectors[4]"},
		{ID: "e", Provider: "rig", ClientID: "x", ClientSecret: secret, Scopes: []string{"r"}, Line: 60, Key: "connectors[5]"},
		{ID: "e", Provider: "open", ClientID: "x", Scopes: []string{"r"}, Line: 70, Key: "connectors[6]"},
	}})
	const want = `line 5: providers[3].id: is in the built-in catalogue: choose another id
line 10: connectors[0].client_id: is missing
line 10: connectors[0].default_scopes: holds what scopes does not: w
line 10: connectors[0].provider: "nobody" is neither in the built-in catalogue nor under providers
line 20: connectors[1].client_secret: is missing: rig authenticates its clients by client_secret_post
line 20: connectors[1].default_scopes: holds what scopes does not: w
line 20: connectors[1].vars.sub: is not a value that rig allows
line 30: connectors[2].client_id: is missing
line 30: connectors[2].client_secret: is set, but open has token_endpoint_auth_method none: leave one out
line 30: connectors[2].id: must be 1 to 64 lower-case letters, digits and hyphens
line 30: connectors[2].scopes: entry 1 is not a scope (RFC 6749 section 3.3)
line 40: connectors[3].client_id: is missing
line 40: connectors[3].client_secret: is set, but bad has token_endpoint_auth_method none: leave one out
line 40: connectors[3].default_scopes: holds what scopes does not: w
line 50: connectors[4].scopes: is missing: say what may be asked
line 60: connectors[5].vars.sub: is missing: rig needs it
line 70: connectors[6].id: "e" is used by another connector`
	if err == nil || byLineAndText(err.Error()) != byLineAndText(want) {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// What is wrong with a provider hides nothing of its connectors, and makes no problem up for them.
func TestConnectorsOfBrokenProviders(t *testing.T) {
	for name, tt := range map[string]struct{ yaml, want string }{
		"sound keys are used": {`
- {id: rig, authorization_endpoint: https://rig.example/auth, token_endpoint: https://rig.example/token, token_endpoint_auth_method: client_secret_post, id: again, nonsense: 1}
`, `connectors[0].client_secret: is missing: rig authenticates its clients by client_secret_post
connectors[0].default_scopes: holds what scopes does not: w`},
		"nothing is concluded from unsound ones": {`
- {id: rig, authorization_endpoint: "https://{sub}.rig.example/auth", token_endpoint: 1, token_endpoint_auth_method: [none], vars: [sub]}
`, `connectors[0].default_scopes: holds what scopes does not: w`},
		"nor from placeholders that are": {`
- {id: rig, authorization_endpoint: "https://{sub}.rig.example/auth", token_endpoint: "https://{zone}.rig.example/token", token_endpoint_auth_method: none, vars: {sub: {pattern: "("}, zone: {pattern: "("}}}
`, `connectors[0].default_scopes: holds what scopes does not: w`},
		"an id that can't be read may be the one": {`
- {id: [rig]}
`, `connectors[0].default_scopes: holds what scopes does not: w`},
		"no list": {`{rig: {}}`, `connectors[0].default_scopes: holds what scopes does not: w`},
	} {
		t.Run(name, func(t *testing.T) {
			defs, problems := definitions(t, tt.yaml)
			if len(problems) == 0 {
				t.Fatal("the provider is fine")
			}
			_, err := New(Config{Custom: defs, Now: time.Now, Log: slog.New(slog.DiscardHandler), Connectors: []ConnectorConfig{
				{ID: "a", Provider: "rig", ClientID: "x", Scopes: []string{"r"}, DefaultScopes: []string{"w"}, Vars: map[string]string{"sub": "acme"}, Key: "connectors[0]"},
			}})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got:\n%v\nwant:\n%s", err, tt.want)
			}
		})
	}
}

// A provider with problems serves nobody, even where nothing is wrong with its connector.
func TestBrokenProviderServesNobody(t *testing.T) {
	defs, _ := definitions(t, `[{id: rig, authorization_endpoint: https://rig.example/auth, token_endpoint: https://rig.example/token, token_endpoint_auth_method: none, nonsense: 1}]`)
	r, err := New(Config{Custom: defs, Now: time.Now, Log: slog.New(slog.DiscardHandler), Connectors: []ConnectorConfig{{ID: "a", Provider: "rig", ClientID: "x", Scopes: []string{"r"}}}})
	if err != nil {
		t.Fatal(err)
	}
	if c, ok := r.Connector("a"); ok || len(r.All()) != 0 {
		t.Errorf("connector is %+v", c)
	}
}

// A value for a placeholder that there is none of does no harm, but is worth a note.
func TestVarWithoutPlaceholder(t *testing.T) {
	r := connect(t, setup{yaml: contractExample, connector: ConnectorConfig{Vars: map[string]string{"subdomain": "acme"}, Line: 7, Key: "connectors[0]"}})
	notes := r.Notes()
	if len(notes) != 1 || notes[0].String() != "line 7: connectors[0].vars.subdomain: has no effect: rig has no such placeholder" {
		t.Errorf("notes are %v", notes)
	}
	if r := connect(t, setup{yaml: contractExample}); len(r.Notes()) != 0 {
		t.Errorf("notes are %v", r.Notes())
	}
}

// How a connector comes to its product: by provider, or by its own id under the server's name.
func TestProducts(t *testing.T) {
	for _, tt := range []struct{ id, provider, name, category, scopes string }{
		{"google-drive", "google", "Google Drive", "files", "https://www.googleapis.com/auth/drive.file"},
		{"anything", "gmail", "Gmail", "email", "https://www.googleapis.com/auth/gmail.readonly"},
		{"slack", "slack", "Slack", "communication", "channels:read chat:write users:read"},
		{"slack-user", "slack", "Slack (as you)", "communication", "search:read"},
		{"crm", "salesforce-sandbox", "Salesforce Sandbox", "crm", "api"},
	} {
		r, err := New(Config{Now: time.Now, Log: slog.New(slog.DiscardHandler), Connectors: []ConnectorConfig{
			{ID: tt.id, Provider: tt.provider, ClientID: "x", ClientSecret: broker.NewSecret("y")}}})
		if err != nil {
			t.Fatal(err)
		}
		c, _ := r.Connector(tt.id)
		if c.Name != tt.name || c.Category != tt.category || c.Default.String() != tt.scopes {
			t.Errorf("%s of %s is %+v", tt.id, tt.provider, c)
		}
	}
}

// Connectors with the same client_id at the same provider have one OAuth client: what is held against it counts for all of them.
func TestConnectorsOfOneClient(t *testing.T) {
	defs, problems := definitions(t, contractExample)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	r, err := New(Config{Custom: defs, Now: time.Now, Log: slog.New(slog.DiscardHandler), Connectors: []ConnectorConfig{
		{ID: "a", Provider: "rig", ClientID: "one", ClientSecret: broker.NewSecret("s"), Scopes: []string{"files.read"}},
		{ID: "b", Provider: "rig", ClientID: "one", ClientSecret: broker.NewSecret("s"), Scopes: []string{"files.write"}},
		{ID: "c", Provider: "rig", ClientID: "two", ClientSecret: broker.NewSecret("s"), Scopes: []string{"files.read"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	key := func(id string) string { c, _ := r.Connector(id); return c.ClientKey }
	if key("a") == "" || key("a") != key("b") || key("a") == key("c") {
		t.Errorf("the clients of a, b and c are named %q, %q and %q", key("a"), key("b"), key("c"))
	}
}
