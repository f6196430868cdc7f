package broker

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode/utf8"
)

// This file is what operators see and do with connected accounts. Each use case asks what the operator may do, then records what
// is about to be seen or done, and only then does it.

// AccountFilter selects connections; zero fields select nothing out. Since is inclusive, Until exclusive.
type AccountFilter struct {
	Tenant    string // "": all that the operator may see
	Connector string
	Status    ConnectionStatus // as Connection.Effective has it
	Error     string
	Scope     string // that the connection has
	Since     time.Time
	Until     time.Time
}

// matches tells whether connections of that class pass, as far as the class tells, for that operator.
func (f AccountFilter) matches(op Operator) func(ConnectionClass) bool {
	return func(c ConnectionClass) bool {
		return (f.Tenant == "" || c.Tenant == f.Tenant) && (f.Connector == "" || c.Connector == f.Connector) && (f.Status == "" || c.Status == f.Status) &&
			(f.Error == "" || c.Error == f.Error) && (f.Scope == "" || c.Scopes.Has(f.Scope)) && op.May(PermitAccounts, c.Tenant)
	}
}

// words are the filter for the trail.
func (f AccountFilter) words() string {
	out := "connected accounts"
	for _, part := range [][2]string{
		{"tenant", f.Tenant}, {"connector", f.Connector}, {"status", string(f.Status)}, {"error", f.Error}, {"scope", f.Scope}, {"since", dateWord(f.Since)}, {"until", dateWord(f.Until)},
	} {
		if part[1] != "" {
			out += ", " + part[0] + " " + part[1]
		}
	}
	return firstBytes(out, maxReason)
}

func dateWord(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// AccountPage is a page of connections.
type AccountPage struct {
	Rows []Connection // newest first, each as Connection.Effective has it
	Next string       // the cursor of the next page; "": there is none
	// Matching is how many there are; -1: not known, for a filter by time.
	Matching int
}

// Accounts pages through the connections that the operator may see, newest first. limit is 1 to 200.
func (s *Service) Accounts(ctx context.Context, op Operator, f AccountFilter, cursor string, limit int) (AccountPage, error) {
	if err := op.checkAny(PermitAccounts, f.Tenant); err != nil {
		return AccountPage{}, err
	}
	p := purpose("accounts", f.Tenant, f.Connector, string(f.Status), f.Error, f.Scope, dateWord(f.Since), dateWord(f.Until))
	position, err := s.openCursor(p, cursor)
	if err != nil {
		return AccountPage{}, err
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorViewed, Connection{Tenant: f.Tenant, Connector: f.Connector}, f.words())); err != nil {
		return AccountPage{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	match := f.matches(op)
	page := AccountPage{Matching: -1}
	rows, next, err := s.cfg.Index.NewestOf(ctx, match, f.Since, f.Until, position, limit)
	if err != nil {
		return AccountPage{}, storeError("list the connected accounts", err)
	}
	for _, c := range rows {
		page.Rows = append(page.Rows, c.Effective(s.cfg.Now()))
	}
	if f.Since.IsZero() && f.Until.IsZero() {
		classes, err := s.cfg.Index.Classes(ctx)
		if err != nil {
			return AccountPage{}, storeError("count the connected accounts", err)
		}
		page.Matching = 0
		for _, c := range classes {
			if match(c.ConnectionClass) {
				page.Matching += c.Count
			}
		}
	}
	page.Next, err = s.sealCursor(p, next)
	return page, err
}

// maxSubjectTenants bounds in how many tenants a subject is looked for at once.
const maxSubjectTenants = 100

// maxSubject is how long a subject may be (contract.md).
const maxSubject = 256

// SubjectAccounts are the connections of exactly that subject, in each of those tenants that the operator may see: keys in the
// store are keyed hashes, so there is no other way to look for one. unreadable are ids of records that do not open.
func (s *Service) SubjectAccounts(ctx context.Context, op Operator, tenants []string, subject string) (rows []Connection, unreadable []string, err error) {
	tenants = op.Tenants(PermitAccounts, tenants)
	switch {
	case len(tenants) == 0:
		return nil, nil, Errorf(CodeNotFound, "there is no such tenant")
	case len(tenants) > maxSubjectTenants:
		return nil, nil, Errorf(CodeInvalidRequest, "choose a tenant: a subject is looked for in %d of them at most", maxSubjectTenants)
	}
	if subject == "" || len(subject) > maxSubject || !utf8.ValidString(subject) || strings.ContainsFunc(subject, isControl) {
		return nil, nil, Errorf(CodeInvalidRequest, "a subject is 1 to %d bytes of text without control characters, exactly as the client names it", maxSubject)
	}
	for _, tenant := range tenants {
		entry := operatorEntry(EventOperatorViewed, Connection{Tenant: tenant, Subject: subject}, "connected accounts of one subject")
		if err := s.recordOperator(ctx, op, entry); err != nil {
			return nil, nil, err
		}
		found, err := s.subjectAccounts(ctx, tenant, subject)
		var bad *UnreadableError
		if errors.As(err, &bad) {
			unreadable, err = append(unreadable, bad.IDs...), nil
		}
		if err != nil {
			return nil, nil, storeError("find the subject", err)
		}
		for _, c := range found {
			rows = append(rows, c.Effective(s.cfg.Now()))
		}
	}
	return rows, unreadable, nil
}

func (s *Service) subjectAccounts(ctx context.Context, tenant, subject string) ([]Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StoreTimeout)
	defer cancel()
	return s.cfg.Connections.OfSubject(ctx, tenant, subject, "")
}

// AccountView is one connection with what an operator may do about it.
type AccountView struct {
	Connection // as Effective has it
	// Known: its connector is configured; ConnectorName is what users read.
	Known         bool
	ConnectorName string
	// Refreshable: a refresh may be tried now. EndsAccess: it would end the access token that is in use.
	Refreshable bool
	EndsAccess  bool
	// Linkable: a new consent link can be made for it; NoLink says why not.
	Linkable bool
	NoLink   string
	// Typed: with a new link the user is shown a short code, to be typed in the client's chat.
	Typed bool
	// Unreadable: its sealed part does not open, and all that can be done is to revoke it.
	Unreadable bool
}

// Account is one connection for an operator.
func (s *Service) Account(ctx context.Context, op Operator, tenant, id string) (AccountView, error) {
	conn, err := s.operatorsConnection(ctx, op, PermitAccounts, tenant, id)
	if err != nil && !errors.Is(err, ErrIntegrity) {
		return AccountView{}, err
	}
	broken := err != nil
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorViewed, conn, "connected account")); err != nil {
		return AccountView{}, err
	}
	return s.accountView(ctx, conn, broken), nil
}

func (s *Service) accountView(ctx context.Context, conn Connection, broken bool) AccountView {
	s.know(ctx, conn.Tenant, conn.Connector)
	v := AccountView{Connection: conn.Effective(s.cfg.Now()), Unreadable: broken}
	connector, known := s.cfg.Connectors.Connector(conn.Connector)
	v.Known, v.ConnectorName, v.EndsAccess = known, connector.Name, connector.RefreshEndsAccess
	v.Refreshable = known && !broken && v.Status == ConnectionActive && conn.renews()
	_, client, err := s.linkRequest(ctx, conn)
	v.Linkable = err == nil && !broken
	var public *Error
	if errors.As(err, &public) {
		v.NoLink = public.Description
	}
	v.Typed = bindingOf(client, "") == BindingCode
	return v
}

// operatorsConnection reads one for an operator who has the permission. With ErrIntegrity comes what is known of it all the same.
func (s *Service) operatorsConnection(ctx context.Context, op Operator, p Permission, tenant, id string) (Connection, error) {
	if err := op.Check(p, tenant); err != nil {
		return Connection{}, err
	}
	bare := Connection{Tenant: tenant, ID: id}
	if _, ok := ShardOfID(id); !ok || tenant == Everywhere {
		return Connection{}, Errorf(CodeNotFound, "there is no such connection")
	}
	conn, err := s.reread(ctx, bare)
	switch {
	case errors.Is(err, ErrNotFound):
		return Connection{}, Errorf(CodeNotFound, "there is no such connection")
	case errors.Is(err, ErrIntegrity):
		return bare, s.integrityFailed(ctx, Caller{Client: Client{Tenant: tenant}, RequestID: op.RequestID, TraceID: op.TraceID}, bare, "connection record", err)
	case err != nil:
		return Connection{}, storeError("read the connection", err)
	}
	return conn, nil
}

// timelinePage is how many events a page of a timeline has at most; several scopes at once are several events, and one entry.
const timelinePage = 60

// Timeline is what happened with a connection.
type Timeline struct {
	Entries []Entry   // the newest first
	Next    string    // the cursor of what was before; "": that was all
	Reached time.Time // up to which time the trail was looked at, where Next is not ""
}

// AccountEvents pages through what happened with the connection. That operators looked at it is left out, or each look would add
// a line. There may be few entries on a page, or none, and more on the next: it looks at the trail for a bounded time.
func (s *Service) AccountEvents(ctx context.Context, op Operator, conn Connection, cursor string) (Timeline, error) {
	if err := op.Check(PermitAccounts, conn.Tenant); err != nil {
		return Timeline{}, err
	}
	p := purpose("account events", conn.Tenant, conn.ID)
	position, err := s.openCursor(p, cursor)
	if err != nil {
		return Timeline{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	page, err := s.cfg.Search.SearchEvents(ctx, conn.Tenant, EventSearch{
		Filter: EventFilter{Subject: conn.Subject, Connection: conn.ID}, Position: position, Limit: timelinePage,
	})
	if err != nil {
		return Timeline{}, storeError("read what happened", err)
	}
	t := Timeline{Reached: page.Reached}
	for _, e := range page.Events {
		if e.Type == EventOperatorViewed {
			continue
		}
		scope := EventScope{ID: e.ID, Scope: e.Scope, Requested: e.Requested}
		entry := Entry{
			Type: e.Type, Time: e.Time, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject, Actor: e.Actor, Connector: e.Connector, Connection: e.Connection,
			Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
		}
		if n := len(t.Entries); n > 0 && sameEntry(t.Entries[n-1], entry) {
			t.Entries[n-1].Scopes = append(t.Entries[n-1].Scopes, scope)
			continue
		}
		entry.Scopes = []EventScope{scope}
		t.Entries = append(t.Entries, entry)
	}
	t.Next, err = s.sealCursor(p, page.Next)
	return t, err
}

// sameEntry tells whether events are of one entry: they differ in their scopes alone.
func sameEntry(a, b Entry) bool {
	return a.Type == b.Type && a.Time.Equal(b.Time) && a.RequestID == b.RequestID && a.Outcome == b.Outcome && a.Reason == b.Reason && a.Client == b.Client && a.Actor == b.Actor && a.Portal == b.Portal
}

func isControl(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }

// RevokeAccount ends a connection for an operator: its secrets are erased in any case, and the result says what the provider did.
func (s *Service) RevokeAccount(ctx context.Context, op Operator, tenant, id, reason string) (RevokedUpstream, error) {
	if err := errors.Join(op.Check(PermitActions, tenant), ValidateReason(reason)); err != nil {
		return "", firstOf(err)
	}
	conn, err := s.operatorsConnection(ctx, op, PermitActions, tenant, id)
	if err != nil && !errors.Is(err, ErrIntegrity) {
		return "", err // what does not open is erased all the same
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorRevoked, conn, reason)); err != nil {
		return "", err
	}
	return detach(s, ctx, func(ctx context.Context) (RevokedUpstream, error) {
		caller := Caller{Client: Client{Tenant: tenant}, RequestID: op.RequestID, TraceID: op.TraceID}
		return s.revoke(ctx, caller, conn, "ended by an operator", false)
	})
}

// RefreshAccount refreshes a connection now, as a request for a token would. It returns the connection as it is then.
func (s *Service) RefreshAccount(ctx context.Context, op Operator, tenant, id, reason string) (Connection, error) {
	if err := errors.Join(op.Check(PermitActions, tenant), ValidateReason(reason)); err != nil {
		return Connection{}, firstOf(err)
	}
	conn, err := s.operatorsConnection(ctx, op, PermitActions, tenant, id)
	if err != nil {
		return Connection{}, err
	}
	if !s.accountView(ctx, conn, false).Refreshable {
		return Connection{}, Errorf(CodeInvalidRequest, "there is nothing to refresh: the connection is not active, has no refresh token, or its connector is not configured")
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorRefreshed, conn, reason)); err != nil {
		return Connection{}, err
	}
	fresh, err := s.refresher.asked(ctx, conn, op, "an operator asked for it")
	if errors.Is(err, ErrConflict) {
		return Connection{}, Errorf(CodeConsentRequired, "the connection is not active any more: the provider ended the grant, or somebody revoked it; the user must consent again").Because(err)
	}
	return fresh.Effective(s.cfg.Now()), err
}

// LinkAccount makes a consent link that renews the connection, on behalf of the client that it was made for.
func (s *Service) LinkAccount(ctx context.Context, op Operator, tenant, id, reason string) (ConsentLink, error) {
	if err := errors.Join(op.Check(PermitActions, tenant), ValidateReason(reason)); err != nil {
		return ConsentLink{}, firstOf(err)
	}
	conn, err := s.operatorsConnection(ctx, op, PermitActions, tenant, id)
	if err != nil {
		return ConsentLink{}, err
	}
	req, client, err := s.linkRequest(ctx, conn)
	if err != nil {
		return ConsentLink{}, err
	}
	// The client could not make one either, and nobody could use it.
	if err := s.mayGoOn(ctx, conn.Subject, switched{tenant: tenant, client: client.ID, connector: conn.Connector}); err != nil {
		return ConsentLink{}, err
	}
	if err := s.recordOperator(ctx, op, operatorEntry(EventOperatorLinkCreated, conn, reason)); err != nil {
		return ConsentLink{}, err
	}
	_, link, err := s.CreateConsent(ctx, Caller{Client: client, RequestID: op.RequestID, TraceID: op.TraceID}, req)
	return link, err
}

// linkRequest is what the connection's client would ask for, if it may.
func (s *Service) linkRequest(ctx context.Context, conn Connection) (ConsentRequest, Client, error) {
	client, ok := s.cfg.Client(conn.Client)
	switch {
	case !ok || client.Tenant != conn.Tenant:
		return ConsentRequest{}, Client{}, Errorf(CodeInvalidRequest, "the client that this connection was made for is not configured any more: there is nobody whom the user could complete the consent with")
	case conn.Direct:
		return ConsentRequest{}, client, Errorf(CodeInvalidRequest, "its connector obtains its tokens with its own credentials: nobody has to consent")
	}
	connectors := s.connectorsOf(ctx, conn.Tenant)
	req := ConsentRequest{Connector: conn.Connector, Subject: conn.Subject, Connection: conn.ID}
	if connector, ok := connectors.Connector(conn.Connector); ok {
		req.Scopes = conn.Scopes.Intersect(offeredScopes(connector))
		if client.Scopes != nil {
			req.Scopes = req.Scopes.Intersect(*client.Scopes)
		}
	}
	_, err := admit(client, connectors, req.Connector, req.Scopes)
	return req, client, err
}

// checkAny is Check; where no tenant is named, for any of them.
func (o Operator) checkAny(p Permission, tenant string) error {
	if tenant == Everywhere && o.MaySomewhere(p) {
		return nil
	}
	return o.Check(p, tenant)
}

// firstOf is the first of joined errors, so that the edge finds its code.
func firstOf(err error) error {
	var public *Error
	if errors.As(err, &public) {
		return public
	}
	return err
}

// operatorEntry begins an entry about what an operator sees or does with the connection, as far as there is one.
func operatorEntry(t EventType, conn Connection, reason string) Entry {
	return Entry{Type: t, Tenant: conn.Tenant, Subject: conn.Subject, Connector: conn.Connector, Connection: conn.ID, Reason: reason}
}
