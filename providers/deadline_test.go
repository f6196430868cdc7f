package providers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"tokenbroker/broker"
)

const (
	stoppedFor   = "PROVIDERS_TEST_STOPPED" // the address that the process which is stopped asks
	stoppedLimit = 300 * time.Millisecond
)

// A process that stands still as its deadline passes takes the answer that came meanwhile: it may hold the only refresh token
// that works. What it did not send by then it sends no more. The process is this test again, stopped by a signal.
func TestStoppedAcrossTheDeadline(t *testing.T) {
	if address := os.Getenv(stoppedFor); address != "" {
		f := &fakeProvider{Server: &httptest.Server{URL: address}}
		r := connect(t, setup{yaml: f.plain(), config: Config{Timeout: stoppedLimit}})
		ctx, cancel := context.WithTimeout(t.Context(), stoppedLimit) // as the broker does
		defer cancel()
		g, err := r.Refresh(ctx, "files", broker.RefreshRequest{RefreshToken: broker.NewSecret(canaryRefresh)})
		fmt.Printf("refresh token %q, error %v\n", g.RefreshToken.Reveal(), err)
		return
	}
	for _, body := range []string{"whole", "in two parts"} {
		t.Run(body, func(t *testing.T) {
			for range 5 { // which of two things that are due is seen first is a matter of chance
				if got := stoppedRefresh(t, body == "whole"); got != `refresh token "new", error <nil>` {
					t.Fatalf("the stopped process: %s", got)
				}
			}
		})
	}
}

// stoppedRefresh answers a process that it stopped, lets it go on behind the deadline, and returns what that says.
func stoppedRefresh(t *testing.T, whole bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^TestStoppedAcrossTheDeadline$", "-test.v")
	cmd.Env = append(os.Environ(), stoppedFor+"=http://"+l.Addr().String())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	defer func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		t.Fatal(err)
	}
	const answer = `{"access_token":"a","refresh_token":"new","expires_in":60}`
	head, rest := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"+fmt.Sprintf("Content-Length: %d\r\n\r\n", len(answer)), answer
	if !whole {
		if _, err := io.WriteString(conn, head+rest[:20]); err != nil {
			t.Fatal(err)
		}
		head, rest = "", rest[20:]
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process did not stop: %v", err)
	}
	if _, err := io.WriteString(conn, head+rest); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * stoppedLimit) // it began to count before the request came
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	ended = true
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(said)) {
		if strings.HasPrefix(line, "refresh token ") {
			return strings.TrimSpace(line)
		}
	}
	return string(said)
}

// Behind the deadline nothing goes out, not even on a connection that comes about just then.
func TestNothingIsSentBehindTheDeadline(t *testing.T) {
	f := newFake(t)
	f.answers("/token", 200, `{"access_token":"a","refresh_token":"new"}`)
	const limit = 50 * time.Millisecond
	late := func(ctx context.Context, network, address string) (net.Conn, error) {
		began := time.Now()
		conn, err := (&net.Dialer{}).DialContext(context.WithoutCancel(ctx), network, address)
		for time.Since(began) < limit { // the deadline was set before
			time.Sleep(limit)
		}
		return conn, err
	}
	for range 20 {
		_, err := refreshOnce(t, connect(t, setup{yaml: f.plain(), config: Config{Timeout: limit, Dial: late}}))
		if u := class(t, err, broker.ClassUnsent); !errors.Is(u, context.DeadlineExceeded) && !errors.Is(u, errLate) {
			t.Errorf("cause is %v", u.Cause)
		}
	}
	if n := f.count("/token"); n != 0 {
		t.Errorf("%d requests went out", n)
	}
	// A write that comes too late finds the gate shut, whoever looks first.
	d := &deadline{at: time.Now()}
	client, server := net.Pipe()
	defer client.Close()
	defer server.Close()
	gated := &gatedConn{Conn: client}
	gated.current.Store(d)
	if n, err := gated.Write([]byte("x")); n != 0 || !errors.Is(err, errLate) || d.wasSent() {
		t.Errorf("wrote %d bytes, error %v", n, err)
	}
}
