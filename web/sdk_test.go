package web_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every page may load the script, by an address that changes with it or by one that stays, and can check what it got.
func TestScript(t *testing.T) {
	s := newSite(t, public, nil)
	file, err := os.ReadFile("sdk/connect.js")
	if err != nil {
		t.Fatal(err)
	}
	if len(file) >= 10<<10 {
		t.Errorf("the script has %d bytes", len(file))
	}
	res := s.get("/sdk/connect.json")
	status(t, res, http.StatusOK)
	var info struct{ Src, Integrity string }
	if err := json.Unmarshal([]byte(body(t, res)), &info); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum384(file)
	if want := "sha384-" + base64.StdEncoding.EncodeToString(sum[:]); info.Integrity != want {
		t.Errorf("integrity is %q, want %q", info.Integrity, want)
	}
	path, ok := strings.CutPrefix(info.Src, public)
	if !ok || !strings.HasPrefix(path, "/sdk/connect.js?v=") {
		t.Fatalf("src is %q", info.Src)
	}
	for address, cache := range map[string]string{path: "public, max-age=31536000, immutable", "/sdk/connect.js": "no-cache", "/sdk/connect.js?v=old": "no-cache", "/sdk/connect.json": "no-cache"} {
		r := httptest.NewRequest(http.MethodGet, address, nil)
		r.Header.Set("Origin", "https://whoever.example")
		res := s.send(r)
		for name, want := range map[string]string{
			"Cache-Control": cache, "Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin", "X-Content-Type-Options": "nosniff",
			"Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Set-Cookie": "",
		} {
			if got := res.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", address, name, got, want)
			}
		}
		if strings.HasSuffix(address, "json") {
			continue
		}
		if got := res.Header.Get("Content-Type"); got != "text/javascript; charset=utf-8" || body(t, res) != string(file) {
			t.Errorf("%s: %s, or not the script", address, got)
		}
		r = httptest.NewRequest(http.MethodGet, address, nil)
		r.Header.Set("If-None-Match", res.Header.Get("ETag"))
		status(t, s.send(r), http.StatusNotModified)
	}
}

// The package has the script as the broker serves it, and its types name what it exports.
func TestPackageIsTheScript(t *testing.T) {
	read := func(name string) []byte {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, name := range []string{"connect.js", "connect.d.ts"} {
		if !bytes.Equal(read("sdk/"+name), read("../api/sdk/typescript/"+name)) {
			t.Errorf("%s differs from the one in api/sdk/typescript: cp web/sdk/%[1]s api/sdk/typescript/", name)
		}
	}
	var pkg struct {
		Types, Main string
		Files       []string
	}
	if err := json.Unmarshal(read("../api/sdk/typescript/package.json"), &pkg); err != nil {
		t.Fatal(err)
	}
	if pkg.Main != "./connect.js" || pkg.Types != "./connect.d.ts" || !slices.Equal(pkg.Files, []string{"connect.js", "connect.d.ts"}) {
		t.Errorf("package.json names %+v", pkg)
	}
	names := func(text []byte, pattern string) (found []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			found = append(found, string(m[1]))
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	script, types := read("sdk/connect.js"), read("sdk/connect.d.ts")
	values := `(?m)^export (?:async )?(?:function|class|const) (\w+)`
	if got, want := names(types, values), names(script, values); !slices.Equal(got, want) || len(want) != 3 {
		t.Errorf("the types export %q, the script %q", got, want)
	}
	// Options, and the words of the element's states.
	options := names(script, `(?s)function run\(url, win, \{([^}]*)\}`)
	options[0] += " " + names(script, `(?s)function check\(consentUrl, \{([^}]*)\}`)[0]
	for _, name := range regexp.MustCompile(`\w+`).FindAllString(strings.ReplaceAll(options[0], "= true", ""), -1) {
		if !regexp.MustCompile(`(?m)^  ` + name + `\??[:(]`).Match(types) {
			t.Errorf("the types lack option %s", name)
		}
	}
	words := names(script[bytes.Index(script, []byte("const words")):bytes.Index(script, []byte("/** <tokenbroker-connect"))], `(?m)^  (\w+):`)
	states := names([]byte(names(types, `(?m)^export type State = ([^;]*);`)[0]), `"(\w+)"`)
	want := append(slices.DeleteFunc(states, func(s string) bool { return s == "ready" }), "label", "open")
	slices.Sort(want)
	if !slices.Equal(words, want) {
		t.Errorf("the element has words for %q, the types for %q", words, want)
	}
}
