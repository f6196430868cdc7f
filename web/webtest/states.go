package webtest

import (
	"time"

	"tokenbroker/broker"
)

// ConsentStates are consent pages in every state that they have, by a short name.
func ConsentStates(now time.Time) map[string]broker.ConsentPage {
	full := Page(now, broker.BindingCode)
	for _, s := range []broker.ScopeInfo{
		{Name: "https://www.googleapis.com/auth/gmail.send", Description: "Send mail in your name", Access: broker.AccessSend, Sensitive: true},
		{Name: "https://www.googleapis.com/auth/calendar", Description: "See, share, change and delete your calendars and events", Access: broker.AccessDelete, Sensitive: true},
		{Name: "crm.custom", Description: "crm.custom"},
	} {
		full.Scopes = append(full.Scopes, broker.PageScope{ScopeInfo: s})
	}
	more := Page(now, broker.BindingReturn)
	more.Renewal, more.Scopes[1].New = true, true
	more.Account = &broker.Account{ID: "108", Name: "Ada Lovelace", Email: "ada@example.com"}
	renewed := more
	renewed.Scopes = append([]broker.PageScope(nil), more.Scopes...)
	renewed.Scopes[1].New = false
	renewed.Expires = now.Add(time.Minute)
	login := Page(now, broker.BindingLogin)
	whole := Page(now, broker.BindingReturn)
	whole.Scopes = []broker.PageScope{{ScopeInfo: broker.ScopeInfo{Description: "See and change the pages that you pick, as far as the integration's settings at Notion allow", Access: broker.AccessChange}}}
	whole.Connector = broker.Connector{ID: "notion", Name: "Notion", Provider: "Notion", Category: "documents"}
	unknown := whole
	unknown.Scopes = nil
	return map[string]broker.ConsentPage{
		"code": Page(now, broker.BindingCode), "return": Page(now, broker.BindingReturn), "full": full, "login": login, "more": more, "renewed": renewed, "whole": whole, "unknown": unknown,
	}
}

// FinishStates are the ends of a consent in every state that they have, by a short name.
func FinishStates() map[string]broker.Finish {
	end := func(status broker.ConsentStatus, code string) broker.Finish {
		f := Denied()
		f.Status, f.Error = status, code
		return f
	}
	connected := Code()
	connected.Status, connected.UserCode = broker.ConsentCompleted, broker.Secret{}
	changed := Code()
	changed.Previous = &broker.Account{ID: "77", Name: "Grace Hopper", Email: "grace@example.com"}
	replace, retry := changed, Code()
	replace.UserCode, replace.Binding = broker.Secret{}, broker.BindingLogin
	retry.UserCode, retry.Binding = broker.Secret{}, broker.BindingLogin
	states := map[string]broker.Finish{
		"replace": replace, "retry": retry,
		"changed": changed,
		"code":    Code(), "back": end(broker.ConsentAwaitingCompletion, ""), "connected": connected, "denied": Denied(),
		"expired": end(broker.ConsentExpired, ""), "pending": end(broker.ConsentStarted, ""), "failed": end(broker.ConsentFailed, "unheard_of"),
	}
	for _, code := range []string{
		"access_denied", "account_changed", "expired", "invalid_scope", "issuer_mismatch", "provider_misconfigured", "provider_unavailable",
		"subject_erased", "temporarily_unavailable", "too_many_attempts",
	} {
		states["failed "+code] = end(broker.ConsentFailed, code)
	}
	return states
}
