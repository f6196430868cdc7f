package broker

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// eventLine is an event as the API has it.
type eventLine struct {
	ID         string    `json:"id"`
	Time       string    `json:"time"`
	Type       EventType `json:"type"`
	Tenant     string    `json:"tenant"`
	Client     string    `json:"client"`
	Subject    string    `json:"subject"`
	Actor      lineActor `json:"actor"`
	Connector  string    `json:"connector"`
	Connection string    `json:"connection"`
	Scope      string    `json:"scope"`
	Requested  bool      `json:"requested"`
	Outcome    string    `json:"outcome"`
	Reason     string    `json:"reason"`
	RequestID  string    `json:"request_id"`
	TraceID    string    `json:"trace_id"`
	Portal     string    `json:"portal,omitzero"`
}

type lineActor struct {
	Agent string `json:"agent,omitzero"`
	Run   string `json:"run,omitzero"`
	Tool  string `json:"tool,omitzero"`
}

// Events are what readers see of the entry: one for each scope, one without a scope where there is none.
func (e Entry) Events() []Event {
	one := Event{
		Type: e.Type, Time: e.Time, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject, Actor: e.Actor, Connector: e.Connector,
		Connection: e.Connection, Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
	}
	if len(e.Scopes) == 0 {
		return []Event{one}
	}
	out := make([]Event, len(e.Scopes))
	for i, s := range e.Scopes {
		out[i] = one
		out[i].ID, out[i].Scope, out[i].Requested = s.ID, s.Scope, s.Requested
	}
	return out
}

// Line is the event as one line of JSON without its end, with the fields and forms that GET /v1/events has.
func (e Event) Line() ([]byte, error) {
	var b bytes.Buffer
	to := json.NewEncoder(&b)
	to.SetEscapeHTML(false)
	if err := to.Encode(eventLine{
		ID: e.ID, Time: e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), Type: e.Type, Tenant: e.Tenant, Client: e.Client, Subject: e.Subject, Actor: lineActor(e.Actor),
		Connector: e.Connector, Connection: e.Connection, Scope: e.Scope, Requested: e.Requested, Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID,
		TraceID: e.TraceID, Portal: e.Portal,
	}); err != nil {
		return nil, fmt.Errorf("write event: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'}), nil
}
