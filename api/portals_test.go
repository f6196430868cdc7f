package api

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"tokenbroker/broker"
)

func (f *fakeService) CreatePortal(ctx context.Context, c broker.Caller, r broker.PortalRequest) (broker.PortalView, broker.PortalLink, error) {
	f.called(ctx, c, f.createPortal != nil)
	return f.createPortal(r)
}
func (f *fakeService) PortalStatus(ctx context.Context, c broker.Caller, id string) (broker.PortalView, error) {
	f.called(ctx, c, f.portalStatus != nil)
	return f.portalStatus(id)
}
func (f *fakeService) CompletePortal(ctx context.Context, c broker.Caller, id string, x broker.Completion) (broker.PortalEntrance, error) {
	f.called(ctx, c, f.completePortal != nil)
	return f.completePortal(id, x)
}

func TestCreatePortal(t *testing.T) {
	b := newBench(t)
	var got broker.PortalRequest
	b.service.createPortal = func(r broker.PortalRequest) (broker.PortalView, broker.PortalLink, error) {
		got = r
		return broker.PortalView{ID: "p1", Status: broker.PortalPending},
			broker.PortalLink{ID: "p1", URL: broker.NewSecret("http://127.0.0.1:8080/portal/CANARY"), Binding: broker.BindingReturn, ExpiresAt: testTime}, nil
	}
	r := b.call("POST", "/v1/portal-sessions", `{"subject":"u","return_to":"http://127.0.0.1:3000/done","state":"s"}`)
	want := map[string]any{"id": "p1", "url": "http://127.0.0.1:8080/portal/CANARY", "status": "pending", "binding": "return", "expires_at": "2026-11-24T11:00:00.123Z"}
	if r.status != http.StatusCreated || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	if got != (broker.PortalRequest{Subject: "u", ReturnTo: "http://127.0.0.1:3000/done", State: "s"}) {
		t.Errorf("request became %+v", got)
	}
	calls := b.service.calls()
	for name, body := range map[string]string{
		"no subject": `{}`, "subject empty": `{"subject":""}`, "subject with a line break": `{"subject":"a\nb"}`, "unknown field": `{"subject":"u","connector":"files"}`,
		"twice": `{"subject":"u","subject":"v"}`, "long return_to": `{"subject":"u","return_to":"https://x/` + strings.Repeat("x", 2048) + `"}`, "list": `[]`,
	} {
		if r := b.call("POST", "/v1/portal-sessions", body); r.status != 400 {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	if b.service.calls() != calls {
		t.Error("the service was called with a bad request")
	}
}

func TestPortalStatus(t *testing.T) {
	b := newBench(t)
	b.service.portalStatus = func(id string) (broker.PortalView, error) {
		return broker.PortalView{ID: id, Status: broker.PortalOpen, Subject: "u", Binding: broker.BindingCode, ExpiresAt: testTime}, nil
	}
	r := b.call("GET", "/v1/portal-sessions/p1", "")
	want := map[string]any{"id": "p1", "status": "open", "subject": "u", "binding": "code", "expires_at": "2026-11-24T11:00:00.123Z"}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
}

func TestCompletePortal(t *testing.T) {
	b := newBench(t)
	var got broker.Completion
	b.service.completePortal = func(id string, c broker.Completion) (broker.PortalEntrance, error) {
		got = c
		return broker.PortalEntrance{
			View: broker.PortalView{ID: id, Status: broker.PortalStarted, Subject: "u", Binding: broker.BindingReturn, ExpiresAt: testTime},
			URL:  broker.NewSecret("http://127.0.0.1:8080/portal/session/p1/enter/CANARY"),
		}, nil
	}
	r := b.call("POST", "/v1/portal-sessions/p1/complete", `{"subject":"u","code":"bcdf ghjk\n"}`)
	want := map[string]any{"id": "p1", "status": "started", "subject": "u", "binding": "return", "expires_at": "2026-11-24T11:00:00.123Z",
		"url": "http://127.0.0.1:8080/portal/session/p1/enter/CANARY"}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) || got.Subject != "u" || got.Code.Reveal() != "bcdf ghjk\n" {
		t.Errorf("answer is %d %s for %q", r.status, r.text, got.Subject)
	}
	for _, refusal := range []struct {
		code   broker.Code
		status int
	}{
		{broker.CodeSubjectMismatch, 403}, {broker.CodeInvalidCode, 400}, {broker.CodeExpired, 410}, {broker.CodeNotFound, 404}, {broker.CodeTemporarilyUnavailable, 503},
	} {
		b.service.completePortal = func(string, broker.Completion) (broker.PortalEntrance, error) {
			return broker.PortalEntrance{URL: broker.NewSecret("CANARY")}, broker.Errorf(refusal.code, "what to do about it")
		}
		r := b.call("POST", "/v1/portal-sessions/p1/complete", `{"subject":"u","code":"x"}`)
		if r.refused(t, refusal.status, refusal.code); strings.Contains(r.text, "CANARY") {
			t.Error("a refusal has the address")
		}
	}
	calls := b.service.calls()
	for name, body := range map[string]string{
		"no subject": `{"code":"x"}`, "no code": `{"subject":"u"}`, "replace": `{"subject":"u","code":"x","replace":true}`, "long": `{"subject":"u","code":"CANARY` + strings.Repeat("x", 256) + `"}`,
	} {
		if r := b.call("POST", "/v1/portal-sessions/p1/complete", body); r.status != 400 || strings.Contains(r.text, "CANARY") {
			t.Errorf("%s: %d %s", name, r.status, r.text)
		}
	}
	for _, id := range []string{"a%2Fb", "%00", strings.Repeat("x", 129), "*"} {
		b.call("GET", "/v1/portal-sessions/"+id, "").refused(t, 404, broker.CodeNotFound)
		b.call("POST", "/v1/portal-sessions/"+id+"/complete", `{"subject":"u","code":"c"}`).refused(t, 404, broker.CodeNotFound)
	}
	if b.service.calls() != calls {
		t.Error("the service was called with a bad completion")
	}
}
