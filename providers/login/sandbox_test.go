package login_test

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
	"tokenbroker/providers/sandbox"
)

const (
	redirect = "http://127.0.0.1:1/oauth2/login/chat" // nobody listens there: the tests read the Location
	secret   = "s3cr et:+%/=ä"                        // needs form-encoding within Basic (RFC 6749 section 2.3.1)
)

// provider is a real authorization server with OpenID Connect, on a socket.
type provider struct {
	*sandbox.Server
	url  string
	hits int // requests for metadata
}

func newProvider(t *testing.T, clients ...sandbox.Client) *provider {
	t.Helper()
	return newProviderWith(t, sandbox.Config{Clients: clients})
}

func newProviderWith(t *testing.T, cfg sandbox.Config) *provider {
	t.Helper()
	p := &provider{}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/.well-known/openid-configuration" {
			p.hits++
		}
		p.ServeHTTP(w, r)
	}))
	p.url = "http://" + front.Listener.Addr().String()
	var err error
	cfg.Issuer, cfg.Now, cfg.Random, cfg.Record, cfg.Auto = p.url, time.Now, rand.Reader, true, &sandbox.Auto{User: "alice", Decision: "allow"}
	if p.Server, err = sandbox.New(cfg); err != nil {
		t.Fatal(err)
	}
	front.Start()
	t.Cleanup(func() { _ = p.Close(); front.Close() })
	return p
}

// signIn follows an authentication request to its redirect.
func signIn(t *testing.T, location broker.Secret) url.Values {
	t.Helper()
	browser := &http.Client{Timeout: 20 * time.Second, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if req.URL.Port() == "1" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	res, err := browser.Get(location.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	back, err := res.Location()
	if err != nil {
		t.Fatalf("status %d: no way back to the client", res.StatusCode)
	}
	return back.Query()
}

func request() broker.LoginRequest {
	return broker.LoginRequest{
		RedirectURI: redirect, State: broker.NewSecret("the-state"), Nonce: broker.NewSecret("the-nonce"),
		Verifier: broker.NewSecret("a-verifier-of-at-least-forty-three-characters"),
	}
}

func response(auth broker.Authorization, code string) broker.LoginResponse {
	r := request()
	return broker.LoginResponse{RedirectURI: redirect, Code: broker.NewSecret(code), Nonce: r.Nonce, Verifier: r.Verifier, Fingerprint: auth.Fingerprint}
}

func newClients(t *testing.T, cfg login.ClientConfig) *login.Clients {
	t.Helper()
	cfg.ID = "chat"
	c, err := login.New(login.Config{Clients: []login.ClientConfig{cfg}, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSignInAtARealProvider(t *testing.T) {
	for _, method := range []string{login.AuthBasic, login.AuthPost, login.AuthNone, ""} {
		t.Run("method "+method, func(t *testing.T) {
			registered := sandbox.Client{ID: "sso client", Secret: secret, AuthMethod: method, RedirectURIs: []string{redirect}}
			cfg := login.ClientConfig{ClientID: "sso client", ClientSecret: broker.NewSecret(secret), AuthMethod: method}
			if method == login.AuthNone {
				registered.Secret, cfg.ClientSecret = "", broker.Secret{}
			}
			p := newProvider(t, registered)
			cfg.Issuer = p.url
			c := newClients(t, cfg)
			auth, err := c.AuthorizationURL(t.Context(), "chat", request())
			if err != nil {
				t.Fatal(err)
			}
			if auth.Issuer != p.url || !auth.IssuerRequired {
				t.Errorf("the callback's iss is not demanded: %q, %v", auth.Issuer, auth.IssuerRequired)
			}
			back := signIn(t, auth.URL)
			if back.Get("state") != "the-state" || back.Get("iss") != p.url {
				t.Fatalf("came back with %v", back)
			}
			who, err := c.Redeem(t.Context(), "chat", response(auth, back.Get("code")))
			if err != nil || who.Issuer != p.url || who.Subject != "acct-alice-1001" {
				t.Fatalf("%+v, %v", who, err)
			}
			if _, err := c.Redeem(t.Context(), "chat", response(auth, back.Get("code"))); broker.ClassOf(err) != broker.ClassGrantDead {
				t.Errorf("the code again: %v", err)
			}
			if p.hits != 1 {
				t.Errorf("metadata was asked for %d times", p.hits)
			}
		})
	}
}

func TestOtherClaimOfARealProvider(t *testing.T) {
	p := newProvider(t, sandbox.Client{ID: "sso", Secret: secret, RedirectURIs: []string{redirect}})
	c := newClients(t, login.ClientConfig{Issuer: p.url, ClientID: "sso", ClientSecret: broker.NewSecret(secret), Scopes: []string{"openid", "email"}, SubjectClaim: "email"})
	auth, err := c.AuthorizationURL(t.Context(), "chat", request())
	if err != nil {
		t.Fatal(err)
	}
	claims, err := c.Claims(t.Context(), "chat", response(auth, signIn(t, auth.URL).Get("code")))
	if err != nil || claims.Text("email") != "alice@example.com" || claims.Subject != "acct-alice-1001" {
		t.Fatalf("%+v, %v", claims, err)
	}
	if auth, err = c.AuthorizationURL(t.Context(), "chat", request()); err != nil {
		t.Fatal(err)
	}
	if who, err := c.Redeem(t.Context(), "chat", response(auth, signIn(t, auth.URL).Get("code"))); err != nil || who.Subject != "alice@example.com" {
		t.Errorf("%+v, %v", who, err)
	}
}

// The provider holds the code to the verifier and the client to its secret; and the nonce is ours to check.
func TestARealProviderRefuses(t *testing.T) {
	p := newProvider(t, sandbox.Client{ID: "sso", Secret: secret, RedirectURIs: []string{redirect}})
	c := newClients(t, login.ClientConfig{Issuer: p.url, ClientID: "sso", ClientSecret: broker.NewSecret(secret)})
	stranger := newClients(t, login.ClientConfig{Issuer: p.url, ClientID: "sso", ClientSecret: broker.NewSecret("wrong")})
	code := func() (broker.Authorization, string) {
		auth, err := c.AuthorizationURL(t.Context(), "chat", request())
		if err != nil {
			t.Fatal(err)
		}
		return auth, signIn(t, auth.URL).Get("code")
	}
	auth, one := code()
	other := response(auth, one)
	other.Verifier = broker.NewSecret("another-verifier-of-at-least-forty-three-chars")
	if _, err := c.Redeem(t.Context(), "chat", other); broker.ClassOf(err) != broker.ClassGrantDead {
		t.Errorf("another verifier: %v", err)
	}
	auth, one = code()
	other = response(auth, one)
	other.Nonce = broker.NewSecret("another")
	if _, err := c.Redeem(t.Context(), "chat", other); !errors.Is(err, broker.ErrLoginRefused) {
		t.Errorf("another nonce: %v", err)
	}
	auth, one = code()
	other = response(auth, one)
	other.Fingerprint = "another"
	if _, err := c.Redeem(t.Context(), "chat", other); broker.ClassOf(err) != broker.ClassGrantDead {
		t.Errorf("another client than it began with: %v", err)
	}
	auth, one = code()
	if _, err := stranger.Redeem(t.Context(), "chat", response(auth, one)); broker.ClassOf(err) != broker.ClassClientRefused {
		t.Errorf("a wrong secret: %v", err)
	}
	if _, err := c.AuthorizationURL(t.Context(), "nobody", request()); broker.ClassOf(err) != broker.ClassClientRefused {
		t.Errorf("a client without login: %v", err)
	}
	fresh := request()
	fresh.Fresh = true
	again, err := c.AuthorizationURL(t.Context(), "chat", fresh)
	if u, _ := url.Parse(again.URL.Reveal()); err != nil || u.Query().Get("prompt") != "login" {
		t.Errorf("a fresh sign-in is not asked for: %v", err)
	}
}

func TestConfig(t *testing.T) {
	good := login.ClientConfig{ID: "chat", Issuer: "https://sso.example", ClientID: "abc"}
	for name, spoil := range map[string]func(*login.ClientConfig){
		"":                 func(*login.ClientConfig) {},
		"no issuer":        func(c *login.ClientConfig) { c.Issuer = "" },
		"http":             func(c *login.ClientConfig) { c.Issuer = "http://sso.example" },
		"a query":          func(c *login.ClientConfig) { c.Issuer = "https://sso.example?tenant=x" },
		"no client_id":     func(c *login.ClientConfig) { c.ClientID = "" },
		"no openid":        func(c *login.ClientConfig) { c.Scopes = []string{"email"} },
		"unknown method":   func(c *login.ClientConfig) { c.AuthMethod = "private_key_jwt" },
		"secret for none":  func(c *login.ClientConfig) { c.AuthMethod, c.ClientSecret = login.AuthNone, broker.NewSecret("x") },
		"basic, no secret": func(c *login.ClientConfig) { c.AuthMethod = login.AuthBasic },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := login.New(login.Config{Clients: []login.ClientConfig{cfg}, Now: time.Now}); (err == nil) != (name == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := login.New(login.Config{Clients: []login.ClientConfig{good, good}, Now: time.Now}); err == nil {
		t.Error("two of one name")
	}
}
