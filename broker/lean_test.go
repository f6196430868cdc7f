package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"pgregory.net/rapid"
)

// TestScopeSetsAgainstMaps: sets that are compared in place are what sets are.
func TestScopeSetsAgainstMaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e", ""}), 0, 6)
		left, right := some.Draw(t, "left"), some.Draw(t, "right")
		a, b := NewScopeSet(left...), NewScopeSet(right...)
		var minus, both []string
		for _, s := range a.All() {
			if slices.Contains(right, s) {
				both = append(both, s)
			} else {
				minus = append(minus, s)
			}
		}
		before := slices.Clone(a.All())
		if got := a.Minus(b); !slices.Equal(got.All(), minus) {
			t.Fatalf("%v minus %v is %v", a, b, got)
		}
		if got := a.Intersect(b); !slices.Equal(got.All(), both) {
			t.Fatalf("%v and %v have %v", a, b, got)
		}
		if a.Covers(b) != b.Minus(a).Empty() {
			t.Fatalf("%v covers %v: %v", a, b, a.Covers(b))
		}
		if !slices.Equal(before, a.All()) {
			t.Fatal("a set was changed in place")
		}
	})
}

// TestAdmitAsSets: the rules about scopes, written with sets as they are meant.
func TestAdmitAsSets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 5)
		connector := Connector{ID: "files", Default: NewScopeSet("a"), Implied: NewScopeSet(some.Draw(t, "implied")...)}
		for _, name := range NewScopeSet(some.Draw(t, "offered")...).All() {
			connector.Scopes = append(connector.Scopes, ScopeInfo{Name: name})
		}
		ceiling, named := NewScopeSet(some.Draw(t, "ceiling")...), NewScopeSet(some.Draw(t, "named")...)
		carried := NewScopeSet(some.Draw(t, "carried")...)
		if named.Empty() {
			return
		}
		offered := offeredScopes(connector)
		want := named.Minus(connector.Implied.Minus(offered))
		code := Code("")
		switch {
		case !want.Minus(offered).Empty() || want.Empty():
			code = CodeInvalidScope
		case !ceiling.Covers(want):
			code = CodeAccessDenied
		}
		got, err := admit(Client{Scopes: &ceiling}, one{connector}, "files", named)
		if (err == nil) != (code == "") || err != nil && CodeOf(err) != code || err == nil && !got.scopes.Equal(want) {
			t.Fatalf("admitted %v, %v; want %v, %s", got.scopes, err, want, code)
		}
		_, err = ask{connector: connector, ceiling: &ceiling}.narrowing(carried)
		if within := ceiling.Covers(carried.Minus(connector.Implied)); within != (err == nil) {
			t.Fatalf("%v within %v: %v", carried, ceiling, err)
		}
	})
}

type one struct{ is Connector }

func (o one) Connector(string) (Connector, bool) { return o.is, true }
func (o one) All() []Connector                   { return []Connector{o.is} }

// TestEventIDs: ids of one entry differ, and each is 18 random bytes of its own.
func TestEventIDs(t *testing.T) {
	random := make([]byte, 3*idBytes)
	_, _ = rand.Read(random)
	s := &Service{cfg: Config{Random: bytes.NewReader(random)}}
	events, err := s.eventScopes(NewScopeSet("a", "b", "c"), NewScopeSet("b"))
	if err != nil || len(events) != 3 {
		t.Fatal(events, err)
	}
	for i, e := range events {
		if e.ID != base64.RawURLEncoding.EncodeToString(random[i*idBytes:(i+1)*idBytes]) || e.Scope != string(rune('a'+i)) || e.Requested != (i == 1) {
			t.Errorf("event %d is %+v", i, e)
		}
	}
	if _, err := s.eventScopes(ScopeSet{}, ScopeSet{}); err == nil {
		t.Error("an id without randomness")
	}
}

// TestNoSpanWithin: within a request that nobody records, no span is made; without a request, or within one from elsewhere, one is.
func TestNoSpanWithin(t *testing.T) {
	spans := &countingTracer{}
	labels := telemetry{tracer: spans, known: func(string) bool { return true }}
	at := trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}
	for _, remote := range []bool{false, true} {
		at.Remote = remote
		ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(at))
		spans.n = 0
		_, end := labels.begin(ctx, "x", "files")
		end(nil)
		if made := spans.n == 1; made != remote {
			t.Errorf("remote %v: a span was made: %v", remote, made)
		}
	}
	spans.n = 0
	if labels.begin(context.Background(), "x", "files"); spans.n != 1 {
		t.Error("no span was begun")
	}
}

type countingTracer struct {
	noop.Tracer
	n int
}

func (c *countingTracer) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	c.n++
	return c.Tracer.Start(ctx, name, options...)
}
