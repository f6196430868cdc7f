package providers

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"tokenbroker/broker"
)

var idPattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$`)

// reservedParams belong to the flow; a definition can't set or replace them (RFC 6749 section 4.1.1, RFC 7636, RFC 9101,
// RFC 9126).
var reservedParams = []string{"response_type", "client_id", "client_secret", "redirect_uri", "state", "scope", "code", "code_challenge",
	"code_challenge_method", "code_verifier", "grant_type", "refresh_token", "nonce", "request", "request_uri", "assertion", "device_code"}

var errorClasses = []string{string(broker.ClassGrantDead), string(broker.ClassClientRefused), string(broker.ClassThrottled),
	string(broker.ClassInDoubt), string(broker.ClassRefused)}

// validation collects the problems of one definition.
type validation struct {
	d        *Definition
	problems Problems
	keys     []string // that have one of these problems
}

// add takes a problem, unless it may only follow from a value that could not be read.
func (v *validation) add(key, format string, args ...any) {
	if v.d.doubtful(key) {
		return
	}
	v.problems = append(v.problems, v.d.lines.problem(key, format, args...))
	v.keys = append(v.keys, key)
}

func (v *validation) oneOf(key, value string, allowed ...string) {
	if value != "" && !slices.Contains(allowed, value) {
		v.add(key, "must be %s", either(allowed))
	}
}

func either(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// validate returns everything that is wrong with the definition, as far as it could be read. The keys concerned become
// doubtful.
func (d *Definition) validate() Problems {
	v := &validation{d: d}
	if !idPattern.MatchString(d.ID) {
		v.add("id", "must be 1 to 64 lower-case letters, digits and hyphens")
	}
	v.oneOf("discovery", d.Discovery, "auto", "none")
	v.oneOf("authorization_response_iss", d.AuthorizationResponseIss, "required", "when_present")
	v.oneOf("token_endpoint_auth_method", d.TokenEndpointAuthMethod, authBasic, authPost, authNone)
	v.oneOf("pkce", d.PKCE, "S256", "unsupported", "unknown")
	v.oneOf("confidence", d.Confidence, "documented", "code", "uncertain")
	v.catalogued()
	v.notices()
	v.oneOf("rotation", d.Rotation, "none", "grace", "strict")
	v.vars()
	v.endpoints()
	v.grants()
	v.scopes()
	v.params("authorization_params", d.AuthorizationParams)
	if mode, ok := d.AuthorizationParams["response_mode"]; ok && mode != "query" {
		v.add("authorization_params.response_mode", "must be query: the callback reads nothing else")
	}
	v.tokens()
	v.errors()
	v.account()
	v.callback()
	v.lookups()
	v.api()
	v.extras("callback_extra", d.CallbackExtra)
	if d.Timeout < 0 || d.Timeout > 30 {
		v.add("timeout", "must be 1 to 30 seconds")
	}
	v.span("refresh_token_idle", d.RefreshTokenIdle)
	v.span("refresh_token_lifetime", d.RefreshTokenLifetime)
	v.span("rotation_grace", d.RotationGrace)
	if d.RotationGrace > 0 && d.Rotation != "grace" {
		v.add("rotation_grace", "needs rotation: grace")
	}
	if d.GrantLimit < 0 {
		v.add("grant_limit", "must not be negative")
	}
	if d.AccessTokenTTL < 0 || d.AccessTokenTTL > 366*24*3600 {
		v.add("access_token_ttl", "must be 1 to 31622400 seconds")
	}
	v.products()
	d.doubts = append(d.doubts, v.keys...)
	return v.problems
}

// span checks a length of time that providers count in months or years.
func (v *validation) span(key string, seconds int64) {
	if seconds < 0 || seconds > 10*366*24*3600 {
		v.add(key, "must be 1 to 316224000 seconds")
	}
}

func (v *validation) vars() {
	for _, name := range slices.Sorted(maps.Keys(v.d.Vars)) {
		decl, key := v.d.Vars[name], "vars."+name
		if !placeholder.MatchString("{" + name + "}") {
			v.add(key, "a placeholder's name is made of lower-case letters, digits and _")
		}
		if decl.Pattern == "" && len(decl.Allowed) == 0 {
			v.add(key, "needs a pattern or a list of allowed values: it may become part of a host name")
		}
		if _, err := regexp.Compile(decl.Pattern); err != nil {
			v.add(key+".pattern", "is not a regular expression")
		} else if decl.Default != "" && !decl.accepts(decl.Default) {
			v.add(key+".default", "is not among the allowed values")
		}
		for _, said := range slices.Sorted(maps.Keys(decl.Values)) {
			if said == "" || !decl.accepts(decl.Values[said]) {
				v.add(key+".values", "%q is empty or stands for what is not among the allowed values", said)
			}
		}
		if len(decl.Values) > 0 && (decl.From == "" || decl.From == "config") {
			v.add(key+".values", "has no effect on what the configuration gives: set from")
		}
		source, path, _ := strings.Cut(decl.From, ".")
		if known := source == "" || source == "config" || (source == "callback" || source == "token_response") && path != ""; !known {
			v.add(key+".from", "must be config, callback.NAME or token_response.PATH")
		}
	}
}

// declared complains about placeholders that have no declaration; predefined ones need none.
func (v *validation) declared(key, s string, predefined ...string) {
	for _, name := range placeholders(s) {
		if _, ok := v.d.Vars[name]; !ok && !slices.Contains(predefined, name) && !v.d.doubtful("vars."+name) {
			v.add(key, "uses {%s}, which vars: does not declare", name)
		}
	}
}

func (v *validation) endpoints() {
	d := v.d
	sample := map[string]string{"token": "x", "token_type_hint": "x", "client_id": "x"}
	for name, decl := range d.Vars {
		if sample[name] = decl.Default; decl.Default == "" {
			sample[name] = "x"
		}
	}
	check := func(key, raw string, parse func(string) (*url.URL, error), predefined ...string) {
		if raw == "" {
			return
		}
		v.declared(key, raw, predefined...)
		for _, name := range placeholders(raw) {
			if sample[name] == "" {
				sample[name] = "x" // not declared, which is said already
			}
		}
		if _, err := parse(fill(raw, sample)); err != nil {
			v.add(key, "%s", err)
		}
	}
	check("issuer", d.Issuer, parseIssuer)
	check("authorization_endpoint", d.AuthorizationEndpoint, parseEndpoint)
	check("token_endpoint", d.TokenEndpoint, parseEndpoint)
	check("token_request.refresh_endpoint", d.TokenRequest.RefreshEndpoint, parseEndpoint)
	check("revocation_endpoint", d.RevocationEndpoint, parseEndpoint, "token", "token_type_hint", "client_id")
	for i, l := range d.Lookups {
		check(fmt.Sprintf("lookups[%d].endpoint", i), l.Endpoint, parseEndpoint)
	}
	check("userinfo_endpoint", d.UserinfoEndpoint, parseEndpoint)
	check("device_authorization_endpoint", d.DeviceAuthorizationEndpoint, parseEndpoint)
	for i, host := range d.EndpointHosts {
		if u, err := url.Parse("https://" + host); err != nil || u.Host != host || host == "" {
			v.add("endpoint_hosts", "entry %d must be a host or host:port", i+1)
		}
	}
	if d.discovers() || d.doubtful("issuer") {
		return // the metadata may fill the rest; what is missing even then is an error when it is needed
	}
	for _, e := range []struct{ key, value, example string }{
		{"authorization_endpoint", d.AuthorizationEndpoint, "its URL"},
		{"token_endpoint", d.TokenEndpoint, "its URL"},
		{"token_endpoint_auth_method", d.TokenEndpointAuthMethod, "client_secret_basic, client_secret_post or none, as the provider's documentation says"},
	} {
		if e.value == "" && !(e.key == "authorization_endpoint" && len(d.Grants) > 0 && !d.offersGrant("authorization_code")) {
			v.add(e.key, "is missing, and there is no issuer to discover it from: set it to %s", e.example)
		}
	}
	if d.AuthorizationResponseIss == "required" && d.Issuer == "" {
		v.add("authorization_response_iss", "needs an issuer to compare with")
	}
}

func (v *validation) scopes() {
	d := v.d
	for _, list := range []struct {
		key    string
		scopes []string
	}{{"offline_scopes", d.OfflineScopes}, {"identity_scopes", d.IdentityScopes}} {
		for i, s := range list.scopes {
			if !validScope(s) {
				v.add(list.key, "entry %d is not a scope (RFC 6749 section 3.3)", i+1)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Scopes)) {
		if !validScope(name) {
			v.add("scopes."+name, "is not a scope (RFC 6749 section 3.3)")
		}
		v.oneOf("scopes."+name+".access", d.Scopes[name].Access, "read", "change", "send", "delete")
	}
	if d.WholeGrant != nil {
		v.oneOf("whole_grant.access", d.WholeGrant.Access, "read", "change", "send", "delete")
		if d.WholeGrant.Description == "" {
			v.add("whole_grant.description", "is missing: what a grant lets its holder do, in plain words")
		}
		if d.WholeGrant.Optional {
			v.add("whole_grant.optional", "has no meaning: a grant is whole")
		}
	}
	for _, long := range slices.Sorted(maps.Keys(d.ScopeAliases)) {
		if short := d.ScopeAliases[long]; short == "" || strings.Contains(short, "*") && !strings.HasSuffix(long, "*") {
			v.add("scope_aliases", "every alias needs a scope to stand for; * only where the alias ends in *")
		}
	}
	for _, scope := range slices.Sorted(maps.Keys(d.ScopeImplies)) {
		if included := d.ScopeImplies[scope]; included == "" || strings.HasSuffix(scope, "*") != strings.Contains(included, "*") {
			v.add("scope_implies", "every entry needs a scope; * in it just where the entry ends in *")
		}
	}
	v.parameterName("scope_parameter", d.ScopeParameter)
	v.parameterName("optional_scope_parameter", d.OptionalScopeParameter)
	v.parameterName("login_hint_parameter", d.LoginHintParameter)
}

// parameterName refuses names that the flow uses for something else; scope itself is what scope_parameter means.
func (v *validation) parameterName(key, name string) {
	if name != "" && name != "scope" && slices.Contains(reservedParams, name) {
		v.add(key, "must not be %s: the flow uses it", name)
	}
}

// validScope accepts scope-token of RFC 6749 section 3.3: printable ASCII without space, quotes and backslash.
func validScope(s string) bool {
	if s == "" {
		return false
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return false
		}
	}
	return true
}

func (v *validation) params(key string, params map[string]string, predefined ...string) {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if slices.Contains(reservedParams, name) || name == v.d.ScopeParameter {
			v.add(key+"."+name, "can't be set: the flow uses it")
		}
		v.declared(key+"."+name, params[name], predefined...)
	}
}

func (v *validation) headers(key string, headers map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		// An Idempotency-Key would make net/http repeat a POST by itself; the others are the client's.
		switch strings.ToLower(name) {
		case "authorization", "content-type", "content-length", "host", "cookie", "connection", "transfer-encoding",
			"idempotency-key", "x-idempotency-key", "accept-encoding", "expect":
			v.add(key+"."+name, "can't be set")
		}
		if !headerName.MatchString(name) || strings.ContainsAny(headers[name], "\r\n\x00") {
			v.add(key+"."+name, "is not a header")
		}
	}
}

var headerName = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

func (v *validation) tokens() {
	d := v.d
	v.oneOf("token_request.format", d.TokenRequest.Format, "form", "json")
	v.oneOf("token_request.refresh_token_in", d.TokenRequest.RefreshTokenIn, "body", "bearer")
	if d.TokenRequest.RefreshTokenIn == "bearer" && d.TokenEndpointAuthMethod != authPost && d.TokenEndpointAuthMethod != authNone {
		v.add("token_request.refresh_token_in", "bearer leaves no room for the Authorization header of client_secret_basic: set token_endpoint_auth_method")
	}
	v.headers("token_request.headers", d.TokenRequest.Headers)
	v.params("token_request.exchange_params", d.TokenRequest.ExchangeParams)
	v.params("token_request.refresh_params", d.TokenRequest.RefreshParams)
	for i, kind := range d.TokenTypes {
		if kind = strings.ToLower(kind); strings.TrimSpace(kind) == "" || kind == "mac" || kind == "dpop" {
			v.add("token_types", "entry %d can't be presented as a bearer token", i+1)
		}
	}
	v.response("token_response", d.TokenResponse)
	v.response("refresh_response", d.RefreshResponse)
}

func (v *validation) response(key string, r *TokenResponse) {
	if r == nil {
		return
	}
	if r.AccessToken == "none" {
		v.add(key+".access_token", "can't be none")
	}
	v.extras(key+".extra", r.Extra)
}

func (v *validation) extras(key string, extras []Extra) {
	for i, e := range extras {
		if e.Name == "" || e.Path == "" {
			v.add(key, "entry %d needs name and path", i+1)
		}
		if _, err := regexp.Compile(e.Pattern); err != nil {
			v.add(key, "entry %d: pattern is not a regular expression", i+1)
		}
	}
}

func (v *validation) errors() {
	e, listed := v.d.Errors, map[string]string{}
	for _, list := range e.lists() {
		for _, code := range list.codes {
			if other, twice := listed[code]; twice {
				v.add("errors."+string(list.class), "%s is in errors.%s already", code, other)
			}
			listed[code] = string(list.class)
		}
	}
	for i, rule := range e.When {
		if !slices.Contains(errorClasses, rule.Class) {
			v.add("errors.when", "entry %d: class must be %s", i+1, either(errorClasses))
		}
		if rule.Status == 0 && rule.Code == "" && rule.Contains == "" && rule.Path == "" {
			v.add("errors.when", "entry %d: matches everything", i+1)
		}
		if (rule.Path == "") != (rule.Value == "") {
			v.add("errors.when", "entry %d: path and value belong together", i+1)
		}
	}
}

func (v *validation) account() {
	u, r := v.d.Userinfo, v.d.Revocation
	v.oneOf("userinfo.method", u.Method, "GET", "POST")
	v.oneOf("userinfo.auth", u.Auth, "bearer", "client", "none")
	v.headers("userinfo.headers", u.Headers)
	v.declaredAll("userinfo.params", u.Params, "access_token")
	v.extras("userinfo.extra", u.Extra)
	if u.Body != "" && len(u.Params) > 0 {
		v.add("userinfo.body", "there can't be params and body")
	}
	if (u.Body != "" || len(u.Params) > 0 || u.Auth == "client") && u.Method != "POST" {
		v.add("userinfo.method", "must be POST where something is sent in the body")
	}
	v.oneOf("revocation.method", r.Method, "POST", "DELETE")
	v.oneOf("revocation.auth", r.Auth, "client", "basic", "post", "bearer", "none")
	v.headers("revocation.headers", r.Headers)
	v.declaredAll("revocation.headers", r.Headers, "token", "token_type_hint", "client_id")
	for i, status := range r.DoneStatus {
		if status < 400 || status > 499 || status == 401 || status == 403 || status == 429 {
			v.add("revocation.done_status", "entry %d must be a status from 400 to 499 that says nothing else (401, 403, 429)", i+1)
		}
	}
	v.oneOf("revocation.ends", r.Ends, "grant", "client", "app")
	v.oneOf("revocation.format", r.Format, "form", "json")
	v.oneOf("revocation.token", r.Token, "refresh", "access")
	v.declaredAll("revocation.params", r.Params, "token", "token_type_hint", "client_id", "client_secret")
	if r.Unsupported && v.d.RevocationEndpoint != "" {
		v.add("revocation.unsupported", "contradicts revocation_endpoint")
	}
}

func (v *validation) declaredAll(key string, params map[string]string, predefined ...string) {
	for _, name := range slices.Sorted(maps.Keys(params)) {
		v.declared(key+"."+name, params[name], predefined...)
	}
}

func (v *validation) products() {
	seen := map[string]bool{}
	for i, p := range v.d.Connectors {
		if !idPattern.MatchString(p.ID) {
			v.add("connectors", "entry %d: id must be 1 to 64 lower-case letters, digits and hyphens", i+1)
		}
		if seen[p.ID] {
			v.add("connectors", "entry %d: the id is there twice", i+1)
		}
		seen[p.ID] = true
		for _, s := range p.Scopes {
			if !validScope(s) {
				v.add("connectors", "entry %d: scopes holds something that is not a scope (RFC 6749 section 3.3)", i+1)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(p.Vars)) {
			if decl, ok := v.d.Vars[name]; !ok || !decl.accepts(p.Vars[name]) {
				v.add("connectors", "entry %d: vars.%s is not declared or not an allowed value", i+1, name)
			}
		}
		v.response("connectors", p.TokenResponse)
		v.response("connectors", p.RefreshResponse)
	}
}
