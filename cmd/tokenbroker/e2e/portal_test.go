package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"tokenbroker/providers/sandbox"
)

const portals = "/v1/portal-sessions"

// portalRig is a rig with a second provider that has no way to revoke, and a client of the same tenant that may use one
// connector alone.
func portalRig(t *testing.T) *rig {
	r := newRig(t)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "    scopes: [files.read]\n", "    scopes: [files.read]\n    connectors: [files]\n", 1)
	config = strings.Replace(config, "connectors:\n  - id: files\n", `connectors:
  - id: forever
    provider: norevoke
    client_id: files-client
    client_secret: ${FILES_SECRET}
    scopes: [files.read]
  - id: files
`, 1)
	config += fmt.Sprintf(`  - id: norevoke
    name: Sticky Files
    authorization_endpoint: %[1]s/authorize
    token_endpoint: %[1]s/token
    userinfo_endpoint: %[1]s/userinfo
    token_endpoint_auth_method: client_secret_basic
    pkce: S256
    scope_separator: " "
    offline_scopes: [offline_access]
    rotation: strict
`, r.issuer)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.provider.AddClient(sandbox.Client{ID: "files-client", Secret: "secret-canary-1b7e44", RedirectURIs: []string{
		r.public + "/oauth2/callback/files", r.public + "/oauth2/callback/other", r.public + "/oauth2/callback/forever"}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *api) portal(subject string, more ...object) answer {
	c.t.Helper()
	return c.want(201, "POST", portals, merge(object{"subject": subject}, more...))
}

// visit opens "My connections" by binding code and returns the page's address.
func (b *browser) visit(c *api, subject string) string {
	b.t.Helper()
	made := c.portal(subject)
	waiting := b.follow(b.start(made.str("url")))
	c.want(200, "POST", portals+"/"+made.str("id")+"/complete", object{"subject": subject, "code": waiting.code(b.t)})
	return waiting.url
}

// plainText takes the marks of foreign names out.
func (p page) plainText() string {
	return strings.NewReplacer("<bdi>", "", "</bdi>", "").Replace(p.body)
}

func (p page) has(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(p.plainText(), part) {
			t.Errorf("the page lacks %q: status %d\n%s", part, p.status, tail(p.body, 3000))
		}
	}
}

// Who sees the page, by both bindings, over two replicas; and who does not, whatever they have.
func TestPortalIsItsUsersAlone(t *testing.T) {
	t.Parallel()
	r := portalRig(t)
	one, two := r.start(), r.start()
	c, second, reader, rival := one.api(r.key), two.api(r.key), one.api(r.narrow), one.api(r.other)
	c.connect(newBrowser(t), "alice")
	c.connect(newBrowser(t), "alice", object{"connector": "other"})
	rival.connect(newBrowser(t), "alice")
	c.token("alice", object{"actor": object{"agent": "helper-7", "tool": "list_files"}, "reason": "find <b>the invoice</b>"})
	shows := []string{"My connections", "Acme Chat", "helper-7", "Reason given: find &lt;b&gt;the invoice&lt;/b&gt;"}
	complete := func(id string) string { return portals + "/" + id + "/complete" }
	status := func(id string) string { return second.want(200, "GET", portals+"/"+id, nil).str("status") }
	var secrets []string

	t.Run("binding code", func(t *testing.T) {
		b := newBrowser(t)
		made := c.portal("alice")
		link, id := made.str("url"), made.str("id")
		if made.str("binding") != "code" || made.str("status") != "pending" || made.header.Get("Cache-Control") != "no-store" {
			t.Errorf("made %s", made.raw)
		}
		waiting := b.follow(b.start(link))
		code := waiting.code(t)
		if waiting.url != r.public+"/portal/session/"+id || strings.Contains(waiting.body, "alice") || status(id) != "started" {
			t.Errorf("waiting at %s, status %s", waiting.url, status(id))
		}
		done := second.want(200, "POST", complete(id), object{"subject": "alice", "code": " " + strings.ToLower(code)})
		if done.str("url") != waiting.url || done.str("status") != "open" {
			t.Errorf("completed: %s", done.raw)
		}
		page := b.get(two.through(waiting.url)) // cookies know no ports
		if again := b.get(link); again.status != 303 || again.location != waiting.url {
			t.Errorf("the link once more, in the browser of the visit: %d %s", again.status, again.location)
		}
		page.has(t, shows...)
		if n := strings.Count(page.body, `class="panel connection"`); page.status != 200 || n != 2 {
			t.Errorf("status %d with %d connections", page.status, n)
		}
		if got := c.want(410, "POST", complete(id), object{"subject": "alice", "code": code}); got.str("error") != "expired" {
			t.Errorf("completed again: %s", got.raw)
		}
		for who, address := range map[string]string{"the page": waiting.url, "the link": link} {
			if got := newBrowser(t).get(address); got.status != 404 || strings.Contains(got.body, "helper-7") {
				t.Errorf("%s in another browser: %d", who, got.status)
			}
		}
		out := b.post(waiting.url, url.Values{"nonce": page.form()["nonce"], "action": {"end"}})
		out.has(t, "You are signed out")
		if got := b.get(waiting.url); got.status != 404 || status(id) != "ended" {
			t.Errorf("after signing out: %d, %s", got.status, status(id))
		}
		u, _ := url.Parse(r.public)
		for _, cookie := range b.http.Jar.Cookies(u) {
			secrets = append(secrets, cookie.Value)
		}
		secrets = append(secrets, code, link[strings.LastIndex(link, "/")+1:])
	})

	const done = "http://127.0.0.1:3000/done"
	t.Run("binding return, and the link in a stranger's browser", func(t *testing.T) {
		mallory, alice := newBrowser(t), newBrowser(t)
		made := c.portal("alice", object{"return_to": done, "state": "s 1"})
		id := made.str("id")
		back := mallory.start(made.str("url")).location
		code := query(t, back, "code")
		if !strings.HasPrefix(back, done+"?") || query(t, back, "portal") != id || query(t, back, "state") != "s 1" || code == "" {
			t.Fatalf("on to %s", back)
		}
		// Mallory goes on herself: the client knows who she is.
		if got := c.want(403, "POST", complete(id), object{"subject": "mallory", "code": code}); got.str("error") != "subject_mismatch" {
			t.Error(got.raw)
		}
		// Mallory lets Alice's browser load return_to: the client vouches for Alice, and sends Alice's browser on.
		entrance := second.want(200, "POST", complete(id), object{"subject": "alice", "code": code}).str("url")
		if got := alice.get(entrance); got.status != 403 || strings.Contains(got.body, "helper-7") {
			t.Errorf("Alice's browser, which did not open the link: %d", got.status)
		}
		for _, address := range []string{r.public + "/portal/session/" + id, made.str("url"), r.public + "/portal/session/" + id + "/enter/guess"} {
			if got := mallory.follow(mallory.get(address)); strings.Contains(got.body, "helper-7") {
				t.Errorf("Mallory's browser sees the page at %s", address)
			}
		}
		req, _ := http.NewRequest("HEAD", entrance, nil)
		if got := mallory.do(req); got.status != 405 || status(id) != "started" {
			t.Errorf("HEAD of the entrance: %d, %s", got.status, status(id))
		}
		refused := c.events(url.Values{"type": {"portal.refused"}, "subject": {"alice"}})
		if len(refused) == 0 || refused[len(refused)-1]["portal"] != id || refused[len(refused)-1]["outcome"] != "access_denied" {
			t.Errorf("not on record: %v", refused)
		}

		// And as it should be.
		made = c.portal("alice", object{"return_to": done})
		code = query(t, alice.start(made.str("url")).location, "code")
		entrance = c.want(200, "POST", complete(made.str("id")), object{"subject": "alice", "code": code}).str("url")
		entered := alice.get(two.through(entrance))
		if entered.status != 303 || strings.Contains(entered.location, "enter") {
			t.Fatalf("entered: %d %s", entered.status, entered.location)
		}
		alice.get(entered.location).has(t, shows...)
		if opened := c.events(url.Values{"type": {"portal.opened"}, "subject": {"alice"}}); len(opened) != 2 || opened[1]["portal"] != made.str("id") {
			t.Errorf("opened: %v", opened)
		}
		secrets = append(secrets, code, entrance[strings.LastIndex(entrance, "/")+1:])
	})

	t.Run("five wrong codes", func(t *testing.T) {
		b := newBrowser(t)
		made := c.portal("alice")
		id := made.str("id")
		c.want(400, "POST", complete(id), object{"subject": "alice", "code": "BCDF-GHJK"}) // nobody has opened it: it counts for nothing
		code := b.follow(b.start(made.str("url"))).code(t)
		for _, guess := range []string{"BBBB-BBBB", "0", "bbbb bbbb", "CCCC-CCCC", "DDDD-DDDD"} {
			if got := c.want(400, "POST", complete(id), object{"subject": "alice", "code": guess}); got.str("error") != "invalid_code" {
				t.Fatal(got.raw)
			}
		}
		c.want(410, "POST", complete(id), object{"subject": "alice", "code": code})
		if got := b.get(r.public + "/portal/session/" + id); got.status != 404 || status(id) != "ended" {
			t.Errorf("the page: %d, %s", got.status, status(id))
		}
	})

	t.Run("15 mail scanners", func(t *testing.T) {
		made := c.portal("alice")
		link, scanner := made.str("url"), newBrowser(t)
		for _, method := range []string{"HEAD", "GET", "GET", "HEAD"} {
			req, _ := http.NewRequest(method, link, nil)
			req.Header.Set("User-Agent", "Mozilla/5.0 SafeLinks")
			if got := scanner.do(req); got.status != 200 {
				t.Errorf("%s: %d", method, got.status)
			}
		}
		if got := scanner.post(link, url.Values{}); got.status != 403 {
			t.Errorf("a bare POST: %d", got.status)
		}
		if got := newBrowser(t).post(link, scanner.get(link).form()); got.status != 403 {
			t.Errorf("the form without its cookie: %d", got.status)
		}
		if status(made.str("id")) != "pending" {
			t.Errorf("after all that: %s", status(made.str("id")))
		}
		b := newBrowser(t)
		b.follow(b.start(link)).code(t)
	})

	t.Run("other clients and tenants", func(t *testing.T) {
		b := newBrowser(t)
		page := b.get(b.visit(reader, "alice")) // may use the connector files alone
		page.has(t, "Acme Reader", "helper-7")
		if n := strings.Count(page.body, `class="panel connection"`); n != 1 {
			t.Errorf("the narrow client's page shows %d connections", n)
		}
		theirs := newBrowser(t)
		page = theirs.get(theirs.visit(rival, "alice"))
		if strings.Contains(page.body, "helper-7") || strings.Contains(page.body, "Acme") || strings.Count(page.body, `class="panel connection"`) != 1 {
			t.Errorf("the other tenant's page:\n%s", page.body)
		}
		own := rival.want(200, "GET", "/v1/connections?subject=alice", nil).list("connections")[0]["id"].(string)
		made := c.portal("alice")
		for _, foreign := range []*api{reader, rival} {
			foreign.want(404, "GET", portals+"/"+made.str("id"), nil)
			foreign.want(404, "POST", complete(made.str("id")), object{"subject": "alice", "code": "BCDF-GHJK"})
		}
		mine := newBrowser(t)
		address := mine.visit(c, "alice")
		if got := mine.get(address + "/disconnect/" + own); got.status != 404 {
			t.Errorf("another tenant's connection: %d", got.status)
		}
		got := mine.post(address, url.Values{"nonce": mine.get(address).form()["nonce"], "action": {"disconnect"}, "connection": {own}})
		if got.status != 404 || rival.want(200, "GET", "/v1/connections/"+own, nil).str("status") != "active" {
			t.Errorf("another tenant's connection, disconnected: %d", got.status)
		}
	})

	t.Run("expired, unknown and broken links", func(t *testing.T) {
		made := c.portal("alice")
		key := r.redisCLI().recordOf(made.str("id"))
		// Nobody can wait that long here, or give a process another clock (doc.go): the store lets the record go by itself, and then
		// the link is as if it had never been.
		if ttl, _ := r.redisCLI().do("PTTL", key).(int64); ttl <= 0 || ttl > 70*60*1000 {
			t.Errorf("the record ends in %d ms", ttl)
		}
		r.redisCLI().do("DEL", key)
		gone := newBrowser(t).get(made.str("url"))
		unknown := newBrowser(t).get(r.public + "/portal/" + strings.Repeat("A", 56))
		if gone.status != 404 || gone.body != unknown.body {
			t.Errorf("gone: %d, unknown: %d", gone.status, unknown.status)
		}
		c.want(404, "GET", portals+"/"+made.str("id"), nil)
		for _, bad := range []string{done + "/", "//evil.example", "javascript:alert(1)", "https://evil.example"} {
			c.want(400, "POST", portals, object{"subject": "alice", "return_to": bad})
		}
	})

	for _, secret := range secrets {
		if secret != "" && len(secret) > 6 && (strings.Contains(one.log.String(), secret) || strings.Contains(two.log.String(), secret)) {
			t.Error("a link, a code, a ticket or a cookie is in the log")
		}
	}
	for _, key := range r.redisCLI().keys() {
		if strings.Contains(key, "alice") {
			t.Errorf("a key names the subject: %s", key)
		}
	}
}

// Disconnecting tells what the provider did: confirmed, has no way, did not confirm. In each case no token comes any more.
func TestPortalDisconnects(t *testing.T) {
	t.Parallel()
	r := portalRig(t)
	p := r.start()
	c := p.api(r.key)
	b := newBrowser(t)
	ids := map[string]string{}
	for _, connector := range []string{"files", "forever", "other"} {
		ids[connector] = c.connect(b, "alice", object{"connector": connector})
	}
	address := b.visit(c, "alice")
	press := func(connector string) page {
		t.Helper()
		asked := b.get(address + "/disconnect/" + ids[connector])
		asked.has(t, "Disconnect")
		if c.want(200, "GET", "/v1/connections/"+ids[connector], nil).str("status") != "active" {
			t.Fatal("asking has disconnected it")
		}
		form := asked.form()
		form.Set("action", "disconnect")
		if other := newBrowser(t).post(address, form); other.status != 403 { // threat 61
			t.Errorf("the form in another browser: %d", other.status)
		}
		if bare := b.post(address, url.Values{"action": {"disconnect"}, "connection": {ids[connector]}}); bare.status != 403 {
			t.Errorf("the form without its nonce: %d", bare.status)
		}
		return b.post(address, form)
	}
	gone := func(connector string, confirmed bool) {
		t.Helper()
		c.refused(409, "consent_required", "alice", object{"connector": connector})
		events := c.events(url.Values{"type": {"connection.revoked"}, "connection": {ids[connector]}})
		wrong := func(e object) bool {
			return e["portal"] == nil || e["client"] != "acme-chat" || e["subject"] != "alice" || len(e["actor"].(map[string]any)) != 0
		}
		last := events[len(events)-1]
		if wrong(events[0]) || wrong(last) || (last["outcome"] == "revoked_upstream_failed") == confirmed {
			t.Errorf("events: %v", events)
		}
	}

	before := r.provider.Stats().Revocations
	press("files").has(t, "is disconnected", "has confirmed that it ended the access that we held")
	if n := r.provider.Stats().Revocations - before; n != 1 {
		t.Errorf("the provider revoked %d grants", n)
	}
	gone("files", true)

	asked := r.provider.Stats().RevokeRequests
	press("forever").has(t, "is disconnected here", "We could not end it at Sticky Files", "look in your account at Sticky Files")
	if n := r.provider.Stats().RevokeRequests; n != asked {
		t.Errorf("%d requests to a provider that has no revocation endpoint", n-asked)
	}
	gone("forever", true)

	if err := r.provider.Inject(sandbox.Fault{On: sandbox.TargetRevoke, Kind: sandbox.KindStatus, Status: 503}); err != nil {
		t.Fatal(err)
	}
	failed := press("other")
	failed.has(t, "but not confirmed", "did not confirm that it has ended there", "we can&#39;t ask again")
	gone("other", false)
	r.provider.ClearFaults()

	list := b.get(address)
	list.has(t, "Nothing is connected.", "You disconnected", "did not confirm that the access has ended there")
	if !strings.Contains(failed.header.Get("Content-Security-Policy"), "frame-ancestors 'none'") || failed.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers: %v", failed.header)
	}
	if strings.Contains(p.log.String(), "page panicked") {
		t.Error("a page panicked")
	}
}

// A client whose users sign in at their organisation: that person in that browser, and nothing to complete.
func TestPortalWithLogin(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	o := withOffice(t, r)
	p := r.start()
	c := p.api(r.key)
	ada, mallory := newBrowser(t), newBrowser(t)
	on := ada.signedIn(o, c.consent("emp-ada").str("url"), "ada")
	ada.follow(ada.get(ada.atProvider(on.location)))
	c.token("emp-ada", object{"actor": object{"agent": "helper-7"}})

	made := c.portal("emp-ada")
	id := made.str("id")
	if made.str("binding") != "login" {
		t.Fatalf("made %s", made.raw)
	}
	c.want(400, "POST", portals+"/"+id+"/complete", object{"subject": "emp-ada", "code": "BCDF-GHJK"})
	if got := mallory.signedIn(o, made.str("url"), "mallory"); got.status != 403 || strings.Contains(got.body, "helper-7") {
		t.Errorf("Mallory signs in: %d", got.status)
	}
	// Mallory starts it again and lets Ada sign in at the address that is meant for Mallory's browser.
	callback := ada.atOffice(o, mallory.start(made.str("url")).location, "ada")
	if got := ada.get(callback); got.status != 403 {
		t.Errorf("Ada's sign-in in a browser that did not open the link: %d", got.status)
	}
	if got := mallory.get(r.public + "/portal/session/" + id); strings.Contains(got.body, "helper-7") {
		t.Error("Mallory sees the page")
	}
	made = c.portal("emp-ada")
	signed := ada.signedIn(o, made.str("url"), "ada")
	if signed.status != 303 || signed.location != r.public+"/portal/session/"+made.str("id") {
		t.Fatalf("Ada signs in: %d %s", signed.status, signed.location)
	}
	ada.get(signed.location).has(t, "My connections", "helper-7")
}
