package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"tokenbroker/broker"
	"tokenbroker/web/webtest"
)

// signInSite is a site whose users sign in at their organisation, on an origin of its own, between the page and the provider; they
// come back with another account than before.
func signInSite(t *testing.T, who string) *site {
	t.Helper()
	s := newSite(t)
	office := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, s.url+"/oauth2/login/acme-chat?code="+who+"&state="+r.URL.Query().Get("state"), http.StatusFound)
	}))
	t.Cleanup(office.Close)
	bound := func(cookie func(string) broker.Secret) bool {
		return cookie(bindingCookie).Equal(broker.NewSecret(bindingValue))
	}
	toProvider := s.service.Start
	s.service.Open = func(broker.Secret) (broker.ConsentPage, error) {
		return webtest.Page(time.Now(), broker.BindingLogin), nil
	}
	s.service.Start = func(link broker.Secret, cookie func(string) broker.Secret) (broker.Start, error) {
		start, err := toProvider(link, cookie)
		start.Location = broker.NewSecret(strings.Replace(office.URL, "127.0.0.1", "localhost", 1) + "/authorize?state=sign-in-state")
		return start, err
	}
	s.service.SignIn = func(_ context.Context, cb broker.LoginCallback) (broker.LoginFinish, error) {
		if !bound(cb.Cookie) || cb.Client != "acme-chat" || cb.State.Reveal() != "sign-in-state" {
			return broker.LoginFinish{}, broker.Errorf(broker.CodeInvalidRequest, "another browser")
		}
		if cb.Code.Reveal() != "ada" {
			return broker.LoginFinish{}, broker.Errorf(broker.CodeSubjectMismatch, "somebody else")
		}
		start, err := toProvider(broker.Secret{}, cb.Cookie)
		return broker.LoginFinish{Location: start.Location}, err
	}
	undecided := webtest.Code()
	undecided.Binding, undecided.UserCode, undecided.Previous = broker.BindingLogin, broker.Secret{}, &broker.Account{ID: "107", Name: "Ada's old one"}
	finish := s.service.Finish
	s.service.Finish = func(ctx context.Context, cb broker.Callback) (broker.Finish, error) {
		_, err := finish(ctx, cb)
		return undecided, err
	}
	s.service.Again = func(_ string, cookie func(string) broker.Secret) (broker.Finish, error) {
		if !bound(cookie) {
			return broker.Finish{}, broker.Errorf(broker.CodeNotFound, "another browser")
		}
		return undecided, nil
	}
	s.service.Decide = func(_ context.Context, _ string, cookie func(string) broker.Secret, _ broker.Decision) (broker.Finish, error) {
		if !bound(cookie) {
			return broker.Finish{}, broker.Errorf(broker.CodeNotFound, "another browser")
		}
		return broker.Finish{ConsentID: "cs_1", Location: broker.NewSecret(s.client + "/chat?consent=cs_1")}, nil
	}
	return s
}

// Binding login as a browser sees it: over the organisation's host and two of the provider's, each a site of its own, to a page that
// asks, and from its form on to the chat; no policy of ours may stop that chain, and no cookie of ours may be missing at its end.
func TestSignInInChromium(t *testing.T) {
	browser := startBrowser(t)
	t.Run("the right person, another account", func(t *testing.T) {
		s := signInSite(t, "ada")
		b := openTab(t, browser)
		b.with(t, phone)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.WaitVisible(chromedp.CSS("button.primary")))
		b.wellMade(t)
		b.do(t, chromedp.Click(chromedp.CSS(`button[value="continue"]`)), chromedp.WaitVisible(chromedp.CSS(`button[value="replace"]`)))
		if got := strings.Join(s.service.Calls(), " "); !strings.Contains(got, "StartConsent FinishLogin FinishConsent FinishedConsent") {
			t.Errorf("asked %s", got)
		}
		if got, want := ask(t, b, chromedp.Location()), s.url+"/consent/cs_1"; got != want {
			t.Errorf("the address at the end is %q, not %q", got, want)
		}
		for _, e := range ask(t, b, chromedp.NavigationEntries()).Entries {
			if strings.Contains(e.URL, "state=") {
				t.Error("the history holds a state")
			}
		}
		b.wellMade(t)
		b.do(t, chromedp.Click(chromedp.CSS(`button[value="replace"]`)), chromedp.WaitVisible(chromedp.CSS("#open")))
		if got, want := ask(t, b, chromedp.Location()), s.client+"/chat?consent=cs_1"; got != want {
			t.Errorf("after the answer the browser is at %q, not %q", got, want)
		}
		if s.service.Count("DecideConsent replace") != 1 {
			t.Errorf("asked %v", s.service.Calls())
		}
		b.quiet(t)
	})
	t.Run("somebody else", func(t *testing.T) {
		s := signInSite(t, "mallory")
		b := openTab(t, browser)
		b.do(t, chromedp.Navigate(s.url+"/connect/"+webtest.Link), chromedp.Click(chromedp.CSS(`button[value="continue"]`)), chromedp.WaitVisible(chromedp.CSS(".mood-bad")))
		if got := ask(t, b, chromedp.Title()); got != "This link is for somebody else" {
			t.Errorf("the page is %q", got)
		}
		if len(s.hops) != 0 || s.service.Count("FinishConsent") != 0 {
			t.Error("somebody else got to the provider")
		}
		b.wellMade(t)
		b.quiet(t)
	})
}
