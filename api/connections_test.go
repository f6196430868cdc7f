package api

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

func sampleConnection() broker.Connection {
	return broker.Connection{
		ID: "c1", Tenant: "acme", Subject: "u", Connector: "files", Client: "acme-chat", Status: broker.ConnectionNeedsConsent,
		Error: "revoked", Scopes: broker.NewScopeSet("r"), Account: broker.Account{ID: "1"}, CreatedAt: testTime,
		LastIssued: testTime.Add(time.Minute), LastRefreshed: testTime.Add(time.Hour), RefreshExpiry: testTime.Add(2 * time.Hour), Renewable: true,
		Extra: map[string]string{"k": "v"}, Vars: map[string]string{"k": "v"},
	}
}

func TestListConnections(t *testing.T) {
	b := newBench(t)
	var got broker.ConnectionQuery
	next := ""
	b.service.listConnections = func(q broker.ConnectionQuery) ([]broker.Connection, string, error) {
		got = q
		return []broker.Connection{sampleConnection()}, next, nil
	}
	r := b.call("GET", "/v1/connections", "")
	want := map[string]any{"connections": []any{map[string]any{"id": "c1", "subject": "u", "connector": "files", "status": "needs_consent",
		"error": "revoked", "scopes": []any{"r"}, "account": map[string]any{"id": "1", "name": "", "email": ""},
		"created_at": "2026-11-24T11:00:00.123Z", "last_issued_at": "2026-11-24T11:01:00.123Z", "last_refreshed_at": "2026-11-24T12:00:00.123Z",
		"expires_at": "2026-11-24T13:00:00.123Z"}}, "next_cursor": nil}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	if !reflect.DeepEqual(got, broker.ConnectionQuery{Limit: 50}) {
		t.Errorf("query became %+v", got)
	}

	next = "CURSOR"
	r = b.call("GET", "/v1/connections?subject=a%2Fb%25%7B%7D&connector=files&status=active&limit=200&cursor=x.y", "")
	if r.status != 200 || r.object["next_cursor"] != "CURSOR" {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	wantQ := broker.ConnectionQuery{Subject: "a/b%{}", Filter: broker.ConnectionFilter{Connector: "files", Status: broker.ConnectionActive}, Limit: 200, Cursor: "x.y"}
	if !reflect.DeepEqual(got, wantQ) {
		t.Errorf("query became %+v", got)
	}

	// As the contract writes it, with all parameters there and empty.
	b.service.listConnections = func(q broker.ConnectionQuery) ([]broker.Connection, string, error) { got = q; return nil, "", nil }
	r = b.raw("GET /v1/connections?subject=&connector=&status=&limit=&cursor= HTTP/1.1\r\nHost: x\r\nAuthorization: bearer  " + acmeNew + "\r\n\r\n")
	if r.status != 200 || r.text != `{"connections":[],"next_cursor":null}` || !reflect.DeepEqual(got, broker.ConnectionQuery{Limit: 50}) {
		t.Errorf("answer is %d %s, query became %+v", r.status, r.text, got)
	}
}

func TestBadQueries(t *testing.T) {
	b := newBench(t)
	for query, says := range map[string]string{
		"connections?limit=0":                                          "limit must",
		"connections?limit=201":                                        "limit must",
		"connections?limit=-1":                                         "limit must",
		"connections?limit=1e2":                                        "limit must",
		"connections?limit=50&limit=50":                                "limit is there more than once",
		"connections?status=gone":                                      "status must",
		"connections?Status=active":                                    "parameter Status is unknown; known are subject",
		"connections?access_token=CANARY":                              "parameter access_token is unknown",
		"connections?tbk_CANARY_0123456789":                            "parameter (not shown) is unknown",
		"connections?subject=a%0Ab":                                    "subject must",
		"connections?subject=%ff":                                      "subject is not valid UTF-8",
		"connections?subject=%zz":                                      "not well formed",
		"connections?subject=a;status=b":                               "not well formed",
		"connections?connector=a%20b":                                  "connector must",
		"connections?cursor=%00":                                       "cursor must",
		"events?limit=1001":                                            "limit must",
		"events?since=yesterday":                                       "since must",
		"events?since=2026-01-31T12:00:00+01:00":                       "%2B",
		"events?until=2026-13-31T12:00:00Z":                            "until must",
		"events?type=token.isued":                                      "type must",
		"events?type=operator.":                                        "type must",
		"events?scope=a%20b":                                           "scope must",
		"events?connection=a%2Fb":                                      "connection must",
		"events?status=active":                                         "parameter status is unknown",
		"connectors?x=1":                                               "takes no query",
		"connections/c1?limit=1":                                       "takes no query",
		"subjects/u/connectors?x":                                      "takes no query",
		"connections?subject=" + strings.Repeat("x", 17<<10):           "longer than",
		"events?since=2026-01-31T12:00:00Z&until=2026-01-31T11:00:00Z": "until must not",
	} {
		r := b.call("GET", "/v1/"+query, "")
		r.refused(t, http.StatusBadRequest, broker.CodeInvalidRequest)
		if !strings.Contains(r.text, says) {
			t.Errorf("%.80s: %s does not say %q", query, r.text, says)
		}
		if strings.Contains(r.text, "CANARY") {
			t.Errorf("%s: the answer repeats the value", query)
		}
	}
	b.call("POST", "/v1/tokens?x=1", `{"connector":"files","subject":"u"}`).refused(t, 400, broker.CodeInvalidRequest)
	b.call("DELETE", "/v1/connections/c1?force=1", "").refused(t, 400, broker.CodeInvalidRequest)
	if n := b.service.calls(); n != 0 {
		t.Errorf("the service was called %d times", n)
	}
}

func TestOneConnection(t *testing.T) {
	b := newBench(t)
	b.service.getConnection = func(id string) (broker.Connection, error) {
		if id != "xK3-_~.:@" {
			t.Errorf("id is %q", id)
		}
		return sampleConnection(), nil
	}
	if r := b.call("GET", "/v1/connections/xK3-_~.:@", ""); r.status != 200 || r.object["id"] != "c1" {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	if r := b.call("GET", "/v1/connections/xK3-_~%2e%3A@", ""); r.status != 200 {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	for _, outcome := range []broker.RevokedUpstream{broker.RevokedDone, broker.RevokedUnsupported, broker.RevokedFailed} {
		b.service.disconnect = func(string) (broker.RevokedUpstream, error) { return outcome, nil }
		if r := b.call("DELETE", "/v1/connections/c1", ""); r.status != 200 || r.text != `{"revoked_upstream":"`+string(outcome)+`"}` {
			t.Errorf("answer is %d %s", r.status, r.text)
		}
	}
	b.call("DELETE", "/v1/connections/c1", `{}`).refused(t, 400, broker.CodeInvalidRequest)
}

// Subjects are opaque: whatever the contract allows in one arrives as it was sent, decoded once.
func TestSubjectsInPaths(t *testing.T) {
	b := newBench(t)
	var got string
	b.service.subjectConnectors = func(s string) ([]broker.SubjectConnector, error) { got = s; return nil, nil }
	b.service.eraseSubject = func(s string) (broker.Erased, error) { got = s; return broker.Erased{}, nil }
	for _, subject := range []string{
		"u", "a/b", "a{b}c", "}{", "{acme}", "😀", "ü", "%2F", "%252F", "100%", "a b", "a+b", "..", ".", "../..", "//", "/connectors", "connectors",
		":subject", "*", "a?b#c", "a;b", "a\\b", "a:b@c", "\u2028", "\u202e", "user@example.com", strings.Repeat("x", 256), "<script>", "'\"`$(x)",
	} {
		for _, call := range [][2]string{{"GET", "/connectors"}, {"DELETE", ""}} {
			got = ""
			r := b.call(call[0], "/v1/subjects/"+pathEscapeAll(subject)+call[1], "")
			if r.status != 200 || got != subject {
				t.Errorf("%s %q: answer %d, the service heard %q", call[0], subject, r.status, got)
			}
		}
	}
	// The usual escaping of a client library leaves more as it is.
	if b.call("GET", "/v1/subjects/"+url.PathEscape("a{b}:@&=+$,c")+"/connectors", ""); got != "a{b}:@&=+$,c" {
		t.Errorf("the service heard %q", got)
	}
	calls := b.service.calls()
	for _, bad := range []string{"%00", "a%0D%0Ab", "%7f", "%C2%85", "%ff", "%ed%a0%80", strings.Repeat("x", 257), strings.Repeat("%C3%BC", 129), strings.Repeat("x", 10<<10)} {
		b.call("GET", "/v1/subjects/"+bad+"/connectors", "").refused(t, 400, broker.CodeInvalidRequest)
		b.call("DELETE", "/v1/subjects/"+bad, "").refused(t, 400, broker.CodeInvalidRequest)
	}
	b.call("GET", "/v1/subjects//connectors", "").refused(t, 400, broker.CodeInvalidRequest)
	b.call("GET", "/v1/subjects/a/b/connectors", "").refused(t, 404, broker.CodeNotFound)
	b.call("DELETE", "/v1/subjects/a/b", "").refused(t, 404, broker.CodeNotFound)
	b.call("DELETE", "/v1/subjects/", "").refused(t, 404, broker.CodeNotFound)
	if b.service.calls() != calls {
		t.Error("the service was called with a bad subject")
	}
}

func pathEscapeAll(s string) string {
	var out strings.Builder
	for i := range len(s) {
		const hex = "0123456789ABCDEF"
		out.Write([]byte{'%', hex[s[i]>>4], hex[s[i]&15]})
	}
	return out.String()
}

func TestSubjectConnectors(t *testing.T) {
	b := newBench(t)
	active, needs, revoked := sampleConnection(), sampleConnection(), sampleConnection()
	active.Status, revoked.Status = broker.ConnectionActive, broker.ConnectionRevoked
	b.service.subjectConnectors = func(string) ([]broker.SubjectConnector, error) {
		row := func(id string, c ...broker.Connection) broker.SubjectConnector {
			return broker.SubjectConnector{Connector: broker.Connector{ID: id, Name: "Files", Category: "storage"}, Connections: c}
		}
		return []broker.SubjectConnector{row("a", needs, active, needs), row("b", revoked, needs), row("c", revoked), row("d")}, nil
	}
	r := b.call("GET", "/v1/subjects/u/connectors", "")
	rows, _ := r.object["connectors"].([]any)
	if r.status != 200 || len(rows) != 4 {
		t.Fatalf("answer is %d %s", r.status, r.text)
	}
	for i, want := range []string{"connected", "needs_consent", "not_connected", "not_connected"} {
		if got := rows[i].(map[string]any)["status"]; got != want {
			t.Errorf("row %d: status %v, want %s", i, got, want)
		}
	}
	if want := map[string]any{"id": "d", "name": "Files", "category": "storage", "status": "not_connected", "connections": []any{}}; !reflect.DeepEqual(rows[3], want) {
		t.Errorf("row is %v", rows[3])
	}
	b.service.eraseSubject = func(string) (broker.Erased, error) {
		return broker.Erased{Connections: 3, RevokedUpstream: map[broker.RevokedUpstream]int{broker.RevokedDone: 2, broker.RevokedFailed: 1}}, nil
	}
	if r := b.call("DELETE", "/v1/subjects/u", ""); r.text != `{"connections":3,"revoked_upstream":{"done":2,"unsupported":0,"failed":1}}` {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
}

func TestListConnectors(t *testing.T) {
	b := newBench(t)
	b.service.listConnectors = func() []broker.Connector {
		return []broker.Connector{{ID: "files", Name: "Files", Provider: "Rig", Category: "storage", Default: broker.NewScopeSet("r"),
			Implied: broker.NewScopeSet("offline_access"), Scopes: []broker.ScopeInfo{
				{Name: "r", Description: "Read your files", Access: broker.AccessRead}, {Name: "x", Sensitive: true}}}, {ID: "none", Device: true},
			{ID: "robot", Grant: broker.GrantClientCredentials}, {ID: "agent", Grant: broker.GrantJWTBearer, Impersonate: []string{"a"}}}
	}
	r := b.call("GET", "/v1/connectors", "")
	want := map[string]any{"connectors": []any{
		map[string]any{"id": "files", "name": "Files", "category": "storage", "default_scopes": []any{"r"}, "scopes": []any{
			map[string]any{"name": "r", "description": "Read your files", "access": "read", "sensitive": false},
			map[string]any{"name": "x", "description": "", "access": "other", "sensitive": true}}},
		map[string]any{"id": "none", "name": "", "category": "", "default_scopes": []any{}, "scopes": []any{}, "device": true},
		map[string]any{"id": "robot", "name": "", "category": "", "default_scopes": []any{}, "scopes": []any{}, "grant": "client_credentials", "own": true},
		map[string]any{"id": "agent", "name": "", "category": "", "default_scopes": []any{}, "scopes": []any{}, "grant": "jwt_bearer"}}}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
}

func TestListEvents(t *testing.T) {
	b := newBench(t)
	var got broker.EventQuery
	b.service.listEvents = func(q broker.EventQuery) ([]broker.Event, string, error) {
		got = q
		return []broker.Event{
			{ID: "e1", Time: testTime, Type: broker.EventTokenIssued, Tenant: "acme", Client: "acme-chat", Subject: "u", Actor: broker.Actor{Agent: "a"},
				Connector: "files", Connection: "c1", Scope: "r", Requested: true, Outcome: "ok", Reason: "why", RequestID: "q", TraceID: "t"},
			{ID: "e2", Time: testTime, Type: broker.EventOperatorViewed},
			{ID: "e3", Time: testTime, Type: broker.EventPortalOpened, Portal: "p1"},
		}, "NEXT", nil
	}
	r := b.call("GET", "/v1/events", "")
	event := func(id, typ string) map[string]any {
		e := map[string]any{"id": id, "time": "2026-11-24T11:00:00.123Z", "type": typ, "actor": map[string]any{}, "requested": false}
		for _, name := range []string{"tenant", "client", "subject", "connector", "connection", "scope", "outcome", "reason", "request_id", "trace_id"} {
			e[name] = ""
		}
		return e
	}
	first := event("e1", "token.issued")
	for name, value := range map[string]any{"tenant": "acme", "client": "acme-chat", "subject": "u", "actor": map[string]any{"agent": "a"}, "connector": "files",
		"connection": "c1", "scope": "r", "requested": true, "outcome": "ok", "reason": "why", "request_id": "q", "trace_id": "t"} {
		first[name] = value
	}
	last := event("e3", "portal.opened")
	last["portal"] = "p1"
	want := map[string]any{"events": []any{first, event("e2", "operator.viewed"), last}, "next_cursor": "NEXT"}
	if r.status != 200 || !reflect.DeepEqual(r.object, want) {
		t.Errorf("answer is %d %s", r.status, r.text)
	}
	if !reflect.DeepEqual(got, broker.EventQuery{Limit: 100}) {
		t.Errorf("query became %+v", got)
	}
	r = b.call("GET", "/v1/events?subject=u&connector=files&connection=c1&type=token.issued&scope=r&since=2026-01-31T12:00:00%2B01:00&until=2026-01-31T12:00:00.5Z&limit=1000&cursor=x", "")
	at := time.Date(2026, 1, 31, 11, 0, 0, 0, time.UTC)
	if f := got.Filter; r.status != 200 || f.Subject != "u" || f.Connector != "files" || f.Connection != "c1" || f.Type != broker.EventTokenIssued ||
		f.Scope != "r" || !f.Since.Equal(at) || !f.Until.Equal(at.Add(time.Hour+500*time.Millisecond)) || got.Limit != 1000 || got.Cursor != "x" {
		t.Errorf("answer %d, query became %+v", r.status, got)
	}
	for _, kind := range append(broker.EventTypes(), "operator.to_come") {
		if r := b.call("GET", "/v1/events?type="+string(kind), ""); r.status != 200 || got.Filter.Type != kind {
			t.Errorf("%s: answer is %d %s", kind, r.status, r.text)
		}
	}
}
