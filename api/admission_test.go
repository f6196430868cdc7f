package api

import (
	"net/http"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// A client that is disabled gets nothing from any call, but can end what there is. Calls whose use case looks at the kill switches by
// itself are let through to it.
func TestDisabledClient(t *testing.T) {
	b := newBench(t)
	asked := 0
	b.service.admit = func(c broker.Caller) error {
		asked++
		if c.Client.ID != "acme-chat" || c.RequestID == "" {
			t.Errorf("asked about %+v", c)
		}
		e := broker.Errorf(broker.CodeAccessDenied, "this client was disabled by the operator")
		e.Disabled = broker.SwitchClient
		return e
	}
	b.service.disconnect = func(string) (broker.RevokedUpstream, error) { return broker.RevokedDone, nil }
	b.service.eraseSubject = func(string) (broker.Erased, error) { return broker.Erased{}, nil }
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) {
		return broker.Token{}, broker.Errorf(broker.CodeAccessDenied, "this client was disabled by the operator")
	}
	refused := 0
	for _, one := range b.api.routes.table {
		if one.stays {
			continue
		}
		path := strings.NewReplacer(":id", "c1", ":subject", "u").Replace(one.path)
		if one.method != http.MethodGet {
			continue // their bodies come behind the refusal; they are all told apart by the same flag
		}
		b.call(one.method, path, "").refused(t, http.StatusForbidden, broker.CodeAccessDenied)
		refused++
	}
	b.call("POST", "/v1/admin/connectors", `{"provider":"x","client_id":"y"}`).refused(t, http.StatusForbidden, broker.CodeAccessDenied)
	if refused < 8 || asked != refused+1 {
		t.Errorf("%d calls refused, asked %d times", refused, asked)
	}
	for _, path := range []string{"/v1/connections/c1", "/v1/subjects/u"} {
		if r := b.call("DELETE", path, ""); r.status != http.StatusOK {
			t.Errorf("DELETE %s: %d %s", path, r.status, r.text)
		}
	}
	b.call("POST", "/v1/tokens", `{"connector":"files","subject":"u"}`).refused(t, http.StatusForbidden, broker.CodeAccessDenied)
	if asked != refused+1 {
		t.Error("asked for a call that asks by itself")
	}
}
