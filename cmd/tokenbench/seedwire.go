package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"
)

// seedWire sends commands to one Redis without waiting for each answer: that is what makes a million records a matter of minutes.
// Commands are carried out in the order in which they were added. Safe for concurrent use.
type seedWire struct {
	conn net.Conn

	mu   sync.Mutex // of buf and sent
	buf  []byte
	sent int

	seen     sync.Mutex
	advanced *sync.Cond
	received int
	failed   error // the first answer that was an error, or why there are no more
	done     chan struct{}
}

const (
	// wireBuffer is how much is gathered before it is written.
	wireBuffer = 128 << 10
	// wirePatience bounds one write and the wait for one answer: a server that rewrites its file can stand still for a while.
	wirePatience = 2 * time.Minute
)

func dialWire(ctx context.Context, address string) (*seedWire, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to redis: %w", err)
	}
	w := &seedWire{conn: conn, buf: make([]byte, 0, 2*wireBuffer), done: make(chan struct{})}
	w.advanced = sync.NewCond(&w.seen)
	go w.listen()
	return w, nil
}

// listen counts answers until the connection ends.
func (w *seedWire) listen() {
	defer close(w.done)
	answers := bufio.NewReaderSize(w.conn, 64<<10)
	for {
		_ = w.conn.SetReadDeadline(time.Now().Add(wirePatience))
		_, err := readAnswer(answers)
		var refused answerError
		ended := err != nil && !errors.As(err, &refused)
		w.seen.Lock()
		if err != nil && w.failed == nil {
			w.failed = err
		}
		w.received++
		w.advanced.Broadcast()
		w.seen.Unlock()
		if ended {
			return
		}
	}
}

// add appends a command.
func (w *seedWire) add(args ...string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = appendCommand(w.buf, args...)
	w.sent++
	if len(w.buf) < wireBuffer {
		return nil
	}
	return w.write()
}

func (w *seedWire) write() error {
	if len(w.buf) == 0 {
		return nil
	}
	_ = w.conn.SetWriteDeadline(time.Now().Add(wirePatience))
	_, err := w.conn.Write(w.buf)
	w.buf = w.buf[:0]
	if err != nil {
		return fmt.Errorf("write to redis: %w", err)
	}
	return nil
}

// flush waits until every command was answered, and returns the first error of any.
func (w *seedWire) flush() error {
	w.mu.Lock()
	err := w.write()
	sent := w.sent
	w.mu.Unlock()
	if err != nil {
		return err
	}
	w.seen.Lock()
	defer w.seen.Unlock()
	for w.received < sent && w.failed == nil {
		w.advanced.Wait()
	}
	return w.failed
}

func (w *seedWire) close() {
	_ = w.conn.Close()
	<-w.done
}

func appendCommand(b []byte, args ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(args)), 10)
	b = append(b, '\r', '\n')
	for _, a := range args {
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(len(a)), 10)
		b = append(b, '\r', '\n')
		b = append(b, a...)
		b = append(b, '\r', '\n')
	}
	return b
}

// answerError is what the server answered instead of doing it.
type answerError string

func (e answerError) Error() string { return "redis: " + string(e) }

// readAnswer reads one answer (RESP 2): a string, an int64, nil or a list of those. A answerError leaves the connection usable.
func readAnswer(r *bufio.Reader) (any, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("read from redis: %w", err)
	}
	if len(line) < 3 {
		return nil, errors.New("read from redis: not an answer")
	}
	kind, text := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return text, nil
	case '-':
		return nil, answerError(text)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read from redis: %w", err)
	}
	switch {
	case kind == ':':
		return n, nil
	case n < 0:
		return nil, nil
	case kind == '$':
		body := make([]byte, n+2)
		if _, err := io.ReadFull(r, body); err != nil {
			return nil, fmt.Errorf("read from redis: %w", err)
		}
		return string(body[:n]), nil
	case kind == '*':
		list := make([]any, n)
		for i := range list {
			if list[i], err = readAnswer(r); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, errors.New("read from redis: not an answer")
}
