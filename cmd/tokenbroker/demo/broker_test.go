package demo_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	apiKey      = "tb_demo-canary-key"
	accessToken = "canary-access-token"
	goodCode    = "WDJB-MJHT"
)

// fakeBroker answers as the contract says, for one connector, and is the files API as well.
type fakeBroker struct {
	t    *testing.T
	http *httptest.Server

	mu          sync.Mutex
	granted     map[string][]string // scopes by subject
	consents    map[string]*fakeConsent
	events      []map[string]any
	calls       []string // method and path
	tokenBodies []map[string]any
	next        int
	tokenError  map[string]any // answered instead, while set
	changed     bool           // complete answers account_changed until replace
	revoked     string
	slowToken   chan struct{} // while set, tokens wait for it
	life        int           // of tokens, in s
	visitor     string        // whose connections the link shows
}

type fakeConsent struct {
	id, subject, status, binding, state, returnTo string
	scopes                                        []string
}

func newFakeBroker(t *testing.T) *fakeBroker {
	f := &fakeBroker{t: t, granted: map[string][]string{}, consents: map[string]*fakeConsent{}, revoked: "done"}
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/tokens", f.tokens)
	m.HandleFunc("GET /v1/consents/{id}", f.consent)
	m.HandleFunc("POST /v1/consents/{id}/complete", f.complete)
	m.HandleFunc("GET /v1/connections", f.connections)
	m.HandleFunc("DELETE /v1/connections/{id}", f.disconnect)
	m.HandleFunc("GET /v1/connectors", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{"connectors": []any{map[string]any{"id": "files", "scopes": []any{
			map[string]any{"name": "files.read", "description": "See your files"},
			map[string]any{"name": "files.write", "description": "Create files for you"},
		}}}})
	})
	m.HandleFunc("GET /v1/events", f.listEvents)
	m.HandleFunc("POST /v1/portal-sessions", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Subject, State string
			ReturnTo       string `json:"return_to"`
		}
		_ = json.NewDecoder(r.Body).Decode(&in)
		f.set(func() { f.visitor = in.Subject })
		answer(w, 201, map[string]any{"id": "prt_1", "url": f.http.URL + "/portal/link?" + in.ReturnTo + "&" + in.State})
	})
	m.HandleFunc("POST /v1/portal-sessions/{id}/complete", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Subject, Code string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		f.mu.Lock()
		defer f.mu.Unlock()
		switch {
		case in.Subject != f.visitor:
			answer(w, 403, map[string]any{"error": "subject_mismatch"})
		case in.Code != goodCode || r.PathValue("id") != "prt_1":
			answer(w, 410, map[string]any{"error": "expired"})
		default:
			answer(w, 200, map[string]any{"url": f.http.URL + "/portal/session/prt_1"})
		}
	})
	m.HandleFunc("/files", f.files)
	m.HandleFunc("GET /connect/{link}", f.connect)
	f.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.calls = append(f.calls, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		if strings.HasPrefix(r.URL.Path, "/v1/") && r.Header.Get("Authorization") != "Bearer "+apiKey {
			answer(w, 401, map[string]any{"error": "invalid_client"})
			return
		}
		m.ServeHTTP(w, r)
	}))
	t.Cleanup(f.http.Close)
	return f
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (f *fakeBroker) event(kind, subject, scope, outcome string) {
	f.events = append(f.events, map[string]any{"id": fmt.Sprintf("ev_%d", len(f.events)), "time": time.Now().UTC(), "type": kind,
		"subject": subject, "scope": scope, "outcome": outcome, "actor": map[string]any{"tool": "list_files"}})
}

func (f *fakeBroker) tokens(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Connector, Subject, State, Connection string
		Scopes                                []string
		ReturnTo                              string `json:"return_to"`
	}
	var raw map[string]any
	_ = json.NewDecoder(r.Body).Decode(&raw)
	b, _ := json.Marshal(raw)
	_ = json.Unmarshal(b, &in)
	f.mu.Lock()
	wait := f.slowToken
	f.mu.Unlock()
	if wait != nil {
		<-wait
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokenBodies = append(f.tokenBodies, raw)
	if f.tokenError != nil && in.Connection == "" {
		answer(w, f.tokenError["status"].(int), f.tokenError)
		return
	}
	have, connected := f.granted[in.Subject]
	var missing []string
	for _, s := range in.Scopes {
		if !slices.Contains(have, s) {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		f.event("token.issued", in.Subject, in.Scopes[0], "ok")
		answer(w, 200, map[string]any{"access_token": accessToken, "scope": strings.Join(have, " "), "expires_in": f.life,
			"account": map[string]string{"name": in.Subject + " at files"}})
		return
	}
	reason := "never_connected"
	if connected {
		reason = "scope_missing"
	}
	binding := "code"
	if in.ReturnTo != "" {
		binding = "return"
	}
	f.next++
	c := &fakeConsent{id: fmt.Sprintf("con_%d", f.next), subject: in.Subject, status: "pending", binding: binding, scopes: in.Scopes, state: in.State, returnTo: in.ReturnTo}
	f.consents[c.id] = c
	f.event("token.refused", in.Subject, in.Scopes[0], "consent_required")
	answer(w, 409, map[string]any{"error": "consent_required", "reason": reason, "missing_scopes": missing,
		"consent": map[string]any{"id": c.id, "url": f.http.URL + "/connect/link-" + c.id, "binding": binding}})
}

// connect stands for the broker's and the provider's pages: a user in a hurry, who has consented already.
func (f *fakeBroker) connect(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.consents[strings.TrimPrefix(r.PathValue("link"), "link-")]
	if c == nil {
		w.WriteHeader(404)
		return
	}
	c.status = "awaiting_completion"
	if c.binding == "return" {
		http.Redirect(w, r, c.returnTo+"?consent="+c.id+"&code="+goodCode+"&state="+c.state, http.StatusSeeOther)
		return
	}
	w.Header().Set("Content-Type", "text/html")
	_, _ = fmt.Fprintf(w, `<!doctype html><p id="code">%s</p><script>
		for (const data of [{type: "tokenbroker:consent", consent: %q, status: "awaiting_completion"}]) opener.postMessage(data, "*");
	</script>`, goodCode, c.id)
}

func (f *fakeBroker) consent(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.consents[r.PathValue("id")]
	if c == nil {
		answer(w, 404, map[string]any{"error": "not_found"})
		return
	}
	answer(w, 200, map[string]any{"id": c.id, "status": c.status})
}

func (f *fakeBroker) complete(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Subject, Code string
		Replace       bool
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.consents[r.PathValue("id")]
	switch {
	case c == nil:
		answer(w, 404, map[string]any{"error": "not_found"})
	case in.Subject != c.subject:
		answer(w, 403, map[string]any{"error": "subject_mismatch", "request_id": "req_1"})
	case c.status == "pending" && c.binding == "code":
		answer(w, 400, map[string]any{"error": "invalid_request"})
	case in.Code != goodCode && !(c.binding == "code" && normal(in.Code) == goodCode):
		answer(w, 400, map[string]any{"error": "invalid_code"})
	case f.changed && !in.Replace:
		answer(w, 409, map[string]any{"error": "account_changed", "accounts": []any{
			map[string]any{"connection": "conn_old", "account": map[string]string{"name": "Old Account"}},
			map[string]any{"connection": nil, "account": map[string]string{"name": "New Account"}}}})
	default:
		c.status = "completed"
		f.granted[c.subject] = append(f.granted[c.subject], c.scopes...)
		f.event("consent.completed", c.subject, c.scopes[0], "ok")
		answer(w, 200, map[string]any{"id": "conn_1", "account": map[string]string{"name": c.subject + " at files"}})
	}
}

// normal undoes what people do to a code, as the broker does.
func normal(code string) string {
	var letters []rune
	for _, r := range strings.ToUpper(code) {
		if r >= 'A' && r <= 'Z' {
			letters = append(letters, r)
		}
	}
	if len(letters) != 8 {
		return code
	}
	return string(letters[:4]) + "-" + string(letters[4:])
}

func (f *fakeBroker) connections(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := []any{map[string]any{"id": "conn_0", "status": "revoked"}}
	if _, ok := f.granted[r.URL.Query().Get("subject")]; ok {
		list = append(list, map[string]any{"id": "conn_" + r.URL.Query().Get("subject"), "status": "active"})
	}
	answer(w, 200, map[string]any{"connections": list, "next_cursor": nil})
}

func (f *fakeBroker) disconnect(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.granted, strings.TrimPrefix(r.PathValue("id"), "conn_"))
	answer(w, 200, map[string]any{"revoked_upstream": f.revoked})
}

// listEvents gives pages of three.
func (f *fakeBroker) listEvents(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	since, err := time.Parse(time.RFC3339Nano, r.URL.Query().Get("since"))
	if err != nil {
		f.t.Errorf("since: %v", err)
	}
	var list []map[string]any
	for _, e := range f.events {
		if !e["time"].(time.Time).Before(since) {
			list = append(list, e)
		}
	}
	start := 0
	_, _ = fmt.Sscanf(r.URL.Query().Get("cursor"), "from-%d", &start)
	end := min(start+3, len(list))
	var next any
	if end < len(list) {
		next = fmt.Sprintf("from-%d", end)
	}
	answer(w, 200, map[string]any{"events": list[min(start, end):end], "next_cursor": next})
}

func (f *fakeBroker) files(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+accessToken {
		w.WriteHeader(401)
		return
	}
	if r.Method == http.MethodPost {
		var in struct{ Name, Content string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		answer(w, 201, map[string]any{"id": "f9", "name": in.Name, "size": len(in.Content)})
		return
	}
	answer(w, 200, map[string]any{"files": []any{map[string]any{"id": "f1", "name": `Plan "><img src=x onerror=alert(1)>.md`, "size": 2048}}})
}

// calledWith counts the calls of one kind.
func (f *fakeBroker) called(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.calls {
		if c == call {
			n++
		}
	}
	return n
}

func (f *fakeBroker) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}
