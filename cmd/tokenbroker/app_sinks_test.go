package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tokenbroker/broker"
	"tokenbroker/vault/sinks"
)

// generous hands out a token whoever asks, by both ways.
type generous struct {
	broker.Connections
	broker.Guesses
}

func (generous) Release(context.Context, broker.Connection, string, broker.Entry) (broker.Secret, error) {
	return broker.NewSecret("canary-token"), nil
}

func (generous) ReleaseGuessed(context.Context, broker.Guess, broker.Entry) (broker.Connection, broker.Secret, error) {
	return broker.Connection{ID: "c1"}, broker.NewSecret("canary-token"), nil
}

// notedSink takes lines, or fails.
type notedSink struct {
	lines []string
	fail  error
}

func (*notedSink) Name() string { return "noted" }

func (s *notedSink) Append(_ context.Context, lines [][]byte) error {
	for _, line := range lines {
		s.lines = append(s.lines, string(line))
	}
	return s.fail
}

// TestThreat70Gate: by either way a token passes with its events at all required sinks, and not at all if one of them fails; an error holds
// no token. Without a required sink nothing stands in the way.
func TestThreat70Gate(t *testing.T) {
	entry := broker.Entry{Type: broker.EventTokenIssued, Time: time.UnixMilli(1), Tenant: "acme", Scopes: []broker.EventScope{{ID: "ev_1", Scope: "a"}, {ID: "ev_2", Scope: "b"}}}
	broken := errors.New("broken")
	for _, second := range []bool{false, true} {
		for _, fail := range []error{nil, broken} {
			one, two := &notedSink{}, &notedSink{fail: fail}
			gate := &sinkGate{}
			if second {
				gate.required = append(gate.required, sinks.NewGroup(one, time.Minute))
			}
			gate.required = append(gate.required, sinks.NewGroup(two, time.Minute))
			conns, guesses := gate.guard(generous{}, generous{})
			secret, err := conns.Release(t.Context(), broker.Connection{}, "", entry)
			conn, guessed, guessErr := guesses.ReleaseGuessed(t.Context(), broker.Guess{}, entry)
			if !errors.Is(err, fail) || !errors.Is(guessErr, fail) || secret.IsZero() != (fail != nil) || guessed.IsZero() != (fail != nil) || (conn.ID == "") != (fail != nil) {
				t.Errorf("second %v, fail %v: %v %v, tokens %v %v, connection %q", second, fail, err, guessErr, !secret.IsZero(), !guessed.IsZero(), conn.ID)
			}
			if len(two.lines) != 4 || !strings.Contains(two.lines[0], `"ev_1"`) || !strings.Contains(two.lines[3], `"ev_2"`) || strings.Contains(strings.Join(two.lines, ""), "canary") {
				t.Errorf("%q", two.lines)
			}
			if second && len(one.lines) != 4 {
				t.Errorf("the other sink: %q", one.lines)
			}
			if n := len(gate.failing()); n != 0 && fail == nil || n != 1 && fail != nil {
				t.Errorf("%d are said to fail", n)
			}
			for _, g := range gate.required {
				g.Close()
			}
		}
	}
	var none *sinkGate
	conns, guesses := none.guard(generous{}, generous{})
	if conns != (generous{}) || guesses != (generous{}) {
		t.Error("something stands in the way")
	}
}
