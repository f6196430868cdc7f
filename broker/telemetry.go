package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
)

const scopeName = "tokenbroker/broker"

// telemetry is the OpenTelemetry side of the use cases. Attributes come from the configuration (connector ids) and from
// our own lists (codes) alone: no subject, no secret, nothing that a caller could make many of (threats 25 and 27).
type telemetry struct {
	tracer    trace.Tracer
	served    *servedLabels
	known     func(connector string) bool
	tokens    metric.Int64Counter
	refreshes metric.Int64Counter
	duration  metric.Float64Histogram
	consents  metric.Int64Counter
	circuits  metric.Int64Counter
	grants    metric.Int64Counter
	followers metric.Int64UpDownCounter
	limits    metric.Int64Counter
}

func newTelemetry(known func(string) bool) (telemetry, error) {
	meter := otel.Meter(scopeName)
	t := telemetry{tracer: otel.Tracer(scopeName), served: &servedLabels{}, known: known}
	var err error
	if t.tokens, err = meter.Int64Counter("tokenbroker.token.requests", metric.WithDescription("Token requests by outcome.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	if t.refreshes, err = meter.Int64Counter("tokenbroker.refreshes", metric.WithDescription("Refreshes of grants at providers by outcome.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	if t.duration, err = meter.Float64Histogram("tokenbroker.refresh.duration", metric.WithUnit("s"),
		metric.WithDescription("Time of a refresh, from the first look at the record to the stored result."),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60)); err != nil {
		return t, fmt.Errorf("make a histogram: %w", err)
	}
	if t.consents, err = meter.Int64Counter("tokenbroker.consents", metric.WithDescription("Consents by the status they reached.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	if t.circuits, err = meter.Int64Counter("tokenbroker.provider.circuit", metric.WithDescription("Changes of a provider's circuit: opened when it fails for several grants in a row, closed when it is at work again.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	if t.followers, err = meter.Int64UpDownCounter("tokenbroker.consent.followers", metric.WithDescription("Calls that wait for the status of a consent; 1000 at most.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	if t.limits, err = meter.Int64Counter("tokenbroker.limit.refused", metric.WithDescription("Requests that a limit refused, by limit.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	for _, kind := range limitKinds {
		t.limits.Add(context.Background(), 0, metric.WithAttributes(attribute.String("limit", string(kind)))) // an alert on its growth needs a beginning
	}
	if t.grants, err = meter.Int64Counter("tokenbroker.grants.ended", metric.WithDescription("Grants found to be over at a refresh, so that their users must consent again, by reason.")); err != nil {
		return t, fmt.Errorf("make a counter: %w", err)
	}
	return t, nil
}

func (t telemetry) connector(id string) attribute.KeyValue {
	return attribute.String("connector", t.label(id))
}

// label is what the connector is called in labels.
func (t telemetry) label(id string) string {
	switch {
	case madeByTenant(id):
		return "tenant" // one of those that tenants made, who make as many as they like
	case !t.known(id):
		return "unknown" // what a caller made up must not become a label
	}
	return id
}

// servedLabels are the labels of tokens that were handed out, made once for each connector's label.
type servedLabels struct {
	made   atomic.Pointer[map[string][]metric.AddOption] // replaced as a whole
	adding sync.Mutex
}

func (l *servedLabels) of(label string) []metric.AddOption {
	if made := l.made.Load(); made != nil {
		if options, ok := (*made)[label]; ok {
			return options
		}
	}
	l.adding.Lock()
	defer l.adding.Unlock()
	more := map[string][]metric.AddOption{}
	if made := l.made.Load(); made != nil {
		more = maps.Clone(*made)
	}
	more[label] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("connector", label), attribute.String("outcome", outcomeOf(nil))))}
	l.made.Store(&more)
	return more[label]
}

// begin starts a span; the returned function ends it with the outcome's code. Within a request that is not recorded there is none:
// nothing in it would be either.
func (t telemetry) begin(ctx context.Context, name, connector string) (context.Context, func(error)) {
	if around := trace.SpanFromContext(ctx); !around.IsRecording() && around.SpanContext().IsValid() && !around.SpanContext().IsRemote() {
		return ctx, func(error) {}
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithAttributes(t.connector(connector)))
	return ctx, func(err error) {
		outcome := outcomeOf(err)
		span.SetAttributes(attribute.String("outcome", outcome))
		if err != nil && !errors.Is(err, ErrConflict) && isFault(CodeOf(err)) {
			span.SetStatus(codes.Error, outcome)
		}
		span.End()
	}
}

func (t telemetry) tokenAnswered(ctx context.Context, connector string, err error) {
	if err == nil {
		t.tokens.Add(ctx, 1, t.served.of(t.label(connector))...)
		return
	}
	t.tokens.Add(ctx, 1, metric.WithAttributes(t.connector(connector), attribute.String("outcome", outcomeOf(err))))
}

func (t telemetry) refreshed(ctx context.Context, connector string, took time.Duration, err error) {
	attributes := metric.WithAttributes(t.connector(connector), attribute.String("outcome", outcomeOf(err)))
	t.refreshes.Add(ctx, 1, attributes)
	t.duration.Record(ctx, took.Seconds(), attributes)
}

func (t telemetry) circuit(ctx context.Context, connector string, why trouble, change string) {
	t.circuits.Add(ctx, 1, metric.WithAttributes(t.connector(connector), attribute.String("trouble", troubles[why].name), attribute.String("change", change)))
}

// ended counts a grant that is over; reason is one of Connection.Error's codes.
func (t telemetry) ended(ctx context.Context, connector, reason string) {
	t.grants.Add(ctx, 1, metric.WithAttributes(t.connector(connector), attribute.String("reason", reason)))
}

// watchCircuits shows which circuits are open, for each configured connector, until stop is called.
func watchCircuits(connectors Connectors, open func(connector string, why trouble) bool) (stop func() error, err error) {
	meter := otel.Meter(scopeName)
	gauge, err := meter.Int64ObservableGauge("tokenbroker.provider.circuit.open",
		metric.WithDescription("1 while refreshes of a connector pause because its provider fails for several grants, by trouble; else 0."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	watch, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, c := range connectors.All() {
			if madeByTenant(c.ID) {
				continue // tenants make as many as they like: no labels of theirs
			}
			for why, terms := range troubles {
				value := int64(0)
				if open(c.ID, trouble(why)) {
					value = 1
				}
				o.ObserveInt64(gauge, value, metric.WithAttributes(attribute.String("connector", c.ID), attribute.String("trouble", terms.name)))
			}
		}
		return nil
	}, gauge)
	if err != nil {
		return nil, fmt.Errorf("watch a gauge: %w", err)
	}
	return watch.Unregister, nil
}

// watchLanes shows how full the lanes of configured connectors are, until stop is called.
func watchLanes(connectors Connectors, load func(connector string) (running, waiting int)) (stop func() error, err error) {
	meter := otel.Meter(scopeName)
	gauge, err := meter.Int64ObservableGauge("tokenbroker.provider.lane",
		metric.WithDescription("Refreshes of a connector's OAuth client that are under way at its provider (running) or wait for their turn (waiting)."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	watch, err := meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, c := range connectors.All() {
			if madeByTenant(c.ID) {
				continue
			}
			running, waiting := load(c.ID)
			o.ObserveInt64(gauge, int64(running), metric.WithAttributes(attribute.String("connector", c.ID), attribute.String("state", "running")))
			o.ObserveInt64(gauge, int64(waiting), metric.WithAttributes(attribute.String("connector", c.ID), attribute.String("state", "waiting")))
		}
		return nil
	}, gauge)
	if err != nil {
		return nil, fmt.Errorf("watch a gauge: %w", err)
	}
	return watch.Unregister, nil
}

func (t telemetry) consent(ctx context.Context, connector string, status ConsentStatus) {
	t.consents.Add(ctx, 1, metric.WithAttributes(t.connector(connector), attribute.String("status", string(status))))
}

// limited counts what a limit refused. Who it was is for the trail: labels are of our own list alone.
func (t telemetry) limited(ctx context.Context, limit limitKind) {
	t.limits.Add(ctx, 1, metric.WithAttributes(attribute.String("limit", string(limit))))
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, ErrConflict):
		return string(ConnectionNeedsConsent) // the grant is over, or the user disconnected: an outcome, no fault
	}
	return string(CodeOf(err))
}

// isFault tells the codes that are somebody's fault from those that are an answer.
func isFault(code Code) bool {
	switch code {
	case CodeServerError, CodeTemporarilyUnavailable, CodeProviderUnavailable, CodeProviderMisconfigured:
		return true
	}
	return false
}
