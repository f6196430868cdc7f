package web_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

func TestSignInCallbackReachesTheBroker(t *testing.T) {
	s := newSite(t, public, nil)
	var got broker.LoginCallback
	finish := broker.LoginFinish{Location: broker.NewSecret("https://provider.example/authorize?state=x")}
	s.service.SignIn = func(_ context.Context, cb broker.LoginCallback) (broker.LoginFinish, error) {
		got = cb
		return finish, nil
	}
	s.jar["__Host-tb-1"] = "binding"
	res := s.get("/oauth2/login/acme.chat?state=the-state&code=the-code&iss=https%3A%2F%2Fsso.example")
	status(t, res, http.StatusSeeOther)
	if loc := res.Header.Get("Location"); loc != "https://provider.example/authorize?state=x" {
		t.Errorf("Location %q", loc)
	}
	if got.Client != "acme.chat" || got.State.Reveal() != "the-state" || got.Code.Reveal() != "the-code" || !got.HasIssuer || got.Issuer != "https://sso.example" || got.Error != "" || got.Cookie("tb-1").Reveal() != "binding" {
		t.Errorf("callback %+v", got)
	}
	for _, secret := range []string{"the-state", "the-code", "binding"} {
		lacks(t, s.log.String(), secret)
	}
	status(t, s.get("/oauth2/login/acme.chat?state=the-state&error=%3Cb%3E"), http.StatusSeeOther)
	if got.Error != "unrecognized" || !got.Code.IsZero() || got.HasIssuer {
		t.Errorf("callback %+v", got)
	}
	finish = broker.LoginFinish{Path: "/portal"}
	if loc := s.get("/oauth2/login/acme.chat?state=s&code=c").Header.Get("Location"); loc != "/portal" {
		t.Errorf("Location %q", loc)
	}
	finish = broker.LoginFinish{Location: broker.NewSecret("javascript:alert(1)")}
	status(t, s.get("/oauth2/login/acme.chat?state=s&code=c"), http.StatusBadGateway)
}

// A closed tab ends neither a sign-in nor what the user has said: the state, the code or the answer is used by then.
func TestSignInOutlivesTheBrowser(t *testing.T) {
	s := newSite(t, public, nil)
	var gone context.CancelFunc
	closes := func(what string, ctx context.Context) {
		gone()
		if ctx.Err() != nil {
			t.Errorf("a closed tab ends %s", what)
		}
		if _, ok := ctx.Deadline(); !ok {
			t.Errorf("%s has no deadline", what)
		}
	}
	s.service.SignIn = func(ctx context.Context, _ broker.LoginCallback) (broker.LoginFinish, error) {
		closes("the sign-in", ctx)
		return broker.LoginFinish{Path: "/portal"}, nil
	}
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) { return another(), nil }
	s.service.Decide = func(ctx context.Context, _ string, _ func(string) broker.Secret, d broker.Decision) (broker.Finish, error) {
		closes("the decision", ctx)
		return broker.Finish{ConsentID: "cs_1", Status: broker.ConsentCompleted}, nil
	}
	nonce := nonceField.FindStringSubmatch(body(t, s.get("/consent/cs_1")))[1]
	for _, r := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "/oauth2/login/chat?state=s&code=c", nil),
		formRequest("/consent/cs_1", url.Values{"nonce": {nonce}, "action": {"replace"}}, "same-origin"),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		gone = cancel
		status(t, s.send(r.WithContext(ctx)), http.StatusSeeOther)
		cancel()
	}
}

// Threat 1, at the second redirect URI: what is malformed asks nobody, and only a GET is a callback.
func TestThreat1MalformedSignIns(t *testing.T) {
	s := newSite(t, public, nil)
	for _, query := range []string{"", "code=x", "state=A", "state=&code=x", "state=A&state=B&code=x", "state=A&code=x&code=y", "state=A&code=x&error=y", "state=A&code=x&iss=i&iss=j"} {
		status(t, s.get("/oauth2/login/chat?"+query), http.StatusBadRequest)
	}
	status(t, s.get("/oauth2/login/%3Cx%3E?state=A&code=x"), http.StatusBadRequest)
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodOptions} {
		status(t, s.send(httptest.NewRequest(method, "/oauth2/login/chat?state=s&code=c", nil)), http.StatusMethodNotAllowed)
	}
	if calls := s.service.Calls(); len(calls) != 0 {
		t.Errorf("asked %v", calls)
	}
}

func TestSignInThatFails(t *testing.T) {
	const organisation, service = "Your organisation&#39;s sign-in", "The service that you want to connect"
	theirs := func(code broker.Code) error { return &broker.Error{Code: code, Description: "canary", AtLogin: true} }
	for _, try := range []struct {
		err    error
		visit  bool
		status int
		words  string
		not    string
	}{
		{broker.Errorf(broker.CodeSubjectMismatch, "canary"), false, http.StatusForbidden, "asked for this in the chat. Nothing was connected", "shown"},
		{broker.Errorf(broker.CodeSubjectMismatch, "canary"), true, http.StatusForbidden, "asked for this page in the chat. Nothing is shown here", "connected"},
		{broker.Errorf(broker.CodeLoginFailed, "canary"), false, http.StatusBadRequest, "who you are. Nothing was connected", "shown"},
		{broker.Errorf(broker.CodeLoginFailed, "canary"), true, http.StatusBadRequest, "who you are. Nothing is shown here", "connected"},
		{broker.Errorf(broker.CodeAccessDenied, "canary"), false, http.StatusForbidden, "began in another browser", "shown"},
		{broker.Errorf(broker.CodeAccessDenied, "canary"), true, http.StatusForbidden, "opened in another browser", "connected"},
		{broker.Errorf(broker.CodeInvalidRequest, "canary"), false, http.StatusBadRequest, "can&#39;t be continued", service},
		{broker.Errorf(broker.CodeInvalidRequest, "canary"), true, http.StatusBadRequest, "can&#39;t be continued", service},
		{theirs(broker.CodeProviderUnavailable), false, http.StatusServiceUnavailable, organisation + " can&#39;t be reached", service},
		{theirs(broker.CodeProviderUnavailable), true, http.StatusServiceUnavailable, organisation + " can&#39;t be reached", "onnect"},
		{theirs(broker.CodeProviderMisconfigured), false, http.StatusBadGateway, organisation + " refuses us", service},
		{theirs(broker.CodeProviderMisconfigured), true, http.StatusBadGateway, organisation + " refuses us", "onnect"},
		{broker.Errorf(broker.CodeProviderUnavailable, "canary"), false, http.StatusServiceUnavailable, service, organisation}, // asked behind the sign-in
		{broker.Errorf(broker.CodeProviderMisconfigured, "canary"), false, http.StatusBadGateway, service, organisation},
	} {
		s := newSite(t, public, nil)
		s.service.SignIn = func(context.Context, broker.LoginCallback) (broker.LoginFinish, error) {
			return broker.LoginFinish{Visit: try.visit}, try.err
		}
		res := s.get("/oauth2/login/chat?state=s&code=c")
		status(t, res, try.status)
		page := body(t, res)
		contains(t, page, try.words)
		lacks(t, page, "canary", "?lang=", try.not) // what is at the end of a redirect is there once
	}
}

// The tenant's own provider may fail before the browser is sent there.
func TestSignInThatCannotBegin(t *testing.T) {
	fault := &broker.Error{Code: broker.CodeProviderUnavailable, AtLogin: true}
	consents, visits := newSite(t, public, nil), newPortal(t)
	consents.service.Start = func(broker.Secret, func(string) broker.Secret) (broker.Start, error) { return broker.Start{}, fault }
	visits.service.Visits.Start = func(broker.Secret, func(string) broker.Secret) (broker.PortalStart, error) {
		return broker.PortalStart{}, fault
	}
	for path, s := range map[string]*site{linkPath: consents, portalPath: visits} {
		nonce := nonceField.FindStringSubmatch(body(t, s.get(path)))[1]
		for code, words := range map[broker.Code]string{
			broker.CodeProviderUnavailable: "Your organisation&#39;s sign-in can&#39;t be reached", broker.CodeProviderMisconfigured: "Your organisation&#39;s sign-in refuses us",
		} {
			fault.Code = code
			page := body(t, s.post(path, url.Values{"nonce": {nonce}, "action": {"continue"}}))
			contains(t, page, words)
			lacks(t, page, "service that you want to connect")
		}
	}
}

// Guesses at the second redirect URI count as those at the first do.
func TestGuessedSignInsAreLimited(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.SignIn = func(context.Context, broker.LoginCallback) (broker.LoginFinish, error) {
		return broker.LoginFinish{}, broker.Errorf(broker.CodeInvalidRequest, "unknown state")
	}
	for range 30 {
		status(t, s.get("/oauth2/login/chat?state=guess&code=c"), http.StatusBadRequest)
	}
	status(t, s.get("/oauth2/login/chat?state=guess&code=c"), http.StatusTooManyRequests)
}

func TestConsentPageTellsOfTheSignIn(t *testing.T) {
	s := newSite(t, public, nil)
	for _, binding := range []broker.Binding{broker.BindingLogin, broker.BindingCode, broker.BindingReturn} {
		s.service.Open = func(broker.Secret) (broker.ConsentPage, error) { return webtest.Page(time.Now(), binding), nil }
		page := body(t, s.get(linkPath))
		for _, words := range []string{"You sign in at your own organisation", "Continue to sign in"} {
			if strings.Contains(page, words) != (binding == broker.BindingLogin) {
				t.Errorf("binding %s, %q: %v", binding, words, !strings.Contains(page, words))
			}
		}
		if binding == broker.BindingLogin {
			contains(t, page, "You come back to")
			lacks(t, page, "short code")
		}
	}
}

// another is a consent that came back with another account than the connection's.
func another() broker.Finish {
	f := webtest.Code()
	f.Binding, f.UserCode = broker.BindingLogin, broker.Secret{}
	f.Previous = &broker.Account{ID: "107", Name: "Ada's old one"}
	return f
}

// Threat 4: the page asks, with both accounts on it, and what the user says counts only from there.
func TestThreat4PageAsksAboutAnotherAccount(t *testing.T) {
	s := newSite(t, public, nil)
	f := another()
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) { return f, nil }
	var got []broker.Decision
	s.service.Decide = func(_ context.Context, id string, cookie func(string) broker.Secret, d broker.Decision) (broker.Finish, error) {
		if id != "cs_1" || cookie("tb-cs_1").Reveal() != "binding" {
			t.Errorf("decided %s without its cookie", id)
		}
		got = append(got, d)
		return broker.Finish{ConsentID: "cs_1", Status: broker.ConsentCompleted}, nil
	}
	s.jar["__Host-tb-cs_1"] = "binding"
	res := s.get("/consent/cs_1")
	contains(t, res.Header.Get("Content-Security-Policy"), "form-action 'self' https: http://127.0.0.1:* http://localhost:*", "connect-src 'self'")
	page := body(t, res)
	contains(t, page, "another account than before", "Ada&#39;s old one", "Ada Lovelace", ">Replace<", ">Keep the old one<", `value="replace"`, `value="keep"`)
	lacks(t, page, `value="retry"`)
	m := nonceField.FindStringSubmatch(page)
	if m == nil {
		t.Fatal("the form has no nonce")
	}
	press := func(nonce, action, fetchSite string) *http.Response {
		return s.send(formRequest("/consent/cs_1", url.Values{"nonce": {nonce}, "action": {action}}, fetchSite))
	}
	for name, res := range map[string]*http.Response{
		"another site": press(m[1], "replace", "cross-site"), "a neighbour": press(m[1], "replace", "same-site"), "no nonce": press("", "replace", "same-origin"), "another nonce": press(s.nonce(), "replace", "same-origin"),
	} {
		status(t, res, http.StatusForbidden)
		contains(t, body(t, res), `href="/consent/cs_1"`)
		if len(got) > 0 {
			t.Fatalf("%s decided", name)
		}
	}
	status(t, press(m[1], "", "same-origin"), http.StatusBadRequest)
	status(t, press(m[1], "approve", "same-origin"), http.StatusBadRequest)
	status(t, s.post("/consent/cs_2", url.Values{"nonce": {m[1]}, "action": {"replace"}}), http.StatusForbidden)
	status(t, s.post("/consent/%3Cx%3E", url.Values{"nonce": {m[1]}, "action": {"replace"}}), http.StatusNotFound)
	jar := s.jar
	s.jar = map[string]string{"__Host-tb-cs_1": "binding"}
	status(t, press(m[1], "replace", "same-origin"), http.StatusForbidden) // without the cookie of the nonce
	s.jar = jar
	if len(got) > 0 {
		t.Fatalf("decided %v", got)
	}
	for _, action := range []string{"replace", "keep", "retry"} {
		res := press(m[1], action, "same-origin")
		status(t, res, http.StatusSeeOther)
		if loc := res.Header.Get("Location"); loc != "/consent/cs_1" {
			t.Errorf("%s goes to %q", action, loc)
		}
	}
	if want := []broker.Decision{broker.DecideReplace, broker.DecideKeep, broker.DecideRetry}; len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("decided %v", got)
	}
	s.service.Decide = func(context.Context, string, func(string) broker.Secret, broker.Decision) (broker.Finish, error) {
		return broker.Finish{ConsentID: "cs_1", Location: broker.NewSecret("https://chat.example/done?consent=cs_1")}, nil
	}
	if loc := press(m[1], "replace", "same-origin").Header.Get("Location"); loc != "https://chat.example/done?consent=cs_1" {
		t.Errorf("goes to %q", loc)
	}
}

// Threat 4: two accounts whose owners chose the same name and address are not shown as one.
func TestThreat4AccountsThatLookAlike(t *testing.T) {
	s := newSite(t, public, nil)
	f := another()
	f.Account = &broker.Account{ID: "u-new", Name: "Ada", Email: "ada@example.com"}
	f.Previous = &broker.Account{ID: "u-old", Name: "Ada", Email: "ada@example.com"}
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) { return f, nil }
	contains(t, body(t, s.get("/consent/cs_1")), "ada@example.com u-old", "ada@example.com u-new")
	f.Binding, f.UserCode = broker.BindingCode, webtest.Code().UserCode
	page := body(t, s.get("/consent/cs_1"))
	contains(t, page, "a…@example.com", "ada@example.com")
	lacks(t, page, "u-old")
	f.Previous = &broker.Account{ID: "u-old", Name: "Grace Hopper", Email: "grace@old.example"}
	page = body(t, s.get("/consent/cs_1"))
	contains(t, page, "g…@old.example", "ada@example.com")
	lacks(t, page, "grace", "Grace", "u-old") // whoever sits there has proved nothing yet
	f.Binding, f.UserCode = broker.BindingLogin, broker.Secret{}
	f.Account, f.Previous = nil, &broker.Account{ID: "u-old", Name: "Ada", Email: "ada@old.example"}
	contains(t, body(t, s.get("/consent/cs_1")), "<bdi>Ada</bdi>")
}

func TestPagesThatAskOtherThings(t *testing.T) {
	s := newSite(t, public, nil)
	f := another()
	f.Previous = nil
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) { return f, nil }
	page := body(t, s.get("/consent/cs_1"))
	contains(t, page, "could not be connected just now", `value="retry"`)
	lacks(t, page, `value="replace"`, `value="keep"`)
	// With a code the chat asks, and the page warns.
	f = webtest.Code()
	f.Binding, f.Previous = broker.BindingCode, &broker.Account{ID: "107", Name: "Ada's old one"}
	res := s.get("/consent/cs_1")
	if p := res.Header.Get("Content-Security-Policy"); !strings.HasSuffix(p, "form-action 'self'") {
		t.Errorf("policy %q", p)
	}
	page = body(t, res)
	contains(t, page, "another account than before", "A… o… o…", "WDJB-MJHT")
	lacks(t, page, "<form method", `name="nonce"`)
	f = webtest.Code()
	f.Binding = broker.BindingCode
	lacks(t, body(t, s.get("/consent/cs_1")), "another account")
}
