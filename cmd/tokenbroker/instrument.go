package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/httpconv"
	"go.opentelemetry.io/otel/trace"
)

// requestScope names this instrumentation in what is exported.
const requestScope = "tokenbroker/http"

// maxRequestSeries bounds what is remembered of the label sets of requests: as many as the SDK keeps series of each kind.
const maxRequestSeries = 2000

// instrumented is the handler around all others: a span and the standard measurements for every request, of the semantic
// conventions for HTTP servers. It is what otelhttp does, less what the allow-list of telemetry_scrub.go would drop again, and
// with the label sets made once instead of three times a request (broker/decisions/0026-lean-requests.md).
type instrumented struct {
	*requestTelemetry
	next http.Handler
}

// requestTelemetry is what requests are measured with.
type requestTelemetry struct {
	// Options of spans: of requests that may continue the caller's trace, and of those that begin one.
	inner, root  []trace.SpanStartOption
	tracer       trace.Tracer
	duration     metric.Float64Histogram
	requestSize  metric.Int64Histogram
	responseSize metric.Int64Histogram

	series atomic.Pointer[map[requestSeries][]metric.RecordOption] // replaced as a whole
	adding sync.Mutex
}

// requestSeries is what the labels of a request are made from. Each part has few values: net/http takes ten versions of HTTP/1,
// and routes are templates.
type requestSeries struct {
	method, route, version string
	status                 int
	tls                    bool
}

func newRequestTelemetry(tracers trace.TracerProvider, meters metric.MeterProvider) (*requestTelemetry, error) {
	meter, server := meters.Meter(requestScope), trace.WithSpanKind(trace.SpanKindServer)
	h := &requestTelemetry{
		tracer: tracers.Tracer(requestScope),
		inner:  []trace.SpanStartOption{server}, root: []trace.SpanStartOption{server, trace.WithNewRoot()},
	}
	duration, err := httpconv.NewServerRequestDuration(meter,
		metric.WithExplicitBucketBoundaries(.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10))
	if err != nil {
		return nil, fmt.Errorf("make a histogram: %w", err)
	}
	requestSize, err := httpconv.NewServerRequestBodySize(meter)
	if err != nil {
		return nil, fmt.Errorf("make a histogram: %w", err)
	}
	responseSize, err := httpconv.NewServerResponseBodySize(meter)
	if err != nil {
		return nil, fmt.Errorf("make a histogram: %w", err)
	}
	h.duration, h.requestSize, h.responseSize = duration.Inst(), requestSize.Inst(), responseSize.Inst()
	h.series.Store(&map[requestSeries][]metric.RecordOption{})
	return h, nil
}

// ServeHTTP implements http.Handler. The span gets its name from the route that the router sets on the request
// (http.Request.Pattern), never from the path: paths hold links and subjects.
func (h instrumented) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	ctx, options := r.Context(), h.inner
	if _, traced := r.Header["Traceparent"]; traced {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	}
	// Only backends with an API key may put requests into their own traces; a browser's header makes a link.
	if !strings.HasPrefix(r.URL.Path, "/v1/") {
		options = h.root
		if caller := trace.SpanContextFromContext(ctx); caller.IsValid() && caller.IsRemote() {
			options = append(options[:len(options):len(options)], trace.WithLinks(trace.Link{SpanContext: caller}))
		}
	}
	ctx, span := h.tracer.Start(ctx, "request", options...)
	defer span.End()

	x := &observed{answer: observedAnswer{ResponseWriter: w}}
	if r.Body != nil && r.Body != http.NoBody {
		// Given back at the end: net/http looks at the type of its own.
		x.body.ReadCloser = r.Body
		r.Body = &x.body
		defer func() { r.Body = x.body.ReadCloser }()
	}
	in := r.WithContext(ctx)
	h.next.ServeHTTP(&x.answer, in)
	if in.MultipartForm != nil {
		r.MultipartForm = in.MultipartForm // net/http removes its files
	}

	key := requestSeries{method: measuredMethod(r.Method), version: strings.TrimPrefix(r.Proto, "HTTP/"), status: x.answer.result(), tls: r.TLS != nil}
	if slash := strings.IndexByte(in.Pattern, '/'); slash >= 0 {
		key.route = in.Pattern[slash:]
	}
	read, written := x.body.read.Load(), x.answer.written.Load()
	if span.IsRecording() {
		h.describe(span, in, key, read, written)
	}
	labels := h.labels(key)
	h.requestSize.Record(ctx, read, labels...)
	h.responseSize.Record(ctx, written, labels...)
	h.duration.Record(ctx, time.Since(began).Seconds(), labels...)
}

// describe tells the span how the request ended.
func (h *requestTelemetry) describe(span trace.Span, in *http.Request, key requestSeries, read, written int64) {
	if in.Pattern != "" {
		span.SetName(in.Pattern)
	}
	if key.status < 100 || key.status >= 500 {
		span.SetStatus(codes.Error, "")
	}
	attributes := key.attributes()
	if read > 0 {
		attributes = append(attributes, semconv.HTTPRequestBodySize(int(read)))
	}
	if written > 0 {
		attributes = append(attributes, semconv.HTTPResponseBodySize(int(written)))
	}
	span.SetAttributes(attributes...)
}

// attributes are those of the request, but its route: a span has that in its name, and the API's as an attribute too.
func (k requestSeries) attributes() []attribute.KeyValue {
	scheme := "http"
	if k.tls {
		scheme = "https"
	}
	all := []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(k.method), semconv.URLScheme(scheme), semconv.HTTPResponseStatusCode(k.status)}
	if k.version != "" {
		all = append(all, semconv.NetworkProtocolVersion(k.version))
	}
	return all
}

// labels returns the measurement options of a series, which are made once.
func (h *requestTelemetry) labels(key requestSeries) []metric.RecordOption {
	if labels, known := (*h.series.Load())[key]; known {
		return labels
	}
	attributes := key.attributes()
	if key.route != "" {
		attributes = append(attributes, semconv.HTTPRoute(key.route))
	}
	labels := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(attributes...))}
	h.adding.Lock()
	defer h.adding.Unlock()
	if known := *h.series.Load(); len(known) < maxRequestSeries {
		more := maps.Clone(known)
		more[key] = labels
		h.series.Store(&more)
	}
	return labels
}

// measuredMethod keeps the number of methods bounded.
func measuredMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodOptions, http.MethodTrace, http.MethodConnect:
		return method
	}
	if upper := strings.ToUpper(method); upper != method {
		return measuredMethod(upper)
	}
	return "_OTHER"
}

// observed is one request's body and answer, as they pass. A handler may write from several goroutines.
type observed struct {
	answer observedAnswer
	body   observedBody
}

type observedAnswer struct {
	http.ResponseWriter
	status  atomic.Int32 // 0: no header was written
	written atomic.Int64
}

// result is the status of the answer; net/http writes 200 where the handler writes nothing.
func (a *observedAnswer) result() int {
	if status := int(a.status.Load()); status != 0 {
		return status
	}
	return http.StatusOK
}

// WriteHeader implements http.ResponseWriter. What comes before the answer (1xx) is not it.
func (a *observedAnswer) WriteHeader(status int) {
	if status < 100 || status > 199 || status == http.StatusSwitchingProtocols {
		a.status.CompareAndSwap(0, int32(status))
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *observedAnswer) Write(p []byte) (int, error) {
	a.status.CompareAndSwap(0, http.StatusOK)
	n, err := a.ResponseWriter.Write(p)
	a.written.Add(int64(n))
	return n, err
}

// Flush implements http.Flusher.
func (a *observedAnswer) Flush() {
	a.status.CompareAndSwap(0, http.StatusOK)
	if f, ok := a.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap lets http.ResponseController reach deadlines.
func (a *observedAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

type observedBody struct {
	io.ReadCloser
	read atomic.Int64
}

func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	return n, err
}
