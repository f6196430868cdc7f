package broker_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

var anyAuditor = grantOf(broker.RoleAuditor, broker.Everywhere)

// TestExploreRoles: who may do what with the trail; what is not allowed leaves no trace of the tenant.
func TestExploreRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		ctx := t.Context()
		f := broker.EventFilter{Agent: "a"}
		uses := map[string]func(op broker.Operator, tenant string) error{
			"search": func(op broker.Operator, tenant string) error {
				_, err := h.Service.SearchTrail(ctx, op, tenant, f, "", 10)
				return err
			},
			"reach": func(op broker.Operator, tenant string) error {
				_, err := h.Service.TrailReach(ctx, op, tenant, f)
				return err
			},
			"export": func(op broker.Operator, tenant string) error {
				_, err := h.Service.ExportTrail(ctx, op, tenant, f, func([]broker.Event) error { return nil })
				return err
			},
			"verify": func(op broker.Operator, tenant string) error {
				_, err := h.Service.VerifyTrail(ctx, op, tenant, "why", "once-"+op.ID+tenant+string(op.Grants[0].Role))
				return err
			},
		}
		for _, role := range broker.Roles() {
			for name, use := range uses {
				permit := broker.PermitAudit
				if name == "export" || name == "verify" {
					permit = broker.PermitExport
				}
				want := broker.Code("")
				if !grantOf(role, "acme").May(permit, "acme") {
					want = broker.CodeAccessDenied
				}
				if err := use(grantOf(role, "acme"), "acme"); broker.CodeOf(err) != want && !(err == nil && want == "") {
					t.Errorf("%s as %s: %v", name, role, err)
				}
				before := len(h.Store.Trail)
				for tenant, want := range map[string]broker.Code{"other": broker.CodeNotFound, broker.Everywhere: broker.CodeAccessDenied} {
					if err := use(grantOf(role, "acme"), tenant); broker.CodeOf(err) != want {
						t.Errorf("%s as %s of acme in %q: %v", name, role, tenant, err)
					}
				}
				if len(h.Store.Trail) != before {
					t.Errorf("%s as %s: what is not allowed was recorded as done", name, role)
				}
			}
		}
		// Not recorded means not done.
		h.Store.Before = func(_ context.Context, operation string) error {
			switch operation {
			case "Append":
				return errors.New("the store is down")
			case "SearchEvents", "CreateJob":
				t.Errorf("%s without a record", operation)
			}
			return nil
		}
		for name, use := range uses {
			if err := use(grantOf(broker.RoleAdmin, "acme"), "acme"); broker.CodeOf(err) != broker.CodeTemporarilyUnavailable {
				t.Errorf("%s without a trail: %v", name, err)
			}
		}
	})
}

// TestExploreTrail: pages newest first, cursors for their own question only, and what is recorded of it.
func TestExploreTrail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		begin := time.Now()
		conn := h.Connect(t, "ann@example.com", "files.read files.write")
		for range 3 {
			time.Sleep(time.Hour)
			if _, err := h.Service.IssueToken(t.Context(), h.Caller(), broker.TokenRequest{Connector: "files", Subject: "ann@example.com", Actor: broker.Actor{Agent: "helper", Run: "r-1"}}); err != nil {
				t.Fatal(err)
			}
		}
		f := broker.EventFilter{Agent: "helper", Subject: "ann@example.com", Type: broker.EventTokenIssued}
		page, err := h.Service.SearchTrail(t.Context(), anyAuditor, "acme", f, "", 2)
		if err != nil || len(page.Events) != 2 || page.Next == "" || page.Events[0].Time.Sub(begin) < 3*time.Hour {
			t.Fatalf("%+v, %v", page, err)
		}
		if _, err := h.Service.SearchTrail(t.Context(), anyAuditor, "acme", broker.EventFilter{Agent: "other"}, page.Next, 2); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("another question's cursor: %v", err)
		}
		seen := len(page.Events)
		for page.Next != "" {
			if page, err = h.Service.SearchTrail(t.Context(), anyAuditor, "acme", f, page.Next, 2); err != nil {
				t.Fatal(err)
			}
			seen += len(page.Events)
		}
		if seen != 6 {
			t.Errorf("%d events, want 6", seen)
		}
		last := h.Store.Trail[len(h.Store.Trail)-1]
		if last.Type != broker.EventOperatorViewed || last.Subject != "ann@example.com" || last.Actor.Agent != anyAuditor.ID || strings.Contains(last.Reason, "ann@") || !strings.Contains(last.Reason, "agent helper") {
			t.Errorf("recorded: %+v", last)
		}
		reach, err := h.Service.TrailReach(t.Context(), anyAuditor, "acme", broker.EventFilter{Agent: "helper", Since: begin.Add(90 * time.Minute)})
		if err != nil || len(reach.Rows) != 2 || reach.Events != 4 || !reach.Cut.IsZero() {
			t.Fatalf("reach: %+v, %v", reach, err)
		}
		if row := reach.Rows[0]; row.Connection != conn.ID || row.Scope != "files.read" || row.Count != 2 || row.Last.Sub(row.First) != time.Hour {
			t.Errorf("reach: %+v", row)
		}
		if _, err := h.Service.TrailReach(t.Context(), anyAuditor, "acme", broker.EventFilter{}); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("the reach of nobody: %v", err)
		}
		var exported []broker.Event
		n, err := h.Service.ExportTrail(t.Context(), anyAuditor, "acme", f, func(events []broker.Event) error { exported = append(exported, events...); return nil })
		if err != nil || n != 6 || len(exported) != 6 || exported[0].Time.After(exported[5].Time) {
			t.Errorf("export: %d, %d events, %v", n, len(exported), err)
		}
		if last := h.Store.Trail[len(h.Store.Trail)-1]; last.Type != broker.EventOperatorExported || strings.Contains(last.Reason, "ann@") || !strings.Contains(last.Reason, "type token.issued") {
			t.Errorf("recorded: %+v", last)
		}
		stop := errors.New("the browser is gone")
		if _, err := h.Service.ExportTrail(t.Context(), anyAuditor, "acme", f, func([]broker.Event) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("an export to nobody: %v", err)
		}
		for name, bad := range map[string]broker.EventFilter{"long": {Agent: strings.Repeat("x", 513)}, "control": {Run: "a\nb"}, "backwards": {Since: begin, Until: begin}} {
			if _, err := h.Service.SearchTrail(t.Context(), anyAuditor, "acme", bad, "", 2); broker.CodeOf(err) != broker.CodeInvalidRequest {
				t.Errorf("%s: %v", name, err)
			}
		}
		sealed, err := h.Service.SealPersonal("subject", "acme", "ann@example.com")
		if err != nil || sealed == "" {
			t.Fatalf("sealed %q, %v", sealed, err)
		}
		if text, err := h.Service.OpenPersonal("subject", "acme", sealed); err != nil || text != "ann@example.com" {
			t.Errorf("opened %q, %v", text, err)
		}
		if _, err := h.Service.OpenPersonal("subject", "globex", sealed); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("of another tenant: %v", err)
		}
	})
}

// TestTrailKeptSince: from when on events are kept is told to who may see them.
func TestTrailKeptSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		h.Store.Kept = time.Date(2026, 8, 31, 0, 0, 0, 0, time.UTC)
		page, err := h.Service.SearchTrail(t.Context(), anyAuditor, "acme", broker.EventFilter{}, "", 10)
		if err != nil || !page.KeptSince.Equal(h.Store.Kept) {
			t.Errorf("%v, %v", page.KeptSince, err)
		}
		since, err := h.Service.TrailKeptSince(t.Context(), anyAuditor, "acme")
		if err != nil || !since.Equal(h.Store.Kept) {
			t.Errorf("%v, %v", since, err)
		}
		if _, err := h.Service.TrailKeptSince(t.Context(), grantOf(broker.RoleAuditor, "acme"), "other"); broker.CodeOf(err) != broker.CodeNotFound {
			t.Errorf("of another tenant: %v", err)
		}
	})
}

// TestVerifyJob: the job goes from piece to piece and names the first event that was tampered with, before what was lost.
func TestVerifyJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- h.Service.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		run := func() broker.Job {
			t.Helper()
			job, err := h.Service.VerifyTrail(t.Context(), anyAuditor, broker.Everywhere, "the yearly audit", time.Now().String())
			if err != nil {
				t.Fatal(err)
			}
			for range 100 {
				time.Sleep(time.Second)
				if job, err = h.Service.GetJob(t.Context(), anyAuditor, job.ID); err != nil {
					t.Fatal(err)
				}
				if job.State.Ended() {
					return job
				}
			}
			t.Fatalf("it does not end: %+v", job)
			return job
		}
		var asked []string
		h.Store.Verified = func(tenant, position string) broker.VerifiedTrail {
			asked = append(asked, tenant+"|"+position)
			out := broker.VerifiedTrail{Streams: 1, Entries: 2, Events: 3, Total: 3}
			switch position {
			case "":
				out.Next, out.Faults = "one", []broker.TrailFault{{Stream: "s", After: "ev-1", What: "dropped", Lost: true}}
			case "one":
				out.Next, out.Faults = "two", []broker.TrailFault{{Stream: "t", Event: "ev-2", What: "changed"}, {Stream: "t", Event: "ev-3", What: "changed"}}
			}
			return out
		}
		job := run()
		if job.State != broker.JobDone || job.Progress.Done != 3 || job.Progress.Failed != 3 || !strings.Contains(job.Result, "tampered with: the first bad event is ev-2 (stream t)") || !strings.Contains(job.Result, "9 events") {
			t.Errorf("%+v", job)
		}
		if got := strings.Join(asked, " "); got != "| |one |two" {
			t.Errorf("asked %s", got)
		}
		h.Store.Verified = nil
		if job := run(); !strings.Contains(job.Result, "is whole") || job.Progress.Failed != 0 {
			t.Errorf("%+v", job)
		}
	})
}
