package providers

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is something wrong in a definition or a connector.
type Problem struct {
	// Line in the file that it was read from; 0: unknown.
	Line int
	// Key is where: "providers[0].token_endpoint".
	Key  string
	Text string
}

func (p Problem) String() string {
	s := p.Text
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: %s", p.Line, s)
	}
	return s
}

// Problems is every problem found, in the order of the file. As an error it is one line per problem.
type Problems []Problem

func (p Problems) Error() string {
	texts := make([]string, len(p))
	for i, problem := range p {
		texts[i] = problem.String()
	}
	return strings.Join(texts, "\n")
}

// err keeps an empty list from becoming an error.
func (p Problems) err() error {
	if len(p) == 0 {
		return nil
	}
	slices.SortStableFunc(p, func(a, b Problem) int { return a.Line - b.Line })
	return p
}

// lines remembers on which line each key was: "revocation.params" and 0 for what was not in a file.
type lines struct {
	base string // key of the definition in its file
	of   map[string]int
}

// at is the line of the key, or of the nearest one above it.
func (l lines) at(key string) int {
	for {
		if line, ok := l.of[key]; ok {
			return line
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return l.of[""]
		}
		key = key[:cut]
	}
}

func (l lines) problem(key, format string, args ...any) Problem {
	full := key
	if l.base != "" {
		full = strings.TrimSuffix(l.base+"."+key, ".")
	}
	return Problem{Line: l.at(key), Key: full, Text: fmt.Sprintf(format, args...)}
}

// decodeStrict reads node into out (a pointer to a struct): yaml.Node.Decode with unknown keys, repeated keys and wrong
// kinds as problems with their line, all of them, and no value in any message, since values may come from the environment.
// What is right around a problem is read all the same; lost are the keys whose value could not be.
func decodeStrict(node *yaml.Node, base string, out any) (where lines, lost []string, problems Problems) {
	w := &walker{lines: lines{base: base, of: map[string]int{}}}
	if sound := w.walk(node, reflect.TypeOf(out).Elem(), "", 0); sound != nil {
		if err := sound.Decode(out); err != nil {
			// The walk should have found it; without the text, which may show a value.
			w.lose(node, "", "can't be read as YAML of this shape")
		}
	}
	return w.lines, w.lost, w.problems
}

type walker struct {
	lines    lines
	lost     []string
	problems Problems
}

func (w *walker) complain(node *yaml.Node, key, format string, args ...any) {
	p := w.lines.problem(key, format, args...)
	p.Line = node.Line
	w.problems = append(w.problems, p)
}

// lose complains about a value that is left out of what is read.
func (w *walker) lose(node *yaml.Node, key, format string, args ...any) {
	w.complain(node, key, format, args...)
	w.lost = append(w.lost, key)
}

// walk returns a copy of the node without what t has no place for; nil: nothing is left of it.
func (w *walker) walk(node *yaml.Node, t reflect.Type, key string, depth int) *yaml.Node {
	if depth > 16 { // also ends an alias that contains itself
		w.lose(node, key, "is nested too deeply")
		return nil
	}
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	w.lines.of[key] = node.Line
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return node // left out
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		return w.mapping(node, key, func(name string, at *yaml.Node) (reflect.Type, bool) {
			for i := range t.NumField() {
				if tag := t.Field(i).Tag.Get("yaml"); tag == name && tag != "-" && tag != "" {
					return t.Field(i).Type, true
				}
			}
			w.complain(at, join(key, name), "is not a known key")
			return nil, false
		}, depth)
	case reflect.Map:
		return w.mapping(node, key, func(string, *yaml.Node) (reflect.Type, bool) { return t.Elem(), true }, depth)
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			w.lose(node, key, "must be a list")
			return nil
		}
		sound := hollow(node)
		for i, item := range node.Content {
			if value := w.walk(item, t.Elem(), fmt.Sprintf("%s[%d]", key, i), depth+1); value != nil {
				sound.Content = append(sound.Content, value)
			}
		}
		return sound
	default:
		return w.scalar(node, t.Kind(), key)
	}
}

// hollow copies a node without what is in it.
func hollow(node *yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: node.Kind, Tag: node.Tag, Line: node.Line, Column: node.Column}
}

func (w *walker) mapping(node *yaml.Node, key string, typeOf func(string, *yaml.Node) (reflect.Type, bool), depth int) *yaml.Node {
	if node.Kind != yaml.MappingNode {
		w.lose(node, key, "must be a mapping of keys to values")
		return nil
	}
	sound := hollow(node)
	seen := map[string]bool{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		if name.Kind != yaml.ScalarNode || name.Tag == "!!merge" {
			w.complain(name, key, "has a key that is not a plain word")
			continue
		}
		if seen[name.Value] {
			w.complain(name, join(key, name.Value), "is there twice")
			continue
		}
		seen[name.Value] = true
		if t, ok := typeOf(name.Value, name); ok {
			if value := w.walk(node.Content[i+1], t, join(key, name.Value), depth+1); value != nil {
				sound.Content = append(sound.Content, name, value)
			}
		}
	}
	return sound
}

func (w *walker) scalar(node *yaml.Node, kind reflect.Kind, key string) *yaml.Node {
	switch {
	case node.Kind != yaml.ScalarNode:
		w.lose(node, key, "must be a single value")
	case kind == reflect.Int && node.Tag != "!!int":
		w.lose(node, key, "must be a whole number")
	case kind == reflect.Bool && node.Tag != "!!bool":
		w.lose(node, key, "must be true or false")
	case kind == reflect.String && node.Tag == "!!binary":
		w.lose(node, key, "must be text")
	default:
		return node
	}
	return nil
}

// related tells whether one key is the other or lies within it.
func related(a, b string) bool {
	if len(a) < len(b) {
		a, b = b, a
	}
	return a == b || b == "" || strings.HasPrefix(a, b) && (a[len(b)] == '.' || a[len(b)] == '[')
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}
