package sandbox_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"tokenbroker/providers/sandbox"
)

const (
	callback = "http://127.0.0.1:1/oauth2/callback/files" // nobody listens there: the tests read the Location
	secret   = "s3cr et:+%/=ä"                            // needs form-encoding within Basic (RFC 6749 section 2.3.1)
)

// rig is a sandbox on a real socket and a client of it.
type rig struct {
	t      *testing.T
	server *sandbox.Server
	http   *httptest.Server
	client *http.Client // follows redirects within the sandbox only
	clock  *clock
	oauth  oauth2.Config
}

type clock struct{ offset time.Duration }

func (c *clock) now() time.Time { return time.Now().Add(c.offset) }

func newRig(t *testing.T, change func(*sandbox.Config)) *rig {
	t.Helper()
	r := &rig{t: t, clock: &clock{}}
	r.http = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.server.ServeHTTP(w, req) }))
	cfg := sandbox.Config{
		Issuer: "http://" + r.http.Listener.Addr().String(),
		Clients: []sandbox.Client{
			{ID: "files", Name: "Acme Broker", Secret: secret, RedirectURIs: []string{callback}},
			{ID: "poster", Secret: secret, AuthMethod: "client_secret_post", RedirectURIs: []string{callback}},
			{ID: "public", AuthMethod: "none", RedirectURIs: []string{callback}},
		},
		Now: r.clock.now, Random: rand.Reader, Admin: true, Record: true,
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if r.server, err = sandbox.New(cfg); err != nil {
		t.Fatal(err)
	}
	r.http.Start()
	t.Cleanup(func() {
		_ = r.server.Close()
		r.http.Close()
	})
	r.client = &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(req.URL.String(), cfg.Issuer) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	r.oauth = oauth2.Config{
		ClientID: "files", ClientSecret: secret, RedirectURL: callback,
		Scopes:   []string{"files.read", "files.write", "offline_access"},
		Endpoint: oauth2.Endpoint{AuthURL: cfg.Issuer + "/authorize", TokenURL: cfg.Issuer + "/token", AuthStyle: oauth2.AuthStyleInHeader},
	}
	return r
}

func (r *rig) ctx() context.Context {
	return context.WithValue(r.t.Context(), oauth2.HTTPClient, r.client)
}

// authorize runs the authorization request with extra parameters and returns what came back to the client.
func (r *rig) authorize(verifier string, extra ...string) url.Values {
	r.t.Helper()
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(verifier)}
	for i := 0; i+1 < len(extra); i += 2 {
		options = append(options, oauth2.SetAuthURLParam(extra[i], extra[i+1]))
	}
	return r.follow(r.oauth.AuthCodeURL("the-state", options...))
}

func (r *rig) follow(address string) url.Values {
	r.t.Helper()
	res, err := r.client.Get(address)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.landed(res)
}

// landed reads the authorization response out of the redirect to the client.
func (r *rig) landed(res *http.Response) url.Values {
	r.t.Helper()
	body, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusSeeOther {
		r.t.Fatalf("status %d, want 303 to the client: %s", res.StatusCode, body)
	}
	u, err := res.Location()
	if err != nil || !strings.HasPrefix(u.String(), callback+"?") {
		r.t.Fatalf("location %v, %v; want the callback", u, err)
	}
	return u.Query()
}

// connect runs the whole code flow as a user.
func (r *rig) connect(user string, extra ...string) *oauth2.Token {
	r.t.Helper()
	verifier := oauth2.GenerateVerifier()
	got := r.authorize(verifier, append([]string{"login_hint", user, "auto", "allow"}, extra...)...)
	if got.Get("code") == "" {
		r.t.Fatalf("no code: %v", got)
	}
	token, err := r.oauth.Exchange(r.ctx(), got.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		r.t.Fatal(err)
	}
	return token
}

// answer is what the token endpoint said.
type answer struct {
	status int
	header http.Header
	body   string
	fields map[string]any
}

func (a answer) text(name string) string { s, _ := a.fields[name].(string); return s }

// post sends a form to the sandbox as client "files", once, whatever happens.
func (r *rig) post(path string, form url.Values) (answer, error) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.http.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(url.QueryEscape("files"), url.QueryEscape(secret))
	return r.send(req)
}

func (r *rig) send(req *http.Request) (answer, error) {
	client := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	res, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(body)}
	_ = json.Unmarshal(body, &a.fields)
	return a, nil
}

func (r *rig) refresh(token string, extra ...string) answer {
	r.t.Helper()
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	for i := 0; i+1 < len(extra); i += 2 {
		form.Set(extra[i], extra[i+1])
	}
	a, err := r.post("/token", form)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// call asks the resource server.
func (r *rig) call(method, path, token, body string) answer {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.http.URL+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	a, err := r.send(req)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) inject(list ...sandbox.Fault) {
	r.t.Helper()
	if err := r.server.Inject(list...); err != nil {
		r.t.Fatal(err)
	}
}

// eventually polls a condition, for what another goroutine does.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
