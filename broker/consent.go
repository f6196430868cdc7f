package broker

import "time"

// How long the parts of a consent live.
const (
	// LinkLife is how long a consent link can be opened and started (contract.md).
	LinkLife = 10 * time.Minute
	// FlowLife is how long the user may take at the provider after starting.
	FlowLife = 10 * time.Minute
	// ReturnCodeLife is how long the code of binding "return" lives.
	ReturnCodeLife = 2 * time.Minute
	// ProvisionalLife is how long a grant of binding "code" waits for its code before it is revoked and erased.
	ProvisionalLife = 10 * time.Minute
	// ConsentKept is how long a finished consent can still be read.
	ConsentKept = time.Hour
	// MaxCodeAttempts wrong codes or subjects end a consent.
	MaxCodeAttempts = 5
)

// Binding is how a consent is tied to the person who asked in the chat; there is no mode without one
// (cross-user OAuth session fixation, draft-ietf-oauth-security-topics-update).
type Binding string

// The bindings of the contract.
const (
	BindingReturn Binding = "return"
	BindingCode   Binding = "code"
	// BindingLogin: the person signs in at the tenant's own OpenID Provider before the consent goes on (consent_login.go).
	BindingLogin Binding = "login"
)

// ConsentStatus is the state of a consent; doc.go draws its transitions.
type ConsentStatus string

// The states of a consent that callers see.
const (
	ConsentPending            ConsentStatus = "pending"
	ConsentStarted            ConsentStatus = "started"
	ConsentAwaitingCompletion ConsentStatus = "awaiting_completion"
	ConsentCompleted          ConsentStatus = "completed"
	ConsentDenied             ConsentStatus = "denied"
	ConsentFailed             ConsentStatus = "failed"
	ConsentExpired            ConsentStatus = "expired"
)

// Consent is one run of the authorization-code flow. Secrets in it are sealed by the store.
type Consent struct {
	ID        string
	Tenant    string
	Client    string
	Subject   string
	Actor     Actor
	Connector string
	// Scopes are all that the provider is asked for on the user's behalf; Added those that an existing connection lacks.
	Scopes ScopeSet
	Added  ScopeSet
	// Connection is the one to renew, where the caller named one or a missing scope made it necessary; else empty.
	Connection string
	Binding    Binding
	ReturnTo   string
	State      string // the client's own state, handed back with return_to
	Link       Secret

	Status ConsentStatus
	Error  string // a code, never a provider's text
	// Deadline ends the present phase: link, flow or completion.
	Deadline  time.Time
	CreatedAt time.Time

	// Of the running flow: set by each start, so that a second start in the same browser makes the first one's state void.
	BrowserDigest string // digest of the browser's cookie
	StateDigest   string // digest of the state; empty once it was used (single use, RFC 9700 section 4.7)
	Verifier      Secret // PKCE code_verifier (RFC 7636)
	Fingerprint   string // the provider's endpoints and client as they were at the start (mix-up, RFC 9700 section 4.4)
	// Issuer that the callback's iss must equal if there is one; IssuerRequired: there must be one (RFC 9207).
	Issuer         string
	IssuerRequired bool

	// After the callback.
	ProviderCode   Secret            // binding return: kept unexchanged until complete is called
	CallbackParams map[string]string // those that the definition wants kept (realmId, accounts-server)
	CompletionCode Secret            // what complete must bring
	Attempts       int               // wrong codes, subjects and sign-ins so far
	BusyUntil      time.Time         // somebody is exchanging or completing; zero: nobody

	// Provisional is the exchanged grant; no token comes out of it before completion.
	Provisional *Grant
	Identified  bool // the account lookup was done

	// Result is the connection that it made, at the end.
	Result  string
	Account Account

	RequestID string
	TraceID   string

	// Claim names the claim of BusyUntil, so that two claims of the same moment are two writes. It stays when the claim ends.
	Claim string

	// Device is set with binding "device".
	Device DeviceFlow
	// Login is set with binding "login", by each start.
	Login LoginRun
	// From is the address that the request for it came from, as Network has it: its place among the pending ones is found by it.
	From string

	// Version grows by one with every write; a write names the version it was made from. 0: not stored yet.
	Version int64
}

// ConsentLink is what a caller shows to its user.
type ConsentLink struct {
	ID        string
	URL       Secret
	Binding   Binding
	ExpiresAt time.Time
}
