package broker

import (
	"slices"
	"strings"
)

// eventTypes are all that there are, in the order in which they are told to people.
var eventTypes = []EventType{
	EventConsentCreated, EventConsentStarted, EventConsentSignedIn, EventConsentGranted, EventConsentDenied, EventConsentFailed, EventConsentCompleted,
	EventTokenIssued, EventTokenRefused, EventTokenRefreshed, EventTokenRefreshFailed, EventScopeReduced, EventConnectionNeedsConsent,
	EventConnectionRevoked, EventConnectionNoticed, EventSubjectErased, EventIntegrityFailed, EventConnectorCreated, EventConnectorUpdated,
	EventConnectorDeleted, EventPortalCreated, EventPortalOpened, EventPortalRefused, EventOperatorSignedIn, EventOperatorSignedOut,
	EventOperatorSessionsEnded, EventOperatorSignInFailed, EventOperatorViewed, EventOperatorRevoked, EventOperatorRefreshed, EventOperatorLinkCreated,
	EventOperatorExported, EventOperatorDisabled, EventOperatorEnabled, EventOperatorJobStarted, EventOperatorJobRate, EventOperatorJobPaused, EventOperatorJobResumed,
	EventOperatorJobEnded, EventTrailTrimmed,
}

// EventTypes are the types of events that this version writes. Newer ones may have more.
func EventTypes() []EventType { return slices.Clone(eventTypes) }

// Known tells whether it is one of them: a type that nobody writes, asked for, is a slip, and must not look as if there were no such events.
func (t EventType) Known() bool { return slices.Contains(eventTypes, t) }

// EventTypeList names them for people who asked for another one.
func EventTypeList() string {
	names := make([]string, len(eventTypes))
	for i, t := range eventTypes {
		names[i] = string(t)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
