// Package login signs people in at OpenID Providers: OpenID Connect Core 1.0, code flow with PKCE, as a relying party. It
// implements broker.Logins, by which the users of a client prove who they are at their own organisation, and
// broker.OperatorLogins, by which operators do. It knows nothing of what a sign-in is for: whoever has an issuer and an OAuth
// client there gets the claims of a verified ID token.
//
// Reading order:
//
//	login.go     ClientConfig, New, AuthorizationURL and Redeem: the flow, without anything that has to be remembered
//	metadata.go  what the issuer says of itself (OpenID Connect Discovery), and what of that is believed
//	idtoken.go   whether an ID token is a proof: its signature and every claim that Core section 3.1.3.7 names
//	keys.go      the keys that it may be signed with
//	operators.go who an operator is, and in which groups: from the ID token, and from userinfo where that lacks them
//	cached.go    both are kept for a while, and asked for by one caller at a time
//
// State, nonce and verifier are the caller's to make, to keep and to use once. The package never logs, and returns in errors
// neither what a provider sends nor an address. Requests go out by providers.Fetcher.
package login
