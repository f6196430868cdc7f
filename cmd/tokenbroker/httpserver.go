package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// listener is an HTTP server on its address, listening already.
type listener struct {
	name   string // the configuration's key, for messages
	server *http.Server
	socket net.Listener
	done   chan struct{} // closed when serving ended, with err set
	err    error
}

// listen binds the address, so that a taken one is an error at start.
func listen(ctx context.Context, name, address string, handler http.Handler, log *slog.Logger) (*listener, error) {
	socket, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w; end what runs there, or give %s another address", address, withoutOp(err), name)
	}
	return &listener{
		name: name, socket: socket, done: make(chan struct{}),
		server: &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       15 * time.Second,
			// A token request may wait for a provider that takes half a minute.
			WriteTimeout:   60 * time.Second,
			IdleTimeout:    120 * time.Second,
			MaxHeaderBytes: 16 << 10,
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		},
	}, nil
}

// withoutOp drops the address and the name of the system call, which the net package puts before the cause.
func withoutOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

func (l *listener) address() string { return l.socket.Addr().String() }

// start serves until shutdown, or until the socket fails.
func (l *listener) start() {
	go func() {
		defer close(l.done)
		if err := l.server.Serve(l.socket); !errors.Is(err, http.ErrServerClosed) {
			l.err = fmt.Errorf("stopped listening on %s: %w", l.name, err)
		}
	}()
}

// shutdown stops accepting and waits for running requests until ctx ends; then it cuts them off.
func (l *listener) shutdown(ctx context.Context) error {
	err := l.server.Shutdown(ctx)
	if err != nil {
		_ = l.server.Close()
		err = fmt.Errorf("requests on %s were still running: %w", l.name, err)
	}
	<-l.done
	return errors.Join(err, l.err)
}
