package main

import (
	"context"
	"runtime"
	"syscall"
	"time"
)

// pace sends a ticket at each moment at which a request is due, from begin until end, and closes the channel. The channel must
// have room for all: a server that is late must not slow down those who ask it.
//
// It sleeps in the kernel, on a thread of its own: the timers of the runtime are late by up to a millisecond in a process that
// is idle otherwise, which would be most of the latency that is measured.
func pace(ctx context.Context, rate float64, begin, end time.Time, tickets chan<- time.Time) {
	defer close(tickets)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for i := 0; ; i++ {
		due := begin.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if !due.Before(end) || ctx.Err() != nil {
			return
		}
		// Not for less than the kernel's own slack (50 µs): those go together.
		if wait := time.Until(due); wait > 50*time.Microsecond {
			t := syscall.NsecToTimespec(int64(wait))
			_ = syscall.Nanosleep(&t, nil)
		}
		select {
		case tickets <- due:
		default:
			return // there is room for all of them, so this can't be
		}
	}
}
