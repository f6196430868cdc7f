package providers

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"tokenbroker/broker"
)

// grantDevice is a way to a consent and no grant of a connector: device: true beside the code flow.
const grantDevice = "device_code"

var grantsKnown = []string{string(broker.GrantAuthorizationCode), string(broker.GrantClientCredentials), string(broker.GrantJWTBearer), grantDevice}

// grantsRefused are grants that are not supported on purpose, and why.
var grantsRefused = map[string]string{
	"implicit": "is not supported: it hands tokens out in a URL, where the browser's history and any script can read them, and gives no refresh token (RFC 9700 section 2.1.2); use authorization_code",
	"password": "is not supported: it makes users give their password to somebody else than the provider, past any second factor (RFC 9700 section 2.4); use authorization_code",
}

// ClientCredentials is how the provider gives tokens to the client itself (RFC 6749 section 4.4).
type ClientCredentials struct {
	// GrantType is what grant_type says. Default client_credentials.
	GrantType string `yaml:"grant_type"`
	// Params are added to the body; {placeholders} are filled.
	Params map[string]string `yaml:"params"`
	// Scope is parameter or none: whether the request names scopes. Default parameter.
	Scope string `yaml:"scope"`
}

// JWTBearer is how the provider takes assertions as grants (RFC 7523 section 2.1).
type JWTBearer struct {
	// Audience is the claim aud; {placeholders} are filled. Default: the token endpoint.
	Audience string `yaml:"audience"`
	// Scope is where the scopes are named: parameter (RFC 7521 section 4.1), claim or none. Default parameter.
	Scope string `yaml:"scope"`
	// Subject is the claim sub where nobody is impersonated: issuer (the client id again), none (left out) or required (the
	// operator names an account). Default issuer.
	Subject string `yaml:"subject"`
	// Lifetime is how many seconds an assertion lives. Default 180.
	Lifetime int `yaml:"lifetime"`
	// Algorithm that the provider takes: RS256 or ES256. Default: the key's own.
	Algorithm string `yaml:"algorithm"`
	// ClientAuth is none (the assertion says who asks) or client (as at the token endpoint, too). Default none.
	ClientAuth string `yaml:"client_auth"`
}

// AssertionConfig is what a connector signs its assertions with.
type AssertionConfig struct {
	Key     broker.Secret // a private key in PEM: RSA of 2048 bits or more, or EC P-256
	KeyID   string        // kid in the header; may be left out
	Subject string        // sub where nobody is impersonated
}

func (d *Definition) offersGrant(grant string) bool { return slices.Contains(d.Grants, grant) }

func (v *validation) grants() {
	d := v.d
	for i, grant := range d.Grants {
		switch why, refused := grantsRefused[grant]; {
		case refused:
			v.add("grants", "entry %d: %s %s", i+1, grant, why)
		case !slices.Contains(grantsKnown, grant):
			v.add("grants", "entry %d must be %s", i+1, either(grantsKnown))
		case slices.Contains(d.Grants[:i], grant):
			v.add("grants", "entry %d is there twice", i+1)
		}
	}
	c, j := d.ClientCredentials, d.JWTBearer
	v.oneOf("client_credentials.scope", c.Scope, "parameter", "none")
	v.params("client_credentials.params", c.Params)
	if why, refused := grantsRefused[c.GrantType]; refused {
		v.add("client_credentials.grant_type", "%s", why)
	}
	v.declared("jwt_bearer.audience", j.Audience)
	v.oneOf("jwt_bearer.scope", j.Scope, "parameter", "claim", "none")
	v.oneOf("jwt_bearer.subject", j.Subject, "issuer", "none", "required")
	v.oneOf("jwt_bearer.algorithm", j.Algorithm, "RS256", "ES256")
	v.oneOf("jwt_bearer.client_auth", j.ClientAuth, "none", "client")
	v.oneOf("device_authorization.auth", d.DeviceAuthorization.Auth, "client", "none")
	if j.Lifetime < 0 || j.Lifetime > 3600 {
		v.add("jwt_bearer.lifetime", "must be 1 to 3600 seconds")
	}
	if d.DeviceAuthorizationEndpoint != "" && !d.offersGrant(grantDevice) {
		v.add("device_authorization_endpoint", "needs device_code among grants")
	}
	if d.offersGrant(grantDevice) && d.DeviceAuthorizationEndpoint == "" && !d.discovers() {
		v.add("device_authorization_endpoint", "is missing: grants lists device_code, and there is no issuer to discover it from")
	}
}

// grantDefaults fills in what the definition leaves out.
func (d *Definition) grantDefaults() {
	if len(d.Grants) == 0 {
		d.Grants = []string{string(broker.GrantAuthorizationCode)}
	}
	def(&d.ClientCredentials.GrantType, "client_credentials")
	def(&d.ClientCredentials.Scope, "parameter")
	def(&d.JWTBearer.Scope, "parameter")
	def(&d.JWTBearer.Subject, "issuer")
	def(&d.JWTBearer.ClientAuth, authNone)
	def(&d.DeviceAuthorization.Auth, "client")
	if d.JWTBearer.Lifetime == 0 {
		d.JWTBearer.Lifetime = 180
	}
}

// grant checks how the connector gets its tokens, and makes what it needs for that.
func (s *server) grant(add func(key, format string, args ...any)) {
	c, d := s.config, s.def
	grant := c.Grant
	def(&grant, string(broker.GrantAuthorizationCode))
	switch why, refused := grantsRefused[grant]; {
	case refused:
		add("grant", "%s %s", grant, why)
		return
	case grant == grantDevice:
		add("grant", "must be %s; for devices without a browser set device: true beside the code flow", either(grantsKnown[:3]))
		return
	case !slices.Contains(grantsKnown, grant):
		add("grant", "must be %s", either(grantsKnown[:3]))
		return
	case !d.doubtful("grants") && !d.offersGrant(grant):
		add("grant", "is %s, which %s does not offer as far as is known: it has %s; if you know better, define the provider under providers with grants", grant, c.Provider, strings.Join(d.Grants, ", "))
		return
	}
	s.view.Grant, s.view.Tenants, s.view.Device = broker.GrantType(grant), c.Tenants, c.Device
	if s.view.Direct() {
		if len(c.Tenants) == 0 {
			add("tenants", "is missing: whoever may use the connector acts with its own credentials, so say which tenants that are")
		}
		s.view.Implied, s.view.SharedGrants, s.view.Narrows, s.view.Exclusive = broker.ScopeSet{}, "", false, false
		s.view.RefreshIdle, s.view.RefreshEndsAccess = 0, false
	}
	if grant == string(broker.GrantClientCredentials) && d.TokenEndpointAuthMethod == authNone {
		add("grant", "client_credentials needs a client that can keep a secret (RFC 6749 section 4.4), and %s has token_endpoint_auth_method none", c.Provider)
	}
	s.jwtBearer(grant, add)
	switch {
	case !c.Device:
	case grant != string(broker.GrantAuthorizationCode):
		add("device", "is for connectors that users consent to, and grant is %s", grant)
	case !d.doubtful("grants") && !d.offersGrant(grantDevice):
		add("device", "is true, but %s does not offer device_code as far as is known: it has %s", c.Provider, strings.Join(d.Grants, ", "))
	}
}

func (s *server) jwtBearer(grant string, add func(key, format string, args ...any)) {
	c, j := s.config, s.def.JWTBearer
	if grant != string(broker.GrantJWTBearer) {
		if !c.Assertion.Key.IsZero() || c.Assertion.KeyID != "" || c.Assertion.Subject != "" {
			add("assertion", "is for grant: jwt_bearer alone")
		}
		if len(c.Impersonate) > 0 {
			add("impersonate", "is for grant: jwt_bearer alone")
		}
		return
	}
	s.view.Impersonate = c.Impersonate
	for i, pattern := range c.Impersonate {
		domain, all := strings.CutPrefix(pattern, "*@")
		if strings.Contains(domain, "*") || all && (domain == "" || strings.Contains(domain, "@")) {
			add("impersonate", "entry %d must be a subject, or *@ and a domain: everybody everywhere is not for a list", i+1)
		}
	}
	if len(c.Impersonate) > 0 && c.Assertion.Subject != "" {
		add("assertion.subject", "contradicts impersonate: the subject is the one of the request")
	}
	if len(c.Impersonate) == 0 && c.Assertion.Subject == "" && j.Subject == "required" {
		add("assertion.subject", "is missing: %s's assertions name an account to act for; name one, or list those of impersonate", c.Provider)
	}
	if c.Assertion.Key.IsZero() {
		add("assertion.key", "is missing: the private key in PEM that signs assertions, such as ${file:key.pem}")
		return
	}
	key, err := parseSigningKey(c.Assertion.Key)
	if err != nil {
		add("assertion.key", "%s", err)
		return
	}
	if j.Algorithm != "" && j.Algorithm != string(key.algorithm) {
		add("assertion.key", "signs with %s, and %s takes %s", key.algorithm, c.Provider, j.Algorithm)
		return
	}
	if s.signer, err = newSigner(key, c.Assertion.KeyID); err != nil {
		add("assertion.key", "can't sign")
	}
}

// signingKey is a private key and the algorithm that it signs with (RFC 7518 section 3.1).
type signingKey struct {
	key       crypto.Signer
	algorithm jose.SignatureAlgorithm
}

// parseSigningKey reads PKCS #8, PKCS #1 or SEC 1 in PEM. Nothing of it gets into the error.
func parseSigningKey(text broker.Secret) (signingKey, error) {
	block, rest := pem.Decode([]byte(text.Reveal()))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		return signingKey{}, errors.New("must be one private key in PEM, such as ${file:key.pem}")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return signingKey{}, errors.New("must be a private key in PEM without a passphrase: PKCS #8, PKCS #1 or SEC 1")
	}
	if err != nil {
		return signingKey{}, errors.New("is not a private key that can be read")
	}
	switch key := parsed.(type) {
	case *rsa.PrivateKey:
		if key.N.BitLen() < 2048 {
			return signingKey{}, errors.New("is an RSA key of less than 2048 bits (RFC 7518 section 3.3)")
		}
		return signingKey{key, jose.RS256}, nil
	case *ecdsa.PrivateKey:
		if key.Curve == elliptic.P256() {
			return signingKey{key, jose.ES256}, nil
		}
	}
	return signingKey{}, errors.New("must be an RSA key or one on the curve P-256")
}
