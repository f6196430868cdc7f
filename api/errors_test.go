package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// The table of contract.md, through a real answer for each code.
func TestErrorTable(t *testing.T) {
	b := newBench(t)
	for code, status := range map[broker.Code]int{
		broker.CodeInvalidRequest: 400, broker.CodeInvalidScope: 400, broker.CodeInvalidCode: 400, broker.CodeInvalidClient: 401,
		broker.CodeAccessDenied: 403, broker.CodeSubjectMismatch: 403, broker.CodeNotFound: 404, broker.CodeLongLivedToken: 409, broker.CodeExpired: 410,
		broker.CodeSlowDown: 429, broker.CodeProviderMisconfigured: 502, broker.CodeProviderUnavailable: 503, broker.CodeTemporarilyUnavailable: 503,
		broker.CodeServerError: 500,
	} {
		if code == broker.CodeInvalidClient { // from the service it would lack WWW-Authenticate; authenticate.go is its only maker
			if statusOf(code) != status {
				t.Error(code)
			}
			continue
		}
		b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) {
			return broker.Token{}, fmt.Errorf("wrapped: %w", broker.Errorf(code, "do this and that").Because(errors.New("the private cause")))
		}
		r := b.call("POST", "/v1/tokens", goodBody)
		r.refused(t, status, code)
		if r.object["error_description"] != "do this and that" || strings.Contains(r.text, "private") || len(r.object) != 3 {
			t.Errorf("%s: %s", code, r.text)
		}
		wantRetry := code == broker.CodeSlowDown || code == broker.CodeProviderUnavailable || code == broker.CodeTemporarilyUnavailable
		if got := r.header.Get("Retry-After"); (got != "") != wantRetry || wantRetry && got != "1" {
			t.Errorf("%s: Retry-After is %q", code, got)
		}
	}
	if got := len(b.logs.lines(t, "request failed")); got != 4 {
		t.Errorf("%d failures were logged, want the four of 5xx", got)
	}
}

func TestErrorDetails(t *testing.T) {
	b := newBench(t)
	var answer *broker.Error
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) { return broker.Token{}, answer }
	b.service.completeConsent = func(string, broker.Completion) (broker.Connection, error) { return broker.Connection{}, answer }
	accounts := []broker.AccountChoice{{Connection: "c1", Account: broker.Account{ID: "1", Name: "A", Email: "a@x"}}, {Account: broker.Account{ID: "2"}}}
	wantAccounts := []any{
		map[string]any{"connection": "c1", "account": map[string]any{"id": "1", "name": "A", "email": "a@x"}},
		map[string]any{"connection": nil, "account": map[string]any{"id": "2", "name": "", "email": ""}}}

	answer = broker.Errorf(broker.CodeConsentRequired, "show the link")
	answer.Consent = &broker.ConsentRequired{Reason: broker.ReasonScopeMissing, MissingScopes: broker.NewScopeSet("b", "a"), Consent: broker.ConsentLink{
		ID: "k1", URL: broker.NewSecret("http://127.0.0.1:8080/connect/CANARY"), Binding: broker.BindingCode, ExpiresAt: testTime}}
	r := b.call("POST", "/v1/tokens", goodBody)
	r.refused(t, 409, broker.CodeConsentRequired)
	wantConsent := map[string]any{"id": "k1", "url": "http://127.0.0.1:8080/connect/CANARY", "binding": "code", "expires_at": "2026-11-24T11:00:00.123Z"}
	if r.object["reason"] != "scope_missing" || !reflect.DeepEqual(r.object["missing_scopes"], []any{"a", "b"}) || !reflect.DeepEqual(r.object["consent"], wantConsent) || len(r.object) != 6 {
		t.Errorf("answer is %s", r.text)
	}
	answer.Consent.MissingScopes = broker.ScopeSet{}
	if r = b.call("POST", "/v1/tokens", goodBody); !reflect.DeepEqual(r.object["missing_scopes"], []any{}) {
		t.Errorf("answer is %s", r.text)
	}

	answer = broker.Errorf(broker.CodeAccountSelectionRequired, "ask which one")
	answer.Accounts = accounts
	r = b.call("POST", "/v1/tokens", goodBody)
	r.refused(t, 409, broker.CodeAccountSelectionRequired)
	if !reflect.DeepEqual(r.object["accounts"], wantAccounts) || len(r.object) != 4 {
		t.Errorf("answer is %s", r.text)
	}
	answer = broker.Errorf(broker.CodeAccountChanged, "ask whether it was meant")
	answer.Accounts = accounts
	r = b.call("POST", "/v1/consents/k1/complete", `{"subject":"u","code":"x"}`)
	r.refused(t, 409, broker.CodeAccountChanged)
	if !reflect.DeepEqual(r.object["accounts"], wantAccounts) || len(r.object) != 4 {
		t.Errorf("answer is %s", r.text)
	}
	answer = broker.Errorf(broker.CodeTTLUnavailable, "ask for less")
	answer.MaxTTL = 3599*time.Second + 999*time.Millisecond
	r = b.call("POST", "/v1/tokens", goodBody)
	r.refused(t, 409, broker.CodeTTLUnavailable)
	if r.object["max_ttl"] != 3599.0 || len(r.object) != 4 {
		t.Errorf("answer is %s", r.text)
	}
	// Details of one code never ride on another.
	answer = broker.Errorf(broker.CodeNotFound, "there is none")
	answer.Accounts, answer.MaxTTL, answer.RetryAfter = accounts, time.Hour, time.Hour
	r = b.call("POST", "/v1/tokens", goodBody)
	if len(r.object) != 3 || r.header.Get("Retry-After") != "" {
		t.Errorf("answer is %s", r.text)
	}
}

func TestRetryAfterIsWholeSecondsAndNeverZero(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "1", -time.Hour: "1", time.Millisecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Minute: "60"} {
		if got := retryAfter(d); got != want {
			t.Errorf("%s: %s, want %s", d, got, want)
		}
	}
}

func TestUnknownErrors(t *testing.T) {
	b := newBench(t)
	for _, row := range []struct {
		err    error
		status int
		code   broker.Code
	}{
		{errors.New("dial tcp: the private cause"), 500, broker.CodeServerError},
		{broker.ErrNotFound, 500, broker.CodeServerError}, // a port's error that nobody translated is a fault in the program
		{broker.Errorf("new_code", "a code that the table lacks"), 500, broker.CodeServerError},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), 503, broker.CodeTemporarilyUnavailable},
		{context.Canceled, 503, broker.CodeTemporarilyUnavailable},
		{io.ErrUnexpectedEOF, 500, broker.CodeServerError},
	} {
		b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) { return broker.Token{}, row.err }
		r := b.call("POST", "/v1/tokens", goodBody)
		r.refused(t, row.status, row.code)
		if strings.Contains(r.text, "private") || strings.Contains(r.text, "lacks") || strings.Contains(r.text, "EOF") {
			t.Errorf("%v: the cause is in the answer: %s", row.err, r.text)
		}
		if row.status == 503 && r.header.Get("Retry-After") == "" {
			t.Errorf("%v: no Retry-After", row.err)
		}
		lines := b.logs.lines(t, "request failed")
		last := lines[len(lines)-1]
		if last["request_id"] != r.header.Get("Request-Id") || !strings.Contains(last["cause"].(string), row.err.Error()) {
			t.Errorf("%v: logged as %v", row.err, last)
		}
	}
}
