package web_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// Who signs out is signed out at the provider too, where that can be done; what is over here is so whatever becomes of that, and the
// page says what is true.
func TestSignOutAtProvider(t *testing.T) {
	s := withLogin(t, nil)
	finish := s.service.Operators.Finish
	idToken := "canary.id.token"
	s.service.Operators.Finish = func(cb broker.LoginCallback) (broker.OperatorSignedIn, error) {
		who, err := finish(cb)
		who.IDToken = broker.NewSecret(idToken)
		return who, err
	}
	var told []string
	start, fails := broker.OperatorStart{}, error(nil)
	s.service.Operators.Leave = func(token broker.Secret) (broker.OperatorStart, error) {
		told = append(told, token.Reveal())
		return start, fails
	}
	can := broker.OperatorStart{Location: broker.NewSecret("https://sso.example/end?state=st-1"), CookieName: broker.OperatorSignOutCookie, Cookie: broker.NewSecret("st-1"), MaxAge: broker.FlowLife}
	leave := func(path string, form url.Values) (*http.Response, string) {
		t.Helper()
		s.signInAs("admin", "")
		old := s.jar[sessionCookie]
		res := s.post(path, form)
		kept := s.jar[sessionCookie]
		s.jar[sessionCookie] = old
		if strings.Contains(body(t, s.get("/dashboard/session")), "Your sign-in</h1>") {
			t.Error("the session goes on")
		}
		s.jar[sessionCookie] = kept
		return res, res.Header.Get("Location")
	}
	// The provider can't, does not answer, would lead elsewhere, or shall not.
	for name, now := range map[string]func(){
		"can't": func() { start, fails = broker.OperatorStart{}, nil }, "away": func() { start, fails = broker.OperatorStart{}, errors.New("away") },
		"elsewhere": func() { start, fails = can, nil; start.Location = broker.NewSecret("javascript:alert(1)") },
	} {
		now()
		if res, to := leave("/dashboard/logout", nil); res.StatusCode != http.StatusSeeOther || to != "/dashboard/login?out=here" {
			t.Errorf("%s: %d %s", name, res.StatusCode, to)
		}
	}
	contains(t, body(t, s.get("/dashboard/login?out=here")), "At your organisation you may still be signed in")
	start, fails, told = can, nil, nil
	if _, to := leave("/dashboard/logout", url.Values{"here": {"1"}}); to != "/dashboard/login?out=here" || len(told) != 0 {
		t.Errorf("here alone: %s, told %q", to, told)
	}

	for _, path := range []string{"/dashboard/session/end", "/dashboard/logout"} {
		res, _ := leave(path, nil)
		status(t, res, http.StatusOK)
		if to := res.Header.Get("Refresh"); to != "0; url=https://sso.example/end?state=st-1" {
			t.Errorf("%s goes on to %q", path, to)
		}
		contains(t, body(t, res), "signed out here", `href="https://sso.example/end?state=st-1"`)
	}
	if strings.Join(told, " ") != "canary.id.token canary.id.token" {
		t.Errorf("told %q", told)
	}
	back := func(query string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, "/dashboard/login/out"+query, nil)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		return s.send(r)
	}
	// Only what this browser began is believed, and once.
	for _, query := range []string{"", "?state=", "?state=st-2", "?state=st-1&state=st-1"} {
		if to := back(query).Header.Get("Refresh"); to != "0; url=/dashboard/login" {
			t.Errorf("%s: goes on to %q", query, to)
		}
	}
	for i, want := range []string{"0; url=/dashboard/login?out=there", "0; url=/dashboard/login"} {
		if to := back("?state=st-1").Header.Get("Refresh"); to != want {
			t.Errorf("time %d: goes on to %q", i, to)
		}
	}
	contains(t, body(t, s.get("/dashboard/login?out=there")), "at your organisation too")

	// One that is too long for a session is not kept; and who has the token has nothing to end there.
	idToken, told = strings.Repeat("x", 5000), nil
	leave("/dashboard/logout", nil)
	if len(told) != 1 || told[0] != "" {
		t.Errorf("a long one: told %d", len(told))
	}
	s.signIn()
	told = nil
	if res := s.post("/dashboard/logout", nil); res.Header.Get("Location") != "/dashboard/login?out=here" || len(told) != 0 {
		t.Errorf("with the token: %s, told %q", res.Header.Get("Location"), told)
	}
	lacks(t, s.log.String(), "canary")

	token := newSite(t, public, nil)
	status(t, token.get("/dashboard/login/out?state=x"), http.StatusNotFound)
}
