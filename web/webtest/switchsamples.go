package webtest

import (
	"time"

	"tokenbroker/broker"
)

// OffSamples are things that are disabled, one with a hostile name.
func OffSamples(since time.Time) []broker.Switch {
	return []broker.Switch{
		{Kind: broker.SwitchActor, Tenant: "acme", Name: `<img src=x onerror=alert(1)>{{.}}`, Since: since.Add(time.Hour), By: "oidc:00u1x2", Reason: `it asked for "everything"`},
		{Kind: broker.SwitchConnector, Name: "slack", Since: since, By: "token", Reason: "tokens of it are on a paste site", Installation: true},
		{Kind: broker.SwitchClient, Tenant: "globex", Name: "globex-chat", Since: since, By: "oidc:00u1x2", Reason: "its key leaked", Installation: true},
	}
}

// SwitchConnectors are connectors to choose from.
func SwitchConnectors() []broker.Connector {
	return []broker.Connector{{ID: "google-drive", Name: "Google Drive"}, {ID: "slack", Name: "Slack"}, {ID: "crm_aaaa", Name: "Our CRM", Tenants: []string{"acme"}}}
}

// JobSamples are jobs in each of their states, by id.
func JobSamples(began time.Time) map[string]broker.Job {
	running := broker.Job{
		ID: "job-running", Kind: broker.JobRevokeAll, Tenant: "acme", Connector: "slack", Reason: "tokens of it are on a paste site", StartedBy: "oidc:00u1x2", Rate: 10, State: broker.JobRunning,
		Progress: broker.JobProgress{Done: 118, Failed: 2, Total: 300, Note: "the provider asked to wait", Counts: map[string]int64{"revoked at the provider": 118, "ended here; the provider did not confirm": 2}},
		Position: "canary-position", CreatedAt: began, UpdatedAt: began.Add(12 * time.Second),
	}
	paused, done, failed, cancelled := running, running, running, running
	paused.ID, paused.State = "job-paused", broker.JobPaused
	done.ID, done.State, done.EndedAt, done.Connector = "job-done", broker.JobDone, began.Add(time.Minute), ""
	done.Progress = broker.JobProgress{Done: 300, Total: 300, Counts: map[string]int64{"revoked at the provider": 300}}
	done.Result = "300 connections ended; 300 revoked at the provider"
	failed.ID, failed.State, failed.Result, failed.Tenant = "job-failed", broker.JobFailed, "given up: the broker's store could not read the connection; retry", ""
	cancelled.ID, cancelled.State, cancelled.Result = "job-cancelled", broker.JobCancelled, `cancelled by token: <b>wrong</b> tenant`
	jobs := map[string]broker.Job{}
	for _, j := range []broker.Job{running, paused, done, failed, cancelled} {
		jobs[j.ID] = j
	}
	return jobs
}
