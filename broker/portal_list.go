package broker

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// This file is what an open visit shows and does. Everything in it is of the visit's subject, in the visit's tenant, and of
// connectors that the visit's client may use.

const (
	// portalUses is how many entries of the trail one page puts into words.
	portalUses = 200
	// portalReasons is how many different reasons one line names.
	portalReasons = 3
)

// PortalVisit is a page of an open visit, or, while Status is started, what the user has to do yet.
type PortalVisit struct {
	ID         string
	ClientName string
	ClientID   string
	Status     PortalStatus
	Binding    Binding
	// Code is what the user types in the chat (binding code).
	Code        Secret
	Expires     time.Time
	Connections []PortalConnection
	// Uses are what happened, newest first; Older continues them where there is more.
	Uses  []PortalUse
	Older string
	// UsesUnknown: what happened can't be read just now. The connections can, and ended.
	UsesUnknown bool
}

// PortalConnection is a connection in words.
type PortalConnection struct {
	Connection Connection
	Connector  Connector
	Scopes     []PageScope
	ClientID   string // of the visit
}

// PortalUse is what one assistant did, or what became of a connection: the entries of one day that differ in nothing but their
// time and their reason.
type PortalUse struct {
	Type        EventType
	First, Last time.Time
	Count       int
	ClientName  string
	Actor       Actor // without the run
	Connector   Connector
	Connection  string
	Account     Account // of the connection, where it is known
	Scopes      []PageScope
	Reasons     []string // newest first; the first few that differ
	Outcome     string
	ByUser      bool // on this page, in this visit or another
}

// VisitPortal reads what the page shows. It changes nothing. cursor is Older of the page before, or empty.
func (s *Service) VisitPortal(ctx context.Context, id string, cookie func(name string) Secret, cursor string) (PortalVisit, error) {
	portal, client, err := s.ownPortal(ctx, id, cookie)
	if err != nil {
		return PortalVisit{}, err
	}
	visit := PortalVisit{ID: portal.ID, ClientName: client.Name, ClientID: client.ID, Status: portal.Status, Binding: portal.Binding, Expires: portal.Deadline}
	if portal.Status != PortalOpen {
		if portal.Binding == BindingCode {
			visit.Code = portal.CompletionCode
		}
		return visit, nil
	}
	caller := portal.caller(ctx, client)
	p := purpose("portal", portal.ID)
	position, err := s.openCursor(p, cursor)
	if err != nil {
		return PortalVisit{}, err
	}
	all, err := s.readable(ctx, caller, portal.Subject, "")
	if err != nil {
		return PortalVisit{}, err
	}
	accounts := map[string]Account{}
	for _, conn := range slices.Backward(all) {
		if !mayUse(client, conn.Connector) {
			continue
		}
		accounts[conn.ID] = conn.Account
		if conn.Status != ConnectionRevoked {
			visit.Connections = append(visit.Connections, s.portalConnection(ctx, client, conn))
		}
	}
	readCtx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	entries, next, err := s.cfg.Audit.Recent(readCtx, portal.Tenant, portal.Subject, portalEvents, position, portalUses)
	if err != nil {
		// Somebody who came to disconnect must be able to, also while the trail does not answer.
		s.cfg.Log.WarnContext(ctx, "a user's page can't show what happened", "error", err)
		visit.UsesUnknown = true
		return visit, nil
	}
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return !mayUse(client, e.Connector) })
	visit.Uses = s.portalUsesOf(ctx, portal.Tenant, entries, accounts)
	visit.Older, err = s.sealCursor(p, next)
	return visit, err
}

// portalEvents are those that mean something to a user.
var portalEvents = []EventType{EventTokenIssued, EventTokenRefused, EventConsentCompleted, EventConnectionRevoked, EventConnectionNeedsConsent}

// PortalConnection reads one connection of an open visit.
func (s *Service) PortalConnection(ctx context.Context, id string, cookie func(name string) Secret, connection string) (PortalConnection, error) {
	portal, caller, err := s.openedPortal(ctx, id, cookie)
	if err != nil {
		return PortalConnection{}, err
	}
	conn, err := s.connectionOfVisit(ctx, portal, caller, connection)
	if err != nil {
		return PortalConnection{}, err
	}
	return s.portalConnection(ctx, caller.Client, conn), nil
}

// PortalDisconnect ends a connection because its user wants it, and tells honestly what the provider did. One that is over
// already tells what came of it then.
func (s *Service) PortalDisconnect(ctx context.Context, id string, cookie func(name string) Secret, connection string) (PortalConnection, RevokedUpstream, error) {
	ctx, end := s.telemetry.begin(ctx, "broker.PortalDisconnect", "")
	conn, outcome, err := s.portalDisconnect(ctx, id, cookie, connection)
	end(err)
	return conn, outcome, err
}

func (s *Service) portalDisconnect(ctx context.Context, id string, cookie func(name string) Secret, connection string) (PortalConnection, RevokedUpstream, error) {
	portal, caller, err := s.openedPortal(ctx, id, cookie)
	if err != nil {
		return PortalConnection{}, "", err
	}
	conn, err := s.connectionOfVisit(ctx, portal, caller, connection)
	if err != nil {
		return PortalConnection{}, "", err
	}
	if conn.Direct {
		return PortalConnection{}, "", Errorf(CodeInvalidRequest, "nobody consented to this connection: its connector's own credentials obtain its tokens, and the operator ends that")
	}
	outcome, err := detach(s, ctx, func(ctx context.Context) (RevokedUpstream, error) {
		return s.revoke(ctx, caller, conn, "disconnected by the user on the page My connections", false)
	})
	if err != nil {
		return PortalConnection{}, "", err
	}
	return s.portalConnection(ctx, caller.Client, conn), outcome, nil
}

// connectionOfVisit reads a connection that the visit may see: of its subject, and of its client's connectors. Any other looks
// as if there were none.
func (s *Service) connectionOfVisit(ctx context.Context, portal Portal, caller Caller, id string) (Connection, error) {
	conn, err := s.ownConnection(ctx, caller, id)
	if err != nil && CodeOf(err) != CodeAccessDenied {
		return Connection{}, err
	}
	if err != nil || conn.Subject != portal.Subject {
		return Connection{}, Errorf(CodeNotFound, "there is no such connection")
	}
	return conn, nil
}

func (s *Service) portalConnection(ctx context.Context, client Client, conn Connection) PortalConnection {
	connector := s.shownConnector(ctx, conn.Tenant, conn.Connector)
	return PortalConnection{ClientID: client.ID, Connection: effective(conn, s.cfg.Now()), Connector: connector, Scopes: pageScopes(connector, conn.Scopes)}
}

// shownConnector is a connector as users read of it; one that is gone from the configuration has only its id.
func (s *Service) shownConnector(ctx context.Context, tenant, id string) Connector {
	if c, ok := s.connectorsOf(ctx, tenant).Connector(id); ok {
		return c
	}
	return Connector{ID: id, Name: id}
}

// pageScopes puts the scopes into words: those that are offered in their order, then what nobody described. What the broker
// adds for itself is left out.
func pageScopes(connector Connector, scopes ScopeSet) []PageScope {
	var out []PageScope
	for _, info := range connector.Scopes {
		if scopes.Has(info.Name) {
			out = append(out, PageScope{ScopeInfo: info})
		}
	}
	for _, name := range scopes.Minus(offeredScopes(connector)).Minus(connector.Implied).All() {
		out = append(out, PageScope{ScopeInfo: ScopeInfo{Name: name}})
	}
	if len(out) == 0 && connector.Whole != nil {
		out = append(out, PageScope{ScopeInfo: *connector.Whole})
	}
	return out
}

// portalUsesOf puts entries, newest first, into lines: one for what the same assistant did with the same permissions on the
// same day, at the place of its newest.
func (s *Service) portalUsesOf(ctx context.Context, tenant string, entries []Entry, accounts map[string]Account) []PortalUse {
	var uses []PortalUse
	lines := map[string]int{}
	for _, e := range entries {
		names := make([]string, len(e.Scopes))
		for i, scope := range e.Scopes {
			names[i] = scope.Scope
		}
		scopes := NewScopeSet(names...)
		key := strings.Join([]string{
			string(e.Type), e.Time.UTC().Format(time.DateOnly), e.Client, e.Actor.Agent, e.Actor.Tool, e.Connector, e.Connection, e.Outcome, e.Portal, scopes.String(),
		}, "\x00")
		i, known := lines[key]
		if !known {
			connector := s.shownConnector(ctx, tenant, e.Connector)
			use := PortalUse{
				Type: e.Type, Last: e.Time, ClientName: e.Client, Actor: Actor{Agent: e.Actor.Agent, Tool: e.Actor.Tool}, Connector: connector,
				Connection: e.Connection, Account: accounts[e.Connection], Scopes: pageScopes(connector, scopes), Outcome: e.Outcome, ByUser: e.Portal != "",
			}
			if client, ok := s.cfg.Client(e.Client); ok && client.Tenant == tenant {
				use.ClientName = cmp.Or(client.Name, client.ID)
			}
			i, lines[key] = len(uses), len(uses)
			uses = append(uses, use)
		}
		use := &uses[i]
		use.First = e.Time
		use.Count++
		if e.Reason != "" && len(use.Reasons) < portalReasons && !slices.Contains(use.Reasons, e.Reason) {
			use.Reasons = append(use.Reasons, e.Reason)
		}
	}
	return uses
}
