package login_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"tokenbroker/broker"
	"tokenbroker/providers/login"
	"tokenbroker/providers/sandbox"
)

func newOperators(t *testing.T, cfg login.OperatorConfig, now func() time.Time) *login.Operators {
	t.Helper()
	o, err := login.NewOperators(login.Config{Now: now}, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

// Groups and names of a real provider: in the ID token, or at its userinfo endpoint alone.
func TestOperatorAtARealProvider(t *testing.T) {
	for _, thin := range []bool{false, true} {
		p := newProviderWith(t, sandbox.Config{
			Users:   []sandbox.User{{Login: "alice", Sub: "a-1", Name: "Alice Archer", Email: "alice@example.com", Groups: []string{"sre", "staff"}}},
			Clients: []sandbox.Client{{ID: "dash", Secret: secret, RedirectURIs: []string{redirect}}}, ThinIDTokens: thin,
		})
		o := newOperators(t, login.OperatorConfig{ClientConfig: login.ClientConfig{
			Issuer: p.url, ClientID: "dash", ClientSecret: broker.NewSecret(secret), Scopes: []string{"openid", "profile", "email"},
		}}, time.Now)
		auth, err := o.AuthorizationURL(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		who, err := o.Redeem(t.Context(), response(auth, signIn(t, auth.URL).Get("code")))
		if strings.Count(who.IDToken.Reveal(), ".") != 2 {
			t.Errorf("thin %v: the ID token did not come along", thin)
		}
		want := broker.OperatorIdentity{Issuer: p.url, Subject: "a-1", Name: "Alice Archer", Email: "alice@example.com", Groups: []string{"sre", "staff"}, GroupsGiven: true, IDToken: who.IDToken}
		if diff := cmp.Diff(want, who); err != nil || diff != "" {
			t.Errorf("thin %v: %v %s", thin, err, diff)
		}
		if asked := p.Stats().UserinfoCalls; (asked != 0) != thin {
			t.Errorf("thin %v: userinfo was asked %d times", thin, asked)
		}
	}
}

func TestOperatorClaims(t *testing.T) {
	f := newForger(t)
	var userinfo map[string]any // nil: there is no such endpoint
	inner := f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/userinfo" {
			inner.ServeHTTP(w, r)
			return
		}
		f.asked[r.URL.Path]++
		if r.Header.Get("Authorization") != "Bearer x" {
			t.Errorf("Authorization %q", r.Header.Get("Authorization"))
		}
		if status, ok := userinfo["status"].(int); ok {
			w.WriteHeader(status)
			return
		}
		_ = json.NewEncoder(w).Encode(userinfo)
	})
	redeemAs := func(groupsClaim string, more map[string]any) (broker.OperatorIdentity, error) {
		claims := f.claims()
		for name, value := range more {
			claims[name] = value
		}
		delete(f.meta, "userinfo_endpoint")
		if userinfo != nil {
			f.meta["userinfo_endpoint"] = f.URL + "/userinfo"
		}
		f.token = sign(t, f.key, jose.RS256, "k1", nil, claims)
		o := newOperators(t, login.OperatorConfig{
			ClientConfig: login.ClientConfig{Issuer: f.URL, ClientID: "abc", ClientSecret: broker.NewSecret("canary-secret")}, GroupsClaim: groupsClaim,
		}, func() time.Time { return f.clock })
		auth, err := o.AuthorizationURL(t.Context(), request())
		if err != nil {
			t.Fatal(err)
		}
		return o.Redeem(t.Context(), response(auth, "canary-code"))
	}
	type claims = map[string]any
	for name, test := range map[string]struct {
		claim  string
		token  claims
		groups string // joined
		given  bool
	}{
		"a list":                  {"", claims{"groups": []any{"a", "b", "a"}}, "a b", true},
		"one text":                {"", claims{"groups": "a b"}, "a b", true},
		"an empty list":           {"", claims{"groups": []any{}}, "", true},
		"null":                    {"", claims{"groups": nil}, "", false},
		"none":                    {"", claims{}, "", false},
		"another claim":           {"roles", claims{"groups": []any{"admin"}, "roles": []any{"x"}}, "x", true},
		"a URL as name":           {"https://acme.example/groups", claims{"https://acme.example/groups": []any{"x"}}, "x", true},
		"a path":                  {"realm_access.roles", claims{"realm_access": claims{"roles": []any{"x"}}}, "x", true},
		"the name before a path":  {"a.b", claims{"a.b": []any{"name"}, "a": claims{"b": []any{"path"}}}, "name", true},
		"a path through a list":   {"a.b", claims{"a": []any{claims{"b": "x"}}}, "", false},
		"an object":               {"", claims{"groups": claims{"admin": true}}, "", true},
		"other types in the list": {"", claims{"groups": []any{4711, true, nil, claims{"a": 1}, "", strings.Repeat("x", 257), "a"}}, "a", true},
		"another spelling":        {"", claims{"Groups": []any{"admin"}}, "", false},
	} {
		who, err := redeemAs(test.claim, test.token)
		if err != nil || strings.Join(who.Groups, " ") != test.groups || who.GroupsGiven != test.given {
			t.Errorf("%s: %q %v, %v", name, who.Groups, who.GroupsGiven, err)
		}
	}

	// Entra's groups overage: not "no groups".
	for name, token := range map[string]claims{
		"_claim_names":         {"_claim_names": claims{"groups": "src1"}, "_claim_sources": claims{"src1": claims{"endpoint": "https://graph.windows.net/x"}}},
		"hasgroups":            {"hasgroups": true},
		"hasgroups as a text":  {"hasgroups": "true"},
		"both groups and null": {"groups": nil, "_claim_names": claims{"groups": "src1"}},
	} {
		if _, err := redeemAs("", token); !errors.Is(err, broker.ErrGroupsElsewhere) {
			t.Errorf("%s: %v", name, err)
		}
	}

	// Names.
	who, err := redeemAs("", claims{"groups": "a", "preferred_username": "ada", "email": "ada@example.com"})
	if err != nil || who.Name != "ada" || who.Email != "" {
		t.Errorf("an address that nobody verified: %+v, %v", who, err)
	}
	if _, err := redeemAs("", claims{"groups": "a", "sub": "user\n42"}); !errors.Is(err, broker.ErrLoginRefused) {
		t.Errorf("a sub of two lines: %v", err)
	}

	// What the ID token says counts; userinfo is for what it lacks, and about nobody else.
	userinfo = claims{"sub": "user-42", "groups": []any{"admin"}, "name": "Ada"}
	if who, err := redeemAs("", claims{"groups": []any{"viewer"}}); err != nil || strings.Join(who.Groups, " ") != "viewer" || who.Name != "Ada" {
		t.Errorf("both: %+v, %v", who, err)
	}
	if who, err := redeemAs("", claims{"groups": []any{}}); err != nil || len(who.Groups) != 0 {
		t.Errorf("an empty list, and userinfo: %+v, %v", who, err)
	}
	userinfo["sub"] = "user-43"
	if _, err := redeemAs("", nil); !errors.Is(err, broker.ErrLoginRefused) {
		t.Errorf("userinfo about somebody else: %v", err)
	}
	for status, class := range map[int]broker.Class{503: broker.ClassInDoubt, 401: broker.ClassClientRefused} {
		userinfo = claims{"status": status}
		if _, err := redeemAs("", nil); broker.ClassOf(err) != class {
			t.Errorf("userinfo answers %d: %v", status, err)
		}
		if who, err := redeemAs("", claims{"groups": "a"}); err != nil || who.Name != "" {
			t.Errorf("userinfo answers %d, and only a name is missing: %+v, %v", status, who, err)
		}
	}

	// One on a host that the operator did not name gets no token, and is no reason to end the sign-in.
	asked := f.asked["/userinfo"]
	userinfo = nil
	f.meta["userinfo_endpoint"] = "https://graph.microsoft.com/oidc/userinfo"
	f.token = sign(t, f.key, jose.RS256, "k1", nil, f.claims())
	o := newOperators(t, login.OperatorConfig{ClientConfig: login.ClientConfig{Issuer: f.URL, ClientID: "abc"}}, func() time.Time { return f.clock })
	auth, err := o.AuthorizationURL(t.Context(), request())
	if err != nil {
		t.Fatal(err)
	}
	if who, err := o.Redeem(t.Context(), response(auth, "c")); err != nil || who.GroupsGiven || f.asked["/userinfo"] != asked {
		t.Errorf("userinfo on another host: %+v, %v", who, err)
	}
}
