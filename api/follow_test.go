package api

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func TestAwaitConsentStatus(t *testing.T) {
	b := newBench(t)
	type asked struct {
		known broker.ConsentStatus
		wait  time.Duration
	}
	var got asked
	b.service.awaitConsent = func(_ context.Context, id string, known broker.ConsentStatus, wait time.Duration) (broker.ConsentView, error) {
		got = asked{known, wait}
		return broker.ConsentView{ID: id, Status: broker.ConsentStarted, Connector: "files", Subject: "u", Binding: broker.BindingCode}, nil
	}
	for query, want := range map[string]asked{
		"wait=60&status=pending": {broker.ConsentPending, time.Minute}, "wait=1": {"", time.Second},
	} {
		r := b.call("GET", "/v1/consents/k1?"+query, "")
		if r.status != 200 || r.object["status"] != "started" || got != want {
			t.Errorf("%s: %d %s for %+v", query, r.status, r.text, got)
		}
	}
	b.service.consentStatus = func(id string) (broker.ConsentView, error) {
		return broker.ConsentView{ID: id, Status: broker.ConsentPending, Connector: "files", Subject: "u", Binding: broker.BindingCode}, nil
	}
	got = asked{}
	for _, query := range []string{"", "?wait=0", "?status=started", "?wait=0&status=pending"} {
		if r := b.call("GET", "/v1/consents/k1"+query, ""); r.status != 200 || r.object["status"] != "pending" || got.wait > 0 {
			t.Errorf("%q: %d %s", query, r.status, r.text)
		}
	}
	calls := b.service.calls()
	for _, query := range []string{"wait=61", "wait=-1", "wait=1.5", "wait=x", "wait=1&wait=2", "status=done", "status=Pending", "wait=9999999999999999999"} {
		b.call("GET", "/v1/consents/k1?"+query, "").refused(t, 400, broker.CodeInvalidRequest)
	}
	if b.service.calls() != calls {
		t.Error("the service was called for a bad query")
	}
	b.service.awaitConsent = func(context.Context, string, broker.ConsentStatus, time.Duration) (broker.ConsentView, error) {
		return broker.ConsentView{}, &broker.Error{Code: broker.CodeSlowDown, Description: "too many wait for the status", RetryAfter: 5 * time.Second}
	}
	r := b.call("GET", "/v1/consents/k1?wait=5", "")
	if r.refused(t, 429, broker.CodeSlowDown); r.header.Get("Retry-After") != "5" {
		t.Errorf("Retry-After is %q", r.header.Get("Retry-After"))
	}
}

// A call may wait for longer than other calls take, and than the server gives to write an answer.
func TestWaitOutlivesOtherBounds(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeout = 300 * time.Millisecond; c.Heartbeat = 50 * time.Millisecond })
	server := httptest.NewUnstartedServer(b.api)
	server.Config.ReadTimeout, server.Config.WriteTimeout = 200*time.Millisecond, 200*time.Millisecond
	server.Start()
	defer server.Close()
	b.server = server
	b.service.awaitConsent = func(ctx context.Context, id string, _ broker.ConsentStatus, _ time.Duration) (broker.ConsentView, error) {
		select {
		case <-ctx.Done():
			return broker.ConsentView{}, ctx.Err()
		case <-time.After(700 * time.Millisecond):
		}
		return broker.ConsentView{ID: id, Status: broker.ConsentStarted, Connector: "files", Subject: "u", Binding: broker.BindingCode}, nil
	}
	if r := b.call("GET", "/v1/consents/k1?wait=1", ""); r.status != 200 {
		t.Errorf("%d %s", r.status, r.text)
	}
	b.service.followConsent = func(ctx context.Context, id string, f broker.Following) error {
		for range 20 {
			if err := f.Still(); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(50 * time.Millisecond):
			}
		}
		return f.Tell(broker.ConsentView{ID: id, Status: broker.ConsentCompleted})
	}
	s := b.stream(t, "k1", "")
	if text := s.rest(t); strings.Count(text, ": still here\n\n") != 20 || !strings.Contains(text, `"status":"completed"`) {
		t.Errorf("the stream said %q", text)
	}
}

// No stream lasts longer than an hour, however long its caller stays and the status too.
func TestStreamsAreBounded(t *testing.T) {
	b := newBench(t)
	var left time.Duration
	b.service.followConsent = func(ctx context.Context, _ string, f broker.Following) error {
		until, _ := ctx.Deadline()
		left = time.Until(until)
		return f.Still()
	}
	b.stream(t, "k1", "").rest(t)
	if left <= maxStream-time.Minute || left > maxStream {
		t.Errorf("a stream may last %v", left)
	}
}

// stream is a stream of events, as a caller reads it.
type stream struct {
	*http.Response
	lines *bufio.Reader
	close context.CancelFunc
}

func (b *bench) stream(t *testing.T, id, lastEvent string) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, b.server.URL+"/v1/consents/"+id+"/events", nil)
	req.Header.Set("Authorization", "Bearer "+acmeKey)
	if lastEvent != "" {
		req.Header.Set("Last-Event-ID", lastEvent)
	}
	res, err := b.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return &stream{res, bufio.NewReader(res.Body), cancel}
}

// event reads up to the next empty line.
func (s *stream) event(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("the stream ended: %v behind %q", err, text.String())
		}
		if line == "\n" {
			return text.String()
		}
		text.WriteString(line)
	}
}

func (s *stream) rest(t *testing.T) string {
	t.Helper()
	text, err := io.ReadAll(s.lines)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestConsentEvents(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Heartbeat = 7 * time.Second })
	proceed, ended := make(chan struct{}), make(chan error, 1)
	var known broker.ConsentStatus
	b.service.followConsent = func(ctx context.Context, id string, f broker.Following) error {
		known = f.Known
		if f.Every != 7*time.Second {
			t.Errorf("every %v", f.Every)
		}
		view := broker.ConsentView{ID: id, Status: broker.ConsentPending, Connector: "files", Subject: "u\nv", Binding: broker.BindingCode}
		if err := f.Tell(view); err != nil {
			t.Error(err)
		}
		<-proceed
		if err := f.Still(); err != nil {
			t.Error(err)
		}
		view.Status, view.Connection = broker.ConsentCompleted, "c1"
		ended <- f.Tell(view)
		return nil
	}
	s := b.stream(t, "k1", "")
	for name, want := range map[string]string{
		"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff", "Pragma": "no-cache",
	} {
		if got := s.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	if s.StatusCode != 200 || len(s.Header.Get("Request-Id")) != 22 {
		t.Errorf("answer is %d %v", s.StatusCode, s.Header)
	}
	if got := s.event(t); got != "retry: 1000\n" {
		t.Errorf("first %q", got)
	}
	if got := s.event(t); got != `id: pending
event: status
data: {"id":"k1","status":"pending","connector":"files","subject":"u\nv","scopes":[],"binding":"code"}
` {
		t.Errorf("then %q", got)
	}
	close(proceed)
	if got := s.event(t); got != ": still here\n" {
		t.Errorf("then %q", got)
	}
	if got := s.rest(t); !strings.HasPrefix(got, "id: completed\nevent: status\ndata: {") || !strings.Contains(got, `"connection":"c1"`) {
		t.Errorf("at last %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for last, want := range map[string]broker.ConsentStatus{"": "", "started": "started", "42": "", "CANARY": "", strings.Repeat("x", 5000): ""} {
		b.stream(t, "k1", last).rest(t)
		<-ended
		if known != want {
			t.Errorf("Last-Event-ID %.10q became %q", last, known)
		}
	}
	eventually(t, "the log has it", func() bool { return len(b.logs.lines(t, "request")) == 6 })
	if line := b.logs.lines(t, "request")[0]; line["route"] != "/v1/consents/:id/events" || line["status"] != 200.0 || line["error"] != nil {
		t.Errorf("logged %v", line)
	}
}

// Errors before the first event are answers like any other; and nothing new about a consent that is over is 204.
func TestConsentEventsThatDoNotBegin(t *testing.T) {
	b := newBench(t)
	for _, code := range []broker.Code{broker.CodeNotFound, broker.CodeSlowDown, broker.CodeTemporarilyUnavailable, broker.CodeAccessDenied} {
		b.service.followConsent = func(context.Context, string, broker.Following) error { return broker.Errorf(code, "because of a test") }
		b.call("GET", "/v1/consents/k1/events", "").refused(t, statusOf(code), code)
	}
	b.call("GET", "/v1/consents/k1/events?wait=1", "").refused(t, 400, broker.CodeInvalidRequest)
	b.call("GET", "/v1/consents/a%2Fb/events", "").refused(t, 404, broker.CodeNotFound)
	b.send("GET", "/v1/consents/k1/events", "", http.Header{}).refused(t, 401, broker.CodeInvalidClient)
	b.service.followConsent = func(context.Context, string, broker.Following) error { return nil }
	s := b.stream(t, "k1", "completed")
	if text := s.rest(t); s.StatusCode != 204 || text != "" || s.Header.Get("Content-Type") != "" || s.Header.Get("Cache-Control") != "no-store" || s.Header.Get("Request-Id") == "" {
		t.Errorf("answer is %d %q %v", s.StatusCode, text, s.Header)
	}
}

// A caller that goes away ends what was done for it; a panic in the middle ends the stream, and nothing is written into it.
func TestConsentEventsEnd(t *testing.T) {
	b := newBench(t)
	ended := make(chan error, 1)
	b.service.followConsent = func(ctx context.Context, id string, f broker.Following) error {
		if err := f.Still(); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		ended <- f.Still()
		return errors.New("gone")
	}
	s := b.stream(t, "k1", "")
	s.event(t)
	s.close()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("it goes on without its caller")
	}
	eventually(t, "the log has it", func() bool { return len(b.logs.lines(t, "request")) == 1 })
	if line := b.logs.lines(t, "request")[0]; line["error"] != nil {
		t.Errorf("logged %v", line)
	}
	b.service.followConsent = func(_ context.Context, _ string, f broker.Following) error {
		_ = f.Still()
		panic("CANARY")
	}
	if text := b.stream(t, "k1", "").rest(t); strings.Contains(text, "error") {
		t.Errorf("the stream says %q", text)
	}
}
