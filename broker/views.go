package broker

import "time"

// What the use cases hand to the edges. None of these types can hold a token.

// ConsentView is a consent as its client sees it.
type ConsentView struct {
	ID         string
	Status     ConsentStatus
	Connector  string
	Subject    string
	Scopes     ScopeSet
	Binding    Binding
	Connection string
	Account    *Account
	Error      string
	ExpiresAt  time.Time
	Device     *DeviceView // of a consent on another device, until the user has decided
}

// ConnectionQuery selects and pages connections.
type ConnectionQuery struct {
	Subject string
	Filter  ConnectionFilter
	Limit   int // 1 to 200
	Cursor  string
}

// EventQuery selects and pages events.
type EventQuery struct {
	Filter EventFilter
	Limit  int // 1 to 1000
	Cursor string
}

// RevokedUpstream tells what became of a grant at the provider.
type RevokedUpstream string

// The outcomes of a revocation.
const (
	RevokedDone        RevokedUpstream = "done"
	RevokedUnsupported RevokedUpstream = "unsupported"
	RevokedFailed      RevokedUpstream = "failed"
)

// Erased is the result of erasing a subject.
type Erased struct {
	Connections     int
	RevokedUpstream map[RevokedUpstream]int
}

// SubjectConnector is a connector with the subject's connections to it.
type SubjectConnector struct {
	Connector   Connector
	Connections []Connection // empty: not connected
}

// ConsentPage is what the page behind a link shows.
type ConsentPage struct {
	ConsentID  string
	ClientID   string // whose look the page has
	ClientName string
	Origins    []string // that may hear how it ended
	Connector  Connector
	// Scopes are what is asked, in plain words; New marks those that an existing connection lacks.
	Scopes  []PageScope
	Renewal bool // an existing connection is renewed
	Account *Account
	Binding Binding
	Status  ConsentStatus
	Expires time.Time
}

// PageScope is a scope on a page.
type PageScope struct {
	ScopeInfo
	New bool
}

// Start is where a started consent sends the browser.
type Start struct {
	ConsentID string
	Location  Secret // the provider's authorization URL
	// Cookie binds the consent to this browser, under CookieName, for MaxAge.
	CookieName string
	Cookie     Secret
	MaxAge     time.Duration
	// Destination is the scheme and host of Location, for the page's form-action.
	Destination string
}

// Callback is what the provider's redirect brought.
type Callback struct {
	Connector string // from the path
	State     Secret
	Code      Secret
	Issuer    string // iss; empty when absent
	HasIssuer bool
	Error     string // the provider's error code; empty when absent
	Params    map[string]string
	// Cookie returns the browser's cookie of that name, or the zero Secret.
	Cookie func(name string) Secret
}

// all are the query parameters of the callback.
func (cb Callback) all() map[string]Secret {
	params := map[string]Secret{"state": cb.State}
	for name, value := range cb.Params {
		params[name] = NewSecret(value)
	}
	if !cb.Code.IsZero() {
		params["code"] = cb.Code
	}
	return params
}

// Finish is what the browser gets to see after a callback or a cancel.
type Finish struct {
	ConsentID  string
	Status     ConsentStatus
	ClientID   string // whose look the page has
	ClientName string
	Connector  Connector
	Origins    []string
	Binding    Binding
	Account    *Account
	// Previous is the account of the connection that the consent names, where the user came back with another one and that is
	// not settled yet. With binding "code" the chat asks about it, with binding "login" the page does (Undecided).
	Previous *Account
	// Location is set where the browser goes on to the client's return_to; it carries the completion code, if there is one.
	Location Secret
	// UserCode is what the user types in the chat (binding code).
	UserCode Secret
	Error    string // a code for a fixed text; never a provider's text
}

// Undecided tells that a grant is there and waits for the user's word on the page: whether another account shall replace the one
// before (Previous), or to try again what did not work just now.
func (f Finish) Undecided() bool {
	return f.Binding == BindingLogin && f.Status == ConsentAwaitingCompletion
}
