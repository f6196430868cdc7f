package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"
)

// TestShutdownWaitsForRequests: what was accepted is answered; what takes longer than the deadline is cut off, and told.
func TestShutdownWaitsForRequests(t *testing.T) {
	for _, tooLong := range []bool{false, true} {
		arrived, proceed := make(chan struct{}), make(chan struct{})
		l, err := listen(t.Context(), "listen", "127.0.0.1:0", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			close(arrived)
			<-proceed
			_, _ = io.WriteString(w, "done")
		}), quietLog())
		if err != nil {
			t.Fatal(err)
		}
		l.start()
		answer := make(chan string, 1)
		go func() {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.address(), nil)
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				answer <- "cut off"
				return
			}
			defer func() { _ = response.Body.Close() }()
			body, _ := io.ReadAll(response.Body)
			answer <- string(body)
		}()
		<-arrived
		wait := patience
		if tooLong {
			wait = 50 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		ended := make(chan error, 1)
		go func() { ended <- l.shutdown(ctx) }()
		if tooLong {
			if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("shutdown: %v", err)
			}
			if got := <-answer; got != "cut off" {
				t.Errorf("answer %q after the deadline", got)
			}
			close(proceed)
		} else {
			<-l.done // accepting has stopped
			close(proceed)
			if got := <-answer; got != "done" {
				t.Errorf("answer %q", got)
			}
			if err := <-ended; err != nil {
				t.Errorf("shutdown: %v", err)
			}
		}
		cancel()
	}
}
