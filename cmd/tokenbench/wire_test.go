package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answerWith is a server that reads requests and answers each with the next text, as it is.
func answerWith(t *testing.T, answers ...string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for len(answers) > 0 {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reader := bufio.NewReader(conn)
			for len(answers) > 0 {
				if _, err := http.ReadRequest(reader); err != nil {
					break
				}
				text := answers[0]
				answers = answers[1:]
				_, _ = conn.Write([]byte(text))
				if !strings.HasSuffix(text, "\n") && strings.Contains(text, "cut") || strings.Contains(text, "close") {
					break
				}
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

const aRequest = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestWireReadsAnswers(t *testing.T) {
	address := answerWith(t,
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
		"HTTP/1.1 404 Not Found\r\ncontent-length:3\r\nX: y\r\n\r\nabc",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n5\r\npedia\r\n0\r\n\r\n",
		"HTTP/1.1 204 No Content\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
	)
	w := newWire(address, time.Now().Add(20*time.Second))
	defer w.close()
	for i, want := range []string{"200 hello", "404 abc", "200 Wikipedia", "204 ", "200 ok", "200 "} {
		status, body, err := w.ask([]byte(aRequest))
		if got := fmt.Sprintf("%d %s", status, body); err != nil || got != want {
			t.Fatalf("answer %d is %q, %v; want %q", i, got, err, want)
		}
	}
}

func TestWireRefusesWhatIsNoAnswer(t *testing.T) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\n\r\ncut",                      // its end would be that of the connection
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", // shorter than it says
		"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\ncut",
		"nonsense, cut",
	} {
		w := newWire(answerWith(t, text), time.Now().Add(20*time.Second))
		if status, body, err := w.ask([]byte(aRequest)); err == nil {
			t.Errorf("%q is read as %d %q", text, status, body)
		}
		w.close()
	}
}
