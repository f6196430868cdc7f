package api

import (
	"context"

	"tokenbroker/broker"
)

const (
	connectionsPage    = 50
	maxConnectionsPage = 200
)

// connectionAnswer is a connection as callers read it. A time that is not known, or that nothing will end at, is null.
type connectionAnswer struct {
	ID              string                  `json:"id"`
	Subject         string                  `json:"subject"`
	Connector       string                  `json:"connector"`
	Status          broker.ConnectionStatus `json:"status"`
	Scopes          []string                `json:"scopes"`
	Account         account                 `json:"account"`
	CreatedAt       *string                 `json:"created_at"`
	LastIssuedAt    *string                 `json:"last_issued_at"`
	LastRefreshedAt *string                 `json:"last_refreshed_at"`
	ExpiresAt       *string                 `json:"expires_at"`
	Error           string                  `json:"error,omitzero"`
	// ClientGeneration is left out where nobody counts.
	ClientGeneration int64 `json:"client_generation,omitzero"`
}

func showConnection(c broker.Connection) connectionAnswer {
	return connectionAnswer{
		ID: c.ID, Subject: c.Subject, Connector: c.Connector, Status: c.Status,
		Scopes: scopeArray(c.Scopes), Account: account(c.Account),
		CreatedAt: stampOrNull(c.CreatedAt), LastIssuedAt: stampOrNull(c.LastIssued),
		LastRefreshedAt: stampOrNull(c.LastRefreshed), ExpiresAt: stampOrNull(c.ExpiresAt()), Error: c.Error, ClientGeneration: c.ClientGeneration,
	}
}

func showConnections(list []broker.Connection) []connectionAnswer {
	shown := make([]connectionAnswer, 0, len(list))
	for _, c := range list {
		shown = append(shown, showConnection(c))
	}
	return shown
}

// connectionsAnswer is a page; next_cursor is null on the last one.
type connectionsAnswer struct {
	Connections []connectionAnswer `json:"connections"`
	NextCursor  *string            `json:"next_cursor"`
}

func (a *API) listConnections(ctx context.Context, in *request) (answer, error) {
	var f fields
	q := broker.ConnectionQuery{
		Subject: in.query["subject"],
		Filter: broker.ConnectionFilter{
			Connector: in.query["connector"],
			Status:    broker.ConnectionStatus(in.query["status"]),
		},
		Limit:  in.limit(&f, connectionsPage, maxConnectionsPage),
		Cursor: in.cursor(&f),
	}
	if q.Subject != "" {
		f.subject(q.Subject)
	}
	f.id("connector", q.Filter.Connector)
	switch q.Filter.Status {
	case "", broker.ConnectionActive, broker.ConnectionNeedsConsent, broker.ConnectionRevoked:
	default:
		f.refuse("status must be %s, %s or %s", broker.ConnectionActive, broker.ConnectionNeedsConsent, broker.ConnectionRevoked)
	}
	if f.err != nil {
		return answer{}, f.err
	}
	if err := a.cfg.Service.AdmitSubject(in.caller, q.Subject); err != nil {
		return answer{}, err
	}
	list, next, err := a.cfg.Service.ListConnections(ctx, in.caller, q)
	if err != nil {
		return answer{}, err
	}
	return ok(connectionsAnswer{Connections: showConnections(list), NextCursor: textOrNull(next)})
}

func (a *API) getConnection(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("connection")
	if err != nil {
		return answer{}, err
	}
	conn, err := a.cfg.Service.GetConnection(ctx, in.caller, id)
	if err != nil {
		return answer{}, err
	}
	return ok(showConnection(conn))
}

// disconnectAnswer tells what became of the grant at the provider; here the secrets are erased in any case.
type disconnectAnswer struct {
	RevokedUpstream broker.RevokedUpstream `json:"revoked_upstream"`
}

func (a *API) disconnect(ctx context.Context, in *request) (answer, error) {
	id, err := in.pathID("connection")
	if err != nil {
		return answer{}, err
	}
	revoked, err := a.cfg.Service.Disconnect(ctx, in.caller, id)
	if err != nil {
		return answer{}, err
	}
	return ok(disconnectAnswer{RevokedUpstream: revoked})
}
