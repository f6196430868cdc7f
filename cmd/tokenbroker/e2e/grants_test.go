package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// withGrants adds connectors beside the code flow to the configuration, and to the provider what it offers for them.
func (r *rig) withGrants(connectors string) {
	r.t.Helper()
	r.writeConfig(`    grants: [authorization_code, client_credentials, jwt_bearer, device_code]
    device_authorization_endpoint: ` + r.issuer + `/device_authorization
    jwt_bearer: {audience: "` + r.issuer + `"}
`)
	r.edit("connectors:\n  - id: files\n    provider: rig\n", "connectors:\n"+connectors+"  - id: files\n    provider: rig\n")
}

const robot = `  - id: robot
    provider: rig
    client_id: robot-client
    client_secret: ${FILES_SECRET}
    grant: client_credentials
    tenants: [acme]
    scopes: [files.read, files.write]
    default_scopes: [files.read]
`

func robotClient(c *sandbox.Config) {
	c.Clients = append(c.Clients, sandbox.Client{ID: "robot-client", Secret: "secret-canary-1b7e44", ClientCredentials: true})
}

// A connector of the tenant's own: no subject, no consent, one request to the provider for all who ask on all replicas, a
// token for each set of scopes, events about nobody, and nothing for another tenant.
func TestClientCredentials(t *testing.T) {
	t.Parallel()
	r := newRig(t, shortLived(30*time.Second), robotClient)
	r.withGrants(robot)
	replicas := []*brokerProcess{r.start(), r.start()}
	c := replicas[0].api(r.key)
	ask := func(more ...object) answer {
		return c.want(200, "POST", "/v1/tokens", merge(object{"connector": "robot", "min_ttl": 1}, more...))
	}
	var wait sync.WaitGroup
	answers := make([]string, 40)
	for i := range answers {
		wait.Go(func() {
			a, err := replicas[i%2].api(r.key).try("POST", "/v1/tokens", object{"connector": "robot", "min_ttl": 1})
			if err != nil {
				t.Error(err)
			}
			answers[i] = fmt.Sprint(a.status, a.str("error"), a.str("access_token"), a.str("connection"), a.str("scope"))
		})
	}
	wait.Wait()
	for _, a := range answers {
		if a != answers[0] || !strings.HasPrefix(a, "200") {
			t.Fatalf("not all got one token: %q and %q", answers[0], a)
		}
	}
	requests := func() int { return r.provider.Stats().TokenRequests["client_credentials"] }
	if n := requests(); n != 1 {
		t.Errorf("%d requests to the provider, want 1", n)
	}
	first := ask()
	if n := r.files(first.str("access_token")); n != 200 {
		t.Errorf("the token is worth %d", n)
	}
	wide := ask(object{"scopes": []string{"files.read", "files.write"}})
	if wide.str("scope") != "files.read files.write" || wide.str("connection") != first.str("connection") || requests() != 2 {
		t.Errorf("for other scopes: %s, after %d requests", wide.raw, requests())
	}
	// Refused as the contract says; what names a subject is refused, and what names none for a user's connector, too.
	for _, body := range []object{{"connector": "robot", "subject": "u-1"}, {"connector": "files"}} {
		if a := c.want(400, "POST", "/v1/tokens", body); a.str("error") != "invalid_request" {
			t.Errorf("%v: %s", body, a.raw)
		}
	}
	c.want(400, "POST", "/v1/consents", object{"connector": "robot", "subject": "u-1"})
	// To another tenant it looks like one that there is not.
	foreign, none := replicas[0].api(r.other).want(400, "POST", "/v1/tokens", object{"connector": "robot"}), replicas[0].api(r.other).want(400, "POST", "/v1/tokens", object{"connector": "nowhere"})
	if foreign.str("error") != none.str("error") || foreign.str("error_description") != none.str("error_description") {
		t.Errorf("a foreign one: %s, none: %s", foreign.raw, none.raw)
	}
	replicas[0].api(r.other).want(404, "POST", "/v1/tokens", object{"connector": "robot", "subject": "u-1"})
	if a := replicas[0].api(r.narrow).want(403, "POST", "/v1/tokens", object{"connector": "robot", "scopes": []string{"files.write"}}); a.str("error") != "access_denied" {
		t.Errorf("beyond a ceiling: %s", a.raw)
	}

	issued := c.events(url.Values{"connector": {"robot"}, "type": {"token.issued"}})
	for _, e := range issued {
		if e["subject"] != "" || e["tenant"] != "acme" || e["connection"] != first.str("connection") || e["scope"] == "" {
			t.Errorf("event %v", e)
		}
	}
	if want := 40 + 1 + 2; len(issued) != want {
		t.Errorf("%d events, want %d: one for each scope of each token", len(issued), want)
	}
	if list := c.want(200, "GET", "/v1/connections?connector=robot", nil).list("connections"); len(list) != 1 || list[0]["subject"] != "" || list[0]["status"] != "active" {
		t.Errorf("connections %v", list)
	}

	// It ends at the provider; the next one comes by itself.
	r.eventually(50*time.Second, "another token", func() error {
		if a := ask(); a.str("access_token") == first.str("access_token") {
			return fmt.Errorf("still the first one")
		}
		return nil
	})
	// Disconnecting erases what is here; the credentials are the operator's, so the next request brings a new token.
	before := ask()
	c.want(200, "DELETE", "/v1/connections/"+first.str("connection"), nil)
	if after := ask(); after.str("connection") == first.str("connection") || after.str("access_token") == before.str("access_token") {
		t.Errorf("after the disconnect: %s", after.raw)
	}
	if out := r.run("audit", "verify", "--config", r.config); !strings.Contains(out, "events") {
		t.Errorf("audit verify says %q", out)
	}
}

// An assertion signed with the operator's key, for the service account and for users of a domain whom it may act for.
func TestJWTBearer(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *sandbox.Config) {
		c.Clients = append(c.Clients, sandbox.Client{ID: "sa@project", AuthMethod: "none", AssertionKey: key.Public(), Impersonates: true})
	})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(filepath.Join(r.dir, "key.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	connector := func(id, more string) string {
		return `  - id: ` + id + `
    provider: rig
    client_id: sa@project
    grant: jwt_bearer
    assertion: {key: "${file:key.pem}", key_id: k-1}
    tenants: [acme]
    scopes: [files.read, files.write]
    default_scopes: [files.read]
` + more
	}
	r.withGrants(connector("service", "") + connector("delegate", "    impersonate: [\"*@example.com\"]\n"))
	b := r.start()
	c := b.api(r.key)
	own := c.want(200, "POST", "/v1/tokens", object{"connector": "service"})
	bob := c.want(200, "POST", "/v1/tokens", object{"connector": "delegate", "subject": "bob@example.com"})
	if n := r.files(own.str("access_token")); n != 200 {
		t.Errorf("the service account's token is worth %d", n)
	}
	if grants := r.provider.Stats().Grants; len(grants) != 2 || grants[0].User != "" || grants[1].User != "bob" {
		t.Errorf("the provider gave %+v", grants)
	}
	if again := c.want(200, "POST", "/v1/tokens", object{"connector": "delegate", "subject": "bob@example.com"}); again.str("access_token") != bob.str("access_token") {
		t.Error("a token that lives was asked for again")
	}
	// Threat 40: nobody else than whom the operator listed, and no request goes out for it.
	c.want(403, "POST", "/v1/tokens", object{"connector": "delegate", "subject": "eve@evil.example"})
	c.want(400, "POST", "/v1/tokens", object{"connector": "delegate"})
	if n := r.provider.Stats().TokenRequests["urn:ietf:params:oauth:grant-type:jwt-bearer"]; n != 2 {
		t.Errorf("%d requests to the provider, want 2", n)
	}
	// One of the domain whom the provider does not know: the operator's matter, and the others' tokens go on.
	if a := c.want(502, "POST", "/v1/tokens", object{"connector": "delegate", "subject": "nobody@example.com"}); a.str("error") != "provider_misconfigured" {
		t.Errorf("refused assertion: %s", a.raw)
	}
	c.want(200, "POST", "/v1/tokens", object{"connector": "delegate", "subject": "alice@example.com"})
	// Neither the key nor an assertion is in anything that was written.
	secret := strings.Split(strings.TrimSpace(string(text)), "\n")[3]
	for _, request := range r.provider.Requests() {
		if assertion := request.Form.Get("assertion"); assertion != "" && strings.Contains(b.log.String(), assertion) {
			t.Error("an assertion is in the log")
		}
	}
	if strings.Contains(b.log.String(), secret) {
		t.Error("the key is in the log")
	}
}

// A consent on another device: the chat shows a code, the user types it at the provider, one replica asks there, and another
// one goes on when that one is killed. Nothing comes out of it without the completing call.
func TestDeviceFlow(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *sandbox.Config) { c.Clients[0].Device = true })
	r.withGrants("")
	r.edit("  - id: files\n    provider: rig\n", "  - id: files\n    provider: rig\n    device: true\n")
	replicas := []*brokerProcess{r.start(), r.start()}
	c := replicas[1].api(r.key)
	// Threats 3 and 11: it is for connectors that the operator opened for it, and no browser comes back from it.
	c.want(400, "POST", "/v1/consents", object{"connector": "other", "subject": "u-1", "flow": "device"})
	c.want(400, "POST", "/v1/consents", object{"connector": "files", "subject": "u-1", "flow": "device", "return_to": "http://127.0.0.1:3000/done"})
	c.want(400, "POST", "/v1/consents", object{"connector": "files", "subject": "u-1", "flow": "implicit"})

	begin := func(subject string) (id, code string) {
		a := replicas[0].api(r.key).want(201, "POST", "/v1/consents", object{"connector": "files", "subject": subject, "flow": "device"})
		if a.str("status") != "started" || a.str("binding") != "device" || a.str("device", "verification_uri") != r.issuer+"/device" ||
			a.str("url") != a.str("device", "verification_uri_complete") || !strings.Contains(a.str("url"), a.str("device", "user_code")) {
			t.Fatalf("created: %s", a.raw)
		}
		return a.str("id"), a.str("device", "user_code")
	}
	status := func(id, want string) answer {
		var a answer
		r.eventually(150*time.Second, want, func() error { // a claim of the replica that died lasts a minute and some seconds
			if a = c.want(200, "GET", "/v1/consents/"+id, nil); a.str("status") != want {
				return fmt.Errorf("it is %s", a.raw)
			}
			return nil
		})
		return a
	}
	id, code := begin("u-1")
	denied, deniedCode := begin("u-2")
	if !r.provider.DecideDevice(deniedCode, "bob", "deny") {
		t.Fatal("there is nothing to deny")
	}
	status(denied, "denied")
	replicas[0].kill()
	if !r.provider.DecideDevice(code, "alice", "allow") {
		t.Fatal("there is nothing to allow")
	}
	waiting := status(id, "awaiting_completion")
	if waiting.str("account", "email") != "alice@example.com" || waiting.body["device"] != nil {
		t.Errorf("waiting: %s", waiting.raw)
	}
	c.refused(409, "consent_required", "u-1")
	if a := c.want(403, "POST", "/v1/consents/"+id+"/complete", object{"subject": "mallory", "code": code}); a.str("error") != "subject_mismatch" {
		t.Errorf("another subject: %s", a.raw)
	}
	done := c.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": "u-1", "code": strings.ToLower(code)})
	token := c.token("u-1")
	if token.str("connection") != done.str("id") || r.files(token.str("access_token")) != 200 {
		t.Errorf("token: %s", token.raw)
	}
	grants := r.provider.Stats().Grants
	if len(grants) != 1 || grants[0].User != "alice" || grants[0].Client != "files-client" {
		t.Errorf("the provider gave %+v", grants)
	}
	for _, p := range replicas {
		if strings.Contains(p.log.String(), code) {
			t.Error("the code is in the log")
		}
	}
}
