package redisstore

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
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

// dialled remembers where connections went, by port: behind sentinels go-redis keeps to itself which address they gave it, and a
// server knows of itself no more than its port.
type dialled struct {
	mu  sync.Mutex
	all map[string]string
}

// maxDialled bounds it: sentinels and servers of one master, and those that were.
const maxDialled = 64

func (d *dialled) note(connect func(ctx context.Context, network, addr string) (net.Conn, error)) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			d.mu.Lock()
			if d.all == nil || len(d.all) >= maxDialled {
				d.all = map[string]string{}
			}
			d.all[port] = addr
			d.mu.Unlock()
		}
		return connect(ctx, network, addr)
	}
}

// at is the address with that port that a connection went to last; "" if there is none.
func (d *dialled) at(port string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all[port]
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
