package web_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// Threats 13, 14, 17: every answer of every route has the headers, whatever became of it.
func TestThreat14HeadersOnEveryAnswer(t *testing.T) {
	for _, publicURL := range []string{public, loopback} {
		s := newSite(t, publicURL, nil)
		s.service.Again = func(id string, _ func(string) broker.Secret) (broker.Finish, error) {
			if id == "panic" {
				panic("secret-in-a-panic")
			}
			return webtest.Code(), nil
		}
		s.service.Visits = newPortal(t).service.Visits
		s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) { return webtest.Denied(), nil }
		s.signIn()
		cookies := s.jar
		seen := map[int]bool{}
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW"} {
			for _, path := range []string{
				"/connect", "/connect/", linkPath, "/connect/unknown", linkPath + "/more", linkPath + "/status", linkPath + "/status?wait=x", linkPath + "/status/", "/connect/unknown/status", "/sdk", "/sdk/", "/sdk/none.js", "/sdk/connect.js/more", "/oauth2", "/oauth2/callback", "/oauth2/callback/", "/oauth2/callback/google-drive",
				"/oauth2/callback/google-drive?state=s&code=c", "/oauth2/callback/a/b", "/oauth2/login", "/oauth2/login/acme-chat", "/oauth2/login/acme-chat?state=s&code=c", "/oauth2/login/acme-chat?state=s&error=%3Cscript%3E", "/oauth2/login/a/b", "/consent", "/consent/cs_1", "/portal", portalPath, "/portal/unknown", "/portal/session", visitPath, visitPath + "/enter/ticket", visitPath + "/disconnect/cn_1", visitPath + "/none", "/consent/panic", "/consent/cs_1/more", "/static", "/static/", "/static/none.css", "/static/a/b", "/theme", "/theme/none.css", "/theme/a/b",
				"/dashboard", "/dashboard/", "/dashboard/none", "/dashboard?tenant=none", "/dashboard?status=none", "/dashboard/login", "/dashboard/logout", "/none", "/favicon.ico", "/",
			} {
				r := httptest.NewRequest(method, path, nil)
				r.Host = "evil.example"
				r.Header.Set("X-Forwarded-Host", "evil.example")
				s.jar = map[string]string{}
				for name, value := range cookies {
					s.jar[name] = value
				}
				r.Header.Set("Test-Address", method+path)
				res := s.send(r)
				seen[res.StatusCode] = true
				if res.StatusCode >= 300 && res.StatusCode < 400 && res.StatusCode != http.StatusSeeOther { // threat 20
					t.Errorf("%s %s: %d", method, path, res.StatusCode)
				}
				checkHeaders(t, method+" "+path, publicURL, res)
				if text := body(t, res); strings.Contains(text, "evil.example") || strings.Contains(text, "secret-in-a-panic") { // threat 12
					t.Errorf("%s %s: the page shows what it must not", method, path)
				}
			}
		}
		for _, want := range []int{200, 303, 400, 403, 404, 405, 500} {
			if !seen[want] && want != 303 {
				t.Errorf("no answer had status %d: the scan misses something", want)
			}
		}
		lacks(t, s.log.String(), "secret-in-a-panic")
		contains(t, s.log.String(), "page panicked")
	}
}

func checkHeaders(t *testing.T, what, publicURL string, res *http.Response) {
	t.Helper()
	h := res.Header
	want := map[string]string{
		"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "X-Robots-Tag": "noindex, nofollow",
		"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "Strict-Transport-Security": "",
	}
	if publicURL == public {
		want["Strict-Transport-Security"] = "max-age=31536000"
	}
	for name, value := range want {
		if got := h.Get(name); got != value || len(h.Values(name)) > 1 {
			t.Errorf("%s (%d): %s is %q", what, res.StatusCode, name, h.Values(name))
		}
	}
	policy := h.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("%s (%d): policy lacks %s", what, res.StatusCode, part)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, " *") {
		t.Errorf("%s: policy %q", what, policy)
	}
	method, path, _ := strings.Cut(what, " ")
	wantOpener := ""
	if strings.HasPrefix(path, "/dashboard") || path == visitPath || strings.HasPrefix(path, visitPath+"/disconnect") {
		wantOpener = "same-origin"
	}
	if got := h.Get("Cross-Origin-Opener-Policy"); got != wantOpener && method != "BREW" { // unheard-of methods may end at the site's 404
		t.Errorf("%s: opener policy %q", what, got)
	}
	wantType := "text/html"
	if route, _, _ := strings.Cut(path, "?"); strings.HasSuffix(route, "/status") {
		wantType = "application/json"
	}
	if res.StatusCode >= 400 && !strings.HasPrefix(h.Get("Content-Type"), wantType) && method != "BREW" {
		t.Errorf("%s (%d): content type %q", what, res.StatusCode, h.Get("Content-Type"))
	}
	if loc := h.Get("Location"); strings.Contains(loc, "evil") {
		t.Errorf("%s: Location %q", what, loc)
	}
}

func TestFormActionIsWideOnConsentPagesOnly(t *testing.T) {
	s := newSite(t, public, nil)
	contains(t, s.get(linkPath).Header.Get("Content-Security-Policy"), "form-action 'self' https: http://127.0.0.1:* http://localhost:*")
	contains(t, s.get(portalPath).Header.Get("Content-Security-Policy"), "form-action 'self' https: http://127.0.0.1:* http://localhost:*")
	for _, path := range []string{"/dashboard", "/consent/cs_1", visitPath, visitPath + "/disconnect/cn_1", "/none"} {
		if p := s.get(path).Header.Get("Content-Security-Policy"); !strings.HasSuffix(p, "form-action 'self'") {
			t.Errorf("%s: %q", path, p)
		}
	}
}

// Only the page that looks for news may ask for anything, and only here.
func TestConnectIsForTheEndPageOnly(t *testing.T) {
	s := newSite(t, public, nil)
	contains(t, s.get("/consent/cs_1").Header.Get("Content-Security-Policy"), "; connect-src 'self';")
	for _, path := range []string{linkPath, portalPath, "/dashboard", "/none", "/oauth2/callback/google-drive"} {
		lacks(t, s.get(path).Header.Get("Content-Security-Policy"), "connect-src")
	}
}

func TestStaticFiles(t *testing.T) {
	s := newSite(t, public, nil)
	page := body(t, s.get(linkPath))
	for _, name := range []string{"site.css", "consent.js", "icon.svg"} {
		_, rest, ok := strings.Cut(page, "/static/"+name)
		if !ok {
			t.Fatalf("the page has no %s", name)
		}
		address := "/static/" + name + rest[:strings.Index(rest, `"`)]
		res := s.get(address)
		status(t, res, http.StatusOK)
		if got := res.Header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
			t.Errorf("%s: Cache-Control %q", address, got)
		}
		if got := s.get("/static/" + name + "?v=old").Header.Get("Cache-Control"); got != "no-cache" {
			t.Errorf("%s of another version: Cache-Control %q", name, got)
		}
		r := httptest.NewRequest(http.MethodGet, "/static/"+name, nil)
		r.Header.Set("If-None-Match", res.Header.Get("ETag"))
		status(t, s.send(r), http.StatusNotModified)
	}
	for _, path := range []string{"/static/..%2fweb.go", "/static/site.css%00", "/static/"} {
		status(t, s.get(path), http.StatusNotFound)
	}
}

func TestBigAndBrokenForms(t *testing.T) {
	s := newSite(t, public, nil)
	nonce := s.nonce()
	status(t, s.post(linkPath, url.Values{"nonce": {nonce}, "pad": {strings.Repeat("a", 10<<10)}}), http.StatusBadRequest)
	r := httptest.NewRequest(http.MethodPost, linkPath, strings.NewReader(`{"nonce":"`+nonce+`"}`))
	r.Header.Set("Content-Type", "application/json")
	status(t, s.send(r), http.StatusForbidden)
	status(t, s.send(formRequest(linkPath+"?nonce="+nonce, nil, "same-origin")), http.StatusForbidden) // the query is no form
}
