package main

import (
	"io"
	"sync"
	"time"
)

const (
	// logDelay is how long a line may wait for others, so that one system call writes them all.
	logDelay = 100 * time.Millisecond
	// logBytes is how much waits at most; then whoever logs writes.
	logBytes = 64 << 10
)

// logBuffer writes log lines together: at a thousand requests a second each one's line would cost a system call, and wake up
// whoever reads the other end. A line is written within logDelay, with every warning and error at once (logger), and at close.
// What a process that is killed, or that a panic ends, takes along are the lines of its last logDelay below a warning; events,
// which prove who got what, never wait here: they are in the store before the answer.
type logBuffer struct {
	to    io.Writer
	delay time.Duration

	mu     sync.Mutex
	lines  []byte // what waits
	closed bool

	writing sync.Mutex // held while to is written to, so that lines stay in order; taken before mu
	spare   []byte     // the other buffer; belongs to the holder of writing

	waits chan struct{} // holds a value when something waits
	stop  chan struct{}
	done  chan struct{}
}

// newLogBuffer makes one that writes to w. close ends it.
func newLogBuffer(w io.Writer, delay time.Duration) *logBuffer {
	b := &logBuffer{to: w, delay: delay, waits: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go b.run()
	return b
}

// Write takes one line, or several whole ones. It fails never: that a log can't be written is nothing to fail a request for.
func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	first := len(b.lines) == 0
	b.lines = append(b.lines, line...)
	full := len(b.lines) >= logBytes || b.closed
	b.mu.Unlock()
	switch {
	case full:
		b.flush()
	case first:
		select {
		case b.waits <- struct{}{}:
		default:
		}
	}
	return len(line), nil
}

// flush writes what waits. On return everything is written that waited when it was called.
func (b *logBuffer) flush() {
	b.writing.Lock()
	defer b.writing.Unlock()
	b.mu.Lock()
	lines := b.lines
	b.lines = b.spare[:0]
	b.mu.Unlock()
	if len(lines) > 0 {
		_, _ = b.to.Write(lines)
	}
	b.spare = lines
	if cap(lines) > 2*logBytes { // a line of unusual length
		b.spare = nil
	}
}

func (b *logBuffer) run() {
	defer close(b.done)
	timer := time.NewTimer(b.delay)
	defer timer.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-b.waits:
		}
		timer.Reset(b.delay)
		select {
		case <-b.stop:
			return
		case <-timer.C:
		}
		b.flush()
	}
}

// close writes what waits. Lines that come later are written at once.
func (b *logBuffer) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	close(b.stop)
	<-b.done
	b.flush()
}
