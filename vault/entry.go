package vault

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"tokenbroker/broker"
)

// storedEntry is the sealed part of an audit entry: all of it. What is also in clear (link.go) is only for finding and
// checking entries cheaply.
type storedEntry struct {
	Type       string       `json:"ty"`
	Time       int64        `json:"tm"` // ms
	Tenant     string       `json:"t,omitempty"`
	Client     string       `json:"cl,omitempty"`
	Subject    string       `json:"sub,omitempty"`
	Actor      storedActor  `json:"act,omitzero"`
	Connector  string       `json:"cn,omitempty"`
	Connection string       `json:"con,omitempty"`
	Events     []entryEvent `json:"ev,omitempty"`
	Outcome    string       `json:"oc,omitempty"`
	Reason     string       `json:"rs,omitempty"`
	RequestID  string       `json:"rq,omitempty"`
	TraceID    string       `json:"tr,omitempty"`
	Portal     string       `json:"po,omitempty"`
}

type entryEvent struct {
	ID        string `json:"id,omitempty"`
	Scope     string `json:"s,omitempty"`
	Requested bool   `json:"r,omitempty"`
}

func storeEntry(e broker.Entry) storedEntry {
	out := storedEntry{
		Type: string(e.Type), Time: millis(e.Time), Tenant: e.Tenant, Client: e.Client, Subject: e.Subject, Actor: storedActor(e.Actor),
		Connector: e.Connector, Connection: e.Connection, Outcome: e.Outcome, Reason: e.Reason, RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
	}
	for _, s := range e.Scopes {
		out.Events = append(out.Events, entryEvent(s))
	}
	return out
}

// entry is the way back, for entries that wait in the spool.
func (e storedEntry) entry() broker.Entry {
	out := broker.Entry{
		Type: broker.EventType(e.Type), Time: fromMillis(e.Time), Tenant: e.Tenant, Client: e.Client, Subject: e.Subject,
		Actor: broker.Actor(e.Actor), Connector: e.Connector, Connection: e.Connection, Outcome: e.Outcome, Reason: e.Reason,
		RequestID: e.RequestID, TraceID: e.TraceID, Portal: e.Portal,
	}
	for _, s := range e.Events {
		out.Scopes = append(out.Scopes, broker.EventScope(s))
	}
	return out
}

// events are what readers see: one for each scope, one without a scope where there is none.
func (e storedEntry) events() []broker.Event { return e.entry().Events() }

// trailName names one audit stream.
type trailName struct {
	shard  byte
	tenant string
}

// String is how reports name it.
func (n trailName) String() string {
	return n.tenant + "/" + hex.EncodeToString([]byte{n.shard})
}

func (n trailName) compare(other trailName) int {
	return cmp.Or(cmp.Compare(n.shard, other.shard), strings.Compare(n.tenant, other.tenant))
}

// bodyPlace pins the sealed part to its stream and to everything that is in clear beside it. form is "1" for JSON.
func (n trailName) bodyPlace(form, meta string) []byte {
	return place("audit", n.tenant, hex.EncodeToString([]byte{n.shard}), "body", form, meta)
}

// sealBody seals an entry's payload. A byte before the seal marks the second form, which the seal names.
func (s *sealer) sealBody(n trailName, payload []byte, meta string) (string, error) {
	if len(payload) == 0 || payload[0] != entryBinary {
		return s.sealEntry(n.tenant, payload, n.bodyPlace("1", meta))
	}
	body, err := s.sealEntry(n.tenant, payload, n.bodyPlace("2", meta))
	return string([]byte{entryBinary}) + body, err
}

// openBody is sealBody backwards.
func (s *sealer) openBody(n trailName, e TrailEntry) ([]byte, error) {
	if len(e.Body) == 0 || e.Body[0] != entryBinary {
		return s.openEntry(n.tenant, []byte(e.Body), n.bodyPlace("1", e.Meta))
	}
	return s.openEntry(n.tenant, []byte(e.Body[1:]), n.bodyPlace("2", e.Meta))
}

// draft is an entry on its way into a chain.
type draft struct {
	payload   []byte // the sealed part, of whichever form
	time      int64
	kind      string
	connector string
	tag       string
}

// drafts encodes entries for a stream. An entry of another tenant has no place in it.
func (s *Store) drafts(tenant string, entries []broker.Entry) ([]draft, error) {
	out := make([]draft, len(entries))
	for i, e := range entries {
		if e.Tenant != tenant {
			return nil, fmt.Errorf("append %s: the entry is of another tenant than the record", e.Type)
		}
		payload, err := s.payload(&entries[i])
		if err != nil {
			return nil, err
		}
		out[i] = draft{payload: payload, time: millis(e.Time), kind: string(e.Type), connector: e.Connector, tag: s.auditTag(tenant, e.Subject)}
	}
	return out, nil
}

// payload is what of the entry is sealed.
func (s *Store) payload(e *broker.Entry) ([]byte, error) {
	if s.compact() {
		return appendEntry(make([]byte, 0, 512), e), nil
	}
	payload, err := json.Marshal(storeEntry(*e))
	if err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	return payload, nil
}

// openEntry opens the sealed part. broker.ErrKeyNotYet: its key may come.
func (s *Store) openEntry(name trailName, e TrailEntry) (payload []byte, entry storedEntry, err error) {
	payload, err = s.seals.openBody(name, e)
	if err != nil {
		return nil, storedEntry{}, fmt.Errorf("audit entry: %w", s.keyOfTrail(name, sealOf(e.Body), err))
	}
	if e.Body[0] == entryBinary {
		clear, _, err := parseMeta(e.Meta)
		entry, ok := parseEntry(payload, name.tenant, clear)
		if err != nil || !ok {
			return nil, storedEntry{}, fmt.Errorf("audit entry: sealed part: %w", broker.ErrIntegrity)
		}
		return payload, entry, nil
	}
	if err := json.Unmarshal(payload, &entry); err != nil {
		return nil, storedEntry{}, fmt.Errorf("audit entry: sealed part: %w", broker.ErrIntegrity)
	}
	return payload, entry, nil
}
