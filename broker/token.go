package broker

import "time"

// DefaultMinTTL is how long a token lives at least, unless the request says otherwise (contract.md).
const DefaultMinTTL = 60 * time.Second

// TokenRequest asks for a user-scoped access token.
type TokenRequest struct {
	Connector  string
	Subject    string // what Proofs say of it counts
	Proofs     Proofs
	Scopes     ScopeSet // empty: the connector's default scopes
	Connection string   // which one, where the subject has several
	// MinTTL is how long the token must live; nil: DefaultMinTTL, and then a shorter one that is still valid may come back
	// as degraded while its refresh fails. A stated one is kept or refused.
	MinTTL   *time.Duration
	Actor    Actor
	Reason   string
	ReturnTo string // for the consent that may turn out to be required
	State    string
}

// minTTL is how long the token must live.
func (r TokenRequest) minTTL() time.Duration {
	if r.MinTTL != nil {
		return *r.MinTTL
	}
	return DefaultMinTTL
}

// Token is a short-lived access token for its caller. A refresh token has no place in it.
type Token struct {
	AccessToken Secret
	ExpiresAt   time.Time
	ExpiresIn   time.Duration
	Scopes      ScopeSet // what the token really carries
	Connector   string
	Connection  string
	Account     Account
	Extra       map[string]string
	Degraded    bool // still valid, but its refresh is failing
}

// ConsentRequest asks for a consent link.
type ConsentRequest struct {
	Connector  string
	Subject    string
	Proofs     Proofs
	Scopes     ScopeSet
	Connection string
	ReturnTo   string
	State      string
	Actor      Actor
	Device     bool // on another device (RFC 8628), where the connector allows it
}

// Completion is the client's completing call.
type Completion struct {
	Subject string // who is logged in at the client, not whom the link was for
	Proofs  Proofs // of that
	Code    Secret
	Replace bool // the user confirmed that another account than before is meant
}
