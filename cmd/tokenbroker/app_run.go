package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// watchEvery is how often the keyset file and the readiness are looked at.
const watchEvery = 2 * time.Second

// run listens and serves until ctx ends, and then ends in order; started is told the addresses. Its error is nil if
// everything that had begun was also finished.
func (a *app) run(ctx context.Context, started func(main, ops string)) error {
	c := a.cfg.Config
	d := a.cfg.Doors
	if d == nil {
		var err error
		if d, err = openDoors(ctx, c, a.cfg.Log); err != nil {
			return err
		}
	}
	main, ops := d.main, d.ops

	// The background work stops before the service is drained, but after the last request.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var workers sync.WaitGroup
	for _, work := range []func(context.Context) error{a.service.Run, a.store.Run, a.watchKeyset, a.watchReadiness, a.beat} {
		workers.Go(func() {
			if err := work(background); err != nil && background.Err() == nil {
				a.cfg.Log.Error("background work ended", "error", err)
			}
		})
	}
	d.lead(a.handler, opsHandler(a.ready, a.cfg.Telemetry.handler()))
	started(main.address(), ops.address())

	select {
	case <-ctx.Done():
	case <-main.done:
	case <-ops.done:
	}

	a.ready.draining.Store(true)
	a.cfg.Log.Info("ending", "delay", c.ShutdownDelay.String(), "timeout", c.ShutdownTimeout.String())
	wait(main.done, c.ShutdownDelay)
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownTimeout)
	defer cancel()
	a.pages.EndLive()
	a.service.EndFollowing() // those who wait for news are answered now, and come again elsewhere
	failed := main.shutdown(deadline)
	stop()
	if !ended(deadline, &workers, workersEnd) {
		a.cfg.Log.Warn("background work does not end, and is left behind; a directory on a disk that hangs can do that (audit.retention.archive, audit.sinks)")
	}
	if err := a.service.Drain(deadline); err != nil {
		failed = errors.Join(failed, fmt.Errorf("refreshes or revocations were still running: %w", err))
	}
	// What the drain left in the spool gets one more chance now; the next start has the rest.
	flush, cancelFlush := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancelFlush()
	if err := a.store.ReplaySpool(flush); err != nil {
		a.cfg.Log.Warn("the spool keeps what redis does not take now; start again with the same spool_dir", "error", err)
	}
	a.leave(context.WithoutCancel(ctx))
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancelLast()
	failed = errors.Join(failed, ops.shutdown(last))
	a.close()
	a.cfg.Log.Info("ended")
	return failed
}

// wait passes the time until d is over or done is closed.
func wait(done <-chan struct{}, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
}

// every calls look now and then until ctx ends.
func every(ctx context.Context, d time.Duration, look func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			look()
		}
	}
}

// watchReadiness logs what /readyz would say whenever that changes.
func (a *app) watchReadiness(ctx context.Context) error {
	var before map[string]string
	measure, err := newReadyGauge()
	if err != nil {
		return err
	}
	a.outage.watch(true)
	defer a.outage.watch(false)
	look := func() {
		ready, checks := a.ready.report(ctx)
		if ctx.Err() != nil || a.ready.draining.Load() {
			return // that it is ending is no news to whoever ends it
		}
		measure(ctx, ready, checks)
		a.report.set(ready, checks)
		reason := unusable(ready, checks)
		a.outage.tell(ctx, a.cfg.Log, reason)
		if maps.Equal(checks, before) {
			return
		}
		before = checks
		args := []any{"ready", ready}
		for _, name := range slices.Sorted(maps.Keys(checks)) {
			args = append(args, name, checks[name])
		}
		switch {
		case ready:
			a.cfg.Log.InfoContext(ctx, "readiness", args...)
		case reason != "":
			a.cfg.Log.DebugContext(ctx, "readiness", args...) // told already
		default:
			a.cfg.Log.WarnContext(ctx, "readiness", args...)
		}
	}
	look()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-a.outage.look:
		}
		look()
	}
}

// unusable is why Redis can't be used, "" if it can; checks are those of a process that is not ending.
func unusable(ready bool, checks map[string]string) string {
	for _, name := range []string{"redis", "permissions"} {
		if text := checks[name]; !ready && text != "ok" && text != unknownText {
			return text
		}
	}
	return ""
}

// workersEnd is how long background work may take to end. All of it does at once, unless the system holds it.
const workersEnd = 5 * time.Second

// ended waits for the group, and no longer than that: what comes behind must not be lost to a disk that hangs. Who is left behind ends with
// the process.
func ended(ctx context.Context, group *sync.WaitGroup, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		group.Wait()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
