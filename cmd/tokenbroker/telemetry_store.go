package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"tokenbroker/vault"
)

// newStoreCounter counts what an operator must know of the store: acknowledged writes that it lost and that were written
// back, writes that too few replicas confirmed, and tokens that the spool could not keep.
func newStoreCounter() (func(vault.Counted), error) {
	counter, err := otel.Meter("tokenbroker/cmd").Int64Counter("tokenbroker.store.events",
		metric.WithDescription("What happened to the store: healed, an acknowledged write that it had lost was written back; unconfirmed, a write that too few replicas confirmed in time; spool_failed, a refreshed token that could not be kept in spool_dir."))
	if err != nil {
		return nil, fmt.Errorf("make a counter: %w", err)
	}
	for _, what := range []vault.Counted{vault.CountHealed, vault.CountUnconfirmed, vault.CountSpoolFailed} {
		counter.Add(context.Background(), 0, metric.WithAttributes(attribute.String("event", string(what)))) // an alert on its growth needs a beginning
	}
	return func(what vault.Counted) {
		counter.Add(context.Background(), 1, metric.WithAttributes(attribute.String("event", string(what))))
	}, nil
}

// watchSpool makes gauges of what waits in the spool. stop ends that.
func watchSpool(store *vault.Store, now func() time.Time) (stop func(), err error) {
	meter := otel.Meter("tokenbroker/cmd")
	waiting, err1 := meter.Int64ObservableGauge("tokenbroker.spool.waiting",
		metric.WithDescription("Refreshed tokens in spool_dir that Redis does not have yet."))
	oldest, err2 := meter.Float64ObservableGauge("tokenbroker.spool.oldest", metric.WithUnit("s"),
		metric.WithDescription("How long the oldest of them has been waiting; 0 if there is none."))
	unreadable, err3 := meter.Int64ObservableGauge("tokenbroker.spool.unreadable",
		metric.WithDescription("Files in spool_dir that can't be read."))
	writable, err4 := meter.Int64ObservableGauge("tokenbroker.spool.writable",
		metric.WithDescription("1 if spool_dir could be written to when it was last tried, 0 if not."))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("make gauges of the spool: %w", err)
	}
	watching, err := meter.RegisterCallback(func(ctx context.Context, to metric.Observer) error {
		state, err := store.Spool(ctx, false)
		if err != nil || state.Failure != nil {
			to.ObserveInt64(writable, 0)
		} else {
			to.ObserveInt64(writable, 1)
		}
		if err != nil {
			return nil // how many wait nobody knows; /readyz has the reason
		}
		age := 0.0
		if !state.Oldest.IsZero() {
			age = max(0, now().Sub(state.Oldest).Seconds())
		}
		to.ObserveInt64(waiting, int64(state.Waiting))
		to.ObserveInt64(unreadable, int64(len(state.Unreadable)))
		to.ObserveFloat64(oldest, age)
		return nil
	}, waiting, oldest, unreadable, writable)
	if err != nil {
		return nil, fmt.Errorf("watch the spool: %w", err)
	}
	return func() { _ = watching.Unregister() }, nil
}

// watchSeals makes gauges of which keys have sealed the records, as the brokers counted last. stop ends that.
func watchSeals(store *vault.Store) (stop func(), err error) {
	meter := otel.Meter("tokenbroker/cmd")
	records, err1 := meter.Int64ObservableGauge("tokenbroker.keyset.records",
		metric.WithDescription("Records that have something sealed by that key, as last counted."))
	left, err2 := meter.Int64ObservableGauge("tokenbroker.keyset.records_left",
		metric.WithDescription("Records that are still to be sealed anew with the primary key, as last counted; 0 if there is none."))
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("make gauges of the keyset: %w", err)
	}
	watching, err := meter.RegisterCallback(func(ctx context.Context, to metric.Observer) error {
		at, err := store.Resealing(ctx)
		if err != nil {
			return nil // nobody knows
		}
		if at.Last.Ended.IsZero() {
			if !at.Needed && !at.Running {
				to.ObserveInt64(left, 0) // one key has sealed everything, so nobody has counted
			}
			return nil
		}
		for key, n := range at.Last.ByKey {
			to.ObserveInt64(records, int64(n), metric.WithAttributes(attribute.String("key", strconv.FormatUint(uint64(key), 10))))
		}
		n := 0
		for _, of := range at.Last.Left {
			n += of
		}
		to.ObserveInt64(left, int64(n))
		return nil
	}, records, left)
	if err != nil {
		return nil, fmt.Errorf("watch the keyset: %w", err)
	}
	return func() { _ = watching.Unregister() }, nil
}

// newReadyGauge makes a gauge of what /readyz says, for those who scrape and do not ask: for each check 1 if it is ok and 0
// if not, and for check "all" whether the process is ready.
func newReadyGauge() (func(ctx context.Context, ready bool, checks map[string]string), error) {
	gauge, err := otel.Meter("tokenbroker/cmd").Int64Gauge("tokenbroker.ready",
		metric.WithDescription("What /readyz says: 1 for a check that is ok, 0 for one that is not; all, whether the process can serve."))
	if err != nil {
		return nil, fmt.Errorf("make a gauge: %w", err)
	}
	record := func(ctx context.Context, check string, ok bool) {
		value := int64(0)
		if ok {
			value = 1
		}
		gauge.Record(ctx, value, metric.WithAttributes(attribute.String("check", check)))
	}
	return func(ctx context.Context, ready bool, checks map[string]string) {
		record(ctx, "all", ready)
		for name, text := range checks {
			record(ctx, name, text == "ok")
		}
	}, nil
}
