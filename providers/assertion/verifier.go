package assertion

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-json-experiment/json"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/providers/issuer"
)

// ClientConfig is what the requests of one client may be proven with.
type ClientConfig struct {
	ID string
	// Subjects say who the user is, Actors who acts for them.
	Subjects, Actors []Source
	// Keys are its own: it signs assertions with them (private_key_jwt, OpenID Connect Core section 9). KeysURI is where it publishes them.
	Keys    issuer.Keyring
	KeysURI string
	// Workloads are other issuers' tokens that stand for the client (RFC 7523 section 3): of a cluster, a cloud or a build service.
	Workloads []Workload
}

// Workload is a token of a platform that stands for a client.
type Workload struct {
	Source
	// Subject is whom it must be about, exactly.
	Subject string
}

// Config is what a Verifier needs.
type Config struct {
	Clients []ClientConfig
	// Issuer and TokenEndpoint are ours: a client's own assertions are for one of them (RFC 7523 section 3).
	Issuer, TokenEndpoint string
	// Now is the clock; required.
	Now func() time.Time
	// RootCAs and Dial are as in providers.FetcherConfig.
	RootCAs *x509.CertPool
	Dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// Verifier verifies assertions. It is safe for concurrent use and does nothing in the background.
type Verifier struct {
	fetch     *providers.Fetcher
	clients   map[string]*client
	workloads []workload
}

var _ broker.Assertions = (*Verifier)(nil)

type client struct {
	subjects, actors []*source
	own              *source // of its own keys
}

type workload struct {
	client  string
	subject string
	*source
}

// ownAge is how old a client's own assertion may be, and how long it may live: it is made for one request.
const ownAge = 10 * time.Minute

// New checks the configuration. It sends nothing.
func New(cfg Config) (*Verifier, error) {
	fetch, err := providers.NewFetcher(providers.FetcherConfig{Now: cfg.Now, RootCAs: cfg.RootCAs, Dial: cfg.Dial, Timeout: metadataTimeout})
	if err != nil {
		return nil, err
	}
	v := &Verifier{fetch: fetch, clients: map[string]*client{}}
	all := func(id string, list []Source) (out []*source, err error) {
		for _, s := range list {
			if err := s.check(); err != nil {
				return nil, fmt.Errorf("client %s: %w", id, err)
			}
			out = append(out, newSource(s, fetch, cfg.Now))
		}
		return out, nil
	}
	for _, c := range cfg.Clients {
		one := &client{}
		if one.subjects, err = all(c.ID, c.Subjects); err != nil {
			return nil, err
		}
		if one.actors, err = all(c.ID, c.Actors); err != nil {
			return nil, err
		}
		if c.Keys != nil || c.KeysURI != "" {
			one.own = newSource(Source{
				Issuer: c.ID, JWKSURI: c.KeysURI, Keys: c.Keys, Audiences: []string{cfg.Issuer, cfg.TokenEndpoint}, MaxAge: ownAge,
			}, fetch, cfg.Now)
			one.own.alone = true
		}
		for _, w := range c.Workloads {
			if err := w.check(); err != nil {
				return nil, fmt.Errorf("client %s: %w", c.ID, err)
			}
			// A platform gives the same token to a workload until it renews it, mostly after an hour or more.
			w.Replay = true
			v.workloads = append(v.workloads, workload{client: c.ID, subject: w.Subject, source: newSource(w.Source, fetch, cfg.Now)})
		}
		v.clients[c.ID] = one
	}
	return v, nil
}

// Close ends idle connections.
func (v *Verifier) Close() { v.fetch.Close() }

// Subject implements broker.Assertions.
func (v *Verifier) Subject(ctx context.Context, id string, token broker.Secret) (broker.Assertion, error) {
	c := v.clients[id]
	if c == nil || len(c.subjects) == 0 {
		return broker.Assertion{}, fmt.Errorf("%w: this client has no issuer of subject tokens; the operator names them under clients: subject_tokens", broker.ErrAssertionRefused)
	}
	return among(ctx, c.subjects, token)
}

// Actor implements broker.Assertions.
func (v *Verifier) Actor(ctx context.Context, id string, token broker.Secret) (broker.Assertion, error) {
	c := v.clients[id]
	if c == nil || len(c.actors) == 0 {
		return broker.Assertion{}, fmt.Errorf("%w: this client has no issuer of actor tokens; the operator names them under clients: subject_tokens: actors", broker.ErrAssertionRefused)
	}
	return among(ctx, c.actors, token)
}

// Client implements broker.Assertions (RFC 7523 section 3).
func (v *Verifier) Client(ctx context.Context, id string, token broker.Secret) (string, broker.Assertion, error) {
	raw := token.Reveal()
	claims, err := claimed(raw)
	if err != nil {
		return "", broker.Assertion{}, err
	}
	iss := claims.Text("iss")
	if c := v.clients[iss]; c != nil && c.own != nil && (id == "" || id == iss) {
		a, err := c.own.open(ctx, raw)
		switch {
		case err != nil:
		case a.Subject != iss: // iss and sub are the client's id
			err = fmt.Errorf("%w: iss and sub must both be the client's id", broker.ErrAssertionRefused)
		}
		return iss, a, err
	}
	var away error
	for _, w := range v.workloads {
		if w.Issuer != iss || w.subject != claims.Text(w.SubjectClaim) || id != "" && id != w.client {
			continue
		}
		a, err := w.open(ctx, raw)
		switch {
		case err == nil && a.Subject == w.subject:
			return w.client, a, nil
		case err != nil && !errors.Is(err, broker.ErrAssertionRefused):
			away = err // another one may do
		}
	}
	if away != nil {
		return "", broker.Assertion{}, away
	}
	return "", broker.Assertion{}, fmt.Errorf("%w: it is by nobody who may speak for a client here", broker.ErrAssertionRefused)
}

// among verifies a token by the source that it says it is of. Several may be of one issuer, for other audiences.
func among(ctx context.Context, sources []*source, token broker.Secret) (broker.Assertion, error) {
	raw := token.Reveal()
	claims, err := claimed(raw)
	if err != nil {
		return broker.Assertion{}, err
	}
	iss := claims.Text("iss")
	err = fmt.Errorf("%w: it is of an issuer that this client may not use", broker.ErrAssertionRefused)
	for _, s := range sources {
		if s.Issuer != iss {
			continue
		}
		var a broker.Assertion
		if a, err = s.open(ctx, raw); err == nil || !errors.Is(err, broker.ErrAssertionRefused) {
			return a, err
		}
	}
	return broker.Assertion{}, err
}

// claimed reads who a token says that it is of and about. Nothing of that is verified: it chooses whose keys are tried.
func claimed(raw string) (issuer.Claims, error) {
	refused := fmt.Errorf("%w: it is no signed token", broker.ErrAssertionRefused)
	if len(raw) > maxRaw || strings.Count(raw, ".") != 2 {
		return nil, refused
	}
	token, err := jose.ParseSignedCompact(raw, issuer.Algorithms)
	if err != nil {
		return nil, fmt.Errorf("%w, or signed by an algorithm that is not allowed", refused)
	}
	var claims issuer.Claims
	if json.Unmarshal(token.UnsafePayloadWithoutVerification(), &claims) != nil {
		return nil, refused
	}
	return claims, nil
}

// maxRaw bounds a token, in bytes.
const maxRaw = 16 << 10
