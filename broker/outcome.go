package broker

import (
	"errors"
	"fmt"
	"time"
)

// ErrRevokeUnsupported: the provider has no way to revoke a grant.
var ErrRevokeUnsupported = errors.New("provider has no revocation")

// Class tells what a failed request to a provider means. It is decided where the answer is read, by the definition's
// tables, never by matching text.
type Class string

// The classes (faults.md, step 9).
const (
	// ClassGrantDead: the provider says that the grant is over (invalid_grant). The user must consent again.
	ClassGrantDead Class = "grant_dead"
	// ClassClientRefused: our OAuth client is refused or misconfigured (invalid_client, unauthorized_client,
	// redirect_uri mismatch). The operator must act; no connection is touched.
	ClassClientRefused Class = "client_refused"
	// ClassUnsent: nothing was written to the provider (dial, TLS). Safe to repeat.
	ClassUnsent Class = "unsent"
	// ClassThrottled: the provider said that it did not do it, try later (429, 503 with Retry-After).
	ClassThrottled Class = "throttled"
	// ClassInDoubt: sent, but it is not known whether the provider did it (timeout, reset, 5xx, an unreadable answer).
	ClassInDoubt Class = "in_doubt"
	// ClassRefused: the provider refused the request for another reason (invalid_scope, a malformed request).
	ClassRefused Class = "refused"
)

// UpstreamError is a failed request to a provider. It never holds the provider's text: that may echo secrets.
type UpstreamError struct {
	Class  Class
	Status int    // HTTP status, 0 without an answer
	Code   string // the provider's error code if it is on the definition's or the RFCs' lists; else empty
	// RetryAfter as the provider asked, 0 if it did not.
	RetryAfter time.Duration
	// What failed, in our words: "token endpoint answered with a redirect".
	What  string
	Cause error // without secrets: a net error, a deadline
}

func (e *UpstreamError) Error() string {
	s := fmt.Sprintf("provider: %s (%s", e.What, e.Class)
	if e.Status != 0 {
		s += fmt.Sprintf(", HTTP %d", e.Status)
	}
	if e.Code != "" {
		s += ", " + e.Code
	}
	s += ")"
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *UpstreamError) Unwrap() error { return e.Cause }

// retryAfter is how long the provider asked to be left alone; 0: it did not say.
func retryAfter(err error) time.Duration {
	var u *UpstreamError
	if errors.As(err, &u) {
		return u.RetryAfter
	}
	return 0
}

// ClassOf returns the class of an upstream error; anything unknown is in doubt.
func ClassOf(err error) Class {
	var u *UpstreamError
	if errors.As(err, &u) {
		return u.Class
	}
	return ClassInDoubt
}
