package web_test

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/web"
	"tokenbroker/web/webtest"
)

// TestAuditSearch: a search is a form, its answer an address that can be shared, and no person's name is in that.
func TestAuditSearch(t *testing.T) {
	s := newSite(t, public, nil)
	var tenant, cursor string
	var filter broker.EventFilter
	s.service.Trail.Search = func(_ broker.Operator, of string, f broker.EventFilter, c string, limit int) (broker.TrailPage, error) {
		tenant, filter, cursor = of, f, c
		return broker.TrailPage{Events: webtest.TrailEvents(made), Next: "next+/=", Reached: made.Add(-2 * time.Hour)}, nil
	}
	s.get("/dashboard/audit")
	if s.service.Count("SearchTrail") != 0 {
		t.Fatal("the trail is shown without a login")
	}
	s.signIn()
	page := body(t, s.get("/dashboard/audit"))
	contains(t, page, "Token issued", "token.issued", "2026-11-20 09:30:00", "user-4711", "drive.search", "run-2026-11-20-0042", "look for the minutes of the board meeting", `href="/dashboard/accounts/cn_1?tenant=acme"`,
		"An operator revokes", "eve@example.com", "the user, in My connections", "cursor=next%2B%2F%3D", "back to", `datetime="2026-11-20T07:30:00Z"`,
		`href="/dashboard/audit/reach?agent=research-helper&amp;month=2026-11&amp;tenant=acme"`, "(the installation itself)", `aria-current="page"`)
	lacks(t, page, "<img src=x", "agent=eve%40")
	if tenant != "acme" || filter != (broker.EventFilter{}) {
		t.Errorf("asked for %q, %+v", tenant, filter)
	}

	form := url.Values{
		"tenant": {"globex"}, "subject": {"ann@example.com"}, "client": {"chat"}, "agent": {"eve@example.com"}, "run": {"r-1"}, "connector": {"files"}, "scope": {"a b"}, "type": {"token.issued"},
		"outcome": {"ok"}, "since": {"2026-01-02T10:30"}, "until": {"2026-01-03"}, "connection": {"cn_1"}, "other": {"x"},
	}
	res := s.post("/dashboard/audit", form)
	status(t, res, http.StatusSeeOther)
	address := res.Header.Get("Location")
	for _, name := range []string{"ann", "eve", "example", "other"} {
		if strings.Contains(address, name) {
			t.Errorf("%q is in the address %s", name, address)
		}
	}
	page = body(t, s.get(address))
	want := broker.EventFilter{
		Subject: "ann@example.com", Client: "chat", Agent: "eve@example.com", Run: "r-1", Connector: "files", Scope: "a b", Type: "token.issued", Outcome: "ok", Connection: "cn_1",
		Since: time.Date(2026, 1, 2, 10, 30, 0, 0, time.UTC), Until: time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC),
	}
	if tenant != "globex" || filter != want {
		t.Errorf("asked for %q, %+v", tenant, filter)
	}
	contains(t, page, `value="ann@example.com"`, `<option value="globex" selected>`, `value="2026-01-02T10:30"`)
	s.get(address + "&cursor=abc")
	if cursor != "abc" {
		t.Errorf("cursor %q", cursor)
	}
	s.get("/dashboard/audit?tenant=")
	if tenant != broker.Everywhere {
		t.Errorf("asked for %q", tenant)
	}
	for path, want := range map[string]int{"?since=yesterday": 400, "?until=x": 400, "?month=May": 400, "?type=token.isued": 400, "?type=token.issued": 200, "?who=forged": 400, "?tenant=globex&who=" + strings.Split(strings.Split(address, "who=")[1], "&")[0]: 200, "?tenant=acme&who=" + strings.Split(strings.Split(address, "who=")[1], "&")[0]: 400} {
		status(t, s.get("/dashboard/audit"+path), want)
	}
	for code, want := range map[broker.Code]int{broker.CodeInvalidRequest: 400, broker.CodeNotFound: 404, broker.CodeAccessDenied: 403, broker.CodeTemporarilyUnavailable: 503} { // threats 63 and 64
		s.service.Trail.Search = func(broker.Operator, string, broker.EventFilter, string, int) (broker.TrailPage, error) {
			return broker.TrailPage{}, broker.Errorf(code, "no")
		}
		status(t, s.get("/dashboard/audit?cursor=forged"), want)
	}
	status(t, s.send(formRequest("/dashboard/audit", url.Values{"subject": {"x"}, "form": {s.formToken()}}, "cross-site")), http.StatusForbidden)
	s.service.Trail.Search = nil
	contains(t, body(t, s.get("/dashboard/audit")), "No event here")
}

// What is sealed in an address is opened for nobody who may not see that tenant's trail, whatever else the page has to say.
func TestAuditSealedForOthers(t *testing.T) {
	s := withLogin(t, func(c *web.Config) { c.Tenants = []string{"globex"} }) // theirs has no clients any more
	s.signInAs("operator of acme", "")
	who, err := s.service.SealPersonal("subject", "globex", "ann@example.com")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/dashboard/audit", "/dashboard/audit/reach"} {
		res := s.get(path + "?" + url.Values{"tenant": {"globex"}, "who": {who}}.Encode())
		status(t, res, http.StatusNotFound)
		lacks(t, body(t, res), "ann@")
	}
}

// An export ends with the session that it was begun in, whoever ends that.
func TestExportEndsWithSession(t *testing.T) {
	s := newSite(t, public, nil)
	var first, second error
	s.service.Trail.Export = func(_ context.Context, _ broker.Operator, _ string, _ broker.EventFilter, each func([]broker.Event) error) (int, error) {
		events := webtest.TrailEvents(made)
		first = each(events)
		status(t, s.post("/dashboard/logout", nil), http.StatusSeeOther)
		second = each(events)
		return len(events), second
	}
	s.signIn()
	defer func() {
		if p := recover(); p != http.ErrAbortHandler || first != nil || broker.CodeOf(second) != broker.CodeAccessDenied || second == nil {
			t.Errorf("ended with %v: %v, then %v", p, first, second)
		}
	}()
	s.post("/dashboard/audit/export", url.Values{"tenant": {"acme"}, "format": {"csv"}})
	t.Error("went on")
}

// One operator's exports, however slowly they are read, leave room for others'.
func TestExportsAtOnce(t *testing.T) {
	s := newSite(t, public, nil)
	ask := url.Values{"tenant": {"acme"}, "format": {"csv"}}
	var statuses []int
	s.service.Trail.Export = func(context.Context, broker.Operator, string, broker.EventFilter, func([]broker.Event) error) (int, error) {
		statuses = append(statuses, s.post("/dashboard/audit/export", ask).StatusCode) // while this one runs
		return 0, nil
	}
	s.signIn()
	status(t, s.post("/dashboard/audit/export", ask), http.StatusOK)
	if !slices.Equal(statuses, []int{429, 200}) {
		t.Errorf("one more and one more: %v", statuses)
	}
	statuses = nil
	status(t, s.post("/dashboard/audit/export", ask), http.StatusOK)
	if !slices.Equal(statuses, []int{429, 200}) {
		t.Errorf("afterwards: %v", statuses)
	}
}

// TestAuditExport: both formats hold every field; spreadsheets find no formula; what broke off does not look whole.
func TestAuditExport(t *testing.T) {
	s := newSite(t, public, nil)
	events := webtest.TrailEvents(made)
	var filter broker.EventFilter
	s.service.Trail.Export = func(_ context.Context, _ broker.Operator, tenant string, f broker.EventFilter, each func([]broker.Event) error) (int, error) {
		filter = f
		if len(events) == 0 {
			return 0, nil
		}
		return len(events), errors.Join(each(events[:1]), each(events[1:]))
	}
	s.signIn()
	ask := url.Values{"tenant": {"acme"}, "agent": {"research-helper"}, "format": {"jsonl"}, "month": {"2026-11"}}
	res := s.post("/dashboard/audit/export", ask)
	status(t, res, http.StatusOK)
	if h := res.Header; h.Get("Content-Disposition") == "" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") || h.Get("Cache-Control") != "no-store" || !strings.HasPrefix(h.Get("Content-Type"), "application/jsonl") {
		t.Errorf("headers %v", h)
	}
	if filter.Agent != "research-helper" || filter.Since.Format("2006-01") != "2026-11" || filter.Until.Format("2006-01-02") != "2026-12-01" {
		t.Errorf("asked for %+v", filter)
	}
	lines := strings.Split(strings.TrimSpace(body(t, res)), "\n")
	var first map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || len(lines) != 4 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	if actor, _ := first["actor"].(map[string]any); first["id"] != "ev_1" || first["scope"] != events[0].Scope || first["requested"] != true || first["reason"] != events[0].Reason || actor["run"] != events[0].Actor.Run || len(first) != 15 {
		t.Errorf("%v", first)
	}
	ask.Set("format", "csv")
	events = append(events, broker.Event{ID: "-x", Reason: "+1", RequestID: "@a", Subject: "\tb", Scope: "\rc", Client: "a,\"b\"\nc"})
	rows, err := csv.NewReader(s.post("/dashboard/audit/export", ask).Body).ReadAll()
	if err != nil || len(rows) != 6 || len(rows[0]) != 18 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows {
		for _, cell := range row {
			if cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") {
				t.Errorf("a formula: %q", cell)
			}
		}
	}
	if rows[4][5] != `'=HYPERLINK("https://evil.example")` || rows[5][0] != "'-x" || rows[5][4] != "a,\"b\"\nc" {
		t.Errorf("%q, %q", rows[4], rows[5])
	}
	events = nil
	if res := s.post("/dashboard/audit/export", ask); res.StatusCode != 200 || !strings.HasPrefix(body(t, res), "id,time,") {
		t.Errorf("nothing: %d", res.StatusCode)
	}
	ask.Set("format", "xml")
	status(t, s.post("/dashboard/audit/export", ask), http.StatusBadRequest)
	ask.Set("format", "csv")
	status(t, s.get("/dashboard/audit/export"), http.StatusMethodNotAllowed)
	status(t, s.send(formRequest("/dashboard/audit/export", ask, "cross-site")), http.StatusForbidden)
	s.service.Trail.Export = func(context.Context, broker.Operator, string, broker.EventFilter, func([]broker.Event) error) (int, error) {
		return 0, broker.Errorf(broker.CodeTemporarilyUnavailable, "the store is down")
	}
	status(t, s.post("/dashboard/audit/export", ask), http.StatusServiceUnavailable)
}

// TestAuditExportLimits: two at a time, over a real connection, and one that the store breaks off ends without its end.
func TestAuditExportLimits(t *testing.T) {
	s := newSite(t, public, nil)
	s.signIn()
	token := s.formToken()
	server := httptest.NewUnstartedServer(s.echo)
	server.Config.ReadTimeout, server.Config.IdleTimeout = 500*time.Millisecond, time.Minute // an export may take longer than its request
	server.Start()
	defer server.Close()
	begun, goOn := make(chan bool), make(chan bool)
	s.service.Trail.Export = func(ctx context.Context, _ broker.Operator, _ string, _ broker.EventFilter, each func([]broker.Event) error) (int, error) {
		if err := each(webtest.TrailEvents(made)); err != nil {
			return 0, err
		}
		begun <- true
		if !<-goOn {
			return 4, broker.Errorf(broker.CodeTemporarilyUnavailable, "the store is down")
		}
		return 4, ctx.Err()
	}
	start := func() *http.Response {
		r := formRequest("/dashboard/audit/export", url.Values{"tenant": {"acme"}, "format": {"jsonl"}, "form": {token}}, "same-origin")
		out, err := http.NewRequestWithContext(t.Context(), r.Method, server.URL+r.URL.Path, r.Body)
		if err != nil {
			t.Fatal(err)
		}
		out.Header, out.ContentLength = r.Header, r.ContentLength
		out.Header.Set("Test-Address", "192.0.2.1")
		for name, value := range s.jar {
			out.AddCookie(&http.Cookie{Name: name, Value: value})
		}
		res, err := server.Client().Do(out)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = res.Body.Close() })
		return res
	}
	whole := start()
	<-begun
	broken := start()
	<-begun
	if third := start(); third.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the third at a time: %d", third.StatusCode)
	}
	time.Sleep(2 * server.Config.ReadTimeout)
	read := bufio.NewReader(whole.Body)
	if line, err := read.ReadString('\n'); err != nil || !strings.Contains(line, "ev_1") {
		t.Errorf("it is not sent as it is read: %q, %v", line, err)
	}
	goOn <- false
	goOn <- true
	ends := map[bool]int{}
	for _, body := range []io.Reader{read, broken.Body} {
		_, err := io.ReadAll(body)
		ends[err == nil]++
	}
	if ends[true] != 1 || ends[false] != 1 {
		t.Errorf("one ends well and one does not: %v", ends)
	}
	res := start()
	<-begun
	goOn <- true
	if _, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 {
		t.Errorf("the next one: %d, %v", res.StatusCode, err)
	}
}

// TestAuditReach: by a month in an address, or by a form.
func TestAuditReach(t *testing.T) {
	s := newSite(t, public, nil)
	var filter broker.EventFilter
	reach := broker.Reach{Events: 1234, Rows: []broker.Reached{{Connector: "files", Subject: "user-4711", Connection: "cn_1", Scope: "files.read", First: made, Last: made.Add(time.Hour), Count: 1234}}}
	s.service.Trail.Reach = func(_ broker.Operator, _ string, f broker.EventFilter) (broker.Reach, error) {
		filter = f
		return reach, nil
	}
	s.signIn()
	page := body(t, s.get("/dashboard/audit/reach?tenant=acme"))
	contains(t, page, `name="month"`)
	if s.service.Count("TrailReach") != 0 {
		t.Error("asked for nobody")
	}
	page = body(t, s.get("/dashboard/audit/reach?tenant=acme&agent=helper&month=2026-03"))
	contains(t, page, "helper", "from 2026-03-01 00:00", "to 2026-04-01 00:00", "1 subject, 1 permission, from 1,234 events", "files.read", `href="/dashboard/accounts/cn_1?tenant=acme"`, "2026-11-20 10:30")
	lacks(t, page, "This is not all")
	if filter.Agent != "helper" || filter.Since.Month() != time.March {
		t.Errorf("asked for %+v", filter)
	}
	reach.Cut = made
	contains(t, body(t, s.get("/dashboard/audit/reach?tenant=acme&run=r-1")), "This is not all", "2026-11-20 09:30:00")
	res := s.post("/dashboard/audit/reach", url.Values{"tenant": {"acme"}, "agent": {"a@example.com"}, "month": {"2026-03"}})
	if at := res.Header.Get("Location"); res.StatusCode != 303 || strings.Contains(at, "example") || !strings.HasPrefix(at, "/dashboard/audit/reach?") {
		t.Errorf("%d to %s", res.StatusCode, at)
	}
}

// TestAuditVerify: started by a form with a reason, watched on a page that loads itself while it runs.
func TestAuditVerify(t *testing.T) {
	s := newSite(t, public, nil)
	jobs := webtest.TrailJobs(made)
	var tenant, reason, once string
	s.service.Trail.Jobs = []broker.Job{jobs["jb_running"], jobs["jb_bad"]}
	s.service.Trail.Job = func(_ broker.Operator, id string) (broker.Job, error) {
		if job, ok := jobs[id]; ok {
			return job, nil
		}
		return broker.Job{}, broker.Errorf(broker.CodeNotFound, "no")
	}
	s.service.Trail.Verify = func(_ broker.Operator, of, why, o string) (broker.Job, error) {
		if tenant, reason, once = of, why, o; why == "" {
			return broker.Job{}, broker.Errorf(broker.CodeInvalidRequest, "say why: the reason is kept in the audit trail")
		}
		return jobs["jb_running"], nil
	}
	s.signIn()
	page := body(t, s.get("/dashboard/audit/verify"))
	contains(t, page, "all tenants, and the installation itself", "Earlier ones", "2 places bad", `href="/dashboard/audit/verify?job=jb_bad"`)
	res := s.post("/dashboard/audit/verify", url.Values{"tenant": {"acme"}, "reason": {" the audit "}, "once": {"o-1"}})
	status(t, res, http.StatusSeeOther)
	if tenant != "acme" || reason != "the audit" || once != "o-1" || res.Header.Get("Location") != "/dashboard/audit/verify?job=jb_running" {
		t.Errorf("%q %q %q to %s", tenant, reason, once, res.Header.Get("Location"))
	}
	res = s.post("/dashboard/audit/verify", url.Values{"tenant": {"acme"}, "once": {"o-1"}})
	status(t, res, http.StatusBadRequest)
	contains(t, body(t, res), "Say why")
	res = s.get("/dashboard/audit/verify?job=jb_running")
	if res.Header.Get("Refresh") == "" {
		t.Error("the page of a job that runs does not ask for news")
	}
	contains(t, body(t, res), "96 of 256 streams", "3,750,000 events", `value="37"`)
	res = s.get("/dashboard/audit/verify?job=jb_bad")
	if res.Header.Get("Refresh") != "" {
		t.Error("the page of a job that ended asks for news")
	}
	contains(t, body(t, res), "first bad event is 7f3aXq9LwTn2", "in that stream was not looked at; bad places in all: 2", "2 places bad")
	contains(t, body(t, s.get("/dashboard/audit/verify?job=jb_whole")), "the audit trail is whole", "state-active")
	status(t, s.get("/dashboard/audit/verify?job=other"), http.StatusNotFound)
}

// TestExportsEndAtShutdown: an export takes minutes, which a shutdown has not: it would use up the time of the refreshes that are under
// way. It breaks off where it is, and none begins.
func TestExportsEndAtShutdown(t *testing.T) {
	s := newSite(t, public, nil)
	s.signIn()
	begun := make(chan struct{})
	s.service.Trail.Export = func(ctx context.Context, _ broker.Operator, _ string, _ broker.EventFilter, each func([]broker.Event) error) (int, error) {
		if err := each(webtest.TrailEvents(made)); err != nil {
			return 0, err
		}
		close(begun)
		select {
		case <-ctx.Done():
			return 4, ctx.Err()
		case <-time.After(10 * time.Second):
			return 4, nil
		}
	}
	form := url.Values{"tenant": {"acme"}, "format": {"jsonl"}, "form": {s.formToken()}}
	ended := make(chan any, 1)
	go func() {
		defer func() { ended <- recover() }()
		s.post("/dashboard/audit/export", form)
	}()
	<-begun
	s.pages.EndLive()
	if how := <-ended; how != http.ErrAbortHandler {
		t.Errorf("the export that was under way ended with %v", how)
	}
	if res := s.post("/dashboard/audit/export", form); res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one more at a shutdown: %d", res.StatusCode)
	}
}
