package redisstore

import (
	"context"
	"crypto/tls"
	"net"
	"time"
)

// dialer connects for go-redis, which leaves a server alone for a second at a time once as many attempts have failed as its
// pool has places. A second is long for those who wait for a server that is back, and the one process that can heal what a
// failover lost must not be the last to come. So an attempt that failed passes for a connection, on which the first request
// meets the error.
func dialer(timeout time.Duration, secure *tls.Config) func(ctx context.Context, network, addr string) (net.Conn, error) {
	plain := &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		if secure == nil {
			conn, err = plain.DialContext(ctx, network, addr)
		} else {
			conn, err = (&tls.Dialer{NetDialer: plain, Config: secure}).DialContext(ctx, network, addr)
		}
		if err != nil {
			return failedConn{err: err, addr: address{network, addr}}, nil
		}
		return conn, nil
	}
}

// failedConn is a connection that could not be made.
type failedConn struct {
	err  error
	addr address
}

// Read implements net.Conn.
func (c failedConn) Read([]byte) (int, error) { return 0, c.err }

// Write implements net.Conn.
func (c failedConn) Write([]byte) (int, error) { return 0, c.err }

// Close implements net.Conn.
func (c failedConn) Close() error { return nil }

// LocalAddr implements net.Conn.
func (c failedConn) LocalAddr() net.Addr { return c.addr }

// RemoteAddr implements net.Conn.
func (c failedConn) RemoteAddr() net.Addr { return c.addr }

// SetDeadline implements net.Conn.
func (c failedConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn.
func (c failedConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn.
func (c failedConn) SetWriteDeadline(time.Time) error { return nil }

// address is where it should have gone.
type address struct{ network, text string }

// Network implements net.Addr.
func (a address) Network() string { return a.network }

// String implements net.Addr.
func (a address) String() string { return a.text }
