package providers

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tokenbroker/broker"
)

const (
	oauthPlace = "/.well-known/oauth-authorization-server"
	oidcPlace  = "/.well-known/openid-configuration"
)

func (f *fakeProvider) document(more string) string {
	return fmt.Sprintf(`{"issuer":%q,"authorization_endpoint":"%[1]s/auth","token_endpoint":"%[1]s/token","token_endpoint_auth_methods_supported":["client_secret_post"]%[2]s}`,
		f.URL, strings.ReplaceAll(more, "URL", f.URL))
}

func (f *fakeProvider) authorize(t *testing.T, r *Registry) (broker.Authorization, error) {
	t.Helper()
	return r.AuthorizationURL(t.Context(), "files", broker.AuthorizationRequest{RedirectURI: "http://127.0.0.1/cb",
		State: broker.NewSecret("s"), Verifier: broker.NewSecret("v"), Scopes: broker.NewScopeSet("files.read")})
}

// The metadata fills what is left out; what RFC 8414's document lacks comes from OpenID Connect's.
func TestDiscoveryFills(t *testing.T) {
	f := newFake(t)
	f.answers(oauthPlace, 200, f.document(`,"revocation_endpoint":"URL/revoke","authorization_response_iss_parameter_supported":true`))
	f.answers(oidcPlace, 200, f.document(`,"userinfo_endpoint":"URL/me"`))
	f.answers("/token", 200, `{"access_token":"a","refresh_token":"r","expires_in":60}`)
	f.answers("/me", 200, `{"sub":"1","name":"Ana"}`)
	f.answers("/revoke", 200, ``)
	r := connect(t, setup{yaml: "- {id: rig, issuer: " + f.URL + "}"})
	a, err := f.authorize(t, r)
	if err != nil || a.Issuer != f.URL || !a.IssuerRequired || !strings.HasPrefix(a.URL.Reveal(), f.URL+"/auth?") {
		t.Fatalf("authorization %+v, error %v", a, err)
	}
	g, err := exchangeOnce(t, r)
	if err != nil {
		t.Fatal(err)
	}
	if form := f.request("/token").PostForm; form.Get("client_secret") != canarySecret || form.Get("code") != canaryCode {
		t.Errorf("sent %v", form)
	}
	if g, err = r.Identify(t.Context(), "files", g); err != nil || g.Account.ID != "1" {
		t.Errorf("account %v, error %v", g.Account, err)
	}
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: g.RefreshToken}); err != nil || f.count("/revoke") != 1 {
		t.Errorf("revoke: %v", err)
	}
	if f.count(oauthPlace) != 1 || f.count(oidcPlace) != 1 {
		t.Errorf("metadata was asked for %d and %d times", f.count(oauthPlace), f.count(oidcPlace))
	}
}

// RFC 8414 section 3: the well-known part goes between host and path.
func TestMetadataURLs(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://a.example":     "https://a.example/.well-known/oauth-authorization-server https://a.example/.well-known/openid-configuration",
		"https://a.example/":    "https://a.example/.well-known/oauth-authorization-server https://a.example/.well-known/openid-configuration",
		"https://a.example/t/1": "https://a.example/.well-known/oauth-authorization-server/t/1 https://a.example/t/1/.well-known/openid-configuration",
	} {
		if got := strings.Join(metadataURLs(issuer), " "); got != want {
			t.Errorf("%s: %s", issuer, got)
		}
	}
}

// threats.md 58: a document of another issuer, or one that leads elsewhere, ends the flow before anything is sent.
func TestForgedMetadata(t *testing.T) {
	evil := newFake(t)
	for name, forge := range map[string]func(f *fakeProvider) string{
		"other issuer":        func(f *fakeProvider) string { return strings.Replace(f.document(""), f.URL, evil.URL, 1) },
		"slash":               func(f *fakeProvider) string { return strings.Replace(f.document(""), f.URL+`"`, f.URL+`/"`, 1) },
		"no issuer":           func(f *fakeProvider) string { return `{"token_endpoint":"` + f.URL + `/token"}` },
		"token on other host": func(f *fakeProvider) string { return f.document(`,"token_endpoint":"` + evil.URL + `/token"`) },
		"http":                func(f *fakeProvider) string { return f.document(`,"token_endpoint":"http://rig.example/token"`) },
		"javascript":          func(f *fakeProvider) string { return f.document(`,"authorization_endpoint":"javascript:alert(1)"`) },
		"user in it":          func(f *fakeProvider) string { return f.document(`,"revocation_endpoint":"https://a:b@rig.example/"`) },
		"userinfo elsewhere":  func(f *fakeProvider) string { return f.document(`,"userinfo_endpoint":"` + evil.URL + `/me"`) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.answers(oauthPlace, 200, forge(f))
			r := connect(t, setup{yaml: "- {id: rig, issuer: " + f.URL + "}"})
			_, err := f.authorize(t, r)
			class(t, err, broker.ClassClientRefused)
			_, err = refreshOnce(t, r)
			class(t, err, broker.ClassClientRefused)
			if evil.count("/token") != 0 {
				t.Error("something was sent to the other host")
			}
		})
	}
}

// The operator can allow another host, or state the endpoint.
func TestEndpointsOnOtherHosts(t *testing.T) {
	f, other := newFake(t), newFake(t)
	f.answers(oauthPlace, 200, f.document(`,"token_endpoint":"`+other.URL+`/token"`))
	other.answers("/token", 200, `{"access_token":"a"}`)
	for _, more := range []string{
		", endpoint_hosts: ['" + strings.TrimPrefix(other.URL, "http://") + "']",
		", token_endpoint: " + other.URL + "/token",
	} {
		r := connect(t, setup{yaml: "- {id: rig, issuer: " + f.URL + more + "}"})
		if _, err := exchangeOnce(t, r); err != nil {
			t.Error(err)
		}
	}
	if other.count("/token") != 2 {
		t.Errorf("%d requests at the other host", other.count("/token"))
	}
}

// A method is taken from the metadata only where it leaves no choice.
func TestAuthMethodIsNotGuessed(t *testing.T) {
	for _, tt := range []struct {
		methods string // raw JSON; "" leaves the key out
		secret  bool
		want    string
	}{
		{`["client_secret_post"]`, true, authPost},
		{`["client_secret_basic","private_key_jwt"]`, true, authBasic},
		{`["client_secret_basic","none"]`, true, authBasic},
		{`["client_secret_basic","none"]`, false, authNone},
		{``, true, authBasic}, // RFC 8414 section 2
		{``, false, ""},
		{`["client_secret_basic","client_secret_post"]`, true, ""},
		{`["private_key_jwt"]`, true, ""},
		{`[]`, true, ""},
	} {
		var m metadata
		if tt.methods != "" {
			list := strings.Split(strings.Trim(strings.ReplaceAll(tt.methods, `"`, ""), "[]"), ",")
			m.AuthMethods = &list
		}
		got, err := m.authMethod(tt.secret)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s with secret %v: %q, %v", tt.methods, tt.secret, got, err)
		}
	}
}

// A provider that is down at the start, and again later, costs one attempt every few seconds, and known metadata stays.
func TestMetadataOutages(t *testing.T) {
	var mu sync.Mutex
	now, up := start, false
	f := newFake(t)
	f.mux.HandleFunc(oauthPlace, func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !up {
			w.WriteHeader(503)
			return
		}
		_, _ = w.Write([]byte(f.document(`,"revocation_endpoint":"URL/revoke","userinfo_endpoint":"URL/me"`)))
	})
	set := func(isUp bool, later time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		up, now = isUp, now.Add(later)
	}
	r := connect(t, setup{yaml: "- {id: rig, issuer: " + f.URL + "}", config: Config{Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }}})
	for range 3 {
		_, err := f.authorize(t, r)
		class(t, err, broker.ClassUnsent)
	}
	if n := f.count(oauthPlace); n != 1 {
		t.Errorf("%d attempts during the outage", n)
	}
	set(true, failureHeld)
	for range 3 {
		if _, err := f.authorize(t, r); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.count(oauthPlace); n != 2 {
		t.Errorf("%d attempts, want 2", n)
	}
	set(true, metadataKept-time.Second)
	if _, err := f.authorize(t, r); err != nil || f.count(oauthPlace) != 2 {
		t.Errorf("metadata was not kept: %d attempts, %v", f.count(oauthPlace), err)
	}
	set(false, time.Second)
	for range 3 {
		if _, err := f.authorize(t, r); err != nil {
			t.Fatalf("known metadata was dropped: %v", err)
		}
	}
	if n := f.count(oauthPlace); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

// Where everything is stated, neither absent nor broken metadata is in the way, and a refresh does not look at it.
func TestStatedEndpointsNeedNoMetadata(t *testing.T) {
	for _, status := range []int{404, 405, 500, 503, 302} {
		f := newFake(t)
		f.answers(oauthPlace, status, `gone`)
		f.answers(oidcPlace, status, `gone`)
		f.answers("/token", 200, `{"access_token":"a"}`)
		r := connect(t, setup{yaml: f.plain("  issuer: URL")})
		if _, err := refreshOnce(t, r); err != nil {
			t.Fatal(err)
		}
		if f.count(oauthPlace) != 0 {
			t.Error("a refresh asked for metadata")
		}
		a, err := f.authorize(t, r)
		if err != nil || a.IssuerRequired || a.Issuer != f.URL {
			t.Errorf("%d: %+v, %v", status, a, err)
		}
	}
}

func TestNothingStatedNothingFound(t *testing.T) {
	f := newFake(t)
	f.answers(oauthPlace, 200, `<html>welcome</html>`)
	r := connect(t, setup{yaml: "- {id: rig, issuer: " + f.URL + "}"})
	_, err := f.authorize(t, r)
	class(t, err, broker.ClassClientRefused)
	// Without a method nothing can be revoked either, and that is not success.
	if err := r.Revoke(t.Context(), "files", broker.RevokeRequest{RefreshToken: broker.NewSecret("r")}); err == nil {
		t.Error("revocation without an endpoint succeeded")
	}
}

// One look-up serves all who wait, and a waiter goes when its own context ends.
func TestOneLookUpAtATime(t *testing.T) {
	f := newFake(t)
	arrived, release := make(chan struct{}), make(chan struct{})
	f.mux.HandleFunc(oauthPlace, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = w.Write([]byte(f.document(`,"revocation_endpoint":"URL/revoke","userinfo_endpoint":"URL/me"`)))
	})
	r := connect(t, setup{yaml: "- {id: rig, issuer: " + f.URL + "}"})
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := f.authorize(t, r); err != nil {
				t.Error(err)
			}
		})
	}
	<-arrived
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.AuthorizationURL(gone, "files", broker.AuthorizationRequest{Verifier: broker.NewSecret("v")})
	class(t, err, broker.ClassUnsent)
	close(release)
	wait.Wait()
	if n := f.count(oauthPlace); n != 1 {
		t.Errorf("%d look-ups", n)
	}
}
