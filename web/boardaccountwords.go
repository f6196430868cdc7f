package web

import (
	"errors"
	"strings"

	"tokenbroker/broker"
)

// trouble says what an error code of a connection means, and what helps.
type trouble struct {
	code  string
	short string // in a list
	means string
	helps string
}

// troubles are the codes that Connection.Error has.
var troubles = []trouble{
	{code: broker.ErrorInvalidGrant, short: "ended by the provider",
		means: "The provider says that this grant is over: the user withdrew it there, changed a password, was removed, or it was not used for too long.",
		helps: "Only the user can help, by consenting again. Make a new consent link, or wait until the client shows one by itself: it gets consent_required with the next request for a token."},
	{code: broker.ErrorExpired, short: "token ended",
		means: "The access token has ended, and the provider gave no refresh token with it.",
		helps: "The user must consent again. If this happens to every user of the connector, look at its offline_scopes and authorization_params: they decide whether the provider gives a refresh token."},
	{code: string(broker.CodeProviderUnavailable), short: "provider fails",
		means: "The last refresh failed, for a reason that may pass: the provider did not answer, answered with an error of its own, or throttles us.",
		helps: "Nothing, as a rule: it is tried again by itself. If it lasts, look at the provider's status page, and at the log for this connection, which has the provider's code."},
	{code: string(broker.CodeProviderMisconfigured), short: "our client is refused",
		means: "The provider refuses the OAuth client of this connector, or what it asks for. It is no matter of this user.",
		helps: "Check the connector's client_id and client_secret against what the provider's console shows, and whether the client was disabled there. Other connections of the connector will show the same."},
}

// troubleOf is the entry for a code; of one that is not in the table, what can be said.
func troubleOf(code string) trouble {
	for _, t := range troubles {
		if t.code == code {
			return t
		}
	}
	return trouble{
		code: code, short: plain(code), means: "The connection has the error code " + plain(code) + ".",
		helps: "The timeline below has the events around it, and the log more about their request ids.",
	}
}

// eventWords say what events were, for the timeline.
var eventWords = map[broker.EventType]string{
	broker.EventConsentCreated:         "Consent link made",
	broker.EventConsentStarted:         "Consent started",
	broker.EventConsentSignedIn:        "Signed in for the consent",
	broker.EventConsentGranted:         "Consent given at the provider",
	broker.EventConsentDenied:          "Consent denied",
	broker.EventConsentFailed:          "Consent failed",
	broker.EventConsentCompleted:       "Connected",
	broker.EventTokenIssued:            "Token issued",
	broker.EventTokenRefused:           "Token refused",
	broker.EventTokenRefreshed:         "Refreshed",
	broker.EventTokenRefreshFailed:     "Refresh failed",
	broker.EventScopeReduced:           "Scopes reduced by the provider",
	broker.EventConnectionNeedsConsent: "Needs consent",
	broker.EventConnectionRevoked:      "Revoked",
	broker.EventConnectionNoticed:      "Notice from the provider",
	broker.EventSubjectErased:          "A user was forgotten",
	broker.EventConnectorCreated:       "A tenant made a connector",
	broker.EventConnectorUpdated:       "A tenant changed a connector",
	broker.EventConnectorDeleted:       "A tenant deleted a connector",
	broker.EventPortalCreated:          "Link to My connections made",
	broker.EventPortalOpened:           "My connections opened",
	broker.EventPortalRefused:          "My connections refused",
	broker.EventIntegrityFailed:        "A sealed value does not open",
	broker.EventOperatorSignedIn:       "An operator signed in",
	broker.EventOperatorSignedOut:      "An operator signed out",
	broker.EventOperatorSessionsEnded:  "Sessions of an operator ended",
	broker.EventOperatorSignInFailed:   "A sign-in of an operator failed",
	broker.EventOperatorExported:       "An operator exports the trail",
	broker.EventOperatorDisabled:       "An operator disables",
	broker.EventOperatorEnabled:        "An operator enables",
	broker.EventOperatorJobStarted:     "An operator starts a job",
	broker.EventOperatorJobPaused:      "An operator pauses a job",
	broker.EventOperatorJobResumed:     "An operator resumes a job",
	broker.EventOperatorJobEnded:       "A job ended",
	broker.EventOperatorJobRate:        "An operator changes a job's rate",
	broker.EventTrailTrimmed:           "Older events are dropped",
	broker.EventOperatorViewed:         "Looked at by an operator",
	broker.EventOperatorRevoked:        "An operator revokes",
	broker.EventOperatorRefreshed:      "An operator refreshes",
	broker.EventOperatorLinkCreated:    "An operator makes a consent link",
}

func eventWord(t broker.EventType) string {
	if words, ok := eventWords[t]; ok {
		return words
	}
	return plain(string(t))
}

// action is something that an operator does to one connection.
type action struct {
	name   string
	title  string
	button string
	danger bool
	// happens says what it will do, in sentences.
	happens []string
}

var accountActions = []action{
	{name: "refresh", title: "Refresh now", button: "Refresh now", happens: []string{
		"The refresh token is sent to the provider once, as a request for a token would do it. What comes back is stored; nobody sees it.",
		"While the provider is left alone after a failure, or refuses our client, nothing is sent.",
	}},
	{name: "link", title: "New consent link", button: "Make the link", happens: []string{
		"A link is made that renews this connection. It is for the user: whoever else opens it can do no more than consent with an account of their own, and that is not connected until the user's client confirms it.",
		"The link is shown once, is good for ten minutes, and leaves no trace but its event.",
	}},
	{name: "revoke", title: "Revoke", button: "Revoke this connection", danger: true, happens: []string{
		"No token of this connection is issued any more, on any replica, from the next request on.",
		"Its tokens are revoked at the provider where that can be done, and erased here in any case. Access tokens that were issued may live on until they end, where the provider does not revoke them.",
		"This can't be undone. The user can consent again.",
	}},
}

func actionNamed(name string) (action, bool) {
	for _, a := range accountActions {
		if a.name == name {
			return a, true
		}
	}
	return action{}, false
}

// actionProblem is what an operator reads when an action was not done. Only descriptions of ours are in it.
func actionProblem(err error) string {
	var public *broker.Error
	if !errors.As(err, &public) {
		return "Something went wrong here. The log has more."
	}
	switch public.Code {
	case broker.CodeTemporarilyUnavailable, broker.CodeServerError:
		return "The broker could not do it just now. Nothing is lost; look at the page of the account before you try again."
	}
	if public.Description == "" {
		return "It was refused."
	}
	return asSentence(public.Description)
}

// asSentence is one of the broker's descriptions as a sentence.
func asSentence(text string) string {
	if text = strings.TrimSuffix(text, "."); text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
