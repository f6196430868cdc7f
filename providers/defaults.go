package providers

import (
	"maps"
	"slices"

	"tokenbroker/broker"
)

// Client authentication methods at the token endpoint (RFC 7591 section 2).
const (
	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
	authNone  = "none"
)

// discovers tells whether metadata is looked up.
func (d *Definition) discovers() bool { return d.Issuer != "" && d.Discovery != "none" }

// withDefaults returns a copy in which every key that was left out has its default, except those that metadata may fill.
func (d *Definition) withDefaults() *Definition {
	c := *d
	def(&c.Name, c.ID)
	def(&c.Category, "other")
	def(&c.PKCE, "S256")
	def(&c.Confidence, "documented")
	def(&c.ScopeParameter, "scope")
	def(&c.ScopeSeparator, " ")
	def(&c.LoginHintParameter, "login_hint")
	def(&c.Rotation, "strict")
	c.grantDefaults()
	def(&c.TokenRequest.Format, "form")
	def(&c.TokenRequest.RefreshTokenIn, "body")
	if c.RefreshResponse == nil {
		c.RefreshResponse = c.TokenResponse
	}
	c.TokenResponse = c.TokenResponse.withDefaults()
	c.RefreshResponse = c.RefreshResponse.withDefaults()
	def(&c.Errors.Code, "error")
	def(&c.Errors.Description, "error_description")
	if c.IDToken == nil {
		c.IDToken = &AccountPaths{}
		c.IDToken.withDefaults()
	}
	def(&c.Userinfo.Method, "GET")
	def(&c.Userinfo.Auth, "bearer")
	def(&c.Userinfo.Scope, "none")
	if c.Userinfo.Account == (AccountPaths{}) {
		c.Userinfo.Account.withDefaults()
	}
	c.Lookups = slices.Clone(c.Lookups)
	for i := range c.Lookups {
		def(&c.Lookups[i].Method, "GET")
	}
	def(&c.API.Header, "Authorization")
	def(&c.API.Scheme, "Bearer")
	def(&c.Revocation.Ends, "grant")
	def(&c.Revocation.Method, "POST")
	def(&c.Revocation.Auth, "client")
	def(&c.Revocation.Format, "form")
	def(&c.Revocation.Token, "refresh")
	if c.Revocation.Params == nil {
		c.Revocation.Params = map[string]string{"token": "{token}", "token_type_hint": "{token_type_hint}"}
	}
	if c.Timeout == 0 {
		c.Timeout = 30
	}
	return &c
}

func def(s *string, value string) {
	if *s == "" {
		*s = value
	}
}

func (a *AccountPaths) withDefaults() {
	a.ID, a.Name, a.Email = "sub", "name|preferred_username|email", "email"
}

func (r *TokenResponse) withDefaults() *TokenResponse {
	c := TokenResponse{}
	if r != nil {
		c = *r
	}
	def(&c.AccessToken, "access_token")
	def(&c.RefreshToken, "refresh_token")
	def(&c.IDToken, "id_token")
	def(&c.TokenType, "token_type")
	def(&c.Scope, "scope")
	def(&c.ExpiresIn, "expires_in")
	def(&c.ExpiresAt, "none")
	def(&c.RefreshExpiresIn, "refresh_token_expires_in|refresh_expires_in")
	return &c
}

// as returns the definition as the product needs it.
func (d *Definition) as(p *Product) *Definition {
	if p == nil {
		return d
	}
	c := *d
	if p.ScopeParameter != "" {
		c.ScopeParameter = p.ScopeParameter
	}
	if p.TokenResponse != nil {
		c.TokenResponse = p.TokenResponse
	}
	if p.RefreshResponse != nil {
		c.RefreshResponse = p.RefreshResponse
	}
	if p.Userinfo != nil {
		c.Userinfo = *p.Userinfo
	}
	if len(p.Vars) > 0 {
		c.Vars = maps.Clone(d.Vars)
		for name, value := range p.Vars {
			v := c.Vars[name]
			v.Default = value
			c.Vars[name] = v
		}
	}
	return &c
}

type classList struct {
	class broker.Class
	codes []string
}

func (e Errors) lists() []classList {
	return []classList{
		{broker.ClassGrantDead, e.GrantDead},
		{broker.ClassClientRefused, e.ClientRefused},
		{broker.ClassThrottled, e.Throttled},
		{broker.ClassInDoubt, e.InDoubt},
		{broker.ClassRefused, e.Refused},
	}
}

// describe is the scope as the consent page shows it; one that the definition does not describe has its name alone.
func (d *Definition) describe(scope string) broker.ScopeInfo {
	if s, ok := d.Scopes[scope]; ok {
		return s.info(scope)
	}
	return broker.ScopeInfo{Name: scope, Description: scope}
}

func (s Scope) info(name string) broker.ScopeInfo {
	info := broker.ScopeInfo{Name: name, Description: s.Description, Access: broker.Access(s.Access), Sensitive: s.Sensitive}
	def(&info.Description, name)
	return info
}
