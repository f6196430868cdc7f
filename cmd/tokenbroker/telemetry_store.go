package main

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"tokenbroker/vault"
)

// newStoreCounter counts what an operator must know of the store: acknowledged writes that it lost and that were written
// back, and writes that too few replicas confirmed.
func newStoreCounter() (func(vault.Counted), error) {
	counter, err := otel.Meter("tokenbroker/cmd").Int64Counter("tokenbroker.store.events",
		metric.WithDescription("What happened to the store: healed, an acknowledged write that it had lost was written back; unconfirmed, a write that too few replicas confirmed in time."))
	if err != nil {
		return nil, fmt.Errorf("make a counter: %w", err)
	}
	return func(what vault.Counted) {
		counter.Add(context.Background(), 1, metric.WithAttributes(attribute.String("event", string(what))))
	}, nil
}
