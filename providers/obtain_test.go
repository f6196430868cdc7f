package providers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"tokenbroker/broker"
)

const offersDirect = "  grants: [authorization_code, client_credentials, jwt_bearer]"

func robotConnector() ConnectorConfig {
	return ConnectorConfig{Grant: "client_credentials", Tenants: []string{"acme"}}
}

func obtain(t *testing.T, r *Registry, subject string, scopes ...string) (broker.Grant, error) {
	t.Helper()
	return r.Obtain(t.Context(), "files", broker.ObtainRequest{Scopes: broker.NewScopeSet(scopes...), Subject: subject})
}

func equalForm(t *testing.T, got, want url.Values) {
	t.Helper()
	if got.Encode() != want.Encode() {
		t.Errorf("got  %s\nwant %s", got.Encode(), want.Encode())
	}
}

// What goes out is what RFC 6749 section 4.4.2 says, and what the definition adds; a refresh token in the answer is not kept.
func TestClientCredentialsRequest(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"at","token_type":"Bearer","expires_in":600,"refresh_token":"canary-refresh-token","instance_url":"https://x.example"}`)
	r := connect(t, setup{yaml: f.plain(offersDirect, "  scope_separator: ','", "  offline_scopes: [offline_access]", "  token_response: {extra: [{name: instance_url, path: instance_url}]}"), connector: robotConnector()})
	view, _ := r.Connector("files")
	if view.Grant != broker.GrantClientCredentials || !view.OfTenant() || !view.Implied.Empty() || view.Exclusive || len(view.Tenants) != 1 {
		t.Errorf("connector is %+v", view)
	}
	grant, err := obtain(t, r, "", "files.read", "files.write")
	if err != nil {
		t.Fatal(err)
	}
	request := f.request("/token")
	equalForm(t, request.PostForm, url.Values{"grant_type": {"client_credentials"}, "scope": {"files.read,files.write"}})
	if id, secret, ok := request.BasicAuth(); !ok || id != "abc" || secret != canarySecret {
		t.Errorf("authenticated as %q", id)
	}
	if !grant.RefreshToken.IsZero() || grant.AccessToken.Reveal() != "at" || grant.Lifetime != 10*time.Minute || grant.ScopesReported || grant.Extra["instance_url"] != "https://x.example" {
		t.Errorf("grant is %+v", grant)
	}
}

func TestClientCredentialsVariants(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"at"}`)
	r := connect(t, setup{yaml: f.plain(offersDirect, "  client_credentials: {grant_type: account_credentials, params: {account_id: '{account}'}, scope: none}",
		"  vars: {account: {pattern: '[a-z0-9]+'}}"), connector: ConnectorConfig{Grant: "client_credentials", Tenants: []string{"acme"}, Vars: map[string]string{"account": "a1"}}})
	if _, err := obtain(t, r, "", "files.read"); err != nil {
		t.Fatal(err)
	}
	equalForm(t, f.request("/token").PostForm, url.Values{"grant_type": {"account_credentials"}, "account_id": {"a1"}})
	// With an issuer alone: the metadata has the endpoint.
	f = newFake(t)
	f.answers("/token", 200, `{"access_token":"at"}`)
	f.answers("/.well-known/oauth-authorization-server", 200, `{"issuer":"`+f.URL+`","token_endpoint":"`+f.URL+`/token"}`)
	r = connect(t, setup{yaml: "- {id: rig, issuer: \"" + f.URL + "\", grants: [client_credentials]}", connector: robotConnector()})
	if _, err := obtain(t, r, "", "files.read"); err != nil || f.count("/token") != 1 {
		t.Errorf("%v, %d requests", err, f.count("/token"))
	}
}

func TestObtainFailures(t *testing.T) {
	for body, want := range map[string]broker.Class{
		`{"error":"invalid_client"}`:                                         broker.ClassClientRefused,
		`{"error":"unauthorized_client"}`:                                    broker.ClassClientRefused,
		`{"error":"invalid_scope"}`:                                          broker.ClassRefused,
		`{"error":"invalid_grant","error_description":"` + canaryText + `"}`: broker.ClassGrantDead,
		`{"error":"slow_down"}`:                                              broker.ClassThrottled,
	} {
		f := newFake(t)
		f.answers("/token", 400, body)
		r := connect(t, setup{yaml: f.plain(offersDirect), connector: robotConnector()})
		_, err := obtain(t, r, "", "files.read")
		class(t, err, want)
		if n := f.count("/token"); n != 1 {
			t.Errorf("%s: %d requests, want one", body, n)
		}
	}
	// A connector of users obtains nothing by itself.
	f := newFake(t)
	r := connect(t, setup{yaml: f.plain(offersDirect)})
	_, err := obtain(t, r, "", "files.read")
	class(t, err, broker.ClassRefused)
	if n := f.count("/token"); n != 0 {
		t.Errorf("%d requests went out", n)
	}
}

func pemOf(t *testing.T, key any) broker.Secret {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return broker.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}

func newRSA(t *testing.T, bits int) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// The request is RFC 7523 section 2.1, the assertion section 3, in the shapes that definitions give it.
func TestJWTBearerRequest(t *testing.T) {
	key := newRSA(t, 2048)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issued := float64(start.Unix())
	type claims = map[string]any
	for name, tt := range map[string]struct {
		yaml    string
		key     crypto.Signer
		change  func(*ConnectorConfig)
		subject string
		want    claims
		form    url.Values // beside grant_type and assertion
		secret  bool       // the client authenticates, too
	}{
		"by the standard": {key: key, want: claims{"iss": "abc", "sub": "abc", "aud": "URL/token", "iat": issued, "exp": issued + 180}, form: url.Values{"scope": {"files.read"}}},
		"ES256":           {key: curve, want: claims{"iss": "abc", "sub": "abc", "aud": "URL/token", "iat": issued, "exp": issued + 180}, form: url.Values{"scope": {"files.read"}}},
		"a service account": {yaml: "  jwt_bearer: {audience: 'https://aud.example/token', scope: claim, subject: none, lifetime: 3600}", key: key,
			want: claims{"iss": "abc", "aud": "https://aud.example/token", "iat": issued, "exp": issued + 3600, "scope": "files.read"}},
		"acting for a user": {yaml: "  jwt_bearer: {scope: claim, subject: none}", key: key, subject: "bob@acme.example",
			change: func(c *ConnectorConfig) { c.Impersonate = []string{"*@acme.example"} },
			want:   claims{"iss": "abc", "sub": "bob@acme.example", "aud": "URL/token", "iat": issued, "exp": issued + 180, "scope": "files.read"}},
		"an account of the operator's": {yaml: "  jwt_bearer: {scope: none, subject: required, client_auth: client}", key: key, secret: true,
			change: func(c *ConnectorConfig) {
				c.Assertion.Subject, c.ClientSecret = "bot@acme.example", broker.NewSecret(canarySecret)
			},
			want: claims{"iss": "abc", "sub": "bot@acme.example", "aud": "URL/token", "iat": issued, "exp": issued + 180}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.answers("/token", 200, `{"access_token":"at","expires_in":600}`)
			c := ConnectorConfig{Grant: "jwt_bearer", Tenants: []string{"acme"}, Assertion: AssertionConfig{Key: pemOf(t, tt.key), KeyID: "k-1"}}
			if tt.change != nil {
				tt.change(&c)
			}
			r := connect(t, setup{yaml: f.plain(offersDirect, tt.yaml), connector: c, public: true})
			if _, err := obtain(t, r, tt.subject, "files.read"); err != nil {
				t.Fatal(err)
			}
			request := f.request("/token")
			form := request.PostForm
			token, err := jwt.ParseSigned(form.Get("assertion"), []jose.SignatureAlgorithm{jose.RS256, jose.ES256})
			if err != nil {
				t.Fatal(err)
			}
			var got claims
			if err := token.Claims(tt.key.Public(), &got); err != nil {
				t.Fatalf("the signature: %v", err)
			}
			if id, _ := got["jti"].(string); len(id) < 20 {
				t.Errorf("jti is %q", id)
			}
			delete(got, "jti")
			for _, name := range []string{"iss", "sub", "aud", "iat", "exp", "scope", "nbf"} {
				want := tt.want[name]
				if text, ok := want.(string); ok {
					want = strings.ReplaceAll(text, "URL", f.URL)
				}
				if got[name] != want {
					t.Errorf("claim %s is %v, want %v", name, got[name], want)
				}
			}
			if h := token.Headers[0]; h.KeyID != "k-1" || h.ExtraHeaders["typ"] != "JWT" {
				t.Errorf("header is %+v", h)
			}
			form.Del("assertion")
			want := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}}
			for name, values := range tt.form {
				want[name] = values
			}
			equalForm(t, form, want)
			if got := request.Header.Get("Authorization") != ""; got != tt.secret {
				t.Errorf("the client authenticates: %t", got)
			}
		})
	}
}

// What is refused at the start, each with its reason.
func TestGrantProblems(t *testing.T) {
	good := pemOf(t, newRSA(t, 2048))
	assertion := func(key broker.Secret) func(*ConnectorConfig) {
		return func(c *ConnectorConfig) {
			c.Grant, c.Tenants, c.Assertion.Key = "jwt_bearer", []string{"acme"}, key
		}
	}
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		yaml   string
		change func(*ConnectorConfig)
		want   string
	}{
		"implicit":                    {offersDirect, func(c *ConnectorConfig) { c.Grant = "implicit" }, "grant: implicit is not supported: it hands tokens out in a URL"},
		"password":                    {offersDirect, func(c *ConnectorConfig) { c.Grant = "password" }, "grant: password is not supported: it makes users give their password"},
		"implicit at the provider":    {"  grants: [authorization_code, implicit]", nil, "providers[0].grants: entry 2: implicit is not supported"},
		"password at the provider":    {"  grants: [password]", nil, "providers[0].grants: entry 1: password is not supported"},
		"password in disguise":        {offersDirect + "\n  client_credentials: {grant_type: password}", nil, "client_credentials.grant_type: is not supported"},
		"unknown":                     {offersDirect, func(c *ConnectorConfig) { c.Grant = "token_exchange" }, "grant: must be authorization_code, client_credentials or jwt_bearer"},
		"device as a grant":           {offersDirect, func(c *ConnectorConfig) { c.Grant = "device_code" }, "set device: true"},
		"not offered":                 {"", func(c *ConnectorConfig) { c.Grant, c.Tenants = "client_credentials", []string{"acme"} }, "grant: is client_credentials, which rig does not offer as far as is known"},
		"the code flow not offered":   {"  grants: [client_credentials]", nil, "grant: is authorization_code, which rig does not offer"},
		"no tenants":                  {offersDirect, func(c *ConnectorConfig) { c.Grant = "client_credentials" }, "tenants: is missing"},
		"a public client":             {offersDirect + "\n  token_endpoint_auth_method: none", func(c *ConnectorConfig) { c.Grant, c.Tenants = "client_credentials", []string{"acme"} }, "grant: client_credentials needs a client that can keep a secret"},
		"no key":                      {offersDirect, assertion(broker.Secret{}), "assertion.key: is missing"},
		"no PEM":                      {offersDirect, assertion(broker.NewSecret("canary-of-the-provider")), "assertion.key: must be one private key in PEM"},
		"a certificate":               {offersDirect, assertion(broker.NewSecret(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})))), "assertion.key: must be a private key in PEM without a passphrase"},
		"a weak key":                  {offersDirect, assertion(pemOf(t, weak)), "assertion.key: is an RSA key of less than 2048 bits"},
		"another curve":               {offersDirect, assertion(pemOf(t, other)), "assertion.key: must be an RSA key or one on the curve P-256"},
		"another algorithm":           {offersDirect + "\n  jwt_bearer: {algorithm: ES256}", assertion(good), "assertion.key: signs with RS256, and rig takes ES256"},
		"nobody to act for":           {offersDirect + "\n  jwt_bearer: {subject: required}", assertion(good), "assertion.subject: is missing"},
		"everybody":                   {offersDirect, func(c *ConnectorConfig) { assertion(good)(c); c.Impersonate = []string{"*"} }, "impersonate: entry 1 must be a subject, or *@ and a domain"},
		"everybody everywhere":        {offersDirect, func(c *ConnectorConfig) { assertion(good)(c); c.Impersonate = []string{"*@*"} }, "impersonate: entry 1 must be"},
		"two subjects":                {offersDirect, func(c *ConnectorConfig) { assertion(good)(c); c.Impersonate, c.Assertion.Subject = []string{"a"}, "b" }, "assertion.subject: contradicts impersonate"},
		"a key without use":           {offersDirect, func(c *ConnectorConfig) { c.Assertion.Key = good }, "assertion: is for grant: jwt_bearer alone"},
		"nobody is impersonated":      {offersDirect, func(c *ConnectorConfig) { c.Impersonate = []string{"a"} }, "impersonate: is for grant: jwt_bearer alone"},
		"device not offered":          {offersDirect, func(c *ConnectorConfig) { c.Device = true }, "device: is true, but rig does not offer device_code"},
		"a device without an address": {"  grants: [authorization_code, device_code]", nil, "device_authorization_endpoint: is missing"},
		"an address without a device": {"  device_authorization_endpoint: https://x.example/device", nil, "device_authorization_endpoint: needs device_code among grants"},
		"a device of nobody":          {offersDirect, func(c *ConnectorConfig) { c.Grant, c.Tenants, c.Device = "client_credentials", []string{"acme"}, true }, "device: is for connectors that users consent to"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			text := f.plain(tt.yaml)
			if strings.Contains(tt.yaml, "token_endpoint_auth_method") {
				text = strings.Replace(text, "  token_endpoint_auth_method: client_secret_basic\n", "", 1)
			}
			defs, problems := definitions(t, text)
			c := ConnectorConfig{ID: "files", Provider: "rig", ClientID: "abc", ClientSecret: broker.NewSecret(canarySecret), Scopes: []string{"files.read"}}
			if strings.Contains(tt.yaml, "method: none") {
				c.ClientSecret = broker.Secret{}
			}
			if tt.change != nil {
				tt.change(&c)
			}
			_, err := New(Config{Custom: defs, Connectors: []ConnectorConfig{c}, Now: func() time.Time { return start }, Log: slog.New(slog.DiscardHandler)})
			all := problems.Error()
			if err != nil {
				all += "\n" + err.Error()
			}
			if !strings.Contains(all, tt.want) {
				t.Errorf("%q is not said: %s", tt.want, all)
			}
			if strings.Contains(all, canaryText) || strings.Contains(all, "PRIVATE KEY") {
				t.Errorf("a secret is in %s", all)
			}
		})
	}
}
