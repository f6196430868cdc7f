package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// tenantsOwn is a rig whose two tenants may manage connectors of their own, with two replicas.
func tenantsOwn(t *testing.T) (r *rig, one, two *brokerProcess) {
	r = newRig(t, shortLived(30*time.Second))
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "    return_to:", "    manage_connectors: true\n    return_to:", 1)
	config = strings.Replace(config, "    connectors: [files]\n", "    connectors: [files]\n    manage_connectors: true\n    own_connectors: true\n", 1)
	config += `  - id: hosted
    name: Hosted Files
    authorization_endpoint: https://{host}/authorize
    token_endpoint: https://{host}/token
    token_endpoint_auth_method: client_secret_basic
    vars: {host: {pattern: "[a-z0-9.-]+"}}
`
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return r, r.start(), r.start()
}

// through makes the browser take a link or a callback to this replica, as a load balancer would.
func (p *brokerProcess) through(address string) string {
	return strings.Replace(address, p.rig.public, p.url, 1)
}

// A tenant makes a connector at one replica and uses it through another; another tenant meets nothing; its client secret is
// replaced, once with the broker ahead of the provider and once behind it; and no secret shows anywhere.
func TestConnectorsOfTenants(t *testing.T) {
	t.Parallel()
	r, one, two := tenantsOwn(t)
	monitor := r.redisCLI().monitor()
	var mu sync.Mutex
	var answers bytes.Buffer
	look := func(path string, resp *http.Response, body []byte) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(&answers, "%s %v\n%s\n", path, resp.Header, body)
	}
	secrets := []string{"own-canary-first-71c5", "own-canary-second-20ab", "own-canary-third-9f3e"}
	atFirst, atSecond, rival := one.api(r.key), two.api(r.key), two.api(r.other)
	for _, c := range []*api{atFirst, atSecond, rival} {
		c.seen = look
	}
	const admin = "/v1/admin/connectors"
	made := atFirst.want(201, "POST", admin, object{"id": "drive", "provider": "rig", "name": "Our Drive", "client_id": "own-client",
		"client_secret": secrets[0], "scopes": []string{"files.read", "files.write"}, "default_scopes": []string{"files.read"}})
	id := made.str("id")
	if !strings.HasPrefix(id, "drive_") || made.str("redirect_uri") != r.public+"/oauth2/callback/"+id {
		t.Fatalf("made %s", made.raw)
	}
	knows := func(secret string) {
		t.Helper()
		if err := r.provider.AddClient(sandbox.Client{ID: "own-client", Secret: secret, RedirectURIs: []string{made.str("redirect_uri")}}); err != nil {
			t.Fatal(err)
		}
	}
	knows(secrets[0])

	// The other replica, at once: the consent, its pages, the token.
	consent := atSecond.consent("alice", object{"connector": id})
	b := newBrowser(t)
	callback := b.atProvider(b.start(two.through(consent.str("url"))).location)
	page := b.follow(b.get(two.through(callback)))
	done := atSecond.want(200, "POST", "/v1/consents/"+consent.str("id")+"/complete", object{"subject": "alice", "code": page.code(t)})
	token := func(c *api) answer {
		t.Helper()
		return c.token("alice", object{"connector": id, "min_ttl": 30})
	}
	if got := token(atSecond); got.str("connector") != id {
		t.Errorf("token %s", got.raw)
	}
	generation := func() float64 {
		t.Helper()
		n, _ := atSecond.want(200, "GET", "/v1/connections/"+done.str("id"), nil).body["client_generation"].(float64)
		return n
	}
	if generation() != 1 {
		t.Errorf("generation %v after the consent", generation())
	}
	if list := atSecond.want(200, "GET", "/v1/connectors", nil); !strings.Contains(list.raw, id) {
		t.Errorf("not in the list: %s", list.raw)
	}

	// Another tenant: as if it were not there. A client without the right may use it, and no more.
	unknown := id[:len(id)-16] + "aaaaaaaaaaaaaaaa"
	for _, call := range []struct {
		method, path string
		body         object
	}{
		{"GET", admin + "/ID", nil}, {"DELETE", admin + "/ID?revoke=true", nil}, {"PATCH", admin + "/ID", object{"client_secret": "x"}},
		{"POST", "/v1/tokens", object{"connector": "ID", "subject": "alice"}}, {"POST", "/v1/consents", object{"connector": "ID", "subject": "alice"}},
	} {
		ask := func(id string) answer {
			var body any
			if call.body != nil {
				body = merge(object{}, call.body)
				if call.body["connector"] != nil {
					body = merge(object{}, call.body, object{"connector": id})
				}
			}
			return rival.want(404, call.method, strings.Replace(call.path, "ID", id, 1), body)
		}
		foreign, none := ask(id), ask(unknown)
		if foreign.str("error") != none.str("error") || foreign.str("error_description") != none.str("error_description") {
			t.Errorf("%s %s: %s of another tenant's, %s of none", call.method, call.path, foreign.raw, none.raw)
		}
	}
	for _, path := range []string{admin, "/v1/connectors", "/v1/subjects/alice/connectors"} {
		if got := rival.want(200, "GET", path, nil); strings.Contains(got.raw, id) || strings.Contains(got.raw, "Our Drive") {
			t.Errorf("%s shows it to another tenant: %s", path, got.raw)
		}
	}
	reader := two.api(r.narrow)
	if got := reader.want(403, "GET", admin+"/"+id, nil); got.str("error") != "access_denied" {
		t.Errorf("a client without the right: %s", got.raw)
	}
	if got := reader.want(200, "GET", "/v1/connectors", nil); !strings.Contains(got.raw, id) {
		t.Errorf("not listed to a client of the tenant: %s", got.raw)
	}

	// A new secret here first: until the provider knows it, the one before works.
	changed := atFirst.want(200, "PATCH", admin+"/"+id, object{"client_secret": secrets[1]})
	if changed.body["client_generation"] != 2.0 || changed.str("overlap_until") == "" {
		t.Errorf("changed %s", changed.raw)
	}
	token(atFirst)
	if generation() != 1 {
		t.Errorf("generation %v while the provider knows the first secret alone", generation())
	}
	knows(secrets[1])
	token(atFirst)
	if generation() != 2 {
		t.Errorf("generation %v when the provider knows the second", generation())
	}
	// And there first: our client is refused, no user is asked, and the new secret puts it right.
	knows(secrets[2])
	atFirst.refused(502, "provider_misconfigured", "alice", object{"connector": id, "min_ttl": 30})
	atFirst.want(200, "PATCH", admin+"/"+id, object{"client_secret": secrets[2], "overlap": 0})
	r.eventually(time.Minute, "a token with the third secret", func() error {
		a, err := atFirst.try("POST", "/v1/tokens", object{"connector": id, "subject": "alice", "min_ttl": 30})
		if err == nil && a.status != 200 {
			err = fmt.Errorf("%d %s", a.status, a.raw)
		}
		return err
	})
	if generation() != 3 {
		t.Errorf("generation %v at the end", generation())
	}

	// Values lead nowhere inside.
	for _, host := range []string{"127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254"} {
		refused := atFirst.want(400, "POST", admin, object{"provider": "hosted", "client_id": "x", "client_secret": "y", "scopes": "a", "vars": object{"host": host}})
		if !strings.HasPrefix(refused.str("error_description"), "vars ") {
			t.Errorf("%s: %s", host, refused.raw)
		}
	}

	// Deleting: not while users are connected, unless with their connections.
	atSecond.want(409, "DELETE", admin+"/"+id, nil)
	if ended := atSecond.want(200, "DELETE", admin+"/"+id+"?revoke=true", nil); ended.body["connections"] != 1.0 {
		t.Errorf("ended %s", ended.raw)
	}
	atSecond.want(404, "GET", admin+"/"+id, nil)
	atSecond.refused(404, "not_found", "alice", object{"connector": id})
	r.eventually(30*time.Second, "the other replica hears of the deletion", func() error {
		a, err := atFirst.try("POST", "/v1/consents", object{"connector": id, "subject": "alice"})
		if err == nil && a.status != 404 {
			err = fmt.Errorf("status %d", a.status)
		}
		return err
	})

	counts := map[string]int{}
	for _, e := range atFirst.events(url.Values{"connector": {id}}) {
		counts[fmt.Sprint(e["type"], " ", e["outcome"])]++
	}
	for event, want := range map[string]int{"connector.created ok": 1, "connector.updated ok": 2, "connector.deleted ok": 1, "connector.deleted connector_in_use": 1} {
		if counts[event] != want {
			t.Errorf("%d events %s, want %d: %v", counts[event], event, want, counts)
		}
	}
	redis := r.redisCLI()
	redis.save()
	disk, commands := redis.files(), monitor()
	for where, text := range map[string][]byte{
		"an answer": answers.Bytes(), "a log": []byte(one.log.String() + two.log.String()), "Redis' files": disk, "Redis' commands": commands,
		"the metrics": append(one.get(one.ops+"/metrics"), two.get(two.ops+"/metrics")...),
	} {
		if len(text) == 0 {
			t.Errorf("nothing to search in %s", where)
		}
		for i, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("client secret %d shows in %s", i+1, where)
			}
		}
	}
	if metrics := one.get(one.ops + "/metrics"); bytes.Contains(metrics, []byte(id)) {
		t.Error("a tenant's connector became a label of metrics")
	}
}
