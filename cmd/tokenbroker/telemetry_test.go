package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"tokenbroker/broker"
)

func noVariables(string) (string, bool) { return "", false }

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// scrape returns /metrics.
func scrape(t *testing.T, tel *telemetry) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	tel.handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if recorder.Code != http.StatusOK {
		t.Fatalf("/metrics: %d %s", recorder.Code, recorder.Body)
	}
	return recorder.Body.String()
}

// TestMetricsStayBounded: whatever strangers send, the series stay the same, and nothing of it is in them (threat 27).
func TestMetricsStayBounded(t *testing.T) {
	tel, err := startTelemetry(t.Context(), telemetryConfig{Lookup: noVariables, Log: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.shutdown(context.WithoutCancel(t.Context())) }()
	h := tel.instrument(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { r.Pattern = "GET /v1/connections/:id" }))
	send := func(i int) {
		r := httptest.NewRequest(fmt.Sprintf("M%d", i), fmt.Sprintf("/v1/connections/canary%d?x=canary", i), nil)
		r.Host = fmt.Sprintf("canary%d.example:%d", i, 1000+i)
		r.Header.Set("User-Agent", fmt.Sprintf("canary%d", i))
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	series := func() int { return strings.Count(scrape(t, tel), "\nhttp_server_") }
	send(0)
	before := series()
	for i := range 1000 {
		send(i)
	}
	if after := series(); before == 0 || after != before {
		t.Errorf("%d series became %d", before, after)
	}
	text := scrape(t, tel)
	if strings.Contains(text, "canary") {
		t.Error("a request's own text is in a label")
	}
	if !strings.Contains(text, `http_route="/v1/connections/:id"`) || !strings.Contains(text, "go_goroutines") {
		t.Error("/metrics lacks the route or the runtime")
	}
}

// collector is an OTLP endpoint.
type collector struct {
	*httptest.Server
	mu       sync.Mutex
	received map[string][]byte
}

func newCollector(t *testing.T) *collector {
	c := &collector{received: map[string][]byte{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(r.Body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzipped
		}
		data, _ := io.ReadAll(body)
		c.mu.Lock()
		c.received[r.URL.Path] = append(c.received[r.URL.Path], data...)
		c.mu.Unlock()
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

// TestExport sends everything that could hold a secret through the exporters and looks at what arrives (threat 25).
func TestExport(t *testing.T) {
	c := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	tel, err := startTelemetry(t.Context(), telemetryConfig{Lookup: os.LookupEnv, Log: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	h := tel.instrument(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Pattern = "GET /connect/:link"
		span := trace.SpanFromContext(r.Context())
		span.RecordError(errors.New("canary in an error"), trace.WithAttributes(attribute.String("redis.statement", "SET canary")))
		span.SetStatus(codes.Error, "canary: in a status")
		span.SetAttributes(attribute.String("db.query.text", "GET canary"), attribute.String("tokenbroker.connector", "files"))
		_, inner := otel.Tracer("test").Start(r.Context(), "inner", trace.WithLinks(trace.Link{
			SpanContext: span.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("url", "canary")},
		}))
		inner.End()
	}))
	r := httptest.NewRequest(http.MethodGet, "/connect/canary?code=canary", nil)
	r.Header.Set("X-Forwarded-For", "canary")
	r.Header.Set("User-Agent", "canary")
	r.Header.Set("Baggage", "user=canary")
	r.Host = "canary.example"
	h.ServeHTTP(httptest.NewRecorder(), r)
	if err := tel.shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, path := range []string{"/v1/traces", "/v1/metrics"} {
		if len(c.received[path]) == 0 {
			t.Errorf("nothing arrived at %s", path)
		}
		if bytes.Contains(c.received[path], []byte("canary")) {
			t.Errorf("%s got a canary: %q", path, c.received[path])
		}
	}
	for _, want := range []string{"GET /connect/:link", "inner", "tokenbroker.connector", "tokenbroker", "service.version"} {
		if !bytes.Contains(c.received["/v1/traces"], []byte(want)) {
			t.Errorf("traces lack %s", want)
		}
	}
}

func TestExporterChoice(t *testing.T) {
	for _, c := range []struct {
		variables map[string]string
		want      bool
		wrong     bool
	}{
		{nil, false, false},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, true, false},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, true, false},
		{map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x"}, false, false},
		{map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, true, false},
		{map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, false, false},
		{map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, false, true},
	} {
		got, err := exporterChoice(func(name string) (string, bool) { v, ok := c.variables[name]; return v, ok }, "TRACES")
		if got != c.want || (err != nil) != c.wrong {
			t.Errorf("%v: %v, %v", c.variables, got, err)
		}
	}
}

// TestTraceIDsWithoutExporter: audit events have a trace id even where nothing is exported.
func TestTraceIDsWithoutExporter(t *testing.T) {
	tel, err := startTelemetry(t.Context(), telemetryConfig{Lookup: noVariables, Log: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.shutdown(context.WithoutCancel(t.Context())) }()
	const parent = "4bf92f3577b34da6a3ce929d0e0e4736"
	for path, inherits := range map[string]bool{"/v1/tokens": true, "/connect/x": false} {
		var id string
		h := tel.instrument(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			id = trace.SpanContextFromContext(r.Context()).TraceID().String()
		}))
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Traceparent", "00-"+parent+"-00f067aa0ba902b7-01")
		h.ServeHTTP(httptest.NewRecorder(), r)
		if (id == parent) != inherits || id == "00000000000000000000000000000000" {
			t.Errorf("%s: trace id %s", path, id)
		}
	}
}

func TestLogLines(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(&out, slog.LevelInfo)
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	log.With("a", 1).WithGroup("g").InfoContext(ctx, "one\nline", "secret", broker.NewSecret("canary"), "nested", struct{ S broker.Secret }{broker.NewSecret("canary")},
		"error", fmt.Errorf("outer: %w", leaky{"canary"}), "bare", leaky{"canary"})
	log.Debug("not shown")
	text := out.String()
	if strings.Contains(text, "canary") || strings.Count(text, "\n") != 1 {
		t.Error(text)
	}
	for _, want := range []string{`"trace_id":"01000000000000000000000000000000"`, `"span_id":"0200000000000000"`, `"error":"outer: leaky"`, `"bare":"leaky"`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
}

// leaky is an error whose fields say more than its text.
type leaky struct{ Token string }

func (leaky) Error() string                  { return "leaky" }
func (l leaky) MarshalJSON() ([]byte, error) { return []byte(`"` + l.Token + `"`), nil }

// Threat 27: what any part of the program measures has the labels of the list and no others, so that neither names nor numbers of people come in.
func TestThreat27LabelsOfMeasurements(t *testing.T) {
	tel, err := startTelemetry(t.Context(), telemetryConfig{Lookup: noVariables, Log: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.shutdown(context.WithoutCancel(t.Context())) }()
	counter, err1 := otel.Meter("test").Int64Counter("tokenbroker.stray")
	histogram, err2 := otel.Meter("test").Float64Histogram("tokenbroker.stray.seconds")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		with := metric.WithAttributes(attribute.String("connector", "files"), attribute.String("subject", fmt.Sprint("canary ", i)), attribute.String("url.full", fmt.Sprint("canary ", i)), attribute.Int("tenant", i))
		counter.Add(t.Context(), 1, with)
		histogram.Record(t.Context(), 1, with)
	}
	text := scrape(t, tel)
	if strings.Contains(text, "canary") || strings.Contains(text, "tenant=") {
		t.Error("a label that is not on the list")
	}
	counted := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "tokenbroker_stray_total{") {
			counted++
			if !strings.Contains(line, `connector="files"`) || !strings.HasSuffix(strings.TrimSpace(line), " 500") {
				t.Errorf("%s", line)
			}
		}
	}
	if counted != 1 {
		t.Errorf("%d series of one counter", counted)
	}
}
