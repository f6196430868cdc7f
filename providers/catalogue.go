package providers

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync"

	"go.yaml.in/yaml/v3"
)

//go:embed catalogue/*.yaml
var catalogueFiles embed.FS

// Catalogue returns the built-in definitions, in the order of their ids; they must not be changed. An error is a mistake in the
// program.
func Catalogue() ([]*Definition, error) {
	all, err := catalogue()
	return slices.Clone(all), err
}

// catalogue is read once: whoever checks a configuration needs all of it, and it takes a while.
var catalogue = sync.OnceValues(readCatalogue)

func readCatalogue() ([]*Definition, error) {
	entries, err := catalogueFiles.ReadDir("catalogue")
	if err != nil {
		return nil, fmt.Errorf("read catalogue: %w", err)
	}
	var all []*Definition
	for _, entry := range entries {
		data, err := catalogueFiles.ReadFile(path.Join("catalogue", entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("read catalogue: %w", err)
		}
		d, problems := ParseDefinition(data)
		if err := problems.err(); err != nil {
			return nil, fmt.Errorf("catalogue/%s: %w", entry.Name(), err)
		}
		all = append(all, d)
	}
	return all, nil
}

// ParseDefinition reads one definition from the text of a file of its own.
func ParseDefinition(data []byte) (*Definition, Problems) {
	var node, more yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&node); err != nil || len(node.Content) != 1 {
		return nil, Problems{{Text: "is not a YAML document"}}
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, Problems{{Text: "has more than one YAML document"}}
	}
	return parse(node.Content[0], "")
}

// ParseDefinitions reads the list under providers: in the operator's configuration, with ${...} replaced already. What
// comes back holds every definition, as far as it could be read, so that connectors can still be checked against them;
// problems have the lines of node. key names the list in messages: "providers".
func ParseDefinitions(node *yaml.Node, key string) ([]*Definition, Problems) {
	for node != nil && node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node == nil || node.Kind == 0 || node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return nil, nil
	}
	if node.Kind != yaml.SequenceNode {
		// One without an id stands for whatever they are called.
		return []*Definition{{broken: true, doubts: []string{""}}}, Problems{{Line: node.Line, Key: key, Text: "must be a list of providers"}}
	}
	var all []*Definition
	var problems Problems
	for i, item := range node.Content {
		d, found := parse(item, fmt.Sprintf("%s[%d]", key, i))
		problems = append(problems, found...)
		d.custom = true
		all = append(all, d)
	}
	return all, problems
}

func parse(node *yaml.Node, base string) (*Definition, Problems) {
	d := &Definition{}
	where, lost, problems := decodeStrict(node, base, d)
	d.lines, d.doubts, d.AllowPrivate = where, lost, true
	problems = append(problems, d.validate()...)
	d.broken = len(problems) > 0
	return d, problems
}
