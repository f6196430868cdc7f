package providers

import "slices"

// Definition is how one authorization server behaves, in the schema of catalogue/*.yaml and of providers: in the
// operator's configuration. README.md has the same as a table. Durations are in whole seconds.
//
// A path names a value in a JSON answer: keys separated by dots ("authed_user.id"); "a|b" is the first that is present;
// "a+b" joins values that must all be present with a colon.
type Definition struct {
	// ID is unique in the installation: lower-case letters, digits, hyphens.
	ID string `yaml:"id"`
	// Name is what users read: "Google". Default: the id.
	Name string `yaml:"name"`
	// Category groups connectors in lists: "files", "crm". Default "other".
	Category string `yaml:"category"`
	// Confidence says what the definition rests on: documented (the provider's own pages), code (other people's clients
	// alone) or uncertain (sources thin or in conflict). Default documented.
	Confidence string `yaml:"confidence"`
	// Sources are the pages and files that it follows.
	Sources []string `yaml:"sources"`
	// Unverified lists keys whose value was not checked with the live provider; each has a conservative value.
	Unverified []string `yaml:"unverified"`
	// Notes are what the operator should know before users meet it, in plain words.
	Notes []string `yaml:"notes"`
	// AdminConsent: only an administrator of the account can consent.
	AdminConsent bool `yaml:"admin_consent"`

	// Issuer is the issuer identifier (RFC 8414 section 2), compared exactly. With it, metadata fills what is left out.
	Issuer string `yaml:"issuer"`
	// Discovery is auto (with an issuer: RFC 8414, then OpenID Connect Discovery) or none. Default auto.
	Discovery string `yaml:"discovery"`
	// EndpointHosts are hosts (host or host:port), beside the issuer's own, on which discovered endpoints may lie.
	EndpointHosts []string `yaml:"endpoint_hosts"`
	// AuthorizationResponseIss is required or when_present (RFC 9207): whether a callback without iss is refused. Default:
	// required where the metadata says so.
	AuthorizationResponseIss string `yaml:"authorization_response_iss"`

	// Grants are the ways to a token that the provider is known to offer: authorization_code, client_credentials, jwt_bearer,
	// device_code. Default authorization_code.
	Grants []string `yaml:"grants"`

	AuthorizationEndpoint string `yaml:"authorization_endpoint"`
	TokenEndpoint         string `yaml:"token_endpoint"`
	RevocationEndpoint    string `yaml:"revocation_endpoint"`
	UserinfoEndpoint      string `yaml:"userinfo_endpoint"`
	// DeviceAuthorizationEndpoint is where a consent on a device without a browser begins (RFC 8628 section 3.1).
	DeviceAuthorizationEndpoint string `yaml:"device_authorization_endpoint"`

	// TokenEndpointAuthMethod is client_secret_basic, client_secret_post or none (RFC 7591 section 2). Never guessed: left
	// out, the metadata must leave exactly one possibility.
	TokenEndpointAuthMethod string `yaml:"token_endpoint_auth_method"`
	// PKCE is S256, unsupported or unknown (RFC 7636). unknown: the provider says nothing of it, so it is not sent; the operator
	// may set pkce: S256 at the connector after trying. Default S256.
	PKCE string `yaml:"pkce"`

	// ScopeParameter carries the scopes in the authorization request; none: it has none. Default "scope".
	ScopeParameter string `yaml:"scope_parameter"`
	// OptionalScopeParameter carries the scopes that are marked optional: the provider grants them where the account has them,
	// and fails for others. Default: they go with the rest.
	OptionalScopeParameter string `yaml:"optional_scope_parameter"`
	// ScopeSeparator stands between scopes in requests. Default a space (RFC 6749 section 3.3).
	ScopeSeparator string `yaml:"scope_separator"`
	// OfflineScopes are always added, so that a refresh token is issued; IdentityScopes, so that the account can be named.
	OfflineScopes  []string `yaml:"offline_scopes"`
	IdentityScopes []string `yaml:"identity_scopes"`
	// Scopes describes scopes in plain words. A scope that is not here is shown by its name.
	Scopes map[string]Scope `yaml:"scopes"`
	// WholeGrant describes what a grant lets its holder do where there are no scopes to describe. The consent page says it.
	WholeGrant *Scope `yaml:"whole_grant"`
	// ScopeAliases maps other spellings in answers to the one used in requests: {long: short}. A key that ends in * stands
	// for all with that beginning, and * in the value for the rest.
	ScopeAliases map[string]string `yaml:"scope_aliases"`
	// ScopeImplies says which scope a granted one includes, where answers leave that out: {write_x: read_x}, with * as in aliases.
	// It counts among the granted ones if the connector may ask for it.
	ScopeImplies map[string]string `yaml:"scope_implies"`
	// ScopesIgnoreCase: the provider may report scopes in another case.
	ScopesIgnoreCase bool `yaml:"scopes_ignore_case"`

	// AuthorizationParams are added to the authorization request; they can't replace the flow's own.
	AuthorizationParams map[string]string `yaml:"authorization_params"`
	// LoginHintParameter carries the account the user is expected to use; none: it has none. Default "login_hint".
	LoginHintParameter string `yaml:"login_hint_parameter"`

	// Rotation says what becomes of a refresh token once it is used: none (it stays), grace (it stays for a while), strict
	// (it is over at once). Default strict, the safe assumption.
	Rotation string `yaml:"rotation"`
	// RotationGrace is how many seconds a used refresh token may be sent again where rotation is grace. 0: not known.
	RotationGrace int64 `yaml:"rotation_grace"`
	// ReuseEndsGrant: a used refresh token that comes again ends the whole grant (RFC 9700 section 4.14.2).
	ReuseEndsGrant bool `yaml:"reuse_ends_grant"`
	// RefreshEndsAccessToken: a refresh ends the access token before it at once. The broker then refreshes no token ahead of
	// need, for that would take it from whoever has it.
	RefreshEndsAccessToken bool `yaml:"refresh_ends_access_token"`
	// RefreshTokenLifetime is how many seconds after the consent the grant ends, used or not. An answer that says how long
	// its refresh token lives counts instead. 0: no limit is known.
	RefreshTokenLifetime int64 `yaml:"refresh_token_lifetime"`
	// GrantLimit is how many grants of one account and OAuth client the provider keeps; one more ends the oldest. 0: no limit
	// is known.
	GrantLimit int `yaml:"grant_limit"`
	// RefreshTokenIdle is how many seconds a refresh token, or with one that stays the grant, lives unless it is used. The
	// broker uses it in time although nobody asks for a token. An answer that says how long its refresh token lives
	// counts beside it. 0: no limit is known.
	RefreshTokenIdle int64 `yaml:"refresh_token_idle"`
	// SharedGrants: whoever connects the same account through the same OAuth client gets the same chain of refresh tokens, so
	// that using one ends what the others hold.
	SharedGrants bool `yaml:"shared_grants"`
	// Narrows: a refresh that names fewer scopes gives a token with fewer (RFC 6749 section 6).
	Narrows bool `yaml:"narrows"`

	// Vars declares the {placeholders} in the URLs and authorization_params.
	Vars map[string]Var `yaml:"vars"`
	// CallbackSignature is how the provider signs the callback; nil: it does not.
	CallbackSignature *CallbackSignature `yaml:"callback_signature"`
	// CallbackExpect are query parameters that the callback must have with just these values; {placeholders} are filled.
	CallbackExpect map[string]string `yaml:"callback_expect"`
	// CallbackExtra are query parameters of the callback that callers of the API need (realmId); path is the parameter.
	CallbackExtra []Extra `yaml:"callback_extra"`

	TokenRequest TokenRequest `yaml:"token_request"`
	// ClientCredentials and JWTBearer say how those grants are asked for.
	ClientCredentials ClientCredentials `yaml:"client_credentials"`
	JWTBearer         JWTBearer         `yaml:"jwt_bearer"`
	// DeviceAuthorization says how device codes are asked for.
	DeviceAuthorization DeviceAuthorization `yaml:"device_authorization"`
	// TokenResponse maps the answer to a code; RefreshResponse the answer to a refresh. Default for the latter: the former.
	TokenResponse   *TokenResponse `yaml:"token_response"`
	RefreshResponse *TokenResponse `yaml:"refresh_response"`
	// AccessTokenTTL is assumed where an answer has no usable lifetime. Default 300 if there is a refresh token.
	AccessTokenTTL int `yaml:"access_token_ttl"`
	// TokenTypes are values of token_type, in any case, that mean a bearer token, beside Bearer itself and none at all
	// (RFC 6749 section 7.1). A token of another type is not handed out.
	TokenTypes []string `yaml:"token_types"`
	// Errors says what error codes mean, beside those of the RFCs.
	Errors Errors `yaml:"errors"`

	// IDToken maps claims of the id_token (OpenID Connect Core section 2).
	IDToken *AccountPaths `yaml:"id_token"`
	// Userinfo says how the account is looked up at userinfo_endpoint.
	Userinfo Userinfo `yaml:"userinfo"`
	// Lookups are further requests behind a consent, for what callers of the API need and nothing else tells.
	Lookups []Lookup `yaml:"lookups"`
	// Revocation says how a grant is ended at revocation_endpoint.
	Revocation Revocation `yaml:"revocation"`
	// API is where and how access tokens are used.
	API API `yaml:"api"`
	// Notices is how the provider tells that grants ended; nil: it does not.
	Notices *Notices `yaml:"notices"`

	// Timeout bounds each request, dial to last byte. Default and maximum 30.
	Timeout int `yaml:"timeout"`

	// Connectors are products behind this server, under names that users know.
	Connectors []Product `yaml:"connectors"`

	// AllowPrivate lets requests go to private addresses: right for what the operator configured, wrong for what somebody
	// else did. Link-local, unspecified and multicast addresses are refused in any case.
	AllowPrivate bool `yaml:"-"`
	custom       bool // the operator's own, with values that may be secret

	// tenant: a tenant made the connector that uses it (reach.go).
	tenant bool

	lines lines
	// broken: it has problems, which were reported; no connector works with it.
	broken bool
	// doubts are the keys that have a problem: whatever depends on them can't be judged.
	doubts []string
}

// doubtful tells whether the key, something in it or something around it has a problem.
func (d *Definition) doubtful(key string) bool {
	return slices.ContainsFunc(d.doubts, func(doubt string) bool { return related(doubt, key) })
}

// Scope describes a scope for users.
type Scope struct {
	// Description in plain words, as the end of "It may": "See your files".
	Description string `yaml:"description"`
	// Access is read, change, send or delete; empty: other.
	Access string `yaml:"access"`
	// Sensitive asks for attention on the consent page.
	Sensitive bool `yaml:"sensitive"`
	// Optional: see optional_scope_parameter.
	Optional bool `yaml:"optional"`
}

// Var declares a placeholder.
type Var struct {
	// Default is used where no value is given. Without one, a connector must give it.
	Default string `yaml:"default"`
	// Pattern must match the whole value; Allowed lists values. One of the two is required. In any case a value is made of
	// letters, digits and . _ - only, so that it can't become another host or path.
	Pattern string   `yaml:"pattern"`
	Allowed []string `yaml:"allowed"`
	// Values maps what the source says to what it means here (us: com). What is not in it stands for itself; the result must be
	// allowed like any other. Not with config.
	Values map[string]string `yaml:"values"`
	// From says who gives it: config (vars: of the connector), callback.NAME (a query parameter of the callback) or
	// token_response.PATH. Default config.
	From string `yaml:"from"`
}

// Extra is a provider's fact that callers need: the API's base address, a tenant id.
type Extra struct {
	Name string `yaml:"name"`
	Path string `yaml:"path"`
	// Pattern must match the whole value, else it is left out.
	Pattern string `yaml:"pattern"`
}

// TokenRequest is how the token endpoint wants to be asked, where it differs from RFC 6749.
type TokenRequest struct {
	// Format of the body: form or json. Default form.
	Format string `yaml:"format"`
	// Headers are added.
	Headers map[string]string `yaml:"headers"`
	// ExchangeParams and RefreshParams are added to the body.
	ExchangeParams map[string]string `yaml:"exchange_params"`
	RefreshParams  map[string]string `yaml:"refresh_params"`
	// RefreshEndpoint is where refreshes go. Default: token_endpoint.
	RefreshEndpoint string `yaml:"refresh_endpoint"`
	// RefreshScope: a refresh names the grant's scopes (one resource per token).
	RefreshScope bool `yaml:"refresh_scope"`
	// RefreshRedirectURI: a refresh names the redirect URI.
	RefreshRedirectURI bool `yaml:"refresh_redirect_uri"`
	// RefreshTokenIn is body or bearer (Authorization header). Default body.
	RefreshTokenIn string `yaml:"refresh_token_in"`
}

// TokenResponse maps a token response (RFC 6749 section 5.1). Every value is a path; "none": the provider has no such value.
type TokenResponse struct {
	AccessToken  string `yaml:"access_token"`  // default access_token
	RefreshToken string `yaml:"refresh_token"` // default refresh_token
	IDToken      string `yaml:"id_token"`      // default id_token
	TokenType    string `yaml:"token_type"`    // default token_type; see token_types
	// Scope is a string or an array. Default scope.
	Scope string `yaml:"scope"`
	// ScopeSeparator in that string. Default: white space, and the definition's separator.
	ScopeSeparator string `yaml:"scope_separator"`
	ExpiresIn      string `yaml:"expires_in"` // seconds; default expires_in
	// ExpiresAt is a moment: seconds or milliseconds since 1970, or RFC 3339. A path PATH@CLAIM is a claim of the JWT at the
	// path. Default none.
	ExpiresAt string `yaml:"expires_at"`
	// ZeroNeverExpires: an expires_in of 0 means that the token does not end.
	ZeroNeverExpires bool `yaml:"zero_never_expires"`
	// RefreshExpiresIn is the refresh token's own life in seconds. Default refresh_token_expires_in|refresh_expires_in.
	RefreshExpiresIn string `yaml:"refresh_expires_in"`
	// Account as far as the answer names it.
	Account AccountPaths `yaml:"account"`
	// Extra is handed to callers with the token.
	Extra []Extra `yaml:"extra"`
}

// AccountPaths maps whose account it is. ID must be stable and the same from every source. In Name "a+b" joins those values
// that are there by a space.
type AccountPaths struct {
	ID    string `yaml:"id"`
	Name  string `yaml:"name"`
	Email string `yaml:"email"`
}

// Errors says what a failed answer means (broker.Class). The codes of the RFCs have their meaning already; a code listed
// here takes the one of its list.
type Errors struct {
	// Code is the path of the error code. Default error.
	Code string `yaml:"code"`
	// Description is the path of the text beside it, for When alone. Default error_description.
	Description string `yaml:"description"`
	// OK is the path of a boolean that is false in an error with HTTP 200 (Slack).
	OK string `yaml:"ok"`
	// Present is a path that only errors have, also those with HTTP 200 (errors, of GraphQL).
	Present string `yaml:"present"`

	// Denied are codes in the callback that mean that the user said no, beside access_denied.
	Denied []string `yaml:"denied"`

	GrantDead     []string `yaml:"grant_dead"`     // the user must consent again
	ClientRefused []string `yaml:"client_refused"` // the operator must act
	Throttled     []string `yaml:"throttled"`      // not done, try later
	InDoubt       []string `yaml:"in_doubt"`       // perhaps done
	Refused       []string `yaml:"refused"`        // the request was wrong

	// When is looked at first, in order: where a code alone does not tell.
	When []ErrorRule `yaml:"when"`
}

// ErrorRule matches an answer when all that it states holds.
type ErrorRule struct {
	Status int    `yaml:"status"`
	Code   string `yaml:"code"`
	// Contains is part of the text at errors.description; letters compare without case.
	Contains string `yaml:"contains"`
	// Path and Value: the value at the path, or one in the array there, equals this.
	Path  string `yaml:"path"`
	Value string `yaml:"value"`
	// Class is grant_dead, client_refused, throttled, in_doubt or refused.
	Class string `yaml:"class"`
}

// Userinfo is how an account is looked up. In Headers, Params and Body {access_token} stands for the token.
type Userinfo struct {
	Method string `yaml:"method"` // GET or POST; default GET
	// Auth is bearer (RFC 6750), client (as at the token endpoint; the token goes in params) or none. Default bearer.
	Auth    string            `yaml:"auth"`
	Headers map[string]string `yaml:"headers"`
	Params  map[string]string `yaml:"params"` // a form body
	Body    string            `yaml:"body"`   // a JSON body, for GraphQL
	// Account: paths. Default sub, name|preferred_username|email, email (OpenID Connect Core section 5.1).
	Account AccountPaths `yaml:"account"`
	Extra   []Extra      `yaml:"extra"`
	// Scope is where the answer has the granted scopes, for providers whose token response has not. Default none.
	Scope string `yaml:"scope"`
}

// Lookup is a request with the access token, whose answer callers need a part of. An answer that is an array is at items.
type Lookup struct {
	Endpoint string            `yaml:"endpoint"`
	Method   string            `yaml:"method"` // GET or POST; default GET
	Headers  map[string]string `yaml:"headers"`
	Body     string            `yaml:"body"` // JSON
	Extra    []Extra           `yaml:"extra"`
}

// CallbackSignature is an HMAC over the callback's other parameters, sorted and form-encoded, with the client secret.
type CallbackSignature struct {
	Parameter string `yaml:"parameter"` // which carries it
	Algorithm string `yaml:"algorithm"` // hmac-sha256-hex
}

// API is how access tokens are used, for callers and for a proxy.
type API struct {
	// Hosts that may see the token: exact, "*.example.com" for any below it, or with {placeholders}.
	Hosts []string `yaml:"hosts"`
	// Header carries the token behind Scheme and a space. Default Authorization and Bearer; scheme none: the token alone.
	Header string `yaml:"header"`
	Scheme string `yaml:"scheme"`
	// Headers are needed on every call.
	Headers map[string]string `yaml:"headers"`
}

// Revocation is how a grant is ended (RFC 7009 by default). In the endpoint, Params and Headers {token} stands for the token,
// {token_type_hint} for its kind and {client_id} for the client; in Params {client_secret} for its secret as well.
type Revocation struct {
	// Unsupported: the provider has no way to end a grant, whatever its metadata says.
	Unsupported bool   `yaml:"unsupported"`
	Method      string `yaml:"method"` // POST or DELETE; default POST
	// Auth is client (as at the token endpoint), basic or post (the client, RFC 6749 section 2.3.1), bearer (the token itself) or
	// none. Default client.
	Auth    string            `yaml:"auth"`
	Format  string            `yaml:"format"`  // form or json; default form
	Params  map[string]string `yaml:"params"`  // default {token: "{token}", token_type_hint: "{token_type_hint}"}
	Headers map[string]string `yaml:"headers"` // added
	// Token is which one is presented: refresh (the access token where there is none) or access. Default refresh.
	Token string `yaml:"token"`
	// Done are error codes, and DoneStatus HTTP statuses from 400 on, that mean that the grant is over already.
	Done       []string `yaml:"done"`
	DoneStatus []int    `yaml:"done_status"`
	// Ends says what else ends with it: grant (this alone), client (everything that the account gave the OAuth client) or
	// app (the app is taken out of the account). Default grant. With the other two a grant is revoked only when nobody else
	// holds one of the account (broker.Connector.RevokesAll).
	Ends string `yaml:"ends"`
}

// Product is one of several connectors behind a server. What it states replaces the same key of the definition.
type Product struct {
	ID       string   `yaml:"id"`
	Name     string   `yaml:"name"`
	Category string   `yaml:"category"`
	Scopes   []string `yaml:"scopes"` // asked where a connector's configuration has none

	ScopeParameter  string            `yaml:"scope_parameter"`
	TokenResponse   *TokenResponse    `yaml:"token_response"`
	RefreshResponse *TokenResponse    `yaml:"refresh_response"`
	Userinfo        *Userinfo         `yaml:"userinfo"`
	Vars            map[string]string `yaml:"vars"` // other defaults
}
