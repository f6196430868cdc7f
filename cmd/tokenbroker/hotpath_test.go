package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"tokenbroker/api"
	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// This file measures POST /v1/tokens from the socket to the store's port and back: everything but the store, which answers at
// once. Beside it stands the least that a server can do: echo with a constant answer of the same size.

const (
	hotKey     = "tbk_acme_0123456789abcdef0123456789abcdef"
	hotScopes  = "files.read files.share files.write"
	hotSubject = "user-000001@chat.example"
)

var hotBody = `{"connector":"files","subject":"` + hotSubject + `","scopes":["files.read","files.write","files.share"],"actor":{"agent":"planner","run":"run-1a2b3c","tool":"files.search"},"reason":"summarize the report"}`

// hotToken makes the whole answer as large as the constant one.
var hotToken = broker.NewSecret(strings.Repeat("ya29.A0ARrdaM-k9Vq7L1y", 31))

// quickStore answers what the path of a token asks at once, and everything else as brokertest does.
type quickStore struct {
	*brokertest.Store
	conn broker.Connection
}

func (s *quickStore) OfSubjectSwitched(context.Context, string, string, string) ([]broker.Connection, broker.SwitchTable, error) {
	return []broker.Connection{s.conn}, broker.SwitchTable{}, nil
}

func (s *quickStore) Release(context.Context, broker.Connection, string, broker.Entry) (broker.Secret, error) {
	return hotToken, nil
}

// Guess and ReleaseGuessed are broker.Guesses: what was served before takes one round trip.
func (s *quickStore) Guess(tenant, subject, connector string) (broker.Guess, bool) {
	return broker.Guess{Tenant: tenant, Subject: subject, Connector: connector, Connection: s.conn.ID, Scopes: s.conn.Scopes, ExpiresAt: s.conn.Tokens[0].ExpiresAt}, true
}

func (s *quickStore) ReleaseGuessed(context.Context, broker.Guess, broker.Entry) (broker.Connection, broker.Secret, error) {
	return s.conn, hotToken, nil
}

// hotConnectors looks a connector up as providers.Registry does.
type hotConnectors map[string]broker.Connector

func (c hotConnectors) Connector(id string) (broker.Connector, bool) {
	one, ok := c[id]
	return one, ok
}
func (c hotConnectors) All() []broker.Connector { return []broker.Connector{c["files"]} }

// newHotHandler is what app.join makes, on the quick store; the log goes to a file.
func newHotHandler(t testing.TB) http.Handler {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(t.TempDir(), "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	lines := newLogBuffer(file, logDelay)
	t.Cleanup(lines.close)
	log := slog.New(outageHandler{newLogger(lines, slog.LevelInfo).Handler(), newOutage(time.Now)})
	tel, err := startTelemetry(t.Context(), telemetryConfig{Lookup: noVariables, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.shutdown(context.Background()) })
	connector := brokertest.Files()
	connector.Scopes = append(connector.Scopes, broker.ScopeInfo{Name: "files.share"})
	ceiling := broker.ParseScopes(hotScopes + " mail.read")
	client := broker.Client{ID: "acme-chat", Name: "Acme Chat", Tenant: "acme", Connectors: []string{"crm", "files"}, Scopes: &ceiling, ReturnTo: []string{"https://chat.example/done"}}
	now := time.Now()
	scopes := broker.ParseScopes(hotScopes)
	harness := brokertest.NewWith(t, 1, func(cfg *broker.Config) {
		store := &quickStore{Store: brokertest.NewStore(time.Now), conn: broker.Connection{
			ID: "c2hhcmQwMTIzNDU2Nzg5MDEy", Tenant: "acme", Subject: hotSubject, Connector: "files", Client: client.ID, Status: broker.ConnectionActive,
			Scopes: scopes, Account: broker.Account{ID: "108234567890123456789", Name: "Ada Lovelace", Email: "ada@example.com"},
			Extra: map[string]string{"instance_url": "https://acme.my.example.com"}, Renewable: true,
			Tokens:   []broker.AccessTokenInfo{{Scopes: scopes, ExpiresAt: now.Add(100 * time.Hour)}},
			Lifetime: 100 * time.Hour, CreatedAt: now.Add(-24 * time.Hour), LastRefreshed: now, LastIssued: now, Generation: 7,
		}}
		cfg.Connections, cfg.Switches, cfg.Guesses = store, store, store
		cfg.Connectors = hotConnectors{"files": connector}
		cfg.Client = func(id string) (broker.Client, bool) { return client, id == client.ID }
		cfg.Log = log
		cfg.Limits = defaultLimits() // as wide as a benchmark needs
		for _, limit := range []*broker.Limit{&cfg.Limits.Client, &cfg.Limits.Tenant, &cfg.Limits.Subject} {
			limit.Rate, limit.Burst = mostRate, 2*mostRate
		}
	})
	others := make([]api.ClientKey, 0, 21)
	for i := range 20 {
		others = append(others, api.ClientKey{Client: broker.Client{ID: fmt.Sprintf("client-%d", i), Tenant: "other"}, KeySHA256: [][32]byte{sha256.Sum256(fmt.Appendf(nil, "key %d", i))}})
	}
	address := clientIP(nil)
	rest, err := api.New(api.Config{
		Service: harness.Service, Clients: append(others, api.ClientKey{Client: client, KeySHA256: [][32]byte{sha256.Sum256([]byte(hotKey))}}),
		PublicURL: "https://broker.example.com", TokenSeed: func(int64) [32]byte { return [32]byte{} }, Now: time.Now, Random: rand.Reader, Log: log, ClientIP: address,
	})
	if err != nil {
		t.Fatal(err)
	}
	router := newRouter(log, address)
	rest.Register(router)
	return tel.instrument(router)
}

// newBareHandler answers 1 KB of JSON, and does nothing else.
func newBareHandler() http.Handler {
	text := []byte(`{"access_token":"` + strings.Repeat("x", 1003) + `"}`)
	e := echo.New()
	e.POST("/v1/tokens", func(c echo.Context) error { return c.JSONBlob(http.StatusOK, text) })
	return e
}

// hotRequest is the request as it comes over the wire.
func hotRequest() []byte {
	return []byte("POST /v1/tokens HTTP/1.1\r\nHost: broker.example\r\nUser-Agent: acme-chat/1.0\r\nAccept: application/json\r\nContent-Type: application/json\r\nAuthorization: Bearer " + hotKey +
		"\r\nContent-Length: " + strconv.Itoa(len(hotBody)) + "\r\n\r\n" + hotBody)
}

// hotConn sends the request again and again, and costs next to nothing by itself.
type hotConn struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func dialHot(t testing.TB, address string) *hotConn {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return &hotConn{conn: conn, in: bufio.NewReaderSize(conn, 8<<10), request: hotRequest()}
}

// ask sends one request and reads its answer to the end.
func (c *hotConn) ask() error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	length, first := 0, true
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("the answer begins with %q", line)
		}
		first = false
		if len(line) <= 2 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			for _, digit := range bytes.TrimSpace(value) {
				length = length*10 + int(digit-'0')
			}
		}
	}
	if length < 900 || length > 1200 {
		return fmt.Errorf("the answer has %d bytes, not 1 KB", length)
	}
	_, err := c.in.Discard(length)
	return err
}

// serveHot serves the handler as run does.
func serveHot(t testing.TB, handler http.Handler) string {
	t.Helper()
	l, err := listen(t.Context(), "listen", "127.0.0.1:0", handler, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	l.start()
	t.Cleanup(func() { _ = l.shutdown(context.Background()) })
	return l.address()
}

// BenchmarkTokens: everything but the store, and beside it a bare handler. "wire" goes over a socket, "handler" does not.
func BenchmarkTokens(b *testing.B) {
	for _, one := range []struct {
		name    string
		handler func(testing.TB) http.Handler
	}{
		{"broker", newHotHandler},
		{"bare", func(testing.TB) http.Handler { return newBareHandler() }},
	} {
		b.Run(one.name+"/handler", func(b *testing.B) {
			call := handlerCall(b, one.handler(b))
			b.ReportAllocs()
			for b.Loop() {
				call()
			}
		})
		b.Run(one.name+"/wire/serial", func(b *testing.B) {
			conn := dialHot(b, serveHot(b, one.handler(b)))
			defer conn.conn.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := conn.ask(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(one.name+"/wire/parallel", func(b *testing.B) {
			address := serveHot(b, one.handler(b))
			b.SetParallelism(16)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				conn := dialHot(b, address)
				defer conn.conn.Close()
				for pb.Next() {
					if err := conn.ask(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// handlerCall calls the handler without a socket, with as little of its own as can be.
func handlerCall(t testing.TB, handler http.Handler) func() {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(hotRequest())))
	if err != nil {
		t.Fatal(err)
	}
	r.RemoteAddr = "192.0.2.1:50000"
	body := strings.NewReader(hotBody)
	r.Body = io.NopCloser(body)
	w := &hotWriter{header: http.Header{}}
	return func() {
		clear(w.header)
		w.status, w.bytes = 0, 0
		body.Reset(hotBody)
		r.Pattern = ""
		handler.ServeHTTP(w, r)
		if w.status != http.StatusOK || w.bytes < 900 || w.bytes > 1200 {
			t.Fatalf("the answer is %d with %d bytes", w.status, w.bytes)
		}
	}
}

type hotWriter struct {
	header http.Header
	status int
	bytes  int
}

func (w *hotWriter) Header() http.Header         { return w.header }
func (w *hotWriter) WriteHeader(status int)      { w.status = status }
func (w *hotWriter) Write(p []byte) (int, error) { w.bytes += len(p); return len(p), nil }
func (w *hotWriter) SetReadDeadline(time.Time) error {
	return nil
}

// tokenAllocations bounds what one request may allocate, from the handler on. There were 152 at first, and 30 when this was written; what is
// above that is room for another Go version.
const tokenAllocations = 36

// TestTokenAllocations fails when a change brings allocations back to the path of a token.
func TestTokenAllocations(t *testing.T) {
	call := handlerCall(t, newHotHandler(t))
	if raceDetector {
		call() // it drops what pools hold
		t.Skip("the race detector allocates by itself")
	}
	if n := testing.AllocsPerRun(500, call); n > tokenAllocations {
		t.Errorf("a token request makes %v allocations, %d are allowed; BenchmarkTokens with -memprofile shows where", n, tokenAllocations)
	}
}
