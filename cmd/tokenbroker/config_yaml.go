package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"tokenbroker/vault"
)

// maxConfigSize and maxIncludeSize bound what is read, in bytes: more is a mistaken path, not a configuration.
const (
	maxConfigSize  = 1 << 20
	maxIncludeSize = 64 << 10
)

// environment is the part of the process that a configuration may read; tests pass their own.
type environment struct {
	lookup   func(name string) (string, bool)
	readFile func(path string, limit int64) ([]byte, error)
	// readKeyset reads a keyset file, which nobody but its owner may be able to read.
	readKeyset func(path string) ([]byte, error)
	// trySpool tells whether the spool's directory can be written to; nil: nobody asks.
	trySpool func(path string) error
	// tryPlaces: where files of the audit trail go is tried too. A place that can't be written to is a problem, or, with placesMayFail, a note: the
	// broker serves all the same.
	tryPlaces, placesMayFail bool
	// waits: a key management service that can't be asked now is no problem of the configuration (Config.KeysWait).
	waits bool
}

// processEnvironment is the real one.
func processEnvironment() environment {
	return environment{lookup: os.LookupEnv, readFile: readBounded, readKeyset: vault.ReadKeysetFile}
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("the file is larger than %d KiB", limit>>10)
	}
	return data, nil
}

// problem is one thing wrong with the configuration. Line 0 means that it belongs to no single line.
type problem struct {
	line int
	text string
}

// configError is everything wrong with one configuration file. Its text is one line for each problem, sorted by line.
type configError struct {
	file     string
	problems []problem
}

func (e *configError) Error() string {
	lines := make([]string, 0, len(e.problems))
	for _, p := range e.problems {
		if p.line > 0 {
			lines = append(lines, fmt.Sprintf("%s:%d: %s", e.file, p.line, p.text))
		} else {
			lines = append(lines, fmt.Sprintf("%s: %s", e.file, p.text))
		}
	}
	return strings.Join(lines, "\n")
}

// source is a parsed configuration file, expanded, with the problems met so far.
type source struct {
	file string // as the operator named it, for messages
	dir  string // relative paths in the file count from here
	env  environment

	problems []problem
	notes    []string
	// broken scalars already have a problem; no second one is reported for them.
	broken map[*yaml.Node]bool
	// lines has the line of each key ("connectors[0].client_id"), settled the keys that have a problem already: what other
	// packages find there would only repeat it.
	lines   map[string]int
	settled map[string]bool
}

func newSource(file string, env environment) *source {
	return &source{
		file: file, dir: filepath.Dir(file), env: env,
		broken: map[*yaml.Node]bool{}, lines: map[string]int{}, settled: map[string]bool{},
	}
}

// report notes a problem at the node's line.
func (s *source) report(n *yaml.Node, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	s.problems = append(s.problems, problem{line: line, text: fmt.Sprintf(format, args...)})
}

// err returns all problems as one error, or nil.
func (s *source) err() error {
	if len(s.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(s.problems, func(a, b problem) int { return a.line - b.line })
	return &configError{file: s.file, problems: slices.Compact(s.problems)}
}

// quoted text in the YAML parser's messages may be a piece of the file, and that piece a secret that lacks its quotes.
var quotedInMessage = regexp.MustCompile(`'[^']*'|"[^"]*"`)

// parse reads the file into a tree and expands it. It returns nil where there is nothing to go on with.
func (s *source) parse(data []byte) *yaml.Node {
	if !utf8.Valid(data) {
		s.report(nil, "the file is not UTF-8 text; save it as UTF-8")
		return nil
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			s.report(nil, "the file is empty; deploy/config.example.yaml shows what it may hold")
			return nil
		}
		s.reportSyntax(err)
		return nil
	}
	var more yaml.Node
	if err := decoder.Decode(&more); err == nil {
		s.report(&more, "a second YAML document begins here; keep the configuration in one")
	} else if !errors.Is(err, io.EOF) {
		s.reportSyntax(err)
		return nil
	}
	root := document.Content[0]
	s.prepare(root, "")
	return root
}

var syntaxLine = regexp.MustCompile(`^line (\d+): `)

// reportSyntax tells where the text stops being YAML. The parser gives the line only within its text.
func (s *source) reportSyntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at := &yaml.Node{}
	if m := syntaxLine.FindStringSubmatch(text); m != nil {
		_, _ = fmt.Sscanf(m[1], "%d", &at.Line)
		text = strings.TrimPrefix(text, m[0])
	}
	s.report(at, "not valid YAML: %s; put values that hold one of : # * & ! { [ in quotes", quotedInMessage.ReplaceAllStringFunc(text, hideQuoted))
}

// hideQuoted leaves the parser's own quoted characters, such as '}', readable.
func hideQuoted(quoted string) string {
	if len(quoted) <= 3 {
		return quoted
	}
	return "'...'"
}

// prepare walks the tree once: it refuses what would make a key ambiguous and expands ${...} in scalar values. Expansion
// happens after parsing, so a value from outside can add no keys and no structure. Keys are not expanded. path names the
// node: "providers[0].token_endpoint".
func (s *source) prepare(n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.MappingNode:
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			switch {
			case key.Kind != yaml.ScalarNode:
				s.report(key, "a key must be a plain word")
			case key.Value == "<<":
				s.report(key, "merge keys (<<) are not supported; write the keys out")
			case first[key.Value] != 0:
				s.report(key, "key %q is given twice, first on line %d; keep one", key.Value, first[key.Value])
				s.settled[within(path, key.Value)] = true
			default:
				first[key.Value] = key.Line
			}
			s.prepare(value, within(path, key.Value))
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			s.prepare(item, fmt.Sprintf("%s[%d]", path, i))
		}
	case yaml.ScalarNode:
		if s.expand(n); s.broken[n] {
			s.settled[path] = true
		}
	}
	// An alias points into the tree: what it points at is prepared where it stands.
}

// reference matches what expand replaces; the first alternative is the escape.
var (
	reference    = regexp.MustCompile(`\$\$\{|\$\{[^}]*\}?`)
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// expand replaces ${NAME} from the environment and ${file:PATH} from a file, whose one trailing line break is dropped.
// $${ stands for a literal ${. What was put in is not expanded again.
func (s *source) expand(n *yaml.Node) {
	if !strings.Contains(n.Value, "${") {
		return
	}
	before := n.Value
	n.Value = reference.ReplaceAllStringFunc(before, func(ref string) string {
		if ref == "$${" {
			return "${"
		}
		value, complaint := s.resolve(ref)
		if complaint != "" {
			s.report(n, "%s", complaint)
			s.broken[n] = true
		}
		return value
	})
	if n.Value == before {
		return
	}
	// An unquoted ${PORT} may stand for a number or a truth value, so it is looked at anew; anything else is text, even
	// where its letters would mean something to YAML ("null", "~").
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		n.Tag = ""
		if tag := n.ShortTag(); tag != "!!bool" && tag != "!!int" && tag != "!!float" {
			n.Tag = "!!str"
		}
	}
}

// resolve returns what a reference stands for, or what is wrong with it.
func (s *source) resolve(ref string) (value, complaint string) {
	if !strings.HasSuffix(ref, "}") {
		return "", "a ${ is not closed; write ${NAME}, or $${ for the characters themselves"
	}
	name := ref[2 : len(ref)-1]
	if path, isFile := strings.CutPrefix(name, "file:"); isFile {
		if path == "" {
			return "", "${file:} names no file; write ${file:PATH}"
		}
		data, err := s.env.readFile(s.path(path), maxIncludeSize)
		if err != nil {
			return "", fmt.Sprintf("${file:%s} cannot be read: %s", path, withoutPath(err))
		}
		if !utf8.Valid(data) {
			return "", fmt.Sprintf("${file:%s} is not UTF-8 text", path)
		}
		return strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r"), ""
	}
	if !variableName.MatchString(name) {
		return "", fmt.Sprintf("%q is no environment variable's name; write ${NAME}, ${file:PATH}, or $${ for the characters themselves", ref)
	}
	value, set := s.env.lookup(name)
	if !set {
		return "", fmt.Sprintf("environment variable %s is not set; set it before starting", name)
	}
	return value, ""
}

// path makes a path of the file absolute or relative to the process: a relative one counts from the file's folder.
func (s *source) path(p string) string {
	if filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(s.dir, p)
}

// withoutPath drops the operation and path that the os package puts before the cause.
func withoutPath(err error) string {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
