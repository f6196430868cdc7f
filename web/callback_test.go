package web_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// Threat 1: what is malformed asks nobody.
func TestThreat1MalformedCallbacks(t *testing.T) {
	s := newSite(t, public, nil)
	for _, query := range []string{
		"", "code=x", "code=x&state=", "state=A&state=B&code=x", "state=A&state=A&code=x", "state=A", "state=A&code=", "state=A&error=",
		"state=A&code=x&error=access_denied", "state=A&code=x&error=", "state=A&code=x&code=y", "state=A&error=a&error=b",
		"state=A&code=x&iss=i&iss=j", "state=A&code=%zz", "state=A;code=x", "State=A&code=x", "state=A&code=x&pad=" + strings.Repeat("a", 17<<10),
		"state=A&code=x" + manyParams(60),
	} {
		for _, cookie := range []map[string]string{{}, {"__Host-tb": "v"}} {
			s.jar = cookie
			res := s.get("/oauth2/callback/google-drive?" + query)
			status(t, res, http.StatusBadRequest)
			contains(t, body(t, res), "can&#39;t be continued")
		}
	}
	status(t, s.get("/oauth2/callback/%3Cx%3E?state=A&code=x"), http.StatusBadRequest)
	if calls := s.service.Calls(); len(calls) != 0 {
		t.Errorf("asked %v", calls)
	}
}

func manyParams(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("&p" + strings.Repeat("x", i) + "=1")
	}
	return b.String()
}

func TestCallbackReachesTheBroker(t *testing.T) {
	s := newSite(t, public, nil)
	var got broker.Callback
	s.service.Finish = func(_ context.Context, cb broker.Callback) (broker.Finish, error) {
		got = cb
		return webtest.Code(), nil
	}
	s.jar["__Host-tb_1"] = "binding"
	res := s.get("/oauth2/callback/google-drive?state=the-state&code=the-code&iss=https%3A%2F%2Faccounts.example&realmId=42&scope=a+b")
	status(t, res, http.StatusSeeOther)
	if loc := res.Header.Get("Location"); loc != "/consent/cs_1" { // threat 17: a clean address
		t.Errorf("Location %q", loc)
	}
	if got.Connector != "google-drive" || got.State.Reveal() != "the-state" || got.Code.Reveal() != "the-code" || !got.HasIssuer || got.Issuer != "https://accounts.example" || got.Error != "" {
		t.Errorf("callback %+v", got)
	}
	if got.Params["realmId"] != "42" || got.Params["scope"] != "a b" || got.Params["code"] != "" || got.Params["state"] != "" {
		t.Errorf("params %v", got.Params)
	}
	if got.Cookie("tb_1").Reveal() != "binding" || !got.Cookie("tb_2").IsZero() {
		t.Error("the cookie lookup is wrong")
	}
	for _, secret := range []string{"the-state", "the-code", "binding"} {
		lacks(t, s.log.String(), secret)
	}

	s.service.Finish = func(_ context.Context, cb broker.Callback) (broker.Finish, error) {
		got = cb
		return broker.Finish{ConsentID: "cs_1", Location: broker.NewSecret("https://chat.example/done?consent=cs_1&code=c&state=s")}, nil
	}
	res = s.get("/oauth2/callback/google-drive?state=the-state&error=access_denied&error_description=x")
	status(t, res, http.StatusSeeOther)
	if got.Error != "access_denied" || got.HasIssuer || !got.Code.IsZero() {
		t.Errorf("callback %+v", got)
	}
	if loc := res.Header.Get("Location"); loc != "https://chat.example/done?consent=cs_1&code=c&state=s" {
		t.Errorf("Location %q", loc)
	}
}

// Threat 19: nothing of a provider's error text is shown, logged or handed on.
func TestThreat19ErrorTexts(t *testing.T) {
	s := newSite(t, public, nil)
	var got broker.Callback
	s.service.Finish = func(_ context.Context, cb broker.Callback) (broker.Finish, error) {
		got = cb
		return broker.Finish{}, broker.Errorf(broker.CodeInvalidRequest, "the provider said no")
	}
	res := s.get("/oauth2/callback/google-drive?state=ok&error=%3Cscript%3Ealert(1)%3C/script%3E&error_description=%3Cimg%20src=x%3E-canary")
	status(t, res, http.StatusBadRequest)
	lacks(t, body(t, res), "alert(1)", "canary")
	lacks(t, s.log.String(), "alert(1)", "canary")
	if got.Error != "unrecognized" {
		t.Errorf("error handed on as %q", got.Error)
	}
}

func TestGuessedStatesAreLimited(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Finish = func(context.Context, broker.Callback) (broker.Finish, error) {
		return broker.Finish{}, broker.Errorf(broker.CodeInvalidRequest, "unknown state")
	}
	for range 30 {
		status(t, s.get("/oauth2/callback/google-drive?state=guess&code=c"), http.StatusBadRequest)
	}
	status(t, s.get("/oauth2/callback/google-drive?state=guess&code=c"), http.StatusTooManyRequests)
	r := httptest.NewRequest(http.MethodGet, "/oauth2/callback/no-such-connector?state=guess&code=c", nil)
	r.Header.Set("Test-Address", "192.0.2.2")
	lacks(t, body(t, s.send(r)), "finished already") // nobody knows that of an invented one
}

func TestCallbackOutlivesTheBrowser(t *testing.T) {
	s := newSite(t, public, nil)
	ctx, gone := context.WithCancel(context.Background())
	s.service.Finish = func(ctx context.Context, _ broker.Callback) (broker.Finish, error) {
		gone()
		if ctx.Err() != nil {
			t.Error("a closed tab ends the exchange")
		}
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		return webtest.Code(), nil
	}
	s.send(httptest.NewRequest(http.MethodGet, "/oauth2/callback/google-drive?state=s&code=c", nil).WithContext(ctx))
}

// A HEAD must not use up the state.
func TestCallbackHasNoHead(t *testing.T) {
	s := newSite(t, public, nil)
	for _, method := range []string{http.MethodHead, http.MethodPost, http.MethodOptions} {
		res := s.send(httptest.NewRequest(method, "/oauth2/callback/google-drive?state=s&code=c", nil))
		status(t, res, http.StatusMethodNotAllowed)
		if res.Header.Get("Allow") != "GET" {
			t.Errorf("Allow %q", res.Header.Get("Allow"))
		}
	}
	if len(s.service.Calls()) != 0 {
		t.Error("the broker was asked")
	}
}

// Threat 2: another browser reads neither the callback's end nor the page.
func TestWrongBrowser(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Finish = func(context.Context, broker.Callback) (broker.Finish, error) {
		return broker.Finish{}, broker.Errorf(broker.CodeAccessDenied, "x")
	}
	res := s.get("/oauth2/callback/google-drive?state=s&code=c")
	status(t, res, http.StatusForbidden)
	contains(t, body(t, res), "another browser")
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) {
		return broker.Finish{}, broker.Errorf(broker.CodeAccessDenied, "x")
	}
	res = s.get("/consent/cs_1")
	status(t, res, http.StatusNotFound)
	s.service.Again = nil
	if body(t, res) != body(t, s.get("/consent/cs_2")) {
		t.Error("an unknown consent looks different from another browser's")
	}
}

func TestFinishedPages(t *testing.T) {
	finish := func(status broker.ConsentStatus, code string) broker.Finish {
		f := webtest.Denied()
		f.Status, f.Error = status, code
		return f
	}
	for _, tt := range []struct {
		finish broker.Finish
		want   []string
	}{
		{webtest.Code(), []string{`<output id="code" dir="ltr" aria-labelledby="code-for">WDJB-MJHT</output>`, "Ada Lovelace", "ada@example.com", "close this page: nothing will be connected", `data-status="awaiting_completion"`, " data-waiting>"}},
		{finish(broker.ConsentAwaitingCompletion, ""), []string{"Go back to <bdi>Acme Chat</bdi>"}},
		{finish(broker.ConsentCompleted, ""), []string{"<bdi>Google Drive</bdi> is connected"}},
		{finish(broker.ConsentDenied, ""), []string{"Nothing was connected"}},
		{finish(broker.ConsentExpired, ""), []string{"That took too long"}},
		{finish(broker.ConsentStarted, ""), []string{"Not finished yet"}},
		{finish(broker.ConsentFailed, "provider_unavailable"), []string{"can&#39;t be reached"}},
		{finish(broker.ConsentFailed, "too_many_attempts"), []string{"Too many wrong codes were entered"}},
		{finish(broker.ConsentFailed, "subject_erased"), []string{"was deleted meanwhile"}},
		{finish(broker.ConsentFailed, "issuer_mismatch"), []string{"didn&#39;t come from the service that was asked"}},
		{finish(broker.ConsentFailed, "expired"), []string{"took too long or was cut off"}},
		{finish(broker.ConsentFailed, "<b>of a provider</b>"), []string{"ended with an error"}},
	} {
		s := newSite(t, public, nil)
		s.service.Again = func(id string, _ func(string) broker.Secret) (broker.Finish, error) {
			if id != "cs_1" {
				return broker.Finish{}, errors.New("wrong id")
			}
			return tt.finish, nil
		}
		res := s.get("/consent/cs_1")
		status(t, res, http.StatusOK)
		page := body(t, res)
		contains(t, page, tt.want...)
		contains(t, page, `data-consent="cs_1"`, "/static/consent.js")
		lacks(t, page, "of a provider")
		waits := tt.finish.Status == broker.ConsentAwaitingCompletion || tt.finish.Status == broker.ConsentStarted
		if strings.Contains(page, "data-waiting") != waits || strings.Contains(page, `id="close"`) == waits {
			t.Errorf("%s: looks for news although it is over, or does not although it isn't", tt.finish.Status)
		}
	}
}

// Threat 13: only exact origins from the configuration, nothing from the address, and no code in what is told.
func TestThreat13Origins(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Again = func(string, func(string) broker.Secret) (broker.Finish, error) {
		f := webtest.Code()
		f.Origins = []string{"*", "null", "", "https://ok.example", "https://ok.example/path", "https://*.example", "javascript:x", "http://localhost:3000"}
		return f, nil
	}
	page := body(t, s.get("/consent/cs_1?origin=https://evil.example"))
	contains(t, page, `data-origins="[&#34;https://ok.example&#34;,&#34;http://localhost:3000&#34;]"`)
	lacks(t, page, "evil.example")
	script := body(t, s.get("/static/consent.js?origin=https://evil.example"))
	lacks(t, script, `"*"`, `'*'`, "evil.example")
}

// Threat 68: in a flood, what comes from an address that missed too often is not looked up any more. Others are.
func TestThreat68FloodedCallbacksAreNotLookedUp(t *testing.T) {
	s := newSite(t, public, nil)
	s.service.Finish = func(context.Context, broker.Callback) (broker.Finish, error) {
		return broker.Finish{}, broker.Errorf(broker.CodeInvalidRequest, "there is no such state")
	}
	began := time.Now()
	const flood = 3000
	for range flood {
		s.get("/oauth2/callback/google-drive?state=guess&code=c")
	}
	most := 30 + 1 + 1000 + int(time.Since(began).Seconds()*100+1)
	if looked := s.service.Count("FinishConsent"); looked > most || looked < 1000 {
		t.Errorf("%d of %d guesses were looked up, of %d", looked, flood, most)
	}
	before := s.service.Count("FinishConsent")
	r := httptest.NewRequest(http.MethodGet, public+"/oauth2/callback/google-drive?state=guess&code=c", nil)
	r.Header.Set("Test-Address", "192.0.2.99")
	s.send(r)
	if s.service.Count("FinishConsent") != before+1 {
		t.Error("somebody else's callback is not looked up")
	}
}
