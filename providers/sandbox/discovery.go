package sandbox

import (
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// metadata is the document of RFC 8414 section 2, which serves OpenID Connect Discovery as well. It names only what is
// really served, so it is not the library's.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	at := func(path string) string { return s.cfg.Issuer + path }
	scopes := []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess}
	for _, scope := range s.cfg.Scopes {
		scopes = append(scopes, scope.Name)
	}
	methods := []string{string(oidc.AuthMethodBasic), string(oidc.AuthMethodPost), string(oidc.AuthMethodNone)}
	doc := map[string]any{
		"issuer":                                         s.cfg.Issuer,
		"authorization_endpoint":                         at("/authorize"),
		"token_endpoint":                                 at("/token"),
		"revocation_endpoint":                            at("/revoke"),
		"userinfo_endpoint":                              at("/userinfo"),
		"device_authorization_endpoint":                  at("/device_authorization"),
		"jwks_uri":                                       at("/keys"),
		"scopes_supported":                               scopes,
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token", "client_credentials", string(oidc.GrantTypeBearer), string(oidc.GrantTypeDeviceCode)},
		"token_endpoint_auth_methods_supported":          methods,
		"revocation_endpoint_auth_methods_supported":     methods,
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{"ES256"},
		"claims_supported":                               []string{"sub", "name", "preferred_username", "email", "email_verified"},
	}
	if s.cfg.SingleSignOn {
		doc["end_session_endpoint"] = at("/end_session") // OpenID Connect RP-Initiated Logout section 2.1
	}
	writeJSON(w, http.StatusOK, doc)
}
