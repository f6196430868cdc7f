package api

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func TestCreateConsent(t *testing.T) {
	b := newBench(t)
	var got broker.ConsentRequest
	b.service.createConsent = func(r broker.ConsentRequest) (broker.ConsentView, broker.ConsentLink, error) {
		got = r
		return broker.ConsentView{ID: "k1", Status: broker.ConsentPending, Binding: broker.BindingReturn},
			broker.ConsentLink{ID: "k1", URL: broker.NewSecret("http://127.0.0.1:8080/connect/CANARY"), Binding: broker.BindingReturn, ExpiresAt: testTime}, nil
	}
	r := b.call("POST", "/v1/consents", `{"connector":"files","subject":"u","scopes":["r"],"connection":"c1","return_to":"http://127.0.0.1:3000/done","state":"s","actor":{"agent":"a"}}`)
	want := map[string]any{"id": "k1", "url": "http://127.0.0.1:8080/connect/CANARY", "status": "pending", "binding": "return", "expires_at": "2026-11-24T11:00:00.123Z"}
	if r.status != http.StatusCreated || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	wantReq := broker.ConsentRequest{Connector: "files", Subject: "u", Scopes: broker.NewScopeSet("r"), Connection: "c1",
		ReturnTo: "http://127.0.0.1:3000/done", State: "s", Actor: broker.Actor{Agent: "a"}}
	if !reflect.DeepEqual(got, wantReq) {
		t.Errorf("request became %+v", got)
	}
	b.call("POST", "/v1/consents", `{"connector":"files","subject":"u","min_ttl":60}`).refused(t, 400, broker.CodeInvalidRequest)
}

func TestConsentStatus(t *testing.T) {
	b := newBench(t)
	view := broker.ConsentView{ID: "k1", Status: broker.ConsentPending, Connector: "files", Subject: "u", Binding: broker.BindingCode}
	b.service.consentStatus = func(id string) (broker.ConsentView, error) {
		if id != "k1" {
			t.Errorf("id is %q", id)
		}
		return view, nil
	}
	r := b.call("GET", "/v1/consents/k1", "")
	want := map[string]any{"id": "k1", "status": "pending", "connector": "files", "subject": "u", "scopes": []any{}, "binding": "code"}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	view.Status, view.Connection, view.Error = broker.ConsentFailed, "c1", "account_changed"
	view.Account, view.ExpiresAt = &broker.Account{ID: "9"}, testTime
	view.Scopes = broker.NewScopeSet("b", "a")
	r = b.call("GET", "/v1/consents/k1", "")
	want = map[string]any{"id": "k1", "status": "failed", "connector": "files", "subject": "u", "scopes": []any{"a", "b"}, "binding": "code",
		"connection": "c1", "error": "account_changed", "account": map[string]any{"id": "9", "name": "", "email": ""}, "expires_at": "2026-11-24T11:00:00.123Z"}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
}

func TestCompleteConsent(t *testing.T) {
	b := newBench(t)
	var got broker.Completion
	b.service.completeConsent = func(id string, c broker.Completion) (broker.Connection, error) {
		got = c
		return broker.Connection{ID: "c1", Subject: "u", Connector: "files", Status: broker.ConnectionActive, CreatedAt: testTime, Renewable: true}, nil
	}
	r := b.call("POST", "/v1/consents/k1/complete", `{"subject":"u","code":"bcdf ghjk\n"}`)
	want := map[string]any{"id": "c1", "subject": "u", "connector": "files", "status": "active", "scopes": []any{},
		"account": map[string]any{"id": "", "name": "", "email": ""}, "created_at": "2026-11-24T11:00:00.123Z",
		"last_issued_at": nil, "last_refreshed_at": nil, "expires_at": nil}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	if got.Subject != "u" || got.Code.Reveal() != "bcdf ghjk\n" || got.Replace {
		t.Errorf("completion became %q %q %v", got.Subject, got.Code.Reveal(), got.Replace)
	}
	if b.call("POST", "/v1/consents/k1/complete", `{"subject":"u","code":"x","replace":true}`); !got.Replace {
		t.Error("replace was lost")
	}
	calls := b.service.calls()
	for name, body := range map[string]string{
		"no subject": `{"code":"x"}`, "no code": `{"subject":"u"}`, "code empty": `{"subject":"u","code":""}`,
		"code number": `{"subject":"u","code":1}`, "replace text": `{"subject":"u","code":"x","replace":"yes"}`,
		"code long": `{"subject":"u","code":"CANARY` + strings.Repeat("x", 256) + `"}`,
	} {
		r := b.call("POST", "/v1/consents/k1/complete", body)
		r.refused(t, 400, broker.CodeInvalidRequest)
		if strings.Contains(r.text, "CANARY") {
			t.Errorf("%s: the code is in the answer", name)
		}
	}
	if b.service.calls() != calls {
		t.Error("the service was called with a bad completion")
	}
}

// An id that can be none is not found, whatever the method, and does not reach the service.
func TestPathIDs(t *testing.T) {
	b := newBench(t)
	for _, id := range []string{"a%2Fb", "a/b", "%00", "a%0d%0ab", "%7B%7D", "%F0%9F%98%80", "%ff", strings.Repeat("x", 129), strings.Repeat("x", 10<<10), "%20", "a%25", "*", ":id!"} {
		b.call("GET", "/v1/consents/"+id, "").refused(t, 404, broker.CodeNotFound)
		b.call("POST", "/v1/consents/"+id+"/complete", `{"subject":"u","code":"c"}`).refused(t, 404, broker.CodeNotFound)
		b.call("GET", "/v1/connections/"+id, "").refused(t, 404, broker.CodeNotFound)
		b.call("DELETE", "/v1/connections/"+id, "").refused(t, 404, broker.CodeNotFound)
	}
	if n := b.service.calls(); n != 0 {
		t.Errorf("the service was called %d times", n)
	}
}

func TestTimesAreCutAndUTC(t *testing.T) {
	if got := stamp(time.Date(2026, 1, 2, 3, 4, 5, 999999999, time.FixedZone("", -7200))); got != "2026-01-02T05:04:05.999Z" {
		t.Errorf("got %s", got)
	}
	if got := stamp(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)); got != "2026-01-02T03:04:05.000Z" {
		t.Errorf("got %s", got)
	}
}

// A consent on another device: what the user is shown is in the answer, and leads to the provider.
func TestCreateDeviceConsent(t *testing.T) {
	b := newBench(t)
	var got broker.ConsentRequest
	view := broker.ConsentView{ID: "c1", Status: broker.ConsentStarted, Connector: "files", Subject: "u", Binding: broker.BindingDevice, ExpiresAt: testTime,
		Device: &broker.DeviceView{UserCode: broker.NewSecret("WDJB-MJHT"), VerificationURI: "https://p.example/device", Interval: 5 * time.Second}}
	b.service.createConsent = func(r broker.ConsentRequest) (broker.ConsentView, broker.ConsentLink, error) {
		got = r
		return view, broker.ConsentLink{ID: "c1", URL: broker.NewSecret("https://broker.example/connect/LINK"), Binding: broker.BindingDevice, ExpiresAt: testTime.Add(time.Hour)}, nil
	}
	r := b.call("POST", "/v1/consents", `{"connector":"files","subject":"u","flow":"device"}`)
	want := map[string]any{"id": "c1", "url": "https://p.example/device", "status": "started", "binding": "device", "expires_at": "2026-11-24T11:00:00.123Z",
		"device": map[string]any{"user_code": "WDJB-MJHT", "verification_uri": "https://p.example/device", "interval": 5.0}}
	if r.status != 201 || !got.Device || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s for %+v", r.status, r.text, got)
	}
	view.Device.VerificationURIComplete = broker.NewSecret("https://p.example/device?user_code=WDJB-MJHT")
	if r := b.call("POST", "/v1/consents", `{"connector":"files","subject":"u","flow":"device"}`); r.object["url"] != "https://p.example/device?user_code=WDJB-MJHT" {
		t.Errorf("answer is %s", r.text)
	}
	if b.call("POST", "/v1/consents", `{"connector":"files","subject":"u","flow":"link"}`); got.Device {
		t.Error("a link is no device")
	}
	calls := b.service.calls()
	for _, flow := range []string{`"password"`, `"implicit"`, `"Device"`, `7`, `true`} {
		b.call("POST", "/v1/consents", `{"connector":"files","subject":"u","flow":`+flow+`}`).refused(t, 400, broker.CodeInvalidRequest)
	}
	if n := b.service.calls(); n != calls {
		t.Errorf("the service was called %d times", n-calls)
	}
	b.service.consentStatus = func(string) (broker.ConsentView, error) { return view, nil }
	if r := b.call("GET", "/v1/consents/c1", ""); r.status != 200 || r.object["device"] == nil {
		t.Errorf("status is %s", r.text)
	}
}
