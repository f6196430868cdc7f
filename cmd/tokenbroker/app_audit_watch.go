package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"tokenbroker/vault"
)

// watchTrail makes gauges of how far checkpoints and old events have got. stop ends that.
func watchTrail(store *vault.Store, now func() time.Time) (stop func(), err error) {
	meter := otel.Meter("tokenbroker/cmd")
	age, err1 := meter.Float64ObservableGauge("tokenbroker.audit.checkpoint.age", metric.WithUnit("s"),
		metric.WithDescription("How old the newest checkpoint of this process is that the place has; it makes one each hour, and none before its first event."))
	unpublished, err2 := meter.Int64ObservableGauge("tokenbroker.audit.checkpoint.failing",
		metric.WithDescription("1 if the place did not take the last checkpoint that it was given, 0 if it did; signing: if the last one could not be made whole."))
	behind, err3 := meter.Float64ObservableGauge("tokenbroker.audit.retention.behind", metric.WithUnit("s"),
		metric.WithDescription("By how much the oldest event that is still there is older than those that are kept, which should be archived and dropped; 0 if there is none. Only the process that does it tells."))
	kept, err4 := meter.Int64ObservableGauge("tokenbroker.audit.retention.failing",
		metric.WithDescription("1 if old events could not be archived and dropped when that was tried last, 0 if they could. Only the process that does it tells."))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("make gauges of the audit trail: %w", err)
	}
	failing := func(err error) int64 {
		if err != nil {
			return 1
		}
		return 0
	}
	watching, err := meter.RegisterCallback(func(_ context.Context, to metric.Observer) error {
		places := store.Published()
		for _, p := range places {
			at := metric.WithAttributes(attribute.String("place", p.To))
			to.ObserveInt64(unpublished, failing(p.Failure), at)
			if !p.Last.IsZero() {
				to.ObserveFloat64(age, max(0, now().Sub(p.Last).Seconds()), at)
			}
		}
		if len(places) > 0 {
			to.ObserveInt64(unpublished, failing(store.SignFailure()), metric.WithAttributes(attribute.String("place", "signing")))
		}
		if r := store.Retained(); r.Mine {
			to.ObserveFloat64(behind, r.Behind.Seconds())
			to.ObserveInt64(kept, failing(r.Failure))
		}
		return nil
	}, age, unpublished, behind, kept)
	if err != nil {
		return nil, fmt.Errorf("watch the audit trail: %w", err)
	}
	return func() { _ = watching.Unregister() }, nil
}
