package web_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
)

// withRecheck is a site whose provider is asked anew about the groups of sessions; group is what it says. meanwhile, if it is not nil,
// happens while its answer is looked at, behind the broker's own look at the session.
func withRecheck(t *testing.T, group *string, meanwhile func(asked broker.OperatorAgain)) *site {
	s := withLogin(t, nil)
	asked := map[string]broker.OperatorAgain{}
	s.service.Operators.Recheck = func(next string, again broker.OperatorAgain) (broker.OperatorStart, error) {
		asked["re-"+next] = again
		return broker.OperatorStart{Location: broker.NewSecret("https://sso.example/authorize?prompt=none&state=" + url.QueryEscape("re-"+next)), CookieName: "tb_operator_y", Cookie: broker.NewSecret("browser"), MaxAge: broker.FlowLife}, nil
	}
	signIn := s.service.Operators.Finish
	s.service.Operators.Finish = func(cb broker.LoginCallback) (broker.OperatorSignedIn, error) {
		to, again := strings.CutPrefix(cb.State.Reveal(), "re-")
		if !again {
			return signIn(cb)
		}
		if cb.Cookie("tb_operator_y").Reveal() != "browser" {
			return broker.OperatorSignedIn{}, broker.Errorf(broker.CodeAccessDenied, "another browser")
		}
		asked := asked[cb.State.Reveal()]
		if one, err := s.sessions.OperatorSession(t.Context(), asked.Session); err != nil || one.Turn != asked.Turn {
			return broker.OperatorSignedIn{To: to}, broker.Errorf(broker.CodeLoginFailed, "x").Because(broker.ErrOvertaken)
		}
		if meanwhile != nil {
			meanwhile(asked)
		}
		if *group == "" {
			if err := s.sessions.EndOperatorSession(t.Context(), asked.Session); err != nil {
				t.Error(err)
			}
			return broker.OperatorSignedIn{To: to}, broker.Errorf(broker.CodeLoginFailed, "x").Because(broker.ErrSignInNeeded)
		}
		return broker.OperatorSignedIn{ID: asked.Operator, Name: "Ada", Groups: []string{*group}, To: to, Again: asked}, nil
	}
	return s
}

// goOn follows a page that sends the browser to the provider, and returns where our own page then goes on to.
func (s *site) goOn(res *http.Response) (to string, back *http.Response) {
	s.t.Helper()
	status(s.t, res, http.StatusOK)
	at, err := url.Parse(strings.TrimPrefix(res.Header.Get("Refresh"), "0; url="))
	if err != nil || at.Host != "sso.example" || at.Query().Get("prompt") != "none" {
		s.t.Fatalf("goes on to %q", res.Header.Get("Refresh"))
	}
	back = s.callback(url.Values{"state": {at.Query().Get("state")}, "code": {"c"}})
	return strings.TrimPrefix(back.Header.Get("Refresh"), "0; url="), back
}

// What the provider said of groups holds for an hour, in a session that is used all the while: then the next page asks it anew, another
// session takes the place of that one, and no form is lost without a word.
func TestGroupsAreAskedForAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		group := "operator"
		s := switchable(withRecheck(t, &group, nil))
		began := time.Now().UTC().Format("2006-01-02 15:04")
		s.signInAs("operator", "")
		use := func(long time.Duration) {
			t.Helper()
			for end := time.Now().Add(long); time.Now().Before(end); {
				time.Sleep(10 * time.Minute)
				if time.Now().Before(end) {
					status(t, s.get("/dashboard/session"), http.StatusOK)
				}
			}
		}
		use(50 * time.Minute)
		if res := s.get("/dashboard/accounts?status=active"); res.Header.Get("Refresh") != "" {
			t.Error("asked before the hour is over")
		}
		use(20 * time.Minute)
		old, looks := s.jar[sessionCookie], s.service.Count("Accounts")
		to, back := s.goOn(s.get("/dashboard/accounts?status=active"))
		status(t, back, http.StatusOK)
		if to != "/dashboard/accounts?status=active" || s.jar[sessionCookie] == old || s.service.Count("Accounts") != looks {
			t.Errorf("goes on to %q, the session changed: %v", to, s.jar[sessionCookie] != old)
		}
		contains(t, body(t, s.get("/dashboard/session")), "Your sign-in</h1>", began)
		fresh := s.jar[sessionCookie]
		s.jar[sessionCookie] = old
		status(t, s.get("/dashboard/session"), http.StatusUnauthorized)
		s.jar[sessionCookie] = fresh

		// A form comes back with a word, and does nothing.
		form := url.Values{"reason": {"a leak"}, "form": {s.formToken()}}
		use(70 * time.Minute)
		disable := "/dashboard/switches/disable?kind=client&name=acme-chat&tenant=acme"
		to, _ = s.goOn(s.send(formRequest(disable, form, "same-origin")))
		if s.service.Count("Disable") != 0 || !strings.Contains(to, "notice=not_sent") || !strings.HasPrefix(to, "/dashboard/switches/disable?") {
			t.Errorf("goes on to %q, sent %d times", to, s.service.Count("Disable"))
		}
		contains(t, body(t, s.get(to)), "What you sent was not done", "Disable this client")

		// A page that is open says so, and asks for nothing more.
		use(50 * time.Minute)
		text := body(t, s.stream("/dashboard/live", 30*time.Minute))
		contains(t, text, "event: part", "event: stale")
		status(t, s.get("/dashboard/live"), http.StatusUnauthorized)

		// The group was taken away: the role is gone with the next page.
		group = "viewer"
		s.goOn(s.get("/dashboard/switches"))
		status(t, s.get("/dashboard/switches"), http.StatusForbidden)

		// Who leaves is let go at once; and where the provider would have to ask, one signs in again.
		use(70 * time.Minute)
		form = url.Values{"form": {s.formToken()}}
		group = ""
		_, back = s.goOn(s.get("/dashboard/session"))
		status(t, back, http.StatusUnauthorized)
		contains(t, body(t, back), "Sign in again", `name="next" value="/dashboard/session"`)
		status(t, s.get("/dashboard/session"), http.StatusUnauthorized)
		s.signInAs("operator", "")
		form = url.Values{"form": {s.formToken()}}
		use(70 * time.Minute)
		if res := s.send(formRequest("/dashboard/logout", form, "same-origin")); res.Header.Get("Location") != "/dashboard/login?out=here" {
			t.Errorf("signing out: %d %s", res.StatusCode, res.Header.Get("Location"))
		}

		// Groups say nothing of who has the token.
		s.signIn()
		use(2 * time.Hour)
		contains(t, body(t, s.get("/dashboard/session")), "Your sign-in</h1>")
	})
}
