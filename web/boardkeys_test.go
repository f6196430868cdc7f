package web

import (
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
)

// While records are sealed anew the health page tells how far that is, and which key still has some (threat 35).
func TestHealthPageShowsSealingAnew(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	replica := broker.Replica{
		ID: "r1", Beat: now, Keys: []broker.SealingKey{{ID: 1001, Status: "enabled"}, {ID: 2002, Status: "enabled", Primary: true}},
		AuditKeys: []broker.SealingKey{{ID: 3003, Status: "enabled", Primary: true}},
	}
	v := broker.Vitals{At: now, StoreNow: now, Replicas: []broker.Replica{replica}, Seals: broker.Seals{
		Records: 10, At: now.Add(-6 * time.Hour), ByKey: map[uint32]int{1001: 10}, Primary: 2002,
		Resealing: broker.Resealing{Needed: true, Running: true, Current: broker.SealProgress{Began: now, Records: 40, Resealed: 30}},
	}}
	var p healthPage
	p.keys(v)
	if !strings.Contains(p.Seals, "Of 10 records, 0") || !strings.Contains(p.Seals, "40 looked at since") || !strings.Contains(p.Seals, "30 sealed anew") {
		t.Errorf("under way: %s", p.Seals)
	}
	if len(p.Keys) != 3 || p.Keys[2].Records != "the audit trail" {
		t.Errorf("keys: %+v", p.Keys)
	}
	v.Seals.Resealing = broker.Resealing{Needed: true, Last: broker.SealProgress{Ended: now, Records: 50, ByKey: map[uint32]int{1001: 5, 2002: 45}, Left: map[uint32]int{1001: 5}}}
	p = healthPage{}
	p.keys(v)
	if !strings.Contains(p.Seals, "Of 50 records, ") || !strings.Contains(p.Seals, "once all replicas have loaded the same keys") || p.Keys[0].Records != "5" {
		t.Errorf("behind a pass that left something: %s, %+v", p.Seals, p.Keys)
	}
}
