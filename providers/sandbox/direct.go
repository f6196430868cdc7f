package sandbox

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// The grants without a user: client_credentials (RFC 6749 section 4.4) and JWT assertions (RFC 7523 section 2.1). The library
// checks the requests; a client has to be registered for each.

var (
	_ op.ClientCredentialsStorage = (*storage)(nil)
	_ op.JWTProfileKeyStorage     = (*storage)(nil)
)

// directRequest is a grant without a user in progress.
type directRequest struct {
	client, sub string
	scopes      []string
}

func (r *directRequest) GetSubject() string    { return r.sub }
func (r *directRequest) GetAudience() []string { return []string{r.client} }
func (r *directRequest) GetScopes() []string   { return r.scopes }

// ClientCredentials checks the client. Its method of authentication was checked before.
func (s *storage) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	c, ok := s.server.client(id)
	if !ok || c.Secret == "" || subtle.ConstantTimeCompare([]byte(c.Secret), []byte(secret)) != 1 {
		return nil, oidc.ErrInvalidClient()
	}
	return client{Client: c, scopes: s.server.cfg.Scopes}, nil
}

// ClientCredentialsTokenRequest is for the client's own account.
func (s *storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	if err := s.knownScopes(scopes); err != nil {
		return nil, err
	}
	return &directRequest{client: id, sub: serviceAccount + id, scopes: scopes}, nil
}

// serviceAccount begins the sub of an account that is no user's.
const serviceAccount = "service-"

func (s *storage) knownScopes(scopes []string) error {
	for _, scope := range scopes {
		if !slices.ContainsFunc(s.server.cfg.Scopes, func(known Scope) bool { return known.Name == scope }) {
			return oidc.ErrInvalidScope().WithDescription("a scope is not known")
		}
	}
	return nil
}

// GetKeyByIDAndClientID is the key that a client signs its assertions with.
func (s *storage) GetKeyByIDAndClientID(_ context.Context, keyID, clientID string) (*jose.JSONWebKey, error) {
	c, ok := s.server.client(clientID)
	if !ok || c.AssertionKey == nil {
		return nil, errors.New("the client has no key for assertions")
	}
	return &jose.JSONWebKey{Key: c.AssertionKey, KeyID: keyID, Use: "sig"}, nil
}

// ValidateJWTProfileScopes refuses scopes that there are not.
func (s *storage) ValidateJWTProfileScopes(_ context.Context, _ string, scopes []string) ([]string, error) {
	return scopes, s.knownScopes(scopes)
}

// assertionSubject decides for whom a client may assert: for itself, or for a user if it is allowed to impersonate.
func (s *Server) assertionSubject(request *oidc.JWTTokenRequest) error {
	c, ok := s.client(request.Issuer)
	_, user := s.userByEmail(request.Subject)
	if ok && (request.Subject == request.Issuer || user && c.Impersonates) {
		return nil
	}
	return oidc.ErrInvalidGrant().WithDescription("the client may not act for this subject")
}

func (s *Server) userByEmail(email string) (User, bool) {
	for _, u := range s.cfg.Users {
		if u.Email == email {
			return u, true
		}
	}
	return User{}, false
}

// issueDirect gives an access token without a refresh token.
func (s *storage) issueDirect(clientID, sub string, scopes []string) (string, time.Time, error) {
	out, err := s.server.store.direct(clientID, sub, scopes)
	return out.access, expiry(out.lifetime), err
}

// assertingProvider is the library's provider with this server's rule about the subjects of assertions.
type assertingProvider struct {
	*op.Provider
	server *Server
}

// JWTProfileVerifier is part of op.JWTAuthorizationGrantExchanger.
func (p assertingProvider) JWTProfileVerifier(ctx context.Context) *op.JWTProfileVerifier {
	return op.NewJWTProfileVerifier(p.Storage().(op.JWTProfileKeyStorage), op.IssuerFromContext(ctx), time.Hour, time.Second, op.SubjectCheck(p.server.assertionSubject))
}
