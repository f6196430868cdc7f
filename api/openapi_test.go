package api

import (
	"context"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

var loadDocument = sync.OnceValues(func() (*openapi3.T, error) {
	text, err := os.ReadFile("openapi.yaml")
	if err != nil {
		return nil, err
	}
	return openapi3.NewLoader().LoadFromData(text)
})

func document(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := loadDocument()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestDocumentIsValid(t *testing.T) {
	if err := document(t).Validate(context.Background(), openapi3.EnableExamplesValidation(), openapi3.EnableMultiError()); err != nil {
		t.Fatal(err)
	}
}

// Each route has an operation, each operation a route, and both have the same parameters.
func TestDocumentHasEveryRoute(t *testing.T) {
	doc := document(t)
	a := newBench(t).api
	var routes, operations []string
	table := a.table()
	for _, r := range a.oauthTable() {
		table = append(table, *r)
	}
	for _, r := range table {
		var names []string
		for _, m := range paramNotation.FindAllStringSubmatch(r.path, -1) {
			names = append(names, "path "+m[1])
		}
		for _, q := range r.query {
			names = append(names, "query "+q)
		}
		slices.Sort(names)
		routes = append(routes, r.method+" "+paramNotation.ReplaceAllString(r.path, "{$1}")+" "+strings.Join(names, ","))
	}
	ids := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if slices.Contains(op.Tags, "browser") {
				continue // served by package web: see TestDocumentHasThePages
			}
			var names []string
			for _, p := range op.Parameters {
				names = append(names, p.Value.In+" "+p.Value.Name)
			}
			slices.Sort(names)
			operations = append(operations, method+" "+path+" "+strings.Join(names, ","))
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s %s: operationId %q is missing or taken", method, path, op.OperationID)
			}
			ids[op.OperationID] = true
			if (op.RequestBody != nil) != takesBody(method) {
				t.Errorf("%s %s: POST and PATCH have a body and nothing else has", method, path)
			}
			for _, status := range []string{"401", "default"} {
				if status == "401" && op.Security != nil && len(*op.Security) == 0 {
					continue // of what everybody may read
				}
				if op.Responses.Value(status) == nil {
					t.Errorf("%s %s: response %s is missing", method, path, status)
				}
			}
		}
	}
	slices.Sort(routes)
	slices.Sort(operations)
	if !slices.Equal(routes, operations) {
		t.Errorf("routes and operations differ:\n%s\n---\n%s", strings.Join(routes, "\n"), strings.Join(operations, "\n"))
	}
}

// The pages of contract.md, "HTTP, for browsers": outside /v1, and without an API key.
func TestDocumentHasThePages(t *testing.T) {
	doc := document(t)
	var pages []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			page := slices.Contains(op.Tags, "browser")
			if slices.Contains(op.Tags, "oauth") {
				continue
			}
			if page == strings.HasPrefix(path, "/v1/") {
				t.Errorf("%s %s: tag browser is %t", method, path, page)
			}
			if !page {
				continue
			}
			pages = append(pages, method+" "+path)
			if op.Security == nil || len(*op.Security) != 0 || op.OperationID == "" {
				t.Errorf("%s %s: a page has an operationId and no API key", method, path)
			}
		}
	}
	slices.Sort(pages)
	want := []string{
		"GET /connect/{link}", "GET /connect/{link}/status", "GET /consent/{id}", "GET /dashboard", "GET /oauth2/callback/{connector}",
		"GET /oauth2/login/{client}", "GET /portal/session/{id}", "GET /portal/{link}", "GET /sdk/connect.js", "GET /sdk/connect.json",
		"POST /connect/{link}", "POST /consent/{id}", "POST /portal/session/{id}", "POST /portal/{link}",
	}
	if !slices.Equal(pages, want) {
		t.Errorf("pages are %q, want %q", pages, want)
	}
	for _, said := range []string{`postMessage({type: "tokenbroker:consent", consent: ID, status: STATUS})`, "access_denied", "`consent`, `code`"} {
		if !strings.Contains(doc.Info.Description, said) {
			t.Errorf("the description does not say %s", said)
		}
	}
}

// The check that every other test relies on can fail.
func TestConformanceCanFail(t *testing.T) {
	a := newBench(t).api
	req, _ := http.NewRequest(http.MethodGet, "http://127.0.0.1/v1/connectors", nil)
	m := a.routes.find(http.MethodGet, "/v1/connectors")
	header := func() http.Header {
		return http.Header{"Content-Type": {"application/json"}, "Request-Id": {"x"}, "Cache-Control": {"no-store"}}
	}
	good := `{"connectors":[]}`
	check := func(status int, body string, h http.Header) error {
		return conforms(document(t), m, req, "", &reply{status: status, header: h, text: body})
	}
	if err := check(200, good, header()); err != nil {
		t.Fatal(err)
	}
	without := header()
	without.Del("Request-Id")
	wrong := header()
	wrong.Set("Cache-Control", "public")
	for name, err := range map[string]error{
		"additional field": check(200, `{"connectors":[],"x":1}`, header()),
		"missing field":    check(200, `{}`, header()),
		"null array":       check(200, `{"connectors":null}`, header()),
		"header missing":   check(200, good, without),
		"header wrong":     check(200, good, wrong),
		"error shape":      check(500, `{"error":"server_error"}`, header()),
		"unknown code":     check(500, `{"error":"oops","error_description":"x","request_id":"x"}`, header()),
	} {
		if err == nil {
			t.Errorf("%s passed", name)
		}
	}
}
