package providers

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

const offersDevice = "  grants: [authorization_code, device_code]\n  device_authorization_endpoint: URL/device\n  offline_scopes: [offline_access]"

const deviceAnswerBody = `{"device_code":"canary-authorization-code","user_code":"WDJB-MJHT","verification_uri":"https://x.example/device","verification_uri_complete":"https://x.example/device?user_code=WDJB-MJHT","expires_in":1800,"interval":7}`

func deviceConnector() ConnectorConfig { return ConnectorConfig{Device: true} }

// RFC 8628 sections 3.1 and 3.2.
func TestDeviceAuthorizationRequest(t *testing.T) {
	f := newFake(t)
	f.answers("/device", 200, deviceAnswerBody)
	r := connect(t, setup{yaml: f.plain(offersDevice), connector: deviceConnector()})
	got, err := r.BeginDevice(t.Context(), "files", broker.NewScopeSet("files.read"))
	if err != nil {
		t.Fatal(err)
	}
	equalForm(t, f.request("/device").PostForm, url.Values{"scope": {"files.read offline_access"}})
	if id, secret, ok := f.request("/device").BasicAuth(); !ok || id != "abc" || secret != canarySecret {
		t.Errorf("authenticated as %q", id)
	}
	if got.DeviceCode.Reveal() != canaryCode || got.UserCode.Reveal() != "WDJB-MJHT" || got.VerificationURI != "https://x.example/device" ||
		got.VerificationURIComplete.Reveal() != "https://x.example/device?user_code=WDJB-MJHT" || got.ExpiresIn != 30*time.Minute || got.Interval != 7*time.Second {
		t.Errorf("got %+v", got)
	}
	if len(r.Notes()) != 1 || !strings.Contains(r.Notes()[0].Text, "RFC 8628 section 5.4") {
		t.Errorf("the operator is not told what it means: %v", r.Notes())
	}
	// By the id alone, with the older name of the address, found in the metadata.
	f = newFake(t)
	f.answers("/device", 200, `{"device_code":"d","user_code":"ABC-DEF","verification_url":"https://x.example/device","expires_in":"1800"}`)
	f.answers("/.well-known/oauth-authorization-server", 200, strings.ReplaceAll(`{"issuer":"URL","device_authorization_endpoint":"URL/device","token_endpoint":"URL/token"}`, "URL", f.URL))
	r = connect(t, setup{yaml: strings.ReplaceAll("- {id: rig, issuer: 'URL', grants: [authorization_code, device_code], device_authorization: {auth: none}}", "URL", f.URL), connector: deviceConnector()})
	got, err = r.BeginDevice(t.Context(), "files", broker.ScopeSet{})
	if err != nil || got.VerificationURI != "https://x.example/device" || got.Interval != 0 || got.ExpiresIn != 30*time.Minute {
		t.Fatalf("%+v, %v", got, err)
	}
	equalForm(t, f.request("/device").PostForm, url.Values{"client_id": {"abc"}})
	if f.request("/device").Header.Get("Authorization") != "" {
		t.Error("the secret was sent")
	}
}

// Threat 21: users are sent to that address. And what is no answer is none.
func TestDeviceAuthorizationRefused(t *testing.T) {
	for body, want := range map[string]broker.Class{
		strings.ReplaceAll(deviceAnswerBody, "https://x.example/device", "javascript:alert(1)"):     broker.ClassRefused,
		strings.ReplaceAll(deviceAnswerBody, "https://x.example/device", "http://x.example/device"): broker.ClassRefused,
		strings.ReplaceAll(deviceAnswerBody, "user_code", "uc"):                                     broker.ClassRefused,
		`{"error":"invalid_client","error_description":"` + canaryText + `"}`:                       broker.ClassClientRefused,
		`{"error":"invalid_scope"}`: broker.ClassRefused,
		`<html>` + canaryText:       broker.ClassInDoubt,
	} {
		f := newFake(t)
		f.answers("/device", 200, body)
		r := connect(t, setup{yaml: f.plain(offersDevice), connector: deviceConnector()})
		_, err := r.BeginDevice(t.Context(), "files", broker.NewScopeSet("files.read"))
		class(t, err, want)
	}
	// The address with the code in it must be the same place.
	f := newFake(t)
	f.answers("/device", 200, strings.Replace(deviceAnswerBody, "https://x.example/device?", "https://evil.example/device?", 1))
	r := connect(t, setup{yaml: f.plain(offersDevice), connector: deviceConnector()})
	if got, err := r.BeginDevice(t.Context(), "files", broker.NewScopeSet("files.read")); err != nil || !got.VerificationURIComplete.IsZero() {
		t.Errorf("%q, %v", got.VerificationURIComplete.Reveal(), err)
	}
	// A connector that the operator did not open for it asks for no code.
	r = connect(t, setup{yaml: f.plain(offersDevice)})
	before := f.count("/device")
	_, err := r.BeginDevice(t.Context(), "files", broker.NewScopeSet("files.read"))
	class(t, err, broker.ClassRefused)
	if f.count("/device") != before {
		t.Error("a request went out")
	}
}

// RFC 8628 sections 3.4 and 3.5, whatever status a provider gives its errors.
func TestDevicePoll(t *testing.T) {
	for _, status := range []int{400, 403, 428, 200} {
		for code, want := range map[string]error{"authorization_pending": broker.ErrDevicePending, "slow_down": broker.ErrDeviceTooFast,
			"access_denied": broker.ErrDeviceDenied, "expired_token": broker.ErrDeviceExpired} {
			f := newFake(t)
			f.answers("/token", status, fmt.Sprintf(`{"error":%q}`, code))
			r := connect(t, setup{yaml: f.plain(offersDevice), connector: deviceConnector()})
			_, err := r.PollDevice(t.Context(), "files", broker.DevicePoll{DeviceCode: broker.NewSecret(canaryCode)})
			if !errors.Is(err, want) {
				t.Errorf("%d %s: %v", status, code, err)
			}
		}
	}
	f := newFake(t)
	answer := `{"access_token":"at","refresh_token":"rt","expires_in":600,"scope":"files.read offline_access"}`
	f.mux.HandleFunc("/token", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) })
	r := connect(t, setup{yaml: f.plain(offersDevice), connector: deviceConnector()})
	poll := func() (broker.Grant, error) {
		return r.PollDevice(t.Context(), "files", broker.DevicePoll{DeviceCode: broker.NewSecret(canaryCode)})
	}
	grant, err := poll()
	if err != nil || grant.RefreshToken.Reveal() != "rt" || grant.Scopes.String() != "files.read" && grant.Scopes.String() != "files.read offline_access" {
		t.Errorf("%+v, %v", grant, err)
	}
	equalForm(t, f.request("/token").PostForm, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {canaryCode}})
	// Tokens beside one of these codes are tokens.
	answer = `{"access_token":"at","refresh_token":"rt","error":"authorization_pending"}`
	if grant, err := poll(); err != nil || grant.AccessToken.Reveal() != "at" {
		t.Errorf("%+v, %v", grant, err)
	}
	answer = `{"error":"invalid_grant"}`
	_, err = poll()
	class(t, err, broker.ClassGrantDead)
}
