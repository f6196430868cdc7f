package providers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tokenbroker/broker"
)

// nameServer answers each question for an address with the next one of its list, as a name that is rebound does.
type nameServer struct {
	mu      sync.Mutex
	answers []string
	asked   int
}

func (n *nameServer) next() net.IP {
	n.mu.Lock()
	defer n.mu.Unlock()
	answer := n.answers[n.asked%len(n.answers)]
	n.asked++
	return net.ParseIP(answer)
}

func (n *nameServer) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// serve answers over UDP until the connection is closed.
func (n *nameServer) serve(conn net.PacketConn) {
	buffer := make([]byte, 1500)
	for {
		size, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		var message dnsmessage.Message
		if message.Unpack(buffer[:size]) != nil || len(message.Questions) != 1 {
			continue
		}
		q := message.Questions[0]
		message.Response, message.Additionals = true, nil
		if q.Type == dnsmessage.TypeA {
			if ip := n.next().To4(); ip != nil {
				message.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte(ip)}}}
			}
		}
		if packed, err := message.Pack(); err == nil {
			_, _ = conn.WriteTo(packed, from)
		}
	}
}

// Threat 53: a name that gives another address each time it is asked. There is one look-up, by the dialler, and it is its
// answer that is judged: so nothing inside is ever connected to, for an operator's definition as for a tenant's.
func TestThreat53Rebinding(t *testing.T) {
	inside, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inside.Close() }()
	connected := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := inside.Accept()
			if err != nil {
				return
			}
			connected <- struct{}{}
			_ = conn.Close()
		}
	}()
	_, port, _ := net.SplitHostPort(inside.Addr().String())

	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := &nameServer{answers: []string{"127.0.0.1", "169.254.169.254", "0.0.0.0", "127.8.8.8"}}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		names.serve(socket)
	}()
	resolver := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", socket.LocalAddr().String())
	}}
	defer func() {
		net.DefaultResolver = resolver
		_ = socket.Close()
		<-ended
	}()

	for _, r := range []reach{reachPublic, reachPrivate, reachGuarded} {
		transport := newTransport(Config{Timeout: time.Second, AllPorts: true}, r)
		for range 8 {
			before := names.count()
			conn, err := transport.DialContext(t.Context(), "tcp", "rebound.example.com:"+port)
			if err == nil {
				_ = conn.Close()
			}
			if !errors.Is(err, errAddress) {
				t.Errorf("reach %d: %v", r, err)
			}
			if n := names.count() - before; n != 1 {
				t.Errorf("%d look-ups for one connection", n)
			}
		}
	}
	// Notations that only a resolver of the system may take for an address.
	for _, host := range []string{"2130706433", "0177.0.0.1", "0x7f000001", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "localhost.", "0.0.0.0", "[::]"} {
		for _, r := range []reach{reachPublic, reachGuarded} {
			if r == reachPublic && strings.HasPrefix(host, "[::ffff:") {
				continue // names loopback itself, which the operator's own definition may
			}
			conn, err := newTransport(Config{Timeout: time.Second}, r).DialContext(t.Context(), "tcp", host+":"+port)
			if err == nil {
				_ = conn.Close()
				t.Errorf("%s: dialled with reach %d", host, r)
			}
		}
	}
	select {
	case <-connected:
		t.Error("something inside was connected to")
	default:
	}
}

// Threat 57: a server whose certificate is right and which speaks no TLS newer than 1.1 is not spoken to.
func TestThreat57OldTLSIsUnsent(t *testing.T) {
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		hits := 0
		srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			hits++
			_, _ = io.WriteString(w, `{"access_token":"a","expires_in":60}`)
		}))
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		srv.StartTLS()
		roots := x509.NewCertPool()
		roots.AddCert(srv.Certificate())
		f := &fakeProvider{Server: srv}
		_, err := refreshOnce(t, connect(t, setup{yaml: f.plain(), config: Config{RootCAs: roots}}))
		if !want {
			class(t, err, broker.ClassUnsent)
		}
		if (err == nil) != want || (hits > 0) != want {
			t.Errorf("%s: %v, %d requests", tls.VersionName(version), err, hits)
		}
		srv.Close()
	}
}

// Threat 57: a certificate for another host, and one that has ended, are none.
func TestThreat57WrongCertificates(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") }))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS() // for 127.0.0.1 and example.com
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	f := &fakeProvider{Server: &httptest.Server{URL: strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)}}
	_, err := refreshOnce(t, connect(t, setup{yaml: f.plain(), config: Config{RootCAs: roots}}))
	class(t, err, broker.ClassUnsent)
}
