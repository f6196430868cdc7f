package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"tokenbroker/broker"
)

// object reads one mapping of the configuration. Its methods report what is wrong and return zero values then, so that
// the reading goes on and finds the rest.
type object struct {
	s      *source
	node   *yaml.Node
	path   string // "clients[0]", for messages; "" at the top
	values map[string]*yaml.Node
}

// object returns the mapping at n, whose keys must be among known.
func (s *source) object(n *yaml.Node, path string, known ...string) (object, bool) {
	n = deref(n)
	o := object{s: s, node: n, path: path, values: map[string]*yaml.Node{}}
	if n.Kind != yaml.MappingNode {
		s.report(n, "%s must be a mapping of keys to values: %s", orTop(path), strings.Join(known, ", "))
		return o, false
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.Value == "<<" {
			continue // reported by prepare
		}
		if !slices.Contains(known, key.Value) {
			s.report(key, "unknown key %q%s; %s", key.Value, in(path), suggest(key.Value, known))
			continue
		}
		o.values[key.Value] = value
		s.lines[o.at(key.Value)] = key.Line
	}
	return o, true
}

func orTop(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func in(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

// suggest names the known key that is closest, or all.
func suggest(key string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := editDistance(key, k); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "known here: " + strings.Join(known, ", ")
}

// editDistance is Levenshtein's, for the short words that keys are.
func editDistance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

func deref(n *yaml.Node) *yaml.Node {
	for n != nil && n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// at names a key for messages.
func (o object) at(key string) string { return within(o.path, key) }

// within names a key of what path names.
func within(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fail reports a problem of a key. at adds a place within it, such as "[0]".
func (o object) fail(key, at string, n *yaml.Node, format string, args ...any) {
	o.s.settled[o.at(key)] = true
	o.s.report(n, "%s%s %s", o.at(key), at, fmt.Sprintf(format, args...))
}

// failEach reports a check's complaints, each by itself.
func (o object) failEach(key, at string, n *yaml.Node, err error) {
	for _, complaint := range complaints(err) {
		o.fail(key, at, n, "%s", complaint)
	}
}

// complaints takes joined errors apart.
func complaints(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, complaints(e)...)
	}
	return all
}

// get returns the value's node, or nil where the key is left out or null.
func (o object) get(key string) *yaml.Node {
	n := deref(o.values[key])
	if n == nil || (n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null") {
		return nil
	}
	return n
}

// need reports a key that is left out; example says what to write.
func (o object) need(key, example string) {
	if o.get(key) == nil {
		o.fail(key, "", o.node, "is missing; add %s: %s", key, example)
	}
}

// scalar returns a single value's text. ok is false where it is absent, or reported already.
func (o object) scalar(key string) (n *yaml.Node, text string, ok bool) {
	n = o.get(key)
	if n == nil {
		return n, "", false
	}
	if o.s.broken[n] {
		o.s.settled[o.at(key)] = true
		return n, "", false
	}
	if n.Kind != yaml.ScalarNode {
		o.fail(key, "", n, "must be a single value")
		return n, "", false
	}
	if n.Value == "" {
		o.fail(key, "", n, "is empty; give a value or leave the key out")
		return n, "", false
	}
	return n, n.Value, true
}

// text returns a single value that a check accepts; the check's complaint follows the key's name in the message.
func (o object) text(key, absent string, check func(string) (string, error)) string {
	n, text, ok := o.scalar(key)
	if !ok {
		return absent
	}
	value, err := check(text)
	if err != nil {
		o.failEach(key, "", n, err)
		return absent
	}
	return value
}

// secret returns a single value that no message may show.
func (o object) secret(key string) (broker.Secret, bool) {
	_, text, ok := o.scalar(key)
	return broker.NewSecret(text), ok
}

// truth returns true or false.
func (o object) truth(key string) bool {
	n, text, ok := o.scalar(key)
	if !ok {
		return false
	}
	switch text {
	case "true":
		return true
	case "false":
	default:
		o.fail(key, "", n, "must be true or false")
	}
	return false
}

// duration returns a length of time between shortest and longest.
func (o object) duration(key string, absent, shortest, longest time.Duration) time.Duration {
	n, text, ok := o.scalar(key)
	if !ok {
		return absent
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < shortest || d > longest {
		o.fail(key, "", n, "must be a length of time from %s to %s, such as %s", shortest, longest, absent)
		return absent
	}
	return d
}

// list returns the items of a sequence; present tells a given but empty one from none.
func (o object) list(key string) (items []*yaml.Node, present bool) {
	n := o.get(key)
	if n == nil {
		return nil, false
	}
	if n.Kind != yaml.SequenceNode {
		if !o.s.broken[n] {
			o.fail(key, "", n, "must be a list; write %s: [...]", key)
		}
		return nil, true
	}
	for _, item := range n.Content {
		items = append(items, deref(item))
	}
	return items, true
}

// item is one accepted entry of a list of texts.
type item struct {
	text string
	node *yaml.Node
}

// texts returns a list of single values that a check accepts, each once.
func (o object) texts(key string, check func(string) (string, error)) (accepted []item, present bool) {
	nodes, present := o.list(key)
	seen := map[string]bool{}
	for i, n := range nodes {
		at := fmt.Sprintf("[%d]", i)
		switch {
		case o.s.broken[n]:
			o.s.settled[o.at(key)] = true
			continue
		case n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" || n.Value == "":
			o.fail(key, at, n, "must be a single value")
			continue
		}
		value, err := check(n.Value)
		if err != nil {
			o.failEach(key, at, n, err)
			continue
		}
		if seen[value] {
			o.fail(key, at, n, "is in the list already; keep it once")
			continue
		}
		seen[value] = true
		accepted = append(accepted, item{text: value, node: n})
	}
	return accepted, present
}

// plain drops the nodes.
func plain(items []item) []string {
	var out []string
	for _, i := range items {
		out = append(out, i.text)
	}
	return out
}
