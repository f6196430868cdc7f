// Package web is what browsers see: the consent pages behind a link, the providers' redirect, and the operators'
// dashboard. It parses and shows; what a link, a state or a code means is decided in package broker.
//
// # Reading order
//
//	web.go       Config, New, the routes, and the one place where an error becomes a page
//	consent.go   GET and POST /connect/LINK: ask the user, then go to the provider or cancel
//	callback.go  GET /oauth2/callback/CONNECTOR and the page that it ends on, GET /consent/ID
//	signin.go    GET /oauth2/login/CLIENT, the way back from a user's organisation, and POST /consent/ID: what the user decides there
//	status.go    GET /connect/LINK/status, for the chat's page
//	sdk.go       GET /sdk/connect.js, the script for chat pages, and its digest; the script itself is in sdk/
//	portal.go    /portal/...: "My connections", where users see and end what is connected; portal_words.go its words
//	security.go  headers, content security policy, cross-origin checks
//	cookie.go    cookies and the nonce that ties a form to the browser that loaded it
//	limit.go     how often one address may guess
//	board.go     the operators' dashboard: what every page of it has, the bar, who may see it, and how its forms are proven
//	login.go, boardsignin.go, session.go, boardoperators.go   how operators get in and out, and who ends whose sessions
//	boardoverview.go, boardlive.go, boardchart.go, boardhealth.go   what goes on, live, and how the broker itself is
//	boardaccounts.go, boardaccount.go, boardaccountwords.go   connected accounts: the list, one, what is wrong with it
//	boardaudit.go, boardauditexport.go, boardauditjobs.go, boardlate.go   the audit trail; pages that take their time
//	boardswitches.go, boardjobs.go   what is disabled, and what goes on by itself
//	theme.go, logo.go   how the pages look for the users of one client
//	page.go, words.go, outcome.go         templates, and what of the data is shown in which words
//	locale.go, language.go                the words themselves (locales/*.yaml), and whose language they are in
//
// # Words
//
// No template and no code of the pages has words of its own: {{.Say "key"}} in a template, frame.title("key") in code, and the key
// in every file of locales/ (locales/README.md). Views embed a frame, made by w.frame(c, area); its Names are values that every
// text of the page may name. Names that others chose come out of Say in <bdi>. The dashboard alone is in English.
//
// # What holds for every page
//
// Opening a page changes nothing on the server: link previews and mail scanners open everything. The exceptions are the ends of
// redirects, which need a cookie that those do not have: the callbacks, and the entrance of a visit to "My connections". Nothing here is ever
// shown from a provider's error text. Pages work without JavaScript; the one script adds what is handy: a copy button,
// news of what happens meanwhile, and word to the window that opened the page how it went. The request's Host is never used: all that depends on the public address
// comes from Config.PublicURL.
//
// The package must not know: Redis, providers' endpoints, tokens. No type that it handles can hold a token.
package web
