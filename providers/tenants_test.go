package providers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func ownConnector(provider string, vars map[string]string) broker.TenantConnector {
	return broker.TenantConnector{
		ID: "drive_aaaa", Tenant: "acme", Provider: provider, ClientID: "abc", ClientSecret: broker.NewSecret(canarySecret), ClientGeneration: 3,
		Scopes: []string{"read_user"}, Vars: vars, Version: 1, CreatedAt: start,
	}
}

const hostedAtPorts = `
- id: hosted
  authorization_endpoint: https://{host}/auth
  token_endpoint: https://{host}:8443/token
  token_endpoint_auth_method: client_secret_basic
  vars: {host: {pattern: "[a-z0-9.-]+"}}
- id: hosted-usual
  authorization_endpoint: https://{host}:443/auth
  token_endpoint: https://{host}/token
  token_endpoint_auth_method: client_secret_basic
  vars: {host: {pattern: "[a-z0-9.-]+"}}
`

// Threat 53. At a host that a tenant had a say in, requests go to the ports that the operator allows; what the operator states is not bound by that.
func TestThreat53OutboundPorts(t *testing.T) {
	for _, test := range []struct {
		cfg     Config
		reach   reach
		port    string
		refused bool
	}{
		{Config{}, reachGuarded, "443", false},
		{Config{}, reachGuarded, "80", true},
		{Config{}, reachGuarded, "8443", true},
		{Config{}, reachGuarded, "25", true},
		{Config{}, reachPublic, "8443", false},
		{Config{}, reachPrivate, "8443", false},
		{Config{OutboundPorts: []uint16{443, 8443}}, reachGuarded, "8443", false},
		{Config{OutboundPorts: []uint16{443, 8443}}, reachGuarded, "22", true},
		{Config{OutboundPorts: []uint16{8443}}, reachGuarded, "443", true},
		{Config{AllPorts: true}, reachGuarded, "22", false},
	} {
		dialled := errors.New("dialled")
		test.cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, dialled }
		_, err := newTransport(test.cfg, test.reach).DialContext(t.Context(), "tcp", net.JoinHostPort("203.0.113.9", test.port))
		if want := map[bool]error{true: errPort, false: dialled}[test.refused]; !errors.Is(err, want) {
			t.Errorf("%+v, reach %d, port %s: %v", test.cfg.OutboundPorts, test.reach, test.port, err)
		}
	}
}

// A tenant's connector is checked like one of the configuration, and its values lead nowhere but to the public internet.
func TestTenantConnectorIsChecked(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain() + hostedAtPorts})
	for name, test := range map[string]struct {
		change func(*broker.TenantConnector)
		says   string
	}{
		"right":                {func(*broker.TenantConnector) {}, ""},
		"self-hosted":          {func(c *broker.TenantConnector) { c.Vars = map[string]string{"host": "git.example.com"} }, ""},
		"operator's loopback":  {func(c *broker.TenantConnector) { c.Provider = "rig" }, ""},
		"no provider":          {func(c *broker.TenantConnector) { c.Provider = "" }, "provider is none"},
		"unknown provider":     {func(c *broker.TenantConnector) { c.Provider = canaryText }, "provider is none"},
		"no client id":         {func(c *broker.TenantConnector) { c.ClientID = "" }, "client_id is missing"},
		"no secret":            {func(c *broker.TenantConnector) { c.ClientSecret = broker.Secret{} }, "client_secret is missing"},
		"unknown placeholder":  {func(c *broker.TenantConnector) { c.Vars = map[string]string{"zone": canaryText} }, "vars.zone is not known"},
		"bad value":            {func(c *broker.TenantConnector) { c.Vars = map[string]string{"host": "a/" + canaryText} }, "vars.host is not a value"},
		"other default scopes": {func(c *broker.TenantConnector) { c.DefaultScopes = []string{canaryText} }, "default_scopes holds what scopes does not"},
		"pkce":                 {func(c *broker.TenantConnector) { c.PKCE = canaryText }, "pkce must be S256"},
		"another port": {func(c *broker.TenantConnector) {
			c.Provider, c.Vars = "hosted", map[string]string{"host": "git.example.com"}
		}, "outbound_ports"},
		"a port that is named": {func(c *broker.TenantConnector) {
			c.Provider, c.Vars = "hosted-usual", map[string]string{"host": "git.example.com"}
		}, ""},
		"loopback":            {func(c *broker.TenantConnector) { c.Vars = map[string]string{"host": "127.0.0.1"} }, "vars must lead to https addresses of the public internet"},
		"private":             {func(c *broker.TenantConnector) { c.Vars = map[string]string{"host": "10.1.2.3"} }, "public internet"},
		"metadata of a cloud": {func(c *broker.TenantConnector) { c.Vars = map[string]string{"host": "169.254.169.254"} }, "public internet"},
	} {
		c := ownConnector("gitlab", nil)
		test.change(&c)
		err := r.CheckTenantConnector(c)
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says) || broker.CodeOf(err) != broker.CodeInvalidRequest):
			t.Errorf("%s: %v, want %q", name, err, test.says)
		case err != nil && strings.Contains(err.Error(), canaryText):
			t.Errorf("%s: the error repeats a value: %v", name, err)
		}
	}
	if len(r.Notes()) != 0 || len(r.All()) != 1 {
		t.Errorf("a check changed the registry: %v, %d connectors", r.Notes(), len(r.All()))
	}
}

// Threat 53. What a name resolves to is decided when it is dialled: a tenant's host that is private, or loopback by another name, gets no
// connection. The operator's own definition reaches loopback where it names it.
func TestTenantReach(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"at","expires_in":3600}`)
	host := strings.TrimPrefix(f.URL, "http://")
	_, port, _ := strings.Cut(host, ":")
	r := connect(t, setup{config: Config{AllPorts: true}, yaml: f.plain() + `
- id: hosted
  authorization_endpoint: https://{host}/auth
  token_endpoint: https://{host}:` + port + `/token
  token_endpoint_auth_method: client_secret_basic
  vars: {host: {pattern: "[a-z0-9.-]+"}}
`})
	refresh := func(id string) error {
		_, err := r.Refresh(t.Context(), id, broker.RefreshRequest{RefreshToken: broker.NewSecret(canaryRefresh)})
		return err
	}
	put := func(provider, host string) error {
		c := ownConnector(provider, nil)
		if host != "" {
			c.Vars = map[string]string{"host": host}
		}
		r.SetTenantConnectors(nil, nil)
		if err := r.CheckTenantConnector(c); err != nil {
			return err
		}
		r.PutTenantConnector(c)
		return refresh(c.ID)
	}
	if err := put("rig", ""); err != nil {
		t.Errorf("the operator's own definition: %v", err)
	}
	before := f.count("/token")
	// No check of names can know these: they are loopback by DNS, or by an odd notation of the address.
	for _, host := range []string{"0x7f.1", "127.1", "localhost.localdomain", "localhost."} {
		err := put("hosted", host)
		if err == nil {
			t.Errorf("%s: reached", host)
		}
	}
	guarded := newTransport(Config{Timeout: time.Second, AllPorts: true}, reachGuarded)
	for _, address := range []string{"127.0.0.1:" + port, "localhost:" + port, "[::1]:" + port, "10.0.0.1:443", "[::ffff:10.0.0.1]:443", "169.254.169.254:443"} {
		conn, err := guarded.DialContext(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s: dialled for a tenant", address)
		}
	}
	if f.count("/token") != before {
		t.Errorf("%d requests got through", f.count("/token")-before)
	}
}

// What the operator wrote into a definition of their own goes to no host that a tenant chose.
func TestTenantLearnsNoOperatorsKey(t *testing.T) {
	const hosted = `
- id: hosted
  authorization_endpoint: https://login.example.com/auth
  token_endpoint: https://%s/token
  token_endpoint_auth_method: client_secret_basic
  vars: {host: {pattern: "[a-z0-9.-]+", default: git.example.com}}
`
	for name, test := range map[string]struct {
		host, more string
		refused    bool
	}{
		"nothing of the operator's":    {"{host}", "", false},
		"how the answer is wanted":     {"{host}", "  token_request: {headers: {Accept: application/json}}\n", false},
		"a key, to a fixed host":       {"api.example.com", "  token_request: {headers: {X-Api-Key: " + canaryText + "}}\n", false},
		"a key in a header":            {"{host}", "  token_request: {headers: {X-Api-Key: " + canaryText + "}}\n", true},
		"a key in a refresh":           {"{host}", "  token_request: {refresh_params: {api_key: " + canaryText + "}}\n", true},
		"a key to the place of lookup": {"api.example.com", "  lookups: [{endpoint: 'https://{host}/me', headers: {X-Api-Key: " + canaryText + "}, extra: [{name: a, path: a}]}]\n", true},
	} {
		r := connect(t, setup{yaml: newFake(t).plain() + fmt.Sprintf(hosted, test.host) + test.more})
		err := r.CheckTenantConnector(ownConnector("hosted", nil))
		if (err != nil) != test.refused || err != nil && (!strings.Contains(err.Error(), "operator's own") || strings.Contains(err.Error(), canaryText)) {
			t.Errorf("%s: %v, want it refused: %v", name, err, test.refused)
		}
	}
}

// Endpoints that a definition leaves to a tenant's value are guarded, whatever the definition is.
func TestTenantReachOfEndpoints(t *testing.T) {
	d := &Definition{tenant: true, AllowPrivate: true, Issuer: "https://{host}", AuthorizationEndpoint: "http://127.0.0.1:8080/auth", TokenEndpoint: "https://{host}:8443/token"}
	for url, want := range map[string]reach{
		"http://127.0.0.1:8080/token":  reachPublic, // the operator wrote this host
		"http://127.0.0.1:8081/token":  reachGuarded,
		"https://127.0.0.1:8080/token": reachGuarded,
		"https://{host}/token":         reachGuarded,
		"https://git.example/token":    reachGuarded,
		"https://x@127.0.0.1:8080/":    reachGuarded,
	} {
		if got := d.reach(url); got != want {
			t.Errorf("%s: %d, want %d", url, got, want)
		}
	}
	if d.tenant = false; d.reach("https://git.example/token") != reachPrivate {
		t.Error("the operator's own connector lost its reach")
	}
}

// Whoever reads sees the connectors before a change or behind it; those of the configuration stay, whatever tenants do.
func TestTenantConnectorsComeAndGo(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain()})
	ids := func() string {
		var all []string
		for _, c := range r.All() {
			all = append(all, c.ID)
		}
		return strings.Join(all, " ")
	}
	one, two := ownConnector("gitlab", nil), ownConnector("gitlab", nil)
	two.ID, two.CreatedAt = "drive_bbbb", start.Add(-time.Hour)
	r.PutTenantConnector(one)
	r.PutTenantConnector(two)
	if got := ids(); got != "files drive_bbbb drive_aaaa" {
		t.Errorf("connectors %q", got)
	}
	view, ok := r.Connector("drive_aaaa")
	if !ok || strings.Join(view.Tenants, " ") != "acme" || view.ProviderID != "gitlab/drive_aaaa" {
		t.Errorf("%+v", view)
	}
	had := r.present.Load().servers["drive_aaaa"]
	newer := one
	newer.Version, newer.Name = 2, "Newer"
	r.SetTenantConnectors([]broker.TenantConnector{newer, two}, nil)
	if view, _ := r.Connector("drive_aaaa"); view.Name != "Newer" {
		t.Errorf("an update is not seen: %q", view.Name)
	}
	r.PutTenantConnector(one) // read before the update, and late
	if view, _ := r.Connector("drive_aaaa"); view.Name != "Newer" {
		t.Errorf("an older version came back")
	}
	if r.present.Load().servers["drive_bbbb"] == nil || r.present.Load().servers["drive_aaaa"] == had {
		t.Error("what is unchanged was made anew, or what changed was not")
	}
	gone := two
	gone.Version, gone.Provider = 2, "no longer there"
	r.SetTenantConnectors([]broker.TenantConnector{gone}, []string{"drive_aaaa"})
	if got := ids(); got != "files drive_aaaa" {
		t.Errorf("kept one that does not open, and dropped one that can't be used: %q", got)
	}
	taken := one
	taken.ID = "files"
	r.PutTenantConnector(taken)
	r.SetTenantConnectors([]broker.TenantConnector{taken}, nil)
	r.DropTenantConnector("files")
	if view, ok := r.Connector("files"); !ok || view.Tenants != nil {
		t.Errorf("a tenant took the place of the operator's connector: %+v", view)
	}
	if got := ids(); got != "files" {
		t.Errorf("connectors %q", got)
	}
}

// Threat 7. Two tenants with one client id, or with a server of their own, have nothing of each other's grants.
func TestTenantSharedGrants(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain("  shared_grants: true\n")})
	one := ownConnector("rig", nil)
	two := one
	two.ID, two.Tenant = "drive_bbbb", "other"
	r.SetTenantConnectors([]broker.TenantConnector{one, two}, nil)
	names := map[string]string{}
	for _, id := range []string{"files", "drive_aaaa", "drive_bbbb"} {
		c, _ := r.Connector(id)
		if other, taken := names[c.SharedGrants]; taken || c.SharedGrants == "" {
			t.Errorf("%s shares its grants with %q: %q", id, other, c.SharedGrants)
		}
		names[c.SharedGrants] = id
	}
}

// What is remembered under the name of an OAuth client, such as whom a notice is about, outlives a new client secret.
func TestTenantClientKeepsItsName(t *testing.T) {
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain("  shared_grants: true\n  revocation: {ends: client}\n")})
	one := ownConnector("rig", nil)
	r.PutTenantConnector(one)
	before, _ := r.Connector(one.ID)
	one.Version, one.ClientGeneration, one.ClientSecret, one.Previous = 2, 4, broker.NewSecret("newer"), one.ClientSecret
	r.PutTenantConnector(one)
	after, _ := r.Connector(one.ID)
	if before.ClientKey != after.ClientKey || before.SharedGrants != after.SharedGrants || before.RevokesAll != after.RevokesAll || after.RevokesAll == "" {
		t.Errorf("%q, %q and %q became %q, %q and %q", before.ClientKey, before.SharedGrants, before.RevokesAll, after.ClientKey, after.SharedGrants, after.RevokesAll)
	}
	file, _ := r.Connector("files")
	if after.ClientKey == file.ClientKey || after.SharedGrants == file.SharedGrants {
		t.Error("a tenant's client goes by the name of the operator's")
	}
	// But what one revocation ends at the provider is counted together.
	if same := strings.TrimSuffix(file.RevokesAll, "/abc") + "/" + one.ClientID; after.RevokesAll != same {
		t.Errorf("%q, want %q: a client that is brought in twice is one at the provider", after.RevokesAll, same)
	}
}
