package broker_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// plant are ports of the dashboard with what a test puts there.
type plant struct {
	mu       sync.Mutex
	looks    int
	replicas []broker.Replica
	report   broker.StoreReport
	backlog  broker.Backlog
	err      error
}

func (p *plant) Beat(context.Context, broker.Replica) error              { return nil }
func (p *plant) EndReplica(context.Context, string) error                { return nil }
func (p *plant) StoreReport(context.Context) (broker.StoreReport, error) { return p.report, p.err }
func (p *plant) Backlog(context.Context, time.Time) (broker.Backlog, error) {
	return p.backlog, p.err
}

func (p *plant) AllReplicas(context.Context) ([]broker.Replica, time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks++
	return p.replicas, time.Now(), p.err
}

func admin(tenant string) broker.Operator {
	return broker.Operator{ID: "op", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin, Tenant: tenant}}}
}

func said(o broker.Overview) string {
	var b strings.Builder
	for _, a := range o.Attention {
		fmt.Fprintf(&b, "%s: %s\n", a.Severity, a.What)
	}
	return b.String()
}

func TestOverview(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{}
		h := brokertest.NewWith(t, 1, func(c *broker.Config) { c.Replicas, c.StoreHealth, c.Backlogs = p, p, p })
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = h.Service.Run(ctx) }()
		defer func() { stop(); <-done; drain(t, h) }()
		_, _ = h.Token("alice")
		conn := h.Connect(t, "alice", "files.read")
		if _, err := h.Token("alice"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		o, err := h.Service.Overview(ctx, admin(""), broker.Everywhere, broker.SpanHour)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(o.Buckets); n != 60 || slices.Max(o.Series(broker.MeasureIssued)) != 1 || len(o.Missing) != 0 || len(o.Attention) != 0 {
			t.Errorf("%d buckets, missing %v, attention %v", n, o.Missing, o.Attention)
		}
		if want := (broker.ConsentFunnel{Created: 2, Started: 1, Completed: 1}); o.Consents != want && o.Consents.Completed != 1 {
			t.Errorf("consents: %+v", o.Consents)
		}
		if len(o.Refusals) == 0 || o.Refusals[0].Code != "consent_required" || len(o.Connectors) != 1 || o.Connectors[0].Active != 1 || len(o.Newest) != 1 || o.Newest[0].ID != conn.ID {
			t.Errorf("%+v", o)
		}
		// It is on record, once for all looks.
		for range 3 {
			if _, err := h.Service.OverviewAgain(ctx, admin("acme"), "acme", broker.SpanDay); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(h.Store.Entries(broker.EventOperatorViewed)); n != 1 {
			t.Errorf("%d events of looking", n)
		}
		if p.looks != 1 {
			t.Errorf("replicas were read %d times within seconds", p.looks)
		}
		// Of another tenant nothing is told, and without a role nothing at all.
		_, err = h.Service.Overview(ctx, admin("rival"), "acme", broker.SpanHour)
		code(t, err, broker.CodeNotFound)
		_, err = h.Service.OverviewAgain(ctx, admin("acme"), broker.Everywhere, broker.SpanHour)
		code(t, err, broker.CodeAccessDenied)
		_, err = h.Service.Overview(ctx, admin(""), broker.Everywhere, "2y")
		code(t, err, broker.CodeInvalidRequest)
		_, err = h.Service.Health(ctx, admin("acme"))
		code(t, err, broker.CodeAccessDenied)
		if o, err = h.Service.Overview(ctx, admin("rival"), "rival", broker.SpanHour); err != nil || len(o.Newest) != 0 || len(o.Connectors) != 0 || slices.Max(o.Series(broker.MeasureIssued)) != 0 {
			t.Errorf("of another tenant: %+v, %v", o, err)
		}
	})
}

func TestAttention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &plant{}
		h := brokertest.NewWith(t, 1, func(c *broker.Config) { c.Replicas, c.StoreHealth, c.Backlogs = p, p, p })
		ctx := context.Background()
		defer drain(t, h)
		now := time.Now().UTC()
		minute := broker.GrainMinute.Bucket(now)
		count := func(m broker.Measure, code string, n int64) {
			t.Helper()
			if err := h.Tallies.AddCounts(ctx, "acme", "w", fmt.Sprint(m, code, n), []broker.BucketCounts{{Grain: broker.GrainMinute, Start: minute, Counts: map[broker.Tally]int64{{Measure: m, Code: code, Connector: "files"}: n}}}); err != nil {
				t.Fatal(err)
			}
		}
		look := func(op broker.Operator) string {
			t.Helper()
			time.Sleep(4 * time.Second)
			o, err := h.Service.OverviewAgain(ctx, op, "acme", broker.SpanHour)
			if err != nil {
				t.Fatal(err)
			}
			return said(o)
		}
		count(broker.MeasureRefreshed, "", 100)
		count(broker.MeasureRefreshFailed, "needs_consent", 50)
		count(broker.MeasureRefreshFailed, "provider_unavailable", 4)
		if got := look(admin("")); got != "" {
			t.Errorf("nothing is wrong, and it says %s", got)
		}
		count(broker.MeasureRefreshFailed, "provider_unavailable", 30)
		count(broker.MeasureRefreshFailed, "provider_misconfigured", 1)
		count(broker.MeasureEnded, "invalid_grant", 12)
		healthy := broker.Replica{ID: "1", Host: "one", Ready: true, Version: "1", Beat: now.Add(time.Hour), Checks: map[string]string{"redis": "ok"}, Spool: broker.SpoolReport{Writable: true}}
		silent, waiting, other := healthy, healthy, healthy
		silent.Host, silent.Beat = "two", now.Add(-time.Minute)
		waiting.Host, waiting.Spool.Waiting = "three", 2
		other.Host, other.Version, other.Circuits = "four", "2", []broker.OpenCircuit{{Connector: "files", Trouble: "down", Since: now}, {Connector: "foreign", Trouble: "client_refused"}}
		other.Ready, other.Checks = false, map[string]string{"redis": "gone"}
		p.replicas = []broker.Replica{healthy, silent, waiting, other}
		p.report = broker.StoreReport{Kind: "sentinel", Volatile: []string{"its append-only file is off"}, Lost: []string{"its version 6.2.0 is old"}, Nodes: []broker.StoreNode{{Address: "r:1", AppendOnly: "off", UsedBytes: 9, MaxBytes: 10}}}
		p.backlog = broker.Backlog{RevocationsDue: 3}
		got := look(admin(""))
		for _, want := range []string{
			"critical: The provider of files refuses our OAuth client: 1 refresh", "warning: 12 grants of files ended",
			"warning: The replica on two is silent", "critical: 2 refreshed tokens wait in the spool of three", "note: Replicas run different versions", "critical: The replica on four is not ready: redis: gone",
			"critical: The provider of files does not answer; 1 replica pause there: 34 of 134 refreshes of files failed in the last 5 minutes (provider_unavailable 34).", "critical: Redis: its append-only file is off", "note: Redis: its version 6.2.0 is old", "warning: Redis at r:1 uses 90 %", "warning: The Redis master r:1 has no replica", "warning: 3 revocations were begun",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("it lacks %q:\n%s", want, got)
			}
		}
		if strings.Contains(got, "Refreshes of files fail") {
			t.Errorf("one outage is told twice: %s", got)
		}
		if strings.Contains(got, "foreign") {
			t.Errorf("a connector that the tenant has not: %s", got)
		}
		if i := strings.Index(got, "warning:"); strings.Contains(got[i:], "critical:") {
			t.Errorf("not the most urgent first: %s", got)
		}
		// Whoever may see one tenant alone sees nothing of the broker itself.
		got = look(admin("acme"))
		for _, never := range []string{"Redis", "replica on", "spool", "versions"} {
			if strings.Contains(got, never) {
				t.Errorf("a tenant's operator reads %q: %s", never, got)
			}
		}
		if !strings.Contains(got, "refuses our OAuth client") {
			t.Errorf("a tenant's operator reads %s", got)
		}
		p.report.Accepted = true
		if got = look(admin("")); strings.Contains(got, "append-only") {
			t.Errorf("what is meant so: %s", got)
		}
		// A store that is away is said to be.
		p.err = fmt.Errorf("gone")
		if got = look(admin("")); !strings.Contains(got, "Redis does not answer") {
			t.Errorf("without a store: %s", got)
		}
	})
}

// plantJobs and those below are ports of which a test says what one method answers.
type plantJobs struct {
	broker.Jobs
	all []broker.Job
}

func (p plantJobs) ListJobs(context.Context, string, int) ([]broker.Job, string, error) {
	return p.all, "", nil
}

type plantSwitches struct {
	broker.SwitchBoard
	off []broker.Switch
}

func (p plantSwitches) Switches(context.Context) (broker.SwitchTable, error) {
	return broker.SwitchTable{Off: p.off}, nil
}

type plantIndex struct {
	broker.ConnectionIndex
	ends broker.Connection
}

func (p plantIndex) Ending(_ context.Context, tenant func(string) bool, _ time.Time, _ int) ([]broker.Connection, int, error) {
	if !tenant("acme") {
		return nil, 0, nil
	}
	return []broker.Connection{p.ends}, 60, nil
}

// What else needs attention: jobs, the trail, what is disabled, grants that end; and nothing of that to whoever may not see it.
func TestAttentionToOtherParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		jobs := plantJobs{all: []broker.Job{
			{ID: "1", Kind: broker.JobVerify, State: broker.JobRunning, UpdatedAt: now.Add(-time.Hour)},
			{ID: "2", Kind: broker.JobVerify, State: broker.JobDone, Tenant: "acme", Progress: broker.JobProgress{Failed: 2}},
			{ID: "3", Kind: broker.JobVerify, State: broker.JobDone, Tenant: "rival"},
			{ID: "4", Kind: broker.JobVerify, State: broker.JobDone, Tenant: "rival", Progress: broker.JobProgress{Failed: 1}},
		}}
		switches := plantSwitches{off: []broker.Switch{{Kind: broker.SwitchConnector, Name: "files"}, {Kind: broker.SwitchTenant, Tenant: "rival"}}}
		ends := broker.Connection{Connector: "files"}
		h := brokertest.NewWith(t, 1, func(c *broker.Config) {
			c.Jobs, c.Switches, c.Index = jobs, switches, plantIndex{c.Index, ends}
		})
		defer drain(t, h)
		look := func(op broker.Operator, tenant string) string {
			t.Helper()
			o, err := h.Service.OverviewAgain(context.Background(), op, tenant, broker.SpanHour)
			if err != nil {
				t.Fatal(err)
			}
			return said(o)
		}
		all := []string{
			"critical: The audit trail of acme was bad when it was last verified, in 2 places", "warning: A job does not get on: verify", "note: The connector files is disabled.",
			"note: Disabled: the tenant rival.", "warning: About 60 grants end within a day",
		}
		for _, one := range []struct {
			op     broker.Operator
			tenant string
			says   []int
		}{
			{admin(""), broker.Everywhere, []int{0, 1, 2, 3, 4}},
			{admin(""), "acme", []int{0, 2, 4}},
			{admin("acme"), "acme", []int{0, 2, 4}},
			{admin("rival"), "rival", []int{2, 3}},
			{broker.Operator{ID: "v", Grants: []broker.OperatorGrant{{Role: broker.RoleViewer}}}, broker.Everywhere, []int{2, 3, 4}},
		} {
			got := look(one.op, one.tenant)
			for i, text := range all {
				if strings.Contains(got, text) != slices.Contains(one.says, i) {
					t.Errorf("%v at %q, %q: %s", one.op.Grants, one.tenant, text, got)
				}
			}
		}
	})
}
