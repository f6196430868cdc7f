package broker_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// point is the value of an integer metric with those attributes, as "key=value" in any order; -1: there is none.
func point(t *testing.T, reader sdkmetric.Reader, name string, attributes ...string) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &all); err != nil {
		t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			var points []metricdata.DataPoint[int64]
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				points = data.DataPoints
			case metricdata.Gauge[int64]:
				points = data.DataPoints
			}
			for _, p := range points {
				found := 0
				for _, want := range attributes {
					key, value, _ := strings.Cut(want, "=")
					if got, ok := p.Attributes.Value(attribute.Key(key)); ok && got.AsString() == value {
						found++
					}
				}
				if found == len(attributes) && p.Attributes.Len() == found {
					return p.Value
				}
			}
		}
	}
	return -1
}

// A grant that dies is told to operators: which connector and connection, and why; not whose it is.
func TestOperatorsHearOfADeadGrant(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	synctest.Test(t, func(t *testing.T) {
		h, conn := expired(t, 1)
		defer drain(t, h)
		h.Provider.Kill(h.Store.RefreshToken(conn.ID))
		_, _ = h.Token("alice")
		_, _ = h.Token("alice")
		lines := h.Log.Lines(`"level":"WARN"`)
		if len(lines) != 1 {
			t.Fatalf("%d warnings: %v", len(lines), lines)
		}
		for _, want := range []string{`"connector":"files"`, `"connection":"` + conn.ID + `"`, `"reason":"invalid_grant"`, `"class":"grant_dead"`, `"code":"invalid_grant"`} {
			if !strings.Contains(lines[0], want) {
				t.Errorf("%s lacks %s", lines[0], want)
			}
		}
		for _, secret := range []string{"alice", "Alice", h.Store.RefreshToken(conn.ID)} {
			if strings.Contains(lines[0], secret) {
				t.Errorf("%s tells %s", lines[0], secret)
			}
		}
		if n := point(t, reader, "tokenbroker.grants.ended", "connector=files", "reason=invalid_grant"); n != 1 {
			t.Errorf("%d grants ended", n)
		}
	})
}

// Which circuits are open can be read at any time, not from their changes alone.
func TestOpenCircuitsAreShown(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		other := brokertest.Files()
		other.ID = "mail"
		h.Conns = append(h.Conns, other)
		names := people(t, h, 6)
		shown := func(want int64) {
			t.Helper()
			for _, state := range []struct {
				connector, trouble string
				want               int64
			}{{"files", "down", want}, {"files", "throttled", 0}, {"files", "client_refused", 0}, {"mail", "down", 0}} {
				if got := point(t, reader, "tokenbroker.provider.circuit.open", "connector="+state.connector, "trouble="+state.trouble); got != state.want {
					t.Errorf("%+v: %d", state, got)
				}
			}
		}
		shown(0)
		h.Provider.Before = down
		for _, name := range names {
			_, _ = h.Token(name)
		}
		shown(1)
		h.Provider.Before = nil
		time.Sleep(time.Minute)
		for _, name := range names {
			if _, err := h.Token(name); err != nil {
				t.Fatal(err)
			}
		}
		shown(0)
		drain(t, h)
		if got := point(t, reader, "tokenbroker.provider.circuit.open", "connector=files", "trouble=down"); got != -1 {
			t.Errorf("a service that has ended shows %d", got)
		}
	})
}

// How many wait for news of a consent can be read: at the bound the next one is turned away.
func TestFollowersAreShown(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		link := newLink(t, h, broker.ConsentRequest{Subject: "u"})
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		one, two := follow(ctx, h, h.Service, link.ID, ""), follow(ctx, h, h.Service, link.ID, "")
		synctest.Wait()
		if n := point(t, reader, "tokenbroker.consent.followers"); n != 2 {
			t.Errorf("%d followers are shown", n)
		}
		leave()
		<-one.ended
		<-two.ended
		if n := point(t, reader, "tokenbroker.consent.followers"); n != 0 {
			t.Errorf("%d followers are shown when nobody follows", n)
		}
	})
}
