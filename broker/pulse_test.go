package broker_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// sums holds what was counted against what is wanted, as measure, code, connector.
func sums(t *testing.T, h *brokertest.Harness, tenant string, grain broker.Grain, want map[[3]string]int64) {
	t.Helper()
	for what, n := range want {
		if got := h.Tallies.Sum(tenant, grain, broker.Measure(what[0]), what[1], what[2]); got != n {
			t.Errorf("%q by %s: %v is %d, want %d", tenant, grain, what, got, n)
		}
	}
}

// What happened is in the minutes within seconds, in the hours and days within half a minute, of its tenant and of all.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = h.Service.Run(ctx) }()
		_, _ = h.Token("alice")
		h.Connect(t, "alice", "files.read")
		for range 3 {
			if _, err := h.Token("alice"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * time.Hour)
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		_, _ = h.Service.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: "made-up", Subject: "alice"})
		want := map[[3]string]int64{
			{"issued", "", "files"}: 4, {"refused", "consent_required", "files"}: 1, {"refused", "access_denied", "made-up"}: 0,
			{"refreshed", "", "files"}:      h.Tallies.Sum("acme", broker.GrainMinute, broker.MeasureRefreshed, "", "files"),
			{"consent", "started", "files"}: 1, {"consent", "completed", "files"}: 1,
		}
		time.Sleep(4 * time.Second)
		want[[3]string{"refreshed", "", "files"}] = h.Tallies.Sum("acme", broker.GrainMinute, broker.MeasureRefreshed, "", "files")
		if want[[3]string{"refreshed", "", "files"}] == 0 {
			t.Error("no refresh was counted")
		}
		sums(t, h, "acme", broker.GrainMinute, want)
		time.Sleep(31 * time.Second)
		for _, tenant := range []string{"acme", broker.Everywhere} {
			for _, grain := range []broker.Grain{broker.GrainMinute, broker.GrainHour, broker.GrainDay} {
				sums(t, h, tenant, grain, want)
				if names := h.Tallies.Connectors(tenant, grain); names["made-up"] || !names[broker.TalliedUnknown] {
					t.Errorf("connectors by %s: %v", grain, names)
				}
			}
		}
		// What a process counted last is written when it ends in order.
		_, _ = h.Token("alice")
		stop()
		<-done
		drain(t, h)
		want[[3]string{"issued", "", "files"}] = 5
		sums(t, h, "acme", broker.GrainDay, want)
	})
}

// A store that is away costs nothing but patience, and an answer that got lost counts nothing twice.
func TestPulseOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = h.Service.Run(ctx) }()
		defer func() { stop(); <-done; drain(t, h) }()
		h.Connect(t, "alice", "files.read")
		time.Sleep(time.Minute)
		issued := map[[3]string]int64{{"issued", "", "files"}: 0}
		ask := func() {
			t.Helper()
			if _, err := h.Token("alice"); err != nil {
				t.Fatal(err)
			}
			issued[[3]string{"issued", "", "files"}]++
		}
		h.Tallies.Fail(true, false)
		for range 5 {
			ask()
			time.Sleep(time.Minute)
		}
		sums(t, h, "acme", broker.GrainMinute, map[[3]string]int64{{"issued", "", "files"}: 0})
		h.Tallies.Fail(false, true)
		ask()
		time.Sleep(10 * time.Second)
		h.Tallies.Fail(false, false)
		time.Sleep(time.Minute)
		sums(t, h, "acme", broker.GrainMinute, issued)
		sums(t, h, broker.Everywhere, broker.GrainDay, issued)
		if n := len(h.Log.Lines("counts for the dashboard")); n == 0 || n > 3 {
			t.Errorf("told %d times", n)
		}
		// Away for an hour, it gets the last minutes alone.
		h.Tallies.Fail(true, false)
		for range 60 {
			ask()
			time.Sleep(time.Minute)
		}
		h.Tallies.Fail(false, false)
		time.Sleep(time.Minute)
		if got := h.Tallies.Sum("acme", broker.GrainMinute, broker.MeasureIssued, "", "files"); got < 6+10 || got > 6+21 {
			t.Errorf("after an hour: %d", got)
		}
	})
}

// A tenant with many connectors of its own has no more counts than a few dozen, and none of their names come into the counts of all.
func TestPulseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := tenants(t, 1)
		defer drain(t, h)
		ctx := context.Background()
		for i := range 50 {
			wish := drive()
			wish.Wish = fmt.Sprintf("drive%d", i)
			view, err := h.Service.CreateConnector(ctx, h.Caller(), wish)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = h.Service.IssueToken(ctx, h.Caller(), broker.TokenRequest{Connector: view.ID, Subject: "alice"})
		}
		h.Service.Drain(ctx) //nolint:errcheck // it writes what was counted
		names := h.Tallies.Connectors("acme", broker.GrainDay)
		if len(names) != 33 || !names[broker.TalliedOthers] {
			t.Errorf("%d names: %v", len(names), names)
		}
		if all := h.Tallies.Connectors(broker.Everywhere, broker.GrainDay); len(all) != 1 || !all[broker.TalliedTenants] {
			t.Errorf("of all together: %v", all)
		}
	})
}
