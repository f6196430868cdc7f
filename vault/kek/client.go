package kek

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

const (
	defaultTimeout = 5 * time.Second
	// maxAnswer bounds an answer: a keyset is a few hundred bytes, its ciphertext a few more.
	maxAnswer = 256 << 10
)

// Client asks one service: TLS 1.2 or later, no redirects, no proxy of the environment, bounded answers, a deadline on each.
type Client struct {
	service string
	timeout time.Duration
	http    *http.Client
}

// NewClient makes a client; service is its name in errors. roots replace the authorities of the system; nil: those.
func NewClient(service string, timeout time.Duration, roots *x509.CertPool) *Client {
	if timeout == 0 {
		timeout = defaultTimeout
	}
	return &Client{service: service, timeout: timeout, http: &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            (&net.Dialer{Timeout: timeout}).DialContext,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			TLSHandshakeTimeout:    timeout,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true,
			// It is asked a few times in a process' life: nothing stays open in between.
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Answer is what a service said. Its body may hold keys.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Fine tells whether the service did what it was asked.
func (a Answer) Fine() bool { return a.Status == http.StatusOK }

// Into reads a JSON body.
func (a Answer) Into(v any) error {
	if json.Unmarshal(a.Body, v) != nil {
		return errors.New("the key management service answers something that is not its JSON") // the decoder's error quotes it
	}
	return nil
}

// Ask sends one request and reads the answer to its end. What may pass by itself is an ErrUnavailable: no answer, or a status
// that says so.
func (c *Client) Ask(ctx context.Context, method, address string, header http.Header, body []byte) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return Answer{}, fmt.Errorf("%s: the address can't be used", c.service) // the error quotes it
	}
	req.Header = header
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("%s at %s: %s: %w", c.service, req.URL.Host, cause(err), ErrUnavailable)
	}
	defer func() { _ = resp.Body.Close() }()
	read, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("%s at %s: %s: %w", c.service, req.URL.Host, cause(err), ErrUnavailable)
	case len(read) > maxAnswer:
		return Answer{}, fmt.Errorf("%s at %s answers more than %d KiB: it is not what it should be", c.service, req.URL.Host, maxAnswer>>10)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout:
		return Answer{}, fmt.Errorf("%s at %s answers with status %d: %w", c.service, req.URL.Host, resp.StatusCode, ErrUnavailable)
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: read}, nil
}

// AskJSON is a POST of a JSON body.
func (c *Client) AskJSON(ctx context.Context, address string, header http.Header, body any) (Answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return Answer{}, fmt.Errorf("%s: write the request: %w", c.service, err)
	}
	header.Set("Content-Type", "application/json")
	return c.Ask(ctx, http.MethodPost, address, header, text)
}

// cause is the innermost part of a network error, without the URL and addresses that the outer ones add.
func cause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	if errors.Is(err, context.Canceled) {
		return err.Error()
	}
	text, _, _ := strings.Cut(err.Error(), `"`) // net/http quotes any amount of an answer that it can't read
	return strings.TrimRight(text[:min(len(text), 200)], ": ")
}

// BaseURL checks the address of a service: https, and http on loopback alone; scheme and host, without a path.
func BaseURL(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return "", errors.New("must be https:// and a host, without user, path and query")
	}
	switch {
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return u.Scheme + "://" + u.Host, nil
	}
	return "", errors.New("must begin with https:// (http is for loopback only)")
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}

// Roots reads a file of certificates in PEM; "" is nil, the system's.
func (p Process) Roots(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := p.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", path)
	}
	return pool, nil
}
