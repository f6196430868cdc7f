package vaulttest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// RedisTLS is a redis-server that speaks nothing but TLS on its port, with certificates of a CA of its own.
type RedisTLS struct {
	*Redis
	CAFile            string // whose certificate the server has
	CertFile, KeyFile string // a client's
	// Client is how a client speaks with it: the CA and its certificate.
	Client *tls.Config
}

// StartRedisTLS starts such a server. args are added to its command line: "--tls-auth-clients", "yes" makes it ask clients
// for a certificate, "--aclfile", PATH gives it users.
func StartRedisTLS(t testing.TB, args ...string) *RedisTLS {
	t.Helper()
	secure, data := newSecurity(t), Dir(t)
	return &RedisTLS{
		CAFile: secure.caFile, CertFile: secure.certFile, KeyFile: secure.keyFile, Client: secure.client,
		Redis: startRedis(t, data, secure, append([]string{"--tls-auth-clients", "no", "--unixsocket", filepath.Join(data, "operator.sock")}, args...)),
	}
}

// security is how servers of one authority listen, and how clients speak with them; nil: in clear.
type security struct {
	caFile, certFile, keyFile string // certFile and keyFile: a client's
	serverCert, serverKey     string
	client                    *tls.Config
	password                  string // which they ask for; "": for none
}

func newSecurity(t testing.TB) *security {
	t.Helper()
	dir := Dir(t)
	ca := newAuthority(t, dir)
	s := &security{caFile: ca.file}
	s.serverCert, s.serverKey = ca.issue(t, dir, "server")
	s.certFile, s.keyFile = ca.issue(t, dir, "client")
	pair, err := tls.LoadX509KeyPair(s.certFile, s.keyFile)
	if err != nil {
		t.Fatalf("read the client's certificate: %v", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	s.client = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	return s
}

// listen are the arguments of a server on that port. Servers speak TLS among themselves then, too.
func (s *security) listen(port int) []string {
	if s == nil {
		return []string{"--port", strconv.Itoa(port)}
	}
	args := []string{
		"--port", "0", "--tls-port", strconv.Itoa(port), "--tls-ca-cert-file", s.caFile, "--tls-cert-file", s.serverCert, "--tls-key-file", s.serverKey,
		"--tls-replication", "yes", "--tls-cluster", "yes",
	}
	if s.password != "" {
		args = append(args, "--requirepass", s.password, "--masterauth", s.password)
	}
	return args
}

// URL is the server's address as redisstore has it.
func (s *RedisTLS) URL() string { return "rediss://" + s.Addr + "/0" }

// URLAs is the address with a user.
func (s *RedisTLS) URLAs(user, password string) string {
	return (&url.URL{Scheme: "rediss", User: url.UserPassword(user, password), Host: s.Addr, Path: "/0"}).String()
}

// Command sends one command as the user ("": as nobody), past TLS, whose handshakes would take a test most of its time.
func (s *RedisTLS) Command(user, password string, args ...string) (string, error) {
	commands := [][]string{args}
	if user != "" {
		commands = [][]string{{"AUTH", user, password}, args}
	}
	return command(filepath.Join(s.Dir, "operator.sock"), nil, commands)
}

// authority is a CA whose files lie in a directory.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t testing.TB, dir string) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(dir, "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// issue makes a certificate for 127.0.0.1, good for both ends of a connection, and its key.
func (a *authority) issue(t testing.TB, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "PRIVATE KEY", private)
	return certFile, keyFile
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
