package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tokenbroker/vault/redisstore"
)

const (
	// remindEvery is how often the log says again that Redis can't be used.
	remindEvery = time.Minute
	// maxHeld bounds the lines that wait for the verdict whether Redis is down.
	maxHeld = 64
)

// outage makes few lines of many while Redis can't be used: one when that begins, one every minute, one when it is over. What
// the broker's parts say of it meanwhile is logged at level debug. Whether Redis can be used is for watchReadiness to find out;
// it is asked to when the first line comes.
type outage struct {
	now  func() time.Time
	look chan struct{} // wakes watchReadiness; holds one

	mu       sync.Mutex
	watched  bool // somebody tells; before and after that, lines pass
	since    time.Time
	reminded time.Time
	quieted  int
	held     []heldLine
}

// heldLine is a line that came before anybody knew.
type heldLine struct {
	ctx     context.Context
	record  slog.Record
	handler slog.Handler
}

func newOutage(now func() time.Time) *outage {
	return &outage{now: now, look: make(chan struct{}, 1)}
}

// watch begins or ends the time in which tell is called. Lines that are held are let go at its end.
func (o *outage) watch(watched bool) {
	o.mu.Lock()
	o.watched = watched
	held := o.held
	o.held = nil
	o.mu.Unlock()
	for _, line := range held {
		_ = line.handler.Handle(line.ctx, line.record)
	}
}

// tell takes the latest verdict; reason is "" where Redis can be used.
func (o *outage) tell(ctx context.Context, log *slog.Logger, reason string) {
	o.mu.Lock()
	now, held, quieted, since := o.now(), o.held, o.quieted, o.since
	o.held = nil
	begins, over := reason != "" && since.IsZero(), reason == "" && !since.IsZero()
	reminds := !begins && reason != "" && now.Sub(o.reminded) >= remindEvery
	switch {
	case begins:
		o.since, o.reminded, o.quieted = now, now, len(held)
	case reminds:
		o.reminded = now
	case over:
		o.since, o.quieted = time.Time{}, 0
	}
	o.mu.Unlock()
	for _, line := range held {
		if reason != "" {
			line.record.Level = slog.LevelDebug
		}
		if line.handler.Enabled(line.ctx, line.record.Level) {
			_ = line.handler.Handle(line.ctx, line.record)
		}
	}
	switch {
	case begins:
		log.ErrorContext(ctx, "redis can't be used: requests are answered with 503, refreshed tokens stay in this process and in spool_dir, and all of it is tried again until redis is back; further lines about it are at level debug", "error", reason)
	case reminds:
		log.ErrorContext(ctx, "redis still can't be used", "for", now.Sub(since).Round(time.Second).String(), "lines_at_debug", quieted, "error", reason)
	case over:
		log.InfoContext(ctx, "redis can be used again", "after", now.Sub(since).Round(time.Second).String(), "lines_at_debug", quieted)
	}
}

// take decides about a line that tells of a failure of Redis: true if it is held.
func (o *outage) take(line heldLine) (level slog.Level, held bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !o.watched:
		return line.record.Level, false
	case !o.since.IsZero():
		o.quieted++
		return slog.LevelDebug, false
	case len(o.held) >= maxHeld:
		return line.record.Level, false
	}
	o.held = append(o.held, line)
	select {
	case o.look <- struct{}{}:
	default:
	}
	return line.record.Level, true
}

// outageHandler is where lines come by.
type outageHandler struct {
	slog.Handler
	outage *outage
}

// Handle implements slog.Handler.
func (h outageHandler) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn || !aboutStore(r) {
		return h.Handler.Handle(ctx, r)
	}
	level, held := h.outage.take(heldLine{ctx: context.WithoutCancel(ctx), record: r.Clone(), handler: h.Handler})
	if held || !h.Handler.Enabled(ctx, level) {
		return nil
	}
	r.Level = level
	return h.Handler.Handle(ctx, r)
}

// aboutStore tells that the line's error is one of Redis.
func aboutStore(r slog.Record) bool {
	about := false
	r.Attrs(func(a slog.Attr) bool {
		err, ok := a.Value.Any().(error)
		about = ok && errors.Is(err, redisstore.ErrStore)
		return !about
	})
	return about
}

// WithAttrs implements slog.Handler.
func (h outageHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return outageHandler{h.Handler.WithAttrs(attrs), h.outage}
}

// WithGroup implements slog.Handler.
func (h outageHandler) WithGroup(name string) slog.Handler {
	return outageHandler{h.Handler.WithGroup(name), h.outage}
}
