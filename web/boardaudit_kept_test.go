package web_test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// TestAuditKeptSince: the explorer says from when on events are kept, and so does the name of an export that asks for older ones.
func TestAuditKeptSince(t *testing.T) {
	s := newSite(t, public, nil)
	since := time.Date(2026, 8, 31, 0, 0, 0, 0, time.UTC)
	s.service.Trail.Search = func(broker.Operator, string, broker.EventFilter, string, int) (broker.TrailPage, error) {
		return broker.TrailPage{KeptSince: s.service.Trail.Since}, nil
	}
	s.service.Trail.Export = func(context.Context, broker.Operator, string, broker.EventFilter, func([]broker.Event) error) (int, error) {
		return 0, nil
	}
	s.signIn()
	name := func(since string) string {
		t.Helper()
		res := s.post("/dashboard/audit/export", url.Values{"tenant": {"acme"}, "format": {"csv"}, "since": {since}})
		return res.Header.Get("Content-Disposition")
	}
	lacks(t, body(t, s.get("/dashboard/audit")), "Events are kept from")
	if got := name(""); strings.Contains(got, "kept") {
		t.Errorf("of a trail that is kept since ever: %s", got)
	}
	s.service.Trail.Since = since
	contains(t, body(t, s.get("/dashboard/audit")), `Events are kept from <time datetime="2026-08-31">2026-08-31</time> on (UTC).`)
	if got := name(""); !strings.Contains(got, "-kept-since-2026-08-31.csv") {
		t.Errorf("of all: %s", got)
	}
	if got := name("2026-08-31"); strings.Contains(got, "kept") {
		t.Errorf("of what is all there: %s", got)
	}
}
