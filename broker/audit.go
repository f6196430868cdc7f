package broker

import "time"

// EventType is the type of an audit event.
type EventType string

// The event types of the contract, those of what tenants do with connectors of their own, and those of "My connections".
const (
	EventConsentCreated         EventType = "consent.created"
	EventConsentStarted         EventType = "consent.started"
	EventConsentSignedIn        EventType = "consent.signed_in"
	EventConsentGranted         EventType = "consent.granted"
	EventConsentDenied          EventType = "consent.denied"
	EventConsentFailed          EventType = "consent.failed"
	EventConsentCompleted       EventType = "consent.completed"
	EventTokenIssued            EventType = "token.issued"
	EventTokenRefused           EventType = "token.refused"
	EventTokenRefreshed         EventType = "token.refreshed"
	EventTokenRefreshFailed     EventType = "token.refresh_failed"
	EventScopeReduced           EventType = "connection.scope_reduced"
	EventConnectionNeedsConsent EventType = "connection.needs_consent"
	EventConnectionRevoked      EventType = "connection.revoked"
	EventConnectionNoticed      EventType = "connection.noticed"
	EventSubjectErased          EventType = "subject.erased"
	EventIntegrityFailed        EventType = "integrity.failed"
	EventConnectorCreated       EventType = "connector.created"
	EventConnectorUpdated       EventType = "connector.updated"
	EventConnectorDeleted       EventType = "connector.deleted"
	EventPortalCreated          EventType = "portal.created"
	EventPortalOpened           EventType = "portal.opened"
	EventPortalRefused          EventType = "portal.refused"
	EventOperatorSignedIn       EventType = "operator.signed_in"
	EventOperatorSignedOut      EventType = "operator.signed_out"
	EventOperatorSessionsEnded  EventType = "operator.sessions_ended"
	EventOperatorSignInFailed   EventType = "operator.sign_in_failed"
	EventOperatorViewed         EventType = "operator.viewed"
	EventOperatorRevoked        EventType = "operator.revoked"
	EventOperatorRefreshed      EventType = "operator.refreshed"
	EventOperatorLinkCreated    EventType = "operator.link_created"
	EventOperatorExported       EventType = "operator.exported"
	EventOperatorDisabled       EventType = "operator.disabled"
	EventOperatorEnabled        EventType = "operator.enabled"
	EventOperatorJobStarted     EventType = "operator.job_started"
	EventOperatorJobPaused      EventType = "operator.job_paused"
	EventOperatorJobResumed     EventType = "operator.job_resumed"
	EventOperatorJobEnded       EventType = "operator.job_ended"
	EventOperatorJobRate        EventType = "operator.job_rate"
	EventTrailTrimmed           EventType = "audit.trimmed" // older events of the tenant are dropped
)

// Entry is what one operation leaves in the audit trail: one event for each of its scopes, which share everything else.
// The store keeps an entry whole, so either all its events exist or none.
type Entry struct {
	Type       EventType
	Time       time.Time
	Tenant     string // "" for what concerns the whole installation
	Client     string
	Subject    string // "" for what concerns no subject
	Actor      Actor
	Connector  string
	Connection string
	// Scopes: one event each. An entry without any makes one event whose scope is empty.
	Scopes    []EventScope
	Outcome   string // "ok", or the error code or reason code
	Reason    string // why: the reason that the caller stated, or ours
	RequestID string
	TraceID   string
	// Portal is the visit to "My connections" that it is about, or in which the user did it: no agent acted then, and Actor is
	// empty. Only the broker sets it.
	Portal string
}

// EventScope is the part in which the events of one entry differ.
type EventScope struct {
	ID        string // the event's id, made by the service
	Scope     string
	Requested bool
}

// Event is one audit record about one scope, as callers read it.
type Event struct {
	ID         string
	Time       time.Time
	Type       EventType
	Tenant     string
	Client     string
	Subject    string
	Actor      Actor
	Connector  string
	Connection string
	Scope      string
	Requested  bool
	Outcome    string
	Reason     string
	RequestID  string
	TraceID    string
	Portal     string
}

// EventFilter selects events; zero fields select nothing out. Since is inclusive, Until exclusive.
type EventFilter struct {
	Subject    string
	Connector  string
	Connection string
	Type       EventType
	Scope      string
	Client     string
	Agent      string // of the actor; an operator's id too
	Run        string // of the actor
	Outcome    string
	Since      time.Time
	Until      time.Time
}
