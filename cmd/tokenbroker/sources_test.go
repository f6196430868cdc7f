package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// eachSource parses what the program is made of, without tests and without what only tests and examples use.
func eachSource(t *testing.T, look func(path string, at func(ast.Node) token.Position, file *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..")
	set := token.NewFileSet()
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && name != "." || slices.Contains([]string{"testdata", "vaulttest", "simulationtest", "brokertest", "providertest", "webtest", "kektest", "examples"}, d.Name())) {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		seen++
		look(filepath.ToSlash(name), func(n ast.Node) token.Position { return set.Position(n.Pos()) }, file)
		return nil
	})
	if err != nil || seen < 200 {
		t.Fatalf("%d files: %v", seen, err)
	}
}

// selected is what a selector of that package picks, "" for any other expression.
func selected(pkg string, n ast.Node) string {
	s, ok := n.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if of, ok := s.X.(*ast.Ident); !ok || of.Name != pkg {
		return ""
	}
	return s.Sel.Name
}

// Threat 57: certificates are checked wherever TLS is spoken, and nothing older than 1.2 is: no line of the program can switch that off.
func TestThreat57NoSwitch(t *testing.T) {
	configs := 0
	eachSource(t, func(_ string, at func(ast.Node) token.Position, file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.Ident:
				if slices.Contains([]string{"InsecureSkipVerify", "VerifyPeerCertificate", "VerifyConnection", "VersionTLS10", "VersionTLS11", "WithInsecure", "InsecureCipherSuites"}, n.Name) {
					t.Errorf("%s: %s", at(n), n.Name)
				}
			case *ast.CompositeLit:
				if selected("tls", n.Type) != "Config" {
					return true
				}
				configs++
				if !slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
					field, ok := e.(*ast.KeyValueExpr)
					if !ok {
						return false
					}
					name, ok := field.Key.(*ast.Ident)
					return ok && name.Name == "MinVersion" && slices.Contains([]string{"VersionTLS12", "VersionTLS13"}, selected("tls", field.Value))
				}) {
					t.Errorf("%s: a tls.Config without a least version", at(n))
				}
			}
			return true
		})
	})
	if configs < 4 {
		t.Errorf("only %d tls.Configs were found", configs)
	}
}

// Threat 20: whatever sends a browser on does so by 303, which never repeats a POST.
func TestThreat20OnlySeeOther(t *testing.T) {
	redirects := 0
	eachSource(t, func(path string, at func(ast.Node) token.Position, file *ast.File) {
		if strings.HasPrefix(path, "providers/sandbox/") { // plays a provider
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch name := selected("http", n); name {
			case "StatusMovedPermanently", "StatusFound", "StatusTemporaryRedirect", "StatusPermanentRedirect":
				t.Errorf("%s: http.%s", at(n), name)
			}
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Redirect" {
				redirects++
				if !slices.ContainsFunc(call.Args, func(e ast.Expr) bool { return selected("http", e) == "StatusSeeOther" }) {
					t.Errorf("%s: a redirect with another status than http.StatusSeeOther", at(n))
				}
			}
			return true
		})
	})
	if redirects < 20 {
		t.Errorf("only %d redirects were found", redirects)
	}
}
