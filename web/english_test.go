package web

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// What operators see is in English alone; everything else gets its words from locales/.
var (
	operatorTemplates = []string{"login.html", "off.html"}
	operatorFiles     = []string{"dashboard.go", "login.go", "session.go"}
	// and all whose names begin like this:
	operatorPrefix = "board"
)

var (
	templateAction = regexp.MustCompile(`(?s)\{\{.*?\}\}`)
	markup         = regexp.MustCompile(`(?s)<[^>]*>`)
	shownAttribute = regexp.MustCompile(`(?:aria-label|title|alt|placeholder|data-done|label)="([^"]*)"`)
	letters        = regexp.MustCompile(`\pL`)
	sentence       = regexp.MustCompile(`\pL{2,}[,:]? \pL{2,}`)
)

// TestTemplatesHaveNoWords: a word in a template is English on every page.
func TestTemplatesHaveNoWords(t *testing.T) {
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil || len(names) < 5 {
		t.Fatalf("templates: %v, %v", names, err)
	}
	for _, name := range names {
		if slices.Contains(operatorTemplates, path.Base(name)) || strings.HasPrefix(path.Base(name), operatorPrefix) {
			continue
		}
		text, err := fs.ReadFile(templateFiles, name)
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range wordsOf(string(text)) {
			t.Errorf("%s says %q by itself", name, word)
		}
	}
	for text, want := range map[string]int{
		`<p>{{.Say "a.b"}}: <b>{{.X}}</b> 1.</p>`: 0, `<p>Hello</p>`: 1, `<a title="Hello">{{.X}}</a>`: 1, `<a title="{{.X}}">über</a>`: 1, `<a class="hello" href="x">`: 0,
	} {
		if got := wordsOf(text); len(got) != want {
			t.Errorf("the words of %s: %q", text, got)
		}
	}
}

func wordsOf(text string) []string {
	text = templateAction.ReplaceAllString(text, "")
	var found []string
	for _, a := range shownAttribute.FindAllStringSubmatch(text, -1) {
		if letters.MatchString(a[1]) {
			found = append(found, a[1])
		}
	}
	for _, part := range markup.Split(text, -1) {
		if letters.MatchString(part) {
			found = append(found, strings.TrimSpace(part))
		}
	}
	return found
}

// TestCodeHasNoSentences: nor has the code of the pages, but for what goes to logs and to errors that no page shows.
func TestCodeHasNoSentences(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	for _, e := range entries {
		if path.Ext(e.Name()) != ".go" || strings.HasSuffix(e.Name(), "_test.go") || slices.Contains(operatorFiles, e.Name()) || strings.HasPrefix(e.Name(), operatorPrefix) {
			continue
		}
		file, err := parser.ParseFile(files, e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for pos, text := range sentencesOf(file) {
			t.Errorf("%s: %q belongs into locales/", files.Position(pos), text)
		}
	}
	file, err := parser.ParseFile(files, "x.go", `package x
		func f() error { log.Error("not that one"); use("but that"); return fmt.Errorf("nor this one: %w", y{Description: "nor that one"}) }`, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := sentencesOf(file); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

// sentencesOf are the string literals that read like words for people.
func sentencesOf(file *ast.File) map[token.Pos]string {
	found := map[token.Pos]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec, *ast.Field: // a field's tag
			return false
		case *ast.CallExpr:
			name := ""
			switch f := n.Fun.(type) {
			case *ast.SelectorExpr:
				name = f.Sel.Name
			case *ast.Ident:
				name = f.Name
			}
			// Errors, logs and headers.
			return !slices.Contains([]string{"Errorf", "New", "Log", "Error", "ErrorContext", "Set"}, name)
		case *ast.KeyValueExpr:
			if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Description" { // of a broker.Error
				return false
			}
		case *ast.FuncDecl:
			return n.Name.Name != "policy" // a header
		case *ast.ValueSpec:
			return n.Names[0].Name != "nonceLabel" // is hashed
		case *ast.BasicLit:
			if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && sentence.MatchString(text) {
				found[n.Pos()] = text
			}
		}
		return true
	})
	return found
}

// TestKeysAreUsed: a key that nothing names is work for every translator. Those whose last part is made up are named by what is
// before it.
func TestKeysAreUsed(t *testing.T) {
	var all strings.Builder
	for _, pattern := range []string{"*.go", "templates/*.html"} {
		names, err := fs.Glob(os.DirFS("."), pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	source := all.String()
	for key := range testLanguage(t, "en").keys {
		parts := strings.Split(key, ".")
		named := strings.Contains(source, `"`+key+`"`)
		for i := 1; i < len(parts) && !named; i++ {
			named = strings.Contains(source, `"`+strings.Join(parts[:i], ".")+`."`) || // "consent.why." .Access
				i > 1 && strings.Contains(source, `"`+strings.Join(parts[:i], ".")+`"`) || // Key: "finish.code"
				parts[0] == "outcome" && strings.Contains(source, `"`+parts[1]+`"`) // Key: "dead_link"
		}
		if !named {
			t.Errorf("nothing uses %s", key)
		}
	}
}
