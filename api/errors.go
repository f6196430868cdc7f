package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"tokenbroker/broker"
)

// refusal is an error of HTTP itself: its status is not its code's, or it comes with headers.
type refusal struct {
	status int
	header http.Header
	err    *broker.Error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// statusOf is the table of contract.md. What is not in it is our fault.
func statusOf(code broker.Code) int {
	switch code {
	case broker.CodeInvalidRequest, broker.CodeInvalidScope, broker.CodeInvalidCode:
		return http.StatusBadRequest
	case broker.CodeInvalidClient, broker.CodeInvalidSubjectToken:
		return http.StatusUnauthorized
	case broker.CodeAccessDenied, broker.CodeSubjectMismatch:
		return http.StatusForbidden
	case broker.CodeNotFound:
		return http.StatusNotFound
	case broker.CodeConsentRequired, broker.CodeAccountSelectionRequired, broker.CodeAccountChanged,
		broker.CodeLongLivedToken, broker.CodeTTLUnavailable, broker.CodeConnectorInUse:
		return http.StatusConflict
	case broker.CodeExpired:
		return http.StatusGone
	case broker.CodeSlowDown:
		return http.StatusTooManyRequests
	case broker.CodeProviderMisconfigured:
		return http.StatusBadGateway
	case broker.CodeProviderUnavailable, broker.CodeTemporarilyUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// errorAnswer is the one shape of every error; the further fields belong to single codes.
type errorAnswer struct {
	Error       broker.Code          `json:"error"`
	Description string               `json:"error_description"`
	RequestID   string               `json:"request_id"`
	Reason      broker.ConsentReason `json:"reason,omitzero"`
	Missing     *[]string            `json:"missing_scopes,omitzero"`
	Consent     *linkAnswer          `json:"consent,omitzero"`
	Accounts    *[]accountChoice     `json:"accounts,omitzero"`
	MaxTTL      *int64               `json:"max_ttl,omitzero"`
}

type linkAnswer struct {
	ID        string         `json:"id"`
	URL       string         `json:"url"`
	Binding   broker.Binding `json:"binding"`
	ExpiresAt string         `json:"expires_at"`
}

type accountChoice struct {
	// Connection is null for an account that has no connection yet.
	Connection *string `json:"connection"`
	Account    account `json:"account"`
}

// failure is an error as it will be answered.
type failure struct {
	status int
	header http.Header
	body   errorAnswer
}

const internalDescription = "something went wrong here; repeat the request later, and if it stays, give the operator the request_id"

// explain decides how err is answered. Only what a *broker.Error says of itself reaches the caller; causes are for the log.
func explain(err error, requestID string) failure {
	var known *broker.Error
	if !errors.As(err, &known) {
		// The deadline is ours (entrance.go), and waiting for something that did not come is not a fault in the program.
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			known = broker.Errorf(broker.CodeTemporarilyUnavailable, "the answer was not ready in time; repeat the request")
		} else {
			known = broker.Errorf(broker.CodeServerError, internalDescription)
		}
	}
	f := failure{status: statusOf(known.Code), header: http.Header{}}
	f.body = errorAnswer{Error: known.Code, Description: known.Description, RequestID: requestID}
	if f.status == http.StatusInternalServerError {
		f.body.Error = broker.CodeServerError
		if known.Code != broker.CodeServerError || f.body.Description == "" {
			f.body.Description = internalDescription
		}
	}
	switch known.Code {
	case broker.CodeConsentRequired:
		f.consentRequired(known.Consent)
	case broker.CodeAccountSelectionRequired, broker.CodeAccountChanged:
		f.accounts(known.Accounts)
	case broker.CodeTTLUnavailable:
		seconds := wholeSeconds(known.MaxTTL)
		f.body.MaxTTL = &seconds
	case broker.CodeSlowDown, broker.CodeProviderUnavailable, broker.CodeTemporarilyUnavailable:
		f.header.Set("Retry-After", retryAfter(known.RetryAfter))
	}
	if known.Code == broker.CodeInvalidSubjectToken { // RFC 9110 section 15.5.2
		f.header.Set("Www-Authenticate", bearerChallenge)
	}
	var r *refusal
	if errors.As(err, &r) {
		f.status = r.status
		for name, values := range r.header {
			f.header[name] = values
		}
	}
	return f
}

func (f *failure) consentRequired(c *broker.ConsentRequired) {
	missing := []string{}
	f.body.Missing = &missing
	if c == nil {
		return
	}
	f.body.Reason = c.Reason
	missing = append(missing, c.MissingScopes.All()...)
	f.body.Consent = &linkAnswer{ID: c.Consent.ID, URL: c.Consent.URL.Reveal(), Binding: c.Consent.Binding,
		ExpiresAt: stamp(c.Consent.ExpiresAt)}
}

func (f *failure) accounts(choices []broker.AccountChoice) {
	list := make([]accountChoice, 0, len(choices))
	for _, c := range choices {
		list = append(list, accountChoice{Connection: textOrNull(c.Connection), Account: account(c.Account)})
	}
	f.body.Accounts = &list
}

// retryAfter is the header's value in whole seconds (RFC 9110 section 10.2.3), rounded up and never 0: a caller that
// comes back at once is what it is there to prevent.
func retryAfter(d time.Duration) string {
	return strconv.Itoa(int(max(1, math.Ceil(d.Seconds()))))
}
