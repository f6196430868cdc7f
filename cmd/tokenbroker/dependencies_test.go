package main

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// requirements are the modules that go.mod names, with their versions.
func requirements(t *testing.T) (direct, all map[string]string) {
	t.Helper()
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	direct, all = map[string]string{}, map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) (v\S+)( // indirect)?$`).FindAllStringSubmatch(string(text), -1) {
		all[m[1]] = m[2]
		if m[3] == "" {
			direct[m[1]] = m[2]
		}
	}
	if len(direct) < 10 || len(all) <= len(direct) {
		t.Fatalf("go.mod was not understood: %d of %d are direct", len(direct), len(all))
	}
	return direct, all
}

// TestDependencyTable: the README says of every direct dependency what it is for, and of nothing else.
func TestDependencyTable(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, appendix, found := strings.Cut(string(text), "## Appendix: what it depends on")
	if !found {
		t.Fatal("the README has no appendix")
	}
	said := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (.+) \\|$").FindAllStringSubmatch(appendix, -1) {
		if said[m[1]] || len(m[2]) < 5 {
			t.Errorf("%s is there twice, or without a word", m[1])
		}
		said[m[1]] = true
	}
	direct, _ := requirements(t)
	for module := range direct {
		if !said[module] {
			t.Errorf("%s is in go.mod, and the README's appendix does not say what for", module)
		}
	}
	for module := range said {
		if direct[module] == "" {
			t.Errorf("%s is in the README's appendix, and no direct dependency", module)
		}
	}
}

// numbers reads v1.2.3-x as 1, 2, 3.
func numbers(version string) (n [3]int) {
	for i, part := range strings.SplitN(strings.TrimPrefix(strings.SplitN(version, "-", 2)[0], "v"), ".", 3) {
		n[i], _ = strconv.Atoi(part)
	}
	return n
}

func older(version, least string) bool {
	a, b := numbers(version), numbers(least)
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// TestThreat75LeastVersions: versions with known holes don't come back, whoever asks for them. The vulnerability stands beside
// the version that has it no more.
func TestThreat75LeastVersions(t *testing.T) {
	_, all := requirements(t)
	for module, least := range map[string]string{
		"golang.org/x/oauth2":           "v0.27.0", // GO-2025-3488
		"github.com/redis/go-redis/v9":  "v9.7.3",  // GO-2025-3540, threat 76
		"github.com/labstack/echo/v4":   "v4.9.0",  // GO-2022-1031
		"golang.org/x/net":              "v0.38.0", // GO-2025-3595
		"golang.org/x/crypto":           "v0.35.0", // GO-2025-3487
		"google.golang.org/grpc":        "v1.56.3", // GO-2023-2153
		"google.golang.org/protobuf":    "v1.33.0", // GO-2024-2611
		"github.com/go-jose/go-jose/v4": "v4.0.5",  // GO-2025-3485
		"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp": "v0.44.0", // GO-2023-2113
	} {
		version := all[module]
		switch {
		case version == "":
			t.Errorf("%s is not there any more: drop it from this test", module)
		case older(version, least):
			t.Errorf("%s %s has a known hole; at least %s", module, version, least)
		}
	}
	if !older("v0.26.9", "v0.27.0") || older("v1.0.0", "v0.27.0") || older("v9.7.3", "v9.7.3") || !older("v9.7.3-beta.1", "v9.7.4") {
		t.Error("versions are compared wrongly")
	}
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	goVersion := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(string(text))
	if goVersion == nil || older("v"+goVersion[1], "v1.26.0") {
		t.Errorf("Go %v: html/template and CrossOriginProtection are needed as of 1.26", goVersion)
	}
}
