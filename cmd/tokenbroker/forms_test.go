package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"tokenbroker/broker"
)

func TestFormGate(t *testing.T) {
	older, newer, later := broker.Replica{Version: "1.0"}, broker.Replica{Forms: knownForms}, broker.Replica{Forms: knownForms + 1}
	unreadable := broker.Replica{Unreadable: true}
	now := time.Unix(1_800_000_000, 0)
	var seen []broker.Replica
	var failing error
	gate := func(form int, ephemeral bool) *formGate {
		return newFormGate(form, ephemeral, func(context.Context) ([]broker.Replica, time.Time, error) { return seen, now, failing }, func() time.Time { return now })
	}
	look := func(g *formGate, after time.Duration, replicas ...broker.Replica) bool {
		t.Helper()
		now, seen = now.Add(after), replicas
		opened, err := g.look(t.Context())
		if !errors.Is(err, failing) || opened && !g.open() {
			t.Fatalf("look: %t, %v", opened, err)
		}
		return opened
	}
	g := gate(0, false)
	if look(g, 0, newer) || look(g, formsAfter-time.Second, newer, later) {
		t.Fatal("opened too early")
	}
	if !look(g, time.Second, newer, newer) || look(g, time.Second, newer) || !g.open() {
		t.Fatal("not opened once, when every replica had read the form for long enough")
	}
	for what, one := range map[string]broker.Replica{"older": older, "unreadable": unreadable} {
		g = gate(0, false)
		look(g, 0, newer)
		look(g, formsAfter/2, newer, one)
		if look(g, formsAfter, newer) {
			t.Errorf("opened at once behind a replica that is %s", what)
		}
		if !look(g, formsAfter, newer) {
			t.Errorf("not opened long behind a replica that is %s", what)
		}
	}
	g = gate(0, false)
	look(g, 0, newer)
	failing = errors.New("no answer")
	look(g, formsAfter, newer)
	failing = nil
	if look(g, 0, newer) {
		t.Error("opened although nobody knows who was there meanwhile")
	}
	if g = gate(0, false); look(g, 0) || look(g, formsAfter) {
		t.Error("opened where not even this replica is seen")
	}
	if g = gate(1, true); look(g, 0, newer) || look(g, 10*formsAfter, newer) || g.open() {
		t.Error("opened although the configuration says to write the first form")
	}
	if !gate(2, false).open() || !gate(0, true).open() {
		t.Error("not open from the start where that is said, or nobody else can be there")
	}
}
