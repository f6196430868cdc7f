package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

var (
	htmlTag    = regexp.MustCompile(`<html lang="([^"]+)" dir="([^"]+)">`)
	mainPart   = regexp.MustCompile(`(?s)<main.*</main>`)
	unknownKey = regexp.MustCompile(`⟦[^⟧]*⟧`)
)

// languageOf is what the page says of itself.
func languageOf(t *testing.T, page string) string {
	t.Helper()
	m := htmlTag.FindStringSubmatch(page)
	if m == nil {
		t.Fatal("the page has no language")
	}
	return m[1] + " " + m[2]
}

func (s *site) getIn(path, accept string) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if accept != "" {
		r.Header.Set("Accept-Language", accept)
	}
	return s.send(r)
}

// The address chooses before the cookie, the cookie before the browser's settings, and English is for everybody else.
func TestLanguageOfThePage(t *testing.T) {
	for _, tt := range []struct{ query, cookie, accept, want string }{
		{"", "", "", "en ltr"},
		{"", "", "de", "de ltr"},
		{"", "", "de-AT,de;q=0.9,en;q=0.8", "de ltr"},
		{"", "", "fi, sv;q=0.8", "en ltr"},
		{"", "", "fi, ar-EG;q=0.8", "ar rtl"},
		{"", "", "en-GB, fr;q=0.9", "en ltr"},
		{"", "", "pt-BR", "pt ltr"},
		{"", "", "pt-PT", "pt ltr"},
		{"", "", "es-419;q=0.3, ja;q=0.2", "es ltr"},
		{"", "", "*", "en ltr"},
		{"", "", ";;;q=x,de", "en ltr"},
		{"", "", strings.Repeat("de,", 1000), "en ltr"},
		{"", "fr", "de", "fr ltr"},
		{"", "xx", "de", "de ltr"},
		{"", "<b>", "de", "de ltr"},
		{"?lang=ja", "fr", "de", "ja ltr"},
		{"?lang=pt-BR", "", "", "pt ltr"},
		{"?lang=AR", "", "", "ar rtl"},
		{"?lang=fi", "fr", "de", "fr ltr"},
		{"?lang=", "", "de", "de ltr"},
		{"?lang=%22%3E%3Cscript%3E", "", "", "en ltr"},
		{"?lang=" + strings.Repeat("a", 100), "", "", "en ltr"},
	} {
		s := newSite(t, public, nil)
		if tt.cookie != "" {
			s.jar["__Host-tb_lang"] = tt.cookie
		}
		res := s.getIn(linkPath+tt.query, tt.accept)
		page := body(t, res)
		if got := languageOf(t, page); got != tt.want {
			t.Errorf("query %q, cookie %q, header %.40q: %s, want %s", tt.query, tt.cookie, tt.accept, got, tt.want)
		}
		if got := res.Header.Get("Content-Language"); got+" " != tt.want[:len(got)+1] {
			t.Errorf("Content-Language %q on a page in %s", got, tt.want)
		}
		lacks(t, page, "><b>", "<script>", "⟦")
		_, kept := s.jar["__Host-tb_lang"]
		if meant := tt.cookie != "" || tt.query == "?lang=ja" || tt.query == "?lang=pt-BR" || tt.query == "?lang=AR"; kept != meant {
			t.Errorf("query %q: the choice is kept: %t", tt.query, kept)
		}
	}
}

// A choice holds through the flow: on the press, over the provider, at the end and when something goes wrong.
func TestLanguageStays(t *testing.T) {
	s := newSite(t, public, nil)
	res := s.get(linkPath + "?lang=de")
	var kept *http.Cookie
	for _, c := range res.Cookies() {
		if c.Name == "__Host-tb_lang" {
			kept = c
		}
	}
	if kept == nil || kept.Value != "de" || !kept.HttpOnly || !kept.Secure || kept.SameSite != http.SameSiteLaxMode || kept.Path != "/" || kept.MaxAge < 30*24*3600 {
		t.Fatalf("the choice is kept as %v", kept)
	}
	page := body(t, res)
	contains(t, page, `<a href="?lang=en" lang="en" hreflang="en" dir="ltr">English</a>`, `<a href="?lang=de" lang="de" hreflang="de" dir="ltr" aria-current="true">Deutsch</a>`,
		`<a href="?lang=ar" lang="ar" hreflang="ar" dir="rtl">العربية</a>`, `aria-label="Sprache"`)

	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) { return webtest.Code(), nil }
	s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) { return webtest.Denied(), nil }
	for path, words := range map[string]string{
		"/consent/cs_1": "Ein letzter Schritt", "/connect/unknown": "Dieser Link funktioniert nicht", "/oauth2/callback/google-drive": "Diese Anmeldung kann nicht fortgesetzt werden", "/none": "Hier ist nichts",
	} {
		page := body(t, s.get(path))
		contains(t, page, words, `<html lang="de" dir="ltr">`)
	}
	cancelled := body(t, s.decide("cancel"))
	contains(t, cancelled, "Es wurde nichts verbunden")
	// The answer to the form and to the provider's redirect can't be had a second time in another language.
	lacks(t, cancelled, "?lang=")
	lacks(t, body(t, s.get("/oauth2/callback/google-drive")), "?lang=")

	// Operators have English, whatever their browser says.
	contains(t, body(t, s.get("/dashboard")), `<html lang="en" dir="ltr">`)
	lacks(t, body(t, s.get("/dashboard")), "?lang=")
}

// Every page in every language: no key without words, no placeholder that was left standing, and no English sentence left over.
func TestEveryPageInEveryLanguage(t *testing.T) {
	english := map[string]string{}
	for _, tag := range []string{"en", "ar", "de", "es", "fr", "ja", "pt"} {
		for name, page := range everyPage(t, tag) {
			if found := unknownKey.FindString(page); found != "" || strings.Contains(page, "{{") || strings.Contains(page, "no value") || strings.Contains(page, "%!") {
				t.Errorf("%s in %s: words are missing: %s", name, tag, found)
			}
			main := mainPart.FindString(page)
			if tag == "en" {
				english[name] = main
			} else if main == english[name] || main == "" {
				t.Errorf("%s in %s is the English page", name, tag)
			}
		}
	}
}

// everyPage makes each state of each page that users see.
func everyPage(t *testing.T, tag string) map[string]string {
	t.Helper()
	pages := everyPortalPage(t, tag)
	s := newSite(t, public, nil)
	s.jar["__Host-tb_lang"] = tag
	for name, p := range webtest.ConsentStates(time.Now()) {
		s.service.Open = func(broker.Secret) (broker.ConsentPage, error) { return p, nil }
		pages["consent "+name] = body(t, s.get(linkPath))
	}
	for name, f := range webtest.FinishStates() {
		s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) { return f, nil }
		pages["finish "+name] = body(t, s.get("/consent/cs_1"))
	}
	for _, code := range []broker.Code{
		broker.CodeInvalidRequest, broker.CodeAccessDenied, broker.CodeNotFound, broker.CodeSlowDown, broker.CodeProviderMisconfigured,
		broker.CodeProviderUnavailable, broker.CodeTemporarilyUnavailable, broker.CodeServerError,
	} {
		s := newSite(t, public, nil)
		s.jar["__Host-tb_lang"] = tag
		fails := func(string, func(string) broker.Secret) (broker.Finish, error) {
			return broker.Finish{}, broker.Errorf(code, "x")
		}
		s.service.Again = fails
		pages["message finished "+string(code)] = body(t, s.get("/consent/cs_1"))
		s.service.Open = func(broker.Secret) (broker.ConsentPage, error) {
			return broker.ConsentPage{}, broker.Errorf(code, "x")
		}
		pages["message consent "+string(code)] = body(t, s.get(linkPath))
		s.service.Finish = func(context.Context, broker.Callback) (broker.Finish, error) { return fails("", nil) }
		pages["message callback "+string(code)] = body(t, s.get("/oauth2/callback/google-drive?state=s&code=c"))
	}
	s = newSite(t, public, nil)
	s.jar["__Host-tb_lang"] = tag
	pages["message none"] = body(t, s.get("/none"))
	pages["message callback"] = body(t, s.get("/oauth2/callback/google-drive"))
	pages["message method"] = body(t, s.post("/consent/cs_1", nil))
	pages["message form"] = body(t, s.post(linkPath, nil))
	pages["message form anywhere"] = body(t, s.post("/connect/%00", nil))
	for range 40 {
		pages["message guessing"] = body(t, s.get("/connect/guess"))
	}
	return pages
}
