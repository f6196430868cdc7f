package providertest_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"tokenbroker/providers"
)

var update = flag.Bool("update", false, "write the table of quirks anew")

// quirk is a class of things that providers do, and how it is dealt with: quirks.yaml.
type quirk struct {
	N       int      `yaml:"n"`
	Class   string   `yaml:"class"`
	Keys    []string `yaml:"keys"`
	Generic string   `yaml:"generic"`
	Tests   []string `yaml:"tests"`
	Note    string   `yaml:"note"`
	Missing string   `yaml:"missing"`
}

const (
	quirksFile  = "quirks.yaml"
	quirksTable = "../QUIRKS.md"
	quirkCount  = 50
)

// TestQuirks holds the table of quirks to the schema, the catalogue and the tests: each class is there once, its keys exist
// and somebody uses them, and its tests exist.
func TestQuirks(t *testing.T) {
	data, err := os.ReadFile(quirksFile)
	if err != nil {
		t.Fatal(err)
	}
	var all []quirk
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&all); err != nil {
		t.Fatal(err)
	}
	catalogue := readCatalogue(t)
	var table strings.Builder
	table.WriteString(`# What providers do, and how it is dealt with

Written by ` + "`go test ./providers/providertest -run TestQuirks -update`" + ` from ` + "[`providertest/quirks.yaml`](providertest/quirks.yaml)" + ` and the catalogue; the same test checks
that the keys and tests exist. Keys are those of [README.md](README.md), ` + "`*`" + ` is any. A name without a dot is a recording in ` + "[`providertest/testdata`](providertest/testdata)" + `, played by ` + "`TestCatalogue`" + `.

| | class | keys, and what is done without one | tests | providers that use the keys |
| --- | --- | --- | --- | --- |
`)
	for i, q := range all {
		if q.N != i+1 {
			t.Fatalf("class %d stands where %d should", q.N, i+1)
		}
		if q.Missing == "" && len(q.Tests) == 0 {
			t.Errorf("%d: no test", q.N)
		}
		if q.Missing == "" && len(q.Keys) == 0 && q.Generic == "" {
			t.Errorf("%d: neither a key nor what is done for all", q.N)
		}
		users := map[string]bool{}
		for _, key := range q.Keys {
			name, _, _ := strings.Cut(key, "=")
			if !inSchema(reflect.TypeFor[providers.Definition](), strings.Split(name, ".")) {
				t.Errorf("%d: the schema has no key %s", q.N, key)
			}
			used := false
			for id, root := range catalogue {
				if states(root, key) {
					users[id], used = true, true
				}
			}
			if !used {
				t.Errorf("%d: no definition of the catalogue uses %s", q.N, key)
			}
		}
		for _, test := range q.Tests {
			if !testExists(t, test) {
				t.Errorf("%d: there is no test %s", q.N, test)
			}
		}
		table.WriteString(row(q, users))
	}
	if len(all) != quirkCount {
		t.Errorf("%d classes, want %d", len(all), quirkCount)
	}
	if *update {
		if err := os.WriteFile(quirksTable, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(quirksTable); err != nil || string(got) != table.String() {
		t.Errorf("%s is not what the table and the catalogue say (%v): run this test with -update, and look at the difference", quirksTable, err)
	}
}

func row(q quirk, users map[string]bool) string {
	var how []string
	if len(q.Keys) > 0 {
		keys := make([]string, len(q.Keys))
		for i, key := range q.Keys {
			keys[i] = "`" + strings.Replace(key, "=", ": ", 1) + "`"
		}
		how = append(how, strings.Join(keys, ", "))
	}
	for _, text := range []string{q.Generic, q.Note} {
		if text != "" {
			how = append(how, text)
		}
	}
	if q.Missing != "" {
		how = append(how, "not handled: "+q.Missing)
	}
	tests := make([]string, len(q.Tests))
	for i, test := range q.Tests {
		tests[i] = "`" + strings.TrimPrefix(test, "recording.") + "`"
	}
	names := make([]string, 0, len(users))
	for id := range users {
		names = append(names, id)
	}
	slices.Sort(names)
	who := strings.Join(names, ", ")
	if len(names) > 25 {
		who = fmt.Sprintf("%d of them", len(names))
	}
	return fmt.Sprintf("| %d | %s | %s | %s | %s |\n", q.N, q.Class, strings.Join(how, "; "), strings.Join(tests, ", "), who)
}

func readCatalogue(t *testing.T) map[string]*yaml.Node {
	t.Helper()
	files, err := filepath.Glob("../catalogue/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	out := map[string]*yaml.Node{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var node yaml.Node
		if err := yaml.Unmarshal(data, &node); err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(file), ".yaml")] = node.Content[0]
	}
	return out
}

// states tells whether the definition has the key, with that value where one is named.
func states(node *yaml.Node, key string) bool {
	name, value, valued := strings.Cut(key, "=")
	found := false
	var walk func(n *yaml.Node, steps []string)
	walk = func(n *yaml.Node, steps []string) {
		if len(steps) == 0 {
			match, _ := path.Match(value, n.Value)
			found = found || !valued || match
			return
		}
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if steps[0] == "*" || steps[0] == n.Content[i].Value {
					walk(n.Content[i+1], steps[1:])
				}
			}
		case yaml.SequenceNode:
			if steps[0] == "*" {
				for _, item := range n.Content {
					walk(item, steps[1:])
				}
			}
		}
	}
	walk(node, strings.Split(name, "."))
	return found
}

// inSchema follows the keys of a path through the schema's types.
func inSchema(t reflect.Type, steps []string) bool {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if len(steps) == 0 {
		return true
	}
	switch t.Kind() {
	case reflect.Map:
		return inSchema(t.Elem(), steps[1:])
	case reflect.Slice:
		return steps[0] == "*" && inSchema(t.Elem(), steps[1:])
	case reflect.Struct:
		for i := range t.NumField() {
			if t.Field(i).Tag.Get("yaml") == steps[0] {
				return inSchema(t.Field(i).Type, steps[1:])
			}
		}
	}
	return false
}

// folders are where the tests of a package lie.
var folders = map[string]string{
	"providers": "..", "broker": "../../broker", "api": "../../api", "web": "../../web", "e2e": "../../cmd/tokenbroker/e2e", "tokenbroker": "../../cmd/tokenbroker",
}

func testExists(t *testing.T, test string) bool {
	t.Helper()
	where, name, _ := strings.Cut(test, ".")
	if where == "recording" {
		_, err := os.Stat(filepath.Join("testdata", name+".yaml"))
		return err == nil
	}
	files, err := filepath.Glob(filepath.Join(folders[where], "*_test.go"))
	if err != nil || folders[where] == "" {
		t.Fatalf("%s: tests are named by their package: %v", test, err)
	}
	decl := regexp.MustCompile(`(?m)^func ` + regexp.QuoteMeta(name) + `\(t \*testing\.T\)`)
	return slices.ContainsFunc(files, func(file string) bool {
		data, err := os.ReadFile(file)
		return err == nil && decl.Match(data)
	})
}
