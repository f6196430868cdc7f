package providers

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	"tokenbroker/broker"
)

// maxBody bounds what is read of an answer, before and after decompression.
const maxBody = 1 << 20

// client sends single requests. It follows no redirect and repeats nothing.
type client struct {
	doers   map[reach]*http.Client
	timeout time.Duration
	now     func() time.Time
}

func newClient(cfg Config) *client {
	made := func(r reach) *http.Client {
		return &http.Client{
			Transport: newTransport(cfg, r),
			// A redirect could carry client secret and refresh token to another host (307, 308).
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	doers := map[reach]*http.Client{reachPrivate: made(reachPrivate), reachPublic: made(reachPublic), reachGuarded: made(reachGuarded)}
	return &client{doers: doers, timeout: cfg.Timeout, now: cfg.Now}
}

func (c *client) close() {
	for _, doer := range c.doers {
		doer.CloseIdleConnections()
	}
}

// outgoing is a request to a provider.
type outgoing struct {
	what    string // for errors: "token endpoint"
	method  string
	url     string
	header  http.Header
	body    []byte
	timeout time.Duration // 0: the client's
	reach   reach
}

// answer is what came back: perhaps cut short, then broken tells why. Its body may hold secrets.
type answer struct {
	status int
	header http.Header
	body   []byte
	broken error
	sent   time.Time // just before the request went out
	client int64     // generation of the client secret that it was sent with
}

// send sends the request once, before the deadline or not at all; see there for what comes late. The error is an
// *broker.UpstreamError: unsent when nothing went out, else in doubt. It holds neither URL nor anything that the provider
// sent.
func (c *client) send(ctx context.Context, out outgoing) (answer, error) {
	limit := c.timeout
	if out.timeout > 0 {
		limit = min(limit, out.timeout)
	}
	parent, d := ctx, newDeadline(ctx, limit)
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(parent))
	done, watched := make(chan struct{}), make(chan struct{})
	go func() { defer close(watched); d.watch(parent, cancel, done) }()
	defer func() { close(done); <-watched; cancel(nil) }()
	ctx = d.trace(ctx)
	req, err := http.NewRequestWithContext(ctx, out.method, out.url, nil)
	if err != nil {
		return answer{}, &broker.UpstreamError{Class: broker.ClassClientRefused, What: out.what + " has an unusable address"}
	}
	if out.header != nil {
		req.Header = out.header
	}
	if len(out.body) > 0 {
		// Set by hand and without GetBody, so that net/http has nothing to repeat it with.
		req.Body = io.NopCloser(bytes.NewReader(out.body))
		req.ContentLength = int64(len(out.body))
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("User-Agent", "tokenbroker")

	a := answer{sent: c.now()}
	resp, err := c.doers[out.reach].Do(req)
	if err != nil {
		class, what := broker.ClassUnsent, "could not be reached"
		if d.wasSent() {
			class, what = broker.ClassInDoubt, "did not answer"
		}
		return a, &broker.UpstreamError{Class: class, What: out.what + " " + what, Cause: safeCause(ctx, err)}
	}
	defer resp.Body.Close()
	a.status, a.header = resp.StatusCode, resp.Header
	a.body, a.broken = readBody(resp)
	if a.broken != nil {
		a.broken = safeCause(ctx, a.broken)
	}
	return a, nil
}

var errTooLong = errors.New("answer is too long")

// readBody reads at most maxBody. What was read before an error is returned with it. Compression was not asked for, but
// a refresh token must not be lost to a server that compresses nevertheless, nor to one that only says that it does.
func readBody(resp *http.Response) ([]byte, error) {
	body, err := readBounded(resp.Body)
	if !bytes.HasPrefix(body, []byte("\x1f\x8b")) { // RFC 1952 section 2.3.1; nothing that is read here begins so
		return body, err
	}
	z, zerr := gzip.NewReader(bytes.NewReader(body))
	if zerr != nil {
		return nil, errors.Join(err, errors.New("answer is gzip that can't be read"))
	}
	plain, zerr := readBounded(z)
	if err == nil && zerr != nil {
		err = zerr
	}
	return plain, err
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if len(b) > maxBody {
		return b[:maxBody], errTooLong
	}
	return b, err
}

// safeCause keeps of an error what can't hold a URL or the provider's bytes: net/http quotes malformed answers, and an
// answer may echo the request.
func safeCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var (
		dns     *net.DNSError
		alert   tls.AlertError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		errno   syscall.Errno
		timeout interface{ Timeout() bool }
	)
	switch {
	case errors.Is(err, errAddress):
		return errAddress
	case errors.Is(err, errLate):
		return errLate
	case errors.Is(err, errTooLong):
		return errTooLong
	case errors.As(err, &dns):
		return errors.New("host name does not resolve")
	case errors.As(err, &unknown):
		return errors.New("certificate is signed by an unknown authority")
	case errors.As(err, &host):
		return errors.New("certificate is for another host")
	case errors.As(err, &invalid):
		return errors.New("certificate is not valid")
	case errors.As(err, &alert):
		return errors.New("TLS handshake failed")
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	case errors.As(err, &timeout) && timeout.Timeout():
		return context.DeadlineExceeded
	}
	return errors.New("connection or answer is not usable HTTP")
}
