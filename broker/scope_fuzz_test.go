package broker_test

import (
	"slices"
	"strings"
	"testing"

	"tokenbroker/broker"
)

// FuzzScopes holds sets of scopes against a set that is written down plainly.
func FuzzScopes(f *testing.F) {
	for _, seed := range [][2]string{{"files.read files.write", "files.read"}, {"a a  b", "b a"}, {"", " "}, {"a\tb\nc", "a"}, {"https://www.googleapis.com/auth/drive", "A a"}, {"é e\u0301", "\u00a0"}, {"\xff", "\xfe"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		a, b := broker.ParseScopes(one), broker.ParseScopes(two)
		plain := func(list string) []string {
			words := strings.Fields(list)
			slices.Sort(words)
			return slices.Compact(words)
		}
		in := func(list []string, s string) bool { return slices.Contains(list, s) }
		wantA, wantB := plain(one), plain(two)
		if a.Len() != len(wantA) || a.Empty() != (len(wantA) == 0) || !broker.ParseScopes(a.String()).Equal(a) {
			t.Fatalf("%q is %v", one, a.All())
		}
		covers := true
		for _, s := range wantB {
			covers = covers && in(wantA, s)
			if a.Has(s) != in(wantA, s) || a.Minus(b).Has(s) || a.Intersect(b).Has(s) != in(wantA, s) || !a.Union(b).Has(s) {
				t.Fatalf("%q in %q", s, one)
			}
		}
		for _, s := range wantA {
			if !a.Has(s) || a.Minus(b).Has(s) == in(wantB, s) {
				t.Fatalf("%q in %q without %q", s, one, two)
			}
		}
		if a.Covers(b) != covers || a.Equal(b) != slices.Equal(wantA, wantB) || !a.Union(b).Covers(a) || !a.Covers(a.Minus(b)) {
			t.Fatalf("%q covers %q: %t", one, two, a.Covers(b))
		}
	})
}
