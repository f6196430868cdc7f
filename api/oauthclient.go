package api

import (
	"context"
	"encoding/base64"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"tokenbroker/broker"
)

// authenticateForm tells which client asks at the token endpoint (RFC 6749 section 2.3): by client_secret_basic or client_secret_post, where
// the secret is an API key; by an assertion (RFC 7523); or by an API key as at the REST API. One way at a time.
func (a *API) authenticateForm(ctx context.Context, in *request, form form) (broker.Client, error) {
	header := in.http.Header
	ways := 0
	for _, there := range []bool{len(header.Values("Authorization")) > 0, form.one("client_secret") != "", form.one("client_assertion") != ""} {
		if there {
			ways++
		}
	}
	if ways > 1 {
		return broker.Client{}, invalid("the client says in more than one way who it is; use one (RFC 6749 section 2.3)")
	}
	switch {
	case form.one("client_assertion") != "":
		return a.byAssertion(ctx, in, form)
	case form.one("client_secret") != "":
		return a.bySecret(in, form.one("client_id"), form.one("client_secret"), "")
	}
	scheme, rest := credentials(header)
	if strings.EqualFold(scheme, "Basic") {
		id, secret, good := basic(rest)
		if named := form.one("client_id"); !good || named != "" && named != id {
			return broker.Client{}, a.wrongClient(in, basicChallenge)
		}
		return a.bySecret(in, id, secret, basicChallenge)
	}
	// Not by an access token of ours: who has one could renew it for ever, whatever becomes of the key behind it.
	client, err := a.keys.authenticate(header)
	if named := form.one("client_id"); err == nil && named != "" && named != client.ID {
		err = errWrongKey()
	}
	if err != nil {
		return broker.Client{}, a.wrongClient(in, basicChallenge)
	}
	return client, nil
}

const basicChallenge = `Basic realm="tokenbroker", charset="UTF-8"`

// bySecret is client_secret_basic and client_secret_post.
func (a *API) bySecret(in *request, id, secret, challenge string) (broker.Client, error) {
	if len(secret) <= maxKeyBytes {
		if client, known := a.keys.find(secret); known && client.ID == id {
			return client, nil
		}
	}
	return broker.Client{}, a.wrongClient(in, challenge)
}

// byAssertion is private_key_jwt, and a workload's token (RFC 7523 section 2.2).
func (a *API) byAssertion(ctx context.Context, in *request, form form) (broker.Client, error) {
	if kind := form.one("client_assertion_type"); kind != assertionJWT {
		return broker.Client{}, invalid("client_assertion_type must be %s", assertionJWT)
	}
	assertion := form.one("client_assertion")
	if len(assertion) > maxAssertion {
		return broker.Client{}, invalid("client_assertion must be a signed token of at most %d bytes", maxAssertion)
	}
	id, err := a.cfg.Service.AuthenticateAssertion(ctx, form.one("client_id"), broker.NewSecret(assertion))
	if err != nil {
		// Also where keys could not be had: nobody knows yet who asks, and asking an issuer for them costs something.
		if slow := a.cfg.Service.AdmitWrongKey(in.Address()); slow != nil {
			return broker.Client{}, slow
		}
		return broker.Client{}, err
	}
	client, known := a.keys.clients[id]
	if !known {
		return broker.Client{}, a.wrongClient(in, "")
	}
	return client, nil
}

// wrongClient is the answer to credentials that are none. Whoever sent some is counted.
func (a *API) wrongClient(in *request, challenge string) error {
	if len(in.http.Header.Values("Authorization")) > 0 || challenge == "" {
		if slow := a.cfg.Service.AdmitWrongKey(in.Address()); slow != nil {
			return slow
		}
	}
	r := &refusal{status: http.StatusUnauthorized, header: http.Header{}, err: broker.Errorf(broker.CodeInvalidClient,
		"say which client asks: by HTTP Basic with its id and an API key, by client_id and client_secret, or by client_assertion")}
	if challenge == "" {
		challenge = basicChallenge // RFC 9110 section 15.5.2 wants one with each 401
	}
	r.header.Set("Www-Authenticate", challenge)
	return r
}

// basic reads the credentials of HTTP Basic, whose two parts are form-encoded (RFC 6749 section 2.3.1).
func basic(text string) (id, secret string, ok bool) {
	plain, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", "", false
	}
	id, secret, ok = strings.Cut(string(plain), ":")
	for _, part := range []*string{&id, &secret} {
		decoded, err := url.QueryUnescape(*part)
		if err != nil {
			return "", "", false
		}
		*part = decoded
	}
	return id, secret, ok && id != "" && secret != ""
}

// isForm tells whether a body is declared as a form.
func isForm(contentType string) bool {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil || media != formType {
		return false
	}
	for name, value := range params {
		if name != "charset" || !strings.EqualFold(value, "utf-8") {
			return false
		}
	}
	return true
}
