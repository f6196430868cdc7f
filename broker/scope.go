package broker

import (
	"slices"
	"strings"
)

// ScopeSet is a set of scopes (RFC 6749 section 3.3), sorted and without repeats. The zero value is the empty set.
// Values are never changed in place, so a ScopeSet may be shared.
type ScopeSet struct{ scopes []string }

// NewScopeSet makes a set of the given scopes; empty strings are left out.
func NewScopeSet(scopes ...string) ScopeSet {
	set := make([]string, 0, len(scopes))
	for _, s := range scopes {
		if s != "" {
			set = append(set, s)
		}
	}
	slices.Sort(set)
	return ScopeSet{scopes: slices.Compact(set)}
}

// ParseScopes reads a space-separated list, as in RFC 6749 section 3.3; a provider's own separators are its definition's matter.
func ParseScopes(list string) ScopeSet { return NewScopeSet(strings.Fields(list)...) }

// All returns the scopes in order. The caller must not change the slice.
func (s ScopeSet) All() []string { return s.scopes }

// Len is the number of scopes.
func (s ScopeSet) Len() int { return len(s.scopes) }

// Empty tells that there is no scope.
func (s ScopeSet) Empty() bool { return len(s.scopes) == 0 }

// Has tells whether the scope is in the set.
func (s ScopeSet) Has(scope string) bool {
	_, found := slices.BinarySearch(s.scopes, scope)
	return found
}

// Covers tells whether every scope of other is in s.
func (s ScopeSet) Covers(other ScopeSet) bool {
	for _, scope := range other.scopes {
		if !s.Has(scope) {
			return false
		}
	}
	return true
}

// Minus is what s has and other has not.
func (s ScopeSet) Minus(other ScopeSet) ScopeSet {
	return s.only(func(scope string) bool { return !other.Has(scope) })
}

// only is what of s keep says yes to. Where that is all, which is usual on the path of a token, it is s itself.
func (s ScopeSet) only(keep func(scope string) bool) ScopeSet {
	for i, scope := range s.scopes {
		if keep(scope) {
			continue
		}
		var rest []string
		rest = append(rest, s.scopes[:i]...)
		for _, later := range s.scopes[i+1:] {
			if keep(later) {
				rest = append(rest, later)
			}
		}
		return ScopeSet{scopes: rest}
	}
	return s
}

// Union is what s or other has.
func (s ScopeSet) Union(other ScopeSet) ScopeSet {
	return NewScopeSet(append(slices.Clone(s.scopes), other.scopes...)...)
}

// Intersect is what both have.
func (s ScopeSet) Intersect(other ScopeSet) ScopeSet { return s.Minus(s.Minus(other)) }

// Equal tells whether both have the same scopes.
func (s ScopeSet) Equal(other ScopeSet) bool { return slices.Equal(s.scopes, other.scopes) }

// String is the space-separated form of RFC 6749.
func (s ScopeSet) String() string { return strings.Join(s.scopes, " ") }

// MarshalText makes encoders write the space-separated form.
func (s ScopeSet) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
