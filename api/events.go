package api

import (
	"context"
	"strings"

	"tokenbroker/broker"
)

const (
	eventsPage    = 100
	maxEventsPage = 1000
)

// eventAnswer is one audit record about one scope. Every field but portal is always there, empty where it does not apply.
type eventAnswer struct {
	ID         string           `json:"id"`
	Time       string           `json:"time"`
	Type       broker.EventType `json:"type"`
	Tenant     string           `json:"tenant"`
	Client     string           `json:"client"`
	Subject    string           `json:"subject"`
	Actor      eventActor       `json:"actor"`
	Connector  string           `json:"connector"`
	Connection string           `json:"connection"`
	Scope      string           `json:"scope"`
	Requested  bool             `json:"requested"`
	Outcome    string           `json:"outcome"`
	Reason     string           `json:"reason"`
	RequestID  string           `json:"request_id"`
	TraceID    string           `json:"trace_id"`
	Portal     string           `json:"portal,omitzero"`
}

// eventActor has what the caller stated and nothing else.
type eventActor struct {
	Agent string `json:"agent,omitzero"`
	Run   string `json:"run,omitzero"`
	Tool  string `json:"tool,omitzero"`
}

// eventsAnswer is a page, oldest first; next_cursor is null on the last one.
type eventsAnswer struct {
	Events     []eventAnswer `json:"events"`
	NextCursor *string       `json:"next_cursor"`
}

func (a *API) listEvents(ctx context.Context, in *request) (answer, error) {
	var f fields
	q := broker.EventQuery{
		Filter: broker.EventFilter{
			Subject: in.query["subject"], Connector: in.query["connector"], Connection: in.query["connection"],
			Type: broker.EventType(in.query["type"]), Scope: in.query["scope"],
			Since: in.moment(&f, "since"), Until: in.moment(&f, "until"),
		},
		Limit:  in.limit(&f, eventsPage, maxEventsPage),
		Cursor: in.cursor(&f),
	}
	if q.Filter.Subject != "" {
		f.subject(q.Filter.Subject)
	}
	f.id("connector", q.Filter.Connector)
	f.id("connection", q.Filter.Connection)
	if q.Filter.Type != "" && !isEventType(q.Filter.Type) {
		f.refuse("type must be one of %s, or another one of operator.", broker.EventTypeList())
	}
	if q.Filter.Scope != "" && !isScope(q.Filter.Scope) {
		f.refuse("scope must be one scope")
	}
	if !q.Filter.Since.IsZero() && !q.Filter.Until.IsZero() && q.Filter.Until.Before(q.Filter.Since) {
		f.refuse("until must not be before since")
	}
	if f.err != nil {
		return answer{}, f.err
	}
	if err := a.cfg.Service.AdmitSubject(in.caller, q.Filter.Subject); err != nil {
		return answer{}, err
	}
	list, next, err := a.cfg.Service.ListEvents(ctx, in.caller, q)
	if err != nil {
		return answer{}, err
	}
	shown := make([]eventAnswer, 0, len(list))
	for _, e := range list {
		shown = append(shown, eventAnswer{
			ID: e.ID, Time: stamp(e.Time), Type: e.Type, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject,
			Actor: eventActor(e.Actor), Connector: e.Connector, Connection: e.Connection, Scope: e.Scope,
			Requested: e.Requested, Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
		})
	}
	return ok(eventsAnswer{Events: shown, NextCursor: textOrNull(next)})
}

// isEventType refuses what no event can have, so that a misspelt filter is an error and not an empty answer. What
// operators do grows freely under operator.
func isEventType(t broker.EventType) bool {
	action, isOperator := strings.CutPrefix(string(t), "operator.")
	return t.Known() || isOperator && action != "" && len(action) <= 64 && !strings.ContainsFunc(action, func(r rune) bool {
		return r != '_' && (r < 'a' || r > 'z')
	})
}
