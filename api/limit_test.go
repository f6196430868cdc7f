package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func tooMany(wait time.Duration) error {
	return &broker.Error{Code: broker.CodeSlowDown, Description: "too many requests of this client; come again after Retry-After", RetryAfter: wait, Limited: true}
}

// Threat 69: one request too many is answered 429 with whole seconds to wait, before anything of it is read or done.
func TestThreat69LimitedRequests(t *testing.T) {
	b := newBench(t)
	var asked broker.Caller
	b.service.admitRequest = func(c broker.Caller) error {
		asked = c
		return tooMany(1200 * time.Millisecond)
	}
	b.service.admitCompletion = b.service.admitRequest
	for _, one := range b.api.routes.table {
		path := strings.NewReplacer(":id", "c1", ":subject", "u").Replace(one.path)
		r := b.call(one.method, path, "")
		r.refused(t, http.StatusTooManyRequests, broker.CodeSlowDown)
		if got := r.header.Get("Retry-After"); got != "2" {
			t.Errorf("%s: Retry-After %q", one.pattern, got)
		}
	}
	if asked.Client.ID != "acme-chat" || asked.Origin == nil {
		t.Errorf("asked about %+v", asked)
	}
	b.service.admitRequest, b.service.admitCompletion = nil, nil
	var subjects []string
	b.service.admitSubject = func(subject string) error {
		subjects = append(subjects, subject)
		return tooMany(time.Second)
	}
	for _, call := range [][3]string{
		{"POST", "/v1/tokens", `{"connector":"files","subject":"u1"}`},
		{"POST", "/v1/consents", `{"connector":"files","subject":"u2"}`},
		{"POST", "/v1/portal-sessions", `{"subject":"u4"}`},
		{"GET", "/v1/connections?subject=u6", ""},
		{"GET", "/v1/subjects/u7/connectors", ""},
		{"GET", "/v1/events?subject=u8", ""},
	} {
		b.call(call[0], call[1], call[2]).refused(t, http.StatusTooManyRequests, broker.CodeSlowDown)
	}
	if got := strings.Join(subjects, " "); got != "u1 u2 u4 u6 u7 u8" {
		t.Errorf("asked about %s", got)
	}
	// What ends access is not about how often.
	b.service.eraseSubject = func(string) (broker.Erased, error) { return broker.Erased{}, nil }
	if r := b.call("DELETE", "/v1/subjects/u1", ""); r.status != http.StatusOK {
		t.Errorf("erasing: %d %s", r.status, r.text)
	}
}

// Threat 69: the call that completes what a user has agreed to is not refused for what is asked about its user or by its client otherwise,
// and has a limit of its own.
func TestThreat69CompletionsAreRefusedLast(t *testing.T) {
	b := newBench(t)
	b.service.admitRequest = func(broker.Caller) error { return tooMany(time.Second) }
	b.service.admitSubject = func(string) error { return tooMany(time.Second) }
	asked := 0
	b.service.admitCompletion = func(c broker.Caller) error {
		if asked++; c.Client.ID != "acme-chat" {
			t.Errorf("asked about %+v", c)
		}
		return nil
	}
	gone := broker.Errorf(broker.CodeNotFound, "the use case was asked")
	b.service.completeConsent = func(string, broker.Completion) (broker.Connection, error) { return broker.Connection{}, gone }
	b.service.completePortal = func(string, broker.Completion) (broker.PortalEntrance, error) { return broker.PortalEntrance{}, gone }
	for _, path := range []string{"/v1/consents/c1/complete", "/v1/portal-sessions/c1/complete"} {
		b.call("POST", path, `{"subject":"u","code":"ABCD-EFGH"}`).refused(t, http.StatusNotFound, broker.CodeNotFound)
	}
	if asked != 2 {
		t.Errorf("asked %d times", asked)
	}
	b.call("GET", "/v1/consents/c1", "").refused(t, http.StatusTooManyRequests, broker.CodeSlowDown)
}

// Threats 39 and 52: a wrong key too many is answered 429 in place of 401; the right one is not held up.
func TestThreat39WrongKeys(t *testing.T) {
	b := newBench(t)
	from := ""
	b.service.admitWrongKey = func(address string) error {
		from = address
		return nil
	}
	b.call("GET", "/v1/connectors", "", "Authorization", "Bearer wrong").refused(t, http.StatusUnauthorized, broker.CodeInvalidClient)
	if from != "192.0.2.7" {
		t.Errorf("told that it came from %q", from)
	}
	b.service.admitWrongKey = func(string) error { return tooMany(time.Second) }
	b.call("GET", "/v1/connectors", "", "Authorization", "").refused(t, http.StatusUnauthorized, broker.CodeInvalidClient) // no key is no guess
	for _, key := range []string{"Bearer wrong", "Basic YTpi"} {
		r := b.call("GET", "/v1/connectors", "", "Authorization", key)
		r.refused(t, http.StatusTooManyRequests, broker.CodeSlowDown)
		if r.header.Get("Retry-After") != "1" || r.header.Get("Www-Authenticate") != "" {
			t.Errorf("headers %v", r.header)
		}
	}
	b.service.listConnectors = func() []broker.Connector { return nil }
	if r := b.call("GET", "/v1/connectors", ""); r.status != http.StatusOK {
		t.Errorf("the right key: %d %s", r.status, r.text)
	}
}
