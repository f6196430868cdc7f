package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// identity is an identity provider that signs tokens about its people, with metadata and keys for whoever verifies them.
type identity struct {
	*httptest.Server
	t      *testing.T
	signer jose.Signer
	public string // its JWK set
}

func newIdentity(t *testing.T) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &identity{t: t}
	if i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, nil); err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k1"}}})
	if err != nil {
		t.Fatal(err)
	}
	i.public = string(set)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(object{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
		case "/keys":
			_, _ = io.WriteString(w, i.public)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(i.Close)
	return i
}

// token is a fresh one, with these claims beside or instead of the usual ones.
func (i *identity) token(claims object) string {
	i.t.Helper()
	number, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		i.t.Fatal(err)
	}
	payload, err := json.Marshal(merge(object{
		"iss": i.URL, "aud": "acme-chat", "jti": number.String(), "iat": time.Now().Unix(), "exp": time.Now().Add(5 * time.Minute).Unix(),
	}, claims))
	if err != nil {
		i.t.Fatal(err)
	}
	signed, err := i.signer.Sign(payload)
	if err != nil {
		i.t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return text
}

const exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"

// exchange asks a replica's token endpoint, by the client of golang.org/x/oauth2, which knows nothing of us.
func (p *brokerProcess) exchange(key, subjectToken string, more ...string) (*oauth2.Token, *oauth2.RetrieveError) {
	p.rig.t.Helper()
	params := url.Values{
		"grant_type": {exchangeGrant}, "subject_token": {subjectToken}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "audience": {"files"},
	}
	for n := 0; n < len(more); n += 2 {
		params.Set(more[n], more[n+1])
	}
	cfg := clientcredentials.Config{ClientID: "acme-chat", ClientSecret: key, TokenURL: p.url + "/oauth2/token", EndpointParams: params, Scopes: []string{"files.read"}}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	token, err := cfg.Token(ctx)
	if err == nil {
		return token, nil
	}
	var refused *oauth2.RetrieveError
	if !errors.As(err, &refused) {
		p.rig.t.Fatalf("token exchange: %v", err)
	}
	return nil, refused
}

// TestTokenExchange is an integration without a line of ours (RFC 8693, 6749, 7523, 8414): a client of golang.org/x/oauth2 exchanges what an
// identity provider says of a user for the user's token; the user's consent comes between. Threat 40: what the client alone says of the
// user counts for nothing, on any replica, and a token that says it counts once.
func TestTokenExchange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	idp := newIdentity(t)
	text, err := os.ReadFile(r.config)
	if err != nil {
		t.Fatal(err)
	}
	config := strings.Replace(string(text), "    return_to:", `    subject_tokens:
      required: true
      issuers: [{issuer: "`+idp.URL+`", audiences: [acme-chat]}]
      actors: [{issuer: "`+idp.URL+`", audiences: [acme-agents]}]
    authentication:
      jwks: '`+idp.public+`'
    return_to:`, 1)
	if err := os.WriteFile(r.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	one, two := r.start(), r.start()
	ann := func() string { return idp.token(object{"sub": "ann"}) }
	c := two.api(r.key)

	// She has to consent first: the link is where POST /v1/tokens has it.
	_, refused := one.exchange(r.key, ann())
	if refused == nil || refused.ErrorCode != "interaction_required" || refused.Response.StatusCode != 400 {
		t.Fatalf("before a consent: %+v", refused)
	}
	var need struct {
		Reason  string
		Consent struct{ ID, URL, Binding string }
	}
	if err := json.Unmarshal(refused.Body, &need); err != nil || need.Reason != "never_connected" || need.Consent.Binding != "code" {
		t.Fatalf("before a consent: %s, %v", refused.Body, err)
	}
	page := newBrowser(t).consent(need.Consent.URL)
	complete := "/v1/consents/" + need.Consent.ID + "/complete"
	c.want(401, "POST", complete, object{"subject": "ann", "code": page.code(t)})
	c.want(403, "POST", complete, object{"subject_token": idp.token(object{"sub": "mallory"}), "code": page.code(t)})
	c.want(200, "POST", complete, object{"subject_token": ann(), "code": page.code(t)})

	// Then she has a token, the same one by both ways.
	used := ann()
	token, refused := one.exchange(r.key, used, "actor_token", idp.token(object{"sub": "robot", "aud": "acme-agents"}), "actor_token_type", "urn:ietf:params:oauth:token-type:jwt")
	if refused != nil || token.Extra("issued_token_type") != "urn:ietf:params:oauth:token-type:access_token" || !token.Valid() || !strings.Contains(token.Extra("scope").(string), "files.read") {
		t.Fatalf("behind it: %+v, %s", token, refused)
	}
	if got := c.want(200, "POST", "/v1/tokens", object{"connector": "files", "subject_token": ann()}); got.str("access_token") != token.AccessToken {
		t.Error("POST /v1/tokens has another token")
	}
	if _, refused := two.exchange(r.key, used); refused == nil || refused.ErrorCode != "invalid_request" || !strings.Contains(refused.ErrorDescription, "used before") {
		t.Errorf("the same subject token at another replica: %+v", refused)
	}

	// Whatever else says that it is about her does not count.
	for name, subject := range map[string]string{
		"expired": idp.token(object{"sub": "ann", "exp": time.Now().Add(-3 * time.Minute).Unix()}), "for others": idp.token(object{"sub": "ann", "aud": "acme-agents"}),
		"by others": newIdentity(t).token(object{"sub": "ann", "iss": idp.URL}), "no token": "ann",
	} {
		if _, refused := one.exchange(r.key, subject); refused == nil || refused.ErrorCode != "invalid_request" {
			t.Errorf("%s: %+v", name, refused)
		}
		if got := c.want(401, "POST", "/v1/tokens", object{"connector": "files", "subject_token": subject}); got.str("error") != "invalid_subject_token" {
			t.Errorf("%s: %s", name, got.raw)
		}
	}
	for _, body := range []object{{"connector": "files", "subject": "ann"}, {"connector": "files", "subject": "ann", "scopes": []string{"files.write"}}} {
		if got := c.want(401, "POST", "/v1/tokens", body); got.str("error") != "invalid_subject_token" {
			t.Errorf("her name alone: %s", got.raw)
		}
		c.want(401, "POST", "/v1/consents", body)
	}
	c.want(401, "POST", "/v1/portal-sessions", object{"subject": "ann"})
	c.want(403, "POST", "/v1/tokens", object{"connector": "files", "subject": "bob", "subject_token": ann()})

	// An access token stands for the API key, on every replica; so does what the client signs (private_key_jwt).
	cfg := clientcredentials.Config{ClientID: "acme-chat", ClientSecret: r.key, TokenURL: one.url + "/oauth2/token"}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, err := cfg.Client(ctx).Get(two.url + "/v1/connectors")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("an access token at another replica: %d", resp.StatusCode)
	}
	assertion := idp.token(object{"iss": "acme-chat", "sub": "acme-chat", "aud": r.public})
	signed := func(p *brokerProcess) int {
		return p.form(url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion}}).status
	}
	if first, again := signed(one), signed(two); first != 200 || again != 401 {
		t.Errorf("a client's own assertion: %d, and again at another replica: %d", first, again)
	}

	// On record: who got it, who acted, and every refusal; and no token anywhere that it should not be.
	events := c.events(url.Values{"subject": {"ann"}, "type": {"token.issued"}})
	agents := map[any]int{}
	for _, e := range events {
		agents[e["actor"].(map[string]any)["agent"]]++
	}
	if agents["robot"] == 0 || agents[nil] != agents["robot"] { // one token for the robot, and one for nobody's agent
		t.Errorf("on record: %v", events)
	}
	refusals := 0
	for _, e := range c.events(url.Values{"type": {"token.refused"}}) {
		if e["outcome"] == "invalid_subject_token" {
			refusals++
		}
	}
	if refusals < 11 {
		t.Errorf("%d refusals on record", refusals)
	}
	signature := func(token string) string { return token[strings.LastIndex(token, ".")+1:] }
	for _, p := range []*brokerProcess{one, two} {
		for _, secret := range []string{signature(used), signature(assertion), token.AccessToken, base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"`))} {
			if strings.Contains(p.log.String(), secret) {
				t.Errorf("a token is in the log")
			}
		}
	}
}

// form sends a form to the token endpoint as it is.
func (p *brokerProcess) form(form url.Values) answer {
	p.rig.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", p.url+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		p.rig.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.rig.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.rig.t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, raw: string(raw)}
}
