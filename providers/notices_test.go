package providers

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
)

// noticeClock is when the notices of these tests come.
var noticeClock = time.Date(2026, 11, 2, 10, 0, 0, 0, time.UTC)

// noticed makes a registry with one connector to a provider of the catalogue.
func noticed(t testing.TB, provider string, change func(*ConnectorConfig), custom ...*Definition) *Registry {
	t.Helper()
	c := ConnectorConfig{ID: "it", Provider: provider, ClientID: "client-1", ClientSecret: broker.NewSecret("client-secret"), NoticeSecret: broker.NewSecret("notice-secret"), Scopes: []string{"read"}}
	if change != nil {
		change(&c)
	}
	r, err := New(Config{Custom: custom, Connectors: []ConnectorConfig{c}, Now: func() time.Time { return noticeClock }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func macOf(key, message string) []byte {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(message))
	return m.Sum(nil)
}

func noticeOf(method, body string, headers map[string]string) broker.NoticeRequest {
	h := http.Header{}
	for name, value := range headers {
		h.Set(name, value)
	}
	return broker.NoticeRequest{Method: method, URL: "https://broker.example/notices/it", Header: h.Get, Body: []byte(body)}
}

// Each provider's notices, as it signs them: whose grants they are about; and refused with one byte changed.
func TestNotices(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stamp := fmt.Sprint(noticeClock.Unix())
	slack := func(body string) map[string]string {
		return map[string]string{"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": "v0=" + hex.EncodeToString(macOf("notice-secret", "v0:"+stamp+":"+body))}
	}
	discord := func(body string) map[string]string {
		return map[string]string{"X-Signature-Timestamp": stamp, "X-Signature-Ed25519": hex.EncodeToString(ed25519.Sign(private, []byte(stamp+body)))}
	}
	withKey := func(c *ConnectorConfig) { c.NoticeSecret = broker.NewSecret(hex.EncodeToString(public)) }
	for _, tc := range []struct {
		name, provider, method, body string
		change                       func(*ConnectorConfig)
		sign                         func(body string) map[string]string
		accounts, groups             []string
		status                       int
		answer                       string
	}{
		{"a user's tokens", "slack-user", "POST", `{"type":"event_callback","team_id":"T1","event":{"type":"tokens_revoked","tokens":{"oauth":["U1","U2"],"bot":[]}}}`, nil, slack, []string{"T1:U1", "T1:U2"}, nil, 200, ""},
		{"the bot's token", "slack", "POST", `{"type":"event_callback","team_id":"T1","event":{"type":"tokens_revoked","tokens":{"oauth":[],"bot":["B1"]}}}`, nil, slack, []string{"T1"}, nil, 200, ""},
		{"the app", "slack", "POST", `{"type":"event_callback","team_id":"T1","event":{"type":"app_uninstalled"}}`, nil, slack, nil, []string{"T1"}, 200, ""},
		{"another event", "slack", "POST", `{"type":"event_callback","team_id":"T1","event":{"type":"message"}}`, nil, slack, nil, nil, 200, ""},
		{"a challenge", "slack", "POST", `{"type":"url_verification","challenge":"abc"}`, nil, slack, nil, nil, 200, `{"challenge":"abc"}`},
		{"a user", "github-app", "POST", `{"action":"revoked","sender":{"id":583231}}`, nil, func(body string) map[string]string {
			return map[string]string{"X-GitHub-Event": "github_app_authorization", "X-Hub-Signature-256": "sha256=" + hex.EncodeToString(macOf("notice-secret", body))}
		}, []string{"583231"}, nil, 200, ""},
		{"a user", "pipedrive", "DELETE", `{"client_id":"client-1","company_id":77,"user_id":12,"timestamp":"2026-11-02T10:00:00Z"}`, nil, func(string) map[string]string {
			return map[string]string{"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("client-1:client-secret"))}
		}, []string{"77:12"}, nil, 200, ""},
		{"a user", "zoom", "POST", `{"event":"app_deauthorized","payload":{"account_id":"A1","user_id":"z9jk"}}`, nil, func(string) map[string]string {
			return map[string]string{"Authorization": "notice-secret"}
		}, []string{"z9jk"}, nil, 200, ""},
		{"a user", "discord", "POST", `{"type":1,"event":{"type":"APPLICATION_DEAUTHORIZED","data":{"user":{"id":"80351"}}}}`, withKey, discord, []string{"80351"}, nil, 200, ""},
		{"a ping", "discord", "POST", `{"type":0}`, withKey, discord, nil, nil, 204, ""},
		{"a shop", "shopify", "POST", `{"id":55813,"name":"Acme Teas"}`, func(c *ConnectorConfig) { c.Vars = map[string]string{"shop": "acme.myshopify.com"} }, func(body string) map[string]string {
			return map[string]string{"X-Shopify-Topic": "app/uninstalled", "X-Shopify-Hmac-Sha256": base64.StdEncoding.EncodeToString(macOf("client-secret", body))}
		}, []string{"gid://shopify/Shop/55813"}, nil, 200, ""},
		{"an organization", "linear", "POST", `{"type":"OAuthApp","action":"revoked","organizationId":"0c9d7e40"}`, nil, func(body string) map[string]string {
			return map[string]string{"Linear-Signature": hex.EncodeToString(macOf("notice-secret", body))}
		}, nil, []string{"0c9d7e40"}, 200, ""},
	} {
		t.Run(tc.provider+" "+tc.name, func(t *testing.T) {
			r := noticed(t, tc.provider, tc.change)
			got, err := r.ReadNotice(t.Context(), "it", noticeOf(tc.method, tc.body, tc.sign(tc.body)))
			if err != nil || !slices.Equal(got.Accounts, tc.accounts) || !slices.Equal(got.Groups, tc.groups) || got.Status != tc.status || string(got.Answer) != tc.answer {
				t.Errorf("%v: %+v, answer %s", err, got, got.Answer)
			}
			for name := range tc.sign(tc.body) {
				if strings.Contains(name, "Topic") || strings.Contains(name, "Event") {
					continue // not signed
				}
				headers := tc.sign(tc.body)
				headers[name] = headers[name][:len(headers[name])-1] + "~"
				if _, err := r.ReadNotice(t.Context(), "it", noticeOf(tc.method, tc.body, headers)); !errors.Is(err, broker.ErrNoticeRefused) {
					t.Errorf("with another %s: %v", name, err)
				}
				delete(headers, name)
				if _, err := r.ReadNotice(t.Context(), "it", noticeOf(tc.method, tc.body, headers)); !errors.Is(err, broker.ErrNoticeRefused) {
					t.Errorf("without %s: %v", name, err)
				}
			}
		})
	}
}

// A notice that was signed long ago, or over another body, is refused; and without the secret none is believed.
func TestStaleAndForeignNotices(t *testing.T) {
	r := noticed(t, "slack", nil)
	body := `{"type":"event_callback","team_id":"T1","event":{"type":"app_uninstalled"}}`
	signed := func(at time.Time, over string) map[string]string {
		stamp := fmt.Sprint(at.Unix())
		return map[string]string{"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": "v0=" + hex.EncodeToString(macOf("notice-secret", "v0:"+stamp+":"+over))}
	}
	for name, headers := range map[string]map[string]string{
		"six minutes old": signed(noticeClock.Add(-6*time.Minute), body), "six minutes ahead": signed(noticeClock.Add(6*time.Minute), body), "another body": signed(noticeClock, `{"team_id":"T2"}`),
	} {
		if _, err := r.ReadNotice(t.Context(), "it", noticeOf("POST", body, headers)); !errors.Is(err, broker.ErrNoticeRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, r := range map[string]*Registry{
		"no secret":                     noticed(t, "slack", func(c *ConnectorConfig) { c.NoticeSecret = broker.Secret{} }),
		"a provider that sends no such": noticed(t, "notion", nil),
	} {
		if _, err := r.ReadNotice(t.Context(), "it", noticeOf("POST", body, signed(noticeClock, body))); !errors.Is(err, broker.ErrNoNotices) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := r.ReadNotice(t.Context(), "nowhere", noticeOf("POST", body, signed(noticeClock, body))); !errors.Is(err, broker.ErrNoNotices) {
		t.Errorf("an unknown connector: %v", err)
	}
}

// A Security Event Token counts if the provider's own key signed it, for our client, lately.
func TestSecurityEventTokens(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	}))
	defer keys.Close()
	google, problems := ParseDefinition([]byte(fmt.Sprintf(`
id: risc
authorization_endpoint: https://risc.example/auth
token_endpoint: https://risc.example/token
token_endpoint_auth_method: client_secret_post
notices:
  signature: {kind: set, issuer: "https://accounts.example", jwks: %q}
  events:
    - {when: {event: "https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked"}, accounts: [payload.subject.sub]}
`, keys.URL)))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	r := noticed(t, "risc", func(c *ConnectorConfig) { c.NoticeSecret = broker.Secret{} }, google)
	set := func(with *rsa.PrivateKey, id string, claims map[string]any) string {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: with, KeyID: id}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]any{
			"iss": "https://accounts.example/", "aud": "client-1", "iat": noticeClock.Unix(), "jti": "1",
			"events": map[string]any{"https://schemas.openid.net/secevent/oauth/event-type/tokens-revoked": map[string]any{"subject": map[string]any{"sub": "7375626A656374"}}},
		}
		for name, value := range claims {
			all[name] = value
		}
		plain, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(plain)
		if err != nil {
			t.Fatal(err)
		}
		compact, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return compact
	}
	read := func(token string) (broker.Notice, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		return r.ReadNotice(ctx, "it", noticeOf("POST", token, nil))
	}
	if got, err := read(set(key, "k1", nil)); err != nil || !slices.Equal(got.Accounts, []string{"7375626A656374"}) || got.Status != http.StatusAccepted {
		t.Errorf("%v: %+v", err, got)
	}
	for name, token := range map[string]string{
		"of another key":    set(foreign, "k1", nil),
		"of an unknown key": set(foreign, "k2", nil),
		"another issuer":    set(key, "k1", map[string]any{"iss": "https://evil.example"}),
		"another client":    set(key, "k1", map[string]any{"aud": []string{"client-2"}}),
		"eight days old":    set(key, "k1", map[string]any{"iat": noticeClock.Add(-8 * 24 * time.Hour).Unix()}),
		"no token":          `{"events":{}}`,
		"unsigned":          "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://accounts.example","aud":"client-1"}`)) + ".",
	} {
		if got, err := read(token); !errors.Is(err, broker.ErrNoticeRefused) {
			t.Errorf("%s: %v %+v", name, err, got)
		}
	}
	if asked != 1 {
		t.Errorf("the keys were asked for %d times in one moment, want once", asked)
	}
}
