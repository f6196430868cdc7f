package providers

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tokenbroker/broker"
)

// maxRetryAfter bounds how long a provider can send us away.
const maxRetryAfter = 10 * time.Minute

// codeClass has the error codes of the standards and what they mean: RFC 6749 sections 4.1.2.1 and 5.2, RFC 6750 section 3.1,
// RFC 7009 section 2.2.1, RFC 8628 section 3.5, RFC 8707 section 2, OpenID Connect Core section 3.1.2.6.
func codeClass(code string) (broker.Class, bool) {
	switch code {
	case "invalid_grant":
		return broker.ClassGrantDead, true
	case "invalid_client", "unauthorized_client", "unsupported_grant_type", "redirect_uri_mismatch":
		return broker.ClassClientRefused, true
	case "temporarily_unavailable", "slow_down":
		return broker.ClassThrottled, true
	case "server_error":
		return broker.ClassInDoubt, true
	case "invalid_request", "invalid_scope", "invalid_target", "access_denied", "invalid_token", "insufficient_scope",
		"unsupported_token_type", "interaction_required", "login_required", "consent_required", "account_selection_required":
		return broker.ClassRefused, true
	}
	return "", false
}

// failure says what an answer without what was asked for means. Nothing of the answer's text gets into it but a code
// that is on a list.
func (s *server) failure(who string, a answer, t tree) *broker.UpstreamError {
	e := &broker.UpstreamError{Status: a.status, Cause: a.broken}
	e.RetryAfter = retryAfter(a.header.Get("Retry-After"), a.sent)
	code, listed, known := s.code(t)
	if known {
		e.Code = code
	}
	for _, rule := range s.def.Errors.When {
		if s.matches(rule, a.status, code, t) {
			if rule.Code == code {
				e.Code = code
			}
			e.Class, e.What = broker.Class(rule.Class), who+" refused the request"
			return e
		}
	}
	switch status := a.status; {
	case status == http.StatusTooManyRequests, status == http.StatusTooEarly, status == http.StatusServiceUnavailable && e.RetryAfter > 0:
		e.Class, e.What = broker.ClassThrottled, who+" asks to wait"
	case status >= 500, status == http.StatusRequestTimeout, status < 200:
		e.Class, e.What = broker.ClassInDoubt, who+" failed"
	case status >= 300 && status < 400:
		e.Class, e.What = broker.ClassRefused, who+" answered with a redirect, which is not followed: check its address"
	case known:
		e.Class, e.What = listed, who+" refused the request"
	case status < 300 && (code != "" || t.saysNotOK(s.def.Errors)):
		e.Class, e.What = broker.ClassRefused, who+" refused the request with an unknown code"
	case status < 300:
		e.Class, e.What = broker.ClassInDoubt, who+" gave an answer that can't be read"
	case status == http.StatusUnauthorized:
		e.Class, e.What = broker.ClassClientRefused, who+" does not accept the client"
	default:
		// Without a code of OAuth's it is not known whom the refusal is about (a proxy's page, a moved address), so it is not
		// taken for a verdict on our client, which would stop the connector for everybody.
		e.Class, e.What = broker.ClassRefused, who+" refused the request"
	}
	return e
}

// code is the answer's error code: of several places the first with a code that is on a list, else the first with any.
func (s *server) code(t tree) (code string, class broker.Class, known bool) {
	for _, place := range strings.Split(s.def.Errors.Code, "|") {
		text, ok := scalar(t.at(place))
		if !ok {
			continue
		}
		if class, known = s.listedClass(text); known {
			return text, class, true
		}
		def(&code, text)
	}
	return code, "", false
}

// listedClass is what a code means by the definition's lists, then by the standards.
func (s *server) listedClass(code string) (broker.Class, bool) {
	if code == "" {
		return "", false
	}
	for _, list := range s.def.Errors.lists() {
		if slices.Contains(list.codes, code) {
			return list.class, true
		}
	}
	return codeClass(code)
}

func (s *server) matches(rule ErrorRule, status int, code string, t tree) bool {
	if rule.Status != 0 && rule.Status != status || rule.Code != "" && rule.Code != code {
		return false
	}
	if rule.Contains != "" {
		text, _ := scalar(t.at(s.def.Errors.Description))
		if !strings.Contains(strings.ToLower(text), strings.ToLower(rule.Contains)) {
			return false
		}
	}
	if rule.Path != "" {
		values, ok := t.at(rule.Path).([]any)
		if !ok {
			values = []any{t.at(rule.Path)}
		}
		return slices.ContainsFunc(values, func(v any) bool { text, _ := scalar(v); return text == rule.Value })
	}
	return true
}

// saysNotOK tells that an answer is an error whatever its HTTP status says: it has what only errors have, or the value that is
// true where all went well is there and is not.
func (t tree) saysNotOK(e Errors) bool {
	if e.Present != "" {
		switch v := t.at(e.Present).(type) {
		case nil:
		case []any:
			return len(v) > 0
		case map[string]any:
			return len(v) > 0
		default:
			return true
		}
	}
	if e.OK == "" {
		return false
	}
	text, ok := scalar(t.at(e.OK))
	return ok && text != "true"
}

// retryAfter reads seconds, however many, or a date (RFC 9110 section 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if at, err := http.ParseTime(value); err == nil {
		return max(0, min(at.Sub(now), maxRetryAfter))
	}
	seconds, err := strconv.ParseFloat(value, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange), !(seconds > 0): // NaN is not
		return 0
	case seconds >= maxRetryAfter.Seconds():
		return maxRetryAfter
	}
	return time.Duration(seconds * float64(time.Second))
}
