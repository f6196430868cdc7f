package e2e

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

// deed is one thing that the dashboard can be asked for. The table of all of them is the one place that says who may what: a route
// without a row fails the test, and so does a link or a form on a page of somebody who may not do it.
type deed struct {
	method, route string // as they are registered
	// path asks for it, if that is not the route: {conn} is a connection of tenant acme, {rival} one of tenant rival, {job} a paused
	// job that ends connections of acme.
	path string
	// form is posted. It lacks what the deed needs (a reason), so that whoever may do it gets 400, and nothing happens.
	form url.Values
	// may are the roles. Whoever has one in one tenant alone may do it there, unless it is installation.
	may          string
	installation bool
	// foreign is the same of tenant rival, in the path, or in the form's field tenant: for those of acme alone it does not exist.
	foreign string
	// leaves: the session is over afterwards.
	leaves bool
}

const (
	everybody = "viewer operator auditor admin"
	open      = "anybody" // without signing in
)

// deeds are all of them. Add yours with its route.
var deeds = []deed{
	{method: "GET", route: "/dashboard", may: everybody, foreign: "/dashboard?tenant=rival"},
	{method: "GET", route: "/dashboard/live", may: everybody, foreign: "/dashboard/live?tenant=rival"},
	{method: "GET", route: "/dashboard/health", may: everybody, installation: true},
	{method: "GET", route: "/dashboard/accounts", may: everybody, foreign: "/dashboard/accounts?tenant=rival"},
	{method: "POST", route: "/dashboard/accounts", form: url.Values{"tenant": {"acme"}, "subject": {""}}, may: everybody, foreign: "/dashboard/accounts"},
	{method: "GET", route: "/dashboard/accounts/:id", path: "/dashboard/accounts/{conn}?tenant=acme", may: everybody, foreign: "/dashboard/accounts/{rival}?tenant=rival"},
	{method: "GET", route: "/dashboard/accounts/:id/:action", path: "/dashboard/accounts/{conn}/refresh?tenant=acme", may: "operator admin", foreign: "/dashboard/accounts/{rival}/refresh?tenant=rival"},
	{method: "GET", route: "/dashboard/accounts/:id/:action", path: "/dashboard/accounts/{conn}/link?tenant=acme", may: "operator admin", foreign: "/dashboard/accounts/{rival}/link?tenant=rival"},
	{method: "GET", route: "/dashboard/accounts/:id/:action", path: "/dashboard/accounts/{conn}/revoke?tenant=acme", may: "operator admin", foreign: "/dashboard/accounts/{rival}/revoke?tenant=rival"},
	{method: "POST", route: "/dashboard/accounts/:id/:action", path: "/dashboard/accounts/{conn}/refresh?tenant=acme", form: url.Values{"reason": {""}}, may: "operator admin", foreign: "/dashboard/accounts/{rival}/refresh?tenant=rival"},
	{method: "POST", route: "/dashboard/accounts/:id/:action", path: "/dashboard/accounts/{conn}/link?tenant=acme", form: url.Values{"reason": {""}}, may: "operator admin", foreign: "/dashboard/accounts/{rival}/link?tenant=rival"},
	{method: "POST", route: "/dashboard/accounts/:id/:action", path: "/dashboard/accounts/{conn}/revoke?tenant=acme", form: url.Values{"reason": {""}}, may: "operator admin", foreign: "/dashboard/accounts/{rival}/revoke?tenant=rival"},
	{method: "GET", route: "/dashboard/switches", may: "operator admin"},
	{method: "GET", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=client&tenant=acme&name=acme-chat", may: "operator admin", foreign: "/dashboard/switches/disable?kind=client&tenant=rival&name=rival"},
	{method: "GET", route: "/dashboard/switches/:action", path: "/dashboard/switches/enable?kind=connector&tenant=acme&name=files", may: "operator admin", foreign: "/dashboard/switches/enable?kind=connector&tenant=rival&name=files"},
	{method: "GET", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=connector&tenant=&name=files", may: "operator admin", installation: true},
	{method: "GET", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=actor&tenant=&name=a", may: "operator admin", installation: true},
	{method: "GET", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=tenant&tenant=acme", may: "admin", installation: true},
	{method: "POST", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=client&tenant=acme&name=acme-chat", form: url.Values{"reason": {""}}, may: "operator admin", foreign: "/dashboard/switches/disable?kind=client&tenant=rival&name=rival"},
	{method: "POST", route: "/dashboard/switches/:action", path: "/dashboard/switches/enable?kind=connector&tenant=acme&name=files", form: url.Values{"reason": {""}}, may: "operator admin", foreign: "/dashboard/switches/enable?kind=connector&tenant=rival&name=files"},
	{method: "POST", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=connector&tenant=&name=files", form: url.Values{"reason": {""}}, may: "operator admin", installation: true},
	{method: "POST", route: "/dashboard/switches/:action", path: "/dashboard/switches/disable?kind=tenant&tenant=acme", form: url.Values{"reason": {""}}, may: "admin", installation: true},
	{method: "GET", route: "/dashboard/revoke-all", path: "/dashboard/revoke-all?tenant=acme&connector=", may: "admin", foreign: "/dashboard/revoke-all?tenant=rival&connector="},
	{method: "POST", route: "/dashboard/revoke-all", path: "/dashboard/revoke-all?tenant=acme&connector=", form: url.Values{"reason": {""}, "rate": {"1"}, "once": {"x"}}, may: "admin", foreign: "/dashboard/revoke-all?tenant=rival&connector="},
	{method: "POST", route: "/dashboard/revoke-all", path: "/dashboard/revoke-all?tenant=&connector=files", form: url.Values{"reason": {""}, "rate": {"1"}, "once": {"x"}}, may: "admin", installation: true},
	{method: "GET", route: "/dashboard/jobs", may: "auditor admin"},
	{method: "GET", route: "/dashboard/jobs/:id", path: "/dashboard/jobs/{job}", may: "admin"},
	{method: "GET", route: "/dashboard/jobs/:id/live", path: "/dashboard/jobs/{job}/live", may: "admin"},
	{method: "GET", route: "/dashboard/jobs/:id/:action", path: "/dashboard/jobs/{job}/resume", may: "admin"},
	{method: "GET", route: "/dashboard/jobs/:id/:action", path: "/dashboard/jobs/{job}/rate", may: "admin"},
	{method: "GET", route: "/dashboard/jobs/:id/:action", path: "/dashboard/jobs/{job}/cancel", may: "admin"},
	{method: "POST", route: "/dashboard/jobs/:id/:action", path: "/dashboard/jobs/{job}/cancel", form: url.Values{"reason": {""}}, may: "admin"},
	{method: "POST", route: "/dashboard/jobs/:id/:action", path: "/dashboard/jobs/{job}/rate", form: url.Values{"reason": {""}, "rate": {"5"}}, may: "admin"},
	{method: "POST", route: "/dashboard/jobs/:id/:action", path: "/dashboard/jobs/{job}/resume", form: url.Values{"reason": {""}}, may: "admin"},
	{method: "GET", route: "/dashboard/audit", may: "operator auditor admin", foreign: "/dashboard/audit?tenant=rival"},
	{method: "POST", route: "/dashboard/audit", form: url.Values{"tenant": {"acme"}, "type": {"token.issued"}}, may: "operator auditor admin", foreign: "/dashboard/audit"},
	{method: "GET", route: "/dashboard/audit/reach", path: "/dashboard/audit/reach?tenant=acme&agent=x&month=2026-03", may: "operator auditor admin", foreign: "/dashboard/audit/reach?tenant=rival&agent=x"},
	{method: "POST", route: "/dashboard/audit/reach", form: url.Values{"tenant": {"acme"}, "agent": {"x"}}, may: "operator auditor admin", foreign: "/dashboard/audit/reach"},
	{method: "POST", route: "/dashboard/audit/export", form: url.Values{"tenant": {"acme"}, "format": {""}}, may: "auditor admin", foreign: "/dashboard/audit/export"},
	{method: "GET", route: "/dashboard/audit/verify", may: "auditor admin"},
	{method: "POST", route: "/dashboard/audit/verify", form: url.Values{"tenant": {"acme"}, "reason": {""}}, may: "auditor admin", foreign: "/dashboard/audit/verify"},
	{method: "GET", route: "/dashboard/session", may: everybody},
	{method: "GET", route: "/dashboard/operators", may: "admin", installation: true},
	{method: "POST", route: "/dashboard/operators", form: url.Values{"operator": {"oidc:x"}, "reason": {""}}, may: "admin", installation: true},
	{method: "POST", route: "/dashboard/logout", may: everybody, leaves: true},
	{method: "POST", route: "/dashboard/session/end", may: everybody, leaves: true},

	{method: "GET", route: "/dashboard/login", may: open},
	{method: "POST", route: "/dashboard/login", form: url.Values{"token": {"wrong"}}, may: open},
	{method: "POST", route: "/dashboard/login/start", may: open},
	{method: "GET", route: "/dashboard/login/out", may: open},
	{method: "GET", route: "/dashboard/callback", may: open},
}

func (d deed) at(conn, rival, job string) string {
	path := d.path
	if path == "" {
		path = d.route
	}
	return strings.NewReplacer("{conn}", conn, "{rival}", rival, "{job}", job).Replace(path)
}

func (d deed) allowed(p person) bool {
	return slices.ContainsFunc(p.op.Grants, func(g broker.OperatorGrant) bool {
		return slices.Contains(strings.Fields(d.may), string(g.Role)) && (!d.installation || g.Tenant == "")
	})
}

// matches tells whether an address is of that deed; what stands for a record in its path matches any.
func (d deed) matches(method, address string) bool {
	u, err := url.Parse(address)
	if err != nil || d.method != method {
		return false
	}
	path, _, _ := strings.Cut(d.at("{", "{", "{"), "?")
	want, got := strings.Split(path, "/"), strings.Split(u.Path, "/")
	for i := range want {
		if len(want) != len(got) || want[i] != got[i] && want[i] != "{" {
			return false
		}
	}
	return true
}

// registered are the routes of the dashboard, as package web registers them.
func registered(t *testing.T) map[string]bool {
	t.Helper()
	pages, err := web.New(web.Config{
		Service: &webtest.Service{}, Sessions: &webtest.Sessions{}, PublicURL: "http://127.0.0.1:1", OperatorLogin: "x", DashboardTokenSHA256: hash("x"),
		ClientIP: func(*http.Request) string { return "" }, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	e := echo.New()
	pages.Register(e)
	routes := map[string]bool{}
	for _, r := range e.Routes() {
		if (r.Path == "/dashboard" || strings.HasPrefix(r.Path, "/dashboard/")) && !strings.Contains(r.Path, "*") && (r.Method == "GET" || r.Method == "POST") {
			routes[r.Path] = true
		}
	}
	if len(routes) < 6 {
		t.Fatalf("routes %v", routes)
	}
	return routes
}

var (
	linkAttr  = regexp.MustCompile(`<a\b[^>]*\bhref="([^"]*)"`)
	formStart = regexp.MustCompile(`<form\b[^>]*>`)
	formToken = regexp.MustCompile(`name="form" value="([^"]+)"`)
	methodIs  = regexp.MustCompile(`method="([^"]*)"`)
	actionIs  = regexp.MustCompile(`action="([^"]*)"`)
)

// Threat 63: each role, in all tenants and in one, against each page and action of the dashboard. What is not allowed is neither
// accepted nor shown.
func TestThreat63RolesMatrix(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s := withStaff(t, r)
	p := r.start()
	conn := p.api(r.key).connect(newBrowser(t), "alice-of-acme")
	rival := p.api(r.other).connect(newBrowser(t), "bob-of-rival")
	job := p.pausedJob()

	// The table is complete: every route and method that is there has a row.
	anybody := newBrowser(t)
	for route := range registered(t) {
		of := slices.DeleteFunc(slices.Clone(deeds), func(d deed) bool { return d.route != route })
		if len(of) == 0 {
			t.Errorf("%s has no row in deeds", route)
			continue
		}
		for _, method := range []string{"GET", "POST"} {
			got := anybody.get
			if method == "POST" {
				got = func(address string) page { return anybody.post(address, nil) }
			}
			answer := got(p.url + of[0].at(conn, rival, job))
			row := slices.ContainsFunc(of, func(d deed) bool { return d.method == method })
			if there := answer.status != http.StatusMethodNotAllowed; there != row {
				t.Errorf("%s %s: registered %v, in deeds %v", method, route, there, row)
			}
		}
	}

	asked := map[string]int{}
	for _, who := range append(people(), person{}) {
		name := who.login
		b := newBrowser(t)
		signIn := func() string {
			switch who.login {
			case "", "nobody": // not signed in; and proved to be somebody, who has no role
				if who.login != "" {
					s.signIn(b, "", who.login)
				}
				return ""
			}
			s.signIn(b, "", who.login)
			return formToken.FindStringSubmatch(b.get(p.url + "/dashboard/session").body)[1]
		}
		token := signIn()
		ask := func(d deed, address, tenant string) page {
			asked[d.may]++
			if d.method == "GET" {
				return b.get(p.url + address)
			}
			form := url.Values{"form": {token}}
			for k, v := range d.form {
				form[k] = v
			}
			if form.Has("tenant") {
				form.Set("tenant", tenant)
			}
			return b.post(p.url+address, form)
		}
		for _, d := range deeds {
			if d.may == open {
				continue
			}
			address := d.at(conn, rival, job)
			got := ask(d, address, "acme")
			refused := got.status == http.StatusForbidden || got.status == http.StatusNotFound
			switch allowed := d.allowed(who); {
			case len(who.op.Grants) == 0 && got.status != http.StatusUnauthorized && !(address == "/dashboard" && strings.Contains(got.body, "Operator sign-in")):
				t.Errorf("%q, not signed in, %s %s: %d", name, d.method, address, got.status)
			case len(who.op.Grants) == 0:
			case allowed && (refused || got.status >= 500 || got.status == http.StatusUnauthorized || d.method == "GET" && got.status != http.StatusOK):
				t.Errorf("%s may %s %s: %d %s", name, d.method, address, got.status, tail(got.body, 300))
			case !allowed && !refused:
				t.Errorf("%s may not %s %s: %d", name, d.method, address, got.status)
			}
			checkShown(t, who, got)
			if d.foreign != "" && len(who.op.Grants) > 0 {
				far := ask(d, strings.NewReplacer("{rival}", rival).Replace(d.foreign), "rival")
				everywhere := d.allowed(who) && who.op.Grants[0].Tenant == ""
				if got := far.status != http.StatusForbidden && far.status != http.StatusNotFound; got != everywhere {
					t.Errorf("%s, %s %s of another tenant: %d", name, d.method, d.foreign, far.status)
				}
				if !everywhere && d.allowed(who) && far.status != http.StatusNotFound {
					t.Errorf("%s, %s %s: %d tells that the tenant is there", name, d.method, d.foreign, far.status)
				}
				checkShown(t, who, far)
			}
			if d.leaves {
				token = signIn()
			}
		}
	}
	if asked[everybody] < 50 || asked["admin"] < 10 {
		t.Errorf("asked %v: the matrix misses something", asked)
	}
}

// checkShown fails for a link or a form to what the person may not do, and for anything of another tenant.
func checkShown(t *testing.T, who person, got page) {
	t.Helper()
	check := func(method, address string) {
		t.Helper()
		u, err := url.Parse(got.url)
		if err != nil {
			t.Fatal(err)
		}
		if u, err = u.Parse(strings.ReplaceAll(address, "&amp;", "&")); err != nil || !strings.HasPrefix(u.Path, "/dashboard") {
			return
		}
		i := slices.IndexFunc(deeds, func(d deed) bool { return d.matches(method, u.RequestURI()) })
		switch {
		case i < 0:
			t.Errorf("%s: the page shows %s %s, which has no row in deeds", got.url, method, u.Path)
		case deeds[i].may != open && !deeds[i].allowed(who):
			t.Errorf("%q may not %s %s, and %s shows it", who.login, method, u.Path, got.url)
		}
	}
	for _, link := range linkAttr.FindAllStringSubmatch(got.body, -1) {
		check("GET", link[1])
	}
	for _, form := range formStart.FindAllString(got.body, -1) {
		method, action := "GET", got.url
		if m := methodIs.FindStringSubmatch(form); m != nil {
			method = strings.ToUpper(m[1])
		}
		if a := actionIs.FindStringSubmatch(form); a != nil {
			action = a[1]
		}
		check(method, action)
	}
	if len(who.op.Grants) == 0 || who.op.Grants[0].Tenant != "" {
		if own := strings.ReplaceAll(got.body, "tenant=rival", ""); strings.Contains(own, "bob-of-rival") || strings.Contains(own, ">rival<") {
			t.Errorf("%q: %s shows another tenant", who.login, got.url)
		}
	}
}
