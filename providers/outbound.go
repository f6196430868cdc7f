package providers

import (
	"crypto/x509"
	"net/http"
)

// NewOutbound makes a client for an address that the operator configured and that is no provider's, such as where audit events go: with the
// same transport as providers have (transport.go), which may go to private networks, to loopback where the URL names it, and never to
// link-local addresses, whatever DNS says; it follows no redirect. Every request must have a deadline. nil: the system's roots.
func NewOutbound(roots *x509.CertPool) *http.Client {
	return &http.Client{
		Transport:     newTransport(Config{RootCAs: roots}, reachPrivate),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
