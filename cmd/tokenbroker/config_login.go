package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"tokenbroker/providers/login"
)

// login reads where the users of a client sign in at their own organisation; nil: nowhere.
func (o object) login(client string) *login.ClientConfig {
	n := o.get("login")
	if n == nil {
		return nil
	}
	l, ok := o.s.object(n, o.at("login"), append(loginKeys(), "subject_claim")...)
	if !ok {
		return nil
	}
	cfg := l.loginClient("tokenbroker")
	cfg.ID = client
	cfg.SubjectClaim = l.text("subject_claim", "sub", claimName)
	l.noteClaim(&cfg)
	return &cfg
}

// loginKeys are what every OAuth client at an OpenID Provider has, where people sign in.
func loginKeys() []string {
	return []string{"issuer", "client_id", "client_secret", "token_endpoint_auth_method", "scopes", "endpoint_hosts"}
}

// loginClient reads those.
func (o object) loginClient(example string) login.ClientConfig {
	o.need("issuer", "https://sso.example.com")
	o.need("client_id", example)
	cfg := login.ClientConfig{
		Issuer: o.text("issuer", "", issuerURL), ClientID: o.text("client_id", "", oneLine),
		AuthMethod: o.text("token_endpoint_auth_method", "", oneOf(login.AuthBasic, login.AuthPost, login.AuthNone)),
	}
	secret, given := o.secret("client_secret")
	if given {
		if _, err := oneLine(secret.Reveal()); err != nil {
			o.fail("client_secret", "", o.get("client_secret"), "%s", err)
		}
		cfg.ClientSecret = secret
	}
	switch {
	case cfg.AuthMethod == login.AuthNone && given:
		o.fail("token_endpoint_auth_method", "", o.get("token_endpoint_auth_method"), "is none, but there is a client_secret; remove one of them")
	case given, cfg.AuthMethod == "", cfg.AuthMethod == login.AuthNone:
	default:
		o.fail("client_secret", "", o.node, "is missing; %s needs it", cfg.AuthMethod)
	}
	scopes, given := o.texts("scopes", scopeToken)
	if cfg.Scopes = plain(scopes); given && !slices.Contains(cfg.Scopes, "openid") {
		o.fail("scopes", "", o.get("scopes"), "must hold openid: without it the provider tells nobody who signed in (OpenID Connect Core section 3.1.2.1)")
	}
	hosts, _ := o.texts("endpoint_hosts", hostAndPort)
	cfg.EndpointHosts = plain(hosts)
	return cfg
}

// noteClaim says so where a claim names people less well than they think (OpenID Connect Core section 5.7).
func (o object) noteClaim(cfg *login.ClientConfig) {
	note := ""
	switch cfg.SubjectClaim {
	case "email":
		note = "a person whose email_verified is not true in the ID token can't sign in, and whoever gets an address later is taken for the one before"
	case "preferred_username", "upn", "unique_name", "name", "nickname":
		note = "at many providers people may change it, or get one that was somebody else's; take a claim that stays, such as sub or oid"
	default:
		return
	}
	o.s.notes = append(o.s.notes, fmt.Sprintf("%s:%d: %s is %s: %s", o.s.file, o.get("subject_claim").Line, o.at("subject_claim"), cfg.SubjectClaim, note))
}

// issuerURL is compared exactly with what ID tokens say, so it stays as it is written.
func issuerURL(text string) (string, error) {
	u, err := absoluteURL(text)
	if u != nil && (u.RawQuery != "" || u.ForceQuery) {
		err = errors.Join(err, errors.New("must not hold a query (?)"))
	}
	if u != nil && strings.ContainsAny(u.Path, "{}") {
		err = errors.Join(err, errors.New("must be the issuer of one tenant of the provider, without a placeholder in it"))
	}
	return text, err
}

func oneOf(values ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		if !slices.Contains(values, text) {
			return "", errors.New("must be one of " + strings.Join(values, ", "))
		}
		return text, nil
	}
}

// claimName is the name of a claim as JSON has it; some are URLs.
func claimName(text string) (string, error) {
	if len(text) > 256 || strings.ContainsAny(text, " \t") {
		return "", errors.New("must be the name of one claim of the ID token, such as sub")
	}
	return oneLine(text)
}

// hostAndPort is a host, perhaps with a port, as a URL has it.
func hostAndPort(text string) (string, error) {
	u, err := url.Parse("https://" + text)
	if err != nil || u.Host != text || u.Hostname() == "" || strings.ToLower(text) != text {
		return "", errors.New("must be a host or host:port in lower case, such as keys.example.com")
	}
	return text, nil
}
