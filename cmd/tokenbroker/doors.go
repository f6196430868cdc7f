package main

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

// doors are the two addresses. What is behind them may change while they are open: a process that waits for its keys says so
// there, and the broker takes over without a moment in which nobody answers.
type doors struct {
	main, ops *listener
	// inside is nil until lead was called once.
	inside [2]atomic.Pointer[http.Handler]
}

// openDoors binds both addresses, so that a taken one is an error at start; nobody is answered before lead.
func openDoors(ctx context.Context, c *Config, log *slog.Logger) (*doors, error) {
	d := &doors{}
	behind := func(i int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*d.inside[i].Load()).ServeHTTP(w, r) })
	}
	var err error
	if d.main, err = listen(ctx, "listen", c.Listen, behind(0), log); err != nil {
		return nil, err
	}
	if d.ops, err = listen(ctx, "ops_listen", c.OpsListen, behind(1), log); err != nil {
		_ = d.main.socket.Close()
		return nil, err
	}
	return d, nil
}

// lead has main and ops answer from now on. It is called by one goroutine at a time.
func (d *doors) lead(main, ops http.Handler) {
	first := d.inside[0].Load() == nil
	d.inside[0].Store(&main)
	d.inside[1].Store(&ops)
	if first {
		d.main.start()
		d.ops.start()
	}
}

// close ends what lead started, where no app came to do it.
func (d *doors) close() {
	if d == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = d.main.shutdown(ctx)
	_ = d.ops.shutdown(ctx)
}
