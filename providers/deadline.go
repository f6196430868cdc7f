package providers

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

const (
	// shortLook is how long an answer may still be read when the deadline has passed and was noticed in time: what came by
	// then is being read already, so this only makes up for a scheduler's delay. Noticed later than that, it was this process
	// that stood still, and the answer may lie in the socket since long: longLook is for reading it.
	shortLook = 100 * time.Millisecond
	longLook  = time.Second
	// maxLooks ends the repetition where the process stands still in the last look, too.
	maxLooks = 5
)

// deadline bounds a request in two ways, which differ when this process stood still as it passed (a stop signal, a paused
// machine, a starved CPU): behind it nothing is sent any more, because somebody else may be about to send the same refresh
// token; but an answer that came is still read, because it may hold the only refresh token that works.
type deadline struct {
	at    time.Time
	state atomic.Int32
}

// The states of a deadline. Sending and shutting exclude each other.
const (
	unsent  int32 = iota
	sending       // something went out, or is about to
	shut          // nothing did, and nothing will
)

// newDeadline is after that time, or when the context's deadline is, if that is earlier.
func newDeadline(ctx context.Context, limit time.Duration) *deadline {
	d := &deadline{at: time.Now().Add(limit)} // of sockets: the injected clock may stand still
	if at, ok := ctx.Deadline(); ok && at.Before(d.at) {
		d.at = at
	}
	return d
}

// over tells whether the time has come by either clock: on a suspended machine the monotonic one stands still.
func (d *deadline) over() bool {
	now := time.Now()
	return !now.Before(d.at) || !now.Round(0).Before(d.at.Round(0))
}

// wasSent tells whether anything may have reached the provider.
func (d *deadline) wasSent() bool { return d.state.Load() == sending }

var errLate = errors.New("there was no time left to send the request")

// beforeWrite allows a write, or says that it comes too late.
func (d *deadline) beforeWrite() error {
	if d.over() {
		d.state.CompareAndSwap(unsent, shut)
		return errLate
	}
	if d.state.CompareAndSwap(unsent, sending); d.state.Load() != sending {
		return errLate
	}
	return nil
}

// watch cancels the request when its time is over, or when the parent was cancelled, unless done is closed before.
func (d *deadline) watch(parent context.Context, cancel context.CancelCauseFunc, done <-chan struct{}) {
	timer := time.NewTimer(time.Until(d.at))
	defer timer.Stop()
	select {
	case <-done:
		return
	case <-parent.Done():
		if !errors.Is(parent.Err(), context.DeadlineExceeded) {
			d.state.CompareAndSwap(unsent, shut)
			cancel(parent.Err())
			return
		}
	case <-timer.C:
	}
	due := d.at
	for looks := 0; looks < maxLooks && !d.state.CompareAndSwap(unsent, shut) && d.wasSent(); looks++ {
		wait := shortLook
		if time.Since(due) > shortLook {
			wait = longLook
		} else if looks > 0 {
			break // this process ran all the while, and no answer came
		}
		due = time.Now().Add(wait)
		timer.Reset(wait)
		select {
		case <-done:
			return
		case <-timer.C:
		}
	}
	cancel(context.DeadlineExceeded)
}

// trace puts the connection that the request is about to go out on under this deadline.
func (d *deadline) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// With TLS this comes after the handshake.
		GotConn: func(info httptrace.GotConnInfo) {
			conn := info.Conn
			if encrypted, ok := conn.(*tls.Conn); ok {
				conn = encrypted.NetConn()
			}
			if gated, ok := conn.(*gatedConn); ok {
				gated.current.Store(d)
			}
		},
	})
}

// gatedConn lets nothing out behind the deadline of the request it carries.
type gatedConn struct {
	net.Conn
	current atomic.Pointer[deadline] // nil: it is only being set up
}

func (c *gatedConn) Write(b []byte) (int, error) {
	if d := c.current.Load(); d != nil {
		if err := d.beforeWrite(); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}
