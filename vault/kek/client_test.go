package kek

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestErrorsQuoteNoAnswer (threat 26): what answers in a service's place, or the service itself, may send anything, and no error repeats it.
func TestErrorsQuoteNoAnswer(t *testing.T) {
	for _, answer := range []string{"canary-secret\r\n\r\n", "HTTP/1.1 canary\r\n\r\n", "HTTP/1.1 200 OK\r\ncanary-header\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = conn.Write([]byte(answer))
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err = NewClient("the service", time.Second, nil).Ask(ctx, http.MethodPost, "http://"+l.Addr().String()+"/", http.Header{}, nil)
		if err == nil || strings.Contains(err.Error(), "canary") || len(err.Error()) > 300 {
			t.Errorf("%q: %v", answer, err)
		}
		cancel()
		_ = l.Close()
		<-done
	}
}
