package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// telemetryConfig is what startTelemetry needs.
type telemetryConfig struct {
	// Lookup reads the standard OTEL_ variables that choose exporters; the exporters read their own from the process.
	Lookup func(string) (string, bool)
	Log    *slog.Logger
}

// telemetry is the OpenTelemetry SDK, set up. Metrics are on /metrics always; traces and metrics go out by OTLP over HTTP
// only where the standard variables say so (OpenTelemetry specification, "Environment Variable Specification").
type telemetry struct {
	registry *prometheus.Registry
	tracer   *sdktrace.TracerProvider
	meter    *sdkmetric.MeterProvider
	requests *requestTelemetry
}

// startTelemetry sets the global providers, through which the packages record.
func startTelemetry(ctx context.Context, cfg telemetryConfig) (*telemetry, error) {
	disabled, _ := cfg.Lookup("OTEL_SDK_DISABLED")
	off := strings.EqualFold(disabled, "true")
	traces, err := exporterChoice(cfg.Lookup, "TRACES")
	if err != nil {
		return nil, err
	}
	metrics, err := exporterChoice(cfg.Lookup, "METRICS")
	if err != nil {
		return nil, err
	}
	v, _ := buildVersion()
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "tokenbroker"), attribute.String("service.version", v)),
		resource.WithFromEnv(), // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	)
	if err != nil {
		return nil, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}

	// Without an exporter spans are still made: their trace ids stand in audit events, answers and logs. Nothing is written down
	// in them then, as nobody would read it.
	tracing := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	if !traces || off {
		tracing = append(tracing, sdktrace.WithSampler(sdktrace.NeverSample()))
	} else {
		exporter, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("set up the export of traces: %w", err)
		}
		tracing = append(tracing, sdktrace.WithBatcher(scrubbingExporter{exporter}))
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	scraped, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("set up /metrics: %w", err)
	}
	metering := []sdkmetric.Option{
		sdkmetric.WithResource(res), sdkmetric.WithReader(scraped),
		// Labels are an allow-list, so that nothing a stranger sends (a Host header, a path) can become a series.
		sdkmetric.WithView(sdkmetric.NewView(sdkmetric.Instrument{Name: "*"}, sdkmetric.Stream{AttributeFilter: exported})),
		sdkmetric.WithCardinalityLimit(2000),
		// Exemplars would carry the labels that the view drops.
		sdkmetric.WithExemplarFilter(exemplar.AlwaysOffFilter),
	}
	if metrics && !off {
		exporter, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("set up the export of metrics: %w", err)
		}
		metering = append(metering, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exporter)))
	}

	t := &telemetry{registry: registry, tracer: sdktrace.NewTracerProvider(tracing...), meter: sdkmetric.NewMeterProvider(metering...)}
	if t.requests, err = newRequestTelemetry(t.tracer, t.meter); err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { cfg.Log.Warn("telemetry", "error", err) }))
	otel.SetTracerProvider(t.tracer)
	otel.SetMeterProvider(t.meter)
	otel.SetTextMapPropagator(propagation.TraceContext{}) // no baggage: it would carry a caller's values onwards
	return t, nil
}

// exporterChoice tells whether a signal is exported by OTLP. Unset, it is where an endpoint is named.
func exporterChoice(lookup func(string) (string, bool), signal string) (bool, error) {
	name := "OTEL_" + signal + "_EXPORTER"
	choice, _ := lookup(name)
	switch choice {
	case "otlp":
		return true, nil
	case "none":
		return false, nil
	case "":
		common, _ := lookup("OTEL_EXPORTER_OTLP_ENDPOINT")
		own, _ := lookup("OTEL_EXPORTER_OTLP_" + signal + "_ENDPOINT")
		return common != "" || own != "", nil
	case "prometheus":
		if signal == "METRICS" {
			return false, nil // always on
		}
	}
	return false, fmt.Errorf("%s must be otlp or none; set one of them", name)
}

// shutdown exports what is left.
func (t *telemetry) shutdown(ctx context.Context) error {
	return errors.Join(t.tracer.Shutdown(ctx), t.meter.Shutdown(ctx))
}

// endTelemetry is shutdown with a deadline of its own: a collector that is away must not hold up the end.
func endTelemetry(ctx context.Context, t *telemetry, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := t.shutdown(ctx); err != nil {
		log.Warn("the last telemetry could not be sent", "error", err)
	}
}

// handler serves the metrics.
func (t *telemetry) handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// instrument makes a span and the standard measurements for every request.
func (t *telemetry) instrument(next http.Handler) http.Handler {
	return instrumented{requestTelemetry: t.requests, next: next}
}
