package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

const canarySecret = "CANARY-client-secret"

var ownView = broker.ConnectorView{
	ID: "drive_abcdefgh23456723", Provider: "google-drive", Name: "Drive", ClientID: "abc", Confidential: true, ClientGeneration: 2,
	PreviousUntil: testTime.Add(time.Hour), Scopes: []string{"a", "b"}, DefaultScopes: []string{"a"}, Vars: map[string]string{"host": "git.example"},
	PKCE: "S256", RedirectURI: "https://broker.example/oauth2/callback/drive_abcdefgh23456723", CreatedAt: testTime, UpdatedAt: testTime,
}

func TestCreateConnector(t *testing.T) {
	b := newBench(t)
	var got broker.NewConnector
	b.service.createConnector = func(n broker.NewConnector) (broker.ConnectorView, error) { got = n; return ownView, nil }
	r := b.call("POST", "/v1/admin/connectors", `{"id":"drive","provider":"google-drive","name":"Drive","client_id":"abc","client_secret":"`+canarySecret+
		`","scopes":["b","a","a"],"default_scopes":"a","vars":{"host":"git.example"},"pkce":"S256"}`)
	if r.status != http.StatusCreated || r.object["redirect_uri"] != ownView.RedirectURI || r.object["client_generation"] != 2.0 || r.object["has_client_secret"] != true {
		t.Errorf("%d %s", r.status, r.text)
	}
	if got.Wish != "drive" || got.ClientSecret.Reveal() != canarySecret || strings.Join(got.Scopes, " ") != "a b" || strings.Join(got.DefaultScopes, " ") != "a" || got.Vars["host"] != "git.example" || got.PKCE != "S256" {
		t.Errorf("asked for %+v", got)
	}
	if strings.Contains(r.text+b.logs.String(), canarySecret) {
		t.Error("the client secret is in the answer or in the log")
	}
	if r := b.call("POST", "/v1/admin/connectors", `{"provider":"slack","client_id":"abc","client_secret":null,"scopes":null,"vars":null}`); r.status != http.StatusCreated || !got.ClientSecret.IsZero() {
		t.Errorf("the least: %d %s", r.status, r.text)
	}
}

// What is wrong is named by its field, and never repeated: it may be the secret in the wrong place.
func TestConnectorFields(t *testing.T) {
	b := newBench(t)
	long := strings.Repeat("x", 5000)
	for body, field := range map[string]string{
		`{}`: "provider is missing", `{"provider":"slack"}`: "client_id is missing",
		`{"provider":"slack","client_id":"a","client_secret":"` + long + `"}`:                     "client_secret must be",
		`{"provider":"slack","client_id":"a","client_secret":"a\nb"}`:                             "client_secret must be",
		`{"provider":"slack","client_id":"a\u0000"}`:                                              "client_id must be",
		`{"provider":"slack","client_id":"a","scopes":["` + canarySecret + ` x"]}`:                "scopes must be",
		`{"provider":"slack","client_id":"a","default_scopes":["\""]}`:                            "default_scopes must be",
		`{"provider":"slack","client_id":"a","vars":{"` + canarySecret + `":"x"}}`:                "vars has a name",
		`{"provider":"slack","client_id":"a","vars":{"host":""}}`:                                 "vars.host is empty",
		`{"provider":"slack","client_id":"a","vars":{"host":"a","host":"b"}}`:                     "field host is there more than once",
		`{"provider":"slack","client_id":"a","vars":{"host":1}}`:                                  "vars.host must be",
		`{"provider":"slack","client_id":"a","token_endpoint":"https://x.example"}`:               "field token_endpoint is unknown",
		`{"provider":"slack","client_id":"a","client_id":"b"}`:                                    "field client_id is there more than once",
		`{"provider":"slack","client_id":"a","client_secret":{"` + canarySecret + `":1}}`:         "field client_secret must be a string",
		`{"provider":"slack","client_id":"a","client_secret":"s","Client_Secret":"` + long + `"}`: "is unknown",
	} {
		r := b.call("POST", "/v1/admin/connectors", body)
		says, _ := r.object["error_description"].(string)
		if r.status != http.StatusBadRequest || r.object["error"] != "invalid_request" || !strings.Contains(says, field) {
			t.Errorf("%.80s: %d %s, want %q", body, r.status, r.text, field)
		}
		if strings.Contains(r.text, canarySecret) || strings.Contains(r.text, "xxxx") {
			t.Errorf("%.80s: the answer repeats a value: %s", body, r.text)
		}
	}
	for body, field := range map[string]string{
		`{"overlap":-1}`: "overlap must be 0 to 2592000 seconds", `{"overlap":2592001}`: "overlap must be", `{"overlap":"1"}`: "overlap must be",
		`{"client_id":"b"}`: "field client_id is unknown", `{"provider":"b"}`: "field provider is unknown", `{"name":"a\nb"}`: "name must be", ``: "the body is empty",
	} {
		r := b.call("PATCH", "/v1/admin/connectors/drive_a", body, "Content-Type", "application/json")
		says, _ := r.object["error_description"].(string)
		if r.status != http.StatusBadRequest || !strings.Contains(says, field) {
			t.Errorf("%s: %d %s, want %q", body, r.status, r.text, field)
		}
	}
	if b.service.calls() != 0 {
		t.Errorf("%d calls of the service", b.service.calls())
	}
}

func TestUpdateConnector(t *testing.T) {
	b := newBench(t)
	var id string
	var got broker.ConnectorChange
	b.service.updateConnector = func(of string, c broker.ConnectorChange) (broker.ConnectorView, error) {
		id, got = of, c
		return ownView, nil
	}
	r := b.call("PATCH", "/v1/admin/connectors/drive_a", `{"name":"New","client_secret":"`+canarySecret+`","overlap":60,"scopes":[]}`)
	if r.status != 200 || id != "drive_a" || *got.Name != "New" || got.ClientSecret.Reveal() != canarySecret || *got.Overlap != time.Minute ||
		got.Scopes == nil || len(*got.Scopes) != 0 || got.DefaultScopes != nil {
		t.Errorf("%d %s: %+v of %s", r.status, r.text, got, id)
	}
	if strings.Contains(r.text+b.logs.String(), canarySecret) {
		t.Error("the client secret is in the answer or in the log")
	}
	if r := b.call("PATCH", "/v1/admin/connectors/drive_a", `{"client_secret":""}`); r.status != 400 || !strings.Contains(r.text, "client_secret is empty") {
		t.Errorf("an empty secret: %d %s", r.status, r.text)
	}
	r = b.call("PATCH", "/v1/admin/connectors/drive_a", `{"name":"","client_secret":null,"overlap":null,"scopes":"","default_scopes":null}`)
	if r.status != 200 || got.Name != nil || !got.ClientSecret.IsZero() || got.Overlap != nil || got.Scopes != nil || got.DefaultScopes != nil {
		t.Errorf("left out, and %+v (%d %s)", got, r.status, r.text)
	}
}

func TestReadAndDeleteConnector(t *testing.T) {
	b := newBench(t)
	b.service.ownConnectors = func() ([]broker.ConnectorView, error) { return []broker.ConnectorView{ownView}, nil }
	b.service.ownConnector = func(id string) (broker.ConnectorView, error) {
		return broker.ConnectorView{}, broker.Errorf(broker.CodeNotFound, "none")
	}
	if r := b.call("GET", "/v1/admin/connectors", ""); r.status != 200 || !strings.Contains(r.text, `"overlap_until":"2026-11-24T12:00:00.123Z"`) {
		t.Errorf("list: %d %s", r.status, r.text)
	}
	b.service.ownConnectors = func() ([]broker.ConnectorView, error) { return nil, nil }
	if r := b.call("GET", "/v1/admin/connectors", ""); r.status != 200 || !strings.Contains(r.text, `"connectors":[]`) {
		t.Errorf("empty list: %d %s", r.status, r.text)
	}
	if r := b.call("GET", "/v1/admin/connectors/drive_x", ""); r.status != 404 {
		t.Errorf("unknown: %d", r.status)
	}
	var revoked []bool
	b.service.deleteConnector = func(_ string, revoke bool) (broker.Erased, error) {
		if revoked = append(revoked, revoke); !revoke {
			return broker.Erased{}, broker.Errorf(broker.CodeConnectorInUse, "users are connected")
		}
		return broker.Erased{Connections: 2, RevokedUpstream: map[broker.RevokedUpstream]int{broker.RevokedDone: 2}}, nil
	}
	if r := b.call("DELETE", "/v1/admin/connectors/drive_x", ""); r.status != 409 || r.object["error"] != "connector_in_use" {
		t.Errorf("in use: %d %s", r.status, r.text)
	}
	if r := b.call("DELETE", "/v1/admin/connectors/drive_x?revoke=true", ""); r.status != 200 || r.object["connections"] != 2.0 {
		t.Errorf("with revoke: %d %s", r.status, r.text)
	}
	if r := b.call("DELETE", "/v1/admin/connectors/drive_x?revoke=1", ""); r.status != 400 || len(revoked) != 2 {
		t.Errorf("revoke=1: %d", r.status)
	}
	b.service.listEvents = func(broker.EventQuery) ([]broker.Event, string, error) {
		return []broker.Event{{Type: broker.EventConnectorDeleted, Time: testTime, Connector: "drive_x"}}, "", nil
	}
	for _, kind := range []string{"created", "updated", "deleted"} {
		if r := b.call("GET", "/v1/events?type=connector."+kind, ""); r.status != 200 {
			t.Errorf("events of type connector.%s: %d %s", kind, r.status, r.text)
		}
	}
	b.service.createConnector = func(broker.NewConnector) (broker.ConnectorView, error) {
		return broker.ConnectorView{}, broker.Errorf(broker.CodeAccessDenied, "may not")
	}
	if r := b.call("POST", "/v1/admin/connectors", `{"provider":"slack","client_id":"a"}`); r.status != 403 || r.object["error"] != "access_denied" {
		t.Errorf("may not: %d %s", r.status, r.text)
	}
}
