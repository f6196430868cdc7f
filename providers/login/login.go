package login

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/issuer"
)

const (
	metadataTimeout = 5 * time.Second
	tokenTimeout    = 10 * time.Second
)

// How the client proves at the token endpoint who it is (OpenID Connect Core section 9).
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
	AuthNone  = "none"
)

// ClientConfig is an OAuth client at an OpenID Provider.
type ClientConfig struct {
	// ID names it here; for broker.Logins it is the id of the client of the API whose users sign in there.
	ID string
	// Issuer exactly as the provider's ID tokens name it. One that stands for several tenants of the provider is not enough: each
	// of them has an issuer of its own.
	Issuer       string
	ClientID     string
	ClientSecret broker.Secret
	// AuthMethod is AuthBasic, AuthPost or AuthNone. Default: AuthBasic with a secret, as Core section 9 has it, else AuthNone.
	AuthMethod string
	// Scopes asked for; openid must be among them. Default: openid.
	Scopes []string
	// SubjectClaim of the ID token is the person's id, a text. Default: sub. With email, email_verified must be true too.
	SubjectClaim string
	// EndpointHosts are hosts (host or host:port), beside the issuer's own, on which its endpoints may lie.
	EndpointHosts []string
}

// Config is what Clients need.
type Config struct {
	Clients []ClientConfig
	// Now is the clock; required.
	Now func() time.Time
	// RootCAs and Dial are as in providers.FetcherConfig.
	RootCAs *x509.CertPool
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// Clients sign people in. They implement broker.Logins, are safe for concurrent use and do nothing in the background.
type Clients struct {
	fetch *providers.Fetcher
	byID  map[string]*client
}

var _ broker.Logins = (*Clients)(nil)

type client struct {
	cfg   ClientConfig
	fetch *providers.Fetcher
	now   func() time.Time
	meta  *issuer.Cached[metadata]
	keys  *issuer.Keys
}

// New checks the configuration. It sends nothing.
func New(cfg Config) (*Clients, error) {
	fetch, err := providers.NewFetcher(providers.FetcherConfig{Now: cfg.Now, RootCAs: cfg.RootCAs, Dial: cfg.Dial, Timeout: tokenTimeout})
	if err != nil {
		return nil, err
	}
	c := &Clients{fetch: fetch, byID: map[string]*client{}}
	for _, one := range cfg.Clients {
		if one.AuthMethod == "" {
			one.AuthMethod = AuthNone
			if !one.ClientSecret.IsZero() {
				one.AuthMethod = AuthBasic
			}
		}
		if len(one.Scopes) == 0 {
			one.Scopes = []string{"openid"}
		}
		if one.SubjectClaim == "" {
			one.SubjectClaim = "sub"
		}
		if err := one.check(); err != nil {
			return nil, fmt.Errorf("login of %s: %w", one.ID, err)
		}
		if c.byID[one.ID] != nil {
			return nil, fmt.Errorf("login of %s: there are two", one.ID)
		}
		c.byID[one.ID] = &client{cfg: one, fetch: fetch, now: cfg.Now, meta: issuer.NewCached[metadata](cfg.Now), keys: issuer.NewKeys(fetch, cfg.Now)}
	}
	return c, nil
}

func (c ClientConfig) check() error {
	if _, err := providers.ParseIssuer(c.Issuer); err != nil {
		return fmt.Errorf("issuer %w", err)
	}
	switch {
	case c.ID == "" || c.ClientID == "":
		return errors.New("id or client_id is missing")
	case !slices.Contains(c.Scopes, "openid"):
		return errors.New("scopes lack openid, without which there is no ID token")
	case !slices.Contains([]string{AuthBasic, AuthPost, AuthNone}, c.AuthMethod):
		return errors.New("there is no such token_endpoint_auth_method")
	case (c.AuthMethod == AuthNone) != c.ClientSecret.IsZero():
		return errors.New("client_secret and token_endpoint_auth_method don't go together")
	}
	return nil
}

// Close ends idle connections.
func (c *Clients) Close() { c.fetch.Close() }

func (c *Clients) client(id string) (*client, error) {
	one, ok := c.byID[id]
	if !ok {
		return nil, refused(0, "the login is not configured any more")
	}
	return one, nil
}

// AuthorizationURL implements broker.Logins.
func (c *Clients) AuthorizationURL(ctx context.Context, id string, req broker.LoginRequest) (broker.Authorization, error) {
	one, err := c.client(id)
	if err != nil {
		return broker.Authorization{}, err
	}
	meta, err := one.metadata(ctx)
	if err != nil {
		return broker.Authorization{}, err
	}
	if req.State.IsZero() || req.Nonce.IsZero() || req.Verifier.IsZero() {
		return broker.Authorization{}, &broker.UpstreamError{Class: broker.ClassRefused, What: "the sign-in has no state, nonce or verifier"}
	}
	u, err := url.Parse(meta.AuthorizationEndpoint)
	if err != nil {
		return broker.Authorization{}, refused(0, "metadata has no usable authorization_endpoint")
	}
	q := u.Query() // RFC 6749 section 3.1: a query of the endpoint's own is kept
	sum := sha256.Sum256([]byte(req.Verifier.Reveal()))
	for name, value := range map[string]string{
		"response_type": "code", "client_id": one.cfg.ClientID, "redirect_uri": req.RedirectURI, "scope": strings.Join(one.cfg.Scopes, " "),
		"state": req.State.Reveal(), "nonce": req.Nonce.Reveal(),
		"code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method": "S256", // RFC 7636 section 4.2
	} {
		q.Set(name, value)
	}
	switch { // Core section 3.1.2.1
	case req.Silent:
		q.Set("prompt", "none")
	case req.Fresh:
		q.Set("prompt", "login")
	}
	u.RawQuery = q.Encode()
	return broker.Authorization{
		URL: broker.NewSecret(u.String()), Fingerprint: one.fingerprint(meta), Issuer: one.cfg.Issuer, IssuerRequired: meta.IssParameter,
	}, nil
}

// fingerprint names what a flow depends on: a code that was asked for under one must not be sent under another (mix-up, RFC 9700
// section 4.4).
func (c *client) fingerprint(meta metadata) string {
	h := sha256.New()
	for _, part := range []string{c.cfg.Issuer, meta.AuthorizationEndpoint, meta.TokenEndpoint, c.cfg.AuthMethod, c.cfg.ClientID} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// Redeem implements broker.Logins.
func (c *Clients) Redeem(ctx context.Context, id string, req broker.LoginResponse) (broker.Login, error) {
	one, err := c.client(id)
	if err != nil {
		return broker.Login{}, err
	}
	got, err := one.redeem(ctx, req)
	if err != nil {
		return broker.Login{}, err
	}
	claims := got.Claims
	subject, err := claims.person(one.cfg.SubjectClaim)
	if err != nil {
		return broker.Login{}, err
	}
	return broker.Login{Issuer: claims.Issuer, Subject: subject}, nil
}

// Claims redeems a code as Redeem does, and returns all that the ID token says.
func (c *Clients) Claims(ctx context.Context, id string, req broker.LoginResponse) (Claims, error) {
	one, err := c.client(id)
	if err != nil {
		return Claims{}, err
	}
	got, err := one.redeem(ctx, req)
	return got.Claims, err
}

// redeemed is what a code gave.
type redeemed struct {
	Claims
	access broker.Secret // for the provider's userinfo endpoint; zero: there is none
	raw    broker.Secret // the ID token
	meta   metadata
}

// redeem sends the code, once (Core section 3.1.3.1), and verifies what comes of it.
func (c *client) redeem(ctx context.Context, req broker.LoginResponse) (redeemed, error) {
	meta, err := c.metadata(ctx)
	if err != nil {
		return redeemed{}, err
	}
	if subtle.ConstantTimeCompare([]byte(c.fingerprint(meta)), []byte(req.Fingerprint)) != 1 {
		return redeemed{}, &broker.UpstreamError{Class: broker.ClassGrantDead, What: "the provider's endpoints or client changed since the sign-in began"}
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {req.Code.Reveal()}, "redirect_uri": {req.RedirectURI}, "code_verifier": {req.Verifier.Reveal()},
	}
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	switch c.cfg.AuthMethod {
	case AuthBasic:
		// RFC 6749 section 2.3.1: form-encoded first.
		pair := url.QueryEscape(c.cfg.ClientID) + ":" + url.QueryEscape(c.cfg.ClientSecret.Reveal())
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	case AuthPost:
		form.Set("client_id", c.cfg.ClientID)
		form.Set("client_secret", c.cfg.ClientSecret.Reveal())
	default:
		form.Set("client_id", c.cfg.ClientID)
	}
	got, err := c.fetch.Do(ctx, providers.Fetch{What: "token endpoint", Method: http.MethodPost, URL: meta.TokenEndpoint, Header: header, Body: []byte(form.Encode())})
	if err != nil {
		return redeemed{}, err
	}
	if got.Status != http.StatusOK {
		return redeemed{}, tokenError(got)
	}
	var answer struct {
		IDToken     string `json:"id_token"`
		AccessToken string `json:"access_token"`
	}
	if json.Unmarshal(got.Body, &answer) != nil || answer.IDToken == "" {
		return redeemed{}, fmt.Errorf("%w: the answer has none", broker.ErrLoginRefused)
	}
	claims, err := c.verify(ctx, meta, answer.IDToken, req.Nonce)
	if err != nil {
		return redeemed{}, err
	}
	return redeemed{Claims: claims, access: broker.NewSecret(answer.AccessToken), raw: broker.NewSecret(answer.IDToken), meta: meta}, nil
}

// tokenError is what a refused code means (RFC 6749 section 5.2).
func tokenError(got providers.Fetched) error {
	var answer struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(got.Body, &answer)
	e := &broker.UpstreamError{Class: broker.ClassInDoubt, Status: got.Status, What: "token endpoint failed"}
	switch {
	case answer.Error == "invalid_grant":
		e.Class, e.Code, e.What = broker.ClassGrantDead, answer.Error, "token endpoint does not take the code"
	case slices.Contains([]string{"invalid_client", "unauthorized_client", "invalid_request", "unsupported_grant_type", "invalid_scope"}, answer.Error):
		e.Class, e.Code, e.What = broker.ClassClientRefused, answer.Error, "token endpoint refuses the client or the request"
	case got.Status >= 300 && got.Status < 500 && got.Status != http.StatusTooManyRequests && got.Status != http.StatusRequestTimeout:
		e.Class, e.What = broker.ClassRefused, "token endpoint refuses the request"
	}
	return e
}
