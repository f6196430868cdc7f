package providers

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

const (
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	// idleTimeout is short on purpose. A server may close an idle connection just as a request goes out on it; a refresh
	// that fails so is in doubt though nothing happened. Busy providers still reuse connections.
	idleTimeout    = 2 * time.Second
	maxHeaderBytes = 64 << 10
)

// newTransport is HTTP/1.1 over TLS 1.2 or later, without the proxy of the environment, without decompression, with
// bounds on everything, and with dialling that decides on the address after DNS.
func newTransport(cfg Config, r reach) *http.Transport {
	dial := cfg.Dial
	if dial == nil {
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, err
			}
			rule := addressRule{loopback: isLoopback(host) && r != reachGuarded, private: r == reachPrivate}
			dialer := &net.Dialer{Timeout: dialTimeout, Control: rule.control}
			return dialer.DialContext(ctx, network, address)
		}
	}
	return &http.Transport{
		Proxy: nil,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if _, port, err := net.SplitHostPort(address); r == reachGuarded && (err != nil || !cfg.reachesPort(port)) {
				return nil, errPort
			}
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &gatedConn{Conn: conn}, nil
		},
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.RootCAs},
		TLSHandshakeTimeout: tlsTimeout,
		// HTTP/2 repeats requests by itself after GOAWAY and REFUSED_STREAM; HTTP/1.1 only when nothing was written.
		Protocols:              http1(),
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConns:           1024, // of all hosts: one that is busy must not cost the others theirs
		MaxIdleConnsPerHost:    64,
		MaxConnsPerHost:        256,
		IdleConnTimeout:        idleTimeout,
	}
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

// errAddress refuses to dial. It names no address: the host may be a secret of the network.
var errAddress = errors.New("address is not allowed")

// errPort refuses to dial.
var errPort = errors.New("port is not among outbound_ports")

// addressRule decides which resolved addresses a provider's host may have (threats.md 53: after DNS, so that neither
// rebinding nor odd notations of an address pass).
type addressRule struct {
	loopback bool // the URL names loopback itself
	private  bool // private networks are fine
}

func (r addressRule) control(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !r.allows(ap.Addr()) {
		return errAddress
	}
	return nil
}

var (
	// What no provider has: link-local (with the metadata services of clouds), shared and reserved ranges (RFC 6890).
	never = prefixes("0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",
		"224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32", "168.63.129.16/32", "::/128", "fe80::/10", "fec0::/10", "ff00::/8",
		"fd00:ec2::/32", "fd20:ce::/32", "2001:db8::/32", "100::/64", "192.88.99.0/24", "2001::/32", "3fff::/20")
	private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "fc00::/7")
	// unicast is what IPv6 addresses of the internet begin with; the others carry an IPv4 address in their last 32 bits, or right after 16.
	unicast = netip.MustParsePrefix("2000::/3")
	nat64   = netip.MustParsePrefix("64:ff9b::/96")
	sixTo   = netip.MustParsePrefix("2002::/16")
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

func (r addressRule) allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() || r.loopback {
		return addr.IsLoopback() && r.loopback
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return r.allows(netip.AddrFrom4([4]byte(b[12:16])))
	case sixTo.Contains(addr):
		return r.allows(netip.AddrFrom4([4]byte(b[2:6])))
	}
	for _, p := range never {
		if p.Contains(addr) {
			return false
		}
	}
	for _, p := range private {
		if p.Contains(addr) {
			return r.private
		}
	}
	// Beside those there is nothing public but this (RFC 4291 section 2.4, the registry of IANA): other forms carry IPv4 addresses, or an
	// operator's own network translates them (64:ff9b:1::/48, ::a.b.c.d, ::ffff:0:a.b.c.d).
	return addr.Is4() || unicast.Contains(addr)
}
