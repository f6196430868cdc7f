package broker

import (
	"errors"
	"fmt"
	"time"
)

// Code is the machine-readable half of an Error, one of contract.md's list; its HTTP status is the api package's matter.
type Code string

// The error codes of the contract, and of the administration of connectors.
const (
	CodeInvalidRequest           Code = "invalid_request"
	CodeInvalidScope             Code = "invalid_scope"
	CodeInvalidCode              Code = "invalid_code"
	CodeInvalidClient            Code = "invalid_client"
	CodeInvalidSubjectToken      Code = "invalid_subject_token" // a token that is to say who the user is, or acts for them, does not count
	CodeAccessDenied             Code = "access_denied"
	CodeSubjectMismatch          Code = "subject_mismatch"
	CodeLoginFailed              Code = "login_failed" // on pages alone: nobody signed in at the tenant's OpenID Provider
	CodeNotFound                 Code = "not_found"
	CodeConsentRequired          Code = "consent_required"
	CodeAccountSelectionRequired Code = "account_selection_required"
	CodeAccountChanged           Code = "account_changed"
	CodeLongLivedToken           Code = "long_lived_token"
	CodeTTLUnavailable           Code = "ttl_unavailable"
	CodeConnectorInUse           Code = "connector_in_use"
	CodeExpired                  Code = "expired"
	CodeSlowDown                 Code = "slow_down"
	CodeProviderMisconfigured    Code = "provider_misconfigured"
	CodeProviderUnavailable      Code = "provider_unavailable"
	CodeTemporarilyUnavailable   Code = "temporarily_unavailable"
	CodeServerError              Code = "server_error"
)

// Error is an error that a caller sees. Description is safe to show and says what to do; Cause is for the log alone.
// An error that is not an *Error becomes server_error at the edge.
type Error struct {
	Code        Code
	Description string
	Cause       error

	// Details of single codes, nil or zero elsewhere.
	Consent    *ConsentRequired // consent_required
	Accounts   []AccountChoice  // account_selection_required, account_changed
	MaxTTL     time.Duration    // ttl_unavailable
	AtLogin    bool             // provider_misconfigured, provider_unavailable: it is the tenant's own OpenID Provider
	Disabled   SwitchKind       // access_denied: what an operator disabled
	Limited    bool             // slow_down: by one of Limits, which is on record by the minute and not by the request
	RetryAfter time.Duration    // slow_down, provider_unavailable, temporarily_unavailable
}

// ConsentRequired says why the user must be asked, for what, and where.
type ConsentRequired struct {
	Reason        ConsentReason
	MissingScopes ScopeSet
	Consent       ConsentLink
}

// ConsentReason is why a consent is required.
type ConsentReason string

// The reasons of the contract.
const (
	ReasonNeverConnected ConsentReason = "never_connected"
	ReasonScopeMissing   ConsentReason = "scope_missing"
	ReasonRevoked        ConsentReason = "revoked"
	ReasonExpired        ConsentReason = "expired"
)

// AccountChoice is one of several accounts that a caller must choose from.
type AccountChoice struct {
	Connection string // id; empty for an account that has no connection yet
	Account    Account
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Description, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Description)
}

func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error with a description that callers may read. A cause, which they may not, is given to Because.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Description: fmt.Sprintf(format, args...)}
}

// Because adds the cause, which callers never see.
func (e *Error) Because(cause error) *Error {
	e.Cause = cause
	return e
}

// UnreadableError names connections whose records do not open. The readable ones are returned beside it.
type UnreadableError struct {
	IDs   []string
	Cause error // ErrIntegrity among others
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("%d connections can't be read: %v", len(e.IDs), e.Cause)
}

func (e *UnreadableError) Unwrap() error { return e.Cause }

// CodeOf tells the code that a caller will see for err.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeServerError
}

// What ports return. They are compared with errors.Is; anything else from a store port means that the store could not
// do it or that the outcome is unknown.
var (
	// ErrNotFound: there is no such record for this tenant (a foreign one looks the same).
	ErrNotFound = errors.New("not found")
	// ErrConflict: the record changed since it was read; read it again and decide again.
	ErrConflict = errors.New("record changed meanwhile")
	// ErrBusy: another holder has an unexpired lease on the record.
	ErrBusy = errors.New("record is being refreshed by another holder")
	// ErrIntegrity: a sealed value did not open with the associated data of the place where it lies.
	ErrIntegrity = errors.New("sealed value does not belong here or was changed")
	// ErrKeyNotYet: a value is sealed with a key that this process does not have. It may be a newer one, which another replica has: it
	// is being looked for.
	ErrKeyNotYet = errors.New("sealed with a key that this process does not have yet")
	// ErrTenantErased: the keyset of the tenant was destroyed, and with it all that the tenant had here.
	ErrTenantErased = errors.New("the tenant's keyset was destroyed")
	// ErrSpooled: the store could not take a refreshed grant, but it is kept beside it, and will be stored later.
	ErrSpooled = errors.New("refreshed grant is kept in the spool")
	// ErrNewerFormat: the record was written by a newer program; it is left untouched.
	ErrNewerFormat = errors.New("record has a newer format than this program knows")
)
