package webtest

import (
	"context"
	"time"

	"tokenbroker/broker"
)

// Overviews answers what the first page of the dashboard asks with the function of its field; without one there is nothing.
type Overviews struct {
	Look   func(op broker.Operator, tenant string, span broker.Span) (broker.Overview, error)
	Vitals func(op broker.Operator) (broker.Vitals, error)
}

// Overview as web.Service.
func (s *Service) Overview(_ context.Context, op broker.Operator, tenant string, span broker.Span) (broker.Overview, error) {
	s.note("Overview")
	return s.look(op, tenant, span)
}

// OverviewAgain as web.Service.
func (s *Service) OverviewAgain(_ context.Context, op broker.Operator, tenant string, span broker.Span) (broker.Overview, error) {
	s.note("OverviewAgain")
	return s.look(op, tenant, span)
}

func (s *Service) look(op broker.Operator, tenant string, span broker.Span) (broker.Overview, error) {
	if err := op.Check(broker.PermitOverview, tenant); err != nil {
		return broker.Overview{}, err
	}
	if s.Overviews.Look == nil {
		return broker.Overview{Tenant: tenant, Span: span}, nil
	}
	return s.Overviews.Look(op, tenant, span)
}

// Health as web.Service.
func (s *Service) Health(_ context.Context, op broker.Operator) (broker.Vitals, error) {
	s.note("Health")
	if err := op.Check(broker.PermitHealth, broker.Everywhere); err != nil {
		return broker.Vitals{}, err
	}
	if s.Overviews.Vitals == nil {
		return broker.Vitals{}, nil
	}
	return s.Overviews.Vitals(op)
}

// OverviewSample is an overview with something of everything.
func OverviewSample(now time.Time) broker.Overview {
	o := broker.Overview{
		Span: broker.SpanHour, At: now, Grain: broker.GrainMinute,
		Attention: []broker.Attention{
			{Severity: broker.SeverityCritical, Kind: broker.AttentionProvider, Connector: "google-drive", Since: now.Add(-7 * time.Minute), What: "The provider of google-drive does not answer; 2 replicas pause there.", Do: "Look at the provider's status page and at the network's way out. Refreshes go on by themselves as soon as it answers."},
			{Severity: broker.SeverityWarning, Kind: broker.AttentionConsents, Connector: "slack", Since: now.Add(-30 * time.Hour), What: "12 grants of slack ended in the last 15 minutes (invalid_grant 12): their users must consent again.", Do: "Ask whether somebody revoked the application."},
			{Severity: broker.SeverityNote, Kind: broker.AttentionHealth, What: "Replicas run different versions: 1.4.0 (abc), 1.5.0 (def).", Do: "Finish the roll-out, or undo it."},
		},
		Providers: []broker.ProviderPulse{
			{Name: "Google", Refreshed: 4211, Failed: 38, Ended: 3, P50: 182 * time.Millisecond, P95: 2400 * time.Millisecond, Codes: []broker.CodeCount{{Code: "provider_unavailable", Count: 38}}},
			{Name: "Slack", Refreshed: 96, P50: 90 * time.Millisecond, P95: 140 * time.Millisecond}, {Name: broker.TalliedTenants, Refreshed: 1, Failed: 1, P95: time.Minute, Beyond: true},
		},
		Refusals:   []broker.CodeCount{{Code: "consent_required", Count: 214}, {Code: "access_denied", Count: 3}},
		Consents:   broker.ConsentFunnel{Created: 214, Started: 160, Completed: 141, Denied: 4, Failed: 2, Abandoned: 51},
		Connectors: []broker.ConnectorCount{{Connector: "google-drive", Active: 81204, NeedsConsent: 912, Revoked: 4001}, {Connector: "slack", Active: 20311, NeedsConsent: 17}},
		Newest:     Connections(now),
	}
	for i := range 60 {
		start := o.Grain.Bucket(now).Add(time.Duration(i-59) * time.Minute)
		counts := map[broker.Tally]int64{{Measure: broker.MeasureIssued, Connector: "google-drive"}: int64(900 + 37*i%400), {Measure: broker.MeasureRefreshed, Connector: "google-drive"}: int64(60 + i%7)}
		if i%9 == 0 {
			counts[broker.Tally{Measure: broker.MeasureRefused, Code: "consent_required", Connector: "google-drive"}] = int64(i)
		}
		if i > 50 {
			counts[broker.Tally{Measure: broker.MeasureRefreshFailed, Code: "provider_unavailable", Connector: "google-drive"}] = int64(2 * (i - 50))
		}
		o.Buckets = append(o.Buckets, broker.BucketCounts{Grain: o.Grain, Start: start, Counts: counts})
	}
	return o
}

// VitalsSample is a broker of three replicas, one of them silent and one in trouble, on a Redis behind sentinels.
func VitalsSample(now time.Time) broker.Vitals {
	keys := []broker.SealingKey{{ID: 1001, Status: "enabled"}, {ID: 2002, Status: "enabled", Primary: true, Created: now.Add(-40 * 24 * time.Hour)}}
	replica := broker.Replica{
		ID: "q7Hc0aXw1", Host: "broker-0", Version: "1.4.0", Commit: "4c7c20c81d2a", Go: "go1.26.0", Started: now.Add(-50 * time.Hour), Beat: now.Add(-2 * time.Second),
		Ready: true, Checks: map[string]string{"redis": "ok"}, Spool: broker.SpoolReport{Writable: true}, Keys: keys, EarlyRunning: 3, MemoryBytes: 84 << 20, Goroutines: 96,
	}
	troubled, silent := replica, replica
	troubled.ID, troubled.Host, troubled.Checks = "x81LmKp0s", "broker-1", map[string]string{"redis": "ok", "spool": "spool_dir can't be written to (no space left on device): make room, or mend its rights"}
	troubled.Spool = broker.SpoolReport{Waiting: 2, Oldest: now.Add(-time.Minute), Unreadable: 1, Writable: true}
	troubled.Circuits = []broker.OpenCircuit{{Connector: "google-drive", Others: 2, Trouble: "down", Since: now.Add(-7 * time.Minute)}}
	silent.ID, silent.Host, silent.Version, silent.Beat = "b0YvT5rQz", "broker-2", "1.3.9", now.Add(-9*time.Minute)
	return broker.Vitals{
		At: now, StoreNow: now, Replicas: []broker.Replica{replica, troubled, silent}, Errors: map[string]string{"jobs": "the jobs can't be read"},
		Store: broker.StoreReport{
			Kind: "sentinel", Problems: []string{"its eviction policy is allkeys-lru (set maxmemory-policy noeviction)"},
			Nodes: []broker.StoreNode{{
				Address: "10.0.0.7:6379", Version: "8.2.3", Uptime: 90 * time.Hour, AppendOnly: "on", AppendState: "ok", SaveStatus: "ok", LastSave: now.Add(-time.Hour), Policy: "allkeys-lru",
				UsedBytes: 700 << 20, MaxBytes: 1 << 30, Clients: 48, Operations: 3120, Replicas: []broker.StoreFollower{{Address: "10.0.0.8:6379", State: "online", Lag: time.Second, Behind: 2048}},
			}},
		},
		Backlog:  broker.Backlog{RefreshesDue: 12, Refreshes: 90114, RevocationsDue: 1, Consents: 240, ConsentsOverdue: 2},
		Seals:    broker.Seals{Records: 101_515, At: now.Add(-time.Hour), ByKey: map[uint32]int{1001: 31_200, 2002: 70_315}, Primary: 2002},
		Verified: []broker.Job{{ID: "jb_2", Kind: broker.JobVerify, State: broker.JobDone, Result: "the audit trail is whole: 120 events in 90 entries of 4 streams", EndedAt: now.Add(-time.Hour)}},
		Jobs:     []broker.Job{{ID: "jb_1", Kind: "revoke_all", Tenant: "acme", State: broker.JobRunning, Progress: broker.JobProgress{Done: 1200, Total: 5000}, UpdatedAt: now}},
	}
}
