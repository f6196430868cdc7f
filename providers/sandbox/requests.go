package sandbox

import (
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// authRequest is an authorization request, from /authorize until long after its code was redeemed.
type authRequest struct {
	id, clientID, redirectURI, state, nonce, loginHint, challenge string

	asked []string // scopes
	auto  *Auto    // from the request's own parameters

	decided, allowed bool
	sub              string
	scopes           []string // granted
	authTime         time.Time

	code        string
	codeExpires time.Time
	grant       *grant // once the code was redeemed
}

func (r *authRequest) GetID() string                      { return r.id }
func (r *authRequest) GetACR() string                     { return "" }
func (r *authRequest) GetAMR() []string                   { return nil }
func (r *authRequest) GetAudience() []string              { return []string{r.clientID} }
func (r *authRequest) GetAuthTime() time.Time             { return r.authTime }
func (r *authRequest) GetClientID() string                { return r.clientID }
func (r *authRequest) GetNonce() string                   { return r.nonce }
func (r *authRequest) GetRedirectURI() string             { return r.redirectURI }
func (r *authRequest) GetResponseType() oidc.ResponseType { return oidc.ResponseTypeCode }
func (r *authRequest) GetResponseMode() oidc.ResponseMode { return oidc.ResponseModeQuery }
func (r *authRequest) GetScopes() []string                { return r.scopes }
func (r *authRequest) GetState() string                   { return "" } // see Server.authorize
func (r *authRequest) GetSubject() string                 { return r.sub }
func (r *authRequest) Done() bool                         { return r.allowed }
func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	if r.challenge == "" {
		return nil
	}
	return &oidc.CodeChallenge{Challenge: r.challenge, Method: oidc.CodeChallengeMethodS256}
}

// refreshRequest is a refresh grant in progress.
type refreshRequest struct {
	grant   *grant
	current []string // scopes of the access token to be
	fixed   bool     // the request's scope parameter is ignored
}

func (r *refreshRequest) GetAMR() []string       { return nil }
func (r *refreshRequest) GetAudience() []string  { return []string{r.grant.client} }
func (r *refreshRequest) GetAuthTime() time.Time { return r.grant.authTime }
func (r *refreshRequest) GetClientID() string    { return r.grant.client }
func (r *refreshRequest) GetSubject() string     { return r.grant.sub }

// GetScopes are the grant's until SetCurrentScopes narrows them.
func (r *refreshRequest) GetScopes() []string { return r.current }

func (r *refreshRequest) SetCurrentScopes(scopes []string) {
	if !r.fixed {
		r.current = scopes
	}
}

// Keys of what the endpoints tell the storage past the library, through the context.
type (
	stateKey         struct{} // string
	knobsKey         struct{} // *Auto
	keepRefreshKey   struct{} // bool: answer a refresh without a refresh token
	reducedScopesKey struct{} // []string: all that a refresh still gives
)

// intersect keeps what of a is in b, in a's order.
func intersect(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) {
			out = append(out, s)
		}
	}
	return out
}
