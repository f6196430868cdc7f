package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tokenbroker/broker"
	"tokenbroker/broker/brokertest"
)

// many connects so many users, u-0 and so on.
func many(t *testing.T, h *brokertest.Harness, n int) {
	t.Helper()
	for i := range n {
		h.Provider.Account = broker.Account{ID: fmt.Sprint("acc-", i)}
		h.Connect(t, fmt.Sprint("u-", i), "files.read")
	}
}

func revokeAll(t *testing.T, h *brokertest.Harness, rate int) broker.Job {
	t.Helper()
	job, err := h.Service.RevokeAll(t.Context(), boss(), broker.RevokeAllRequest{Tenant: "acme", Rate: rate, Reason: "a leak"}, "form-1")
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func getJob(t *testing.T, h *brokertest.Harness, id string) broker.Job {
	t.Helper()
	job, err := h.Service.GetJob(context.WithoutCancel(t.Context()), boss(), id)
	if err != nil {
		t.Fatal(err)
	}
	return job
}

func live(t *testing.T, h *brokertest.Harness) (n int) {
	t.Helper()
	all, _, err := h.Store.List(t.Context(), "acme", broker.ConnectionFilter{}, "", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Status != broker.ConnectionRevoked {
			n++
		}
	}
	return n
}

// Everything is ended, at the rate that was asked for, once each, and counted; the form sent twice starts one job.
func TestRevokeAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		many(t, h, 45)
		if n, err := h.Service.CountRevokeAll(t.Context(), boss(), broker.RevokeAllRequest{Tenant: "acme"}); err != nil || n != 45 {
			t.Fatalf("to be ended: %d, %v", n, err)
		}
		var mu sync.Mutex
		revoked := 0
		h.Provider.BeforeRevoke = func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			revoked++
			return nil
		}
		job := revokeAll(t, h, 5)
		if again := revokeAll(t, h, 5); again.ID != job.ID {
			t.Error("a form sent twice started two jobs")
		}
		stop := background(t, h)
		time.Sleep(5 * time.Second)
		if n := live(t, h); n < 15 || n > 35 {
			t.Errorf("%d are left after 5 s, at 5 a second of 45", n)
		}
		if now := getJob(t, h, job.ID); now.State != broker.JobRunning || now.Progress.Total != 45 {
			t.Errorf("halfway: %+v", now)
		}
		time.Sleep(time.Minute)
		stop()
		now := getJob(t, h, job.ID)
		if now.State != broker.JobDone || now.Progress.Done != 45 || !strings.HasPrefix(now.Result, "45 connections ended; 45 revoked at the provider") || now.EndedAt.IsZero() {
			t.Errorf("at its end: %+v", now)
		}
		if live(t, h) != 0 || revoked != 45 {
			t.Errorf("%d are left, %d revocations", live(t, h), revoked)
		}
		_, err := h.Token("u-7")
		var e *broker.Error
		if !errors.As(err, &e) || e.Consent == nil || e.Consent.Reason != broker.ReasonRevoked {
			t.Errorf("a token after it: %v", err)
		}
		if started, ended, each := h.Store.Entries(broker.EventOperatorJobStarted), h.Store.Entries(broker.EventOperatorJobEnded), h.Store.Entries(broker.EventOperatorRevoked); len(started) != 2 ||
			started[0].Reason != "a leak" || len(ended) != 1 || ended[0].Actor.Agent != "ada" || ended[0].Outcome != "revoke_all done" || len(each) != 45 || each[0].Subject == "" {
			t.Errorf("events: %+v, %+v, %d of connections", started, ended, len(each))
		}
	})
}

// What is connected meanwhile is ended too.
func TestRevokeAllGoesRoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		many(t, h, 10)
		job := revokeAll(t, h, 2)
		stop := background(t, h)
		time.Sleep(3 * time.Second)
		h.Connect(t, "late", "files.read")
		time.Sleep(time.Minute)
		stop()
		if now := getJob(t, h, job.ID); now.State != broker.JobDone || now.Progress.Done != 11 || live(t, h) != 0 {
			t.Errorf("%+v, %d are left", now, live(t, h))
		}
	})
}

// A provider that throttles is given the time that it asks for, and nothing is given up meanwhile.
func TestRevokeAllThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		many(t, h, 4)
		until, early := time.Now().Add(40*time.Second), 0
		var mu sync.Mutex
		h.Provider.BeforeRevoke = func(context.Context, string) error {
			mu.Lock()
			defer mu.Unlock()
			if left := time.Until(until); left > 0 {
				early++
				return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: left}
			}
			return nil
		}
		job := revokeAll(t, h, 1)
		stop := background(t, h)
		time.Sleep(20 * time.Second)
		if now := getJob(t, h, job.ID); !strings.Contains(now.Progress.Note, "asked to wait") || now.Progress.Done != 0 {
			t.Errorf("throttled: %+v", now)
		}
		time.Sleep(time.Minute)
		stop()
		if now := getJob(t, h, job.ID); now.State != broker.JobDone || now.Progress.Done != 4 || now.Progress.Failed != 0 || early > 2 {
			t.Errorf("at its end: %+v, asked %d times too early", now, early)
		}
	})
}

// Jobs that take for ever leave room for others, and a tenant's own operators have some of them under way, and no more.
func TestJobsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		many(t, h, 4)
		h.Provider.BeforeRevoke = func(context.Context, string) error {
			return &broker.UpstreamError{Class: broker.ClassThrottled, Status: 429, RetryAfter: 5 * time.Minute}
		}
		stop := background(t, h)
		defer stop()
		theirs := broker.Operator{ID: "alma", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin, Tenant: "acme"}}}
		start := func(op broker.Operator, tenant, once string) (broker.Job, error) {
			return h.Service.RevokeAll(t.Context(), op, broker.RevokeAllRequest{Tenant: tenant, Rate: 1, Reason: "x"}, once)
		}
		var last broker.Job
		for i := range 4 {
			job, err := start(theirs, "acme", fmt.Sprint("form-", i))
			if err != nil {
				t.Fatal(err)
			}
			last = job
		}
		time.Sleep(20 * time.Second)
		if _, err := start(theirs, "acme", "one more"); broker.CodeOf(err) != broker.CodeInvalidRequest || err == nil {
			t.Errorf("one more: %v", err)
		}
		if _, err := h.Service.ChangeJob(t.Context(), theirs, last.ID, broker.JobPause, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := start(theirs, "acme", "instead"); err != nil {
			t.Errorf("in the place of one: %v", err)
		}
		if _, err := h.Service.ChangeJob(t.Context(), theirs, last.ID, broker.JobResume, "x"); broker.CodeOf(err) != broker.CodeInvalidRequest || err == nil {
			t.Errorf("that one again: %v", err)
		}
		mine, err := start(boss(), "beta", "mine")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if now := getJob(t, h, mine.ID); now.State != broker.JobDone {
			t.Errorf("beside jobs that take for ever: %+v", now)
		}
	})
}

// An operator pauses, resumes and cancels it; each needs a reason, and is on record.
func TestJobActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 2)
		defer drain(t, h)
		many(t, h, 40)
		job := revokeAll(t, h, 2)
		stop := background(t, h)
		change := func(action broker.JobAction) {
			t.Helper()
			if _, err := h.Replicas[1].ChangeJob(t.Context(), boss(), job.ID, action, "because"); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(5 * time.Second)
		if _, err := h.Service.ChangeJob(t.Context(), boss(), job.ID, broker.JobPause, ""); broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Errorf("without a reason: %v", err)
		}
		change(broker.JobPause)
		time.Sleep(5 * time.Second)
		left := live(t, h)
		time.Sleep(time.Minute)
		if now := getJob(t, h, job.ID); now.State != broker.JobPaused || live(t, h) != left || left == 0 || left == 40 || int(now.Progress.Done) != 40-left {
			t.Errorf("paused with %d left: %d are, %+v", left, live(t, h), now)
		}
		change(broker.JobResume)
		time.Sleep(5 * time.Second)
		if now := getJob(t, h, job.ID); now.State != broker.JobRunning || live(t, h) >= left {
			t.Errorf("resumed with %d left: %d are, %+v", left, live(t, h), now)
		}
		change(broker.JobCancel)
		time.Sleep(5 * time.Second)
		left = live(t, h)
		time.Sleep(time.Minute)
		now := getJob(t, h, job.ID)
		if now.State != broker.JobCancelled || live(t, h) != left || left == 0 || !strings.Contains(now.Result, "because") {
			t.Errorf("cancelled: %+v", now)
		}
		change(broker.JobResume) // changes nothing
		if now := getJob(t, h, job.ID); now.State != broker.JobCancelled {
			t.Errorf("resumed after its end: %+v", now)
		}
		stop()
		if paused, resumed, ended := h.Store.Entries(broker.EventOperatorJobPaused), h.Store.Entries(broker.EventOperatorJobResumed), h.Store.Entries(broker.EventOperatorJobEnded); len(paused) != 1 || len(resumed) != 1 || len(ended) != 1 {
			t.Errorf("%d, %d and %d events", len(paused), len(resumed), len(ended))
		}
	})
}

// A store that is down holds the job up, and ends it only after many tries; nothing is counted that did not happen.
func TestJobAndAStoreThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := brokertest.New(t, 1)
		defer drain(t, h)
		many(t, h, 6)
		job := revokeAll(t, h, 2)
		down := time.Now().Add(2500 * time.Millisecond)
		h.Store.Before = func(context.Context, string) error {
			if since := time.Since(down); since > 0 && since < 30*time.Second {
				return errors.New("down")
			}
			return nil
		}
		stop := background(t, h)
		time.Sleep(2 * time.Minute)
		if now := getJob(t, h, job.ID); now.State != broker.JobDone || now.Progress.Done != 6 || now.Troubles != 0 {
			t.Errorf("after it came back: %+v", now)
		}
		stop()
	})
}

// Who may start it, and see it.
func TestWhoMayRevokeAll(t *testing.T) {
	h := brokertest.New(t, 1)
	defer drain(t, h)
	ctx := t.Context()
	tenantAdmin := func(tenant string) broker.Operator {
		return broker.Operator{ID: "tom", Grants: []broker.OperatorGrant{{Role: broker.RoleAdmin, Tenant: tenant}}}
	}
	for _, c := range []struct {
		name string
		op   broker.Operator
		req  broker.RevokeAllRequest
		want broker.Code
	}{
		{"operator", operatorOf("acme"), broker.RevokeAllRequest{Tenant: "acme", Reason: "x"}, broker.CodeAccessDenied},
		{"admin of another", tenantAdmin("other"), broker.RevokeAllRequest{Tenant: "acme", Reason: "x"}, broker.CodeNotFound},
		{"everywhere, of a tenant's", tenantAdmin("acme"), broker.RevokeAllRequest{Connector: "files", Reason: "x"}, broker.CodeAccessDenied},
		{"everything", boss(), broker.RevokeAllRequest{Reason: "x"}, broker.CodeInvalidRequest},
		{"too fast", boss(), broker.RevokeAllRequest{Tenant: "acme", Reason: "x", Rate: 201}, broker.CodeInvalidRequest},
		{"no reason", boss(), broker.RevokeAllRequest{Tenant: "acme"}, broker.CodeInvalidRequest},
	} {
		if _, err := h.Service.RevokeAll(ctx, c.op, c.req, "form"); broker.CodeOf(err) != c.want || err == nil {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if _, err := h.Service.RevokeAll(ctx, boss(), broker.RevokeAllRequest{Tenant: "acme", Reason: "x"}, ""); broker.CodeOf(err) != broker.CodeInvalidRequest {
		t.Errorf("without the form: %v", err)
	}
	job, err := h.Service.RevokeAll(ctx, tenantAdmin("acme"), broker.RevokeAllRequest{Tenant: "acme", Connector: "files", Reason: "x"}, "form")
	if err != nil || job.Rate != broker.DefaultRevokeRate {
		t.Fatalf("%+v, %v", job, err)
	}
	for _, c := range []struct {
		op   broker.Operator
		want broker.Code
		sees int
	}{{boss(), "", 1}, {tenantAdmin("acme"), "", 1}, {tenantAdmin("other"), broker.CodeNotFound, 0}, {operatorOf("acme"), broker.CodeAccessDenied, 0}} {
		_, err := h.Service.GetJob(ctx, c.op, job.ID)
		if c.want == "" && err != nil || c.want != "" && broker.CodeOf(err) != c.want {
			t.Errorf("%v: %v, want %s", c.op.Grants, err, c.want)
		}
		if list, err := h.Service.ListJobs(ctx, c.op, 10); err != nil || len(list) != c.sees {
			t.Errorf("%v sees %d, %v", c.op.Grants, len(list), err)
		}
		if _, err := h.Service.ChangeJob(ctx, c.op, job.ID, "stand on your head", "x"); c.want != "" && broker.CodeOf(err) != c.want {
			t.Errorf("%v changes: %v", c.op.Grants, err)
		}
	}
}
