package api

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"unicode/utf8"

	"tokenbroker/broker"
)

// This file is the broker as an authorization server for its clients (RFC 6749, 8414, 8693): what they can use with any library, without ours.

// The paths below the public URL. They are exact.
const (
	pathToken    = "/oauth2/token"
	pathJWKS     = "/oauth2/jwks"
	pathMetadata = "/.well-known/oauth-authorization-server"
)

var oauthPaths = map[string]bool{pathToken: true, pathJWKS: true, pathMetadata: true}

// Registered values.
const (
	grantExchange          = "urn:ietf:params:oauth:grant-type:token-exchange"        // RFC 8693 section 2.1
	grantClientCredentials = "client_credentials"                                     // RFC 6749 section 4.4
	assertionJWT           = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 section 2.2
	typeAccessToken        = "urn:ietf:params:oauth:token-type:access_token"          // RFC 8693 section 3
	typeIDToken            = "urn:ietf:params:oauth:token-type:id_token"              // #nosec: a name
	typeJWT                = "urn:ietf:params:oauth:token-type:jwt"
	formType               = "application/x-www-form-urlencoded"
)

func (a *API) oauthTable() map[string]*route {
	table := map[string]*route{}
	for _, r := range []route{
		{method: http.MethodPost, path: pathToken, handle: a.token},
		{method: http.MethodGet, path: pathJWKS, handle: a.jwks},
		{method: http.MethodGet, path: pathMetadata, handle: a.metadata},
	} {
		r.pattern = r.method + " " + r.path
		table[r.path] = &r
	}
	return table
}

// runOAuth takes a request through the steps of these endpoints. Who asks is said in ways of their own, by the token endpoint alone.
func (a *API) runOAuth(ctx context.Context, in *request, route *route) (answer, error) {
	in.oauth = true
	in.match = match{path: route.path, allow: route.method}
	if in.http.Method != route.method {
		return answer{}, in.match.check()
	}
	in.match.route = route
	if in.http.URL.RawQuery != "" || in.http.URL.ForceQuery {
		return answer{}, invalid("this call takes no query parameters: secrets in a URL end up in logs (RFC 6749 section 3.2)")
	}
	if route.method == http.MethodGet {
		if err := in.noBody(); err != nil {
			return answer{}, err
		}
	}
	return route.handle(ctx, in)
}

// jwks publishes the keys of our access tokens (RFC 7517 section 5).
func (a *API) jwks(context.Context, *request) (answer, error) {
	return ok(map[string]any{"keys": a.tokens.public()})
}

// metadataAnswer is RFC 8414 section 2.
type metadataAnswer struct {
	Issuer        string   `json:"issuer"`
	TokenEndpoint string   `json:"token_endpoint"`
	JWKSURI       string   `json:"jwks_uri"`
	Grants        []string `json:"grant_types_supported"`
	Responses     []string `json:"response_types_supported"`
	Auth          []string `json:"token_endpoint_auth_methods_supported"`
	AuthAlgs      []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	Documentation string   `json:"service_documentation,omitzero"`
}

func (a *API) metadata(context.Context, *request) (answer, error) {
	base := a.cfg.PublicURL
	return ok(metadataAnswer{
		Issuer: base, TokenEndpoint: base + pathToken, JWKSURI: base + pathJWKS,
		Grants: []string{grantExchange, grantClientCredentials}, Responses: []string{},
		Auth:     []string{"client_secret_basic", "client_secret_post", "private_key_jwt"},
		AuthAlgs: []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"},
	})
}

// token is the token endpoint (RFC 6749 section 3.2).
func (a *API) token(ctx context.Context, in *request) (answer, error) {
	form, err := in.readForm()
	if err != nil {
		return answer{}, err
	}
	client, err := a.authenticateForm(ctx, in, form)
	if err != nil {
		return answer{}, err
	}
	in.caller = broker.Caller{Client: client, RequestID: in.id, TraceID: in.traceID, Origin: in}
	if err := a.cfg.Service.AdmitRequest(in.caller); err != nil {
		return answer{}, err
	}
	if a.cfg.Erased != nil && a.cfg.Erased(client.Tenant) {
		return answer{}, broker.Errorf(broker.CodeInvalidClient, "the tenant of this client was erased: nothing of it is left here")
	}
	switch grant := form.one("grant_type"); grant {
	case grantExchange:
		return a.exchange(ctx, in, form)
	case grantClientCredentials:
		return a.clientCredentials(ctx, in, form)
	case "":
		return answer{}, invalid("grant_type is missing")
	default:
		return answer{}, oauthError("unsupported_grant_type", "this grant_type is not supported; use %s or %s", grantExchange, grantClientCredentials)
	}
}

// accessAnswer is RFC 6749 section 5.1.
type accessAnswer struct {
	AccessToken string `json:"access_token"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
}

// clientCredentials issues an access token of ours, which stands for the client's API key at the REST API (RFC 6749 section 4.4).
func (a *API) clientCredentials(ctx context.Context, in *request, form form) (answer, error) {
	if form.one("scope") != "" {
		return answer{}, broker.Errorf(broker.CodeInvalidScope, "access tokens of this broker have no scopes: leave scope out")
	}
	if err := a.cfg.Service.AdmitClient(ctx, in.caller); err != nil {
		return answer{}, err
	}
	token, err := a.tokens.issue(in.caller.Client.ID, a.cfg.Random)
	if err != nil {
		return answer{}, err
	}
	return ok(accessAnswer{AccessToken: token, TokenType: "Bearer", ExpiresIn: int64(accessTokenLife.Seconds())})
}

// form is the body of a request to the token endpoint.
type form struct{ values url.Values }

// severally are the parameters that may be there more than once (RFC 8693 section 2.1).
var severally = []string{"audience", "resource"}

// readForm reads the body: parameters that are not known are ignored, those without a value count as left out, and none may be repeated
// (RFC 6749 section 3.2).
func (in *request) readForm() (form, error) {
	if types := in.http.Header.Values("Content-Type"); len(types) != 1 || !isForm(types[0]) {
		return form{}, &refusal{status: http.StatusUnsupportedMediaType, err: invalid("send the parameters as %s", formType)}
	}
	text, err := in.readWhole()
	if err != nil {
		return form{}, err
	}
	values, err := url.ParseQuery(string(text))
	if err != nil {
		return form{}, invalid("the body is not well formed: separate parameters with & and percent-encode their values")
	}
	for name, list := range values {
		list = slices.DeleteFunc(list, func(v string) bool { return v == "" })
		switch {
		case !utf8.ValidString(name) || slices.ContainsFunc(list, func(v string) bool { return !utf8.ValidString(v) }):
			return form{}, invalid("the body is not valid UTF-8")
		case len(list) > 1 && !slices.Contains(severally, name):
			return form{}, invalid("parameter %s is there more than once", quoteName(name))
		}
		values[name] = list
	}
	return form{values}, nil
}

func (f form) one(name string) string { return f.values.Get(name) }
