package broker

import "time"

// Account is the upstream account that a connection belongs to. ID is the provider's stable id (OIDC sub or its like);
// all may be empty where a provider tells nothing.
type Account struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	Email string `json:"email"`
}

// ConnectionStatus is the state of a connection; doc.go draws its transitions.
type ConnectionStatus string

// The states of a connection.
const (
	ConnectionActive       ConnectionStatus = "active"
	ConnectionNeedsConsent ConnectionStatus = "needs_consent"
	ConnectionRevoked      ConnectionStatus = "revoked"
)

// Connection is what a subject's consent made, as everybody may read it: it holds no secret, by type. Tokens leave the
// store through Connections.Release and BeginRefresh alone.
type Connection struct {
	ID        string
	Tenant    string
	Subject   string
	Connector string
	Client    string // the client whose consent made it
	Status    ConnectionStatus
	// Error says why the status is not active or why refreshing fails: a code, never a provider's text.
	Error string
	// Scopes are what the refresh token (or, without one, the access token) carries, as the provider said.
	Scopes  ScopeSet
	Account Account
	// SharedGrant names the provider's grant where other connections may hold the same one (Connector.SharedGrants); empty:
	// nobody else has it.
	SharedGrant string
	// SharedGeneration is the generation of that grant which the connection's tokens are of.
	SharedGeneration int64
	// ClientGeneration is the generation of the OAuth client's secret with which the newest tokens were obtained; 0: not known.
	ClientGeneration int64
	// Extra are provider facts that a caller needs (Salesforce's instance_url).
	Extra map[string]string
	// Vars are values learned from the callback or token response that fill the provider's {placeholders} for this grant.
	Vars map[string]string

	// Renewable tells that there is a refresh token.
	Renewable bool
	// Tokens are the stored access tokens, at most one per scope set.
	Tokens []AccessTokenInfo
	// Lifetime is how long the newest access token lived when it was issued: what min_ttl can at most ask for. 0: not known.
	Lifetime time.Duration
	// FailingSince is when refreshing began to fail; zero while it works. RetryAt is when the next attempt makes sense.
	FailingSince time.Time
	RetryAt      time.Time
	Failures     int

	CreatedAt     time.Time
	LastRefreshed time.Time
	LastIssued    time.Time // volatile: kept apart from the record, may lag
	RefreshExpiry time.Time // when the refresh token or grant itself ends, where the provider says so; else zero
	RefreshAt     time.Time // when the background looks after it next (early.go); zero: never

	// Switches is the mark of the table of kill switches by which it was decided to use the connection: Release demands that it
	// still stands. It is not stored.
	Switches string

	// Generation grows by one with every write of the record. A write names the generation that it was made from.
	Generation int64

	// Direct: the connector's own credentials obtain its tokens (direct.go); there is no refresh token, and nobody consented.
	Direct bool
}

// AccessTokenInfo describes a stored access token without holding it.
type AccessTokenInfo struct {
	// Key names the token within its record: "" for the one that carries all granted scopes, else the scope set's digest.
	Key       string
	Scopes    ScopeSet
	ExpiresAt time.Time // zero with Never
	Never     bool      // it never expires, so it is never handed out
}

// Token returns the stored token of that key.
func (c Connection) Token(key string) (AccessTokenInfo, bool) {
	for _, t := range c.Tokens {
		if t.Key == key {
			return t, true
		}
	}
	return AccessTokenInfo{}, false
}

// renews tells that another token can be had without asking anybody.
func (c Connection) renews() bool { return c.Renewable || c.Direct }

// longestRetry is more than any pause after a failure: what a provider may ask for (ten minutes) and a fifth of that.
const longestRetry = 15 * time.Minute

// retryIn is how long the grant is left alone still after a failure; 0: not at all. A RetryAt further away than any pause,
// or of a failure that is still to come, is from a clock that was wrong, or by one that is, and keeps nobody from a refresh.
func (c Connection) retryIn(now time.Time) time.Duration {
	wait := c.RetryAt.Sub(now)
	if wait > longestRetry || c.FailingSince.After(now) {
		return 0
	}
	return max(0, wait)
}

// ExpiresAt is when the grant, as far as known, will end without another consent: zero when it renews itself.
func (c Connection) ExpiresAt() time.Time {
	if c.renews() {
		return c.RefreshExpiry
	}
	var latest time.Time
	for _, t := range c.Tokens {
		if t.ExpiresAt.After(latest) {
			latest = t.ExpiresAt
		}
	}
	return latest
}

// Grant is what a provider's token endpoint gave: the one type that carries fresh tokens from the providers port to the
// store. It exists only between those two.
type Grant struct {
	AccessToken  Secret
	RefreshToken Secret // zero: the response had none; on a refresh the old one stays (RFC 6749 section 6)
	// Withheld says, where there is no access token, why: the response had one that callers can't use. It is not stored.
	Withheld *UpstreamError
	// Scopes as reported; ScopesReported false means that the response named none: what was asked was granted
	// (RFC 6749 section 5.1), or on a refresh, nothing changed.
	Scopes         ScopeSet
	ScopesReported bool
	// ObtainedAt is when the request for it was sent, which puts the grants of one account in their order.
	ObtainedAt time.Time
	// ExpiresAt counts from the moment the request was sent. Never: the token has no end.
	ExpiresAt time.Time
	Never     bool
	// Lifetime is ExpiresAt less the moment of sending.
	Lifetime time.Duration
	// RefreshExpiry is when the refresh token ends, where the response says so.
	RefreshExpiry time.Time
	// ClientGeneration is the generation of the client secret that obtained it; 0: the connector counts none.
	ClientGeneration int64
	// Account and Extra as far as the token response (or its id_token) tells them; Identify fills the rest.
	Account Account
	Extra   map[string]string
	Vars    map[string]string
}
