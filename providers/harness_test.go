package providers

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
)

// Canaries: none may ever be in an error.
const (
	canarySecret  = "canary-client-secret"
	canaryRefresh = "canary-refresh-token"
	canaryCode    = "canary-authorization-code"
	canaryText    = "canary-of-the-provider"
)

var start = time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)

// fakeProvider is a server on loopback that counts what reaches each path.
type fakeProvider struct {
	*httptest.Server
	mux  *http.ServeMux
	mu   sync.Mutex
	hits map[string]int
	last map[string]*http.Request // with its form parsed
}

func newFake(t *testing.T) *fakeProvider {
	t.Helper()
	f := &fakeProvider{mux: http.NewServeMux(), hits: map[string]int{}, last: map[string]*http.Request{}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		_ = r.ParseForm()
		f.mu.Lock()
		f.hits[r.URL.Path]++
		f.last[r.URL.Path] = r
		f.mu.Unlock()
		f.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeProvider) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits[path]
}

func (f *fakeProvider) request(path string) *http.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last[path]
}

// answers makes path give this JSON with that status.
func (f *fakeProvider) answers(path string, status int, body string) {
	f.mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// definitions parses providers: text, URL standing for the fake's address.
func definitions(t testing.TB, text string) ([]*Definition, Problems) {
	t.Helper()
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(text), &node); err != nil {
		t.Fatal(err)
	}
	return ParseDefinitions(node.Content[0], "providers")
}

// plain is a provider without surprises, whose endpoints are all stated.
func (f *fakeProvider) plain(more ...string) string {
	return strings.ReplaceAll(`
- id: rig
  authorization_endpoint: URL/auth
  token_endpoint: URL/token
  revocation_endpoint: URL/revoke
  userinfo_endpoint: URL/me
  token_endpoint_auth_method: client_secret_basic
`, "URL", f.URL) + strings.ReplaceAll(strings.Join(more, "\n"), "URL", f.URL)
}

type setup struct {
	yaml      string
	connector ConnectorConfig
	config    Config
	public    bool // no client secret
}

// connect makes a registry with the one connector "files".
func connect(t testing.TB, s setup) *Registry {
	t.Helper()
	defs, problems := definitions(t, s.yaml)
	if err := problems.err(); err != nil {
		t.Fatal(err)
	}
	c := s.connector
	def(&c.ID, "files")
	def(&c.Provider, "rig")
	def(&c.ClientID, "abc")
	if c.ClientSecret.IsZero() && !s.public {
		c.ClientSecret = broker.NewSecret(canarySecret)
	}
	if c.Scopes == nil {
		c.Scopes = []string{"files.read", "files.write"}
	}
	cfg := s.config
	cfg.Custom, cfg.Connectors = defs, []ConnectorConfig{c}
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return start }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func refreshOnce(t *testing.T, r *Registry) (broker.Grant, error) {
	t.Helper()
	return r.Refresh(t.Context(), "files", broker.RefreshRequest{RefreshToken: broker.NewSecret(canaryRefresh)})
}

// class checks the class of an error, and that no canary is in it.
func class(t *testing.T, err error, want broker.Class) *broker.UpstreamError {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want class %s", want)
	}
	for _, canary := range []string{canarySecret, canaryRefresh, canaryCode, canaryText} {
		if strings.Contains(err.Error(), canary) {
			t.Fatalf("%s is in the error: %v", canary, err)
		}
	}
	u, ok := err.(*broker.UpstreamError)
	if !ok {
		t.Fatalf("error is a %T: %v", err, err)
	}
	if u.Class != want {
		t.Fatalf("class is %s, want %s: %v", u.Class, want, err)
	}
	return u
}
