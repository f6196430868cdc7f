package webtest

import (
	"time"

	"tokenbroker/broker"
)

// Drive is a connector for samples.
func Drive() broker.Connector {
	return broker.Connector{
		ID: "google-drive", Name: "Google Drive", Provider: "Google", Category: "files", Implied: broker.NewScopeSet("openid", "email", "profile"),
	}
}

// Page is a consent page with every kind of permission on it.
func Page(now time.Time, binding broker.Binding) broker.ConsentPage {
	scope := func(name, words string, access broker.Access, sensitive bool) broker.PageScope {
		return broker.PageScope{ScopeInfo: broker.ScopeInfo{Name: name, Description: words, Access: access, Sensitive: sensitive}}
	}
	return broker.ConsentPage{
		ConsentID: "cs_1", ClientName: "Acme Chat", Origins: []string{"https://chat.example"}, Connector: Drive(),
		Scopes: []broker.PageScope{
			scope("https://www.googleapis.com/auth/drive.readonly", "See and download all your files in Drive", broker.AccessRead, true),
			scope("https://www.googleapis.com/auth/drive.file", "Open and change the Drive files you use with this assistant", broker.AccessChange, false),
		},
		Binding: binding, Status: broker.ConsentPending, Expires: now.Add(9 * time.Minute),
	}
}

// Code is the end of a consent with binding code.
func Code() broker.Finish {
	return broker.Finish{
		ConsentID: "cs_1", Status: broker.ConsentAwaitingCompletion, ClientName: "Acme Chat", Connector: Drive(),
		Origins: []string{"https://chat.example"}, Account: &broker.Account{ID: "108", Name: "Ada Lovelace", Email: "ada@example.com"},
		UserCode: broker.NewSecret("WDJB-MJHT"),
	}
}

// Denied is the end of a consent that the user cancelled.
func Denied() broker.Finish {
	return broker.Finish{ConsentID: "cs_1", Status: broker.ConsentDenied, ClientName: "Acme Chat", Connector: Drive(), Origins: []string{"https://chat.example"}}
}

// HostilePage is a consent page on which every text is an attempt to be more than text.
func HostilePage() broker.ConsentPage {
	const markup = `"><img src=x onerror="window.hacked=true"><script>window.hacked=true</script>{{.}}`
	const turned = "\u202egnp.exe \u2066Bank\u2069\u200b\u0000\r\n"
	return broker.ConsentPage{
		ConsentID: markup, ClientName: markup, Origins: []string{"*", `https://x"><script>`, "javascript:alert(1)", "null"},
		Connector: broker.Connector{ID: "x", Name: turned + "Drive", Provider: markup, Implied: broker.NewScopeSet(`<b>implied</b>`)},
		Scopes: []broker.PageScope{
			{ScopeInfo: broker.ScopeInfo{Name: markup, Description: markup, Access: "unheard-of"}},
			{ScopeInfo: broker.ScopeInfo{Name: turned + "scope.with.a.long.name.and.no.place.to.break.it.anywhere.so.that.it.would.push.the.page.wide", Access: broker.AccessDelete}, New: true},
		},
		Renewal: true, Account: &broker.Account{ID: markup, Name: turned, Email: markup},
		Binding: broker.BindingReturn, Status: broker.ConsentPending, Expires: time.Now().Add(time.Minute),
	}
}

// Connections are rows for the dashboard, in each status.
func Connections(created time.Time) []broker.Connection {
	return []broker.Connection{
		{
			ID: "cn_1", Tenant: "acme", Subject: "user-4711", Connector: "google-drive", Status: broker.ConnectionActive,
			Scopes: broker.NewScopeSet("https://www.googleapis.com/auth/drive.readonly"), Account: broker.Account{ID: "108", Name: "Ada Lovelace", Email: "ada@example.com"},
			CreatedAt: created, LastIssued: created.Add(50 * time.Hour), LastRefreshed: created.Add(49 * time.Hour),
		},
		{
			ID: "cn_2", Tenant: "acme", Subject: "user-0815", Connector: "slack", Status: broker.ConnectionNeedsConsent, Error: broker.ErrorInvalidGrant,
			Scopes: broker.NewScopeSet("channels:read", "chat:write", "users:read"), Account: broker.Account{ID: "U02AB", Name: "Grace Hopper"},
			CreatedAt: created.Add(-300 * time.Hour), LastIssued: created,
		},
		{ID: "cn_3", Tenant: "acme", Subject: "user-0042", Connector: "hubspot", Status: broker.ConnectionRevoked, CreatedAt: created.Add(-900 * time.Hour)},
	}
}
