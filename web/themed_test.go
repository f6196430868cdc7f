package web_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

var themeAddress = regexp.MustCompile(`/theme/[0-9a-f]{24}\.[a-z]+`)

const logoSVG = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="4" fill="#7a3cc9"/></svg>`

func acme(t *testing.T) map[string]web.Theme {
	t.Helper()
	accent, err := web.ParseAccent("#7a3cc9")
	if err != nil {
		t.Fatal(err)
	}
	logo, err := web.ParseLogo([]byte(logoSVG))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]web.Theme{"acme-chat": {Accent: accent, Logo: logo}, "plain": {}}
}

func TestThemeOfAClient(t *testing.T) {
	s := newSite(t, public, func(c *web.Config) { c.Themes = acme(t) })
	client := "acme-chat"
	s.service.Open = func(broker.Secret) (broker.ConsentPage, error) {
		p := webtest.Page(time.Now(), broker.BindingCode)
		p.ClientID = client
		return p, nil
	}
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) {
		f := webtest.Code()
		f.ClientID = client
		return f, nil
	}
	s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) {
		f := webtest.Denied()
		f.ClientID = client
		return f, nil
	}
	found := themeAddress.FindAllString(body(t, s.get(linkPath)), -1)
	if len(found) != 2 || !strings.HasSuffix(found[0], ".css") || !strings.HasSuffix(found[1], ".svg") {
		t.Fatalf("the page names %v", found)
	}
	for _, page := range []string{body(t, s.get("/consent/cs_1")), body(t, s.decide("cancel"))} {
		contains(t, page, `<link rel="stylesheet" href="`+found[0]+`">`)
	}

	css := s.get(found[0])
	status(t, css, http.StatusOK)
	contains(t, body(t, css), "--fill:#7a3cc9", "prefers-color-scheme:dark")
	contains(t, css.Header.Get("Content-Type"), "text/css")
	logo := s.get(found[1])
	status(t, logo, http.StatusOK)
	if got := body(t, logo); got != logoSVG {
		t.Errorf("the logo is %q", got)
	}
	for name, want := range map[string]string{
		"Content-Type": "image/svg+xml", "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
		"X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "public, max-age=31536000, immutable", "Referrer-Policy": "no-referrer",
	} {
		if got := logo.Header.Get(name); got != want {
			t.Errorf("the logo's %s is %q", name, got)
		}
	}

	for _, path := range []string{"/theme/none.svg", "/theme/", "/theme", "/theme/a/b", "/theme/acme-chat.svg", found[1] + "x"} {
		status(t, s.get(path), http.StatusNotFound)
	}
	for _, client = range []string{"", "plain", "globex-chat"} {
		lacks(t, body(t, s.get(linkPath)), "/theme/")
		lacks(t, body(t, s.get("/consent/cs_1")), "/theme/")
	}
}
