package providers

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"tokenbroker/broker"
)

// FetcherConfig is what a Fetcher needs.
type FetcherConfig struct {
	// Now is the clock; required.
	Now func() time.Time
	// Timeout bounds one request, dial to last byte. Default and maximum 30 s.
	Timeout time.Duration
	// RootCAs verify servers' certificates. Default: the system's.
	RootCAs *x509.CertPool
	// Dial replaces dialling, and with it the rules about addresses: for tests and for egress through a tunnel.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Fetcher sends single requests to addresses that the operator configured, within the rules of this package: no redirects, no
// repeats, no proxy of the environment, bounded answers, private networks but no metadata services of clouds, loopback only where
// the URL names it. For packages beside this one; safe for concurrent use.
type Fetcher struct{ client *client }

// NewFetcher makes a Fetcher. It sends nothing.
func NewFetcher(cfg FetcherConfig) (*Fetcher, error) {
	if cfg.Now == nil {
		return nil, errors.New("providers: fetcher lacks Now")
	}
	if cfg.Timeout <= 0 || cfg.Timeout > 30*time.Second {
		cfg.Timeout = 30 * time.Second
	}
	return &Fetcher{client: newClient(Config{Now: cfg.Now, Timeout: cfg.Timeout, RootCAs: cfg.RootCAs, Dial: cfg.Dial})}, nil
}

// Fetch is one request.
type Fetch struct {
	What   string // for errors: "token endpoint"
	Method string
	URL    string // that ParseEndpoint accepts
	Header http.Header
	Body   []byte
	// Timeout, if less than the Fetcher's.
	Timeout time.Duration
}

// Fetched is the whole answer; its body, which may hold secrets, has at most 1 MiB.
type Fetched struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends the request once. The error is an *broker.UpstreamError: ClassUnsent when nothing went out, else ClassInDoubt, an answer
// that broke off included. It holds neither the URL nor anything that the server sent.
func (f *Fetcher) Do(ctx context.Context, fetch Fetch) (Fetched, error) {
	if _, err := ParseEndpoint(fetch.URL); err != nil {
		return Fetched{}, &broker.UpstreamError{Class: broker.ClassClientRefused, What: fetch.What + " has an unusable address"}
	}
	a, err := f.client.send(ctx, outgoing{
		what: fetch.What, method: fetch.Method, url: fetch.URL, header: fetch.Header, body: fetch.Body, timeout: fetch.Timeout, reach: reachPrivate,
	})
	if err != nil {
		return Fetched{}, err
	}
	if a.broken != nil {
		return Fetched{}, &broker.UpstreamError{Class: broker.ClassInDoubt, Status: a.status, What: fetch.What + " broke off its answer", Cause: a.broken}
	}
	return Fetched{Status: a.status, Header: a.header, Body: a.body}, nil
}

// Close ends idle connections. Requests under way go on.
func (f *Fetcher) Close() { f.client.close() }

// ParseEndpoint accepts https URLs, and http ones on loopback, without userinfo and fragment. Its error says what is wrong, as a
// continuation of the address's name, and does not repeat the address.
func ParseEndpoint(raw string) (*url.URL, error) { return parseEndpoint(raw) }

// ParseIssuer accepts an issuer identifier: such a URL without a query (RFC 8414 section 2).
func ParseIssuer(raw string) (*url.URL, error) { return parseIssuer(raw) }

// SameOrigin tells whether two URLs have scheme, host and port in common.
func SameOrigin(a, b *url.URL) bool { return sameOrigin(a, b) }

// MetadataURLs are where the metadata of an issuer may lie, in the order in which they are tried.
func MetadataURLs(issuer string) []string { return metadataURLs(issuer) }
