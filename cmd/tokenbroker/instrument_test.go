package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

// instrumentation is one way to measure requests, and what came of it.
type instrumentation struct {
	spans    *tracetest.InMemoryExporter
	tracers  *sdktrace.TracerProvider
	meters   *sdkmetric.MeterProvider
	registry *prometheus.Registry
	handler  http.Handler
}

func newInstrumentation(t *testing.T, wrap func(*instrumentation) http.Handler) *instrumentation {
	t.Helper()
	i := &instrumentation{spans: tracetest.NewInMemoryExporter(), registry: prometheus.NewRegistry()}
	i.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(scrubbingExporter{i.spans}), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(i.registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		t.Fatal(err)
	}
	i.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(scraped), sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter),
		sdkmetric.WithView(sdkmetric.NewView(sdkmetric.Instrument{Name: "*"}, sdkmetric.Stream{AttributeFilter: exported})))
	i.handler = wrap(i)
	return i
}

// seen are the spans and the metrics, without ids and times.
func (i *instrumentation) seen(t *testing.T) (spans []string, metrics string) {
	t.Helper()
	for _, s := range i.spans.GetSpans() {
		var attributes []string
		for _, kv := range s.Attributes {
			attributes = append(attributes, string(kv.Key)+"="+kv.Value.String())
		}
		slices.Sort(attributes)
		spans = append(spans, fmt.Sprintf("%s %s %v remote=%v parent=%s links=%d %v", s.Name, s.SpanKind, s.Status, s.Parent.IsRemote(), s.Parent.SpanID(), len(s.Links), attributes))
	}
	recorder := httptest.NewRecorder()
	promhttp.HandlerFor(i.registry, promhttp.HandlerOpts{}).ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if recorder.Code != http.StatusOK {
		t.Fatal(recorder.Body)
	}
	// How long a request took differs: of durations the counts are compared.
	text := regexp.MustCompile(`(?m)^http_server_request_duration_seconds_(bucket|sum).*\n`).ReplaceAllString(recorder.Body.String(), "")
	return spans, text
}

// TestInstrumentedAsOtelhttp: what is measured and exported is to the letter what otelhttp measures, behind the allow-list.
func TestInstrumentedAsOtelhttp(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Pattern = r.Header.Get("X-Pattern")
		switch r.Header.Get("X-Do") {
		case "nothing":
		case "stream":
			for range 3 {
				_, _ = io.WriteString(w, "a line\n")
				if err := http.NewResponseController(w).Flush(); err != nil {
					t.Error(err)
				}
			}
		case "hint":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusTeapot)
		case "twice":
			w.WriteHeader(http.StatusBadGateway)
			w.WriteHeader(http.StatusOK)
		case "invalid":
			w.WriteHeader(999)
		default:
			_, _ = io.Copy(w, r.Body)
		}
	})
	ours := newInstrumentation(t, func(i *instrumentation) http.Handler {
		requests, err := newRequestTelemetry(i.tracers, i.meters)
		if err != nil {
			t.Fatal(err)
		}
		return instrumented{requestTelemetry: requests, next: handler}
	})
	theirs := newInstrumentation(t, func(i *instrumentation) http.Handler {
		return otelhttp.NewHandler(handler, "request", otelhttp.WithTracerProvider(i.tracers), otelhttp.WithMeterProvider(i.meters), otelhttp.WithPropagators(propagation.TraceContext{}),
			otelhttp.WithSpanNameFormatter(func(operation string, r *http.Request) string {
				if r.Pattern == "" {
					return operation
				}
				return r.Pattern
			}),
			otelhttp.WithPublicEndpointFn(func(r *http.Request) bool { return !strings.HasPrefix(r.URL.Path, "/v1/") }))
	})
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	n := 0
	for _, method := range []string{"GET", "POST", "DELETE", "get", "BREW", "PATCH"} {
		for _, path := range []string{"/v1/tokens", "/connect/canary"} {
			for _, do := range []string{"", "nothing", "stream", "hint", "twice", "invalid"} {
				for _, traced := range []string{"", parent, "garbage"} {
					n++
					for _, i := range []*instrumentation{ours, theirs} {
						var body io.Reader
						if n%3 != 0 {
							body = strings.NewReader(strings.Repeat("x", n))
						}
						r := httptest.NewRequest(method, path, body)
						r.Host = fmt.Sprintf("canary.example:%d", 1000+n)
						if n%5 == 0 {
							r.Proto = "HTTP/1.0"
						}
						r.Header.Set("X-Do", do)
						r.Header.Set("X-Pattern", []string{"POST /v1/tokens", "GET unmatched", "", "GET /connect/:link"}[n%4])
						if traced != "" {
							r.Header.Set("Traceparent", traced)
						}
						before := r.Body
						i.handler.ServeHTTP(httptest.NewRecorder(), r)
						if r.Body != before {
							t.Error("the body was not given back")
						}
					}
				}
			}
		}
	}
	spans, metrics := ours.seen(t)
	wantSpans, wantMetrics := theirs.seen(t)
	if diff := cmp.Diff(wantSpans, spans); diff != "" || len(spans) != n {
		t.Errorf("spans differ (- otelhttp):\n%s", diff)
	}
	if diff := cmp.Diff(wantMetrics, metrics); diff != "" || !strings.Contains(metrics, "http_server_request_body_size_bytes_sum") {
		t.Errorf("metrics differ (- otelhttp):\n%s", diff)
	}
}

// TestSpansWithoutExporter: nothing is written down in spans that nobody gets, and their ids are there and differ.
func TestSpansWithoutExporter(t *testing.T) {
	tel, err := startTelemetry(t.Context(), telemetryConfig{Lookup: noVariables, Log: quietLog()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tel.shutdown(context.WithoutCancel(t.Context())) }()
	ids := map[trace.TraceID]bool{}
	h := tel.instrument(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		span := trace.SpanFromContext(r.Context())
		if span.IsRecording() || !span.SpanContext().IsValid() {
			t.Errorf("recording %v, context %v", span.IsRecording(), span.SpanContext())
		}
		ids[span.SpanContext().TraceID()] = true
	}))
	for range 10 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/tokens", nil))
	}
	if len(ids) != 10 {
		t.Errorf("%d trace ids of 10 requests", len(ids))
	}
}
