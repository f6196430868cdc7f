package providers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"tokenbroker/broker"
)

const scopeName = "tokenbroker/providers"

// telemetry records each operation with ids from the configuration and fixed words only: no URL, no scope, no account.
type telemetry struct {
	tracer   trace.Tracer
	duration metric.Float64Histogram
}

func newTelemetry() (*telemetry, error) {
	h, err := otel.Meter(scopeName).Float64Histogram("tokenbroker.provider.request.duration",
		metric.WithUnit("s"),
		metric.WithDescription("How long operations at providers take, by provider, operation and outcome"),
		metric.WithExplicitBucketBoundaries(0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30))
	if err != nil {
		return nil, fmt.Errorf("make provider histogram: %w", err)
	}
	return &telemetry{tracer: otel.Tracer(scopeName), duration: h}, nil
}

// start begins the span of an operation; call done with its result.
func (t *telemetry) start(ctx context.Context, s *server, operation string) (context.Context, func(error)) {
	began := time.Now() // a duration, not a moment: the injected clock may stand still
	provider, op := attribute.String("tokenbroker.provider", s.def.ID), attribute.String("tokenbroker.operation", operation)
	ctx, span := t.tracer.Start(ctx, "provider "+operation, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(provider, op, attribute.String("tokenbroker.connector", s.id)))
	return ctx, func(err error) {
		outcome := "ok"
		var u *broker.UpstreamError
		switch {
		case errors.Is(err, broker.ErrRevokeUnsupported):
			outcome = "unsupported"
		case errors.Is(err, broker.ErrDevicePending), errors.Is(err, broker.ErrDeviceTooFast):
			outcome = "pending" // nothing is wrong
		case errors.As(err, &u):
			outcome = string(u.Class)
			if u.Status != 0 {
				span.SetAttributes(attribute.Int("http.response.status_code", u.Status))
			}
			span.SetStatus(codes.Error, outcome)
		case err != nil:
			outcome = "error"
			span.SetStatus(codes.Error, outcome)
		}
		out := attribute.String("tokenbroker.outcome", outcome)
		span.SetAttributes(out)
		span.End()
		t.duration.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(provider, op, out))
	}
}
