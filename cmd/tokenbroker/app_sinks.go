package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"tokenbroker/broker"
	"tokenbroker/providers"
	"tokenbroker/vault"
	"tokenbroker/vault/sinks"
)

// requiredPatience bounds a write to a required sink. Whoever waits for it has a deadline of his own: 250 ms with what the store took.
const requiredPatience = 250 * time.Millisecond

// auditSinks are the places that get each event.
type auditSinks struct {
	places []place
	gate   *sinkGate // nil: none is required
}

// place is one of them.
type place interface {
	vault.SinkWriter
	Close() error
}

// open makes them. It writes nothing.
func (c AuditConfig) open() (*auditSinks, error) {
	a := &auditSinks{}
	for _, cfg := range c.Sinks {
		to, err := cfg.open()
		if err != nil {
			return nil, err
		}
		a.places = append(a.places, to)
		if cfg.Required {
			if a.gate == nil {
				a.gate = &sinkGate{}
			}
			a.gate.required = append(a.gate.required, sinks.NewGroup(to, requiredPatience))
		}
	}
	return a, nil
}

func (c SinkConfig) open() (place, error) {
	switch c.Kind {
	case sinkFile:
		return sinks.NewFile(c.Address.Reveal()), nil
	case sinkWebhook:
		return sinks.NewWebhook(c.Address.Reveal(), providers.NewOutbound(nil))
	case sinkOTLP:
		return sinks.NewOTLP(c.Address.Reveal(), providers.NewOutbound(nil))
	case sinkSyslog:
		return sinks.NewSyslog(c.Network, c.Address.Reveal()), nil
	}
	return nil, fmt.Errorf("audit.sinks: unknown kind %q", c.Kind)
}

// of is what the store delivers to.
func (a *auditSinks) of(configs []SinkConfig) []vault.Sink {
	var out []vault.Sink
	for i, c := range configs {
		out = append(out, vault.Sink{ID: c.Kind + " " + c.Network + " " + c.Address.Reveal(), To: a.places[i], Released: c.Required})
	}
	return out
}

func (a *auditSinks) close() {
	if a.gate != nil {
		for _, to := range a.gate.required {
			to.Close()
		}
	}
	for _, to := range a.places {
		_ = to.Close() // what was accepted is there
	}
}

// sinkGate keeps a token until all required sinks have its events.
type sinkGate struct{ required []*sinks.Group }

// pass returns without an error when they have them.
func (g *sinkGate) pass(ctx context.Context, entry broker.Entry) error {
	var lines [][]byte
	for _, event := range entry.Events() {
		line, err := event.Line()
		if err != nil {
			return err
		}
		lines = append(lines, line)
	}
	if len(g.required) == 1 {
		return g.required[0].Accept(ctx, lines)
	}
	errs := make([]error, len(g.required))
	var all sync.WaitGroup
	for i, to := range g.required {
		all.Go(func() { errs[i] = to.Accept(ctx, lines) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// guard puts the gate before both ways by which a token leaves the store; without one they stay what they are.
func (g *sinkGate) guard(conns broker.Connections, guesses broker.Guesses) (broker.Connections, broker.Guesses) {
	if g == nil {
		return conns, guesses
	}
	return gatedConnections{conns, g}, gatedGuesses{guesses, g}
}

type gatedConnections struct {
	broker.Connections
	gate *sinkGate
}

// Release implements broker.Connections.
func (c gatedConnections) Release(ctx context.Context, conn broker.Connection, tokenKey string, entry broker.Entry) (broker.Secret, error) {
	secret, err := c.Connections.Release(ctx, conn, tokenKey, entry)
	if err != nil {
		return broker.Secret{}, err
	}
	if err := c.gate.pass(ctx, entry); err != nil {
		return broker.Secret{}, fmt.Errorf("release token: required sink: %w", err)
	}
	return secret, nil
}

type gatedGuesses struct {
	broker.Guesses
	gate *sinkGate
}

// ReleaseGuessed implements broker.Guesses.
func (c gatedGuesses) ReleaseGuessed(ctx context.Context, guess broker.Guess, entry broker.Entry) (broker.Connection, broker.Secret, error) {
	conn, secret, err := c.Guesses.ReleaseGuessed(ctx, guess, entry)
	if err != nil {
		return broker.Connection{}, broker.Secret{}, err
	}
	if err := c.gate.pass(ctx, entry); err != nil {
		return broker.Connection{}, broker.Secret{}, fmt.Errorf("release token: required sink: %w", err)
	}
	return conn, secret, nil
}

// failing tells which required sinks did not take what they were given last.
func (g *sinkGate) failing() []error {
	if g == nil {
		return nil
	}
	var out []error
	for _, to := range g.required {
		if err := to.Failing(); err != nil {
			out = append(out, err)
		}
	}
	return out
}

// watchSinks makes gauges of how far events have got. stop ends that.
func watchSinks(store *vault.Store, gate *sinkGate, now func() time.Time) (stop func(), err error) {
	meter := otel.Meter("tokenbroker/cmd")
	lag, err1 := meter.Float64ObservableGauge("tokenbroker.audit.sink.lag", metric.WithUnit("s"),
		metric.WithDescription("How old the oldest event is that is known not to be at the sink yet; 0 if there is none. Only the process that delivers to it tells."))
	failing, err2 := meter.Int64ObservableGauge("tokenbroker.audit.sink.failing",
		metric.WithDescription("1 if the sink did not take what it was given last, 0 if it did; required: of events without which no token is handed out."))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("make gauges of the sinks: %w", err)
	}
	watching, err := meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		type place struct {
			name     string
			required bool
		}
		lags, fails := map[string]float64{}, map[place]int64{} // the worst of those that have one name
		observe := func(name string, required bool, err error) {
			n := int64(0)
			if err != nil {
				n = 1
			}
			of := place{name, required}
			fails[of] = max(fails[of], n)
		}
		for _, d := range store.Delivered() {
			if !d.Mine {
				continue
			}
			age := 0.0
			if !d.Behind.IsZero() {
				age = max(0, now().Sub(d.Behind).Seconds())
			}
			lags[d.To] = max(lags[d.To], age)
			observe(d.To, false, d.Failure)
		}
		if gate != nil {
			for _, g := range gate.required {
				observe(g.Name(), true, g.Failing())
			}
		}
		for name, age := range lags {
			to.ObserveFloat64(lag, age, metric.WithAttributes(attribute.String("sink", name)))
		}
		for of, n := range fails {
			to.ObserveInt64(failing, n, metric.WithAttributes(attribute.String("sink", of.name), attribute.Bool("required", of.required)))
		}
		return nil
	}, lag, failing)
	if err != nil {
		return nil, fmt.Errorf("watch the sinks: %w", err)
	}
	return func() { _ = watching.Unregister() }, nil
}
