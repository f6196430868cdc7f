package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

const (
	operatorToken = "a login token for the tests"
	bindingCookie = "tb_consent_cs_1"
	bindingValue  = "browser-binding-value"
)

// site is the pages on a real listener, beside a provider and a page of a chat client on other origins.
type site struct {
	url     string // of the pages
	client  string // origin of the chat's page
	service *webtest.Service
	done    atomic.Bool // the code was accepted in the chat
	pages   *web.Web

	mu    sync.Mutex
	posts []http.Header // of the forms that reached the pages
	hops  []string      // paths asked at the provider
}

func newSite(t *testing.T, change ...func(*web.Config)) *site {
	t.Helper()
	s := &site{service: &webtest.Service{}}
	e := echo.New()
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if method := r.URL.Query().Get("as-method"); method != "" {
			r.Method = method // so that what no address bar can send has an address
		}
		if r.Method == http.MethodPost {
			s.mu.Lock()
			s.posts = append(s.posts, r.Header.Clone())
			s.mu.Unlock()
		}
		e.ServeHTTP(rw, r)
	}))
	t.Cleanup(front.Close)
	s.url = front.URL

	// The provider sends the browser over a second host before it comes back: localhost is another site than 127.0.0.1.
	var provider *httptest.Server
	provider = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.hops = append(s.hops, r.URL.Path)
		s.mu.Unlock()
		switch r.URL.Path {
		case "/auth":
			http.Redirect(rw, r, strings.Replace(provider.URL, "127.0.0.1", "localhost", 1)+"/login?"+r.URL.RawQuery, http.StatusFound)
		case "/login":
			http.Redirect(rw, r, s.url+"/oauth2/callback/google-drive?code=the-code&state="+r.URL.Query().Get("state"), http.StatusFound)
		}
	}))
	t.Cleanup(provider.Close)

	chat := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "text/html; charset=utf-8")
		switch r.URL.Path {
		case "/chat":
			fmt.Fprintf(rw, `<!doctype html><title>chat</title><button id="open">Connect</button><script>
				window.heard = [];
				addEventListener("message", (e) => heard.push({origin: e.origin, data: e.data}));
				document.getElementById("open").onclick = () => window.opened = window.open(%q, "consent");</script>`, s.url+"/connect/"+webtest.Link)
		case "/evil-portal":
			fmt.Fprintf(rw, `<!doctype html><title>evil</title><form method="post" action="%s/portal/session/pv_1"><input name="nonce" value="guess"><input name="action" value="disconnect"><input name="connection" value="cn_1"><button id="go">Win a prize</button></form>`, s.url)
		case "/evil":
			fmt.Fprintf(rw, `<!doctype html><title>evil</title><form method="post" action="%s/connect/%s"><input name="nonce" value="guess"><button id="go">Win a prize</button></form>`, s.url, webtest.Link)
		}
	}))
	t.Cleanup(chat.Close)
	s.client = strings.Replace(chat.URL, "127.0.0.1", "localhost", 1)

	bound := func(cookie func(string) broker.Secret) bool {
		return cookie(bindingCookie).Equal(broker.NewSecret(bindingValue))
	}
	refused := broker.Errorf(broker.CodeAccessDenied, "another browser")
	s.service.Open = func(link broker.Secret) (broker.ConsentPage, error) {
		if link.Reveal() != webtest.Link {
			return broker.ConsentPage{}, broker.Errorf(broker.CodeNotFound, "no such link")
		}
		return webtest.Page(time.Now(), broker.BindingCode), nil
	}
	s.service.Start = func(broker.Secret, func(string) broker.Secret) (broker.Start, error) {
		return broker.Start{
			ConsentID: "cs_1", Location: broker.NewSecret(provider.URL + "/auth?state=the-state"),
			CookieName: bindingCookie, Cookie: broker.NewSecret(bindingValue), MaxAge: 10 * time.Minute,
		}, nil
	}
	s.service.Cancel = func(broker.Secret, func(string) broker.Secret) (broker.Finish, error) { return webtest.Denied(), nil }
	s.service.Finish = func(_ context.Context, cb broker.Callback) (broker.Finish, error) {
		if !bound(cb.Cookie) || cb.State.Reveal() != "the-state" || cb.Code.Reveal() != "the-code" {
			return broker.Finish{}, refused
		}
		return webtest.Code(), nil
	}
	s.service.Again = func(_ string, cookie func(string) broker.Secret) (broker.Finish, error) {
		if !bound(cookie) {
			return broker.Finish{}, refused
		}
		f := webtest.Code()
		if s.done.Load() {
			f.Status, f.UserCode = broker.ConsentCompleted, broker.Secret{}
		}
		f.Origins = []string{"https://elsewhere.example", s.client}
		return f, nil
	}
	accountsOf(s)
	digest := sha256.Sum256([]byte(operatorToken))
	cfg := web.Config{
		Service: s.service, Sessions: &webtest.Sessions{}, PublicURL: s.url, DashboardTokenSHA256: hex.EncodeToString(digest[:]),
		Themes: themes(t), Tenants: []string{"acme", "globex"}, Clients: []broker.Client{{ID: "acme-chat", Tenant: "acme"}}, ClientIP: func(*http.Request) string { return "192.0.2.1" },
		RequestID: func(*http.Request) string { return "req-7f3a" },
		Now:       time.Now, Random: rand.Reader, Log: slog.New(slog.NewJSONHandler(io.Discard, nil)),
		MissBurst: 1 << 20, // the gallery shows again and again what is not there
	}
	for _, f := range change {
		f(&cfg)
	}
	w, err := web.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.pages = w
	w.Register(e)
	return s
}

// themes are a client with a logo as large as it may be, and one whose colour can't be read on white.
func themes(t *testing.T) map[string]web.Theme {
	t.Helper()
	const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><rect width="48" height="48" rx="12" fill="#7a3cc9"/><path d="M12 34L24 12l12 22H12Z" fill="#fff"/></svg>`
	logo, err := web.ParseLogo([]byte(drawing + strings.Repeat("\n", web.MaxLogo-len(drawing))))
	if err != nil {
		t.Fatal(err)
	}
	violet, err := web.ParseAccent("#7a3cc9")
	if err != nil {
		t.Fatal(err)
	}
	yellow, err := web.ParseAccent("#ffd400")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]web.Theme{"acme-chat": {Accent: violet, Logo: logo}, "light-chat": {Accent: yellow}}
}

func (s *site) lastPost() http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.posts) == 0 {
		return nil
	}
	return s.posts[len(s.posts)-1]
}
