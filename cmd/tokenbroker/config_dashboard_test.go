package main

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
)

const twoTenants = minimal + `clients:
  - {id: a, tenant: acme, key_sha256: [` + goodDigest + `]}
dashboard:
`

func TestDashboardIsRead(t *testing.T) {
	cfg, err := load(t, twoTenants+`  login:
    issuer: https://sso.example.com/realms/staff
    client_id: dash
    client_secret: ${SSO}
    token_endpoint_auth_method: client_secret_post
    scopes: [openid, groups]
    endpoint_hosts: [keys.example.com]
    groups_claim: realm_access.roles
    name_claim: display
  roles:
    - {group: sre, role: operator}
    - {group: "CN=Acme Support,OU=x", role: viewer, tenant: acme}
    - {group: sre, role: auditor}
  session: {idle: 10m, absolute: 8h}
`, map[string]string{"SSO": "canary-secret"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := DashboardConfig{
		Login: &login.OperatorConfig{
			ClientConfig: login.ClientConfig{
				Issuer: "https://sso.example.com/realms/staff", ClientID: "dash", ClientSecret: broker.NewSecret("canary-secret"), AuthMethod: "client_secret_post",
				Scopes: []string{"openid", "groups"}, EndpointHosts: []string{"keys.example.com"},
			},
			GroupsClaim: "realm_access.roles", NameClaim: "display",
		},
		Roles: []broker.OperatorRole{
			{Group: "sre", OperatorGrant: broker.OperatorGrant{Role: broker.RoleOperator}},
			{Group: "CN=Acme Support,OU=x", OperatorGrant: broker.OperatorGrant{Role: broker.RoleViewer, Tenant: "acme"}},
			{Group: "sre", OperatorGrant: broker.OperatorGrant{Role: broker.RoleAuditor}},
		},
		Idle: 10 * time.Minute, Absolute: 8 * time.Hour, Recheck: time.Hour,
	}
	same := cmp.Comparer(func(a, b broker.Secret) bool { return a.Reveal() == b.Reveal() })
	if diff := cmp.Diff(want, cfg.Dashboard, same); diff != "" {
		t.Error(diff)
	}
	if _, err := login.NewOperators(login.Config{Now: time.Now}, *cfg.Dashboard.Login); err != nil {
		t.Errorf("what the file may hold is refused later: %v", err)
	}

	cfg, err = load(t, twoTenants+"  token_sha256: "+goodDigest+"\n  login: {issuer: https://sso.example.com, client_id: dash}\n  roles: [{group: g, role: admin}]\n", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	d := cfg.Dashboard
	if d.TokenSHA256 == "" || d.Login == nil || strings.Join(d.Login.Scopes, " ") != "openid profile email" || d.Login.GroupsClaim != "groups" || d.Idle != 30*time.Minute || d.Absolute != 12*time.Hour {
		t.Errorf("%+v", d)
	}
	if cfg, err = load(t, minimal, nil, nil); err != nil || cfg.Dashboard.TokenSHA256 != "" || cfg.Dashboard.Login != nil {
		t.Errorf("without a dashboard: %+v, %v", cfg.Dashboard, err)
	}
}

// Every problem has its line, none shows a secret, and no mistake in a tenant gives a role in all of them.
func TestDashboardProblems(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"  login: {client_id: x}\n  roles: [{group: g, role: admin}]\n", `:7: dashboard.login.issuer is missing`},
		{"  login: {issuer: https://sso.example.com, client_id: x, client_secret: \"canary\\ns\"}\n  roles: [{group: g, role: admin}]\n", `:7: dashboard.login.client_secret must be one line`},
		{"  login: {issuer: https://sso.example.com, client_id: x, subject_claim: email}\n  roles: [{group: g, role: admin}]\n", `:7: unknown key "subject_claim" in dashboard.login`},
		{"  login: {issuer: https://sso.example.com, client_id: x}\n", `:7: dashboard.roles is missing or empty`},
		{"  login: {issuer: https://sso.example.com, client_id: x}\n  roles: []\n", `:7: dashboard.roles is missing or empty`},
		{"  token_sha256: " + goodDigest + "\n  roles: [{group: g, role: admin}]\n", `:8: dashboard.roles count for those who sign in by login`},
		{"  login: {issuer: https://sso.example.com, client_id: x}\n  roles:\n    - {group: g, role: root}\n    - {group: g, role: viewer, tenant: canary}\n    - {group: g, role: viewer, tenant: }\n    - {role: viewer}\n    - {group: \" g\", role: viewer}\n    - {group: g, role: viewer, tenants: [acme]}\n    - viewer\n    - {group: h, role: viewer}\n    - {group: h, role: viewer}\n",
			`(?s):9: dashboard.roles\[0\].role must be one of viewer, operator, auditor, admin.*:10: dashboard.roles\[1\].tenant must be the tenant of a client.*:11: dashboard.roles\[2\].tenant is empty.*` +
				`:12: dashboard.roles\[3\].group is missing.*:13: dashboard.roles\[4\].group must be a group exactly.*:14: unknown key "tenants" in dashboard.roles\[5\]; did you mean "tenant".*:15: dashboard.roles\[6\] must be a mapping.*:17: dashboard.roles\[8\] is the same as on line 16`},
		{"  session: {idle: 10s, absolute: 200h}\n", `(?s):7: dashboard.session.idle must be a length of time from 1m0s.*:7: dashboard.session.absolute must be .*168h`},
		{"  login: {issuer: https://sso.example.com, client_id: x, recheck: 59s}\n  roles: [{group: g, role: admin}]\n", `:7: dashboard.login.recheck must be a length of time from 1m0s to 168h0m0s, such as 1h0m0s`},
		{"  session: {idle: 2h, absolute: 1h}\n", `:7: dashboard.session.idle is longer than absolute`},
		{"  tokens: x\n", `:7: unknown key "tokens" in dashboard; known here: token_sha256, login, roles, session`},
	} {
		_, err := load(t, twoTenants+test.text, nil, nil)
		if err == nil || !regexp.MustCompile(test.want).MatchString(err.Error()) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q\nlacks %s:\n%v", test.text, test.want, err)
		}
	}
}
