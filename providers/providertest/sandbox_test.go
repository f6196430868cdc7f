package providertest_test

import (
	"crypto/rand"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/providertest"
	"tokenbroker/providers/sandbox"
)

// The client against a real authorization server with strict rotation, told nothing but its issuer and scopes.
func TestAgainstTheSandbox(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const callback = "http://127.0.0.1/oauth2/callback/files"
	issuer := "http://" + listener.Addr().String()
	box, err := sandbox.New(sandbox.Config{
		Issuer: issuer, Now: time.Now, Random: rand.Reader, Auto: &sandbox.Auto{User: "alice", Decision: "allow"},
		Clients: []sandbox.Client{{ID: "files:1", Secret: "s%3A:x", RedirectURIs: []string{callback}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: box}
	served := make(chan struct{})
	go func() { _ = server.Serve(listener); close(served) }()
	t.Cleanup(func() { box.Close(); _ = server.Close(); <-served })

	var node yaml.Node
	if err := yaml.Unmarshal([]byte("- {id: rig, issuer: "+issuer+", token_endpoint_auth_method: client_secret_basic, offline_scopes: [offline_access], identity_scopes: [openid, profile, email], narrows: true}"), &node); err != nil {
		t.Fatal(err)
	}
	custom, problems := providers.ParseDefinitions(node.Content[0], "providers")
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	reg, err := providers.New(providers.Config{Custom: custom, Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Connectors: []providers.ConnectorConfig{{ID: "files", Provider: "rig", ClientID: "files:1", ClientSecret: broker.NewSecret("s%3A:x"), Scopes: []string{"files.read", "files.write"}}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)

	ctx, asked := t.Context(), broker.NewScopeSet("files.read", "files.write")
	flow, err := reg.AuthorizationURL(ctx, "files", broker.AuthorizationRequest{RedirectURI: callback,
		State: broker.NewSecret(providertest.State), Verifier: broker.NewSecret(providertest.Verifier), Scopes: asked})
	if err != nil {
		t.Fatal(err)
	}
	if flow.Issuer != issuer || !flow.IssuerRequired {
		t.Errorf("issuer %q, required %v", flow.Issuer, flow.IssuerRequired)
	}
	returned := browse(t, flow.URL.Reveal(), callback)
	if returned.Get("state") != providertest.State || returned.Get("iss") != issuer {
		t.Errorf("callback has %v", returned)
	}
	exchange := broker.ExchangeRequest{RedirectURI: callback, Code: broker.NewSecret(returned.Get("code")), Verifier: broker.NewSecret(providertest.Verifier),
		Scopes: asked, Fingerprint: flow.Fingerprint}
	grant, err := reg.Exchange(ctx, "files", exchange)
	if err != nil {
		t.Fatal(err)
	}
	if grant, err = reg.Identify(ctx, "files", grant); err != nil || grant.Account.ID == "" || grant.Account.Email == "" {
		t.Fatalf("account %+v, error %v", grant.Account, err)
	}
	if !grant.ScopesReported || !grant.Scopes.Covers(asked) || grant.Lifetime <= 0 {
		t.Errorf("scopes %v, lifetime %v", grant.Scopes, grant.Lifetime)
	}
	used, scopes := grant.RefreshToken, grant.Scopes
	for i := range 50 {
		next, err := reg.Refresh(ctx, "files", broker.RefreshRequest{RefreshToken: grant.RefreshToken, Scopes: scopes})
		if err != nil || next.RefreshToken.IsZero() || next.RefreshToken.Equal(grant.RefreshToken) {
			t.Fatalf("refresh %d: %v", i, err)
		}
		grant = next
	}
	narrow, err := reg.Refresh(ctx, "files", broker.RefreshRequest{RefreshToken: grant.RefreshToken, Scopes: scopes, Narrow: broker.NewScopeSet("files.read")})
	if err != nil || narrow.Scopes.Has("files.write") || !narrow.Scopes.Has("files.read") || narrow.RefreshToken.IsZero() {
		t.Fatalf("narrowed to %v, error %v", narrow.Scopes, err)
	}
	grant, err = reg.Refresh(ctx, "files", broker.RefreshRequest{RefreshToken: narrow.RefreshToken, Scopes: scopes})
	if err != nil || !grant.Scopes.Covers(asked) {
		t.Fatalf("after a narrow token: %v, error %v", grant.Scopes, err)
	}
	if err := reg.Revoke(ctx, "files", broker.RevokeRequest{RefreshToken: grant.RefreshToken}); err != nil {
		t.Fatal(err)
	}
	for _, dead := range []broker.Secret{grant.RefreshToken, used} {
		if _, err := reg.Refresh(ctx, "files", broker.RefreshRequest{RefreshToken: dead}); broker.ClassOf(err) != broker.ClassGrantDead {
			t.Errorf("error is %v", err)
		}
	}
}

// browse follows redirects as far as the callback, and returns its query.
func browse(t *testing.T, start, callback string) url.Values {
	t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for next := start; ; {
		resp, err := client.Get(next)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		to, err := resp.Location()
		if err != nil {
			t.Fatalf("HTTP %d without a redirect", resp.StatusCode)
		}
		query := to.Query()
		if to.RawQuery = ""; to.String() == callback {
			return query
		}
		to.RawQuery = query.Encode()
		next = to.String()
	}
}
