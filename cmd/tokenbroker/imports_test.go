package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// This file is the architecture as a test: who may import whom, and how large a file may grow.

const module = "tokenbroker"

// rooms are the parts of the house. A package belongs to the first room whose folder it is in, and may import of ours its
// own room and those listed.
var rooms = []struct {
	folder string
	may    []string
}{
	{"api/sdk", nil}, // what clients of the API import knows nothing of the server
	{"broker", nil},
	{"api", []string{"broker"}},
	{"web/examples", nil}, // what people copy into their own programs knows nothing of the server either
	{"web", []string{"broker"}},
	{"vault", []string{"broker"}},
	{"providers", []string{"broker"}},
	{"cmd", []string{"broker", "api", "web", "vault", "providers", "cmd"}},
}

// libraries may be imported only in these folders; a folder with a dot at its end excludes those below it. Programs of
// tests are not bound.
var libraries = []struct {
	prefix  string
	folders []string
}{
	{"github.com/tink-crypto/", []string{"vault.", "cmd/tokenbench/reference"}}, // the reference is what somebody else would write
	{"github.com/google/tink/", nil},                                            // one binary with both Tinks panics at start
	{"github.com/redis/go-redis/", []string{"vault/redisstore", "cmd/tokenbench/reference"}},
	{"golang.org/x/oauth2", []string{"providers"}},
	{"github.com/zitadel/oidc/", []string{"providers/sandbox"}},
	{"github.com/labstack/echo/", []string{"api", "web", "cmd"}},
	{"github.com/klauspost/compress/", []string{"vault/sinks"}},
	{"github.com/nicksnyder/go-i18n/", []string{"web."}},
	{"github.com/alicebob/miniredis/", []string{"cmd"}},
	{"github.com/alecthomas/kong", []string{"cmd"}},
	{"github.com/prometheus/", []string{"cmd"}},
	{"go.opentelemetry.io/contrib/", []string{"cmd"}},
	{"go.opentelemetry.io/otel/sdk", []string{"cmd"}},
	{"go.opentelemetry.io/otel/exporters/", []string{"cmd"}},
	{"github.com/stretchr/testify", nil},
}

// brokerMayImport is all that the domain needs besides the standard library.
var brokerMayImport = []string{"golang.org/x/sync/", "go.opentelemetry.io/otel"}

// brokerMustNotImport are the parts of the standard library by which the domain would do input or output.
var brokerMustNotImport = []string{"net", "net/http", "html/template", "text/template", "os", "os/exec", "os/signal", "syscall", "flag", "embed", "io/fs"}

// onlyInCommands are functions that belong to programs.
var onlyInCommands = map[string][]string{
	"os":  {"Exit", "Getenv", "LookupEnv", "Environ", "Setenv", "ExpandEnv"},
	"log": {"Fatal", "Fatalf", "Fatalln", "Print", "Printf", "Println"},
}

// maxLines is how long a file written by hand may be.
const maxLines = 450

// pkg is what go list tells of a package.
type pkg struct {
	Dir, ImportPath, Name, Doc         string
	GoFiles, CgoFiles                  []string
	Imports, TestImports, XTestImports []string
	TestGoFiles, XTestGoFiles          []string
}

func (p pkg) folder() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

func (p pkg) forTests() bool { return strings.HasSuffix(p.ImportPath, "test") }

func listPackages(t *testing.T) []pkg {
	t.Helper()
	list := exec.Command("go", "list", "-e", "-json", module+"/...")
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var packages []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
	if len(packages) < 5 {
		t.Fatalf("go list found %d packages only; the test looks in the wrong place", len(packages))
	}
	return packages
}

func below(folder, root string) bool { return folder == root || strings.HasPrefix(folder, root+"/") }

func roomOf(folder string) (string, []string, bool) {
	for _, r := range rooms {
		if below(folder, r.folder) {
			return r.folder, r.may, true
		}
	}
	return "", nil, false
}

// violations returns what is wrong with the imports of one package.
func violations(p pkg) []string {
	var wrong []string
	folder := p.folder()
	room, may, known := roomOf(folder)
	if !known {
		return []string{p.ImportPath + " is in no room of the house; put it into one, or add the room to the architecture and to this test"}
	}
	if slices.Contains([]string{"util", "utils", "common", "helpers", "models", "misc"}, p.Name) {
		wrong = append(wrong, p.ImportPath+" is named for what it is not: a noun of the domain")
	}
	for _, imported := range p.Imports {
		ours := imported == module || strings.HasPrefix(imported, module+"/")
		switch {
		case ours:
			other := strings.TrimPrefix(strings.TrimPrefix(imported, module), "/")
			otherRoom, _, _ := roomOf(other)
			if strings.HasSuffix(imported, "test") && !p.forTests() {
				wrong = append(wrong, p.ImportPath+" imports "+imported+", which is for tests")
			}
			// What serves tests alone may join what the product must not.
			if !p.forTests() && otherRoom != room && !slices.Contains(may, otherRoom) {
				wrong = append(wrong, p.ImportPath+" must not import "+imported)
			}
		case folder == "broker":
			std := !strings.Contains(strings.Split(imported, "/")[0], ".")
			if std && slices.Contains(brokerMustNotImport, imported) {
				wrong = append(wrong, "broker must not import "+imported+": it does no input and output")
			}
			if !std && !slices.ContainsFunc(brokerMayImport, func(prefix string) bool { return strings.HasPrefix(imported, prefix) }) {
				wrong = append(wrong, "broker must not import "+imported)
			}
		}
		for _, lib := range libraries {
			if !strings.HasPrefix(imported, lib.prefix) || p.forTests() {
				continue
			}
			allowed := slices.ContainsFunc(lib.folders, func(f string) bool {
				if exact, ok := strings.CutSuffix(f, "."); ok {
					return folder == exact
				}
				return below(folder, f)
			})
			if !allowed {
				wrong = append(wrong, p.ImportPath+" must not import "+imported)
			}
		}
		if imported == "flag" && room != "cmd" {
			wrong = append(wrong, p.ImportPath+" must not import flag")
		}
	}
	return wrong
}

func TestImports(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, wrong := range violations(p) {
			t.Error(wrong)
		}
	}
}

// TestImportRulesCanFail shows each rule an offender.
func TestImportRulesCanFail(t *testing.T) {
	for importer, imported := range map[string]string{
		"tokenbroker/broker": "net/http", "tokenbroker/broker/sub": "tokenbroker/vault", "tokenbroker/api": "tokenbroker/web",
		"tokenbroker/web": "tokenbroker/vault", "tokenbroker/vault": "github.com/redis/go-redis/v9", "tokenbroker/vault/redisstore": "github.com/tink-crypto/tink-go/v2/aead",
		"tokenbroker/providers": "go.opentelemetry.io/otel/sdk/trace", "tokenbroker/api/sdk/go": "tokenbroker/broker", "tokenbroker/cmd/x": "tokenbroker/vault/vaulttest",
		"tokenbroker/providers/x": "github.com/labstack/echo/v4", "tokenbroker/vault/x": "golang.org/x/oauth2", "tokenbroker/cmd/y": "github.com/google/tink/go/aead",
		"tokenbroker/tools": "fmt", "tokenbroker/web/examples/go": "tokenbroker/broker", "tokenbroker/web/x": "flag",
	} {
		if len(violations(pkg{ImportPath: importer, Imports: []string{imported}})) == 0 {
			t.Errorf("%s may import %s", importer, imported)
		}
	}
	if len(violations(pkg{ImportPath: "tokenbroker/broker", Imports: []string{"github.com/google/uuid"}})) == 0 {
		t.Error("broker may import github.com/google/uuid")
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestProcessBelongsToCommands: nothing but cmd reads the environment, ends the process or prints by package log.
func TestProcessBelongsToCommands(t *testing.T) {
	files := token.NewFileSet()
	for _, p := range listPackages(t) {
		if below(p.folder(), "cmd") || below(p.folder(), "web/examples") || p.forTests() {
			continue // examples are programs, to be read alone
		}
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				continue // the compiler says it better
			}
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := call.X.(*ast.Ident); ok && slices.Contains(onlyInCommands[x.Name], call.Sel.Name) {
					t.Errorf("%s: %s.%s belongs to cmd", files.Position(call.Pos()), x.Name, call.Sel.Name)
				}
				return true
			})
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && name != root || entry.Name() == "node_modules") {
			return fs.SkipDir
		}
		if entry.IsDir() || path.Ext(entry.Name()) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if n := bytes.Count(text, []byte("\n")); n > maxLines && !bytes.Contains(text[:min(len(text), 1024)], []byte("\n// Code generated ")) && !bytes.HasPrefix(text, []byte("// Code generated ")) {
			t.Errorf("%s has %d lines, more than %d: split it", name, n, maxLines)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
