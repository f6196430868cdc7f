package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"
)

// wire is one kept-alive HTTP/1.1 connection (RFC 9112). It knows what the servers under test send and no more, because the
// generator shares the processors with them: net/http's client would cost more than the servers do.
type wire struct {
	address string
	until   time.Time // of the connection: whatever hangs ends then
	conn    net.Conn
	reader  *bufio.Reader
	body    []byte
	closing bool // the server will close after this answer
}

func newWire(address string, until time.Time) *wire {
	return &wire{address: address, until: until, reader: bufio.NewReaderSize(nil, 8<<10)}
}

func (w *wire) connect() error {
	w.close()
	conn, err := net.DialTimeout("tcp", w.address, 10*time.Second)
	if err != nil {
		return err
	}
	w.conn, w.closing = conn, false
	w.reader.Reset(conn)
	return conn.SetDeadline(w.until)
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
}

// ask sends the request and reads the answer, whose body is good until the next call. After an error the connection is gone;
// the next call makes a new one.
func (w *wire) ask(request []byte) (status int, body []byte, err error) {
	if w.conn == nil || w.closing {
		if err := w.connect(); err != nil {
			return 0, nil, err
		}
	}
	if _, err = w.conn.Write(request); err == nil {
		status, err = w.read()
	}
	if err != nil {
		w.close()
		return 0, nil, err
	}
	return status, w.body, nil
}

// read reads one answer into w.body.
func (w *wire) read() (int, error) {
	line, err := w.reader.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("no status line: %q", line)
	}
	status, err := strconv.Atoi(string(line[9:12]))
	if err != nil {
		return 0, fmt.Errorf("no status line: %q", line)
	}
	length, chunked := -1, false
	for {
		line, err = w.reader.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case is(name, "content-length"):
			if length, err = strconv.Atoi(string(value)); err != nil || length < 0 {
				return 0, fmt.Errorf("content-length is %q", value)
			}
		case is(name, "transfer-encoding"):
			chunked = is(value, "chunked")
		case is(name, "connection"):
			w.closing = is(value, "close")
		}
	}
	switch {
	case chunked: // long answers
		all, err := io.ReadAll(httputil.NewChunkedReader(w.reader))
		if err != nil {
			return 0, err
		}
		// The reader leaves the trailer section, which is empty here.
		if _, err := w.reader.ReadSlice('\n'); err != nil {
			return 0, err
		}
		w.body = all
		return status, nil
	case status == 204 || status == 304:
		length = 0
	case length < 0:
		return 0, errors.New("an answer without a length")
	}
	if cap(w.body) < length {
		w.body = make([]byte, length)
	}
	w.body = w.body[:length]
	_, err = io.ReadFull(w.reader, w.body)
	return status, err
}

// is compares a header's name or token without regard to case; lower is in lower case.
func is(text []byte, lower string) bool {
	if len(text) != len(lower) {
		return false
	}
	for i, c := range text {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
