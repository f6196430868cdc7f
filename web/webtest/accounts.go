package webtest

import (
	"context"
	"slices"
	"time"

	"tokenbroker/broker"
)

// Accounts answers each call about connected accounts with the function of its field; a nil one answers with nothing, or not_found.
type Accounts struct {
	List    func(op broker.Operator, f broker.AccountFilter, cursor string, limit int) (broker.AccountPage, error)
	Find    func(op broker.Operator, tenants []string, subject string) ([]broker.Connection, []string, error)
	One     func(op broker.Operator, tenant, id string) (broker.AccountView, error)
	Events  func(op broker.Operator, conn broker.Connection, cursor string) (broker.Timeline, error)
	Revoke  func(op broker.Operator, tenant, id, reason string) (broker.RevokedUpstream, error)
	Refresh func(op broker.Operator, tenant, id, reason string) (broker.Connection, error)
	Link    func(op broker.Operator, tenant, id, reason string) (broker.ConsentLink, error)
}

// Accounts as web.Service.
func (s *Service) Accounts(_ context.Context, op broker.Operator, f broker.AccountFilter, cursor string, limit int) (broker.AccountPage, error) {
	s.note("Accounts")
	if s.Board.List == nil {
		return broker.AccountPage{}, nil
	}
	return s.Board.List(op, f, cursor, limit)
}

// SubjectAccounts as web.Service.
func (s *Service) SubjectAccounts(_ context.Context, op broker.Operator, tenants []string, subject string) ([]broker.Connection, []string, error) {
	s.note("SubjectAccounts")
	if s.Board.Find == nil {
		return nil, nil, nil
	}
	return s.Board.Find(op, tenants, subject)
}

// Account as web.Service.
func (s *Service) Account(_ context.Context, op broker.Operator, tenant, id string) (broker.AccountView, error) {
	s.note("Account")
	if s.Board.One == nil {
		return broker.AccountView{}, nothing()
	}
	return s.Board.One(op, tenant, id)
}

// AccountEvents as web.Service.
func (s *Service) AccountEvents(_ context.Context, op broker.Operator, conn broker.Connection, cursor string) (broker.Timeline, error) {
	s.note("AccountEvents")
	if s.Board.Events == nil {
		return broker.Timeline{}, nil
	}
	return s.Board.Events(op, conn, cursor)
}

// RevokeAccount as web.Service.
func (s *Service) RevokeAccount(_ context.Context, op broker.Operator, tenant, id, reason string) (broker.RevokedUpstream, error) {
	s.note("RevokeAccount")
	if s.Board.Revoke == nil {
		return "", nothing()
	}
	return s.Board.Revoke(op, tenant, id, reason)
}

// RefreshAccount as web.Service.
func (s *Service) RefreshAccount(_ context.Context, op broker.Operator, tenant, id, reason string) (broker.Connection, error) {
	s.note("RefreshAccount")
	if s.Board.Refresh == nil {
		return broker.Connection{}, nothing()
	}
	return s.Board.Refresh(op, tenant, id, reason)
}

// LinkAccount as web.Service.
func (s *Service) LinkAccount(_ context.Context, op broker.Operator, tenant, id, reason string) (broker.ConsentLink, error) {
	s.note("LinkAccount")
	if s.Board.Link == nil {
		return broker.ConsentLink{}, nothing()
	}
	return s.Board.Link(op, tenant, id, reason)
}

// AccountViews are single connections in each state, by id: those of Connections, one that fails, and one that does not open.
func AccountViews(created time.Time) map[string]broker.AccountView {
	views := map[string]broker.AccountView{}
	for _, c := range Connections(created) {
		v := broker.AccountView{Connection: c, Known: true, ConnectorName: "Google Drive", Linkable: true, Typed: true}
		v.Client = "acme-chat"
		if v.Status == broker.ConnectionActive {
			v.Refreshable, v.Renewable, v.RefreshAt = true, true, created.Add(51*time.Hour)
			v.Tokens = []broker.AccessTokenInfo{{ExpiresAt: created.Add(52 * time.Hour)}}
		}
		views[c.ID] = v
	}
	failing := views["cn_1"]
	failing.ID, failing.Error, failing.Failures = "cn_4", string(broker.CodeProviderUnavailable), 7
	failing.FailingSince, failing.RetryAt = created.Add(49*time.Hour), created.AddDate(100, 0, 0)
	failing.Linkable, failing.NoLink = false, "the client that this connection was made for is not configured any more: there is nobody whom the user could complete the consent with"
	views["cn_4"] = failing
	views["cn_5"] = broker.AccountView{Connection: broker.Connection{ID: "cn_5", Tenant: "acme"}, Unreadable: true}
	return views
}

// AccountEntries are what happened with a connection, newest first.
func AccountEntries(created time.Time) []broker.Entry {
	entry := func(t broker.EventType, after time.Duration, outcome, reason string, scopes ...string) broker.Entry {
		e := broker.Entry{Type: t, Time: created.Add(after), Tenant: "acme", Client: "acme-chat", Subject: "user-4711", Connector: "google-drive", Connection: "cn_1", Outcome: outcome, Reason: reason, RequestID: "req-1"}
		for _, s := range scopes {
			e.Scopes = append(e.Scopes, broker.EventScope{ID: "e", Scope: s})
		}
		return e
	}
	all := []broker.Entry{
		entry(broker.EventConsentCreated, 0, "ok", "", "https://www.googleapis.com/auth/drive.readonly"),
		entry(broker.EventConsentCompleted, time.Minute, "ok", "", "https://www.googleapis.com/auth/drive.readonly"),
		entry(broker.EventTokenIssued, time.Hour, "ok", "summarize the notes", "a", "b", "c", "d", "e", "f"),
		entry(broker.EventTokenRefreshFailed, 49*time.Hour, "provider_unavailable", "server_error"),
		entry(broker.EventOperatorRefreshed, 50*time.Hour, "ok", "the user called"),
	}
	all[2].Actor = broker.Actor{Agent: "research", Run: "run-12", Tool: "drive.search"}
	all[4].Actor, all[4].Client = broker.Actor{Agent: "dashboard"}, ""
	slices.Reverse(all)
	return all
}
