package e2e

import (
	"net"
	"net/http"
	"testing"
	"time"
)

// front is a server that can be gone for a while and come back at its address.
type front struct {
	addr     string
	handler  http.Handler
	listener net.Listener // nil: it is gone
	server   *http.Server
}

// newFront serves at an address that stays free while nobody is there.
func newFront(t *testing.T, addr string, handler http.Handler) *front {
	t.Helper()
	f := &front{addr: addr, handler: handler}
	f.up(t)
	t.Cleanup(f.down)
	return f
}

func (f *front) up(t *testing.T) {
	t.Helper()
	if f.listener != nil {
		return
	}
	listener, err := net.Listen("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: f.handler, ReadHeaderTimeout: 5 * time.Second}
	f.listener, f.server = listener, server
	go func() { _ = server.Serve(listener) }()
}

// down ends it: whoever asks finds the connection refused.
func (f *front) down() {
	if f.listener != nil {
		_ = f.listener.Close() // by now: the server knows of it only once Serve runs
		_ = f.server.Close()
		f.listener = nil
	}
}
