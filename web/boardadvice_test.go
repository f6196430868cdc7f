package web_test

import (
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// What to do is never cut short: half a sentence, or half a command for Redis, helps nobody.
func TestAdviceIsWhole(t *testing.T) {
	s := newSite(t, public, nil)
	s.signIn()
	long := strings.Repeat("word ", 60) + "the end"
	s.service.Overviews.Look = func(broker.Operator, string, broker.Span) (broker.Overview, error) {
		return broker.Overview{Attention: []broker.Attention{{Severity: broker.SeverityWarning, Kind: broker.AttentionHealth, What: "what " + long, Do: "do " + long}}}, nil
	}
	contains(t, body(t, s.get("/dashboard")), "what "+long, "do "+long)
	now := time.Now()
	s.service.Overviews.Vitals = func(broker.Operator) (broker.Vitals, error) {
		return broker.Vitals{
			At: now, StoreNow: now, Errors: map[string]string{"store": "store " + long},
			Replicas: []broker.Replica{{ID: "one", Beat: now, Checks: map[string]string{"permissions": "check " + long}}},
			Store:    broker.StoreReport{Kind: "standalone", Withheld: "withheld " + long, Lost: []string{"lost " + long}},
		}, nil
	}
	contains(t, body(t, s.get("/dashboard/health")), "tore "+long, "check "+long, "withheld "+long, "lost "+long+".")
}
