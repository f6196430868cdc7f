package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers/sandbox"
)

const staffSecret = "staff-canary-8c11d2"

// staff is the organisation of those who run the broker: an OpenID Provider with one person for each role, in all tenants and in
// acme alone, and one without any.
type staff struct {
	*sandbox.Server
	issuer string
	front  *front
	public string
}

// person is somebody of the staff.
type person struct {
	login string
	op    broker.Operator // what they may
}

// people are all of them.
func people() []person {
	var all []person
	for _, role := range broker.Roles() {
		for _, tenant := range []string{"", "acme"} {
			login := strings.TrimSuffix(string(role)+"-"+tenant, "-")
			all = append(all, person{login: login, op: broker.Operator{ID: "oidc:s-" + login, Grants: []broker.OperatorGrant{{Role: role, Tenant: tenant}}}})
		}
	}
	return append(all, person{login: "nobody"})
}

// withStaff lets the staff sign in at the dashboard of the rig.
func withStaff(t *testing.T, r *rig, change ...func(*sandbox.Config)) *staff {
	t.Helper()
	address := freeAddress(t)
	// Another site than 127.0.0.1 to browsers, as a real one would be.
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	s := &staff{issuer: "http://localhost:" + port, public: r.public}
	cfg := sandbox.Config{
		Issuer: s.issuer, Random: rand.Reader, Now: time.Now, Record: true,
		Clients: []sandbox.Client{{ID: "dash", Secret: staffSecret, RedirectURIs: []string{r.public + "/dashboard/callback"}, PostLogoutRedirectURIs: []string{r.public + "/dashboard/login/out"}}},
	}
	roles := ""
	for _, p := range people() {
		cfg.Users = append(cfg.Users, sandbox.User{Login: p.login, Sub: "s-" + p.login, Name: "Person " + p.login, Email: p.login + "@example.com", Groups: []string{"everybody", p.login}})
		for _, g := range p.op.Grants {
			roles += fmt.Sprintf("    - {group: %s, role: %s", p.login, g.Role)
			if g.Tenant != "" {
				roles += ", tenant: " + g.Tenant
			}
			roles += "}\n"
		}
	}
	for _, f := range change {
		f(&cfg)
	}
	if s.Server, err = sandbox.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.front = newFront(t, address, s.Server)
	t.Cleanup(func() { s.Close() })
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "dashboard:\n", "dashboard:\n  login:\n    issuer: "+s.issuer+"\n    client_id: dash\n    client_secret: ${STAFF_SECRET}\n  roles:\n"+roles, 1)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r.env = append(r.env, "STAFF_SECRET="+staffSecret)
	return s
}

// refresh is where a page goes on to by itself.
func (p page) refresh(t *testing.T) string {
	t.Helper()
	to, ok := strings.CutPrefix(p.header.Get("Refresh"), "0; url=")
	if !ok {
		t.Fatalf("%d, goes on to nothing: %q\n%s", p.status, p.header.Get("Refresh"), tail(p.body, 1000))
	}
	return to
}

// callback is the address that the staff's provider sends the browser to, once that person has signed in there.
func (s *staff) callback(b *browser, next, who string) string {
	b.t.Helper()
	var begun page
	eventually(b.t, 20*time.Second, "the sign-in begins", func() error {
		if begun = b.post(s.public+"/dashboard/login/start", url.Values{"next": {next}}); begun.status == 503 { // a machine that is busy
			return errors.New(tail(begun.body, 1000))
		}
		return nil
	})
	at := begun.refresh(b.t) + "&login_hint=" + who + "&auto=allow"
	for range 6 {
		if at = b.get(at).location; strings.HasPrefix(at, s.public+"/dashboard/callback?") {
			return at
		}
	}
	b.t.Fatal("the staff's provider does not send the browser back")
	return ""
}

// signIn ends on the callback's own page.
func (s *staff) signIn(b *browser, next, who string) page {
	b.t.Helper()
	return b.get(s.callback(b, next, who))
}

// The whole way with the compiled program, over two replicas; then everything that people may try with what they have.
func TestOperatorsSignIn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := withStaff(t, r, func(c *sandbox.Config) { c.ThinIDTokens = true }) // groups come from userinfo
	one, two := r.start(), r.start()
	monitor := r.redisCLI().monitor()

	b := newBrowser(t)
	callback := s.callback(b, "/dashboard/session", "operator-acme")
	in := b.get(two.through(callback))
	if in.refresh(t) != "/dashboard/session" {
		t.Errorf("goes on to %q", in.header.Get("Refresh"))
	}
	for _, p := range []*brokerProcess{one, two} {
		got := b.get(p.url + "/dashboard/session")
		if got.status != 200 || !strings.Contains(got.body, "Person operator-acme &lt;operator-acme@example.com&gt;") || !strings.Contains(got.body, "operator of acme") {
			t.Errorf("session: %d %s", got.status, tail(got.body, 1500))
		}
	}
	if again := b.get(callback); again.status != 400 || !strings.Contains(again.body, "is over") {
		t.Errorf("the callback again: %d", again.status)
	}
	if got := b.get(r.public + "/dashboard/session"); got.status != 200 {
		t.Errorf("after the callback again: %d", got.status)
	}

	// Login CSRF: Mallory has a callback of her own opened in somebody else's browser.
	mallory, victim := newBrowser(t), newBrowser(t)
	hers := s.callback(mallory, "", "admin")
	if got := victim.get(hers); got.status != 403 || !strings.Contains(got.body, "another browser") {
		t.Errorf("in another browser: %d", got.status)
	}
	if got := victim.get(r.public + "/dashboard/session"); got.status != 401 {
		t.Errorf("afterwards in the other browser: %d", got.status)
	}
	if got := mallory.get(hers); got.status != 200 {
		t.Errorf("in her own, all the same: %d", got.status)
	}

	// No role: told whom to ask for, and in the trail.
	none := newBrowser(t)
	if got := s.signIn(none, "", "nobody"); got.status != 403 || !strings.Contains(got.body, "oidc:s-nobody") || strings.Contains(got.body, "everybody") {
		t.Errorf("without a role: %d %s", got.status, tail(got.body, 1000))
	}
	if got := none.get(r.public + "/dashboard/session"); got.status != 401 {
		t.Errorf("without a role, afterwards: %d", got.status)
	}

	// A role that is taken out of the configuration ends what sessions may, and another client_id every session of before.
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	restart := func(old, new string) {
		t.Helper()
		if err := os.WriteFile(r.config, []byte(strings.Replace(string(text), old, new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		two.stop()
		two = r.start()
	}
	restart("    - {group: operator-acme, role: operator, tenant: acme}\n", "")
	if got := b.get(two.url + "/dashboard/session"); got.status != 401 {
		t.Errorf("without the role: %d", got.status)
	}
	if got := b.get(one.url + "/dashboard/session"); got.status != 200 {
		t.Errorf("where the role is still configured: %d", got.status)
	}
	restart("client_id: dash", "client_id: dash2")
	if got := b.get(two.url + "/dashboard/session"); got.status != 401 {
		t.Errorf("with another client: %d", got.status)
	}

	// Everywhere, on every replica: one's own, and by an administrator.
	phone := newBrowser(t)
	s.signIn(phone, "", "operator-acme")
	if got := b.post(one.url+"/dashboard/session/end", b.get(one.url+"/dashboard/session").form()); got.status != 303 {
		t.Errorf("sign out everywhere: %d", got.status)
	}
	restart("", "")
	for name, p := range map[string]*brokerProcess{"one": one, "two": two} {
		if got := phone.get(p.url + "/dashboard/session"); got.status != 401 {
			t.Errorf("on the phone at %s: %d", name, got.status)
		}
	}
	s.signIn(phone, "", "operator-acme")
	form := mallory.get(two.url + "/dashboard/operators").form()
	form.Set("operator", "oidc:s-operator-acme")
	form.Set("reason", "left us")
	if got := mallory.post(two.url+"/dashboard/operators", form); got.status != 303 {
		t.Errorf("by an administrator: %d %s", got.status, tail(got.body, 1000))
	}
	if got := phone.get(one.url + "/dashboard/session"); got.status != 401 {
		t.Errorf("on the phone, after that: %d", got.status)
	}

	one.stop()
	two.stop()
	r.run("audit", "verify", "--config", r.config)
	secrets := map[string]string{
		"client secret": staffSecret, "state": query(t, callback, "state"), "code": query(t, callback, "code"), "address": "operator-acme@example.com", "person": "s-operator-acme",
	}
	seen := string(monitor())
	for what, secret := range secrets {
		if strings.Contains(seen, secret) {
			t.Errorf("redis saw the %s", what)
		}
		for _, p := range r.brokers {
			if strings.Contains(p.log.String(), secret) {
				t.Errorf("a log has the %s", what)
			}
		}
	}
}

// dev has a sample operator for each role, at the dashboard alone.
func TestDevOperators(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	s := &staff{issuer: d.sandbox, public: d.broker}
	for login, role := range map[string]string{"vera": "viewer of demo", "otto": "operator", "audra": "auditor", "adam": "admin"} {
		b := newBrowser(t)
		if got := s.signIn(b, "", login); got.status != 200 {
			t.Fatalf("%s: %d %s", login, got.status, tail(got.body, 1000))
		}
		if got := b.get(d.broker + "/dashboard/session"); got.status != 200 || !strings.Contains(got.body, "<dd>"+role+"</dd>") {
			t.Errorf("%s: %d %s", login, got.status, tail(got.body, 1000))
		}
	}
	// Nobody of the demo's users can sign in there.
	b := newBrowser(t)
	at := b.post(d.broker+"/dashboard/login/start", nil).refresh(t)
	at = b.get(at).location
	if got := b.get(at); got.status != 200 || strings.Contains(got.body, "mallory") || !strings.Contains(got.body, "otto") {
		t.Errorf("the sign-in page: %d %s", got.status, tail(got.body, 1500))
	}
	form := b.get(at).form()
	form.Set("user", "mallory")
	form.Set("decision", "allow")
	if got := b.post(d.sandbox+"/login", form); got.status != 400 {
		t.Errorf("mallory: %d %s", got.status, got.location)
	}
}
