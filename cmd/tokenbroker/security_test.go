package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// threats is how many rows the model has.
const threats = 80

// testsOf finds the names of all test and fuzz functions in the tree.
func testsOf(t *testing.T, root string) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && name != root || entry.Name() == "node_modules"):
			return fs.SkipDir
		case !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, m := range declared.FindAllSubmatch(text, -1) {
			found[string(m[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wrongRows returns what is wrong with a table of threats.
func wrongRows(table string, tests map[string]bool) []string {
	var wrong []string
	row, named := regexp.MustCompile(`^\| (\d+) \|`), regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	seen := map[int]bool{}
	for line := range strings.Lines(table) {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		if seen[n] || n < 1 || n > threats {
			wrong = append(wrong, "row "+m[1]+" is there twice, or is none of the threats")
		}
		seen[n] = true
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 {
			wrong = append(wrong, "row "+m[1]+" has not five cells")
			continue
		}
		for i, cell := range cells {
			if strings.TrimSpace(cell) == "" && i != 3 {
				wrong = append(wrong, "row "+m[1]+" has an empty cell")
			}
		}
		names := named.FindAllStringSubmatch(cells[3], -1)
		_, reason, excused := strings.Cut(cells[2], "Does not apply:")
		if len(names) == 0 && (!excused || len(reason) < 40) {
			wrong = append(wrong, "row "+m[1]+" names no test, and does not say why it needs none")
		}
		for _, name := range names {
			if !tests[name[1]] {
				wrong = append(wrong, "row "+m[1]+" names "+name[1]+", which does not exist")
			}
		}
	}
	for n := 1; n <= threats; n++ {
		if !seen[n] {
			wrong = append(wrong, "row "+strconv.Itoa(n)+" is missing")
		}
	}
	return wrong
}

// TestSecurityTable: every threat has its row, and what a row names is there.
func TestSecurityTable(t *testing.T) {
	table, err := os.ReadFile("../../deploy/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := testsOf(t, filepath.Join("..", ".."))
	for _, w := range wrongRows(string(table), tests) {
		t.Error(w)
	}
	// The rules can fail.
	for _, bad := range []string{
		"| 1 | a | b | `TestNowhere` | c |", "| 1 | a | b | none | c |", "| 1 | a | Does not apply: no | none | c |", "| 1 | a | b | `TestImports` |", "| 1 | a |  | `TestImports` | c |",
		"| 1 | a | b | `TestImports` | c |\n| 1 | a | b | `TestImports` | c |", "| 81 | a | b | `TestImports` | c |",
	} {
		if len(wrongRows(bad, tests)) <= threats-1 {
			t.Errorf("passes: %s", bad)
		}
	}
}
