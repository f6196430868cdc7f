package providers

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// FuzzTokenAnswer reads anything as the answer to a refresh: a refresh token that a plain reader of JSON sees is kept, and an
// error repeats nothing of what came.
func FuzzTokenAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"at","refresh_token":"rt-2","expires_in":3600,"scope":"files.read files.write","token_type":"Bearer"}`, `{"access_token":"at","expires_in":"3599.5"}`,
		`{"error":"invalid_grant","error_description":"x"}`, `access_token=a&refresh_token=b&expires_in=60`, `[{"access_token":"a"}]`, ")]}'\n{\"access_token\":\"a\"}", "\xef\xbb\xbf{}",
		`{"access_token":"a","refresh_token":"b"`, `{"access_token":{"x":1},"refresh_token":["b"]}`, `{"id_token":"e30.e30.x","access_token":"a"}`, `{"expires_in":1e400,"access_token":"a"}`, `<html>`, `{"a":{"a":{"a":`, ``,
	} {
		f.Add(200, "application/json", []byte(seed))
		f.Add(400, "text/html; charset=x", []byte(seed))
	}
	r := connect(f, setup{yaml: (&fakeProvider{Server: &httptest.Server{URL: "http://127.0.0.1:1"}}).plain()})
	s, err := r.server("files")
	if err != nil {
		f.Fatal(err)
	}
	used := broker.NewSecret(canaryRefresh)
	f.Fuzz(func(t *testing.T, status int, kind string, body []byte) {
		if status < 100 || status > 599 || len(body) > 1<<20 {
			return
		}
		a := answer{status: status, header: http.Header{"Content-Type": {kind}}, body: body, sent: start}
		for _, was := range []broker.Secret{used, {}} {
			grant, err := s.readGrant(a, s.def.TokenResponse, was)
			var plain struct {
				RefreshToken string `json:"refresh_token"`
			}
			var keys map[string]json.RawMessage
			if json.Unmarshal(body, &keys) == nil && json.Unmarshal(keys["refresh_token"], &plain.RefreshToken) == nil && plain.RefreshToken != "" && status == 200 && err == nil && len(keys) == bytes.Count(body, []byte(`":`)) {
				if got := grant.RefreshToken.Reveal(); got != plain.RefreshToken && visible(plain.RefreshToken) && len(plain.RefreshToken) < 1000 {
					t.Fatalf("the refresh token %q was read as %q", plain.RefreshToken, got)
				}
			}
			if err == nil {
				if token := grant.AccessToken.Reveal(); token != "" && !visible(token) {
					t.Fatalf("an access token %q", token)
				}
				if grant.AccessToken.IsZero() && grant.RefreshToken.IsZero() {
					t.Fatal("a grant of nothing")
				}
				continue
			}
			if text := fmt.Sprintf("%v %+v", err, err); len(text) > 600 || strings.Contains(text, canaryRefresh) {
				t.Fatalf("error is %s", text)
			}
		}
	})
}

// FuzzMetadata reads anything as an issuer's metadata: what passes leads nowhere but to the issuer's own origin.
func FuzzMetadata(f *testing.F) {
	const issuer = "https://login.example.com"
	for _, seed := range []string{
		`{"issuer":"https://login.example.com","authorization_endpoint":"https://login.example.com/a","token_endpoint":"https://login.example.com/t"}`,
		`{"issuer":"https://login.example.com","token_endpoint":"https://login.example.com:443/t","token_endpoint_auth_methods_supported":["client_secret_post"]}`,
		`{"issuer":"https://login.example.com","token_endpoint":"https://login.example.com@evil.example/t"}`, `{"issuer":"https://login.example.com","token_endpoint":"https://login.example.com.evil.example/t"}`,
		`{"issuer":"https://login.example.com","token_endpoint":"//evil.example/t"}`, `{"issuer":"https://login.example.com","token_endpoint":"https://login.example.com\\@evil.example/"}`,
		`{"issuer":"https://login.example.com","Token_Endpoint":"https://evil.example/t"}`, `{"issuer":["https://login.example.com"]}`, `[]`, `null`, `{"issuer":"https://login.example.com","authorization_endpoint":"javascript:alert(1)"}`,
	} {
		f.Add([]byte(seed))
	}
	d := &Definition{ID: "rig", Issuer: issuer}
	f.Fuzz(func(t *testing.T, text []byte) {
		var m metadata
		if json.Unmarshal(text, &m) != nil || m.check(d, issuer) != nil {
			return
		}
		for _, e := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.RevocationEndpoint, m.UserinfoEndpoint, m.DeviceAuthorizationEndpoint} {
			if e == "" {
				continue
			}
			u, err := url.Parse(e)
			if err != nil || u.Scheme != "https" || !strings.EqualFold(u.Hostname(), "login.example.com") || u.User != nil || u.Port() != "" && u.Port() != "443" {
				t.Fatalf("leads to %q", e)
			}
		}
		for _, secret := range []bool{true, false} {
			if method, err := m.authMethod(secret); err == nil && !slices.Contains([]string{authBasic, authPost, authNone}, method) {
				t.Fatalf("authenticates by %q", method)
			}
		}
	})
}

// FuzzNotice has strangers send notices, who know no key; and somebody who knows it send anything.
func FuzzNotice(f *testing.F) {
	stamp := fmt.Sprint(noticeClock.Unix())
	for _, seed := range []string{`{"type":"event_callback","team_id":"T1","event":{"type":"tokens_revoked","tokens":{"oauth":["U1","U2"],"bot":[]}}}`, `{"type":"url_verification","challenge":"abc"}`, `{}`, `[]`, `{"type":7}`, ``, `payload=%7B%7D`} {
		f.Add(seed, "v0="+strings.Repeat("0", 64), stamp)
		f.Add(seed, "", "")
	}
	r := noticed(f, "slack-user", nil)
	f.Fuzz(func(t *testing.T, body, signature, at string) {
		if len(body) > 64<<10 {
			return
		}
		right := "v0=" + hex.EncodeToString(macOf("notice-secret", "v0:"+at+":"+body))
		if signature != right {
			got, err := r.ReadNotice(t.Context(), "it", noticeOf("POST", body, map[string]string{"X-Slack-Request-Timestamp": at, "X-Slack-Signature": signature}))
			if err == nil && (len(got.Accounts) > 0 || len(got.Groups) > 0) {
				t.Fatalf("believed without its key: %+v", got)
			}
		}
		body1 := noticeOf("POST", body, map[string]string{"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": "v0=" + hex.EncodeToString(macOf("notice-secret", "v0:"+stamp+":"+body))})
		got, err := r.ReadNotice(t.Context(), "it", body1)
		if err == nil && (len(got.Accounts) > 10_000 || len(got.Groups) > 10_000 || len(got.Answer) > 64<<10) {
			t.Fatalf("%d accounts, %d groups, %d bytes of an answer", len(got.Accounts), len(got.Groups), len(got.Answer))
		}
		if err != nil && len(err.Error()) > 400 {
			t.Fatalf("error of %d bytes", len(err.Error()))
		}
	})
}
