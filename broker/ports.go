package broker

import (
	"context"
	"time"
)

// The ports. Every method is safe for concurrent use, honours the context's deadline, and returns what error.go lists.
// "Durable" means: on return without an error the store has it as safely as it is configured to keep anything.
// After an error other than the listed ones the outcome is unknown; each write may then be repeated as it was, and takes
// effect once.

// Connections reads connections and lets tokens out.
type Connections interface {
	// OfSubject returns the subject's connections to the connector ("": to all), oldest first, revoked ones included. Those
	// that do not open are named in an *UnreadableError, and the others come with it.
	OfSubject(ctx context.Context, tenant, subject, connector string) ([]Connection, error)
	// Connection returns one. ErrNotFound when the tenant has none of that id.
	Connection(ctx context.Context, tenant, id string) (Connection, error)
	// List pages through the tenant's connections in an order of its own that stays the same between pages. The position
	// is opaque; the first page starts at "", and the last one ends with "".
	List(ctx context.Context, tenant string, filter ConnectionFilter, position string, limit int) ([]Connection, string, error)
	// Tenants returns those of which anything was ever recorded, in the order of their names: each that has a connection is among
	// them from its first one on, which no index has to see first.
	Tenants(ctx context.Context) ([]string, error)
	// Release opens the access token of that key, if the record is still at conn.Generation and active, and records the
	// entry; both or neither, in one step. It is the only way by which an access token leaves. ErrConflict when the record
	// moved on, or the table of kill switches is no more the one of conn.Switches, ErrNotFound when it is gone, ErrIntegrity when the token does not open (then no entry is written).
	Release(ctx context.Context, conn Connection, tokenKey string, entry Entry) (Secret, error)
	// Establish stores a new connection that has no token yet (Connection.Direct). once says what must not be made twice at the
	// same time for this subject: ErrConflict if another connection was established under it, until then. Durable.
	Establish(ctx context.Context, conn Connection, once string, until time.Time) (Connection, error)
}

// ConnectionFilter selects connections; zero fields select nothing out.
type ConnectionFilter struct {
	Connector string
	Status    ConnectionStatus
}

// Refreshes guards the one moment at which a grant can be lost: between the provider's answer and its being stored.
type Refreshes interface {
	// BeginRefresh takes the lease on the connection for owner, if the record is still at conn.Generation, active and
	// unleased by store time, and opens the refresh token. ErrConflict: the record moved on. ErrBusy: somebody holds it.
	// ErrIntegrity: the refresh token does not open. Of a grant that several connections hold it takes the lease for all of
	// them, and returns the newest refresh token that any of them was given.
	BeginRefresh(ctx context.Context, conn Connection, owner string, lease time.Duration) (Lease, Secret, error)
	// CommitRefresh stores what a refresh gave, if the record is still at lease.Generation and not revoked: the new refresh
	// token if the grant has one, the access token under tokenKey, and conn's fields; ends the lease; records the
	// entries. It first keeps the grant in the spool, if there is one, and the spool is replayed later should the store
	// not take it now: then the error is ErrSpooled too. ErrConflict: the record moved on; the new refresh token is kept as an
	// alternate. If it moved on only to say that the grant is dead, which the old refresh token was taken for, it is stored after
	// all, and the connection is active again. ErrNotFound: the connection was revoked or erased, or is another account's now;
	// nothing is kept, and the caller revokes the grant upstream.
	CommitRefresh(ctx context.Context, lease Lease, conn Connection, tokenKey string, grant Grant, entries []Entry) (Connection, error)
	// FailRefresh stores conn's status, error and failure fields after a refresh that gave nothing, ends the lease and
	// records the entries. The refresh token stays, whatever the status. ErrConflict as above.
	FailRefresh(ctx context.Context, lease Lease, conn Connection, entries []Entry) (Connection, error)
	// Alternates returns refresh tokens that late commits left, newest first, of the connection's present account alone:
	// worth one try each when the current one is dead (faults.md, step 8). Of a grant that several connections hold it begins with
	// what others have that is newer than the lease. What waits in the spool for the connection is given to
	// the store first. ErrConflict: that, or somebody else, moved the record on, or the lease on it is another's. With a zero
	// lease nothing is demanded of the record.
	Alternates(ctx context.Context, lease Lease, conn Connection) ([]Secret, error)
	// EndRefresh gives the lease back without having sent anything. It never ends another holder's lease.
	EndRefresh(ctx context.Context, lease Lease) error
}

// Lease is the right to refresh one connection until Until.
type Lease struct {
	Tenant     string
	Connection string
	Generation int64
	Owner      string
	Fence      int64
	// Until is on this process's clock, taken before the store was asked, so that it ends no later than the store's.
	Until time.Time
	// Shared is the state of a grant that several connections hold: its own generation, and whether the lease on it is ours.
	Shared SharedLease
}

// SharedLease is the part of a lease that counts for all connections that hold the grant (Connection.SharedGrant).
type SharedLease struct {
	Name       string // of the grant; empty: it is the connection's own
	Generation int64
	Owner      string
	Fence      int64
	// Newer is what another of them was given since this one last took part; nil: nothing. To be stored with CommitRefresh
	// as it is (Adopted), if it serves; else its refresh token is the one that BeginRefresh returned.
	Newer   *Grant
	Adopted bool
}

// SharedGrants keeps the newest tokens of grants that several connections hold together, and who holds them. CompleteConsent
// and BeginRefresh make a connection a holder of its SharedGrant, EndRevoke ends that. Under other names it counts who holds one
// of several grants that end together at the provider (Connector.RevokesAll): there are no tokens then, and Hold, Mark and
// Enlist make holders.
type SharedGrants interface {
	// Hold makes the connection a holder. Again it changes nothing.
	Hold(ctx context.Context, name string, connection Holder) error
	// Mark makes a consent under way a holder, until Unmark, for an hour at most.
	Mark(ctx context.Context, name, consent string) error
	// Enlist makes every connection of every tenant, but revoked ones, a holder of what name says for it ("": of nothing), once
	// and for all for that OAuth client: on return without an error no connection made before is missing among the holders.
	// It takes as long as it takes to read them all; cut short, it begins anew. Later calls for the client do nothing.
	Enlist(ctx context.Context, client string, name func(Connection) string) error
	// Spread keeps what a consent was given for all who hold the grant, now or later, and returns the generation of the grant
	// that it made, by Grant.ObtainedAt; 0: newer ones are there. Called again for the same consent it changes nothing and
	// returns the same.
	Spread(ctx context.Context, name, consent string, grant Grant) (int64, error)
	// Unmark says that the consent is over, completed or not: until then it counts as a holder, for an hour at most.
	Unmark(ctx context.Context, name, consent string) error
	// Holders counts the connections and consents, of whatever tenant, that hold the grant, beside that one.
	Holders(ctx context.Context, name string, beside Holder) (int, error)
	// Leave ends the connection's holding and tells how many are left: of several who leave at once, one is told 0. If a consent
	// has made it a holder again since, that stands, and counts.
	Leave(ctx context.Context, name string, connection Holder) (left int, err error)
	// HeldBy returns connections that hold the grant, at most limit; those that are gone or can't be read are left out.
	HeldBy(ctx context.Context, name string, limit int) ([]Connection, error)
	// Newest is the grant's present generation; 0: there is none.
	Newest(ctx context.Context, name string) (int64, error)
}

// Holder is a connection, or a consent under way, that holds a grant with others. A consent makes a connection a holder for
// the generation of its record that the consent writes: to leave at an earlier one does not end that.
type Holder struct {
	ID         string
	Generation int64 // of a connection
}

// holder is the connection as it was read.
func (c Connection) holder() Holder { return Holder{ID: c.ID, Generation: c.Generation} }

// Schedule keeps when each grant is due for a refresh that nobody asked for (Connection.RefreshAt): every write of a
// connection puts it there, and a revoked or dead one is not in it.
type Schedule interface {
	// DueRefreshes returns connections whose RefreshAt is before that time, at most limit, those that are overdue longest
	// first in each part of the store. It takes those parts for this process for the length of hold: others, who ask
	// meanwhile, get what lies elsewhere. That is to save work and no lock: BeginRefresh decides.
	DueRefreshes(ctx context.Context, before time.Time, hold time.Duration, limit int) ([]Connection, error)
	// Reschedule moves the connection in the schedule, if the record is still at conn.Generation; a zero time takes it out.
	// ErrConflict: it moved on, and with that was scheduled anew.
	Reschedule(ctx context.Context, conn Connection, at time.Time) error
}

// Revocations ends connections. Secrets are erased in any case; between BeginRevoke and EndRevoke they are kept, sealed
// and out of reach of every other port, so that a crash in between can still be followed by a revocation upstream.
type Revocations interface {
	// BeginRevoke makes the connection revoked, whatever its generation, and returns what must be revoked upstream. It is
	// effective for every replica on return. ErrNotFound when there is none. A second call finds what the first left, and
	// records nothing. ErrIntegrity comes with the connection revoked all the same, and with what could be opened;
	// ErrConflict when a consent renewed the connection at the same moment.
	BeginRevoke(ctx context.Context, tenant, id string, entries []Entry) (Leftover, error)
	// EndRevoke erases the secrets and keeps what became of the grant upstream; with forget the whole record and its index
	// entries go.
	EndRevoke(ctx context.Context, tenant, id string, outcome RevokedUpstream, forget bool) error
	// DueRevocations returns connections whose BeginRevoke is older than before and was never ended, at most limit.
	DueRevocations(ctx context.Context, before time.Time, limit int) ([]Connection, error)
}

// Leftover is what a revoked connection held.
type Leftover struct {
	Connection   Connection
	RefreshToken Secret
	AccessToken  Secret
	// Outcome of an earlier, ended revocation; then there are no secrets.
	Outcome RevokedUpstream
}

// Consents keeps running consents. Each has an end of life in the store.
type Consents interface {
	// CreateConsent stores a new consent (Version 0) and records the entries. Durable. once, if not empty, says what must not
	// be asked twice at the same time: ErrConflict if another consent with it was created and its Deadline then is not over.
	CreateConsent(ctx context.Context, consent Consent, once string, entries []Entry) (Consent, error)
	// Consent returns one by its id; the caller checks tenant, link or state. ErrNotFound.
	Consent(ctx context.Context, id string) (Consent, error)
	// ConsentsOfSubject returns consents of the subject that are not finished, at most limit, those oldest first.
	ConsentsOfSubject(ctx context.Context, tenant, subject string, limit int) ([]Consent, error)
	// UpdateConsent writes the consent if the stored one is still at consent.Version, and records the entries. ErrConflict.
	// Exactly one of several different updates from one version succeeds; one that is in nothing different, entries
	// included, is the same write repeated (Consent.Claim). Durable.
	UpdateConsent(ctx context.Context, consent Consent, entries []Entry) (Consent, error)
	// CompleteConsent writes the finished consent and the connection with its grant in one step: both or neither.
	// conn.Generation 0 makes a new connection, else the stored one must still be there at that generation, in whatever
	// status. ErrConflict when either moved on. Durable.
	CompleteConsent(ctx context.Context, consent Consent, conn Connection, grant Grant, entries []Entry) (Connection, error)
	// DueConsents returns unfinished consents whose Deadline and BusyUntil are before that time, at most limit.
	DueConsents(ctx context.Context, before time.Time, limit int) ([]Consent, error)
	// DuePolls returns started consents of binding "device" whose Device.PollAt and BusyUntil are before that time, at most limit.
	DuePolls(ctx context.Context, before time.Time, limit int) ([]Consent, error)
}

// Audit is the trail beside the writes that carry their own entries.
type Audit interface {
	// Append records entries, all or none for each subject. Durable.
	Append(ctx context.Context, entries ...Entry) error
	// Events reads the tenant's events, oldest first. Everything appended before the call is in it. Position as in List;
	// the last page's position is "".
	Events(ctx context.Context, tenant string, filter EventFilter, position string, limit int) ([]Event, string, error)
	// Recent reads the subject's entries of those types, newest first and whole, at most limit. It looks at a bounded number
	// of entries, other subjects' included: the position, to go on from, may come with fewer than limit, or none. It is
	// opaque; the first page starts at "", and the last one ends with "".
	Recent(ctx context.Context, tenant, subject string, types []EventType, position string, limit int) ([]Entry, string, error)
}

// Portals keeps visits to "My connections". Each has an end of life in the store, an hour behind the end of its phase.
type Portals interface {
	// CreatePortal stores a new visit (Version 0) and records the entries. Durable.
	CreatePortal(ctx context.Context, portal Portal, entries []Entry) (Portal, error)
	// Portal returns one by its id; the caller checks tenant, client, link or cookie. ErrNotFound.
	Portal(ctx context.Context, id string) (Portal, error)
	// UpdatePortal writes the visit if the stored one is still at portal.Version, and records the entries. ErrConflict. Of
	// several different updates from one version one succeeds; one that is in nothing different is the same write repeated.
	// Durable.
	UpdatePortal(ctx context.Context, portal Portal, entries []Entry) (Portal, error)
}

// Placement tells where a subject's records lie, so that ids can carry it.
type Placement interface {
	// Shard is a number that is the same for all records of one subject, and tells nothing else about it.
	Shard(tenant, subject string) byte
}

// Cursors protects positions between pages: a client can neither read nor make one.
type Cursors interface {
	// SealCursor makes an opaque cursor of a position; purpose is what it may be used for.
	SealCursor(purpose, position string) (string, error)
	// OpenCursor returns the position, or an error if the cursor was not made here for this purpose.
	OpenCursor(purpose, cursor string) (string, error)
}

// Connectors are the connectors that there are: those of the operator's configuration, and those that tenants made
// (ConnectorRegistry). Use cases read them as a tenant sees them (connectorsOf).
type Connectors interface {
	// Connector returns one by id.
	Connector(id string) (Connector, bool)
	// All returns them in the order of the configuration.
	All() []Connector
}

// Connector is a provider with OAuth client credentials and the scopes that may be asked, as the domain sees it.
type Connector struct {
	ID       string
	Name     string // what users read: "Google Drive"
	Provider string // the provider's name: "Google"
	// ProviderID names the authorization server: connectors that share one share its troubles. Default: the connector's id.
	ProviderID string
	// ClientKey names the OAuth client at the provider: connectors that share one are throttled and refused together. Default:
	// the connector's id.
	ClientKey string
	// Timeout bounds a request to the provider, a look-up of its metadata included. Default and maximum Config.UpstreamTimeout.
	Timeout time.Duration
	// RefreshesAtOnce is how many refreshes the OAuth client may have under way at its provider, from all replicas together, each of
	// which takes its share; 0: Config.RefreshesAtOnce counts alone.
	RefreshesAtOnce int
	// RefreshIdle is how long a refresh token lives unless it is used; 0: no such limit is known.
	RefreshIdle time.Duration
	Category    string
	Scopes      []ScopeInfo // what may be asked
	// Whole says what a grant lets its holder do where no scope tells; without a name. nil: nobody knows.
	Whole   *ScopeInfo
	Default ScopeSet // asked when a request names none
	// Implied scopes are added by the broker itself (offline access, identity): they count neither as asked nor against a ceiling.
	Implied ScopeSet
	// Grant is how tokens are obtained; "" is GrantAuthorizationCode. Of a direct grant Implied is empty.
	Grant GrantType
	// Impersonate are the subjects that a direct grant may act for, each whole or as *@DOMAIN; none: its tokens are the tenant's own.
	Impersonate []string
	// Device: users may consent on another device (RFC 8628).
	Device bool
	// Tenants that the connector is there for; nil: all. One that a tenant made is there for that tenant.
	Tenants []string
	// SharedGrants, if set, names the OAuth client at the provider: whoever connects the same account through it gets the one
	// chain of refresh tokens that this account has there, so that several connections hold it together (Slack's bot tokens).
	SharedGrants string
	// RevokesAll, if set, names the OAuth client at the provider: one revocation there ends everything that the account gave
	// that client, so it is sent only when nobody else holds any of it.
	RevokesAll string
	// Narrows: a refresh that names fewer scopes gives a token with fewer (RFC 6749 section 6).
	Narrows bool
	// Exclusive: using a refresh token ends it (rotation: strict), so an answer that got lost is a grant in doubt.
	Exclusive bool
	// RefreshEndsAccess: a refresh ends the access token before it, so that none is refreshed while somebody may be using it.
	RefreshEndsAccess bool
	// Notices: the provider tells when grants end, and what it says can be verified (Upstream.ReadNotice).
	Notices bool
	// DeniedCodes are error codes in the callback by which this provider says that the user refused.
	DeniedCodes []string
}

// ScopeInfo describes a scope in plain words.
type ScopeInfo struct {
	Name        string
	Description string // "Read your files"
	Access      Access
	Sensitive   bool
}

// Access is what a scope lets an assistant do.
type Access string

// The kinds of access.
const (
	AccessRead   Access = "read"
	AccessChange Access = "change"
	AccessSend   Access = "send"
	AccessDelete Access = "delete"
	AccessOther  Access = ""
)

// Upstream speaks to the providers. Every method but VerifyCallback sends requests, AuthorizationURL and ReadNotice only at times,
// each with the deadline of its definition and the context's. None follows redirects, or repeats a request that may have been
// carried out: one that was refused because the provider does not know the client secret may be sent once more with the secret
// before it, and a revocation with the access token. Behind the deadline nothing is sent, but what the provider answered by then is returned, even if this process stood still meanwhile and sees it late. Errors
// are *UpstreamError.
type Upstream interface {
	// AuthorizationURL builds the authorization request (RFC 6749 section 4.1.1, RFC 7636). It may ask for the provider's
	// metadata (RFC 8414) first.
	AuthorizationURL(ctx context.Context, connector string, req AuthorizationRequest) (Authorization, error)
	// VerifyCallback checks what this provider's callbacks must bring beside state: a signature, the account that was asked
	// for. params are all query parameters of the callback. It sends nothing.
	VerifyCallback(connector string, params map[string]Secret) error
	// ReadNotice verifies what says that it comes from the connector's provider, and reads whose grants it is about. It sends
	// nothing but, at times, a request for the provider's keys. ErrNoNotices, ErrNoticeRefused; else the keys can't be had now.
	ReadNotice(ctx context.Context, connector string, req NoticeRequest) (Notice, error)
	// Exchange redeems the code (RFC 6749 section 4.1.3). A code can be sent once.
	Exchange(ctx context.Context, connector string, req ExchangeRequest) (Grant, error)
	// Identify asks whose account it is, as far as the grant does not tell yet, and for what the definition wants known.
	Identify(ctx context.Context, connector string, grant Grant) (Grant, error)
	// Refresh uses the refresh token once (RFC 6749 section 6). Whatever else is odd about the answer: if a token is in it,
	// the grant with it is returned.
	Refresh(ctx context.Context, connector string, req RefreshRequest) (Grant, error)
	// Obtain asks for a token with the connector's own credentials (RFC 6749 section 4.4, RFC 7523 section 2.1). It may be repeated.
	Obtain(ctx context.Context, connector string, req ObtainRequest) (Grant, error)
	// BeginDevice asks for a device code (RFC 8628 section 3.1).
	BeginDevice(ctx context.Context, connector string, scopes ScopeSet) (DeviceAuthorization, error)
	// PollDevice asks once whether the user has decided (RFC 8628 section 3.4). While there is no grant: ErrDevicePending,
	// ErrDeviceTooFast, ErrDeviceDenied or ErrDeviceExpired. A grant comes once.
	PollDevice(ctx context.Context, connector string, req DevicePoll) (Grant, error)
	// Revoke ends the grant (RFC 7009 or the provider's own way). ErrRevokeUnsupported where it has none.
	Revoke(ctx context.Context, connector string, req RevokeRequest) error
}

// AuthorizationRequest is one run of the flow.
type AuthorizationRequest struct {
	RedirectURI string
	State       Secret
	Verifier    Secret // the URL carries its S256 challenge
	Scopes      ScopeSet
	LoginHint   string
}

// Authorization is where the browser goes.
type Authorization struct {
	URL Secret // holds state
	// Fingerprint names the endpoints and client that the flow began with; Exchange refuses another one.
	Fingerprint string
	// Issuer that the response's iss must equal when present; IssuerRequired: it must be present (RFC 9207).
	Issuer         string
	IssuerRequired bool
}

// ExchangeRequest redeems a code.
type ExchangeRequest struct {
	RedirectURI string
	Code        Secret
	Verifier    Secret
	Scopes      ScopeSet // that were asked
	Fingerprint string
	// CallbackParams are all query parameters of the callback but code and state.
	CallbackParams map[string]string
}

// RefreshRequest uses a refresh token.
type RefreshRequest struct {
	RefreshToken Secret
	Scopes       ScopeSet // of the grant
	Narrow       ScopeSet // not empty: ask for a token with these alone
	RedirectURI  string   // some providers want it (GitLab)
	Vars         map[string]string
}

// RevokeRequest ends a grant.
type RevokeRequest struct {
	RefreshToken Secret
	AccessToken  Secret
	Vars         map[string]string
}

// Sessions keeps the dashboard's login sessions, sealed, under a digest of their token.
type Sessions interface {
	// Session returns the data of an unexpired session, or ErrNotFound.
	Session(ctx context.Context, token Secret) ([]byte, error)
	// SaveSession stores it until expiry.
	SaveSession(ctx context.Context, token Secret, data []byte, expiry time.Time) error
	// KeepSession is SaveSession of one that is there. ErrNotFound when it was ended meanwhile: a late write must not undo that.
	KeepSession(ctx context.Context, token Secret, data []byte, expiry time.Time) error
	// DeleteSession ends it; no error if there is none.
	DeleteSession(ctx context.Context, token Secret) error
}
