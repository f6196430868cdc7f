package broker_test

import (
	"testing"

	"pgregory.net/rapid"

	"tokenbroker/broker"
)

func TestScopeSetLaws(t *testing.T) {
	set := rapid.Custom(func(t *rapid.T) broker.ScopeSet {
		return broker.NewScopeSet(rapid.SliceOfN(rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e"}), 0, 8).Draw(t, "scopes")...)
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := set.Draw(t, "a"), set.Draw(t, "b")
		if !a.Union(b).Covers(a) || !a.Union(b).Equal(b.Union(a)) || !a.Covers(a.Minus(b)) || !a.Minus(b).Intersect(b).Empty() {
			t.Fatalf("a=%v b=%v", a, b)
		}
		if a.Covers(b) != b.Minus(a).Empty() || !a.Minus(b).Union(a.Intersect(b)).Equal(a) {
			t.Fatalf("a=%v b=%v", a, b)
		}
		if !broker.ParseScopes(a.String()).Equal(a) {
			t.Fatalf("%q does not read back", a)
		}
		for _, s := range a.All() {
			if !a.Has(s) || s == "" {
				t.Fatalf("%v", a)
			}
		}
	})
}
