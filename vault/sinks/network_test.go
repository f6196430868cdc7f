package sinks

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const event = `{"id":"ev_1","time":"2026-11-20T10:11:12.345Z","type":"token.issued","tenant":"acme","trace_id":"0af7651916cd43dd8448eb211c80319c"}`

// TestWebhook: lines are posted, an answer of 2xx takes them, any other one and a redirect is an error that does not tell the path.
func TestWebhook(t *testing.T) {
	type post struct{ kind, body string }
	posts := make(chan post, 2)
	var status int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		posts <- post{r.Header.Get("Content-Type"), string(body)}
		w.WriteHeader(status)
	}))
	defer server.Close()
	hook, err := NewWebhook(server.URL+"/canary-path", &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }})
	if err != nil {
		t.Fatal(err)
	}
	status = http.StatusNoContent
	if err := hook.Append(within(t, time.Minute), lines("a", "b")); err != nil {
		t.Error(err)
	}
	if got := <-posts; got != (post{"application/jsonl", "a\nb\n"}) {
		t.Errorf("%q", got)
	}
	if err := hook.Publish(within(t, time.Minute), []byte("c")); err != nil {
		t.Error(err)
	}
	if got := <-posts; got != (post{"application/json", "c\n"}) {
		t.Errorf("%q", got)
	}
	for _, status = range []int{http.StatusFound, http.StatusForbidden, http.StatusInternalServerError} {
		err := hook.Append(within(t, time.Minute), lines("a"))
		if err == nil || !strings.Contains(err.Error(), strconv.Itoa(status)) || strings.Contains(err.Error(), "canary") {
			t.Errorf("%d: %v", status, err)
		}
		<-posts
	}
	server.Close()
	if err := hook.Append(within(t, time.Minute), lines("a")); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("gone: %v", err)
	}
	if err := hook.Close(); err != nil {
		t.Error(err)
	}
	if _, err := NewWebhook("nowhere", http.DefaultClient); err == nil {
		t.Error("no host, and no error")
	}
}

// TestWebhookHangs: one that does not answer, or does not end its answer, holds nobody up for longer than his deadline.
func TestWebhookHangs(t *testing.T) {
	for _, begun := range []bool{false, true} {
		free := make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if begun {
				w.WriteHeader(http.StatusOK)
				w.(http.Flusher).Flush()
			}
			<-free
		}))
		hook, err := NewWebhook(server.URL, &http.Client{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := hook.Append(within(t, 50*time.Millisecond), lines("a")); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 5*time.Second {
			t.Errorf("begun %v: %v after %v", begun, err, time.Since(began))
		}
		close(free)
		server.Close()
	}
}

// TestOTLP: a log record for each event, and an error where the collector takes only some of them.
func TestOTLP(t *testing.T) {
	var got otlpRequest
	answer := `{}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewDecoder(r.Body).Decode(&got); err != nil || r.Header.Get("Content-Type") != "application/json" || r.URL.Path != "/v1/logs" {
			t.Errorf("%v %v", err, r.URL)
		}
		_, _ = io.WriteString(w, answer)
	}))
	defer server.Close()
	to, err := NewOTLP(server.URL+"/v1/logs", server.Client())
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Append(within(t, time.Minute), lines(event)); err != nil {
		t.Fatal(err)
	}
	r := got.Resources[0].Scopes[0].Records[0]
	if r.Body.Text != event || r.Event != "token.issued" || r.Time != "1795169472345000000" || r.Trace != "0af7651916cd43dd8448eb211c80319c" || r.Severity != 9 {
		t.Errorf("%+v", r)
	}
	answer = `{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"canary"}}`
	if err := to.Append(within(t, time.Minute), lines(event)); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("rejected: %v", err)
	}
	// What was not heard to its end may be a refusal.
	partial := `{"partialSuccess":{"rejectedLogRecords":"1"}}`
	for name, said := range map[string]string{"long": `{"x":"` + strings.Repeat("y", maxAnswer) + `",` + partial[1:], "cut": partial[:20], "odd": `{"partialSuccess":"1 of them"}`} {
		if answer = said; to.Append(within(t, time.Minute), lines(event)) == nil {
			t.Errorf("%s: taken for a yes", name)
		}
	}
	post := func(handler http.HandlerFunc) error {
		server := httptest.NewServer(handler)
		defer server.Close()
		to, err := NewOTLP(server.URL+"/v1/logs", server.Client())
		if err != nil {
			t.Fatal(err)
		}
		return to.Append(within(t, time.Minute), lines(event))
	}
	if err := post(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(partial)))
		_, _ = io.WriteString(w, partial[:20])
		panic(http.ErrAbortHandler)
	}); err == nil {
		t.Error("an answer that breaks off: taken for a yes")
	}
	if err := post(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }); err != nil {
		t.Errorf("an empty answer: %v", err)
	}
}

// frame reads one message behind its length.
func frame(r *bufio.Reader) (string, error) {
	n, err := r.ReadString(' ')
	if err != nil {
		return "", err
	}
	length, err := strconv.Atoi(strings.TrimSuffix(n, " "))
	if err != nil {
		return "", err
	}
	b := make([]byte, length)
	_, err = io.ReadFull(r, b)
	return string(b), err
}

func checkMessage(t *testing.T, m string) {
	t.Helper()
	part := strings.SplitN(m, " ", 8)
	if len(part) != 8 || part[0] != "<110>1" || part[1] != "2026-11-20T10:11:12.345Z" || part[3] != "tokenbroker" || part[5] != "token.issued" || part[6] != "-" || part[7] != event {
		t.Errorf("%q", m)
	}
}

// TestSyslogDatagrams: a message each, over UDP and a Unix socket.
func TestSyslogDatagrams(t *testing.T) {
	for network, at := range map[string]string{"udp": "127.0.0.1:0", "unixgram": filepath.Join(t.TempDir(), "log")} {
		l, err := net.ListenPacket(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		s := NewSyslog(strings.TrimSuffix(network, "gram"), l.LocalAddr().String())
		if err := s.Append(within(t, time.Minute), lines(event, event)); err != nil {
			t.Fatal(network, err)
		}
		for range 2 {
			b := make([]byte, 4096)
			_ = l.SetReadDeadline(time.Now().Add(time.Minute))
			n, _, err := l.ReadFrom(b)
			if err != nil {
				t.Fatal(network, err)
			}
			checkMessage(t, string(b[:n]))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSyslogStream: messages behind their lengths, over TCP and a Unix socket; a receiver that ended is dialled again.
func TestSyslogStream(t *testing.T) {
	for network, at := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "log")} {
		l, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }()
		s := NewSyslog(network, l.Addr().String())
		for range 2 {
			sent := make(chan error, 1)
			go func() { sent <- s.Append(within(t, time.Minute), lines(event, event)) }()
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(c)
			for range 2 {
				m, err := frame(r)
				if err != nil {
					t.Fatal(network, err)
				}
				checkMessage(t, m)
			}
			if err := <-sent; err != nil {
				t.Fatal(network, err)
			}
			gone := s.gone
			_ = c.Close()
			<-gone // it has noticed
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestSyslogHangs: a receiver that takes nothing holds nobody up for longer than his deadline, once what lies between is full; and what
// it gets from a new connection is whole.
func TestSyslogHangs(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s := NewSyslog("tcp", l.Addr().String())
	defer func() { _ = s.Close() }()
	big := []byte(fmt.Sprintf(`{"type":"x","reason":%q}`, strings.Repeat("x", 1<<20)))
	for end := time.Now().Add(20 * time.Second); ; {
		began := time.Now()
		err := s.Append(within(t, 100*time.Millisecond), [][]byte{big})
		if took := time.Since(began); took > 5*time.Second {
			t.Fatalf("it took %v", took)
		}
		if err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it took everything")
		}
	}
	stopped, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stopped.Close() }()
	if err := s.Append(within(t, time.Minute), lines(event)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	m, err := frame(bufio.NewReader(c))
	if err != nil {
		t.Fatal(err)
	}
	checkMessage(t, m)
}
