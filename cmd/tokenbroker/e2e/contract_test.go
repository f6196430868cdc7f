package e2e

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/providers/sandbox"
)

// shortLived makes tokens that end while a test looks on.
func shortLived(d time.Duration) func(*sandbox.Config) {
	return func(c *sandbox.Config) { c.AccessTokenLifetime = d }
}

// The whole contract once, as a chatbot platform's engineer would try it.
func TestContractTour(t *testing.T) {
	t.Parallel()
	contractTour(t, newRig(t), "u/1 {a}ü😀")
}

func contractTour(t *testing.T, r *rig, subject string) {
	p := r.start()
	c, rival := p.api(r.key), p.api(r.other)
	path := url.PathEscape(subject)

	// Nothing is connected yet: the link comes with the refusal, and the same one comes back.
	first := c.refused(409, "consent_required", subject)
	if first.str("reason") != "never_connected" || first.str("consent", "binding") != "code" {
		t.Fatalf("unexpected refusal: %s", first.raw)
	}
	link := first.str("consent", "url")
	if again := c.refused(409, "consent_required", subject); again.str("consent", "url") != link {
		t.Error("while a link is pending, the same one comes back")
	}
	if first.header.Get("Cache-Control") != "no-store" || first.header.Get("Request-Id") == "" {
		t.Errorf("headers of an answer with a link: %v", first.header)
	}
	connectors := c.want(200, "GET", "/v1/subjects/"+path+"/connectors", nil).list("connectors")
	if len(connectors) != 2 || connectors[0]["status"] != "not_connected" {
		t.Fatalf("the subject's connectors: %v", connectors)
	}

	// Binding code.
	id := first.str("consent", "id")
	if got := c.want(200, "GET", "/v1/consents/"+id, nil); got.str("status") != "pending" {
		t.Fatalf("status before: %s", got.raw)
	}
	b := newBrowser(t)
	end := b.consent(link)
	if strings.ContainsAny(strings.SplitN(end.url, "/", 4)[3], "?") {
		t.Errorf("the page at the end still carries a query: %s", end.url)
	}
	if got := c.want(200, "GET", "/v1/consents/"+id, nil); got.str("status") != "awaiting_completion" {
		t.Fatalf("status in between: %s", got.raw)
	}
	c.refused(409, "consent_required", subject) // provisional: no token comes out
	code := end.code(t)
	if got := c.want(403, "POST", "/v1/consents/"+id+"/complete", object{"subject": "somebody else", "code": code}); got.str("error") != "subject_mismatch" {
		t.Fatal(got.raw)
	}
	if got := c.want(400, "POST", "/v1/consents/"+id+"/complete", object{"subject": subject, "code": "BCDF-GHJK"}); got.str("error") != "invalid_code" {
		t.Fatal(got.raw)
	}
	rival.want(404, "POST", "/v1/consents/"+id+"/complete", object{"subject": subject, "code": code})
	done := c.want(200, "POST", "/v1/consents/"+id+"/complete", object{"subject": subject, "code": strings.ToLower(code)})
	conn := done.str("id")
	if done.str("status") != "active" || done.str("account", "email") == "" || conn == "" {
		t.Fatalf("the connection: %s", done.raw)
	}
	if got := c.want(410, "POST", "/v1/consents/"+id+"/complete", object{"subject": subject, "code": code}); got.str("error") != "expired" {
		t.Fatal(got.raw)
	}
	if got := c.want(200, "GET", "/v1/consents/"+id, nil); got.str("status") != "completed" || got.str("connection") != conn {
		t.Fatalf("status after: %s", got.raw)
	}
	if p := b.get(link); p.status != 404 {
		t.Errorf("a used link answers %d", p.status)
	}

	// A token.
	token := c.token(subject, object{"reason": "list files", "actor": object{"agent": "helper", "run": "run-1", "tool": "files"}})
	if token.str("token_type") != "Bearer" || token.str("connection") != conn || !strings.Contains(token.str("scope"), "files.read") || token.body["expires_in"].(float64) < 3500 {
		t.Fatalf("token answer: %s", token.raw)
	}
	if _, ok := token.body["extra"].(map[string]any); !ok || token.header.Get("Cache-Control") != "no-store" || strings.Contains(token.raw, "refresh_token") {
		t.Fatalf("token answer: %s %v", token.raw, token.header)
	}
	if got := r.files(token.str("access_token")); got != 200 {
		t.Errorf("the files API answers %d to the token", got)
	}
	if _, err := time.Parse(time.RFC3339, token.str("expires_at")); err != nil {
		t.Error(err)
	}

	// Another tenant sees nothing of it.
	rival.refused(409, "consent_required", subject)
	rival.want(404, "GET", "/v1/connections/"+conn, nil)
	rival.want(404, "DELETE", "/v1/connections/"+conn, nil)
	rival.want(404, "GET", "/v1/consents/"+id, nil)
	if rows := rival.want(200, "GET", "/v1/connections", nil).list("connections"); len(rows) != 0 {
		t.Errorf("a foreign connection is listed: %v", rows)
	}
	if got := rival.want(403, "POST", "/v1/tokens", object{"connector": "other", "subject": "x"}); got.str("error") != "access_denied" {
		t.Error(got.raw)
	}

	// A scope more: the link renews this connection.
	missing := c.refused(409, "consent_required", subject, object{"scopes": []string{"files.write"}, "return_to": "http://127.0.0.1:3000/done", "state": "s t&a=te"})
	if missing.str("reason") != "scope_missing" || missing.str("consent", "binding") != "return" || missing.body["missing_scopes"].([]any)[0] != "files.write" {
		t.Fatalf("scope missing: %s", missing.raw)
	}
	back := newBrowser(t).consent(missing.str("consent", "url"))
	target, err := url.Parse(back.location)
	if err != nil || target.Host != "127.0.0.1:3000" || target.Path != "/done" || target.Query().Get("state") != "s t&a=te" {
		t.Fatalf("return: status %d to %q", back.status, back.location)
	}
	renewed := c.want(200, "POST", "/v1/consents/"+target.Query().Get("consent")+"/complete", object{"subject": subject, "code": target.Query().Get("code")})
	if renewed.str("id") != conn {
		t.Errorf("the consent made %s, want %s renewed", renewed.str("id"), conn)
	}
	wide := c.token(subject, object{"scopes": []string{"files.write"}})
	if !strings.Contains(wide.str("scope"), "files.read") || !strings.Contains(wide.str("scope"), "files.write") {
		t.Errorf("scopes of the renewed token: %q", wide.str("scope"))
	}
	// The reader's ceiling holds; this provider honours scope on a refresh, but the definition does not say so.
	if got := p.api(r.narrow).want(403, "POST", "/v1/tokens", object{"connector": "files", "subject": subject}); got.str("error") != "access_denied" {
		t.Error(got.raw)
	}
	if got := c.want(400, "POST", "/v1/tokens", object{"connector": "files", "subject": subject, "scopes": []string{"files.admin"}}); got.str("error") != "invalid_scope" {
		t.Error(got.raw)
	}
	if got := c.want(400, "POST", "/v1/consents", object{"connector": "files", "subject": subject, "return_to": "http://127.0.0.1:3000/done?x"}); got.str("error") != "invalid_request" {
		t.Error(got.raw)
	}

	// Lists.
	for _, query := range []string{"", "?subject=" + url.QueryEscape(subject), "?connector=files&status=active"} {
		rows := c.want(200, "GET", "/v1/connections"+query, nil).list("connections")
		if len(rows) != 1 || rows[0]["id"] != conn || rows[0]["subject"] != subject {
			t.Errorf("connections%s: %v", query, rows)
		}
	}
	one := c.want(200, "GET", "/v1/connections/"+conn, nil)
	if one.str("last_issued_at") == "" || one.str("created_at") == "" {
		t.Errorf("connection: %s", one.raw)
	}
	if rows := c.want(200, "GET", "/v1/connectors", nil).list("connectors"); len(rows) != 2 || rows[0]["id"] != "files" {
		t.Errorf("connectors: %v", rows)
	}

	// Denied at the provider, and cancelled on the page.
	r.decide("alice", "deny")
	denied := c.consent("denier")
	newBrowser(t).consent(denied.str("url"))
	if got := c.want(200, "GET", "/v1/consents/"+denied.str("id"), nil); got.str("status") != "denied" {
		t.Errorf("denied: %s", got.raw)
	}
	r.decide("alice", "allow")
	cancelled := c.consent("canceller", object{"return_to": "http://127.0.0.1:3000/done"})
	cb := newBrowser(t)
	form := cb.get(cancelled.str("url")).form()
	form.Set("action", "cancel")
	if gone := cb.post(cancelled.str("url"), form); !strings.HasPrefix(gone.location, "http://127.0.0.1:3000/done?") || !strings.Contains(gone.location, "error=access_denied") {
		t.Errorf("cancel: %d to %q", gone.status, gone.location)
	}
	if got := c.want(200, "GET", "/v1/consents/"+cancelled.str("id"), nil); got.str("status") != "denied" {
		t.Errorf("cancelled: %s", got.raw)
	}

	// A second account, and its choice.
	second := newBrowser(t)
	second.hint = "bob"
	bobs := c.connect(second, subject)
	if bobs == conn {
		t.Fatal("another account took the first one's connection")
	}
	choice := c.refused(409, "account_selection_required", subject)
	if len(choice.list("accounts")) != 2 {
		t.Errorf("accounts: %s", choice.raw)
	}
	if got := c.token(subject, object{"connection": bobs}); got.str("account", "id") == token.str("account", "id") {
		t.Error("the named connection is not the other account's")
	}

	// Account changed, and the confirmation.
	change := c.consent(subject, object{"connection": bobs})
	changed := newBrowser(t).consent(change.str("url")) // alice again
	body := object{"subject": subject, "code": changed.code(t)}
	if got := c.want(409, "POST", "/v1/consents/"+change.str("id")+"/complete", body); got.str("error") != "account_changed" || len(got.list("accounts")) != 2 {
		t.Fatalf("account changed: %s", got.raw)
	}
	body["replace"] = true
	if got := c.want(200, "POST", "/v1/consents/"+change.str("id")+"/complete", body); got.str("id") != bobs {
		t.Errorf("replace: %s", got.raw)
	}

	// Revoke: effective at once, upstream too.
	revocations := r.provider.Stats().Revocations
	if got := c.want(200, "DELETE", "/v1/connections/"+bobs, nil); got.str("revoked_upstream") != "done" {
		t.Errorf("revoke: %s", got.raw)
	}
	if r.provider.Stats().Revocations != revocations+1 {
		t.Error("the provider was not told")
	}
	if got := c.refused(409, "consent_required", subject, object{"connection": bobs}); got.str("reason") != "revoked" {
		t.Errorf("after revoking: %s", got.raw)
	}
	if got := c.want(200, "GET", "/v1/connections/"+bobs, nil); got.str("status") != "revoked" {
		t.Errorf("after revoking: %s", got.raw)
	}

	// Erase the subject.
	if got := c.want(200, "DELETE", "/v1/subjects/"+path, nil); got.body["connections"].(float64) != 2 {
		t.Errorf("erase: %s", got.raw)
	}
	c.want(404, "GET", "/v1/connections/"+conn, nil)
	if rows := c.want(200, "GET", "/v1/connections?subject="+url.QueryEscape(subject), nil).list("connections"); len(rows) != 0 {
		t.Errorf("after erasing: %v", rows)
	}
	c.refused(409, "consent_required", subject)

	// The trail tells all of it, oldest first, one event a scope.
	events := c.events(url.Values{"subject": {subject}})
	seen := map[string]int{}
	issued := map[string]int{}
	last := ""
	for _, e := range events {
		seen[e["type"].(string)]++
		if e["type"] == "token.issued" {
			issued[e["scope"].(string)]++
		}
		if at := e["time"].(string); at < last {
			t.Errorf("events are not oldest first: %s after %s", at, last)
		} else {
			last = at
		}
		if e["tenant"] != "acme" || e["subject"] != subject || e["id"] == "" || e["request_id"] == "" {
			t.Errorf("event: %v", e)
		}
	}
	for _, want := range []string{"consent.created", "consent.started", "consent.granted", "consent.completed", "consent.failed", "token.issued", "token.refused", "connection.revoked", "subject.erased"} {
		if seen[want] == 0 {
			t.Errorf("no %s event; there are %v", want, seen)
		}
	}
	if issued["files.read"] != 3 || issued["files.write"] != 1 {
		t.Errorf("token.issued by scope: %v; three tokens were issued, one of them with files.write", issued)
	}
	if rows := rival.want(200, "GET", "/v1/events?subject="+url.QueryEscape(subject), nil).list("events"); len(rows) == 0 || rows[0]["tenant"] != "rival" {
		t.Errorf("a tenant sees its own events alone: %v", rows)
	}
	p.stop()
	if out := r.run("audit", "verify", "--config", r.config); out == "" {
		t.Error("audit verify says nothing")
	}
}

// decide sets what the person at the provider does.
func (r *rig) decide(user, decision string) {
	r.t.Helper()
	if err := r.provider.SetAuto(&sandbox.Auto{User: user, Decision: decision}); err != nil {
		r.t.Fatal(err)
	}
}

// files asks the provider's files API.
func (r *rig) files(token string) int {
	r.t.Helper()
	req, _ := http.NewRequest("GET", r.issuer+"/files", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// A ceiling where the provider can narrow: the token really has less.
func TestNarrowedForACeiling(t *testing.T) {
	t.Parallel()
	narrowedForACeiling(t, newRig(t))
}

func narrowedForACeiling(t *testing.T, r *rig) {
	r.writeConfig("    narrows: true\n")
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice", object{"scopes": []string{"files.read", "files.write"}})
	got := p.api(r.narrow).want(200, "POST", "/v1/tokens", object{"connector": "files", "subject": "alice"})
	if strings.Contains(got.str("scope"), "files.write") {
		t.Fatalf("scope %q", got.str("scope"))
	}
	req, _ := http.NewRequest("POST", r.issuer+"/files", strings.NewReader(`{"name":"x","text":"y"}`))
	req.Header.Set("Authorization", "Bearer "+got.str("access_token"))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != 403 {
		t.Errorf("the narrowed token may write: %d", resp.StatusCode)
	}
}

func TestMinTTLAndLongLived(t *testing.T) {
	t.Parallel()
	minTTLAndLongLived(t, newRig(t, shortLived(30*time.Second)))
}

func minTTLAndLongLived(t *testing.T, r *rig) {
	p := r.start()
	c := p.api(r.key)
	c.connect(newBrowser(t), "alice")
	got := c.refused(409, "ttl_unavailable", "alice", object{"min_ttl": 120})
	if got.body["max_ttl"].(float64) != 30 {
		t.Errorf("max_ttl: %s", got.raw)
	}
	if got := c.token("alice", object{"min_ttl": 20}); got.body["expires_in"].(float64) < 20 {
		t.Errorf("min_ttl 20: %s", got.raw)
	}
}
