package web_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

func TestConsentPageSaysWhoAsksForWhat(t *testing.T) {
	s := newSite(t, public, nil)
	res := s.get(linkPath)
	status(t, res, http.StatusOK)
	page := body(t, res)
	contains(t, page, `<html lang="en" dir="ltr">`, "Acme Chat", "Google Drive", "Google", "See and download all your files in Drive", "Sensitive",
		"drive.readonly", "learns whose account this is", "<code>openid</code> <span class=\"muted\">added", `<h3>See</h3>`, `value="continue"`, `value="cancel"`, "short code", "9 more minutes")
	lacks(t, page, "<script>", "style=", "onclick", ">New<")
	if total := len(page) + len(body(t, s.get("/static/site.css"))) + len(body(t, s.get("/static/consent.js"))) + len(body(t, s.get("/static/icon.svg"))); total > 60<<10 {
		t.Errorf("the page is %d bytes in all", total)
	}

	s.service.Open = func(broker.Secret) (broker.ConsentPage, error) {
		p := webtest.Page(time.Now(), broker.BindingReturn)
		p.Renewal, p.Scopes[1].New = true, true
		p.Account = &broker.Account{ID: "id-of-ada", Name: "Ada", Email: "ada@example.com"}
		return p, nil
	}
	page = body(t, s.get(linkPath))
	contains(t, page, "<title>Acme Chat asks for more access to Google Drive</title>", ">New<", "<bdi>a…@example.com</bdi>", "You come back to", "It has one permission already")
	lacks(t, page, "short code", "Ada", "ada@", "id-of-ada") // whoever has the link reads this
	if open, folded, ok := strings.Cut(page, `<details class="already">`); !ok || strings.Contains(open, "See and download all your files in Drive") || !strings.Contains(folded, "See and download all your files in Drive") ||
		strings.Contains(open, "learns whose account") || !strings.Contains(folded, "learns whose account") {
		t.Error("what it has already is not folded")
	}

	// Nothing is promised that isn't so: without scopes there are none to name, and without implied ones nothing is added.
	s.service.Open = func(broker.Secret) (broker.ConsentPage, error) {
		p := webtest.Page(time.Now(), broker.BindingReturn)
		p.Scopes, p.Connector.Implied = nil, broker.ScopeSet{}
		return p, nil
	}
	page = body(t, s.get(linkPath))
	contains(t, page, "shows you on its own page")
	lacks(t, page, "Exact permissions", "learns whose account")
}

// Threat 15: whoever only opens the link, or posts without having opened it, leaves it as it was.
func TestThreat15OpeningChangesNothing(t *testing.T) {
	s := newSite(t, public, nil)
	for _, agent := range []string{"Slackbot-LinkExpanding 1.0", "Mozilla/5.0 (SafeLinks)", ""} {
		for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodGet} {
			r := httptest.NewRequest(method, linkPath, nil)
			r.Header.Set("User-Agent", agent)
			status(t, s.send(r), http.StatusOK)
		}
	}
	for _, call := range s.service.Calls() {
		if call != "OpenLink" {
			t.Fatalf("opening the page called %s", call)
		}
	}
	nonce := s.nonce()
	name, value := onlyCookie(t, s)
	other := strings.Repeat("A", 43)
	for what, try := range map[string]struct {
		cookie map[string]string
		form   url.Values
		site   string
	}{
		"bare":                        {nil, url.Values{}, ""},
		"bare, with an action":        {nil, url.Values{"action": {"continue"}}, "same-origin"},
		"nonce without its cookie":    {nil, url.Values{"nonce": {nonce}}, "same-origin"},
		"cookie without the nonce":    {map[string]string{name: value}, url.Values{}, "same-origin"},
		"cookie as nonce":             {map[string]string{name: value}, url.Values{"nonce": {value}}, "same-origin"},
		"another browser's cookie":    {map[string]string{name: other}, url.Values{"nonce": {nonce}}, "same-origin"},
		"empty cookie":                {map[string]string{name: ""}, url.Values{"nonce": {nonce}}, "same-origin"},
		"right, but from elsewhere":   {map[string]string{name: value}, url.Values{"nonce": {nonce}}, "cross-site"},
		"right, from a sibling":       {map[string]string{name: value}, url.Values{"nonce": {nonce}}, "same-site"},
		"nonce twice":                 {map[string]string{name: value}, url.Values{"nonce": {nonce, nonce}}, "same-origin"},
		"right, with a made-up order": {map[string]string{name: value}, url.Values{"nonce": {nonce}, "action": {"approve"}}, "same-origin"},
	} {
		s.jar = try.cookie
		if s.jar == nil {
			s.jar = map[string]string{}
		}
		res := s.send(formRequest(linkPath, try.form, try.site))
		if res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: status %d", what, res.StatusCode)
		}
	}
	if n := s.service.Count("StartConsent") + s.service.Count("CancelConsent"); n != 0 {
		t.Errorf("%d of them reached the broker", n)
	}

	// The nonce of one link is none for another.
	s.jar = map[string]string{name: value}
	status(t, s.post("/connect/another-link", url.Values{"nonce": {nonce}}), http.StatusForbidden)

	// And the human's press still works.
	s.service.Start = func(broker.Secret, func(string) broker.Secret) (broker.Start, error) {
		return broker.Start{Location: broker.NewSecret("https://provider.example/auth"), CookieName: "tb", Cookie: broker.NewSecret("v"), MaxAge: time.Minute}, nil
	}
	s.jar = map[string]string{name: value}
	status(t, s.post(linkPath, url.Values{"nonce": {nonce}}), http.StatusSeeOther)
}

func onlyCookie(t *testing.T, s *site) (string, string) {
	t.Helper()
	if len(s.jar) != 1 {
		t.Fatalf("the browser has %d cookies", len(s.jar))
	}
	for name, value := range s.jar {
		return name, value
	}
	return "", ""
}

// A second tab with the same link must not break the form of the first.
func TestTwoTabs(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) { return webtest.Denied(), nil }
	first := s.nonce()
	if second := s.nonce(); second != first {
		t.Error("the second tab got another nonce")
	}
	status(t, s.post(linkPath, url.Values{"nonce": {first}, "action": {"cancel"}}), http.StatusOK)
}

// Threat 2 and 20: the cookie is set on the press, not before, with everything that keeps it in this browser.
func TestThreat2ContinueBindsTheBrowser(t *testing.T) {
	for _, tt := range []struct{ url, prefix string }{{public, "__Host-"}, {loopback, ""}} {
		s := newSite(t, tt.url, nil)
		var saw broker.Secret
		s.service.Start = func(link broker.Secret, cookie func(string) broker.Secret) (broker.Start, error) {
			saw = cookie("tb_consent_1")
			return broker.Start{
				ConsentID: "cs_1", Location: broker.NewSecret("https://provider.example/auth?state=s"),
				CookieName: "tb_consent_1", Cookie: broker.NewSecret("binding"), MaxAge: 10 * time.Minute,
			}, nil
		}
		s.jar[tt.prefix+"tb_consent_1"] = "of-an-earlier-start"
		res := s.decide("continue")
		status(t, res, http.StatusSeeOther)
		if got := res.Header.Get("Location"); got != "https://provider.example/auth?state=s" {
			t.Errorf("Location %q", got)
		}
		if saw.Reveal() != "of-an-earlier-start" {
			t.Errorf("%s: the broker saw cookie %q", tt.url, saw.Reveal())
		}
		cookies := res.Cookies()
		if len(cookies) != 1 {
			t.Fatalf("%d cookies", len(cookies))
		}
		c := cookies[0]
		if c.Name != tt.prefix+"tb_consent_1" || c.Value != "binding" || c.MaxAge != 600 || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.Secure != (tt.url == public) {
			t.Errorf("%s: cookie %v", tt.url, c)
		}
	}
}

func TestTwoCookiesOfOneNameAreNone(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Again = func(_ string, cookie func(string) broker.Secret) (broker.Finish, error) {
		if !cookie("tb").IsZero() {
			t.Error("one of two cookies was taken")
		}
		return broker.Finish{}, broker.Errorf(broker.CodeAccessDenied, "no")
	}
	r := httptest.NewRequest(http.MethodGet, "/consent/cs_1", nil)
	r.AddCookie(&http.Cookie{Name: "__Host-tb", Value: "a"})
	r.AddCookie(&http.Cookie{Name: "__Host-tb", Value: "b"})
	status(t, s.send(r), http.StatusNotFound)
}

// Threat 21, once more behind the configuration.
func TestThreat21OnlyWebAddresses(t *testing.T) {
	for _, location := range []string{"", "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "http://provider.example/", "//provider.example", "https://", "http://localhost.evil.example/", "http://127.0.0.1@evil.example/"} {
		s := newSite(t, public, nil)
		s.service.Start = func(broker.Secret, func(string) broker.Secret) (broker.Start, error) {
			return broker.Start{Location: broker.NewSecret(location), CookieName: "tb", Cookie: broker.NewSecret("v"), MaxAge: time.Minute}, nil
		}
		res := s.decide("continue")
		if res.StatusCode < 500 || res.Header.Get("Location") != "" || len(res.Cookies()) != 0 {
			t.Errorf("%q: status %d, Location %q", location, res.StatusCode, res.Header.Get("Location"))
		}
	}
	for _, location := range []string{"https://provider.example/auth?x=http://y", "http://127.0.0.1:4000/auth", "http://[::1]:4000/auth", "http://localhost/auth"} {
		s := newSite(t, public, nil)
		s.service.Start = func(broker.Secret, func(string) broker.Secret) (broker.Start, error) {
			return broker.Start{Location: broker.NewSecret(location), CookieName: "tb", Cookie: broker.NewSecret("v"), MaxAge: time.Minute}, nil
		}
		status(t, s.decide("continue"), http.StatusSeeOther)
	}
}

func TestCancel(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) { return webtest.Denied(), nil }
	res := s.decide("cancel")
	status(t, res, http.StatusOK)
	contains(t, body(t, res), "Nothing was connected", `class="mood mood-off"`, `id="close"`, `data-status="denied"`, `data-consent="cs_1"`, `data-origins="[&#34;https://chat.example&#34;]"`)

	s.jar["__Host-tb_consent_1"] = "of-the-start"
	s.service.Cancel = func(_ broker.Secret, cookie func(string) broker.Secret) (broker.Finish, error) {
		if cookie("tb_consent_1").Reveal() != "of-the-start" {
			t.Error("the broker can't tell whose browser cancels")
		}
		f := webtest.Denied()
		f.Location = broker.NewSecret("https://chat.example/done?consent=cs_1&error=access_denied")
		return f, nil
	}
	res = s.decide("cancel")
	status(t, res, http.StatusSeeOther)
	if got := res.Header.Get("Location"); !strings.HasPrefix(got, "https://chat.example/done?") {
		t.Errorf("Location %q", got)
	}
}

// Threat 16: whatever is wrong with a link, the answer is the same.
func TestThreat16DeadLinksLookTheSame(t *testing.T) {
	s := newSite(t, public, nil)
	known := s.service.Open
	s.service.Open = func(link broker.Secret) (broker.ConsentPage, error) {
		if link.Reveal() == "expired-link" {
			return broker.ConsentPage{}, broker.Errorf(broker.CodeExpired, "too old").Because(http.ErrNoCookie)
		}
		return known(link)
	}
	want := body(t, s.get("/connect/unknown-link"))
	contains(t, want, "This link doesn")
	for _, path := range []string{"/connect/expired-link", "/connect/%22%3E%3Cscript%3E", "/connect/" + strings.Repeat("a", 300), "/connect/a%2Fb", "/connect/%00"} {
		res := s.get(path)
		status(t, res, http.StatusNotFound)
		if body(t, res) != want {
			t.Errorf("%s: another page", path)
		}
	}
	nonce := s.nonce()
	res := s.post(linkPath, url.Values{"nonce": {nonce}}) // the broker's fake answers not_found: used meanwhile
	status(t, res, http.StatusNotFound)
	if body(t, res) != want {
		t.Error("a used link has another page")
	}
}

// Threat 16 and 52: guessing is slowed down by address; who doesn't guess is not.
func TestThreat16GuessingIsLimited(t *testing.T) {
	s := newSite(t, public, nil)
	refused := 0
	for range 50 {
		res := s.get("/connect/guess")
		if res.StatusCode == http.StatusTooManyRequests {
			refused++
			if res.Header.Get("Retry-After") == "" {
				t.Fatal("no Retry-After")
			}
		}
	}
	if refused < 18 || refused > 20 {
		t.Errorf("%d of 50 guesses were refused", refused)
	}
	res := s.get("/consent/guess")
	status(t, res, http.StatusTooManyRequests)
	contains(t, body(t, res), "Too many attempts")
	status(t, s.get(linkPath), http.StatusOK) // whose link is right does not pay for others behind the same address
	r := httptest.NewRequest(http.MethodGet, linkPath, nil)
	r.Header.Set("Test-Address", "192.0.2.2")
	status(t, s.send(r), http.StatusOK)
	for range 100 {
		r := httptest.NewRequest(http.MethodGet, linkPath, nil)
		r.Header.Set("Test-Address", "192.0.2.2")
		status(t, s.send(r), http.StatusOK)
	}
}

// A link that was started in one browser is shown to another, but not started there; that is no guessing.
func TestStartedElsewhere(t *testing.T) {
	for code, words := range map[broker.Code]string{broker.CodeAccessDenied: "opened in another browser", broker.CodeSlowDown: "under way in another window"} {
		s := newSite(t, public, nil)
		s.service.Start = func(broker.Secret, func(string) broker.Secret) (broker.Start, error) {
			return broker.Start{}, broker.Errorf(code, "x")
		}
		res := s.decide("continue")
		if res.StatusCode < 400 || len(res.Cookies()) != 0 {
			t.Errorf("%s: status %d, cookies %v", code, res.StatusCode, res.Cookies())
		}
		contains(t, body(t, res), words)
		s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) {
			return broker.Finish{}, broker.Errorf(code, "x")
		}
		contains(t, body(t, s.decide("cancel")), words)
	}
}

func TestErrorsOfTheBroker(t *testing.T) {
	for _, tt := range []struct {
		err    error
		status int
		retry  string
	}{
		{broker.Errorf(broker.CodeInvalidRequest, "x"), 400, ""},
		{broker.Errorf(broker.CodeAccessDenied, "x"), 403, ""},
		{broker.Errorf(broker.CodeNotFound, "x"), 404, ""},
		{broker.Errorf(broker.CodeExpired, "x"), 404, ""},
		{&broker.Error{Code: broker.CodeSlowDown, RetryAfter: 1500 * time.Millisecond}, 429, "2"},
		{broker.Errorf(broker.CodeProviderMisconfigured, "x"), 502, ""},
		{&broker.Error{Code: broker.CodeProviderUnavailable, RetryAfter: 30 * time.Second}, 503, "30"},
		{broker.Errorf(broker.CodeTemporarilyUnavailable, "x"), 503, "5"},
		{broker.Errorf(broker.CodeServerError, "x"), 500, ""},
		{broker.Errorf(broker.CodeLongLivedToken, "x"), 500, ""},
		{http.ErrServerClosed, 500, ""},
	} {
		s := newSite(t, public, nil)
		s.service.Open = func(broker.Secret) (broker.ConsentPage, error) { return broker.ConsentPage{}, tt.err }
		res := s.get(linkPath)
		status(t, res, tt.status)
		if got := res.Header.Get("Retry-After"); got != tt.retry {
			t.Errorf("%v: Retry-After %q", tt.err, got)
		}
		page := body(t, res)
		if strings.Contains(page, tt.err.Error()) {
			t.Errorf("%v: the page shows the error", tt.err)
		}
		if has := strings.Contains(page, "req-1"); has != (tt.status != 404) {
			t.Errorf("%v: request id on the page: %t", tt.err, has)
		}
	}
}
