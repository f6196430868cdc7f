package broker

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// This file holds the read models. None of their types can hold a secret.

// GetConnection returns one of the caller's tenant.
func (s *Service) GetConnection(ctx context.Context, caller Caller, id string) (Connection, error) {
	conn, err := s.ownConnection(ctx, caller, id)
	if err != nil {
		return Connection{}, err
	}
	return effective(conn, s.cfg.Now()), nil
}

func (s *Service) ownConnection(ctx context.Context, caller Caller, id string) (Connection, error) {
	missing := Errorf(CodeNotFound, "there is no such connection")
	if _, ok := ShardOfID(id); !ok {
		return Connection{}, missing
	}
	conn, err := s.reread(ctx, Connection{Tenant: caller.Client.Tenant, ID: id})
	switch {
	case errors.Is(err, ErrNotFound):
		return Connection{}, missing
	case errors.Is(err, ErrIntegrity):
		return Connection{}, s.integrityFailed(ctx, caller, Connection{Tenant: caller.Client.Tenant, ID: id}, "connection record", err)
	case err != nil:
		return Connection{}, storeError("read the connection", err)
	}
	if !mayUse(caller.Client, conn.Connector) {
		return Connection{}, errConnectorDenied(conn.Connector)
	}
	return conn, nil
}

// effective is the connection with its end applied: one that can't be renewed needs consent once its tokens ended, also
// if nobody has asked for one since.
func effective(c Connection, now time.Time) Connection {
	if c.Status != ConnectionActive || c.renews() {
		return c
	}
	for _, t := range c.Tokens {
		if t.Never || t.ExpiresAt.After(now) {
			return c
		}
	}
	c.Status, c.Error = ConnectionNeedsConsent, ErrorExpired
	return c
}

// ListConnections pages through the caller's tenant, or through one subject of it.
func (s *Service) ListConnections(ctx context.Context, caller Caller, q ConnectionQuery) ([]Connection, string, error) {
	if q.Subject == "" {
		return s.listTenant(ctx, caller.Client, q)
	}
	all, err := s.readable(ctx, caller, q.Subject, q.Filter.Connector)
	if err != nil {
		return nil, "", err
	}
	position, err := s.openCursor(purpose("connections", caller.Client.Tenant, q.Subject, q.Filter.Connector, string(q.Filter.Status)), q.Cursor)
	if err != nil {
		return nil, "", err
	}
	var page []Connection
	for _, c := range all {
		if c = effective(c, s.cfg.Now()); mayUse(caller.Client, c.Connector) && subjectPosition(c) > position && (q.Filter.Status == "" || c.Status == q.Filter.Status) {
			page = append(page, c)
		}
	}
	if len(page) <= q.Limit {
		return page, "", nil
	}
	page = page[:q.Limit]
	next, err := s.sealCursor(purpose("connections", caller.Client.Tenant, q.Subject, q.Filter.Connector, string(q.Filter.Status)), subjectPosition(page[len(page)-1]))
	return page, next, err
}

// subjectPosition orders a subject's connections as the store does: by age, then by id. It is compared, not looked for:
// the connection that a page ended with may be gone when the next one is asked for.
func subjectPosition(c Connection) string {
	return fmt.Sprintf("%016x %s", c.CreatedAt.UnixMilli(), c.ID)
}

// listRounds bounds how many pages of the store one page of ours may take, where a filter passes few.
const listRounds = 20

// listTenant filters by the status as callers see it, which the store does not know: a connection whose token ended needs
// consent, whether or not somebody has noticed.
func (s *Service) listTenant(ctx context.Context, client Client, q ConnectionQuery) ([]Connection, string, error) {
	tenant := client.Tenant
	p := purpose("connections", tenant, "", q.Filter.Connector, string(q.Filter.Status))
	position, err := s.openCursor(p, q.Cursor)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	var page []Connection
	for range listRounds {
		// Never more than there is room for: a position lies behind a page of the store, not within one.
		rows, next, err := s.cfg.Connections.List(ctx, tenant, ConnectionFilter{Connector: q.Filter.Connector}, position, q.Limit-len(page))
		if err != nil {
			return nil, "", storeError("list the connections", err)
		}
		for _, c := range rows {
			if c = effective(c, s.cfg.Now()); mayUse(client, c.Connector) && (q.Filter.Status == "" || c.Status == q.Filter.Status) {
				page = append(page, c)
			}
		}
		if position = next; position == "" || len(page) == q.Limit {
			break
		}
	}
	cursor, err := s.sealCursor(p, position)
	return page, cursor, err
}

// SubjectConnectors lists every connector that this client may use, with the subject's connections: what a chat shows in
// its settings.
func (s *Service) SubjectConnectors(ctx context.Context, caller Caller, subject string) ([]SubjectConnector, error) {
	all, err := s.readable(ctx, caller, subject, "")
	if err != nil {
		return nil, err
	}
	var rows []SubjectConnector
	for _, connector := range s.ListConnectors(caller) {
		if connector.OfTenant() {
			continue // there is nothing of it that a user could connect
		}
		row := SubjectConnector{Connector: connector}
		for _, c := range all {
			if c.Connector == connector.ID && c.Status != ConnectionRevoked {
				row.Connections = append(row.Connections, effective(c, s.cfg.Now()))
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// ListConnectors lists the connectors that this client may use, each with the scopes that it may ask.
func (s *Service) ListConnectors(caller Caller) []Connector {
	var mine []Connector
	for _, c := range s.connectorsOf(context.Background(), caller.Client.Tenant).All() {
		if !mayUse(caller.Client, c.ID) {
			continue
		}
		if ceiling := caller.Client.Scopes; ceiling != nil {
			offered := len(c.Scopes)
			c.Scopes = slices.DeleteFunc(slices.Clone(c.Scopes), func(s ScopeInfo) bool { return !ceiling.Has(s.Name) })
			c.Default = c.Default.Intersect(*ceiling)
			if offered > 0 && len(c.Scopes) == 0 {
				continue // nothing of it is within what this client may have
			}
		}
		mine = append(mine, c)
	}
	return mine
}

// ListEvents pages through the audit events of the caller's tenant, oldest first.
func (s *Service) ListEvents(ctx context.Context, caller Caller, q EventQuery) ([]Event, string, error) {
	f := q.Filter
	p := purpose("events", caller.Client.Tenant, f.Subject, f.Connector, f.Connection, string(f.Type), f.Scope,
		f.Since.UTC().Format(time.RFC3339Nano), f.Until.UTC().Format(time.RFC3339Nano))
	position, err := s.openCursor(p, q.Cursor)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*s.cfg.StoreTimeout)
	defer cancel()
	page, next, err := s.cfg.Audit.Events(ctx, caller.Client.Tenant, f, position, q.Limit)
	if err != nil {
		return nil, "", storeError("read the events", err)
	}
	cursor, err := s.sealCursor(p, next)
	return page, cursor, err
}

// purpose binds a cursor to the query that it continues: of another tenant or another filter it is worth nothing.
func purpose(kind string, parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return kind + ":" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

func (s *Service) sealCursor(purpose, position string) (string, error) {
	if position == "" {
		return "", nil
	}
	cursor, err := s.cfg.Cursors.SealCursor(purpose, position)
	if err != nil {
		return "", serverError(err)
	}
	return cursor, nil
}

func (s *Service) openCursor(purpose, cursor string) (string, error) {
	if cursor == "" {
		return "", nil
	}
	position, err := s.cfg.Cursors.OpenCursor(purpose, cursor)
	if err != nil {
		return "", Errorf(CodeInvalidRequest, "this cursor was not made for this query; take next_cursor from the page before, with the same filters, or leave it out").Because(err)
	}
	return position, nil
}

// RecordOperator records what an operator did. Not recorded means not done: callers go on only without an error.
func (s *Service) RecordOperator(ctx context.Context, op Operator, t EventType, outcome, reason string) error {
	entry := Entry{
		Type: t, Time: s.cfg.Now().UTC(), Actor: Actor{Agent: op.ID}, Outcome: outcome, Reason: reason, RequestID: op.RequestID, TraceID: op.TraceID,
	}
	var err error
	if entry.Scopes, err = s.eventScopes(ScopeSet{}, ScopeSet{}); err != nil {
		return serverError(err)
	}
	return s.append(ctx, entry)
}
