package webtest

import (
	"context"
	"time"

	"tokenbroker/broker"
)

// Visits answers each call about "My connections" with the function of its field; a nil one answers not_found.
type Visits struct {
	Open       func(link broker.Secret, cookie func(string) broker.Secret) (broker.PortalPage, error)
	Start      func(link broker.Secret, cookie func(string) broker.Secret) (broker.PortalStart, error)
	Enter      func(id string, ticket broker.Secret, cookie func(string) broker.Secret) error
	Visit      func(id string, cookie func(string) broker.Secret, cursor string) (broker.PortalVisit, error)
	One        func(id string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, error)
	Disconnect func(ctx context.Context, id string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, broker.RevokedUpstream, error)
	End        func(ctx context.Context, id string, cookie func(string) broker.Secret) error
}

// OpenPortalLink as web.Service.
func (s *Service) OpenPortalLink(_ context.Context, link broker.Secret, cookie func(string) broker.Secret) (broker.PortalPage, error) {
	s.note("OpenPortalLink")
	if s.Visits.Open == nil {
		return broker.PortalPage{}, nothing()
	}
	return s.Visits.Open(link, cookie)
}

// StartPortal as web.Service.
func (s *Service) StartPortal(_ context.Context, link broker.Secret, cookie func(string) broker.Secret) (broker.PortalStart, error) {
	s.note("StartPortal")
	if s.Visits.Start == nil {
		return broker.PortalStart{}, nothing()
	}
	return s.Visits.Start(link, cookie)
}

// EnterPortal as web.Service.
func (s *Service) EnterPortal(_ context.Context, id string, ticket broker.Secret, cookie func(string) broker.Secret) error {
	s.note("EnterPortal")
	if s.Visits.Enter == nil {
		return nothing()
	}
	return s.Visits.Enter(id, ticket, cookie)
}

// VisitPortal as web.Service.
func (s *Service) VisitPortal(_ context.Context, id string, cookie func(string) broker.Secret, cursor string) (broker.PortalVisit, error) {
	s.note("VisitPortal")
	if s.Visits.Visit == nil {
		return broker.PortalVisit{}, nothing()
	}
	return s.Visits.Visit(id, cookie, cursor)
}

// PortalConnection as web.Service.
func (s *Service) PortalConnection(_ context.Context, id string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, error) {
	s.note("PortalConnection")
	if s.Visits.One == nil {
		return broker.PortalConnection{}, nothing()
	}
	return s.Visits.One(id, cookie, connection)
}

// PortalDisconnect as web.Service.
func (s *Service) PortalDisconnect(ctx context.Context, id string, cookie func(string) broker.Secret, connection string) (broker.PortalConnection, broker.RevokedUpstream, error) {
	s.note("PortalDisconnect")
	if s.Visits.Disconnect == nil {
		return broker.PortalConnection{}, "", nothing()
	}
	return s.Visits.Disconnect(ctx, id, cookie, connection)
}

// EndPortal as web.Service.
func (s *Service) EndPortal(ctx context.Context, id string, cookie func(string) broker.Secret) error {
	s.note("EndPortal")
	if s.Visits.End == nil {
		return nothing()
	}
	return s.Visits.End(ctx, id, cookie)
}

// Visit is an open one with every kind of connection and of line on it.
func Visit(now time.Time) broker.PortalVisit {
	page := Page(now, broker.BindingCode)
	ada := broker.Account{ID: "108", Name: "Ada Lovelace", Email: "ada@example.com"}
	slack := broker.Connector{ID: "slack", Name: "Slack", Provider: "Slack", Category: "communication"}
	mail := broker.Connector{ID: "mail", Name: "Company mail", Provider: "Google", Category: "email"}
	use := func(t broker.EventType, actor broker.Actor, c broker.Connector, ago time.Duration) broker.PortalUse {
		at := now.Add(-ago)
		return broker.PortalUse{Type: t, First: at, Last: at, Count: 1, ClientName: "Acme Chat", Actor: actor, Connector: c, Connection: "cn_1", Account: ada, Outcome: "ok"}
	}
	many := use(broker.EventTokenIssued, broker.Actor{Agent: "Travel assistant", Tool: "list_files"}, Drive(), time.Hour)
	many.Count, many.First, many.Scopes = 12, now.Add(-9*time.Hour), page.Scopes
	many.Reasons = []string{"find the hotel's confirmation", "list the files of the trip"}
	plainUse := use(broker.EventTokenIssued, broker.Actor{}, slack, 3*time.Hour)
	plainUse.Account = broker.Account{ID: "U02AB", Name: "Grace"}
	refused := use(broker.EventTokenRefused, broker.Actor{Agent: "Night job"}, Drive(), 5*time.Hour)
	refused.Outcome, refused.Scopes = "access_denied", page.Scopes[1:]
	needed := refused
	needed.Outcome, needed.Scopes = "consent_required:scope_missing", page.Scopes[:1]
	mine, theirs := use(broker.EventConnectionRevoked, broker.Actor{}, slack, 30*time.Hour), use(broker.EventConnectionRevoked, broker.Actor{}, slack, 50*time.Hour)
	mine.ByUser = true
	silent := mine
	silent.Outcome = "revoked_upstream_failed"
	return broker.PortalVisit{
		ID: "pv_1", ClientName: "Acme Chat", ClientID: "acme-chat", Status: broker.PortalOpen, Binding: broker.BindingCode, Expires: now.Add(14 * time.Minute), Older: "the-cursor",
		Connections: []broker.PortalConnection{
			{ClientID: "acme-chat", Connector: Drive(), Scopes: page.Scopes, Connection: broker.Connection{ID: "cn_1", Status: broker.ConnectionActive, Account: ada, CreatedAt: now.Add(-200 * time.Hour), LastIssued: now.Add(-time.Hour)}},
			{Connector: slack, Connection: broker.Connection{ID: "cn_2", Status: broker.ConnectionNeedsConsent, Account: broker.Account{ID: "U02AB", Name: "Grace"}, CreatedAt: now.Add(-900 * time.Hour)}},
			{Connector: mail, Connection: broker.Connection{ID: "cn_3", Status: broker.ConnectionActive, Direct: true}},
		},
		Uses: []broker.PortalUse{
			many, plainUse, refused, needed, mine, silent, theirs, use(broker.EventConsentCompleted, broker.Actor{}, Drive(), 200*time.Hour), use(broker.EventConnectionNeedsConsent, broker.Actor{}, slack, 300*time.Hour),
		},
	}
}

// HostileVisit is one on which every text is an attempt to be more than text.
func HostileVisit(now time.Time) broker.PortalVisit {
	h := HostilePage()
	v := Visit(now)
	v.ClientName = h.ClientName
	v.Connections = []broker.PortalConnection{{Connector: h.Connector, Scopes: h.Scopes, Connection: broker.Connection{ID: "cn_1", Status: broker.ConnectionActive, Account: *h.Account, CreatedAt: now}}}
	for i := range v.Uses {
		u := &v.Uses[i]
		u.ClientName, u.Actor, u.Connector, u.Scopes, u.Account, u.Reasons = h.ClientName, broker.Actor{Agent: h.ClientName, Tool: h.Connector.Name}, h.Connector, h.Scopes, *h.Account, []string{h.ClientName, h.Connector.Name}
	}
	return v
}
