package providers

import (
	"slices"
	"sort"
	"strings"

	"tokenbroker/broker"
)

// request is the scopes as the provider wants to read them.
func (s *server) request(scopes broker.ScopeSet) string {
	return strings.Join(scopes.All(), s.def.ScopeSeparator)
}

// optional are those scopes that the provider grants where the account has them.
func (s *server) optional(scopes broker.ScopeSet) broker.ScopeSet {
	var names []string
	for _, scope := range scopes.All() {
		if s.def.Scopes[scope].Optional {
			names = append(names, scope)
		}
	}
	return broker.NewScopeSet(names...)
}

// fold makes different spellings of one scope equal.
func (s *server) fold(scope string) string {
	scope = s.alias(scope)
	if s.def.ScopesIgnoreCase {
		scope = strings.ToLower(scope)
	}
	return scope
}

func (s *server) alias(scope string) string {
	if short, ok := mapped(s.def.ScopeAliases, scope); ok {
		return short
	}
	return scope
}

// mapped is what the scope is mapped to: a key that ends in * stands for all with that beginning, and * in its value for the
// rest.
func mapped(scopes map[string]string, scope string) (string, bool) {
	if other, ok := scopes[scope]; ok {
		return other, true
	}
	var prefixes []string
	for long := range scopes {
		if strings.HasSuffix(long, "*") {
			prefixes = append(prefixes, long)
		}
	}
	sort.Slice(prefixes, func(i, j int) bool { return len(prefixes[i]) > len(prefixes[j]) }) // the longest first
	for _, long := range prefixes {
		if rest, ok := strings.CutPrefix(scope, long[:len(long)-1]); ok && rest != "" {
			return strings.ReplaceAll(scopes[long], "*", rest), true
		}
	}
	return "", false
}

// canonical spells reported scopes as the configuration does, so that asked and granted ones can be compared.
func (s *server) canonical(reported []string) broker.ScopeSet {
	out := make([]string, 0, len(reported))
	for _, scope := range reported {
		folded := s.fold(scope)
		if spelling, ok := s.spell[folded]; ok {
			out = append(out, spelling)
		} else {
			out = append(out, s.alias(scope))
		}
	}
	for _, scope := range slices.Clone(out) {
		// What a granted scope includes counts as granted, but not beyond what the connector may ask for.
		if included, ok := mapped(s.def.ScopeImplies, scope); ok {
			if spelling, asked := s.spell[s.fold(included)]; asked {
				out = append(out, spelling)
			}
		}
	}
	return broker.NewScopeSet(out...)
}

// reported reads the scopes of an answer: an array, or a string with separators. Nothing valid in it: not reported.
func (s *server) reported(value any, separator string) (broker.ScopeSet, bool) {
	var list []string
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			if text, ok := item.(string); ok {
				list = append(list, text)
			}
		}
	case string:
		if separator == "" {
			separator = s.def.ScopeSeparator
		}
		for _, part := range strings.Split(v, separator) {
			list = append(list, strings.Fields(part)...)
		}
	}
	valid := list[:0]
	for _, scope := range list {
		if validScope(scope) {
			valid = append(valid, scope)
		}
	}
	set := s.canonical(valid)
	return set, !set.Empty()
}
