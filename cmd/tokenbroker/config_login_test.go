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

const clientWithLogin = minimal + `clients:
  - id: chat
    tenant: acme
    key_sha256: [` + goodDigest + `]
    login:
`

func TestLoginIsRead(t *testing.T) {
	cfg, err := load(t, clientWithLogin+`      issuer: https://sso.example.com/realms/acme/
      client_id: tokenbroker
      client_secret: ${SSO}
      token_endpoint_auth_method: client_secret_post
      scopes: [openid, profile]
      subject_claim: https://acme.example/employee
      endpoint_hosts: [keys.example.com, "api.example.com:8443"]
  - {id: plain, tenant: acme, key_sha256: ["`+strings.Repeat("CD", 32)+`"]}
  - {id: public, tenant: acme, key_sha256: ["`+strings.Repeat("EF", 32)+`"], login: {issuer: "http://127.0.0.1:4000", client_id: x}}
`, map[string]string{"SSO": "canary-secret"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &login.ClientConfig{
		ID: "chat", Issuer: "https://sso.example.com/realms/acme/", ClientID: "tokenbroker", ClientSecret: broker.NewSecret("canary-secret"), AuthMethod: "client_secret_post",
		Scopes: []string{"openid", "profile"}, SubjectClaim: "https://acme.example/employee", EndpointHosts: []string{"keys.example.com", "api.example.com:8443"},
	}
	same := cmp.Comparer(func(a, b broker.Secret) bool { return a.Reveal() == b.Reveal() })
	if diff := cmp.Diff(want, cfg.Clients[0].Login, same); diff != "" || !cfg.Clients[0].Client.Login {
		t.Error(diff)
	}
	if plain := cfg.Clients[1]; plain.Login != nil || plain.Client.Login {
		t.Errorf("%+v", plain)
	}
	if public := cfg.Clients[2]; !public.Client.Login || public.Login.SubjectClaim != "sub" || public.Login.AuthMethod != "" || len(public.Login.Scopes) != 0 {
		t.Errorf("%+v", public.Login)
	}
	var all []login.ClientConfig
	for _, c := range cfg.Clients {
		if c.Login != nil {
			all = append(all, *c.Login)
		}
	}
	if _, err := login.New(login.Config{Clients: all, Now: time.Now}); err != nil {
		t.Errorf("what the file may hold is refused later: %v", err)
	}
	if len(cfg.Notes) != 0 {
		t.Errorf("notes %q", cfg.Notes)
	}
}

// Every problem has its line, and none shows a value.
func TestLoginProblems(t *testing.T) {
	_, err := load(t, clientWithLogin+`      issuer: http://sso.example.com?canary=1
      client_secret: "canary\nsecret"
      token_endpoint_auth_method: private_key_jwt
      scopes: [email]
      subject_claim: two claims
      endpoint_hosts: [https://canary.example]
      redirect_uri: x
  - {id: b, tenant: acme, key_sha256: ["`+strings.Repeat("CD", 32)+`"], login: {issuer: "https://login.example/{tenantid}/v2.0", client_id: x, client_secret: s, token_endpoint_auth_method: none}}
  - {id: c, tenant: acme, key_sha256: ["`+strings.Repeat("EF", 32)+`"], login: {client_id: x, issuer: "https://sso.example.com", token_endpoint_auth_method: client_secret_basic}}
  - {id: d, tenant: acme, key_sha256: ["`+strings.Repeat("AB", 32)+`"], login: "https://sso.example.com"}
`, nil, nil)
	if err == nil {
		t.Fatal("no problem")
	}
	for _, want := range []string{
		`:9: clients\[0\].login.issuer must begin with https://`, `:9: clients\[0\].login.issuer must not hold a query`, `:9: clients\[0\].login.client_id is missing`,
		`:10: clients\[0\].login.client_secret must be one line`, `:11: clients\[0\].login.token_endpoint_auth_method must be one of client_secret_basic`,
		`:12: clients\[0\].login.scopes must hold openid`, `:13: clients\[0\].login.subject_claim must be the name`, `:14: clients\[0\].login.endpoint_hosts\[0\] must be a host`,
		`:15: unknown key "redirect_uri" in clients\[0\].login`, `:16: clients\[1\].login.issuer must be the issuer of one tenant`, `:16: clients\[1\].login.token_endpoint_auth_method is none`,
		`:17: clients\[2\].login.client_secret is missing`, `:18: clients\[3\].login must be a mapping`,
	} {
		if !regexp.MustCompile(want).MatchString(err.Error()) {
			t.Errorf("lacks %s", want)
		}
	}
	if strings.Contains(err.Error(), "canary") || t.Failed() {
		t.Errorf("problems:\n%v", err)
	}
}

func TestLoginNotes(t *testing.T) {
	for _, claim := range []string{"email", "preferred_username", "oid"} {
		cfg, err := load(t, clientWithLogin+"      {issuer: https://sso.example.com, client_id: x, subject_claim: "+claim+"}\n", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if told := len(cfg.Notes) == 1 && strings.Contains(cfg.Notes[0], ":9: clients[0].login.subject_claim is "+claim); told != (claim != "oid") {
			t.Errorf("%s: notes %q", claim, cfg.Notes)
		}
	}
}
