package webtest

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"tokenbroker/broker"
)

// Trail answers each call about the audit trail with the function of its field; a nil one answers with nothing, or not_found.
type Trail struct {
	Search func(op broker.Operator, tenant string, f broker.EventFilter, cursor string, limit int) (broker.TrailPage, error)
	Export func(ctx context.Context, op broker.Operator, tenant string, f broker.EventFilter, each func([]broker.Event) error) (int, error)
	Reach  func(op broker.Operator, tenant string, f broker.EventFilter) (broker.Reach, error)
	Verify func(op broker.Operator, tenant, reason, once string) (broker.Job, error)
	Job    func(op broker.Operator, id string) (broker.Job, error)
	Jobs   []broker.Job
	Since  time.Time // from when on events are kept
}

// TrailKeptSince as web.Service.
func (s *Service) TrailKeptSince(context.Context, broker.Operator, string) (time.Time, error) {
	return s.Trail.Since, nil
}

// SearchTrail as web.Service.
func (s *Service) SearchTrail(_ context.Context, op broker.Operator, tenant string, f broker.EventFilter, cursor string, limit int) (broker.TrailPage, error) {
	s.note("SearchTrail")
	if s.Trail.Search == nil {
		return broker.TrailPage{}, nil
	}
	return s.Trail.Search(op, tenant, f, cursor, limit)
}

// ExportTrail as web.Service.
func (s *Service) ExportTrail(ctx context.Context, op broker.Operator, tenant string, f broker.EventFilter, each func([]broker.Event) error) (int, error) {
	s.note("ExportTrail")
	if s.Trail.Export == nil {
		return 0, nil
	}
	return s.Trail.Export(ctx, op, tenant, f, each)
}

// TrailReach as web.Service.
func (s *Service) TrailReach(_ context.Context, op broker.Operator, tenant string, f broker.EventFilter) (broker.Reach, error) {
	s.note("TrailReach")
	if s.Trail.Reach == nil {
		return broker.Reach{}, nil
	}
	return s.Trail.Reach(op, tenant, f)
}

// VerifyTrail as web.Service.
func (s *Service) VerifyTrail(_ context.Context, op broker.Operator, tenant, reason, once string) (broker.Job, error) {
	s.note("VerifyTrail")
	if s.Trail.Verify == nil {
		return broker.Job{}, nothing()
	}
	return s.Trail.Verify(op, tenant, reason, once)
}

// TrailVerification as web.Service.
func (s *Service) TrailVerification(_ context.Context, op broker.Operator, id string) (broker.Job, error) {
	s.note("TrailVerification")
	if s.Trail.Job == nil {
		return broker.Job{}, nothing()
	}
	return s.Trail.Job(op, id)
}

// TrailVerifications as web.Service.
func (s *Service) TrailVerifications(context.Context, broker.Operator, int) ([]broker.Job, error) {
	s.note("TrailVerifications")
	return slices.Clone(s.Trail.Jobs), nil
}

// SealPersonal as web.Service: nothing that is a secret.
func (s *Service) SealPersonal(what, tenant, text string) (string, error) {
	return hex.EncodeToString([]byte(what + "|" + tenant + "|" + text)), nil
}

// OpenPersonal as web.Service.
func (s *Service) OpenPersonal(what, tenant, sealed string) (string, error) {
	raw, err := hex.DecodeString(sealed)
	prefix := what + "|" + tenant + "|"
	if err != nil || len(raw) < len(prefix) || string(raw[:len(prefix)]) != prefix {
		return "", broker.Errorf(broker.CodeInvalidRequest, "not one of ours")
	}
	return string(raw[len(prefix):]), nil
}

// TrailEvents are events of each kind of actor, with a name from a provider that would like to be more than a name.
func TrailEvents(at time.Time) []broker.Event {
	issued := broker.Event{
		ID: "ev_1", Time: at, Type: broker.EventTokenIssued, Tenant: "acme", Client: "acme-chat", Subject: "user-4711", Actor: broker.Actor{Agent: "research-helper", Run: "run-2026-11-20-0042", Tool: "drive.search"},
		Connector: "google-drive", Connection: "cn_1", Scope: "https://www.googleapis.com/auth/drive.readonly", Requested: true, Outcome: "ok", Reason: "look for the minutes of the board meeting", RequestID: "req-1", TraceID: "0af7651916cd43dd8448eb211c80319c",
	}
	refused := issued
	refused.ID, refused.Type, refused.Outcome, refused.Scope, refused.Subject, refused.Connection, refused.Time = "ev_2", broker.EventTokenRefused, "access_denied", "crm.write", `"><img src=x onerror=alert(1)>`, "", at.Add(-time.Minute)
	operator := broker.Event{ID: "ev_3", Time: at.Add(-2 * time.Minute), Type: broker.EventOperatorRevoked, Tenant: "acme", Subject: "user-4711", Actor: broker.Actor{Agent: "eve@example.com"}, Connector: "google-drive", Connection: "cn_1", Outcome: "ok", Reason: "the user asked for it on the phone"}
	user := broker.Event{ID: "ev_4", Time: at.Add(-time.Hour), Type: broker.EventConnectionRevoked, Tenant: "acme", Client: "acme-chat", Subject: "=HYPERLINK(\"https://evil.example\")", Connector: "slack", Connection: "cn_2", Outcome: "ok", Portal: "pv_1"}
	return []broker.Event{issued, refused, operator, user}
}

// TrailJobs are verifications in each state.
func TrailJobs(at time.Time) map[string]broker.Job {
	running := broker.Job{
		ID: "jb_running", Kind: broker.JobVerify, Reason: "the yearly audit", StartedBy: "ada@example.com", State: broker.JobRunning, CreatedAt: at,
		Progress: broker.JobProgress{Done: 96, Total: 256, Counts: map[string]int64{"events": 3750000, "entries": 3600000}},
	}
	whole := running
	whole.ID, whole.State, whole.EndedAt, whole.Progress.Done, whole.Result = "jb_whole", broker.JobDone, at.Add(time.Minute), 256, "the audit trail is whole: 10000000 events in 9600000 entries of 256 streams"
	bad := whole
	bad.ID, bad.Tenant, bad.Progress.Failed = "jb_bad", "acme", 2
	bad.Result = "the audit trail was tampered with: the first bad event is 7f3aXq9LwTn2 (stream acme/5f, entry 1795858200000-3): changed: its link does not follow from the entry before it; what lies behind it in that stream was not looked at; bad places in all: 2; 10000000 events in 9600000 entries of 256 streams"
	return map[string]broker.Job{running.ID: running, whole.ID: whole, bad.ID: bad}
}
