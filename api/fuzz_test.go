package api

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"tokenbroker/broker"
)

// Whatever is accepted is one object that every other parser reads in the same way.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{goodBody, `{"connector":"files","subject":"u","scopes":["a"],"actor":{"run":"r"},"min_ttl":60}`, `{"scopes":"a b"}`,
		`{"a":1,"a":2}`, `{} {}`, `{"actor":null}`, `[]`, ``, `{"subject":"\ud800"}`, strings.Repeat("[", 20)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var body tokenBody
		err := decode(text, &body)
		if err != nil {
			if broker.CodeOf(err) != broker.CodeInvalidRequest || len(err.Error()) > 400 {
				t.Fatalf("error is %v", err)
			}
			return
		}
		var other map[string]json.RawMessage
		if err := json.Unmarshal(text, &other); err != nil || other == nil {
			t.Fatalf("accepted what another parser refuses: %v", err)
		}
		for name := range other {
			if !strings.Contains(" connector subject scopes connection min_ttl actor reason return_to state ", " "+name+" ") {
				t.Fatalf("accepted the name %q", name)
			}
		}
		var subject string
		if raw, given := other["subject"]; given && string(raw) != "null" {
			if err := json.Unmarshal(raw, &subject); err != nil {
				t.Fatal(err)
			}
		}
		if subject != body.Subject || !utf8.ValidString(body.Subject) {
			t.Fatalf("subject %q is read as %q", subject, body.Subject)
		}
	})
}

// No path reaches a handler but in its exact spelling, and everything that any reading puts under /v1 is the API's.
func FuzzPath(f *testing.F) {
	for _, seed := range []string{"/v1/tokens", "//v1/tokens", "/%2e/v1", "/v1/subjects/a%2Fb/connectors", "/x/..;/v1", "/V1%5ctokens", "/dashboard"} {
		f.Add(seed)
	}
	r := newRoutes((&API{}).table())
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			return
		}
		m := r.find("GET", u.EscapedPath())
		if m.route != nil && !strings.HasPrefix(u.EscapedPath(), "/v1/") {
			t.Fatalf("%q reaches %s", target, m.path)
		}
		if m.path != "" && !owns(u) {
			t.Fatalf("%q has a route and is not ours", target)
		}
		for _, value := range m.vals {
			if decoded, err := url.PathUnescape(value); err != nil || decoded != unescape(value) {
				t.Fatalf("%q: value %q", target, value)
			}
		}
	})
}

func FuzzQuery(f *testing.F) {
	f.Add("a=1&b=2")
	f.Add("a=1&a=2")
	f.Add("%zz")
	f.Fuzz(func(t *testing.T, raw string) {
		query, err := readQuery(&url.URL{RawQuery: raw}, []string{"a", "b"})
		if err != nil && broker.CodeOf(err) != broker.CodeInvalidRequest {
			t.Fatalf("error is %v", err)
		}
		for name, value := range query {
			if name != "a" && name != "b" || value == "" || !utf8.ValidString(value) {
				t.Fatalf("accepted %q=%q", name, value)
			}
		}
	})
}
