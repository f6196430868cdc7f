package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/embedded"

	"tokenbroker/broker"
)

func TestPanicsEndOneRequest(t *testing.T) {
	b := newBench(t)
	for name, cause := range map[string]any{"text": "CANARY in a panic", "error": errors.New("CANARY in an error"), "secret": broker.NewSecret("CANARY")} {
		b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) { panic(cause) }
		r := b.call("POST", "/v1/tokens", goodBody)
		r.refused(t, 500, broker.CodeServerError)
		if strings.Contains(r.text, "CANARY") {
			t.Errorf("%s: the answer tells it: %s", name, r.text)
		}
	}
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) {
		var none *broker.ConsentRequired
		_ = none.Reason
		return broker.Token{}, nil
	}
	b.call("POST", "/v1/tokens", goodBody).refused(t, 500, broker.CodeServerError)
	lines := b.logs.lines(t, "request failed")
	if len(lines) != 4 || !strings.Contains(lines[3]["cause"].(string), "nil pointer") || !strings.Contains(lines[3]["stack"].(string), "entrance_test.go") {
		t.Errorf("logged: %v", lines)
	}
}

// What callers send as request id or trace state does not become ours.
func TestRequestIDs(t *testing.T) {
	b := newBench(t)
	b.service.listConnectors = func() []broker.Connector { return nil }
	seen := map[string]bool{"chosen": true}
	for range 50 {
		r := b.call("GET", "/v1/connectors", "", "Request-Id", "chosen", "X-Request-Id", "chosen")
		id := r.header.Get("Request-Id")
		if seen[id] {
			t.Errorf("request id %q twice", id)
		}
		seen[id] = true
	}
}

type brokenRandom struct{}

func (brokenRandom) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestNoRandomnessNoAnswer(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Random = brokenRandom{} })
	r := b.raw("GET /v1/connectors HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + acmeKey + "\r\n\r\n")
	r.refused(t, 500, broker.CodeServerError)
}

func TestAccessLog(t *testing.T) {
	b := newBench(t)
	b.service.listConnections = func(broker.ConnectionQuery) ([]broker.Connection, string, error) { return nil, "", nil }
	b.service.subjectConnectors = func(string) ([]broker.SubjectConnector, error) { return nil, nil }
	b.call("GET", "/v1/connections?subject=CANARY", "")
	b.call("GET", "/v1/subjects/CANARY%0d%0a/connectors", "")
	b.call("GET", "/v1/subjects/CANARY/connectors", "")
	b.call("GET", "/v1/CANARY", "")
	b.call("CANARY", "/v1/connections", "")
	b.send("GET", "/v1/CANARY", "", http.Header{"User-Agent": {"CANARY"}, "Authorization": {"CANARY"}})
	want := [][3]any{
		{"GET", "/v1/connections", 200.0}, {"GET", "/v1/subjects/:subject/connectors", 400.0}, {"GET", "/v1/subjects/:subject/connectors", 200.0},
		{"GET", "unmatched", 404.0}, {"_OTHER", "/v1/connections", 405.0}, {"GET", "unmatched", 401.0},
	}
	eventually(t, "all requests are logged", func() bool { return len(b.logs.lines(t, "request")) == len(want) })
	for i, line := range b.logs.lines(t, "request") {
		if got := [3]any{line["method"], line["route"], line["status"]}; got != want[i] {
			t.Errorf("line %d is %v, want %v", i, got, want[i])
		}
		if (line["status"] == 200.0) != (line["error"] == nil) || line["request_id"] == "" || line["duration_us"] == nil {
			t.Errorf("line is %v", line)
		}
	}
}

// A request's deadline reaches the service, and its end is an answer.
func TestDeadline(t *testing.T) {
	b := newBench(t, func(c *Config) { c.Timeout = 20 * time.Millisecond })
	b.service.issueToken = func(broker.TokenRequest) (broker.Token, error) {
		<-b.service.ctx.Done()
		return broker.Token{}, b.service.ctx.Err()
	}
	r := b.call("POST", "/v1/tokens", goodBody)
	r.refused(t, 503, broker.CodeTemporarilyUnavailable)
	if !errors.Is(context.Cause(b.service.ctx), context.DeadlineExceeded) {
		t.Error("the service's context had no deadline")
	}
}

// recordingSpan is what telemetry would put around us.
type recordingSpan struct {
	embedded.Span
	name  string
	attrs []attribute.KeyValue
}

func (s *recordingSpan) End(...trace.SpanEndOption)              {}
func (s *recordingSpan) AddEvent(string, ...trace.EventOption)   {}
func (s *recordingSpan) AddLink(trace.Link)                      {}
func (s *recordingSpan) IsRecording() bool                       { return true }
func (s *recordingSpan) RecordError(error, ...trace.EventOption) {}
func (s *recordingSpan) SetStatus(codes.Code, string)            {}
func (s *recordingSpan) SetName(name string)                     { s.name = name }
func (s *recordingSpan) SetAttributes(kv ...attribute.KeyValue)  { s.attrs = append(s.attrs, kv...) }
func (s *recordingSpan) TracerProvider() trace.TracerProvider    { return nil }
func (s *recordingSpan) SpanContext() trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}})
}

func TestSpanAndTraceID(t *testing.T) {
	b := newBench(t)
	b.service.getConnection = func(string) (broker.Connection, error) { return sampleConnection(), nil }
	for _, row := range []struct{ method, target, name, route string }{
		{"GET", "/v1/connections/SUBJECT", "GET /v1/connections/:id", "/v1/connections/:id"},
		{"PUT", "/v1/connections/SUBJECT", "PUT /v1/connections/:id", "/v1/connections/:id"},
		{"SUBJECT", "/v1/SUBJECT", "_OTHER unmatched", ""},
	} {
		span := &recordingSpan{}
		req := httptest.NewRequest(row.method, row.target, nil)
		req.Header.Set("Authorization", "Bearer "+acmeKey)
		req = req.WithContext(trace.ContextWithSpan(req.Context(), span))
		b.api.ServeHTTP(httptest.NewRecorder(), req)
		if span.name != row.name || req.Pattern != row.name {
			t.Errorf("%s %s: span %q, pattern %q", row.method, row.target, span.name, req.Pattern)
		}
		for _, kv := range span.attrs {
			if kv.Key != "http.route" || kv.Value.AsString() != row.route {
				t.Errorf("%s: attribute %v", row.target, kv)
			}
		}
		if (row.route != "") != (len(span.attrs) == 1) {
			t.Errorf("%s: attributes %v", row.target, span.attrs)
		}
	}
	if got, want := b.service.lastCaller().TraceID, "01020000000000000000000000000000"; got != want {
		t.Errorf("trace id is %q, want %q", got, want)
	}
	for _, line := range b.logs.lines(t, "request") {
		if line["trace_id"] != "01020000000000000000000000000000" {
			t.Errorf("line is %v", line)
		}
	}
}

// A secret leaves in these places and nowhere else: the token, the link of a created and of a required consent, and the code
// and the address with the code that a user is shown for a consent on another device; and the two addresses of a visit.
func TestSecretsAreRevealedInFewPlaces(t *testing.T) {
	var places []string
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		for range strings.Count(string(text), ".Reveal()") {
			places = append(places, f.Name())
		}
	}
	if want := []string{"consents.go", "consents.go", "consents.go", "errors.go", "portals.go", "portals.go", "tokens.go"}; !slices.Equal(places, want) {
		t.Errorf("secrets are revealed in %v, want %v", places, want)
	}
}
