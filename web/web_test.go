package web_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

const (
	public    = "https://connect.example"
	loopback  = "http://127.0.0.1:8080"
	loginText = "the operators' login token"
	linkPath  = "/connect/" + webtest.Link
)

// site is the pages without a listener, and the cookies of one browser.
type site struct {
	pages    *web.Web
	t        *testing.T
	echo     *echo.Echo
	service  *webtest.Service
	sessions *webtest.Sessions
	log      *strings.Builder
	jar      map[string]string
}

// newSite makes one; change may alter the config.
func newSite(t *testing.T, publicURL string, change func(*web.Config)) *site {
	t.Helper()
	s := &site{t: t, echo: echo.New(), service: &webtest.Service{}, sessions: &webtest.Sessions{}, log: &strings.Builder{}, jar: map[string]string{}}
	digest := sha256.Sum256([]byte(loginText))
	cfg := web.Config{
		Service: s.service, Sessions: s.sessions, PublicURL: publicURL, DashboardTokenSHA256: hex.EncodeToString(digest[:]),
		Tenants:   []string{"acme", "globex"},
		ClientIP:  func(r *http.Request) string { return r.Header.Get("Test-Address") },
		RequestID: func(*http.Request) string { return "req-1" },
		Now:       time.Now, Random: rand.Reader, Log: slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	w, err := web.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.pages = w
	w.Register(s.echo)
	s.echo.RouteNotFound("/*", w.NotFound)
	s.service.Open = func(link broker.Secret) (broker.ConsentPage, error) {
		if link.Reveal() != webtest.Link {
			return broker.ConsentPage{}, broker.Errorf(broker.CodeNotFound, "no such link")
		}
		return webtest.Page(time.Now(), broker.BindingCode), nil
	}
	return s
}

// send runs one request with the jar's cookies, and keeps what it sets.
func (s *site) send(r *http.Request) *http.Response {
	s.t.Helper()
	if r.Header.Get("Test-Address") == "" {
		r.Header.Set("Test-Address", "192.0.2.1")
	}
	for name, value := range s.jar {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	rec := httptest.NewRecorder()
	s.echo.ServeHTTP(rec, r)
	res := rec.Result()
	for _, c := range res.Cookies() {
		if c.MaxAge < 0 {
			delete(s.jar, c.Name)
		} else {
			s.jar[c.Name] = c.Value
		}
	}
	return res
}

func (s *site) get(path string) *http.Response {
	s.t.Helper()
	return s.send(httptest.NewRequest(http.MethodGet, path, nil))
}

// post sends a form as a browser does from our own page; one of the dashboard with the token of its session.
func (s *site) post(path string, form url.Values) *http.Response {
	s.t.Helper()
	if strings.HasPrefix(path, "/dashboard/") && path != "/dashboard/login" && !form.Has("form") {
		form = maps.Clone(form)
		if form == nil {
			form = url.Values{}
		}
		form.Set("form", s.formToken())
	}
	return s.send(formRequest(path, form, "same-origin"))
}

func formRequest(path string, form url.Values, fetchSite string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if fetchSite != "" {
		r.Header.Set("Sec-Fetch-Site", fetchSite)
		r.Header.Set("Origin", "null")
	}
	return r
}

var nonceField = regexp.MustCompile(`name="nonce" value="([^"]+)"`)

// nonce opens the link's page and returns what its form holds.
func (s *site) nonce() string {
	s.t.Helper()
	m := nonceField.FindStringSubmatch(body(s.t, s.get(linkPath)))
	if m == nil {
		s.t.Fatal("the page has no nonce")
	}
	return m[1]
}

// decide opens the link and presses a button.
func (s *site) decide(action string) *http.Response {
	s.t.Helper()
	return s.post(linkPath, url.Values{"nonce": {s.nonce()}, "action": {action}})
}

var formField = regexp.MustCompile(`name="form" value="([^"]+)"`)

// formToken is what the forms of the dashboard carry in this session; "" without one.
func (s *site) formToken() string {
	s.t.Helper()
	if m := formField.FindStringSubmatch(body(s.t, s.get("/dashboard"))); m != nil {
		return m[1]
	}
	return ""
}

func (s *site) signIn() {
	s.t.Helper()
	status(s.t, s.post("/dashboard/login", url.Values{"token": {loginText}}), http.StatusSeeOther)
}

func body(t *testing.T, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func status(t *testing.T, res *http.Response, want int) {
	t.Helper()
	if res.StatusCode != want {
		t.Errorf("status %d, want %d", res.StatusCode, want)
	}
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("the page lacks %q", p)
		}
	}
}

func lacks(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if strings.Contains(text, p) {
			t.Errorf("the page has %q", p)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := func() web.Config {
		return web.Config{
			Service: &webtest.Service{}, PublicURL: public, ClientIP: func(*http.Request) string { return "" },
			Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler),
		}
	}
	if _, err := web.New(good()); err != nil {
		t.Fatalf("a good config: %v", err)
	}
	for name, change := range map[string]func(*web.Config){
		"no service":       func(c *web.Config) { c.Service = nil },
		"no clock":         func(c *web.Config) { c.Now = nil },
		"no address":       func(c *web.Config) { c.ClientIP = nil },
		"no URL":           func(c *web.Config) { c.PublicURL = "" },
		"URL with a path":  func(c *web.Config) { c.PublicURL = public + "/broker" },
		"other scheme":     func(c *web.Config) { c.PublicURL = "ftp://connect.example" },
		"digest too short": func(c *web.Config) { c.DashboardTokenSHA256 = "ab12"; c.Sessions = &webtest.Sessions{} },
		"no sessions":      func(c *web.Config) { c.DashboardTokenSHA256 = strings.Repeat("ab", 32) },
	} {
		cfg := good()
		change(&cfg)
		if _, err := web.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
