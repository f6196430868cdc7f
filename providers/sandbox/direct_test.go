package sandbox_test

import (
	"crypto/rand"
	"crypto/rsa"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"tokenbroker/providers/sandbox"
)

func TestClientCredentials(t *testing.T) {
	r := newRig(t, func(c *sandbox.Config) { c.Clients[0].ClientCredentials = true })
	ask := func(scope string) answer {
		a, err := r.post("/token", url.Values{"grant_type": {"client_credentials"}, "scope": {scope}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := ask("files.read")
	equal(t, "status", a.status, 200)
	equal(t, "scope", a.text("scope"), "files.read")
	if a.text("refresh_token") != "" || a.text("access_token") == "" {
		t.Error("there should be an access token, and no refresh token (RFC 6749 section 4.4.3)")
	}
	equal(t, "the token serves", r.call("GET", "/files", a.text("access_token"), "").status, 200)
	equal(t, "unknown scope", ask("files.admin").text("error"), "invalid_scope")
	if err := r.server.AddClient(sandbox.Client{ID: "files", Secret: secret}); err != nil {
		t.Fatal(err)
	}
	equal(t, "a client that may not", ask("files.read").text("error"), "unauthorized_client")
}

func TestAssertions(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	another, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *sandbox.Config) {
		c.Clients = append(c.Clients, sandbox.Client{ID: "robot", AuthMethod: "none", AssertionKey: key.Public()},
			sandbox.Client{ID: "delegate", AuthMethod: "none", AssertionKey: key.Public(), Impersonates: true})
	})
	ask := func(with *rsa.PrivateKey, claims map[string]any) answer {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: with}, nil)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{"aud": r.http.URL, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Minute).Unix()}
		for name, value := range claims {
			all[name] = value
		}
		text, err := jwt.Signed(signer).Claims(all).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.post("/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {text}, "scope": {"files.read"}})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	own := ask(key, map[string]any{"iss": "robot", "sub": "robot"})
	equal(t, "status", own.status, 200)
	equal(t, "the token serves", r.call("GET", "/files", own.text("access_token"), "").status, 200)
	bob := ask(key, map[string]any{"iss": "delegate", "sub": "bob@example.com"})
	equal(t, "for bob", bob.status, 200)
	equal(t, "whose token", r.call("GET", "/me", bob.text("access_token"), "").text("email"), "bob@example.com")
	for name, a := range map[string]answer{
		"another key":             ask(another, map[string]any{"iss": "robot", "sub": "robot"}),
		"another audience":        ask(key, map[string]any{"iss": "robot", "sub": "robot", "aud": "https://elsewhere.example"}),
		"expired":                 ask(key, map[string]any{"iss": "robot", "sub": "robot", "exp": time.Now().Add(-time.Minute).Unix()}),
		"not allowed to act":      ask(key, map[string]any{"iss": "robot", "sub": "bob@example.com"}),
		"for nobody of ours":      ask(key, map[string]any{"iss": "delegate", "sub": "eve@evil.example"}),
		"a client without a key":  ask(key, map[string]any{"iss": "public", "sub": "public"}),
		"a client that is no one": ask(key, map[string]any{"iss": "nobody", "sub": "nobody"}),
	} {
		if a.status == 200 || a.text("access_token") != "" {
			t.Errorf("%s: a token was given", name)
		}
	}
}
