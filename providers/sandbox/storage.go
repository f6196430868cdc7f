package sandbox

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/subtle"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// storage is what the library asks for; it translates between the library and the store and decides nothing else.
type storage struct{ server *Server }

var _ op.Storage = (*storage)(nil)

// CreateAuthRequest keeps a validated authorization request. What it refuses goes back to the client's redirect URI.
func (s *storage) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if req.ResponseMode != "" && req.ResponseMode != oidc.ResponseModeQuery {
		return nil, oidc.ErrInvalidRequest().WithDescription("response_mode must be query")
	}
	if req.CodeChallenge == "" && !s.server.cfg.PKCEOptional {
		return nil, oidc.ErrInvalidRequest().WithDescription("code_challenge is required")
	}
	if req.CodeChallenge != "" && req.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("code_challenge_method must be S256")
	}
	if slices.Contains(req.Prompt, oidc.PromptNone) {
		if _, ok := ctx.Value(knobsKey{}).(*Auto); !ok {
			if s.server.cfg.SingleSignOn {
				return nil, oidc.ErrLoginRequired()
			}
			return nil, oidc.ErrInteractionRequired()
		}
	}
	if len(req.Scopes) == 0 {
		return nil, oidc.ErrInvalidScope().WithDescription("none of the scopes is known")
	}
	r := &authRequest{
		clientID: req.ClientID, redirectURI: req.RedirectURI, nonce: req.Nonce, loginHint: req.LoginHint,
		challenge: req.CodeChallenge, asked: slices.Clone([]string(req.Scopes)),
	}
	r.state, _ = ctx.Value(stateKey{}).(string)
	if knobs, ok := ctx.Value(knobsKey{}).(*Auto); ok {
		r.auto = knobs
	}
	if err := s.server.store.addRequest(r); err != nil {
		return nil, err
	}
	return r, nil
}

func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	r, ok := s.server.store.request(id)
	if !ok {
		return nil, errUnknownToken
	}
	return &r, nil
}

func (s *storage) AuthRequestByCode(_ context.Context, code string) (op.AuthRequest, error) {
	return s.server.store.redeemable(code)
}

func (s *storage) SaveAuthCode(_ context.Context, id, code string) error {
	return s.server.store.saveCode(id, code)
}

// DeleteAuthRequest keeps the request: a second use of its code must be recognised. The store drops old ones by itself.
func (s *storage) DeleteAuthRequest(context.Context, string) error { return nil }

func (s *storage) CreateAccessToken(_ context.Context, req op.TokenRequest) (string, time.Time, error) {
	switch r := req.(type) {
	case *authRequest:
		out, err := s.server.store.redeem(r.id, false)
		return out.access, expiry(out.lifetime), invalidGrant(err)
	case *op.DeviceAuthorizationState:
		out, err := s.server.store.redeemDevice(r, false)
		return out.access, expiry(out.lifetime), err
	case *directRequest:
		return s.issueDirect(r.client, r.sub, r.scopes)
	case *oidc.JWTTokenRequest:
		sub := serviceAccount + r.Issuer
		if u, ok := s.server.userByEmail(r.Subject); ok {
			sub = u.Sub
		}
		return s.issueDirect(r.Issuer, sub, r.Scopes)
	}
	return "", time.Time{}, oidc.ErrUnsupportedGrantType()
}

func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, req op.TokenRequest, current string) (string, string, time.Time, error) {
	var out issued
	var err error
	switch r := req.(type) {
	case *authRequest:
		out, err = s.server.store.redeem(r.id, true)
	case *refreshRequest:
		keep, _ := ctx.Value(keepRefreshKey{}).(bool)
		out, err = s.server.store.use(current, r.current, keep)
	case *op.DeviceAuthorizationState:
		out, err = s.server.store.redeemDevice(r, true)
	default:
		err = oidc.ErrUnsupportedGrantType()
	}
	return out.access, out.refresh, expiry(out.lifetime), invalidGrant(err)
}

// expiry counts from the machine's clock because the library computes expires_in from that one; the half second keeps
// its rounding down from taking a whole second. The store's own clock decides when the token ends.
func expiry(lifetime time.Duration) time.Time { return time.Now().Add(lifetime + 500*time.Millisecond) }

func invalidGrant(err error) error {
	if err == nil {
		return nil
	}
	return oidc.ErrInvalidGrant().WithParent(err)
}

func (s *storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	g, err := s.server.store.peek(token)
	if err != nil {
		return nil, err
	}
	r := &refreshRequest{grant: g, current: g.scopes, fixed: s.server.cfg.FixedScopes}
	if reduced, ok := ctx.Value(reducedScopesKey{}).([]string); ok {
		r.current = intersect(g.scopes, reduced)
		r.fixed = true
	}
	return r, nil
}

func (s *storage) TerminateSession(context.Context, string, string) error { return nil }

func (s *storage) RevokeToken(_ context.Context, token, _, clientID string) *oidc.Error {
	if s.server.store.revokeToken(token, clientID) {
		return oidc.ErrInvalidRequest().WithDescription("the token belongs to another client")
	}
	return nil
}

func (s *storage) GetRefreshTokenInfo(_ context.Context, _ string, token string) (string, string, error) {
	g, err := s.server.store.peek(token)
	if err != nil {
		return "", "", op.ErrInvalidRefreshToken
	}
	return g.sub, token, nil
}

func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	c, ok := s.server.client(id)
	if !ok {
		return nil, oidc.ErrInvalidClient()
	}
	return client{Client: c, scopes: s.server.cfg.Scopes}, nil
}

func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	c, ok := s.server.client(id)
	if !ok || c.Secret == "" || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		return oidc.ErrInvalidClient()
	}
	return nil
}

func (s *storage) SetUserinfoFromScopes(_ context.Context, info *oidc.UserInfo, sub, _ string, scopes []string) error {
	u, ok := s.server.userBySub(sub)
	if !ok {
		return oidc.ErrServerError()
	}
	info.Subject = u.Sub
	if s.server.cfg.ThinIDTokens {
		return nil
	}
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name, info.PreferredUsername = u.Name, u.Login
		if len(u.Groups) > 0 {
			info.AppendClaims("groups", u.Groups)
		}
	}
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email, info.EmailVerified = u.Email, true
	}
	return nil
}

// The library's userinfo and introspection are not served, so these are never called.
func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return oidc.ErrServerError()
}
func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return oidc.ErrServerError()
}
func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

func (s *storage) Health(context.Context) error { return nil }

func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.server.signing, nil }
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}
func (s *storage) KeySet(context.Context) ([]op.Key, error) {
	return []op.Key{publicKey{s.server.signing}}, nil
}

// signingKey signs id_tokens: P-256, because making one takes no time (RSA would delay the start of dev mode).
type signingKey struct{ key *ecdsa.PrivateKey }

func newSigningKey(random io.Reader) (signingKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return signingKey{}, fmt.Errorf("sandbox: make signing key: %w", err)
	}
	return signingKey{key}, nil
}

func (signingKey) ID() string                                  { return "sandbox" }
func (signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k signingKey) Key() any                                  { return k.key }

type publicKey struct{ signing signingKey }

func (publicKey) ID() string                         { return "sandbox" }
func (publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                         { return &k.signing.key.PublicKey }

// opaque replaces the library's encrypted tokens by random ones: the store's access tokens are their own ids, and a code
// is random where the library would encrypt the request's id, which the browser knows.
type opaque struct{ store *store }

func (o opaque) Encrypt(text string) (string, error) {
	if token, _, isToken := strings.Cut(text, ":"); isToken {
		return token, nil
	}
	o.store.mu.Lock()
	defer o.store.mu.Unlock()
	return o.store.token("sbc_")
}

func (o opaque) Decrypt(token string) (string, error) {
	sub, _, ok := o.store.check(token)
	if !ok {
		return "", errUnknownToken
	}
	return token + ":" + sub, nil
}

// client shows a Client to the library.
type client struct {
	Client
	scopes []Scope
}

func (c client) GetID() string                       { return c.ID }
func (c client) RedirectURIs() []string              { return c.Client.RedirectURIs }
func (c client) PostLogoutRedirectURIs() []string    { return c.Client.PostLogoutRedirectURIs }
func (c client) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (c client) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethod(c.Client.AuthMethod) }
func (c client) ResponseTypes() []oidc.ResponseType {
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}
func (c client) GrantTypes() []oidc.GrantType {
	types := []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
	if c.Device {
		types = append(types, oidc.GrantTypeDeviceCode)
	}
	if c.ClientCredentials {
		types = append(types, oidc.GrantTypeClientCredentials)
	}
	return types
}
func (c client) LoginURL(id string) string            { return "/login?request=" + id }
func (c client) AccessTokenType() op.AccessTokenType  { return op.AccessTokenTypeBearer }
func (c client) IDTokenLifetime() time.Duration       { return time.Hour }
func (c client) DevMode() bool                        { return true } // http redirect URIs
func (c client) IDTokenUserinfoClaimsAssertion() bool { return true }
func (c client) ClockSkew() time.Duration             { return 0 }
func (c client) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}
func (c client) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(scopes []string) []string { return scopes }
}
func (c client) IsScopeAllowed(scope string) bool {
	return slices.ContainsFunc(c.scopes, func(s Scope) bool { return s.Name == scope })
}
